# SPDX-License-Identifier: GPL-2.0-only
"""What sizes mean: the path MTU of a peer, the MTU that would fit, and what goes wrong with the one set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.words import count_of, listing, peer_label
from wgtrace.events.mtu import MtuEvent, Sizes
from wgtrace.events.types import Flow, PeerRef
from wgtrace.events.wire import MtuCode, MtuOf
from wgtrace.state.types import Device, Peer, Way

IPV6_LEAST: Final = 1280
"""No link may have a smaller MTU if IPv6 is to work on it, RFC 8200."""
_OVERHEAD: Final = {4: 60, 6: 80}  # IP and UDP header, and 32 bytes of WireGuard's
_ENOUGH: Final = 3
"""So many packets in a row without an answer are no mere loss."""
_STILL_NS: Final = 2_000_000_000
"""Who goes on with packets that are too big for so long was not told."""
_MOST_FLOWS: Final = 64


@dataclass(slots=True)
class Seen:
    """Events of one kind, as far as they were shown one by one.

    Attributes:
        mtu: The smallest that one of them had to fit, 0: none said.
        largest: Packet, bytes; `smallest` too.
        wheres: Functions that dropped them.
        flows: When each of these was first and last among them, and how often.
    """

    last: MtuEvent
    mtu: int = 0
    largest: int = 0
    smallest: int = 0
    wheres: dict[str, int] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    flows: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def add(self, event: MtuEvent) -> None:
        """Count one more."""
        self.last = event
        if event.mtu:
            self.mtu = min(self.mtu or event.mtu, event.mtu)
        if event.size:
            self.largest = max(self.largest, event.size)
            self.smallest = min(self.smallest or event.size, event.size)
        if event.where:
            where = event.where.split("+")[0]
            self.wheres[where] = self.wheres.get(where, 0) + 1
        self.ids[event.id] = self.ids.get(event.id, 0) + 1
        flow = event.inner
        if flow is None:
            return
        key = tuple(map(str, (flow.saddr, flow.daddr, flow.proto, flow.sport, flow.dport)))
        if key in self.flows or len(self.flows) < _MOST_FLOWS:
            times = self.flows.setdefault(key, [event.ts_ns, event.ts_ns, 0])
            times[1] = event.ts_ns
            times[2] += 1

    @property
    def is_going_on(self) -> bool:
        """Whether somebody sends what is too big again and again."""
        return any(
            last - first >= _STILL_NS and count >= _ENOUGH for first, last, count in self.flows.values()
        )

    @property
    def sizes(self) -> str:
        """`1328 to 1440 bytes`."""
        if self.smallest == self.largest:
            return f"{self.largest} bytes"
        return f"{self.smallest} to {self.largest} bytes"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of the sizes of a peer's packets.

    Attributes:
        way: How datagrams go to it now, None: it has no endpoint, or that cannot be told.
        counts: Exact, since the start; the bool says: on the way out.
        seen: Those of them that were shown.
        forwards: Whether the host forwards, so that the TCP of others may go through the tunnel.
        clock_offset_ns: CLOCK_REALTIME minus CLOCK_BOOTTIME.
        other_end_mtu: Of the device at the other end of the link where datagrams die, 0: not known.
    """

    device: Device
    peer: Peer
    way: Way | None = None
    sizes: Sizes | None = None
    counts: dict[tuple[MtuCode, bool], int] = field(default_factory=dict)
    seen: dict[tuple[MtuCode, bool], Seen] = field(default_factory=dict)
    forwards: bool = False
    clock_offset_ns: int = 0
    other_end_mtu: int = 0

    @property
    def overhead(self) -> int:
        """What encryption adds to a packet at most, bytes; for IPv6 where the endpoint is not known."""
        return _OVERHEAD[self.peer.endpoint.addr.version if self.peer.endpoint else 6]

    @property
    def path(self) -> tuple[int, str]:
        """The path MTU as far as it is known, and who says so; 0 if nobody does."""
        known: list[tuple[int, str]] = []
        if self.way and not self.way.errno:
            if self.way.mtu:
                known.append((self.way.mtu, "a router" if self.way.is_mtu_learned else "the route"))
            if self.way.link_mtu:
                known.append((self.way.link_mtu, self.way.oif))
        if self.other_end_mtu:
            known.append((self.other_end_mtu, "the link's other end"))
        for code in (MtuCode.OUTER_FRAGMENTED, MtuCode.TOO_BIG_RECEIVED, MtuCode.TOO_BIG_LOST):
            seen = self.seen.get((code, True))
            if seen and seen.mtu and not seen.last.is_inner:
                at = {MtuOf.ROUTE: "the route", MtuOf.ICMP: "a router"}.get(seen.last.mtu_of)
                known.append((seen.mtu, at or seen.last.ifname))
        return min(known, default=(0, ""), key=lambda each: each[0])

    @property
    def fits(self) -> int:
        """The largest MTU of the interface with which no datagram to this peer is too big, 0: not known."""
        path, _who = self.path
        fits = path - self.overhead if path else 0
        sizes = self.sizes
        if sizes and is_black_hole(self) and sizes.failed > sizes.passed:
            fits = min(fits or sizes.passed, sizes.passed)
        return max(fits, 0)

    def count(self, code: MtuCode, outgoing: bool = True) -> int:
        """How often that happened."""
        return self.counts.get((code, outgoing), 0)


