# SPDX-License-Identifier: GPL-2.0-only
"""What starting costs: compiled before, compiled with types from BTF, and with kernel headers.

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
import math
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what is measured is imported by whom is measured
    from wgtrace.loader.build import Build
    from wgtrace.loader.compiler import Source
    from wgtrace.loader.plan import Plan

_HERE = Path(__file__).resolve()
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = {"6.1": "bookworm", "6.12": "trixie"}
_PRELUDE = "bench_prelude.h"
_HELD = Path(tempfile.gettempdir(), "wgtrace-bench-cache")  # of the later starts
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
    """A way to get at the programs.

    Attributes:
        headers: Compiled with kernel headers; else with types from BTF, as wgtrace does.
        our_flags: With the loader's flags; else with BCC's own.
        again: Compiled before, and taken from the cache.
    """

    headers: bool = False
    our_flags: bool = True
    again: bool = False


_USUAL = "kernel headers, BCC's own flags"
WAYS = {
    "later starts: compiled before": Way(again=True),
    "first start: types from BTF": Way(),
    "kernel headers, the same flags": Way(headers=True),
    _USUAL: Way(headers=True, our_flags=False),
}

Figures = dict[str, list[dict[str, float]]]


# -- one measurement, in a process of its own ---------------------------------


def _measured(way: Way, step: str, headers: Path, kernel: str, started: float) -> dict[str, float]:
    """Wall time, CPU time of this process and the compiler's, and their memory in MB.

    Args:
        step: "compile", or "attach" from the start of the process on.
        headers: What `header_tree` gave.
        kernel: Whose types are to be compiled against; "attach" takes the running one's.
        started: time.monotonic() before the process was started.
    """
    told = _compile(way, headers, kernel) if step == "compile" else _attach(way, headers, started)
    if not way.again:
        told["compiler"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return told


def _memory() -> dict[str, float]:
    """Of this process, now and at most."""
    status = Path("/proc/self/status").read_text()
    named = {"now": "VmRSS:", "peak": "VmHWM:"}
    return {name: int(status.split(field)[1].split()[0]) / 1024 for name, field in named.items()}


def _build(plan: Plan, way: Way, headers: Path, cache: Path) -> Build:
    """The programs of `plan` in the making, in one of WAYS."""
    from wgtrace.loader import compiler
    from wgtrace.loader.build import Build

    if not way.headers:
        return Build(plan, cache)
    made = plan.source()
    text = made.text.replace("<uapi/linux/ptrace.h>", f'"{headers / _PRELUDE}"', 1)
    flags = tuple(flag for flag in made.cflags if way.our_flags or flag not in _OUR_FLAGS)

    class WithHeaders(type(plan)):  # type: ignore[misc]  # it is Plan, imported late
        def source(self) -> Source:
            return compiler.Source(text, flags, "")

    values = (getattr(plan, field.name) for field in fields(plan))
    places = [str(_HERE.parent.parent.parent), str(_HERE.parent)]
    compiler._RUN = (
        f"import sys; sys.path[:0] = {places!r}; import start_up; "
        f"start_up.compile_with_headers({str(headers)!r})"
    )
    return Build(WithHeaders(*values), cache)


def compile_with_headers(headers: str) -> None:
    """The compiler's process, with kernel headers in the place of the loader's small files."""
    from wgtrace.loader import compiler, kernel_tree

    @contextlib.contextmanager
    def installed(definitions: str) -> Iterator[Path]:
        del definitions
        os.environ["BCC_KERNEL_SOURCE"] = headers
        yield Path(headers)

    kernel_tree.installed = installed
    compiler._main()


def _compile(way: Way, headers: Path, kernel: str) -> dict[str, float]:
    """Seconds until there is bytecode for `kernel`; nothing is loaded."""
    sys.path.insert(0, str(_HERE.parent.parent / "bpf"))
    from kernel_btf import debian_btf

    from wgtrace.loader.plan import Plan
    from wgtrace.probes.btf import Btf

    vmlinux, module = debian_btf(kernel)
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2 if way.again else 1):
            before, cpu = time.monotonic(), sum(os.times()[:4])
            types = Btf(vmlinux)
            _build(Plan(types, Btf(module, types)), way, headers, Path(cache)).bytecode()
            seconds = time.monotonic() - before
    return {"seconds": seconds, "cpu": sum(os.times()[:4]) - cpu, **_memory()}


def _attach(way: Way, headers: Path, started: float) -> dict[str, float]:
    """Seconds from `started` until every probe is attached to the running kernel, and to detach."""
    from wgtrace.loader.build import running_kernel
    from wgtrace.loader.tracer import Settings, Tracer

    with tempfile.TemporaryDirectory() as empty:
        cache = _HELD if way.again else Path(empty)
        build = _build(running_kernel(), way, headers, cache)
        tracer = Tracer(Settings(traced=None), build=build)
        seconds = time.monotonic() - started
        figures = {"cpu": sum(os.times()[:4]), **_memory()}
        if not all(status.mechanism for status in tracer.probes):
            raise SystemExit("not every probe was attached")
        if way.again and not build.origin.startswith("compiled before"):
            seconds = float("nan")  # the round that fills the cache; it is not counted
        before = time.monotonic()
        tracer.close()
        return {"seconds": seconds, **figures, "close": time.monotonic() - before}


# -- all of them, in turn -------------------------------------------------------


def measure(step: str, headers: Path, kernel: str, runs: int) -> Figures:
    """Each of WAYS `runs` times, in turn; one more round before warms the page cache.

    A way that fails, as old BCC does over new headers, has no figures; nor has a later start that
    found nothing kept, because something else was loaded since.
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
            elif number and not math.isnan((told := json.loads(done.stdout.splitlines()[-1]))["seconds"]):
                figures[name].append(told)
            said = (done.stderr if done.returncode else done.stdout).strip()
            print(f"{step} {number}/{runs} {name}: {said or done.returncode}", file=sys.stderr)
    return figures


