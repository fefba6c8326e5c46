# SPDX-License-Identifier: GPL-2.0-only
"""What came by each session and what waits, out of the maps `sessions` and `queues`."""

from __future__ import annotations

import base64
import ctypes
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from wgtrace.errors import UndecodableRecordError
from wgtrace.events.wire import QueuesWire, SessionWire


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Data messages from a peer, keepalives too, told apart by the counters that it gave them.

    Attributes:
        received: Accepted, each counter once.
        lost: Counters that did not come though a larger one did. One that comes late is lost
            until it comes.
        late: Of those received: after a larger one.
        duplicates: Refused, as the counter had come before.
        too_old: Refused, as they came so late that nobody remembers; they are lost, too.
        unread: Those that came, and found a queue of this host full; they are not lost on the way.
    """

    received: int = 0
    lost: int = 0
    late: int = 0
    duplicates: int = 0
    too_old: int = 0
    unread: int = 0

    @property
    def loss(self) -> float:
        """The share that is lost, of all that were sent as far as is known: 0 to 1."""
        return self.lost / (self.lost + self.received) if self.lost else 0.0


@dataclass(frozen=True, slots=True)
class Session:
    """A session of the map `sessions`.

    Attributes:
        number: Larger than that of every session before it, on this host.
        index: This side's.
        born_ns: CLOCK_BOOTTIME.
        is_initiator: Whether this side began it.
        is_whole: Whether it began before our eyes; else what came before is not counted.
    """

    number: int
    ifname: str
    netns: int
    public_key: str
    index: int
    born_ns: int
    is_initiator: bool
    is_whole: bool
    arrivals: Arrivals


@dataclass(frozen=True, slots=True)
class Queues:
    """How much of a peer's waits, at one moment.

    Attributes:
        ts_ns: CLOCK_BOOTTIME.
        staged: Packets that wait for a session.
        outgoing: Packets, or bundles of them, on their way out through WireGuard; incoming: packets.
    """

    ifname: str
    netns: int
    public_key: str
    ts_ns: int
    staged: int
    outgoing: int
    incoming: int


def queues(value: bytes) -> Queues:
    """An entry of the map `queues`.

    Raises:
        UndecodableRecordError: It is none.
    """
    if len(value) != ctypes.sizeof(QueuesWire):
        raise UndecodableRecordError(f"queues of {len(value)} bytes")
    wire = QueuesWire.from_buffer_copy(value)
    return Queues(
        bytes(wire.device.ifname).rstrip(b"\0").decode(errors="replace"),
        wire.device.netns,
        base64.b64encode(bytes(wire.public_key)).decode(),
        wire.ts_ns,
        wire.staged,
        wire.outgoing,
        wire.incoming,
    )


def session(key: bytes, value: bytes) -> Session:
    """An entry of the map `sessions`.

    Raises:
        UndecodableRecordError: It is none.
    """
    if len(key) != ctypes.sizeof(ctypes.c_uint64) or len(value) != ctypes.sizeof(SessionWire):
        raise UndecodableRecordError(f"a session of {len(key)} and {len(value)} bytes")
    wire = SessionWire.from_buffer_copy(value)
    # Its numbers are read while they are counted up, so that the sum may be off for a moment.
    missing = max(wire.next - wire.first - wire.received, 0)
    arrivals = Arrivals(
        wire.received, max(missing - wire.unread, 0), wire.late, wire.duplicates, wire.too_old, wire.unread
    )
    return Session(
        int.from_bytes(key, sys.byteorder),
        bytes(wire.device.ifname).rstrip(b"\0").decode(errors="replace"),
        wire.device.netns,
        base64.b64encode(bytes(wire.public_key)).decode(),
        wire.index,
        wire.born_ns,
        bool(wire.is_initiator),
        wire.first == 0,
        arrivals,
    )


def summed(arrivals: Iterable[Arrivals]) -> Arrivals:
    """All of them as one."""
    every = list(arrivals)
    return Arrivals(
        sum(a.received for a in every),
        sum(a.lost for a in every),
        sum(a.late for a in every),
        sum(a.duplicates for a in every),
        sum(a.too_old for a in every),
        sum(a.unread for a in every),
    )
