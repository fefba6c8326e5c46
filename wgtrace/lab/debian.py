# SPDX-License-Identifier: GPL-2.0-only
"""What the lab's images are made of: Debian packages, from where this machine gets its own.

mmdebstrap makes the trees, for any release, from the archive that apt knows; nothing else is
downloaded. A userland is installed; a kernel is only unpacked.
"""

from __future__ import annotations

import dataclasses
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from wgtrace.errors import LabError, UsageError
from wgtrace.lab.image import Image, as_root, scratch_dir, squashed

_HERE = Path(__file__).parent
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

#: What a machine for wgtrace has: the lab's, and those of the Vagrantfile.
USERLAND_PACKAGES = [
    "bash",
    "bpftool",
    "conntrack",
    "ethtool",
    "iperf3",
    "iproute2",
    "iptables",
    "iputils-ping",
    "kmod",
    "mount",
    "ncat",
    "netcat-openbsd",
    "nftables",
    "procps",
    "python3",
    "python3-bpfcc",
    "python3-click",
    "python3-cryptography",
    "python3-jsonschema",
    "python3-pyroute2",
    "python3-pytest",
    "python3-rich",
    "socat",
    "tcpdump",
    "wireguard-tools",
]

#: A third of the size, and an emulated guest starts as quickly as without it (measured).
_COMPRESSION = ("-comp", "zstd", "-Xcompression-level", "3")

#: What the initramfs loads, in this order, each after what it depends on.
_BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "squashfs", "overlay", "wireguard")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One row of kernels.toml.

    Args:
        name: What `--kernel` takes.
        release: Code name of the Debian release of the userland.
        debian: The same for people.
        bcc: Version of BCC in that release.
        kernel: Package of the kernel image.
        backports: Whether that package comes from the release's backports.
    """

    name: str
    release: str
    debian: str
    bcc: str
    kernel: str
    backports: bool


def kernels() -> dict[str, Kernel]:
    """Return the support matrix."""
    table = tomllib.loads((_HERE / "kernels.toml").read_text(encoding="utf-8"))
    return {name: Kernel(name=name, **row) for name, row in table.items()}


def kernel(name: str) -> Kernel:
    """The kernel of a name of the matrix, or of a version that Debian's archive may still have: `6.1.176`.

    Raises:
        UsageError: It is neither.
    """
    matrix = kernels()
    if name in matrix:
        return matrix[name]
    if not (version := re.fullmatch(r"(\d+\.\d+)\.\d+(-\d+)?", name)):
        raise UsageError(
            f"no kernel is called {name}",
            do=f"choose one of {', '.join(matrix)}, or a version that Debian has, such as 6.1.176",
        )
    base = matrix.get(version[1], matrix["latest"])  # whose userland it is booted with
    return dataclasses.replace(
        base, name=name, kernel=f"{base.kernel}={name}{'' if version[2] else '-*'}", backports=False
    )


def userland_image(release: str) -> Image:
    """Return the image of a Debian release's programs: `root.squashfs`."""

    def build(target: Path) -> None:
        options = [f"--include={','.join(USERLAND_PACKAGES)}"]
        for pattern in ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"):
            options.append(f"--dpkgopt=path-exclude={pattern}")
        tree = target / "tree.tar"
        debootstrap([*options, "--variant=apt"], release, backports=False, output=tree)
        with open(tree, "rb") as tar, squashed(target / "root.squashfs", _COMPRESSION) as archive:
            shutil.copyfileobj(tar, archive, 1 << 20)
        tree.unlink()

    recipe = ["userland", release, USERLAND_PACKAGES, _COMPRESSION]
    return Image(f"userland-{release}", recipe, build, cache_bytes=600 << 20, scratch_bytes=1200 << 20)


