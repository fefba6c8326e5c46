# SPDX-License-Identifier: GPL-2.0-only
"""What is known of one WireGuard interface: the evidence that a rule reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from wgtrace.diagnosis.words import peer_label, quoted
from wgtrace.events.reasons import CATALOGUE, HandshakeCode, KernelReason, Reason, SubReason
from wgtrace.events.types import (
    DropTotal,
    Endpoint,
    Flow,
    HandshakeEvent,
    HandshakeTotal,
    InvariantTotal,
    IPAddress,
    PathTotal,
    PeerRef,
)
from wgtrace.events.wire import Hook, RuleFound
from wgtrace.probes.types import ProbeStatus
from wgtrace.report import CounterLine, SeenDrop, SeenPath
from wgtrace.state.types import Claim, Device, IPNetwork, Peer, Way

Kind = tuple[Reason, SubReason, "str | None"]
"""A reason, a sub-reason, and the public key of the peer."""


@dataclass(slots=True)
class Sighting:
    """Drops that were alike in all that a rule asks about.

    Attributes:
        count: Of those shown; the totals hold the exact number.
        last: The latest of them.
    """

    count: int
    last: SeenDrop


@dataclass(slots=True)
class PathSighting:
    """Drops outside of WireGuard that were alike in all that a rule asks about.

    Attributes:
        count: Of those shown; the totals hold the exact number.
        last: The latest of them.
    """

    count: int
    last: SeenPath


PathKind = tuple[KernelReason, bool, Hook, RuleFound, "str | None"]
"""A kernel's reason, whether the inner packet died, where, whether by a rule, and the peer's public key."""


@dataclass(slots=True)
class Attempts:
    """Handshake initiations to one peer that nothing has answered so far.

    Attributes:
        count: Since the last answer, of those shown.
        since_unix_ns: The first of them, 0 if none.
        answered: Whether an answer came before them in this run.
        answered_ns: When the last one came, CLOCK_BOOTTIME.
    """

    count: int = 0
    since_unix_ns: int = 0
    answered: bool = False
    answered_ns: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """A prefix that a change of the configuration took from one peer and gave to another.

    Attributes:
        by: The processes that configured something just then, such as `wg (pid 812)`.
        unix_ns: When it was noticed.
    """

    net: IPNetwork
    loser: str
    winner: str
    by: tuple[str, ...] = ()
    unix_ns: int = 0


@dataclass(frozen=True, slots=True)
class Travel:
    """A peer was at another endpoint than before, and nobody had configured that."""

    before: Endpoint
    now: Endpoint
    unix_ns: int


@dataclass(slots=True)
class Travels:
    """The travels of a peer: all are counted, the last are kept in their order."""

    count: int = 0
    last: list[Travel] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Stall:
    """Packets of a peer found its receive queue full, and none was taken out of it meanwhile.

    Attributes:
        seconds: So long, as far as was seen.
        count: Packets that found it full.
    """

    unix_ns: int
    seconds: float
    count: int


@dataclass(slots=True)
class IcmpErrors:
    """ICMP errors of one kind, from one place, for what was sent to a peer."""

    family: int
    kind: int
    code: int
    source: IPAddress
    count: int = 0
    last_unix_ns: int = 0


@dataclass(slots=True)
class Index:
    """Counts by peer, so that a thousand peers do not cost a million look-ups. None: all peers."""

    drops: dict[str | None, Counter[tuple[Reason, SubReason]]] = field(default_factory=dict)
    steps: dict[str | None, Counter[HandshakeCode]] = field(default_factory=dict)
    peers_at: dict[IPAddress, list[Peer]] = field(default_factory=dict)


@dataclass(slots=True)
class InterfaceEvidence:
    """Everything known of one interface. Rules only read it.

    Attributes:
        device: Its latest configuration, None if it could not be read.
        enter: What a command needs in front to run in its namespace, or "".
        sightings: Drops by (reason, sub-reason, peer) and by what sets them apart.
        sampled: How many sightings of each reason there are.
        path_sightings: Drops outside of WireGuard, by kind and by what sets them apart.
        path_totals: The kernel's own count of them.
        invariants: How often each was looked at, and held or not.
        not_sampled: Drops by reason whose details did not fit the sample.
        probes: Every row of the probe catalogue.
        ways: What the kernel said last of the route to a peer's endpoint, by public key.
        refused: The same, the last time that there was none.
        moves: Prefixes that changed hands, in their order.
        claims: Prefixes that configuration files want for peers of this interface.
        places: Who was at an address and port in this run, also long ago: public keys by port.
        travels: Of peers that moved, by public key; where stories are told only.
        icmp: ICMP errors for what was sent to a peer, by public key; where stories are told only.
        stalls: Of peers, by public key, each the longest; `wgtrace top` only.
        unconfirmed: Sessions that a peer asked for and did not confirm, since it last confirmed one.
        unreachable: The last ICMP message that said so of a datagram to a peer, by public key.
        is_gone: Whether it was deleted.
        cpus: Of each CPU, how busy it was in this run and how much of that with receiving, 0 to 1.
        index: Made when first asked for, see `changed`.
    """

    ifname: str
    netns: int
    device: Device | None = None
    enter: str = ""
    drop_totals: list[DropTotal] = field(default_factory=list)
    handshake_totals: list[HandshakeTotal] = field(default_factory=list)
    counters: tuple[CounterLine, ...] = ()
    sightings: dict[Kind, dict[tuple[object, ...], Sighting]] = field(default_factory=dict)
    sampled: dict[Reason, int] = field(default_factory=dict)
    path_sightings: dict[PathKind, dict[tuple[object, ...], PathSighting]] = field(default_factory=dict)
    path_totals: list[PathTotal] = field(default_factory=list)
    not_sampled: dict[Reason, int] = field(default_factory=dict)
    attempts: dict[str, Attempts] = field(default_factory=dict)
    invariants: list[InvariantTotal] = field(default_factory=list)
    probes: tuple[ProbeStatus, ...] = ()
    ways: dict[str, Way] = field(default_factory=dict)
    refused: dict[str, Way] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)
    claims: tuple[Claim, ...] = ()
    places: dict[IPAddress, dict[int, str]] = field(default_factory=dict)
    travels: dict[str, Travels] = field(default_factory=dict)
    icmp: dict[str, dict[tuple[int, int, IPAddress], IcmpErrors]] = field(default_factory=dict)
    stalls: dict[str, Stall] = field(default_factory=dict)
    unconfirmed: dict[str, int] = field(default_factory=dict)
    unreachable: dict[str, HandshakeEvent] = field(default_factory=dict)
    is_gone: bool = False
    cpus: tuple[tuple[float, float], ...] = ()
    index: Index | None = None

    def total(self, *reasons: Reason, sub: SubReason | None = None, peer: str | None = None) -> int:
        """How many drops, exact where the kernel's totals know the kind; None means any."""
        counts = self._index().drops.get(peer, Counter())
        return sum(n for kind, n in counts.items() if kind[0] in reasons and sub in (None, kind[1]))

    def seen(self, *reasons: Reason, sub: SubReason | None = None, peer: str | None = None) -> list[Sighting]:
        """The sampled drops of these kinds, most frequent first."""
        found = [
            sighting
            for key, sightings in self.sightings.items()
            if _matches(key, reasons, sub, peer)
            for sighting in sightings.values()
        ]
        return sorted(found, key=lambda sighting: -sighting.count)

    def steps(self, *codes: HandshakeCode, peer: str) -> int:
        """How many handshake steps of these kinds this peer took, exact."""
        counts = self._index().steps.get(peer, Counter())
        return sum(counts[code] for code in codes)

    def peer_keys(self) -> list[str]:
        """Public keys of all peers: the configured first, then those only seen."""
        keys = [peer.public_key for peer in self.device.peers] if self.device else []
        keys += [key for _, _, key in self.sightings if key is not None]
        keys += [t.public_key for t in self.drop_totals if t.public_key is not None]
        keys += [t.public_key for t in self.path_totals if t.public_key is not None]
        keys += [t.public_key for t in self.handshake_totals if t.public_key is not None]
        return list(dict.fromkeys([*keys, *self.attempts]))

    def peer(self, public_key: str) -> Peer | None:
        """The configured peer with this key."""
        return self.device.peer(public_key) if self.device else None

    def label(self, public_key: str | None) -> str:
        """The peer's name or short key."""
        return peer_label(self.device, public_key)

    def ref(self, public_key: str) -> PeerRef:
        """The peer as findings carry it."""
        peer = self.peer(public_key)
        return PeerRef(public_key, peer.endpoint if peer else None, peer.name if peer else None)

    def peers_at(self, addr: IPAddress) -> list[Peer]:
        """Configured peers whose endpoint has this address, whatever the port."""
        return self._index().peers_at.get(addr, [])

    def was_at(self, outer: Flow | None) -> str | None:
        """Public key of the peer that an outer packet came from, by where peers are or have been.

        The one that was at its address and port, else the only one that was at its address.
        """
        if outer is None:
            return None
        at = self.places.get(outer.saddr, {})
        return at.get(outer.sport) or (next(iter(at.values())) if len(set(at.values())) == 1 else None)

    def is_own(self, sighting: Sighting) -> bool:
        """Whether a packet that entered the interface is one of WireGuard's own, to a peer's endpoint."""
        inner, device = sighting.last.event.inner, self.device
        if inner is None or device is None or (inner.proto, inner.sport) != (17, device.listen_port):
            return False
        return any(p.endpoint and p.endpoint.port == inner.dport for p in self.peers_at(inner.daddr))

    def sources(self, sightings: list[Sighting]) -> list[IPAddress]:
        """Outer source addresses of these drops, most frequent first."""
        drops = (s.last.event for s in sightings)
        return list(dict.fromkeys(event.outer.saddr for event in drops if event.outer))

    def command(self, text: str) -> str:
        """A shell command that runs in this interface's namespace."""
        return f"{self.enter}{text}"

    def wg_set(self, arguments: str) -> str:
        """A `wg set` of this interface."""
        return self.command(f"wg set {quoted(self.ifname)} {arguments}")

    def missing(self, *ids: str) -> tuple[str, ...]:
        """What cannot be seen because a probe for these reasons or events is missing."""
        lost = (p.without_it for p in self.probes if p.mechanism is None and not set(ids).isdisjoint(p.gives))
        return tuple(dict.fromkeys(text for text in lost if text))

    def counter_facts(self, *reasons: Reason) -> list[str]:
        """How far the interface counters moved that the kernel counts these drops in."""
        names = {name for reason in reasons for name in CATALOGUE[reason].counter}
        return [f"{c.counter} of {self.ifname} +{c.moved}" for c in self.counters if c.counter in names]

    def changed(self) -> None:
        """Says that something was added: what was looked up before is no longer so."""
        self.index = None

    def _index(self) -> Index:
        if self.index is None:
            self.index = Index()
            kinds = {kind: sum(s.count for s in alike.values()) for kind, alike in self.sightings.items()}
            exact: Counter[Kind] = Counter()
            for t in self.drop_totals:
                exact[t.reason, t.sub_reason, t.public_key] += t.count
            for (reason, sub, key), count in {**kinds, **exact}.items():
                for bucket in {key, None}:
                    self.index.drops.setdefault(bucket, Counter())[reason, sub] += count
            for step in self.handshake_totals:
                self.index.steps.setdefault(step.public_key, Counter())[step.code] += step.count
            for peer in self.device.peers if self.device else ():
                if peer.endpoint:
                    self.index.peers_at.setdefault(peer.endpoint.addr, []).append(peer)
        return self.index


def _matches(
    key: Kind,
    reasons: tuple[Reason, ...],
    sub: SubReason | None,
    peer: str | None,
) -> bool:
    return key[0] in reasons and sub in (None, key[1]) and peer in (None, key[2])