def _in_lab(headers: Path, kernel: str, runs: int) -> Figures:
    """The step "attach", in the lab's machine with that kernel."""
    command = [sys.executable, "-m", "wgtrace.commands.lab", "run", "--kernel", kernel, "--timeout", "0"]
    for directory in (_HERE.parent, headers):
        command += ["--mount", str(directory)]
    command += ["--", "python3", f"/mnt/host/{_HERE.parent.name}/{_HERE.name}", "--kernel", kernel]
    command += ["--headers", f"/mnt/host/{headers.name}", "--runs", str(runs), "--attach"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _table(figures: Mapping[str, list[dict[str, float]]]) -> str:
    columns = {
        "CPU s": ("cpu", ".1f"),
        "memory MB": ("now", ".0f"),
        "at most": ("peak", ".0f"),
        "compiler's": ("compiler", ".0f"),
        "to detach s": ("close", ".2f"),
    }
    rows = [
        f"| what | wall s | {' | '.join(columns)} | of the headers' time |",
        "|---|---|" + "---|" * len(columns) + "---|",
    ]

    def median(name: str, key: str) -> float:
        return statistics.median(run.get(key, 0.0) for run in figures[name])

    for name, runs in figures.items():
        if not runs:
            rows.append(f"| {name} | no figures: it does not compile |" + " |" * (len(columns) + 1))
            continue
        seconds = [run["seconds"] for run in runs]
        wall = f"{median(name, 'seconds'):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        cells = [format(median(name, key), form) for key, form in columns.values()]
        share = f"{median(name, 'seconds') / median(_USUAL, 'seconds'):.0%}" if figures[_USUAL] else ""
        rows.append(f"| {name} | {wall} | {' | '.join(cells)} | {share} |")
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
    suite = SUITES[kernel]
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
    parser.add_argument("--kernel", choices=SUITES, default="6.1")
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
        f"To have all programs as bytecode, BCC {bcc_version}, {platform.machine()}, {os.cpu_count()} CPUs, "
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
