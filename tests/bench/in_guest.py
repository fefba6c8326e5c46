# SPDX-License-Identifier: GPL-2.0-only
"""What `make bench` measures inside the lab's machine whose clock counts instructions.

A nanosecond is an instruction there, on one CPU, so a difference of two clocks is what was
executed in between, on however busy a host. Prints one JSON object; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wgtrace.lab.topology import Network, hub_and_spokes
from wgtrace.loader import kernel_tree
from wgtrace.probes import kernel
from wgtrace.probes.btf import Btf

STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
SIZE = 1000  # bytes of an echoed datagram
NOWHERE = "192.168.77.1"  # routed to the tunnel, in nobody's AllowedIPs
START_S = 3600  # of the guest's, whose clock leaps while it waits
WATCHED = ("wg_xmit", "wg_packet_receive", "decrypt_packet", "wg_allowedips_lookup_src")

# What one would write today: who was refused, by what each function gave back.
BPFTRACE_FUNCTION = """
kprobe:%(name)s { @skb_%(name)s[tid] = arg1; }
kretprobe:%(name)s {
    if (@skb_%(name)s[tid] != 0) { @returned_%(name)s[retval != 0] = count(); }
    delete(@skb_%(name)s[tid]);
}
"""
BPFTRACE_REST = (
    'tracepoint:skb:kfree_skb { @freed[ksym(args->location)] = count(); } BEGIN { printf("ready\\n"); }'
)

EMPTY = """
#include <uapi/linux/ptrace.h>
RAW_TRACEPOINT_PROBE(kfree_skb) { return 0; }
RAW_TRACEPOINT_PROBE(consume_skb) { return 0; }
"""


def say(text: str) -> None:
    """Progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass
class Traffic:
    """What is sent through a hub with two spokes; each function gives instructions per call."""

    net: Network
    _open: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        spoke, far = self.net.spokes
        self.net.connect()
        spoke.ip("route", "add", f"{NOWHERE}/32", "dev", spoke.ifname)
        self.near = self._socket(spoke, 4000, self.net.hub.inner(), 4000)
        self.hub = self._socket(self.net.hub, 4000, spoke.inner(), 4000)
        self.across = self._socket(spoke, 4001, far.inner(), 4001)
        self.far = self._socket(far, 4001, spoke.inner(), 4001)
        self.junk = self._socket(spoke, 4002, self.net.hub.outer_addr, self.net.hub.listen_port)
        self.nowhere = self._socket(spoke, 4003, NOWHERE, 9)
        self.payload, self.into = bytes(SIZE), bytearray(2 * SIZE)

    def _socket(self, host: Any, port: int, to: str, to_port: int) -> socket.socket:
        made: socket.socket = host.socket(socket.AF_INET)
        made.bind(("", port))
        made.connect((to, to_port))
        made.settimeout(60)
        self._open.append(made)
        return made

    def echo(self) -> None:
        """A round trip: two packets, each through both ends."""
        self.near.send(self.payload)
        self.hub.recv_into(self.into)
        self.hub.send(self.payload)
        self.near.recv_into(self.into)

    def forward(self) -> None:
        """A packet from spoke to spoke, through the hub."""
        self.across.send(self.payload)
        self.far.recv_into(self.into)

    def send_junk(self) -> None:
        """A datagram of no known type to the hub's port."""
        self.junk.send(b"\x09" * 100)

    def send_nowhere(self) -> None:
        """A packet that no peer may have."""
        with contextlib.suppress(OSError):  # the kernel says that it was not sent
            self.nowhere.send(self.payload)

    def forward_in_storm(self) -> None:
        """A packet that is forwarded for each one that is dropped."""
        self.send_junk()
        self.forward()


def instructions(count: int, *calls: Callable[[], None]) -> float:
    """Of one call of each, the mean of `count`."""
    before = time.perf_counter_ns()
    for _ in range(count):
        for call in calls:
            call()
    return (time.perf_counter_ns() - before) / count


# -- what traces -----------------------------------------------------------------