def is_black_hole(facts: Facts) -> bool:
    """Whether larger packets get no answer, again and again, and smaller ones do."""
    sizes = facts.sizes
    if sizes is None or not sizes.failed or sizes.failures < _ENOUGH or sizes.failed <= sizes.passed:
        return False
    shaken_ns = facts.peer.latest_handshake_ns - facts.clock_offset_ns
    return max(sizes.heard_ns, shaken_ns) > sizes.first_failed_ns


def findings(facts: Facts) -> list[Finding]:
    """One for each cause: what dies comes before what is only fragmented."""
    out = _black_hole_out(facts)
    found = [out, _black_hole_in(facts), _padding(facts)]
    if not out and not _is_by_padding(facts):
        found.append(_fragmented(facts))
    found.append(_inner(facts))
    return [each for each in found if each]


def _finding(
    facts: Facts,
    slug: str,
    severity: Severity,
    confidence: Confidence,
    count: int,
    cause: str,
    evidence: Iterator[str],
    fix: list[str],
    not_visible: tuple[str, ...] = (),
) -> Finding:
    peer = PeerRef(facts.peer.public_key, facts.peer.endpoint, facts.peer.name)
    where = facts.device.ifname, facts.device.netns
    return Finding(
        slug, severity, confidence, *where, peer, count, cause, tuple(evidence), tuple(fix), not_visible
    )


def _fixes(facts: Facts, fits: int) -> list[str]:
    """The MTU to set, and what makes TCP of others fit."""
    fix = [f"ip link set dev {facts.device.ifname} mtu {fits}"] if fits else []
    if fits and fits < IPV6_LEAST and any(net.version == 6 for net in facts.peer.allowed_ips):
        fix.append(f"IPv6 in the tunnel needs {IPV6_LEAST}: have the way to the peer made wider")
    if fits:
        fix.append(f"in the configuration file, [Interface]: MTU = {fits}")
    return fix + _clamp(facts)


def _clamp(facts: Facts) -> list[str]:
    if not facts.forwards:
        return []
    match = f'oifname "{facts.device.ifname}" tcp flags syn'
    return [
        "this host forwards: have TCP of others fit too",
        "nft add table inet mss",
        "nft 'add chain inet mss forward { type filter hook forward priority mangle; }'",
        f"nft 'add rule inet mss forward {match} tcp option maxseg size set rt mtu'",
    ]


def _label(facts: Facts) -> str:
    return peer_label(facts.device, facts.peer.public_key)


