# SPDX-License-Identifier: GPL-2.0-only
"""Makes events, devices and runs for tests; each argument not given has a plain value."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from rich.console import Console

from wgtrace.diagnosis.evidence import Evidence
from wgtrace.diagnosis.explain import explain
from wgtrace.diagnosis.finding import Finding
from wgtrace.diagnosis.firewall import Blocked
from wgtrace.enrich import enrich
from wgtrace.events.reasons import Direction, HandshakeCode, KernelReason, Reason, SubReason
from wgtrace.events.types import (
    DeviceRef,
    DropEvent,
    DropTotal,
    Endpoint,
    Flow,
    HandshakeEvent,
    HandshakeTotal,
    Losses,
    PathEvent,
    PathTotal,
    PeerRef,
)
from wgtrace.probes.types import Mechanism, ProbeStatus
from wgtrace.report import CounterLine, RunStart, SeenDrop, SeenPath, Summary
from wgtrace.state.types import Claim, Device, Load, Namespace, Peer, Snapshot, Way

NETNS = 4026531840
# 2026-11-22 12:04:11.203000417 UTC
NOW = 1_795_349_051_203_000_417
BOOT_NS = 1_000_000_000_000
OFFSET_NS = NOW - BOOT_NS


def key(number: int) -> str:
    """A base64 public key that is another for each number."""
    return base64.b64encode(bytes([number]) * 32).decode()


OURS, BERLIN, PARIS, OSLO, STRANGER = (key(n) for n in (1, 2, 3, 4, 9))


def endpoint(text: str) -> Endpoint:
    """`203.0.113.9:51820` or `[fd00::1]:51820`."""
    addr, port = text.rsplit(":", 1)
    return Endpoint(ip_address(addr.strip("[]")), int(port))


def peer(public_key: str, name: str | None = None, *nets: str, at: str | None = None, **more: Any) -> Peer:
    """A configured peer."""
    return Peer(
        public_key,
        endpoint=endpoint(at) if at else None,
        allowed_ips=tuple(ip_network(net) for net in nets),
        name=name,
        **more,
    )


PEERS = (
    peer(BERLIN, "berlin", "10.9.0.2/32", at="203.0.113.9:51820"),
    peer(PARIS, "paris", "10.9.0.3/32", "10.9.4.0/24", at="[2001:db8::3]:4500"),
    peer(OSLO, None, "10.9.0.4/32"),
)


def device(ifname: str = "wg0", netns: int = NETNS, **more: Any) -> Device:
    """A WireGuard interface with berlin, paris and a peer without name or endpoint."""
    given = {"public_key": OURS, "listen_port": 51820, "is_up": True, "mtu": 1420, "peers": PEERS, **more}
    return Device(ifname, 7, netns, **given)


def snapshot(*devices: Device, netns_name: str | None = None, path: str = "/proc/self/ns/net") -> Snapshot:
    """What was configured: without arguments wg0."""
    spaces = (Namespace(NETNS, f"/run/netns/{netns_name}" if netns_name else path, netns_name),)
    return Snapshot(BOOT_NS, devices or (device(),), spaces)


def flow(saddr: str, daddr: str, proto: int = 6, sport: int = 0, dport: int = 0, length: int = 84) -> Flow:
    """One IP packet's addresses."""
    return Flow(ip_address(saddr), ip_address(daddr), proto, sport, dport, length)


def outer(saddr: str = "203.0.113.9", sport: int = 51820, length: int = 148) -> Flow:
    """An outer packet to this host."""
    here = "2001:db8::1" if ":" in saddr else "198.51.100.1"
    return flow(saddr, here, 17, sport, 51820, length)


def drop(reason: Reason, public_key: str | None = None, ifname: str = "wg0", **more: Any) -> DropEvent:
    """A dropped packet."""
    peer_ref = next((PeerRef(p.public_key, p.endpoint) for p in PEERS if p.public_key == public_key), None)
    if public_key and peer_ref is None:
        peer_ref = PeerRef(public_key)
    ts_ns = more.pop("ts_ns", BOOT_NS)
    return DropEvent(ts_ns, DeviceRef(ifname, NETNS, 7), reason, peer=peer_ref, **more)


def path_drop(
    reason: str, public_key: str | None = None, is_out: bool = False, is_inner: bool = True, **more: Any
) -> PathEvent:
    """A packet dropped outside of WireGuard, on wg0."""
    peer_ref = PeerRef(public_key) if public_key else None
    way = Direction.TX if is_out else Direction.RX
    values = {"ifname": "wg0", "netns": NETNS, **more}
    return PathEvent(
        BOOT_NS, DeviceRef("wg0", NETNS, 7), KernelReason(reason, way), is_inner, peer_ref, **values
    )


def seen(event: DropEvent, state: Snapshot | None = None) -> SeenDrop:
    """The drop joined with the configuration."""
    return enrich(event, state or snapshot(), OFFSET_NS)


