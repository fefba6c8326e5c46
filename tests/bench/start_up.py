# SPDX-License-Identifier: GPL-2.0-only
"""What the types from BTF save: the same program compiled with them, and with kernel headers.

Prints a section for the README. Every way is tried in turn, in fresh processes, on
this machine; with --lab also from start to attached, on a real kernel in the lab.

    .venv/bin/python tests/bench/start_up.py --kernel 6.1 --lab

Needs root, BCC, apt and network once. Headers come from Debian's linux-headers and,
because WireGuard's own are in no such package, linux-source; they are unpacked, not
installed, and kept under $XDG_CACHE_HOME/wgtrace/bench.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve()
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_SUITES = {"6.1": "bookworm", "6.12": "trixie"}
_PRELUDE = "bench_prelude.h"
_OUR_FLAGS = frozenset({"-Xclang", "-disable-llvm-passes", "-g0"})

# What a program with kernel headers includes for the same types. The kernel has a
# function of one of our names; `struct worker` and `struct kthread` are in no header.
_INCLUDES = """\
#pragma once
#include <uapi/linux/ptrace.h>
#include <linux/kthread.h>
#include <linux/sched.h>
#include <linux/skbuff.h>
#include <linux/udp.h>
#include <linux/workqueue.h>
#include <net/net_namespace.h>
#include "wireguard/queueing.h"
#define skb_is_gso wgt_skb_is_gso
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to compile the program.

    Attributes:
        headers: With kernel headers; else with types from BTF, as wgtrace does.
        our_flags: With the loader's flags; else with BCC's own.
    """

    headers: bool
    our_flags: bool


_USUAL = "kernel headers, BCC's own flags"
WAYS = {
    "types from BTF": Way(headers=False, our_flags=True),
    "kernel headers, the same flags": Way(headers=True, our_flags=True),
    _USUAL: Way(headers=True, our_flags=False),
}

Figures = dict[str, list[dict[str, float]]]


# -- one measurement, in a process of its own ---------------------------------


def _measured(way: Way, step: str, headers: Path, kernel: str, started: float) -> dict[str, float]:
    """Wall time, and CPU time and the most memory of this process as a whole.

    Args:
        step: "compile", or "attach" from the start of the process on.
        headers: What `header_tree` gave.
        kernel: Whose types are to be compiled against; "attach" takes the running one's.
        started: time.monotonic() before the process was started.
    """
    with _compiling(way, headers):
        seconds = _compile(way, kernel) if step == "compile" else _attach(started)
    status = Path("/proc/self/status").read_text()
    peak_kib = int(status.split("VmHWM:")[1].split()[0])
    return {"seconds": seconds, "cpu": time.process_time(), "megabytes": peak_kib / 1024}


@contextlib.contextmanager
def _compiling(way: Way, headers: Path) -> Iterator[None]:
    """Have the loader compile in another way than its own; all else stays as it is."""
    from wgtrace.loader import bcc_loader, kernel_tree, source
    from wgtrace.probes.btf import Btf

    joined, import_bcc = source.joined, bcc_loader._import_bcc

    @contextlib.contextmanager
    def headers_installed(_definitions: str) -> Iterator[Path]:
        os.environ["BCC_KERNEL_SOURCE"] = str(headers)
        yield headers

    def joined_with_headers(programs: Sequence[str]) -> str:
        return joined(programs).replace("<uapi/linux/ptrace.h>", f'"{headers / _PRELUDE}"', 1)

    def bcc_with_its_own_flags() -> type:
        class Module(import_bcc()):  # type: ignore[misc]  # BCC has no types
            def __init__(self, text: bytes, cflags: Sequence[str]) -> None:
                super().__init__(text=text, cflags=[flag for flag in cflags if flag not in _OUR_FLAGS])

        return Module

    patches: dict[tuple[object, str], object] = {}
    if way.headers:
        patches[kernel_tree, "installed"] = headers_installed
        patches[source, "joined"] = joined_with_headers
        patches[Btf, "c_definitions"] = lambda _self, _names: ""
    if not way.our_flags:
        patches[bcc_loader, "_import_bcc"] = bcc_with_its_own_flags
    before = {place: getattr(*place) for place in patches}
    for (owner, name), new in patches.items():
        setattr(owner, name, new)
    try:
        yield
    finally:
        for (owner, name), old in before.items():
            setattr(owner, name, old)


class _CompiledError(BaseException):
    """Ends the loader's work where nothing is loaded yet; no error to it."""


