# SPDX-License-Identifier: GPL-2.0-only
"""Runs ended in every way there is: each with the right status, and nothing of any stays in the kernel."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from scenes import udp, wait_until
from tracer import START_S, bpf_objects

from wgtrace.lab.topology import Network, two_hosts

pytestmark = pytest.mark.soak

AT_ONCE = 3
END_S = 120
SEED = 23
TRACING = Path("/sys/kernel/tracing")
LITTLE_MEMORY = 64 << 20

_random = random.Random(SEED)


@dataclass
class Run:
    """A `wgtrace drops` that is to be ended."""

    process: subprocess.Popen[bytes]
    ready: Path
    out: Path
    netns: str

    def attached(self) -> None:
        """Wait until all probes are attached."""
        wait_until(lambda: self.ready.exists() or self.process.poll() is not None, START_S)
        assert self.process.poll() is None, self.said

    def attaching(self) -> None:
        """Wait until the first program is in the kernel."""
        wait_until(lambda: self._has_program() or self.process.poll() is not None, START_S)

    def _has_program(self) -> bool:
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
                with contextlib.suppress(OSError):
                    if "prog_id" in file.read_text():
                        return True
        return False

    def kill(self, *numbers: signal.Signals) -> None:
        """Send signals, one right after the other."""
        for number in numbers:
            self.process.send_signal(number)

    @property
    def said(self) -> str:
        """All that it wrote."""
        return self.out.read_text(errors="replace") + Path(f"{self.out}.errors").read_text(errors="replace")


@dataclass(frozen=True)
class Ending:
    """How a run ends.

    Attributes:
        end: Done to the run, which is then awaited.
        statuses: With one of which it ends; -N: by signal N.
        arguments: What comes after `wgtrace`.
        said: What must be in its output.
        shell: Runs "$@", the command.
    """

    end: Callable[[Run], None]
    statuses: tuple[int, ...] = (0,)
    arguments: tuple[str, ...] = ("drops", "end0")
    said: str = ""
    shell: str = ""


def _by(*numbers: signal.Signals) -> Callable[[Run], None]:
    def end(run: Run) -> None:
        run.attached()
        run.kill(*numbers)

    return end


def _attaching(number: signal.Signals) -> Callable[[Run], None]:
    def end(run: Run) -> None:
        run.attaching()
        run.kill(number)

    return end


def _after(seconds: float, number: signal.Signals) -> Callable[[Run], None]:
    def end(run: Run) -> None:
        time.sleep(seconds)  # a moment is the point here, not a wait for something
        run.kill(number)

    return end


def _by_itself(run: Run) -> None:
    """Nothing is done."""


def _interim(run: Run) -> None:
    run.attached()
    run.kill(signal.SIGUSR1)
    wait_until(lambda: "So far:" in run.said)
    run.kill(signal.SIGINT)


def _stopped(run: Run) -> None:
    run.attached()
    run.kill(signal.SIGSTOP, signal.SIGKILL)


def _interface_deleted(run: Run) -> None:
    run.attached()
    subprocess.run(["ip", "-n", run.netns, "link", "del", "end1"], check=True)
    run.kill(signal.SIGUSR1)
    wait_until(lambda: "end1 is gone" in run.said)
    run.kill(signal.SIGINT)


def _ready_or_dead(run: Run) -> None:
    wait_until(lambda: run.ready.exists() or run.process.poll() is not None, START_S)
    run.kill(signal.SIGINT)


_FULL = 'mkdir -p "$OUT.disk" && mount -t tmpfs -o size=4k none "$OUT.disk" && exec "$@" >"$OUT.disk/out"'
_LITTLE = (
    'mkdir -p "$OUT.cg" && mount -t cgroup2 none "$OUT.cg"; echo +memory >"$OUT.cg/cgroup.subtree_control"; '
    f'mkdir -p "$OUT.cg/little" && echo {LITTLE_MEMORY} >"$OUT.cg/little/memory.max" && '
    'echo $$ >"$OUT.cg/little/cgroup.procs" && exec "$@"'
)
_ANY_END = (0, 3, 4, -signal.SIGKILL, -signal.SIGABRT, 128 + signal.SIGINT)

ENDINGS = {
    "duration": Ending(_by_itself, arguments=("drops", "end0", "--duration", "1"), said="dropped in"),
    "count": Ending(_by_itself, arguments=("drops", "end0", "-c", "3"), said="bad_header"),
    "sigint": Ending(_by(signal.SIGINT), said="dropped in"),
    "sigterm": Ending(_by(signal.SIGTERM), said="dropped in"),
    "sighup": Ending(_by(signal.SIGHUP), said="dropped in"),
    "sigquit": Ending(_by(signal.SIGQUIT), (-signal.SIGQUIT,)),
    "sigkill": Ending(_by(signal.SIGKILL), (-signal.SIGKILL,)),
    "sigsegv": Ending(_by(signal.SIGSEGV), (-signal.SIGSEGV,)),
    "sigabrt": Ending(_by(signal.SIGABRT), (-signal.SIGABRT,)),
    "stopped-and-killed": Ending(_stopped, (-signal.SIGKILL,)),
    "interim-then-sigint": Ending(_interim, said="So far:"),
    "sigint-twice": Ending(_by(signal.SIGINT, signal.SIGINT), (0, 128 + signal.SIGINT)),
    "killed-in-the-summary": Ending(_by(signal.SIGINT, signal.SIGKILL), (0, -signal.SIGKILL)),
    "closed-pipe": Ending(_by_itself, shell='"$@" | head -n1'),
    "closed-output": Ending(_by(signal.SIGINT), shell='exec "$@" >&-'),
    "full-disk": Ending(_by_itself, (4,), said="No space left on device", shell=_FULL),
    "interface-deleted": Ending(_interface_deleted, arguments=("drops", "end1")),
    "no-such-interface": Ending(_by_itself, (2,), ("drops", "end9"), said="there is no interface end9"),
    "wrong-option": Ending(_by_itself, (2,), ("drops", "--direction", "up"), said="up"),
    "sigint-while-attaching": Ending(_attaching(signal.SIGINT), (0, 128 + signal.SIGINT)),
    "sigkill-while-attaching": Ending(_attaching(signal.SIGKILL), (-signal.SIGKILL,)),
    "sigterm-while-starting": Ending(
        _after(_random.uniform(1, 4), signal.SIGTERM), (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    ),
    "sigint-while-starting": Ending(
        _after(_random.uniform(0, 4), signal.SIGINT), (0, -signal.SIGINT, 128 + signal.SIGINT)
    ),
    "sigkill-while-starting": Ending(_after(_random.uniform(1, 4), signal.SIGKILL), (-signal.SIGKILL,)),
    "little-memory": Ending(_ready_or_dead, _ANY_END, shell=_LITTLE),
    "probes": Ending(_by_itself, arguments=("probes",), said="wg-packet-purge-staged-packets"),
}


def kernel_objects() -> dict[str, str]:
    """All that bpftool and tracefs list: programs, maps, links, probes, functions with a trampoline."""
    files = ["kprobe_events", "uprobe_events", "dynamic_events", "enabled_functions", "events/enable"]
    found = {name: (TRACING / name).read_text() for name in files if (TRACING / name).exists()}
    # Name and number of users; the address of a trampoline changes with each.
    users = [" ".join(line.split()[:2]) for line in found.get("enabled_functions", "").splitlines()]
    return {**found, "enabled_functions": "\n".join(users), "bpftool": "\n".join(bpf_objects())}


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """Two hosts; garbage comes to b all the time, so that there is always something to write."""
    with two_hosts(ifname="end0") as network, udp(network.a, network.b.outer_addr) as sock:
        network.b.ip("link", "add", "end1", "type", "wireguard")
        is_over = threading.Event()

        def send() -> None:
            while not is_over.wait(0.05):
                sock.sendto(b"\x09\x00\x00\x00" + bytes(60), (network.b.outer_addr, network.b.listen_port))

        sender = threading.Thread(target=send)
        sender.start()
        yield network
        is_over.set()
        sender.join()


@dataclass
class Ended:
    """What became of a run."""

    status: int
    said: str


def _ended(name: str, netns: str, directory: Path) -> Ended:
    """Start a run, end it, and wait for its end, which must come."""
    ending, out = ENDINGS[name], directory / name
    ready = directory / f"{name}.ready"
    command = ["ip", "netns", "exec", netns, "sh", "-c", ending.shell or 'exec "$@"', "sh", "wgtrace"]
    options = ["--ready-file", str(ready)] if ending.arguments[0] == "drops" else []
    with out.open("wb") as stdout, Path(f"{out}.errors").open("wb") as stderr:
        process = subprocess.Popen(
            [*command, *ending.arguments, *options],
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "OUT": str(out)},
        )
        run = Run(process, ready, out, netns)
        try:
            ending.end(run)
            process.wait(timeout=START_S + END_S)
        finally:
            process.kill()
    return Ended(process.wait(), run.said)


@pytest.fixture(scope="module")
def runs(net: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Ended]]]:
    """All of them, a few at once; in the end the kernel must have what it had before."""
    directory = tmp_path_factory.mktemp("endings")
    before = kernel_objects()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(_ended, name, net.b.netns, directory) for name in ENDINGS}
    with contextlib.suppress(AssertionError):
        wait_until(lambda: kernel_objects() == before)
    assert kernel_objects() == before


@pytest.mark.parametrize("name", ENDINGS)
def test_it_ends(name: str, runs: dict[str, Future[Ended]]) -> None:
    """The run ends with its status, says what it should, and shows no traceback."""
    ended = runs[name].result()

    assert ended.status in ENDINGS[name].statuses, ended.said
    assert ENDINGS[name].said in ended.said
    assert "Traceback" not in ended.said
    assert "Exception ignored" not in ended.said
