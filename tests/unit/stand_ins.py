# SPDX-License-Identifier: GPL-2.0-only
"""Stands for the kernel and the host under a run: what a test wrote, in the bytes of the programs."""

from __future__ import annotations

import base64
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from factories import BERLIN, BOOT_NS, NETNS, NOW, OFFSET_NS, attached_probe, snapshot
from records import flow4, record, total_key

from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.events.types import Counters
from wgtrace.events.wire import EventKind, Loss
from wgtrace.probes.types import ProbeStatus
from wgtrace.source import Build
from wgtrace.state.types import Device, Snapshot

Step = bytes | Callable[[], None]


@dataclass
class Replay:
    """Stands for an attached `Tracer`: hands over what a test wrote, then interrupts the run.

    Attributes:
        polls: What each call of `records` gives: bytes, or something to do before they are had.
        ends: It ends by itself, as a recording does.
    """

    polls: list[list[Step]]
    sums: dict[bytes, int] = field(default_factory=dict)
    counted: Counters = field(default_factory=lambda: Counters(dict.fromkeys(Loss, 0), {}, 0))
    probes: tuple[ProbeStatus, ...] = (attached_probe(1),)
    kernel_reasons: dict[int, str] = field(default_factory=lambda: {2: "NOT_SPECIFIED"})
    ends: bool = False
    times: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    maps: dict[str, dict[bytes, bytes]] = field(default_factory=dict)

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """A map that is not per CPU."""
        return list(self.maps.get(name, {}).items())

    def write(self, name: str, key: bytes, value: bytes | None) -> None:
        """Write an entry of it, or remove it."""
        if value is None:
            del self.maps[name][key]
        else:
            self.maps[name][key] = value

    def handshake_times(self) -> list[tuple[bytes, list[bytes]]]:
        """The map `handshake_times`."""
        return self.times

    def describe(self, address: int) -> str:
        """A place in WireGuard."""
        return f"wg_packet_rx_poll+{address:#x}"

    def records(self, timeout_s: float) -> list[bytes] | None:
        """The next poll's records; Ctrl-C, or the end of a recording, when there are no more."""
        if not self.polls:
            if self.ends:
                return None
            if timeout_s:
                signal.raise_signal(signal.SIGINT)
            return []
        taken = []
        for step in self.polls.pop(0):
            if isinstance(step, bytes):
                taken.append(step)
            else:
                step()
        return taken

    def totals(self) -> list[tuple[bytes, int]]:
        """The map `totals`."""
        return list(self.sums.items())

    def counters(self) -> Counters:
        """Losses and limits."""
        return self.counted


@dataclass
class Host:
    """What is configured; a test changes it under the run, and sees how often it was read."""

    state: Snapshot = field(default_factory=snapshot)
    readings: int = 0
    build: Build = field(default_factory=lambda: Build("0.1.0", "6.12.117", "0.31.0"))
    clock_offset_ns: int = OFFSET_NS
    recorded: bool = False
    gaps: tuple[str, ...] = ()

    def snapshot(self) -> Snapshot:
        """Take a snapshot."""
        self.readings += 1
        return self.state

    def set(self, *devices: Device) -> Callable[[], None]:
        """Something that configures these interfaces when it is done."""

        def change() -> None:
            self.state = snapshot(*devices)

        return change

    def unix_ns(self) -> int:
        """The moment of all events of `drop`."""
        return NOW

    def elapsed_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()


def raw(public_key: str) -> bytes:
    """A key's 32 bytes."""
    return base64.b64decode(public_key)


def drop(reason: Reason, public_key: str | None = None, ifname: str = "wg0", **more: Any) -> bytes:
    """A drop record of an interface."""
    who = {"public_key": raw(public_key), "known": 1} if public_key else {}
    where = {"ifname": ifname.encode(), "netns": NETNS, "ifindex": 7}
    at = {"hdr": {"ts_ns": BOOT_NS, "kind": EventKind.DROP, "len": 336}}
    return record(
        EventKind.DROP, **{"reason": reason, "device": where, "peer": who, "matched": 1, **at, **more}
    )


def step(code: HandshakeCode, public_key: str, **more: Any) -> bytes:
    """A handshake record of wg0."""
    who, where = {"public_key": raw(public_key), "known": 1}, {"ifname": b"wg0", "netns": NETNS}
    return record(EventKind.HANDSHAKE, **{"code": code, "device": where, "peer": who, **more})


def total_of(
    code: Reason | HandshakeCode, public_key: str | None = None, sub: int = 0, matched: int = 1
) -> bytes:
    """The key of a total of wg0."""
    kind = EventKind.DROP if isinstance(code, Reason) else EventKind.HANDSHAKE
    who = {"peer_known": 1, "public_key": raw(public_key)} if public_key else {}
    return total_key(ifname=b"wg0", netns=NETNS, kind=kind, code=code, sub_reason=sub, matched=matched, **who)


CONFIG = record(EventKind.CONFIG, pid=4242, comm=b"wg")
BAD = drop(Reason.BAD_HEADER, payload=b"\x09", payload_len=1, sub_reason=SubReason.TOO_SHORT)
FROM_NOBODY = drop(
    Reason.SRC_NOT_ALLOWED,
    BERLIN,
    sub_reason=SubReason.OWNED_BY_NOBODY,
    inner=flow4("10.9.7.7", "10.9.0.1", 6, 52114, 443, 84),
    location=0x1C4,
    kernel_reason=2,
)