def _compile(way: Way, kernel: str) -> float:
    """Seconds to compile what the loader would for `kernel`; nothing is loaded."""
    sys.path.insert(0, str(_HERE.parent.parent / "bpf"))
    from kernel_btf import debian_btf
    from wgtrace.loader.bcc_loader import Settings, Tracer

    from wgtrace.loader import bcc_loader
    from wgtrace.probes.btf import Btf
    from wgtrace.probes.catalogue import CATALOGUE

    vmlinux, module = debian_btf(kernel)
    before = time.monotonic()
    tracer = Tracer.__new__(Tracer)  # it would attach at once
    tracer._vmlinux = Btf(vmlinux)
    tracer._btf = Btf(module, tracer._vmlinux)
    read_types = 0.0 if way.headers else time.monotonic() - before
    tracer._settings, tracer._catalogue = Settings(traced=None), CATALOGUE
    tracer._symbols, tracer._refused, tracer._statuses = (), {}, {}
    tracer._device_list = 0xFFFFFFFFC0408000
    compiler = bcc_loader._import_bcc()

    class Module:
        def __init__(self, text: bytes, cflags: Sequence[str]) -> None:
            self.kept = compiler(text=text, cflags=cflags)
            raise _CompiledError

    tracer._module = Module
    programs = {probe.name: tracer._programs(probe) for probe in CATALOGUE}
    tracer._programs = lambda probe: programs[probe.name]  # type: ignore[method-assign]
    before = time.monotonic()
    with contextlib.suppress(_CompiledError):
        tracer._load()
    return read_types + time.monotonic() - before


def _attach(started: float) -> float:
    """Seconds from `started` until every probe is attached to the running kernel."""
    from wgtrace.loader.bcc_loader import Settings, Tracer

    tracer = Tracer(Settings(traced=None))
    seconds = time.monotonic() - started
    if not any(status.mechanism for status in tracer.probes):
        raise SystemExit("no probe was attached")
    tracer.close()
    return seconds


# -- all of them, in turn -------------------------------------------------------


def measure(step: str, headers: Path, kernel: str, runs: int) -> Figures:
    """Each of WAYS `runs` times, in turn; one more round before warms the page cache.

    A way that fails, as old BCC does over new headers, has no figures.
    """
    figures: Figures = {name: [] for name in WAYS}
    failed: set[str] = set()
    for number in range(runs + 1):
        for name in (name for name in WAYS if name not in failed):
            command = [sys.executable, str(_HERE), "--kernel", kernel, "--headers", str(headers)]
            command += ["--one", name, "--step", step, "--started", repr(time.monotonic())]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                failed.add(name)
            elif number:
                figures[name].append(json.loads(done.stdout.splitlines()[-1]))
            said = (done.stderr if done.returncode else done.stdout).strip()
            print(f"{step} {number}/{runs} {name}: {said or done.returncode}", file=sys.stderr)
    return figures


