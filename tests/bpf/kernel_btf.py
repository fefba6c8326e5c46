# SPDX-License-Identifier: GPL-2.0-only
"""BTF of Debian's own kernels, taken from their packages: nothing is installed or booted.

Needs network and apt; the files are kept under $XDG_CACHE_HOME/wgtrace/btf.
"""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from wgtrace.lab.debian import debian_archives

# Where each kernel of the matrix is published. The lab's kernels have the same names.
SUITES = {"6.1": "bookworm", "6.12": "trixie", "latest": "trixie-backports"}
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Name of a compression's first bytes, and the command that undoes it.
_PAYLOADS = {
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02!L\x18": "lz4",
    b"\x1f\x8b\x08": "gzip",
}


def debian_btf(release: str) -> tuple[Path, Path]:
    """BTF of a Debian cloud kernel.

    Args:
        release: "6.1", "6.12" or "latest".

    Returns:
        Paths of the ELF files vmlinux (only its .BTF is kept) and wireguard.ko.

    Raises:
        subprocess.CalledProcessError: The package could not be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wgtrace" / "btf"
    done = cache / release
    if not done.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            half_done = Path(scratch, "done")
            half_done.mkdir()
            root = _unpack(SUITES[release], Path(scratch))
            vmlinuz = next(p for p in root.rglob("vmlinuz*") if p.is_file())
            (half_done / "vmlinux").write_bytes(_elf_section(_decompress(vmlinuz.read_bytes()), b".BTF"))
            module = next(p for p in root.rglob("wireguard.ko*") if p.is_file())
            text = module.read_bytes()
            (half_done / "wireguard.ko").write_bytes(
                lzma.decompress(text) if module.suffix == ".xz" else text
            )
            half_done.rename(done)
    return done / "vmlinux", done / "wireguard.ko"


def _unpack(suite: str, scratch: Path) -> Path:
    """Download and unpack the suite's cloud kernel, whatever it is split into."""
    root, apt = scratch / "root", scratch / "apt"
    for directory in (root, apt / "lists/partial", apt / "archives/partial"):
        directory.mkdir(parents=True)
    archive, _security = debian_archives()
    (apt / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {archive} {suite} main\n")
    (apt / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{apt}/sources.list"; Dir::Etc::sourceparts "/dev/null";'
        f'Dir::State::lists "{apt}/lists"; Dir::Cache "{apt}"; APT::Sandbox::User "root";'
    )

    def run(*command: str) -> str:
        env = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
        done = subprocess.run(command, cwd=scratch, env=env, check=True, capture_output=True, text=True)
        return done.stdout

    def depends(package: str) -> list[str]:
        lines = run("apt-cache", "depends", package).splitlines()
        return [line.split()[-1] for line in lines if line.strip().startswith("Depends: linux-")]

    run("apt-get", "update")
    images = [p for p in depends("linux-image-cloud-amd64") if p.startswith("linux-image-")]
    # Newer kernels come in two: the image in linux-binary, the modules in linux-modules.
    parts = [p for p in depends(images[0]) if p.startswith(("linux-binary-", "linux-modules-"))]
    run("apt-get", "download", *images, *parts)
    for deb in scratch.glob("*.deb"):
        run("dpkg-deb", "-x", str(deb), str(root))
    return root


def _decompress(vmlinuz: bytes) -> bytes:
    """The ELF file inside a bzImage."""
    for magic, command in _PAYLOADS.items():
        start = vmlinuz.find(magic, 0x200)
        while start >= 0:
            if tool := shutil.which(command):
                # What follows the payload in the file makes each of them complain after its work is done.
                out = subprocess.run([tool, "-dc"], input=vmlinuz[start:], capture_output=True).stdout
                if out.startswith(b"\x7fELF"):
                    return out
            start = vmlinuz.find(magic, start + 1)
    raise ValueError("no compressed ELF file in vmlinuz (or its xz, zstd, lz4 or gzip is not installed)")


def _elf_section(elf: bytes, name: bytes) -> bytes:
    """Contents of a section of a 64-bit little-endian ELF file, elf(5)."""
    (shoff,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, shoff + i * size) for i in range(count)]
    for header in headers:
        start = headers[names][4] + header[0]
        if elf[start : elf.index(b"\0", start)] == name:
            return elf[header[4] : header[4] + header[5]]
    raise ValueError(f"no section {name.decode()}")
