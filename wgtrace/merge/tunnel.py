# SPDX-License-Identifier: GPL-2.0-only
"""Two ends of a tunnel put together: which message that left one arrived at the other.

A handshake message is named by the sender's index in it, a data message by the receiver's
index and its counter: both are in clear, survive NAT, and name one message only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from wgtrace.events.reasons import Direction, HandshakeCode, Reason
from wgtrace.events.types import DeviceRef, Endpoint, PacketEvent
from wgtrace.events.wire import PacketWay
from wgtrace.merge.clocks import Bound, Lead, lead
from wgtrace.merge.ends import End
from wgtrace.state.types import Device

ON_ITS_WAY_NS: Final = 1_000_000_000
"""What left in the last second before a recording ended may have arrived after it."""
_CONFIDENCE: Final = 3.29  # standard deviations: 999 of 1000
_INITIATION, _RESPONSE = 1, 2


@dataclass(frozen=True, slots=True)
class Message:
    """A message that left, and what became of it.

    Attributes:
        left_ns: CLOCK_BOOTTIME of the end that it left, before it did if `is_timed`.
        arrived_ns: Of the other end; None: it did not arrive.
        refused: Why it was refused there, None: it was not, or it did not arrive.
        index: The sender's (handshake), or the receiver's.
        length: Of a data message, bytes.
    """

    left_ns: int
    index: int
    nonce: int = 0
    length: int = 0
    arrived_ns: int | None = None
    refused: Reason | None = None
    is_timed: bool = True


@dataclass
class Way:
    """One direction of a tunnel.

    Attributes:
        source, target: The ends.
        device, there: The interface at each of them.
        initiations, responses, data: Those that left while both ends recorded.
        one_in: Of so many data messages one was recorded at both ends, 0: none.
        copies: Data messages that arrived more than once.
        came_from: Where they came from as the target sees it; own: the source's own address
            as what arrives there says, each with how often.
        dropped: Drops there of this peer's messages, by reason.
        delays_ns: How long each data message took, by both clocks, in the order of leaving.
    """

    source: End
    target: End
    device: Device
    there: Device
    initiations: list[Message] = field(default_factory=list)
    responses: list[Message] = field(default_factory=list)
    data: list[Message] = field(default_factory=list)
    one_in: int = 0
    copies: int = 0
    came_from: Counter[Endpoint] = field(default_factory=Counter)
    own: Counter[Endpoint] = field(default_factory=Counter)
    dropped: Counter[Reason] = field(default_factory=Counter)
    delays_ns: list[int] = field(default_factory=list)

    @property
    def lost(self) -> list[Message]:
        """The data messages that did not arrive."""
        return [message for message in self.data if message.arrived_ns is None]

    @property
    def loss(self) -> tuple[float, float, float] | None:
        """Which part of the data messages was lost, at least and at most so much; None: none was recorded."""
        count, lost = len(self.data), len(self.lost)
        if not count:
            return None
        # A record that is missing at the target looks like a message that did not arrive.
        certain = max(0, lost - self.target.lost)
        if self.one_in == 1:
            return lost / count, certain / count, lost / count
        return lost / count, _wilson(certain, count, -1), _wilson(lost, count, 1)

    def longest_gap(self) -> list[Message]:
        """The most data messages in a row of one session that did not arrive."""
        best: list[Message] = []
        gap: list[Message] = []
        for message in sorted(self.data, key=lambda m: (m.index, m.nonce)):
            if message.arrived_ns is not None or (gap and gap[-1].index != message.index):
                gap = []
            if message.arrived_ns is None:
                gap = [*gap, message]
                best = max(best, gap, key=len)
        return best


@dataclass
class Tunnel:
    """Two interfaces that are each other's peers.

    Attributes:
        lead: Of the second end's clock; None: nothing tells it, not even the wall clocks.
        is_measured: Whether it is from messages each way, and not from the wall clocks.
        begin_ns, end_ns: When both ends recorded, in the first end's time.
        ways: From the first to the second, and back.
    """

    first: End
    second: End
    lead: Lead
    is_measured: bool
    begin_ns: int
    end_ns: int
    ways: tuple[Way, Way]


def tunnels(found: Sequence[End]) -> Iterator[Tunnel]:
    """Each tunnel between two of these ends."""
    for first, second in combinations(found, 2):
        for here in first.devices.values():
            for there in second.devices.values():
                if _knows(here, there) and _knows(there, here):
                    yield _tunnel(first, second, here, there)


def _knows(device: Device, other: Device) -> bool:
    return bool(other.public_key and device.peer(other.public_key))


def _tunnel(first: End, second: End, here: Device, there: Device) -> Tunnel:
    forth, back = Way(first, second, here, there), Way(second, first, there, here)
    for way in (forth, back):
        _match(way)
    at_most = [Bound(m.left_ns, m.arrived_ns - m.left_ns) for m in _timed(forth) if m.arrived_ns is not None]
    at_least = [
        Bound(m.arrived_ns, m.left_ns - m.arrived_ns) for m in _timed(back) if m.arrived_ns is not None
    ]
    measured = lead(at_most, at_least)
    known = measured or _by_wall_clocks(first, second)
    begin = max(first.begin_ns, known.to_a(second.begin_ns))
    end = min(first.end_ns, known.to_a(second.end_ns))
    wrong = (known.worst_ns or 0) if measured else 0
    tunnel = Tunnel(first, second, known, measured is not None, begin, end, (forth, back))
    _keep_between(forth, begin + wrong, end - wrong - ON_ITS_WAY_NS)
    _keep_between(back, known.at(begin) + begin + wrong, known.at(end) + end - wrong - ON_ITS_WAY_NS)
    for way, sign in ((forth, 1), (back, -1)):
        for message in way.data:
            if message.arrived_ns is not None:
                a_ns = message.left_ns if sign > 0 else message.arrived_ns
                way.delays_ns.append(message.arrived_ns - message.left_ns - sign * known.at(a_ns))
    return tunnel


def _timed(way: Way) -> Iterator[Message]:
    """The messages that surely left after, and arrived before, the times that are known of them."""
    yield from (m for m in (*way.initiations, *way.responses, *way.data) if m.is_timed)


def _by_wall_clocks(first: End, second: End) -> Lead:
    """B's lead if both wall clocks are right: within what NTP says of them, if it says it of both."""
    a, b = first.facts.clock, second.facts.clock
    lead_ns = (b.boottime_ns - b.realtime_ns) - (a.boottime_ns - a.realtime_ns)
    is_known = a.synchronised and b.synchronised
    within = (a.max_error_us + b.max_error_us) * 1000 if is_known else None
    return Lead(a.boottime_ns, lead_ns, within, worst_ns=within)