def _in_lab(headers: Path, kernel: str, runs: int) -> Figures:
    """The step "attach", in the lab's machine with that kernel."""
    command = [sys.executable, "-m", "wgtrace.lab.commands", "run", "--kernel", kernel, "--timeout", "0"]
    for directory in (_HERE.parent, headers):
        command += ["--mount", str(directory)]
    command += ["--", "python3", f"/mnt/host/{_HERE.parent.name}/{_HERE.name}", "--kernel", kernel]
    command += ["--headers", f"/mnt/host/{headers.name}", "--runs", str(runs), "--attach"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _table(figures: Mapping[str, list[dict[str, float]]]) -> str:
    rows = [
        "| what | wall s | CPU s of the process | memory MB | of the headers' time |",
        "|---|---|---|---|---|",
    ]

    def median(name: str, key: str) -> float:
        return statistics.median(run[key] for run in figures[name])

    for name, runs in figures.items():
        if not runs:
            rows.append(f"| {name} | does not compile | | | |")
            continue
        seconds = [run["seconds"] for run in runs]
        share = f"{median(name, 'seconds') / median(_USUAL, 'seconds'):.0%}" if figures[_USUAL] else ""
        rows.append(
            f"| {name} | {median(name, 'seconds'):.2f} ({min(seconds):.2f} to {max(seconds):.2f}) "
            f"| {median(name, 'cpu'):.2f} | {median(name, 'megabytes'):.0f} | {share} |"
        )
    return "\n".join(rows)


# -- kernel headers ---------------------------------------------------------------


def header_tree(kernel: str) -> Path:
    """Debian's headers for a kernel, WireGuard's among them, in one tree for $BCC_KERNEL_SOURCE.

    Args:
        kernel: "6.1" or "6.12".

    Raises:
        subprocess.CalledProcessError: The packages could not be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wgtrace" / "bench"
    done = cache / f"headers-{kernel}"
    if not done.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            half_done = Path(scratch, "tree")
            _unpack(kernel, Path(scratch), half_done)
            (half_done / _PRELUDE).write_text(_INCLUDES + _private_structs(kernel))
            half_done.rename(done)
    return done


def _unpack(kernel: str, scratch: Path, tree: Path) -> None:
    from wgtrace.lab.debian import debian_archives

    root, apt = scratch / "root", scratch / "apt"
    for directory in (root, tree, apt / "lists/partial", apt / "archives/partial"):
        directory.mkdir(parents=True)
    suite = _SUITES[kernel]
    mirror, security = debian_archives()
    (apt / "sources.list").write_text(
        f"deb [signed-by={_KEYRING}] {mirror} {suite} main\n"
        f"deb [signed-by={_KEYRING}] {security} {suite}-security main\n"
    )
    (apt / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{apt}/sources.list"; Dir::Etc::sourceparts "/dev/null";'
        f'Dir::State::lists "{apt}/lists"; Dir::Cache "{apt}"; APT::Sandbox::User "root";'
    )

    def run(*command: str) -> str:
        env = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
        done = subprocess.run(command, cwd=scratch, env=env, check=True, capture_output=True, text=True)
        return done.stdout

    def headers_of(package: str) -> list[str]:
        words = run("apt-cache", "depends", package).split()
        return [word for word in words if word.startswith("linux-headers-") and word != package]

    run("apt-get", "update")
    (flavour,) = headers_of("linux-headers-cloud-amd64")
    run("apt-get", "download", flavour, *headers_of(flavour), f"linux-source-{kernel}")
    for deb in scratch.glob("*.deb"):
        run("dpkg-deb", "-x", str(deb), str(root))
    # Debian splits the tree in two, and its Makefiles join them.
    for half in sorted((root / "usr/src").glob("linux-headers-*"), reverse=True):
        for part in ("include", "arch/x86/include"):
            shutil.copytree(half / part, tree / part, dirs_exist_ok=True)
    (tree / "wireguard").mkdir()
    with tarfile.open(next((root / "usr/src").glob("linux-source-*.tar.xz"))) as archive:
        for member in archive:
            if re.search(r"/drivers/net/wireguard/\w+\.h$", member.name):
                content = archive.extractfile(member)
                if content is not None:
                    (tree / "wireguard" / Path(member.name).name).write_bytes(content.read())


def _private_structs(kernel: str) -> str:
    """`struct worker` and `struct kthread`, which a program with kernel headers must repeat."""
    sys.path.insert(0, str(_HERE.parent.parent / "bpf"))
    from kernel_btf import debian_btf

    from wgtrace.probes.btf import Btf

    definitions = Btf(debian_btf(kernel)[0]).c_definitions(["kthread", "worker"])
    found = re.findall(
        r"^struct (?:kthread|worker) \{\n.*?^\}[^\n]*;\n", definitions, re.MULTILINE | re.DOTALL
    )
    return "".join(found)


# -- the command -------------------------------------------------------------------


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Start-up of wgtrace against kernel headers.")
    parser.add_argument("--kernel", choices=_SUITES, default="6.1")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--lab", action="store_true", help="also start to attached, in the lab's machine")
    # For the processes that this one starts.
    parser.add_argument("--headers", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--attach", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, and print what was measured."""
    asked: Any = _arguments()
    if asked.one:
        from wgtrace.errors import WgtraceError

        try:
            one = _measured(WAYS[asked.one], asked.step, asked.headers, asked.kernel, asked.started)
        except WgtraceError as error:
            sys.exit(f"{error.what}: {error.because}")
        print(json.dumps(one))
        return
    if asked.attach:
        # Clang 14 crashes over the lab's mounted headers (squashfs); in memory they are quicker too.
        with tempfile.TemporaryDirectory() as directory:
            copied = shutil.copytree(asked.headers, Path(directory, "headers"))
            print(json.dumps(measure("attach", copied, asked.kernel, asked.runs)))
        return
    headers = header_tree(asked.kernel)
    from bcc import __version__ as bcc_version

    print(f"### Start-up with and without kernel headers, Linux {asked.kernel}\n")
    figures_native = measure("compile", headers, asked.kernel, asked.runs)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"Compiling all programs, BCC {bcc_version}, {platform.machine()}, {os.cpu_count()} CPUs, "
        f"load {load}: median of {asked.runs} runs in turn.\n\n{_table(figures_native)}"
    )
    if asked.lab:
        runs = min(asked.runs, 3)
        figures_lab = _in_lab(headers, asked.kernel, runs)
        print(
            f"\nFrom start to attached, in the lab's machine: median of {runs} runs in turn.\n\n"
            f"{_table(figures_lab)}"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(_HERE.parent.parent.parent))
    main()