def _evidence(facts: Facts) -> Iterator[str]:
    """What is known of the way, for any finding about datagrams."""
    path, who = facts.path
    if path:
        yield f"path MTU {path}, says {who}"
    told = facts.count(MtuCode.TOO_BIG_RECEIVED)
    if told:
        last = facts.seen.get((MtuCode.TOO_BIG_RECEIVED, True))
        origin = f" from {last.last.origin}" if last and last.last.origin else ""
        yield f"{count_of(told, 'ICMP message')}{origin} that datagrams are too big"
    fragmented = facts.count(MtuCode.OUTER_FRAGMENTED)
    if fragmented:
        yield f"{count_of(fragmented, 'datagram')} fragmented by this host"
    if facts.sizes:
        if facts.sizes.passed:
            yield f"packets of {facts.sizes.passed} bytes were answered"
        if facts.sizes.received:
            yield f"packets of up to {facts.sizes.received} bytes came in"


def _black_hole_out(facts: Facts) -> Finding | None:
    """Datagrams to the peer die for their size."""
    label, device = _label(facts), facts.device
    lost, fragments = facts.count(MtuCode.DATAGRAM_LOST), facts.count(MtuCode.FRAGMENT_LOST)
    unheard = facts.seen.get((MtuCode.TOO_BIG_LOST, True))
    sizes = facts.sizes
    if lost:
        seen = facts.seen[MtuCode.DATAGRAM_LOST, True]
        cause = (
            f"datagrams to {label} of {seen.sizes} leave by {seen.last.ifname} and are too big for the "
            "device at its other end, which drops them and tells nobody"
        )
        fits = _that_passes(facts, seen.smallest - facts.overhead - 1)
        evidence = (f"{count_of(lost, 'datagram')} died in {listing(list(seen.wheres))}", *_evidence(facts))
        fix = _fixes(facts, fits)
        least = facts.other_end_mtu
        fix.append(
            f"ip link set dev {seen.last.ifname} mtu {least}"
            if least
            else f"or give both ends of {seen.last.ifname}'s link the same MTU"
        )
        return _finding(
            facts,
            "mtu-black-hole",
            Severity.ERROR,
            Confidence.CERTAIN,
            lost,
            cause,
            iter(evidence),
            fix,
        )
    if fragments:
        seen = facts.seen[MtuCode.FRAGMENT_LOST, True]
        cause = (
            f"{device.ifname}'s MTU is {device.mtu}, too much for the way to {label}: its datagrams are "
            f"fragmented, and this host drops the fragments in {listing(list(seen.wheres))}"
        )
        return _finding(
            facts,
            "mtu-black-hole",
            Severity.ERROR,
            Confidence.CERTAIN,
            fragments,
            cause,
            _evidence(facts),
            _fixes(facts, facts.fits),
        )
    if unheard and not unheard.last.is_inner:
        count = facts.count(MtuCode.TOO_BIG_LOST)
        cause = (
            f"{unheard.last.origin} says that datagrams to {label} may be {unheard.mtu} bytes at most, and "
            f"this host drops what it says in {listing(list(unheard.wheres))}"
        )
        fix = [f"let ICMP in: icmp frag-needed and icmpv6 packet-too-big from {unheard.last.origin}"]
        fix += _fixes(facts, facts.fits)
        return _finding(
            facts,
            "mtu-black-hole",
            Severity.ERROR,
            Confidence.CERTAIN,
            count,
            cause,
            _evidence(facts),
            fix,
        )
    if not sizes or not is_black_hole(facts):
        return None
    passed = f"packets of {sizes.passed} bytes pass" if sizes.passed else "handshakes pass"
    cause = (
        f"to {label} {passed}, those of {sizes.failed} bytes and more get no answer: something on the way "
        "drops what is too big, and nobody says so"
    )
    fits = _that_passes(facts, sizes.failed - 1)
    fix = _fixes(facts, fits)
    fix.append(f"then try larger ones: the right one is below {sizes.failed}")
    return _finding(
        facts,
        "mtu-black-hole",
        Severity.ERROR,
        Confidence.LIKELY,
        sizes.failures,
        cause,
        _evidence(facts),
        fix,
        ("where they die: run wgtrace mtu at the other end, and on routers between",),
    )


