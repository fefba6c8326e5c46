# SPDX-License-Identifier: GPL-2.0-only
"""A run of `wgtrace mtu`: what does not fit as it happens, and what would fit in the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Final, Protocol

from wgtrace.diagnosis.finding import Finding
from wgtrace.diagnosis.mtu import Facts, Seen, findings
from wgtrace.diagnosis.words import count_of
from wgtrace.errors import UndecodableRecordError, UnsupportedError
from wgtrace.events.decode import Decoder
from wgtrace.events.mtu import MtuEvent, MtuTotal, Sizes, endpoint_entry, mtu_total, sizes
from wgtrace.events.types import Counters, DeviceRef, PeerRef
from wgtrace.events.wire import FORWARD_ENDS, Loss, MtuCode, MtuConfigWire
from wgtrace.pipeline import POLL_S, HostFacts, Limits, Signals
from wgtrace.probes.kernel import TextRange
from wgtrace.probes.types import ProbeStatus
from wgtrace.report import MtuReport, MtuRow, MtuSink, RunStart, SeenMtu
from wgtrace.source import Host
from wgtrace.state.types import Device, Peer, Way

FORWARD: Final = ("__dev_forward_skb", "__dev_forward_skb2", "dev_forward_skb", "is_skb_forwardable")
"""Functions that hand a packet to another device, and drop it if it is too big for that."""
_FIRST: Final = bytes(4)  # key of an array's first entry
_LOOK_S: Final = 5.0  # how often the configuration is looked at
_FORWARDING: Final = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")

_Device = tuple[str, int]


class MtuSource(Protocol):
    """What the programs in the kernel tell; `loader.tracer.Tracer` is the live one."""

    @property
    def probes(self) -> tuple[ProbeStatus, ...]:
        """What became of each row of the catalogue."""

    @property
    def kernel_reasons(self) -> dict[int, str]:
        """`enum skb_drop_reason` of the kernel, without its prefix."""

    def describe(self, address: int) -> str:
        """`ip_expire+0x83` for an address in the kernel."""

    def records(self, timeout_s: float) -> list[bytes]:
        """Records since the last call; waits so long for the first, or until a signal."""

    def totals(self) -> list[tuple[bytes, int]]:
        """(key, events) of the map `totals`."""

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """(key, value) of a map."""

    def write(self, name: str, key: bytes, value: bytes | None) -> None:
        """Write an entry of a map; without a value, remove it."""

    def counters(self) -> Counters:
        """Losses."""


@dataclass(slots=True)
class _Of:
    """What was seen of a peer."""

    seen: dict[tuple[MtuCode, bool], Seen] = field(default_factory=dict)
    refused: int = 0


class MtuRun:
    """One run of `wgtrace mtu`.

    Args:
        source: Attached.
        host: Where it runs.
        peers: Public keys of those that are asked for; none: all.
        forward: Where the functions of `FORWARD` are.
        other_end_mtu: The MTU at the other end of a link, by namespace and name of this one.
    """

    def __init__(
        self,
        source: MtuSource,
        host: Host,
        sinks: Sequence[MtuSink],
        facts: HostFacts,
        peers: Collection[str] = (),
        forward: Iterable[TextRange] = (),
        other_end_mtu: Callable[[int, str], int] = lambda _netns, _ifname: 0,
    ) -> None:
        self._source, self._host, self._sinks = source, host, sinks
        self._facts, self._wanted = facts, frozenset(peers)
        self._ask_other_end = other_end_mtu
        self._decoder = Decoder(source.describe, source.kernel_reasons)
        self._of: dict[tuple[_Device, str | None], _Of] = {}
        self._ways: dict[tuple[int, int, object, int], Way | None] = {}
        self._entries: dict[bytes, bytes] = {}
        self._shown = self._undecodable = 0
        self._blind: tuple[str, ...] = ()
        self._tell_forward(forward)
        self._snapshot = host.snapshot()
        self._follow_endpoints()
        self._started = self._looked = host.elapsed_s()

    def start(self) -> None:
        """Tell the sinks that all probes are attached."""
        build, snapshot = self._host.build, self._snapshot
        start = RunStart(
            self._host.unix_ns(),
            build.version,
            build.kernel,
            build.bcc,
            snapshot.devices,
            self._source.probes,
            {space.inode: space.name for space in snapshot.namespaces if space.name},
        )
        for sink in self._sinks:
            sink.start(start)

    def run(self, limits: Limits, signals: Signals) -> tuple[Finding, ...]:
        """Show events until the time is over or a signal ends it; report in the end.

        Raises:
            UnsupportedError: Nothing can be seen any more; the report was written.
        """
        signals.is_running = True
        end = self._started + limits.duration_s if limits.duration_s is not None else None
        try:
            while not signals.stop:
                now = self._host.elapsed_s()
                if end is not None and now >= end:
                    break
                if now - self._looked >= _LOOK_S:
                    self._look()
                self._take(self._source.records(min(POLL_S, max(0, end - now)) if end else POLL_S))
                if signals.interim:
                    signals.interim = False
                    self._take(self._source.records(0))
                    self._report(is_interim=True)
                if limits.count is not None and self._shown >= limits.count:
                    break
            self._take(self._source.records(0))
        except UnsupportedError as exc:
            self._blind = (exc.what,)
            self._report()
            raise
        return self._report()

    # -- what the programs are told ------------------------------------------------

    def _tell_forward(self, ranges: Iterable[TextRange]) -> None:
        wire = MtuConfigWire()
        for at, place in enumerate(list(ranges)[: FORWARD_ENDS // 2]):
            wire.forward[2 * at], wire.forward[2 * at + 1] = place.start, place.end
        self._source.write("mtu_config", _FIRST, bytes(wire))

    def _look(self) -> None:
        """See how the host is configured now."""
        self._looked = self._host.elapsed_s()
        self._snapshot = self._host.snapshot()
        self._follow_endpoints()

    def _follow_endpoints(self) -> None:
        """Tell the programs whose address is whose: a fragment has nothing else to know it by."""
        entries: dict[bytes, bytes] = {}
        for device in self._snapshot.devices:
            ref = DeviceRef(device.ifname, device.netns, device.ifindex)
            for peer in device.peers:
                if peer.endpoint is None or not self._is_wanted(peer.public_key):
                    continue
                way = self._way(device, peer)
                netns = way.netns if way and way.netns else device.netns
                key, value = endpoint_entry(netns, ref, peer.public_key, peer.endpoint)
                entries.setdefault(key, value)
        for key in self._entries.keys() - entries.keys():
            self._source.write("endpoints", key, None)
        for key, value in entries.items():
            if self._entries.get(key) != value:
                self._source.write("endpoints", key, value)
        self._entries = entries

    def _way(self, device: Device, peer: Peer, *, anew: bool = False) -> Way | None:
        if peer.endpoint is None:
            return None
        key = device.netns, device.ifindex, peer.endpoint.addr, device.fwmark
        way = self._ways.get(key)
        if key not in self._ways:
            way = self._facts.way(device, peer.endpoint.addr, self._snapshot.namespaces)
        elif anew and way is not None:
            way = self._facts.way_again(way, self._snapshot.namespaces)
        self._ways[key] = way
        return way

    def _is_wanted(self, public_key: str | None) -> bool:
        return not self._wanted or public_key in self._wanted

    # -- events ----------------------------------------------------------------------

    def _take(self, records: Iterable[bytes]) -> None:
        for record in records:
            try:
                event = self._decoder.mtu_event(record)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if event.code is MtuCode.SENDER_REFUSED:
                whose = self._tunnel_of(event)
                if whose is None:
                    continue
                event = whose
            self._show(event)

    def _tunnel_of(self, event: MtuEvent) -> MtuEvent | None:
        """Whose packet a program of this host was refused, None: none of a tunnel's."""
        if event.inner is None:
            return None
        for device in self._snapshot.devices:
            peer = device.owner_of(event.inner.daddr) if device.netns == event.netns else None
            if peer is None or event.mtu > device.mtu or not self._is_wanted(peer.public_key):
                continue
            ref = DeviceRef(device.ifname, device.netns, device.ifindex)
            return replace(
                event, device=ref, ifname=device.ifname, peer=PeerRef(peer.public_key, peer.endpoint)
            )
        return None

    def _show(self, event: MtuEvent) -> None:
        key = event.peer.public_key if event.peer else None
        of = self._of.setdefault(((event.device.ifname, event.device.netns), key), _Of())
        of.seen.setdefault((event.code, event.outgoing), Seen(event)).add(event)
        of.refused += event.code is MtuCode.SENDER_REFUSED
        self._shown += 1
        device = self._snapshot.device(event.device.ifname, event.device.netns)
        if device is None:
            self._look()
            device = self._snapshot.device(event.device.ifname, event.device.netns)
        peer = device.peer(key) if device and key else None
        if event.peer and peer and peer.name:
            event = replace(event, peer=replace(event.peer, name=peer.name))
        seen = SeenMtu(event, event.ts_ns + self._host.clock_offset_ns, what(event))
        for sink in self._sinks:
            sink.event(seen)

    # -- the report ------------------------------------------------------------------

    def _report(self, *, is_interim: bool = False) -> tuple[Finding, ...]:
        self._look()
        totals = tuple(self._totals())
        every = list(self._every(totals))
        found = tuple(finding for facts in every for finding in findings(facts))
        counters = self._source.counters()
        report = MtuReport(
            self._host.unix_ns(),
            self._host.elapsed_s() - self._started,
            tuple(_row(facts) for facts in every),
            totals,
            found,
            counters.losses[Loss.LOST_EVENTS],
            self._incomplete_because(counters, totals),
            is_interim,
        )
        for sink in self._sinks:
            sink.report(report)
        return found

    def _totals(self) -> Iterator[MtuTotal]:
        for key, count in self._source.totals():
            try:
                total = mtu_total(key, count)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if self._is_wanted(total.public_key):
                yield total
        for ((ifname, netns), public_key), of in self._of.items():
            if of.refused:
                yield MtuTotal(ifname, netns, MtuCode.SENDER_REFUSED, True, public_key, of.refused)

    def _every(self, totals: Iterable[MtuTotal]) -> Iterator[Facts]:
        by_key = self._sizes()
        counts: dict[tuple[_Device, str | None], dict[tuple[MtuCode, bool], int]] = {}
        for total in totals:
            of = counts.setdefault(((total.ifname, total.netns), total.public_key), {})
            kind = total.code, total.outgoing
            of[kind] = of.get(kind, 0) + total.count
        for device in self._snapshot.devices:
            forwards = self._forwards(device)
            for peer in device.peers:
                if not self._is_wanted(peer.public_key):
                    continue
                key = (device.ifname, device.netns), peer.public_key
                seen = self._of[key].seen if key in self._of else {}
                yield Facts(
                    device,
                    peer,
                    self._way(device, peer, anew=True),
                    by_key.get((device.netns, device.ifindex, peer.public_key)),
                    counts.get(key, {}),
                    seen,
                    forwards,
                    self._host.clock_offset_ns,
                    self._other_end_mtu(seen.get((MtuCode.DATAGRAM_LOST, True))),
                )

    def _other_end_mtu(self, lost: Seen | None) -> int:
        return self._ask_other_end(lost.last.netns, lost.last.ifname) if lost else 0

    def _sizes(self) -> dict[tuple[int, int, str], Sizes]:
        found = {}
        for _key, value in self._source.entries("sizes"):
            try:
                of = sizes(value)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if of:
                found[of.device.netns, of.device.ifindex, of.public_key] = of
        return found

    def _forwards(self, device: Device) -> bool:
        space = next((n for n in self._snapshot.namespaces if n.inode == device.netns), None)
        return space is not None and "1" in self._facts.sysctls(space, _FORWARDING).values()

    def _incomplete_because(self, counters: Counters, totals: Sequence[MtuTotal]) -> tuple[str, ...]:
        uncounted = counters.losses[Loss.LOST_TOTALS]
        hidden = max(sum(total.count for total in totals) - self._shown, 0)
        lost = counters.losses[Loss.LOST_EVENTS]
        unseen = (
            (lost, f"{count_of(lost, 'event')} not shown: the ring buffer was full"),
            (uncounted, f"{count_of(uncounted, 'event')} not counted: no room"),
            (hidden, f"{count_of(hidden, 'event')} only counted: too many a second"),
            (counters.missed, f"the kernel skipped {count_of(counters.missed, 'run')} of a probe"),
            (self._undecodable, f"{count_of(self._undecodable, 'record')} could not be read"),
        )
        said = [text for count, text in unseen if count]
        said += [
            f"no probe on {status.target}: {status.because}; not visible: {status.without_it}"
            for status in self._source.probes
            if status.mechanism is None
        ]
        return (*said, *self._blind, *self._snapshot.unreadable)