def kernel_image(kernel: Kernel) -> Image:
    """Return the image of a kernel: `vmlinuz`, `initrd` and `modules.squashfs`."""

    def build(target: Path) -> None:
        tree = target / "tree.tar"
        package, release, backports = kernel.kernel, kernel.release, kernel.backports
        if "=" in package:
            found = packages_of(kernel, archived())
            package, release = f"{found.name}={found.version}", found.release
            backports = found.suite.endswith("-backports")
        options = ["--variant=extract", f"--include={package},busybox-static"]
        if backports:
            options.append(f'--aptopt=APT::Default-Release "{release}-backports"')
        debootstrap(options, release, backports=backports, output=tree)
        root = target / "root"
        version = _unpack_kernel(tree, root)
        tree.unlink()
        _run(["depmod", "-b", str(root / "usr"), version])
        shutil.move(root / "vmlinuz", target / "vmlinuz")
        _make_initrd(root, version, target / "initrd")
        packed = target / "modules.squashfs"
        with squashed(packed, _COMPRESSION) as archive, tarfile.open(fileobj=archive, mode="w|") as tar:
            tar.add(root / "usr", "usr", filter=as_root)
        shutil.rmtree(root)

    recipe = ["kernel", dataclasses.asdict(kernel), _BOOT_MODULES, _COMPRESSION]
    recipe.append((_HERE / "initramfs.sh").read_text(encoding="utf-8"))
    return Image(f"kernel-{kernel.name}", recipe, build, cache_bytes=400 << 20, scratch_bytes=400 << 20)


@dataclasses.dataclass(frozen=True)
class Package:
    """A kernel in Debian's archive.

    Args:
        version: Of the package, such as 6.12.73-1~bpo12+1.
        suite: That has it, such as bookworm-security.
    """

    name: str
    version: str
    suite: str

    @property
    def release(self) -> str:
        """The release that the suite is of."""
        return self.suite.partition("-")[0]


def archived() -> list[Package]:
    """Every kernel image that Debian's archive has for the releases of the matrix, also superseded ones.

    A release keeps the packages of former versions for a while, under names of their own.
    """
    releases = list(dict.fromkeys(row.release for row in kernels().values()))
    with tempfile.TemporaryDirectory(prefix="wgtrace-apt-", dir=scratch_dir()) as directory:
        here = Path(directory)
        (here / "lists/partial").mkdir(parents=True)
        sources = [line for release in releases for line in suites(release, backports=True)]
        (here / "sources.list").write_text(
            "".join(f"{line.replace('deb ', f'deb [signed-by={_KEYRING}] ')}\n" for line in sources)
        )
        (here / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{here}/sources.list"; Dir::Etc::sourceparts "-";\n'
            f'Dir::State::lists "{here}/lists"; Dir::Cache "{here}"; Acquire::Languages "none";\n'
            'APT::Sandbox::User "";\n'
        )
        env = {**os.environ, "APT_CONFIG": str(here / "apt.conf")}
        _run(["apt-get", "--quiet=2", "update"], env=env)
        names = _run(["apt-cache", "pkgnames", "linux-image-"], env=env).split()
        listing = _run(["apt-cache", "madison", *names], env=env)
    found = []
    for line in listing.splitlines():
        name, version, origin = (part.strip() for part in line.split("|"))
        found.append(Package(name, version, origin.split()[1].partition("/")[0]))
    return found


def packages_of(kernel: Kernel, there: Sequence[Package]) -> Package:
    """The package of a kernel that is named by its version.

    Args:
        there: As `archived` gives them.

    Raises:
        LabError: The archive has none of that version; its versions of that kernel are told.
    """
    flavour, _, wanted = kernel.kernel.partition("=")
    ending = flavour.removeprefix("linux-image")
    images = [each for each in there if each.name.endswith(ending) and each.name != flavour]
    rank = {kernel.release: 1}
    fitting = [p for p in images if any(fnmatchcase(p.version, w) for w in (wanted, f"{wanted}~*"))]
    if not fitting:
        series = ".".join(kernel.name.split(".")[:2])
        has = {p.version.partition("-")[0] for p in images if p.version.startswith(f"{series}.")}
        listed = ", ".join(sorted(has, key=_numbers)) or "none"
        raise LabError(
            f"Debian's archive gives no kernel {kernel.name}",
            f"of {series} it has: {listed}",
            "name one of these; Debian keeps a version for some months",
        )
    return max(fitting, key=lambda p: (rank.get(p.release, 0), _numbers(p.version)))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def suites(release: str, *, backports: bool) -> list[str]:
    """Lines of sources.list for a release, from where this machine gets its own."""
    archive, security = debian_archives()
    lines = [f"deb {archive} {release} main"]
    if security:
        lines.append(f"deb {security} {release}-security main")
    if backports:
        lines.append(f"deb {archive} {release}-backports main")
    return lines


def debootstrap(options: list[str], release: str, backports: bool, output: Path) -> None:
    """Have mmdebstrap make a tar archive of a Debian tree."""
    command = ["mmdebstrap", "--quiet", "--format=tar", f"--keyring={_KEYRING}"]
    command += ['--aptopt=APT::Install-Recommends "false"', *options, release, str(output)]
    command += suites(release, backports=backports)
    _run(command, env={**os.environ, "TMPDIR": str(scratch_dir())})


