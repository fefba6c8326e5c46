# SPDX-License-Identifier: GPL-2.0-only
"""Keeps the kernel's workers from running for a moment, so that queues fill up.

The calling thread becomes a real-time one on the first CPU and a child spins on each
other; what is sent meanwhile is received in softirqs, and what WireGuard leaves to
its workers waits. Only for the lab.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
_RUNTIME = Path("/proc/sys/kernel/sched_rt_runtime_us")
_DEBUGFS = Path("/sys/kernel/debug")
_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
print(flush=True)
while True: pass
"""


def roomy(sock: socket.socket) -> socket.socket:
    """Give a socket room for thousands of packets on their way."""
    sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 1 << 25)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
    return sock


def _real_time(pid: int, priority: int) -> None:
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))


def _softirq_threads() -> list[int]:
    """The kernel's threads for softirqs: they must not starve."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text().startswith("ksoftirqd/"):
                found.append(int(comm.parent.name))
    return found


def _no_fairness() -> list[tuple[Path, str]]:
    """Let real time have all of the CPU; what to write back afterwards."""
    if not (_DEBUGFS / "sched").is_dir():
        subprocess.run(["mount", "-t", "debugfs", "none", str(_DEBUGFS)], check=False)
    before = [(_RUNTIME, _RUNTIME.read_text())]
    _RUNTIME.write_text("-1")
    # Newer kernels have deadline servers instead, which run what starves.
    for runtime in (_DEBUGFS / "sched").glob("*_server/cpu*/runtime"):
        before.append((runtime, runtime.read_text()))
        runtime.write_text("0")
    return before


@contextlib.contextmanager
def starved_workers() -> Iterator[None]:
    """No worker of the kernel runs until the end of the block; make it short."""
    cpus = sorted(os.sched_getaffinity(0))
    before = _no_fairness()
    softirqs = _softirq_threads()
    spinning = []
    try:
        for pid in softirqs:
            _real_time(pid, 50)
        os.sched_setaffinity(0, cpus[:1])
        _real_time(0, 40)
        for cpu in cpus[1:]:
            command = [sys.executable, "-c", _SPIN, str(cpu)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            spinning.append(process)
            assert process.stdout
            process.stdout.read(1)
        yield
    finally:
        for process in spinning:
            process.kill()
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        for pid in softirqs:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, cpus)
        for path, text in reversed(before):
            path.write_text(text)
        for process in spinning:
            process.communicate()


@contextlib.contextmanager
def spinning_on(cpu: int) -> Iterator[None]:
    """A real-time task has this CPU, but for softirqs, until the block ends; the caller is elsewhere."""
    cpus = os.sched_getaffinity(0)
    before = _no_fairness()
    softirqs = _softirq_threads()
    for pid in softirqs:
        _real_time(pid, 50)
    os.sched_setaffinity(0, cpus - {cpu})
    process = subprocess.Popen([sys.executable, "-c", _SPIN, str(cpu)], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.read(1)
        yield
    finally:
        process.kill()
        process.communicate()
        os.sched_setaffinity(0, cpus)
        for pid in softirqs:
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        for path, text in reversed(before):
            path.write_text(text)
