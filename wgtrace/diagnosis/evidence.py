# SPDX-License-Identifier: GPL-2.0-only
"""Collects what a run has seen, in bounded memory, sorted by interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from wgtrace.diagnosis.interface import Attempts, InterfaceEvidence, Sighting
from wgtrace.diagnosis.looks_like import looks_like
from wgtrace.diagnosis.words import quoted
from wgtrace.events.reasons import HandshakeCode, Reason
from wgtrace.events.types import DropEvent, DropTotal, Endpoint, HandshakeEvent, HandshakeTotal
from wgtrace.probes.types import ProbeStatus
from wgtrace.report import CounterLine, SeenDrop
from wgtrace.state.types import Namespace, Snapshot

MAX_KINDS: Final = 256
"""Kinds of drops kept apart for each interface and reason; more are only counted."""

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

    def feed(self, seen: SeenDrop | HandshakeEvent) -> None:
        """Take one event of the stream."""
        if isinstance(seen, SeenDrop):
            self._feed_drop(seen)
        else:
            self._feed_handshake(seen)

    def set_totals(self, drops: Iterable[DropTotal], handshakes: Iterable[HandshakeTotal] = ()) -> None:
        """Take the kernel's totals, which replace those taken before."""
        for interface in self._interfaces.values():
            interface.changed()
            interface.drop_totals, interface.handshake_totals = [], []
        for drop in drops:
            self._interface(drop.ifname, drop.netns).drop_totals.append(drop)
        for step in handshakes:
            self._interface(step.ifname, step.netns).handshake_totals.append(step)

    def set_snapshot(self, snapshot: Snapshot) -> None:
        """Take the latest configuration. An interface that is gone keeps its last one."""
        spaces = {space.inode: space for space in snapshot.namespaces}
        for device in snapshot.devices:
            interface = self._interface(device.ifname, device.netns)
            interface.device = device
            interface.enter = _enter(spaces.get(device.netns))

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

    def interfaces(self) -> list[InterfaceEvidence]:
        """What is known of each interface, in the order of their names."""
        return [self._interfaces[key] for key in sorted(self._interfaces)]

    def _interface(self, ifname: str, netns: int) -> InterfaceEvidence:
        """The interface's evidence, to be added to."""
        key = (ifname, netns)
        if key not in self._interfaces:
            self._interfaces[key] = InterfaceEvidence(ifname, netns, probes=self._probes)
        self._interfaces[key].changed()
        return self._interfaces[key]

    def _feed_drop(self, seen: SeenDrop) -> None:
        event = seen.event
        interface = self._interface(event.device.ifname, event.device.netns)
        kind = (event.reason, event.sub_reason, event.peer.public_key if event.peer else None)
        facts = _facts(event)
        sightings = interface.sightings.setdefault(kind, {})
        if facts in sightings:
            sightings[facts].count += 1
            sightings[facts].last = seen
        elif _kinds(interface, event.reason) < MAX_KINDS:
            sightings[facts] = Sighting(1, seen)
        else:
            interface.not_sampled[event.reason] = interface.not_sampled.get(event.reason, 0) + 1

    def _feed_handshake(self, event: HandshakeEvent) -> None:
        if event.peer is None:
            return
        interface = self._interface(event.device.ifname, event.device.netns)
        attempts = interface.attempts.setdefault(event.peer.public_key, Attempts())
        if event.code in _ANSWER:
            interface.attempts[event.peer.public_key] = Attempts(answered=True)
        elif event.code in _ATTEMPT:
            attempts.count += 1
            attempts.since_unix_ns = attempts.since_unix_ns or event.ts_ns + self._clock_offset_ns


def _kinds(interface: InterfaceEvidence, reason: Reason) -> int:
    return sum(len(seen) for key, seen in interface.sightings.items() if key[0] is reason)


def _enter(space: Namespace | None) -> str:
    if space is None or space.path.startswith("/proc/self/"):
        return ""  # the reader is in it already
    if space.name:
        return f"ip netns exec {quoted(space.name)} "
    return f"nsenter --net={quoted(space.path)} "


def _outer_source(event: DropEvent) -> tuple[object, ...]:
    return (Endpoint(event.outer.saddr, event.outer.sport),) if event.outer else ()


def _age_of_initiation(event: DropEvent) -> tuple[object, ...]:
    if event.timestamp is None or event.latest_timestamp is None:
        return (None,)
    return (event.timestamp.unix_ns < event.latest_timestamp.unix_ns,)


# What sets two drops of one reason apart for the rules; the rest are all alike.
_FACTS: Final[dict[Reason, Callable[[DropEvent], tuple[object, ...]]]] = {
    Reason.SRC_NOT_ALLOWED: lambda e: (e.inner.saddr if e.inner else None, e.owner),
    Reason.ALLOWEDIPS_NO_PEER: lambda e: (e.inner.daddr if e.inner else None,),
    Reason.UNKNOWN_PEER_PUBKEY: lambda e: (e.unknown_public_key, *_outer_source(e)),
    Reason.INVALID_MAC1: _outer_source,
    Reason.NO_PRIVATE_KEY: _outer_source,
    Reason.BAD_HEADER: lambda e: (looks_like(e.payload, e.payload_len), *_outer_source(e)),
    Reason.HANDSHAKE_INIT_REPLAY: _age_of_initiation,
}


def _facts(event: DropEvent) -> tuple[object, ...]:
    facts = _FACTS.get(event.reason)
    return facts(event) if facts else ()