def _row(facts: Facts) -> MtuRow:
    path, path_of = facts.path
    way, known = facts.way, facts.sizes
    return MtuRow(
        facts.device.ifname,
        facts.device.netns,
        PeerRef(facts.peer.public_key, facts.peer.endpoint, facts.peer.name),
        facts.device.mtu,
        way.oif if way else "",
        way.link_mtu if way else 0,
        way.mtu if way else 0,
        path,
        path_of,
        facts.overhead,
        known.passed if known else 0,
        known.failed if known and known.failed > known.passed else 0,
        known.received if known else 0,
        known.sent if known else 0,
        facts.fits,
    )


_WHAT: Final = {
    MtuCode.OUTER_FRAGMENTED: "datagram of {size} fragmented: MTU {mtu_of}",
    MtuCode.INNER_FRAGMENTED: "packet of {size} fragmented before it is encrypted: MTU {mtu_of}",
    MtuCode.TOO_BIG_RECEIVED: "{origin} says: a datagram of {size} does not fit into {mtu}",
    MtuCode.TOO_BIG_SENT: "packet of {size} does not fit into {mtu_of}: its sender is told by ICMP",
    MtuCode.TOO_BIG_LOST: "ICMP message that {size} do not fit into {mtu} dropped in {at}",
    MtuCode.PATH_MTU_CHANGED: "path MTU {way} is {mtu} now",
    MtuCode.SENDER_REFUSED: "packet of a program here does not fit into {mtu}: EMSGSIZE",
    MtuCode.FRAGMENT_LOST: "fragment of {size} {fate}",
    MtuCode.DATAGRAM_LOST: "datagram of {size} too big for the other end of {ifname}: dropped in {at}",
    MtuCode.PADDING_BEYOND_MTU: "packet of {size} padded beyond the MTU: the route's is {mtu}",
}


def _mtu_of(event: MtuEvent) -> str:
    who = ("", f"{event.ifname}'s", "the route's", "a router told")[event.mtu_of]
    return f"{event.mtu}" + (f" ({who})" if who else "")


def _in(event: MtuEvent) -> str:
    return f"{event.where.split('+')[0]}()" + (f" at {event.ifname}" if event.ifname else "")


def what(event: MtuEvent) -> str:
    """One short sentence for this very event, no full stop."""
    text = _WHAT[event.code].format(
        size=event.size,
        mtu=event.mtu,
        mtu_of=_mtu_of(event),
        origin=event.origin,
        ifname=event.ifname,
        at=_in(event),
        fate="waited in vain for the others" if event.is_expired else f"dropped in {_in(event)}",
        way="through the tunnel" if event.is_inner else "to the peer",
    )
    flow = event.inner
    if flow is None or event.code not in (MtuCode.TOO_BIG_SENT, MtuCode.TOO_BIG_LOST, MtuCode.SENDER_REFUSED):
        return text
    nobody = ip_address("0.0.0.0" if flow.family == 4 else "::")
    source = f"{flow.saddr} > " if flow.saddr != nobody else "to "
    return f"{text} ({source}{flow.daddr})"