def _that_passes(facts: Facts, below: int) -> int:
    """An MTU that fits as far as can be told: what was answered, or what IPv6 asks of every link."""
    path, _who = facts.path
    known = path - facts.overhead if path else facts.device.mtu
    if known <= below:
        return known
    has_ipv6 = any(net.version == 6 for net in facts.peer.allowed_ips)
    passed = facts.sizes.passed if facts.sizes else 0
    least = max(passed, IPV6_LEAST if has_ipv6 else IPV6_LEAST - facts.overhead)
    return least if least <= below else passed or below


def _black_hole_in(facts: Facts) -> Finding | None:
    """Fragments of the peer's datagrams do not all arrive."""
    count = facts.count(MtuCode.FRAGMENT_LOST, False)
    if not count:
        return None
    seen, label = facts.seen[MtuCode.FRAGMENT_LOST, False], _label(facts)
    wheres = sorted(seen.wheres, key=lambda where: -seen.wheres[where])
    expired = seen.ids.get("outer_reasm_timeout", 0)
    dropped = sum(seen.ids.values()) - expired
    if dropped:
        cause = (
            f"datagrams of {label} come in fragments, and this host drops fragments in {listing(wheres, 2)}"
        )
        confidence = Confidence.CERTAIN
    else:
        cause = (
            f"datagrams of {label} come in fragments, and not all of the fragments arrive: something on "
            "the way drops them"
        )
        confidence = Confidence.LIKELY
    path, who = facts.path
    fits = path - facts.overhead if path else IPV6_LEAST
    fits = min(fits, seen.largest - facts.overhead) if seen.largest > facts.overhead + 576 else fits
    evidence = [f"{count_of(sum(seen.ids.values()), 'fragment')}: {_kinds(seen)}", f"of {seen.sizes}"]
    if path:
        evidence.append(f"path MTU back to it {path}, says {who}")
    fix = [f"on {label}'s host: ip link set dev <its interface> mtu {fits // 8 * 8}"]
    if dropped:
        fix.append("or let fragments through: they have no ports that a rule could know them by")
    return _finding(
        facts,
        "mtu-black-hole",
        Severity.ERROR,
        confidence,
        count,
        cause,
        iter(evidence),
        fix + _clamp(facts),
    )


def _kinds(seen: Seen) -> str:
    return listing([f"{count} {name}" for name, count in seen.ids.items()])


def _is_by_padding(facts: Facts) -> bool:
    """Whether all that was fragmented is larger than any packet of the interface's own MTU makes."""
    fragmented = facts.seen.get((MtuCode.OUTER_FRAGMENTED, True))
    if not fragmented or not facts.count(MtuCode.PADDING_BEYOND_MTU):
        return False
    return fragmented.smallest > facts.device.mtu + facts.overhead


def _padding(facts: Facts) -> Finding | None:
    """A route MTU above that of the interface lets the padding grow over it."""
    count = facts.count(MtuCode.PADDING_BEYOND_MTU)
    seen = facts.seen.get((MtuCode.PADDING_BEYOND_MTU, True))
    if not count or not seen:
        return None
    flow, device = seen.last.inner, facts.device
    daddr = str(flow.daddr) if flow else "its addresses"
    fragmented = facts.count(MtuCode.OUTER_FRAGMENTED)
    becomes = f": {count_of(fragmented, 'datagram')} had to be fragmented" if fragmented else ""
    cause = (
        f"a route by {device.ifname}, such as that to {daddr}, has MTU {seen.mtu}, more than the interface's "
        f"{device.mtu}: packets are padded beyond it{becomes}"
    )
    evidence = [f"packets of {seen.sizes} were padded to more than {device.mtu}", *_evidence(facts)]
    fix = [
        f"ip route get {daddr}",
        f"ip route change <that route> dev {device.ifname} mtu {device.mtu}",
    ]
    severity = Severity.WARNING if fragmented else Severity.INFO
    return _finding(
        facts, "padding-exceeds-mtu", severity, Confidence.CERTAIN, count, cause, iter(evidence), fix
    )