class Tool:
    """A tracing program that runs beside the traffic, from when it says that it is ready."""

    def __init__(self, command: Sequence[str], is_ready: Callable[[str], bool], log: Path) -> None:
        self._log = log
        with open(log, "w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=_environment())
        by = time.monotonic() + START_S
        while not is_ready(log.read_text(errors="replace")):
            if self.process.poll() is not None or time.monotonic() > by:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        self.start_instructions = (int(user) + int(system)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> dict[str, float]:
        """Resident now, and at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return {key: int(re.findall(rf"{key}:\s+(\d+)", status)[0]) / 1024 for key in ("VmRSS", "VmHWM")}

    def runs(self) -> dict[str, tuple[int, int]]:
        """Each of its BPF programs: (times run, instructions), since kernel.bpf_stats_enabled."""
        found = {}
        for fdinfo in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            text = fdinfo.read_text()
            fields = dict(re.findall(r"^(prog_id|run_cnt|run_time_ns):\s*(\d+)", text, re.MULTILINE))
            if len(fields) == 3:
                found[fields["prog_id"]] = (int(fields["run_cnt"]), int(fields["run_time_ns"]))
        return found

    def stop(self) -> str:
        """End it as Ctrl-C does; what it said."""
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(START_S)
        self.process.kill()
        self.process.wait()
        return self._log.read_text(errors="replace")


def _environment() -> dict[str, str]:
    """With the libraries that the other tools need and the guest lacks."""
    return {**os.environ, "LD_LIBRARY_PATH": os.environ.get("BENCH_LIBRARIES", "")}


def wgtrace() -> Tool:
    """`wgtrace drops` on every interface."""
    ready = Path("/tmp/ready")
    ready.unlink(missing_ok=True)
    command = ["wgtrace", "drops", "--all", "--json", "--ready-file", str(ready)]
    return Tool(command, lambda _said: ready.exists(), Path("/tmp/wgtrace.log"))


def bpftrace(program: str) -> Tool:
    """The script that one would write today."""
    there = {symbol.name for symbol in kernel.module_symbols("wireguard")}
    script = "".join(BPFTRACE_FUNCTION % {"name": name} for name in WATCHED if name in there)
    command = [program, "-e", script + BPFTRACE_REST]
    return Tool(command, lambda said: "ready" in said, Path("/tmp/bpftrace.log"))


def pwru(program: str) -> Tool:
    """Every function that takes an skb, WireGuard's among them."""
    command = [program, "--kmods", "wireguard", "--output-file", "/dev/null", "udp"]
    return Tool(command, lambda said: "Listening for events" in said, Path("/tmp/pwru.log"))


class _Empty:
    """Programs that do nothing at wgtrace's tracepoints, twice each like its own: the least that can be."""

    def __init__(self) -> None:
        from bcc import BPF

        definitions = Btf.vmlinux().c_definitions(("pt_regs",))
        with kernel_tree.installed(definitions):
            self._held = [BPF(text=EMPTY), BPF(text=EMPTY)]

    def stop(self) -> None:
        for held in self._held:
            held.cleanup()


# -- measurements ------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    pairs: int
    runs: int
    trips: int
    storm: int


def healthy(traffic: Traffic, size: Size, make: Callable[[], Any], pairs: int, name: str) -> dict[str, Any]:
    """Instructions of a packet through both ends: untraced, and more while `make()` runs; in turn."""

    def block() -> float:
        runs = [instructions(size.trips, traffic.echo) for _ in range(size.runs)]
        return statistics.median(runs) / 2

    block()
    untraced, more = [block()], []
    for number in range(pairs):
        tool = make()
        with_it = block()
        tool.stop()
        untraced.append(block())
        more.append(with_it - (untraced[-1] + untraced[-2]) / 2)
        say(f"{name} {number + 1}/{pairs}: {untraced[-1]:,.0f} a packet, {more[-1]:+,.0f} with it")
    return {"untraced": untraced, "more": more}


@contextlib.contextmanager
def _counting() -> Iterator[None]:
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text("0")


def runs_per_packet(traffic: Traffic, size: Size) -> dict[str, Any]:
    """What runs for a good packet and for a drop, by the kernel's own count; and wgtrace's memory."""
    tool = wgtrace()
    count = size.runs * size.trips
    found: dict[str, Any] = {"start_instructions": tool.start_instructions, "memory_mb": tool.memory_mb()}
    with _counting():
        for name, packets, call in (
            ("good", 2, traffic.echo),
            ("bad_header", 1, traffic.send_junk),
            ("allowedips_no_peer", 1, traffic.send_nowhere),
        ):
            before = tool.runs()
            instructions(count, call)
            moved = [
                (runs - before.get(program, (0, 0))[0], spent - before.get(program, (0, 0))[1])
                for program, (runs, spent) in tool.runs().items()
            ]
            found[name] = [sum(column) / count / packets for column in zip(*moved, strict=True)]
    tool.stop()
    say(f"program runs and instructions: {found}")
    return found


def storm(traffic: Traffic, size: Size) -> dict[str, Any]:
    """Drops without end, half of them received and half sent: the cost of each, and if all are counted."""
    few = max(size.storm // 50, 10)

    def figures(count: int) -> dict[str, float]:
        return {
            "bad_header": instructions(count, traffic.send_junk),
            "allowedips_no_peer": instructions(count, traffic.send_nowhere),
        }

    def forwarding() -> float:
        return statistics.median(instructions(few // 10, traffic.forward_in_storm) for _ in range(10))

    untraced, forwarded = figures(few), forwarding()
    tool = wgtrace()
    traced, forwarded_traced = figures(size.storm // 2), forwarding()
    sent = {"bad_header": size.storm // 2 + few // 10 * 10, "allowedips_no_peer": size.storm // 2}
    memory = tool.memory_mb()
    said = [line for line in tool.stop().splitlines() if line.startswith('{"schema"')]
    summary = json.loads(said[-1])
    counted: dict[str, int] = {}
    for total in summary["totals"]:
        counted[total["reason"]] = counted.get(total["reason"], 0) + total["count"]
    say(f"storm: {sent} sent, {counted} counted")
    return {
        "sent": sent,
        "counted": counted,
        "lost": summary["lost"],
        "untraced": untraced,
        "traced": traced,
        "forward": {"untraced": forwarded, "traced": forwarded_traced},
        "memory_mb": memory,
    }


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser()
    for name in ("pairs", "runs", "trips", "storm"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--others", type=Path, help="where bpftrace and pwru are")
    asked: Any = parser.parse_args()
    size = Size(asked.pairs, asked.runs, asked.trips, asked.storm)
    found: dict[str, Any] = {"kernel": os.uname().release}
    with hub_and_spokes() as net:
        traffic = Traffic(net)
        found["wgtrace"] = healthy(traffic, size, wgtrace, size.pairs, "wgtrace")
        found["runs"] = runs_per_packet(traffic, size)
        found["storm"] = storm(traffic, size)
        if asked.others:
            found["empty"] = healthy(traffic, size, _Empty, size.pairs, "empty programs")
            os.environ["BENCH_LIBRARIES"] = str(asked.others / "lib")
            for name, make in (("bpftrace", bpftrace), ("pwru", pwru)):
                program = asked.others / "bin" / name
                if program.exists():
                    try:
                        found[name] = healthy(traffic, size, lambda: make(str(program)), 1, name)  # noqa: B023
                    except RuntimeError as error:
                        say(f"{name}: {error}")
                        found[name] = {"error": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