def debian_archives() -> tuple[str, str]:
    """Ask apt where this machine gets Debian from: (archive, security archive or "")."""
    fields = "$(REPO_URI)|$(RELEASE)|$(ORIGIN)"
    listing = _run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages"])
    archives = {True: "", False: ""}
    for line in listing.splitlines():
        uri, suite, origin = line.split("|")
        if origin == "Debian":
            archives[suite.endswith("-security")] = uri
    if not archives[False]:
        raise LabError(
            "apt knows no Debian archive on this machine",
            because="its package lists were never fetched, or this is not Debian",
            do="sudo apt-get update",
        )
    return archives[False], archives[True]


def _unpack_kernel(tree: Path, root: Path) -> str:
    """Take the kernel, its config, its modules (uncompressed: xz is slow under emulation) and busybox."""
    version = ""
    with tarfile.open(tree) as tar:
        for member in tar:
            if not member.isfile():
                continue
            name = member.name.removeprefix("./").removeprefix("usr/")
            parts = Path(name).parts
            if parts[:2] == ("lib", "modules"):
                version = parts[2]
            if name.startswith("boot/vmlinuz-") or parts[3:] == ("vmlinuz",):
                target = root / "vmlinuz"
            elif name.startswith("boot/config-"):  # where `wgtrace evidence` finds it too
                target = root / "usr/lib/modules" / name.removeprefix("boot/config-") / "config"
            elif parts[:2] == ("lib", "modules"):
                target = root / "usr" / name
            elif name == "bin/busybox":
                target = root / "busybox"
            else:
                continue
            content = tar.extractfile(member)
            assert content
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".xz":
                target.with_suffix("").write_bytes(lzma.decompress(content.read()))
            else:
                target.write_bytes(content.read())
    return version


def _make_initrd(root: Path, version: str, output: Path) -> None:
    """Pack busybox, initramfs.sh and the modules that the boot needs, numbered in load order."""
    staging = root / "initramfs"
    (staging / "bin").mkdir(parents=True)
    (staging / "modules").mkdir()
    shutil.move(root / "busybox", staging / "bin/busybox")
    (staging / "bin/busybox").chmod(0o755)
    for applet in [
        "sh",
        "mkdir",
        "mount",
        "umount",
        "insmod",
        "grep",
        "echo",
        "reboot",
        "chmod",
        "ln",
        "ip",
        "hostname",
        "switch_root",
    ]:
        (staging / "bin" / applet).symlink_to("busybox")
    shutil.copy(_HERE / "initramfs.sh", staging / "init")
    (staging / "init").chmod(0o755)
    modules = root / "usr/lib/modules" / version
    for number, path in enumerate(_load_order(modules)):
        shutil.copy(modules / path, staging / f"modules/{number:02}-{Path(path).name}")
    names = _run(["find", ".", "-print"], cwd=staging)
    with open(output, "wb") as initrd:
        archive = subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            cwd=staging, input=names.encode(), stdout=initrd, check=False,
        )  # fmt: skip
    if archive.returncode:
        raise LabError("cpio could not pack the initramfs")
    shutil.rmtree(staging)


def _load_order(modules: Path) -> list[str]:
    """Return the paths of the boot modules and all they depend on, dependencies first."""
    by_name: dict[str, str] = {}
    depends: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        by_name[Path(path).stem.replace("-", "_")] = path
        depends[path] = needs.split()
    builtin = {Path(line).stem.replace("-", "_") for line in (modules / "modules.builtin").open()}
    order: dict[str, None] = {}
    for name in _BOOT_MODULES:
        if name in builtin:
            continue
        if name not in by_name:
            raise LabError(f"the kernel package has no module {name}")
        # modules.dep lists a module's needs with the ones they need themselves behind them.
        for path in [*reversed(depends[by_name[name]]), by_name[name]]:
            order[path] = None
    return list(order)


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program of the build and return what it says; its last lines if it fails."""
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            output, complaint = process.communicate()
        except BaseException:
            # Not kill(), as subprocess.run does: mmdebstrap has mounts and a tree to clean away.
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        tail = "\n".join(complaint.strip().splitlines()[-15:])
        raise LabError(f"{command[0]} failed with status {process.returncode}", because=tail)
    return output