def _fragmented(facts: Facts) -> Finding | None:
    """Datagrams are too big for their way, and arrive all the same."""
    count = facts.count(MtuCode.OUTER_FRAGMENTED)
    seen = facts.seen.get((MtuCode.OUTER_FRAGMENTED, True))
    if not count or not seen:
        return None
    device, last = facts.device, seen.last
    who = {
        MtuOf.DEVICE: f"that is the MTU of {last.ifname}",
        MtuOf.ROUTE: "that is the MTU of the route",
        MtuOf.ICMP: "that is what a router told",
    }.get(last.mtu_of, "")
    cause = (
        f"{device.ifname}'s MTU is {device.mtu}: datagrams to {_label(facts)} of {seen.sizes} do not fit "
        f"into {seen.mtu} bytes ({who}), and are sent in fragments"
    )
    return _finding(
        facts,
        "outer-fragmented",
        Severity.WARNING,
        Confidence.CERTAIN,
        count,
        cause,
        _evidence(facts),
        _fixes(facts, facts.fits),
    )


def _inner(facts: Facts) -> Finding | None:
    """Packets that may not be fragmented are too big for the tunnel."""
    sent, refused = facts.count(MtuCode.TOO_BIG_SENT), facts.count(MtuCode.SENDER_REFUSED)
    lost = facts.count(MtuCode.TOO_BIG_LOST)
    told = facts.seen.get((MtuCode.TOO_BIG_SENT, True))
    local = facts.seen.get((MtuCode.SENDER_REFUSED, True))
    unheard = facts.seen.get((MtuCode.TOO_BIG_LOST, True))
    is_lost = bool(lost and unheard and unheard.last.is_inner)
    device = facts.device
    if not told and not local:
        return None
    evidence = []
    if told:
        evidence.append(f"{count_of(sent, 'ICMP message')} to {_senders(told)}")
    if local:
        evidence.append(f"programs of this host got EMSGSIZE {count_of(refused, 'time')}")
    mtu = min(seen.mtu for seen in (told, local) if seen)
    what = f"packets for {_label(facts)} that may not be fragmented are larger than {mtu} bytes"
    flow = next(seen.last.inner for seen in (told, local) if seen)
    fix = _clamp(facts) if told else []
    if is_lost and unheard:
        cause = (
            f"{what}; this host tells their senders, and then drops that very message in "
            f"{listing(list(unheard.wheres))}: they go on, and get nothing through"
        )
        severity, confidence = Severity.ERROR, Confidence.CERTAIN
        evidence.append(f"{count_of(lost, 'ICMP message')} dropped here")
        fix = [f"let out ICMP {_message(unheard.last.inner or flow)}", *fix]
    elif told and told.is_going_on:
        cause = f"{what}; their senders are told, and go on: what this host tells them does not arrive"
        severity, confidence = Severity.WARNING, Confidence.LIKELY
        fix = [f"let ICMP {_message(flow)} through on the way back to {_senders(told)}", *fix]
    else:
        cause = f"{what}; their senders are told so, and have to send smaller ones"
        severity, confidence = Severity.INFO, Confidence.CERTAIN
    path, _who = facts.path
    if path and path - facts.overhead > device.mtu and severity is not Severity.INFO:
        fix.append(f"ip link set dev {device.ifname} mtu {path - facts.overhead}")
    return _finding(facts, "inner-too-big", severity, confidence, sent + refused, cause, iter(evidence), fix)


def _message(flow: Flow | None) -> str:
    if flow is not None and flow.family == 6:
        return "packet-too-big (ICMPv6 type 2)"
    return "frag-needed (type 3, code 4)"


def _senders(seen: Seen) -> str:
    return listing(sorted({str(key[0]) for key in seen.flows}), 3) or "their senders"
