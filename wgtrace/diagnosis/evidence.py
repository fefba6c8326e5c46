# SPDX-License-Identifier: GPL-2.0-only
"""Collects what a run has seen, in bounded memory, sorted by interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from wgtrace.diagnosis.interface import (
    Attempts,
    IcmpErrors,
    InterfaceEvidence,
    Move,
    PathSighting,
    Sighting,
    Stall,
    Travel,
    Travels,
)
from wgtrace.diagnosis.looks_like import looks_like
from wgtrace.diagnosis.words import is_noise, quoted
from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.events.types import (
    DropEvent,
    DropTotal,
    Endpoint,
    HandshakeEvent,
    HandshakeTotal,
    InvariantTotal,
    PathTotal,
)
from wgtrace.probes.types import ProbeStatus
from wgtrace.report import CounterLine, Seen, SeenDrop, SeenPath, SeenStep
from wgtrace.state.types import Claim, Device, IPNetwork, Load, Namespace, Snapshot, Way

MAX_KINDS: Final = 256
"""Kinds of drops kept apart for each interface and reason; more are only counted."""
MAX_PLACES: Final = 4096
"""Addresses remembered for each interface that peers were at."""
MAX_MOVES: Final = 256
"""Prefixes remembered for each interface that changed hands."""
MAX_WAYS: Final = 16
"""Peers of each interface whose route is asked for at once."""
MAX_TRAVELS: Final = 32
"""Changes of each peer's endpoint that are remembered."""

_ASKS_FOR_WAY: Final = (
    Reason.NO_ROUTE_TO_ENDPOINT,
    Reason.UDP_SOCK_NULL,
    Reason.DECRYPT_FAILED,
    Reason.RX_QUEUE_FULL,
    Reason.DECRYPT_QUEUE_FULL,
)
_ATTEMPT: Final = (HandshakeCode.INIT_SENT,)
_ANSWER: Final = (
    HandshakeCode.INIT_ACCEPTED,
    HandshakeCode.RESPONSE_ACCEPTED,
    HandshakeCode.HANDSHAKE_COMPLETE,
)