def _keep_between(way: Way, begin_ns: int, end_ns: int) -> None:
    for messages in (way.initiations, way.responses, way.data):
        messages[:] = [m for m in messages if begin_ns <= m.left_ns <= end_ns]


def _match(way: Way) -> None:
    """What left the source, and what became of it at the target."""
    key, own = way.there.public_key, way.device.public_key
    assert key
    assert own
    arrived = _arrived_handshakes(way, own)
    for event in way.source.handshakes:
        kind = {HandshakeCode.INIT_SENT: _INITIATION, HandshakeCode.RESPONSE_SENT: _RESPONSE}.get(event.code)
        if (
            kind is None
            or not _is_of(event.device, way.device)
            or not event.peer
            or event.peer.public_key != key
        ):
            continue
        at_ns, refused = arrived.get((kind, event.sender_index), (None, None))
        message = Message(
            event.message_ns or event.ts_ns,
            event.sender_index,
            arrived_ns=at_ns,
            refused=refused,
            is_timed=bool(event.message_ns),
        )
        (way.initiations if kind == _INITIATION else way.responses).append(message)
    _match_data(way, key, own)
    for total in way.target.totals:
        is_here = (total.ifname, total.netns) == (way.there.ifname, way.there.netns)
        if is_here and total.public_key == own and total.reason.direction is not Direction.TX:
            way.dropped[total.reason] += total.count


def _arrived_handshakes(way: Way, own: str) -> dict[tuple[int, int], tuple[int, Reason | None]]:
    """By kind and sender's index: when it arrived, and why it was refused."""
    accepted = {HandshakeCode.INIT_ACCEPTED: _INITIATION, HandshakeCode.RESPONSE_ACCEPTED: _RESPONSE}
    found: dict[tuple[int, int], tuple[int, Reason | None]] = {}
    for drop in way.target.drops:
        is_refused = drop.reason.direction is Direction.HANDSHAKE and _is_of(drop.device, way.there)
        if is_refused and drop.message_type in (_INITIATION, _RESPONSE):
            found[drop.message_type, drop.sender_index] = drop.ts_ns, drop.reason
    for event in way.target.handshakes:
        if (
            event.code in accepted
            and _is_of(event.device, way.there)
            and event.peer
            and event.peer.public_key == own
        ):
            found[accepted[event.code], event.sender_index] = event.message_ns or event.ts_ns, None
            if event.peer.endpoint:
                way.came_from[event.peer.endpoint] += 1
    return found


def _match_data(way: Way, key: str, own: str) -> None:
    samples = way.source.facts.sample, way.target.facts.sample
    way.one_in = math.lcm(*samples) if all(samples) else 0
    arrived: dict[tuple[int, int], int] = {}
    for event in _data(way.target, way.there, PacketWay.ARRIVED):
        if event.peer and event.peer.public_key != own:
            continue
        if (event.receiver_index, event.nonce) in arrived:
            way.copies += 1
            continue
        arrived[event.receiver_index, event.nonce] = event.ts_ns
        if event.outer:
            way.came_from[Endpoint(event.outer.saddr, event.outer.sport)] += 1
    for event in _data(way.source, way.device, PacketWay.LEFT):
        if way.one_in and event.peer and event.peer.public_key == key and event.nonce % way.one_in == 0:
            at_ns = arrived.get((event.receiver_index, event.nonce))
            way.data.append(Message(event.ts_ns, event.receiver_index, event.nonce, event.length, at_ns))
    for event in _data(
        way.source, way.device, PacketWay.ARRIVED
    ):  # its own address, as the other end writes it
        if event.outer and event.peer and event.peer.public_key == key:
            way.own[Endpoint(event.outer.daddr, event.outer.dport)] += 1


def _data(end: End, device: Device, which: PacketWay) -> Iterable[PacketEvent]:
    return (event for event in end.packets if event.way is which and _is_of(event.device, device))


def _is_of(ref: DeviceRef, device: Device) -> bool:
    return (ref.ifname, ref.netns) == (device.ifname, device.netns)


def _wilson(part: int, whole: int, side: int) -> float:
    """An end of the interval that holds the true part in 999 of 1000 cases (Wilson's)."""
    z, share = _CONFIDENCE, part / whole
    middle = share + z * z / (2 * whole)
    spread = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    return min(1.0, max(0.0, (middle + side * spread) / (1 + z * z / whole)))
