# SPDX-License-Identifier: GPL-2.0-only
"""What `make bench` measures inside the lab's machine whose clock counts instructions.

A nanosecond is an instruction there, on one CPU, so a difference of two clocks is what was
executed in between, on however busy a host. Prints a JSON object a line; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
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

    def drops(self) -> dict[str, Callable[[], None]]:
        """What is dropped as it is received, and as it is sent."""
        return {"bad_header": self.send_junk, "allowedips_no_peer": self.send_nowhere}

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

    def __init__(
        self, command: Sequence[str], is_ready: Callable[[str], bool], libraries: Path | None = None
    ) -> None:
        self._log = log = Path("/tmp/log")
        env = {**os.environ, "LD_LIBRARY_PATH": str(libraries)} if libraries else None
        with open(log, "w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
        by = time.monotonic() + START_S
        while not is_ready(log.read_text(errors="replace")):
            if self.process.poll() is not None or time.monotonic() > by:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
        times = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        self.start_instructions = sum(map(int, times)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Resident now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def runs(self) -> dict[str, tuple[int, int]]:
        """Each of its BPF programs: (times run, instructions), since kernel.bpf_stats_enabled."""
        found = {}
        for fdinfo in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            try:
                text = fdinfo.read_text()
            except FileNotFoundError:  # pwru opens and closes files all the time
                continue
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


def wgtrace() -> Tool:
    """`wgtrace drops` on every interface."""
    ready = Path("/tmp/ready")
    ready.unlink(missing_ok=True)
    command = ["wgtrace", "drops", "--all", "--json", "--ready-file", str(ready)]
    return Tool(command, lambda _said: ready.exists())


def bpftrace(others: Path) -> Tool:
    """The script that one would write today."""
    there = {symbol.name for symbol in kernel.module_symbols("wireguard")}
    script = "".join(BPFTRACE_FUNCTION % {"name": name} for name in WATCHED if name in there)
    command = [str(others / "bin/bpftrace"), "-e", script + BPFTRACE_REST]
    return Tool(command, lambda said: "ready" in said, others / "lib")


def pwru(others: Path) -> Tool:
    """Every function that takes an skb, WireGuard's among them."""
    command = [str(others / "bin/pwru"), "--kmods", "wireguard", "--output-file", "/dev/null", "udp"]
    return Tool(command, lambda said: "Listening for events" in said, others / "lib")


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
    drops: int
    storm: int


def tool(traffic: Traffic, size: Size, make: Callable[[], Any], pairs: int, name: str) -> dict[str, Any]:
    """What a tool costs a packet through both ends, and each of the drops: untraced and traced in turn."""

    def healthy() -> float:
        runs = [instructions(size.trips, traffic.echo) for _ in range(size.runs)]
        return statistics.median(runs) / 2

    def dropped() -> dict[str, float]:
        return {kind: instructions(size.drops, send) for kind, send in traffic.drops().items()}

    healthy()
    found: dict[str, Any] = {"untraced": [healthy()], "more": [], "drop_untraced": dropped()}
    for number in range(pairs):
        running = make()
        with_it = healthy()
        if number == pairs - 1 and isinstance(running, Tool):
            found |= _looked_at(traffic, size, running)
            found["drop_traced"] = dropped()
            found["drops_sent"] = len(traffic.drops()) * (size.drops + size.trips)
            found["memory_mb"] = running.memory_mb()
        said = running.stop()
        found["untraced"].append(healthy())
        found["more"].append(with_it - sum(found["untraced"][-2:]) / 2)
        say(f"{name} {number + 1}/{pairs}: {found['untraced'][-1]:,.0f} a packet, {found['more'][-1]:+,.0f}")
    if isinstance(said, str):  # bpftrace, of what was freed in WireGuard
        found["told"] = sum(map(int, re.findall(r"@freed\[wg_\S+\]: (\d+)", said)))
    return found