@dataclass
class Scene:
    """What a run saw; `findings` is what the rules say to it."""

    state: Snapshot = field(default_factory=snapshot)
    probes: tuple[ProbeStatus, ...] = ()
    drops: list[tuple[DropEvent, int]] = field(default_factory=list)
    paths: list[SeenPath] = field(default_factory=list)
    totals: list[DropTotal | PathTotal] = field(default_factory=list)
    steps: list[HandshakeTotal] = field(default_factory=list)
    handshakes: list[HandshakeEvent] = field(default_factory=list)
    counters: tuple[CounterLine, ...] = ()
    ways: list[tuple[str, Way | None]] = field(default_factory=list)
    earlier: list[tuple[Snapshot, tuple[str, ...]]] = field(default_factory=list)
    claims: tuple[Claim, ...] = ()
    load: tuple[Load, Load] = field(default_factory=lambda: (Load(), Load()))

    def dropped(self, event: DropEvent, count: int = 23, shown: int | None = None) -> Scene:
        """`count` such packets in the totals; all or `shown` of them in the stream."""
        self.drops.append((event, count if shown is None else shown))
        where = event.device
        public_key = event.peer.public_key if event.peer else None
        total = DropTotal(where.ifname, where.netns, event.reason, event.sub_reason, public_key, count)
        self.totals.append(total)
        return self

    def died(
        self,
        event: PathEvent,
        blocked: Blocked | None = None,
        count: int = 23,
        shown: int | None = None,
        sysctls: dict[str, str] | None = None,
    ) -> Scene:
        """`count` such packets, dropped outside of WireGuard; all or `shown` of them in the stream."""
        many = count if shown is None else shown
        self.paths += [SeenPath(event, 0, "", None, blocked, sysctls or {})] * many
        kind = event.reason, event.is_inner, event.hook, event.found
        family = event.flow.family if event.flow else 0
        key = event.peer.public_key if event.peer else None
        self.totals.append(PathTotal("wg0", NETNS, *kind, family, key, count))
        return self

    def stepped(
        self,
        code: HandshakeCode,
        public_key: str,
        count: int = 1,
        sub: SubReason = SubReason.NONE,
        ifname: str = "wg0",
    ) -> Scene:
        """`count` such steps of a handshake, in the totals and in the stream, 5 s apart."""
        self.steps.append(HandshakeTotal(ifname, NETNS, code, public_key, count, sub))
        where = DeviceRef(ifname, NETNS, 7)
        for _ in range(count):
            ts_ns = BOOT_NS + len(self.handshakes) * 5_000_000_000
            self.handshakes.append(HandshakeEvent(ts_ns, where, code, PeerRef(public_key), sub_reason=sub))
        return self

    def asked(self, public_key: str, way: Way | None) -> Scene:
        """The kernel was asked for the way to a peer of wg0, and said this."""
        self.ways.append((public_key, way))
        return self

    def after(self, earlier: Snapshot, *by: str) -> Scene:
        """The configuration was this before, and was changed by these processes."""
        self.earlier.append((earlier, by))
        return self

    @property
    def evidence(self) -> Evidence:
        """All of it, fed to the collector."""
        evidence = Evidence(self.probes, OFFSET_NS)
        by: tuple[str, ...] = ()
        for state, next_by in self.earlier:
            evidence.set_snapshot(state, by)
            by = next_by
        evidence.set_snapshot(self.state, by)
        for public_key, way in self.ways:
            evidence.set_way(device(), public_key, way)
        for event, count in self.drops:
            for _ in range(count):
                evidence.feed(seen(event, self.state))
        for lost in self.paths:
            evidence.feed(lost)
        for handshake in self.handshakes:
            evidence.feed(handshake)
        evidence.set_totals(self.totals, self.steps)
        evidence.set_counters(self.counters)
        evidence.set_claims(self.claims)
        evidence.set_load(*self.load)
        return evidence

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the rules say."""
        return explain(self.evidence)

    @property
    def slugs(self) -> list[str]:
        """The findings' slugs, in their order."""
        return [finding.slug for finding in self.findings]

    def only(self) -> Finding:
        """The one finding there is."""
        (finding,) = self.findings
        return finding


def nobody(saddr: str = "10.9.7.7", public_key: str = BERLIN) -> DropEvent:
    """src_not_allowed from an address that is in no peer's AllowedIPs."""
    return drop(
        Reason.SRC_NOT_ALLOWED,
        public_key,
        sub_reason=SubReason.OWNED_BY_NOBODY,
        inner=flow(saddr, "fd00::1" if ":" in saddr else "10.9.0.1", 6, 52114, 443),
        outer=outer(),
        where="wg_packet_rx_poll+0x1c4",
    )


def missing_probe(*gives: str) -> ProbeStatus:
    """A probe that could not be attached."""
    return ProbeStatus(
        "a-probe",
        "wg_function",
        None,
        "no such function in this kernel",
        "a thing that happens",
        gives,
        "the thing that happens",
        "load the module: modprobe wireguard",
    )


def attached_probe(number: int, mechanism: Mechanism = Mechanism.FEXIT) -> ProbeStatus:
    """A probe that is attached."""
    return ProbeStatus(f"probe-{number}", "wg_xmit", mechanism, "in BTF", "a packet was sent", (), "-")


def run_start(probes: tuple[ProbeStatus, ...] | None = None, *devices: Device) -> RunStart:
    """The start of a run."""
    if probes is None:
        kinds = [Mechanism.FENTRY, Mechanism.FEXIT, Mechanism.KPROBE, Mechanism.RAW_TRACEPOINT]
        probes = tuple(attached_probe(n, kind) for n, kind in enumerate(kinds))
    return RunStart(NOW, "0.1.0", "6.12.117", "0.31.0", devices or (device(),), probes)


def summary(*totals: DropTotal | PathTotal, complete: bool = True, **more: Any) -> Summary:
    """The end of a run of 31 seconds."""
    given: dict[str, Any] = {"losses": Losses(), "reconciliation": (), "findings": (), **more}
    names = {p.public_key: p.name for p in PEERS if p.name}
    return Summary(NOW, 31.0, totals, complete=complete, peer_names=names, **given)


def total(
    reason: Reason, count: int, public_key: str | None = None, sub: SubReason = SubReason.NONE
) -> DropTotal:
    """One exact total of wg0."""
    return DropTotal("wg0", NETNS, reason, sub, public_key, count)


def console(width: int) -> Console:
    """A console of this width that is no terminal."""
    return Console(file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False)


def written(to: Console) -> str:
    """What was written to a console of `console`."""
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()