class Evidence:
    """What a run has seen so far.

    Args:
        probes: Every row of the probe catalogue, attached or not.
        clock_offset_ns: CLOCK_REALTIME minus CLOCK_BOOTTIME.
    """

    def __init__(self, probes: Iterable[ProbeStatus] = (), clock_offset_ns: int = 0) -> None:
        self._probes = tuple(probes)
        self._clock_offset_ns = clock_offset_ns
        self._interfaces: dict[tuple[str, int], InterfaceEvidence] = {}

    def feed(self, seen: Seen | HandshakeEvent) -> None:
        """Take one event of the stream."""
        if isinstance(seen, SeenDrop):
            self._feed_drop(seen)
        elif isinstance(seen, SeenPath):
            self._feed_path(seen)
        else:
            self._feed_handshake(seen)

    def tell(self, step: SeenStep) -> None:
        """Take a step of a story."""
        if step.peer is None or not (step.icmp or (step.before and step.cause == "roamed")):
            return
        interface, key = self._interface(step.ifname, step.netns), step.peer.public_key
        if step.before and step.peer.endpoint:
            travels = interface.travels.setdefault(key, Travels())
            travels.count += 1
            travels.last.append(Travel(step.before, step.peer.endpoint, step.ts_unix_ns))
            del travels.last[:-MAX_TRAVELS]
        elif step.icmp and step.inner:
            errors = interface.icmp.setdefault(key, {})
            if step.icmp not in errors and len(errors) < MAX_WAYS:
                errors[step.icmp] = IcmpErrors(step.inner.family, *step.icmp)
            if error := errors.get(step.icmp):
                error.count += 1
                error.last_unix_ns = step.ts_unix_ns

    def stall(self, ifname: str, netns: int, public_key: str, stall: Stall) -> None:
        """Take one, if it is longer than that before."""
        stalls = self._interface(ifname, netns).stalls
        if public_key not in stalls or stalls[public_key].seconds < stall.seconds:
            stalls[public_key] = stall

    def set_totals(
        self,
        drops: Iterable[DropTotal | PathTotal],
        handshakes: Iterable[HandshakeTotal] = (),
        invariants: Iterable[InvariantTotal] = (),
    ) -> None:
        """Take the kernel's totals, which replace those taken before."""
        for interface in self._interfaces.values():
            interface.changed()
            interface.drop_totals, interface.handshake_totals, interface.path_totals = [], [], []
            interface.invariants = []
        for drop in drops:
            interface = self._interface(drop.ifname, drop.netns)
            if isinstance(drop, PathTotal):
                interface.path_totals.append(drop)
            else:
                interface.drop_totals.append(drop)
        for step in handshakes:
            self._interface(step.ifname, step.netns).handshake_totals.append(step)
        for look in invariants:
            self._interface(look.ifname, look.netns).invariants.append(look)

    def set_snapshot(self, snapshot: Snapshot, changed_by: Iterable[str] = ()) -> None:
        """Take the latest configuration. An interface that is gone keeps its last one.

        Args:
            changed_by: The processes that configured something since the one before.
        """
        spaces = {space.inode: space for space in snapshot.namespaces}
        by, unix_ns = tuple(dict.fromkeys(changed_by)), snapshot.taken_ns + self._clock_offset_ns
        for interface in self._interfaces.values():
            interface.is_gone = True
        for device in snapshot.devices:
            interface = self._interface(device.ifname, device.netns)
            moves = [Move(*moved, by, unix_ns) for moved in _moved(interface.device, device)]
            interface.moves = [*interface.moves, *moves][-MAX_MOVES:]
            interface.device, interface.is_gone = device, False
            interface.enter = _enter(spaces.get(device.netns))
            for peer in device.peers:
                _remember_place(interface, peer.public_key, peer.endpoint)

    def rename(self, was: tuple[str, int], now: tuple[str, int]) -> None:
        """What was seen of an interface is of one with another name, or in another namespace, from now on."""
        if interface := self._interfaces.pop(was, None):
            interface.ifname, interface.netns = now
            self._interfaces[now] = interface

    def set_counters(self, counters: Iterable[CounterLine]) -> None:
        """Take how far the interface counters moved."""
        for interface in self._interfaces.values():
            interface.counters = ()
        for line in counters:
            self._interface(line.ifname, line.netns).counters += (line,)

    def in_trouble(self) -> list[tuple[Device, str, Endpoint]]:
        """The peers of which a rule wants to know the way to the endpoint, with their interface."""
        found: list[tuple[Device, str, Endpoint]] = []
        for interface in self._interfaces.values():
            if interface.device is None or interface.is_gone:
                continue
            peers = [p for p in interface.device.peers if p.endpoint and _needs_way(interface, p.public_key)]
            found += [(interface.device, p.public_key, p.endpoint) for p in peers[:MAX_WAYS] if p.endpoint]
        return found

    def set_way(self, device: Device, public_key: str, way: Way | None) -> None:
        """Take what the kernel said of the route to a peer's endpoint; None: nothing."""
        if way is None:
            return
        interface = self._interface(device.ifname, device.netns)
        interface.ways[public_key] = way
        if way.errno:
            interface.refused[public_key] = way

    def set_claims(self, claims: Iterable[Claim]) -> None:
        """Take what the configuration files want."""
        claims = tuple(claims)
        for interface in self._interfaces.values():
            interface.claims = tuple(claim for claim in claims if interface.peer(claim.public_key))

    def set_load(self, before: Load, now: Load) -> None:
        """Take how busy the CPUs were between two moments."""
        cpus = []
        if len(before.ticks) == len(now.ticks):
            for cpu, ticks in enumerate(now.ticks):
                span = max(ticks - before.ticks[cpu], 1)
                busy = now.busy[cpu] - before.busy[cpu]
                cpus.append((busy / span, (now.softirq[cpu] - before.softirq[cpu]) / span))
        for interface in self._interfaces.values():
            interface.cpus = tuple(cpus)

    def interfaces(self) -> list[InterfaceEvidence]:
        """What is known of each interface, in the order of their names."""
        return [self._interfaces[key] for key in sorted(self._interfaces)]

    def _interface(self, ifname: str, netns: int) -> InterfaceEvidence:
        """The interface's evidence, to be added to."""
        key = (ifname, netns)
        found = self._interfaces.get(key)
        if found is None:
            found = self._interfaces[key] = InterfaceEvidence(ifname, netns, probes=self._probes)
        found.changed()
        return found

    def _feed_drop(self, seen: SeenDrop) -> None:
        event = seen.event
        interface = self._interface(event.device.ifname, event.device.netns)
        kind = (event.reason, event.sub_reason, event.peer.public_key if event.peer else None)
        facts = _facts(event)
        sightings = interface.sightings.get(kind)
        if sightings is None:
            sightings = interface.sightings[kind] = {}
        known = sightings.get(facts)
        if known is not None:
            known.count += 1
            known.last = seen
        elif interface.sampled.get(event.reason, 0) < MAX_KINDS:
            sightings[facts] = Sighting(1, seen)
            interface.sampled[event.reason] = interface.sampled.get(event.reason, 0) + 1
        else:
            interface.not_sampled[event.reason] = interface.not_sampled.get(event.reason, 0) + 1

    def _feed_path(self, seen: SeenPath) -> None:
        event, blocked = seen.event, seen.blocked
        interface = self._interface(event.device.ifname, event.device.netns)
        key = event.peer.public_key if event.peer else None
        sightings = interface.path_sightings.setdefault(
            (event.reason, event.is_inner, event.hook, event.found, key), {}
        )
        rule = (blocked.family, blocked.table, blocked.chain, blocked.handle) if blocked else ()
        flow = event.flow
        is_told = flow is not None and not is_noise(flow.saddr) and not is_noise(flow.daddr)
        facts = (event.ifname, rule, is_told, flow.family if flow else 0)
        if facts in sightings:
            sightings[facts].count += 1
            sightings[facts].last = seen
        elif sum(map(len, interface.path_sightings.values())) < MAX_KINDS:
            sightings[facts] = PathSighting(1, seen)

    def _feed_handshake(self, event: HandshakeEvent) -> None:
        if event.peer is None:
            return
        interface = self._interface(event.device.ifname, event.device.netns)
        _remember_place(interface, event.peer.public_key, event.peer.endpoint)
        attempts = interface.attempts.setdefault(event.peer.public_key, Attempts())
        if event.code is HandshakeCode.HANDSHAKE_COMPLETE:
            interface.unconfirmed.pop(event.peer.public_key, None)
        elif event.code is HandshakeCode.SESSION_DERIVED and event.sub_reason is SubReason.RESPONDER:
            count = interface.unconfirmed.get(event.peer.public_key, 0)
            interface.unconfirmed[event.peer.public_key] = count + 1
        if event.code is HandshakeCode.UNREACHABLE:
            interface.unreachable[event.peer.public_key] = event
        if event.code in _ANSWER:
            interface.attempts[event.peer.public_key] = Attempts(answered=True, answered_ns=event.ts_ns)
        elif event.code in _ATTEMPT:
            attempts.count += 1
            attempts.since_unix_ns = attempts.since_unix_ns or event.ts_ns + self._clock_offset_ns