def _looked_at(traffic: Traffic, size: Size, running: Tool) -> dict[str, Any]:
    """Runs of its programs and instructions in them for a packet and for a drop: the kernel counts."""
    found: dict[str, Any] = {"start_instructions": running.start_instructions}
    STATS.write_text("1")
    for kind, packets, call in (("good", 2, traffic.echo), *((k, 1, c) for k, c in traffic.drops().items())):
        before = running.runs()
        instructions(size.trips, call)
        moved = [
            (runs - before.get(program, (0, 0))[0], spent - before.get(program, (0, 0))[1])
            for program, (runs, spent) in running.runs().items()
        ]
        found[kind] = [sum(column) / size.trips / packets for column in zip(*moved, strict=True)]
    STATS.write_text("0")
    return found


def tools(traffic: Traffic, size: Size, others: Path | None) -> dict[str, Any]:
    """wgtrace, and beside it what else there is."""
    found = {"wgtrace": tool(traffic, size, wgtrace, size.pairs, "wgtrace")}
    if others:
        makes = {
            "empty": _Empty,
            "bpftrace": lambda: bpftrace(others),
            "pwru": lambda: pwru(others),
        }
        for name, make in makes.items():
            if name == "empty" or (others / "bin" / name).exists():
                try:
                    found[name] = tool(traffic, size, make, 1, name)
                except RuntimeError as error:
                    say(f"{name}: {error}")
                    found[name] = {"error": str(error)}
    return found


def storm(traffic: Traffic, size: Size, _others: Path | None) -> dict[str, Any]:
    """Drops without end, half of them received and half sent; then one for each packet forwarded."""
    few = max(size.storm // 100, 10)

    def forwarding() -> float:
        return statistics.median(instructions(few // 10, traffic.forward_in_storm) for _ in range(10))

    forwarded = forwarding()
    running = wgtrace()
    for send in traffic.drops().values():
        instructions(size.storm // 2, send)
    forwarded_traced = forwarding()
    sent = {kind: size.storm // 2 for kind in traffic.drops()}
    sent["bad_header"] += few // 10 * 10
    memory = running.memory_mb()
    said = [line for line in running.stop().splitlines() if line.startswith('{"schema"')]
    summary = json.loads(said[-1])
    counted: dict[str, int] = {}
    for total in summary["totals"]:
        counted[total["reason"]] = counted.get(total["reason"], 0) + total["count"]
    say(f"storm: {sent} sent, {counted} counted")
    return {
        "sent": sent,
        "counted": counted,
        "rows": len(said),
        "lost": summary["lost"],
        "forward": {"untraced": forwarded, "traced": forwarded_traced},
        "memory_mb": memory,
    }


def start(_traffic: Traffic, _size: Size, others: Path | None) -> dict[str, Any]:
    """CPU from start to attached, in instructions: the first time, later, and with kernel headers."""
    found: dict[str, Any] = {}
    for way in ("first", "later"):
        running = wgtrace()
        found[way] = running.start_instructions
        running.stop()
        say(f"start, {way}: {found[way]:,}")
    headers = others and next(others.parent.glob("headers-*"), None)
    if headers:
        with tempfile.TemporaryDirectory() as directory:  # clang 14 crashes over mounted ones
            copied = shutil.copytree(headers, Path(directory, "headers"))
            command = [sys.executable, str(Path(__file__).with_name("start_up.py")), "--headers", str(copied)]
            command += ["--one", "kernel headers, BCC's own flags", "--step", "attach", "--started", "0"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                found["headers_error"] = done.stderr[-500:]
            else:
                found["headers"] = json.loads(done.stdout.splitlines()[-1])["cpu"] * 1e9
            say(f"start, with kernel headers: {found.get('headers') or found['headers_error']}")
    return found


PARTS: dict[str, Callable[[Traffic, Size, Path | None], dict[str, Any]]] = {
    "start": start,  # before others have started it
    "tools": tools,
    "storm": storm,
}


def main() -> None:
    """Measure, and print each part when it is done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="+", choices=PARTS)
    names = [field.name for field in fields(Size)]
    for name in names:
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--others", type=Path, help="where bpftrace and pwru are")
    asked: Any = parser.parse_args()
    with hub_and_spokes() as net:
        size = Size(*(getattr(asked, name) for name in names))
        traffic = Traffic(net)
        for part in asked.parts:
            print(json.dumps({part: PARTS[part](traffic, size, asked.others)}), flush=True)


if __name__ == "__main__":
    main()