def _needs_way(interface: InterfaceEvidence, key: str) -> bool:
    attempts = interface.attempts.get(key, Attempts())
    return bool(attempts.count) or interface.total(*_ASKS_FOR_WAY, peer=key) > 0


def _remember_place(interface: InterfaceEvidence, public_key: str, endpoint: Endpoint | None) -> None:
    """Keep who was where: a peer that is added again has forgotten it."""
    if endpoint is None:
        return
    at = interface.places.get(endpoint.addr, {})
    if endpoint.port in at or len(interface.places) + len(at) < MAX_PLACES:
        interface.places.setdefault(endpoint.addr, {})[endpoint.port] = public_key


def _moved(before: Device | None, now: Device) -> list[tuple[IPNetwork, str, str]]:
    """Prefixes that a peer of both had before and another has now: prefix, loser, winner."""
    if before is None or before.ifindex != now.ifindex:
        return []
    owners = {net: peer.public_key for peer in now.peers for net in peer.allowed_ips}
    return [
        (net, peer.public_key, owners[net])
        for peer in before.peers
        for net in peer.allowed_ips
        if now.peer(peer.public_key) and owners.get(net, peer.public_key) != peer.public_key
    ]


def _enter(space: Namespace | None) -> str:
    if space is None or space.path.startswith("/proc/self/"):
        return ""  # the reader is in it already
    if space.name:
        return f"ip netns exec {quoted(space.name)} "
    return f"nsenter --net={quoted(space.path)} "


def _outer_source(event: DropEvent) -> tuple[object, ...]:
    return (event.outer.saddr, event.outer.sport) if event.outer else ()


def _outer_address(event: DropEvent) -> tuple[object, ...]:
    return (event.outer.saddr,) if event.outer else ()


def _age_of_initiation(event: DropEvent) -> tuple[object, ...]:
    if event.timestamp is None or event.latest_timestamp is None:
        return (None,)
    return (event.timestamp.unix_ns < event.latest_timestamp.unix_ns,)


# What sets two drops of one reason apart for the rules; the rest are all alike.
_FACTS: Final[dict[Reason, Callable[[DropEvent], tuple[object, ...]]]] = {
    Reason.SRC_NOT_ALLOWED: lambda e: (e.inner.saddr if e.inner else None, e.owner),
    Reason.ALLOWEDIPS_NO_PEER: lambda e: (e.inner.daddr if e.inner else None,),
    Reason.UNKNOWN_RECEIVER_INDEX: lambda e: (e.receiver_index, *_outer_source(e)),
    Reason.COOKIE_UNDER_LOAD: _outer_address,
    Reason.RATELIMITED: _outer_address,
    Reason.HANDSHAKE_QUEUE_FULL: _outer_address,
    Reason.HANDSHAKE_QUEUE_CONTENDED: _outer_address,
    Reason.HANDSHAKE_FLOOD: _outer_address,
    Reason.UNKNOWN_PEER_PUBKEY: lambda e: (e.unknown_public_key, *_outer_source(e)),
    Reason.INVALID_MAC1: _outer_source,
    Reason.NO_PRIVATE_KEY: _outer_source,
    Reason.BAD_HEADER: lambda e: (looks_like(e.payload, e.payload_len), *_outer_source(e)),
    Reason.HANDSHAKE_INIT_REPLAY: _age_of_initiation,
}


def _facts(event: DropEvent) -> tuple[object, ...]:
    facts = _FACTS.get(event.reason)
    return facts(event) if facts else ()
