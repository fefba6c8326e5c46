# SPDX-License-Identifier: GPL-2.0-only
"""Packets of the tunnel that firewall and routing of this host drop."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.firewall import Blocked
from wgtrace.diagnosis.interface import InterfaceEvidence, PathKind, PathSighting
from wgtrace.diagnosis.outside import CONNTRACK, is_table_full
from wgtrace.diagnosis.rules.build import finding, times
from wgtrace.diagnosis.words import count_of, is_noise, listing, quoted
from wgtrace.events.reasons import Direction
from wgtrace.events.types import PathEvent
from wgtrace.events.wire import Hook
from wgtrace.probes.catalogue import PATH

_IPTABLES: Final = {"filter", "nat", "mangle", "raw", "security"}
_INVALID: Final = re.compile(r"\bct state \S*\binvalid\b(?!,)")
_REVERSE_PATH: Final = re.compile(r"\bfib saddr\b.*\b(oif|type)\b")
_CUTS_OFF: Final = (
    *("outer-blocked-by-firewall", "conntrack-invalid", "conntrack-table-full"),
    *("rp-filter-drop", "checksum-error"),
)
_NOT_NAMED: Final = "the very rule: the kernel names none for this kind of verdict"
_INPUT: Final = (Hook.PREROUTING, Hook.INPUT, Hook.INGRESS)


@dataclass(slots=True)
class Cause:
    """Drops outside of WireGuard that one thing is to blame for.

    Attributes:
        count: Exact, where the kernel's totals tell such drops apart.
        peers: Public keys of those whose packets they were.
    """

    last: PathEvent
    blocked: Blocked | None
    sysctls: dict[str, str]
    count: int = 0
    peers: list[str | None] = field(default_factory=list)

    @property
    def peer(self) -> str | None:
        """The only peer of it."""
        return self.peers[0] if len(set(self.peers)) == 1 else None


_Key = tuple[object, ...]


def outside(evidence: InterfaceEvidence) -> list[Finding]:
    """Every finding about what dies outside of WireGuard."""
    found: list[Finding | None] = []
    for cause in causes(evidence):
        if cause.blocked is not None and is_table_full(cause.sysctls):
            found.append(_table_full(evidence, cause))
        elif cause.blocked is not None:
            found.append(_blocked(evidence, cause, cause.blocked))
        elif rule := _BY_REASON.get(cause.last.reason.id):
            found.append(rule(evidence, cause))
    return [each for each in found if each]


def unreachable_by(evidence: InterfaceEvidence, found: list[Finding]) -> set[str | None]:
    """The peers that are out of reach because this host itself drops the datagrams to or from them."""
    if not any(f.slug in _CUTS_OFF for f in found):
        return set()
    return {
        key
        for cause in causes(evidence)
        for key in cause.peers
        if not cause.last.is_inner and (cause.blocked or cause.last.reason.id in _BY_REASON)
    }


def causes(evidence: InterfaceEvidence) -> list[Cause]:
    """What dropped packets, the noise of hosts among themselves left out; the most first."""
    by_key: dict[_Key, Cause] = {}
    for kind, count, sighting in _counted(evidence):
        event = sighting.last.event
        flow = event.flow
        if flow is None or is_noise(flow.saddr) or is_noise(flow.daddr):
            continue
        key = _key_of(sighting)
        if key not in by_key:
            by_key[key] = Cause(event, sighting.last.blocked, sighting.last.sysctls)
        cause = by_key[key]
        cause.count += count
        if kind[-1] not in cause.peers:
            cause.peers.append(kind[-1])
    return sorted(by_key.values(), key=lambda cause: -cause.count)


def _counted(evidence: InterfaceEvidence) -> Iterator[tuple[PathKind, int, PathSighting]]:
    """Each kind of drop with its number: the exact one, where there is but one thing to blame."""
    totals: dict[PathKind, int] = {}
    for total in evidence.path_totals:
        kind = (total.reason, total.is_inner, total.hook, total.found, total.public_key)
        totals[kind] = totals.get(kind, 0) + total.count
    for kind, alike in evidence.path_sightings.items():
        seen = sum(s.count for s in alike.values())
        missing = max(totals.get(kind, seen) - seen, 0)  # counted, and not shown one by one
        most = max(alike.values(), key=lambda s: s.count)
        for sighting in alike.values():
            yield kind, sighting.count + (missing if sighting is most else 0), sighting


def _key_of(sighting: PathSighting) -> _Key:
    event, blocked = sighting.last.event, sighting.last.blocked
    if blocked is not None and blocked.chain:
        return "rule", event.is_inner, blocked.family, blocked.table, blocked.chain, blocked.handle
    return event.reason, event.is_inner, event.hook, event.ifname, event.flow and event.flow.family


def _packets(event: PathEvent) -> str:
    """`Decrypted packets of the tunnel`."""
    is_out = event.reason.direction is Direction.TX
    if event.is_inner:
        return "Packets for the tunnel" if is_out else "Packets from the tunnel"
    return "WireGuard's own datagrams" if is_out else "Datagrams to WireGuard's port"


def _of(evidence: InterfaceEvidence, cause: Cause) -> str:
    """`of berlin and paris`."""
    names = [evidence.label(key) for key in cause.peers if key]
    way = "to" if cause.last.reason.direction is Direction.TX else "from"
    return f" {way} {listing(names)}" if names else ""


def _such_as(event: PathEvent) -> str:
    flow = event.flow
    assert flow is not None
    name = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}.get(flow.proto, f"protocol {flow.proto}")
    ports = f" port {flow.dport}" if flow.dport else ""
    return f"such as {name} from {flow.saddr} to {flow.daddr}{ports}"


def _blocked(evidence: InterfaceEvidence, cause: Cause, blocked: Blocked) -> Finding | None:
    """A rule or a policy of this host's firewall."""
    event = cause.last
    if blocked.text and _INVALID.search(blocked.text):
        slug, what = "conntrack-invalid", "connection tracking takes them for invalid"
    elif blocked.text and _REVERSE_PATH.search(blocked.text) and event.hook in _INPUT:
        slug, what = "rp-filter-drop", "the way back to their source does not lead where they came from"
    else:
        slug = "inner-blocked-by-firewall" if event.is_inner else "outer-blocked-by-firewall"
        what = ""
    hook = event.hook.name.lower()
    is_only = bool(blocked.chain) and not blocked.is_exact
    confidence = Confidence.CERTAIN if blocked.is_exact else Confidence.LIKELY
    if not blocked.chain:
        confidence = Confidence.POSSIBLE
    return finding(
        evidence,
        slug,
        Severity.ERROR,
        confidence,
        cause.count,
        f"{_packets(event)}{_of(evidence, cause)} are dropped in {hook} by {blocked}."
        + (f" That is because {what}." if what else ""),
        peer=cause.peer,
        seen=[
            f"netfilter dropped {count_of(cause.count, 'packet')} in {hook} ({event.reason.id}), "
            f"{_such_as(event)}",
            *(["no other rule of that hook can have done it"] if is_only else []),
        ],
        fix=_open(evidence, cause, blocked, slug),
        needs=(PATH,),
        not_visible=() if blocked.is_exact else (_NOT_NAMED,),
    )


def _open(evidence: InterfaceEvidence, cause: Cause, blocked: Blocked, slug: str) -> list[str]:
    """How to let these packets pass, and nothing else."""
    event = cause.last
    if blocked.is_wg_quick:
        return [
            "nothing, if somebody tried to reach the tunnel's address by another way than the tunnel:",
            "wg-quick(8) forbids that on purpose",
        ]
    if slug == "rp-filter-drop":
        return [*_route_back(evidence, event), f"or take the rule out: {blocked.where}"]
    if slug == "conntrack-invalid":
        return [
            "look why: both directions have to come through this host, and their entries must not be gone",
            evidence.command("conntrack -L"),
        ]
    if not blocked.chain:
        return [
            "find the rule that does it:",
            evidence.command("nft -a list ruleset"),
            evidence.command("iptables-save -c"),
        ]
    nft, iptables = _match(evidence, event)
    tool = "ip6tables" if blocked.family == "ip6" else "iptables"
    if blocked.family in ("ip", "ip6") and blocked.table in _IPTABLES and not blocked.chain.islower():
        return [
            "let them pass:",
            evidence.command(f"{tool} -t {blocked.table} -I {blocked.chain} {iptables} -j ACCEPT"),
        ]
    place = f"{blocked.family} {quoted(blocked.table)} {quoted(blocked.chain)}"
    if blocked.is_policy:
        return ["let them pass:", evidence.command(f"nft add rule {place} {nft} accept")]
    return [
        "let them pass, by a rule before that one:",
        evidence.command(f"nft insert rule {place} position {blocked.handle} {nft} accept"),
    ]


def _match(evidence: InterfaceEvidence, event: PathEvent) -> tuple[str, str]:
    """What these packets have in common, as nft(8) and as iptables(8) say it."""
    name, is_out = evidence.ifname, event.reason.direction is Direction.TX
    if event.is_inner:
        way, option = ("oifname", "-o") if is_out else ("iifname", "-i")
        return f"{way} {quoted(name)}", f"{option} {quoted(name)}"
    port = evidence.device.listen_port if evidence.device else 0
    number = str(port) if port else "PORT"
    side = "s" if is_out else "d"
    return f"udp {side}port {number}", f"-p udp --{side}port {number}"


def _forwarding(evidence: InterfaceEvidence, cause: Cause) -> Finding | None:
    """The host is to route packets of the tunnel, and does not."""
    event, flow = cause.last, cause.last.flow
    assert flow is not None
    off = [name for name, value in cause.sysctls.items() if value == "0"]
    if (cause.sysctls and not off) or not event.is_inner:
        return None
    name = "net.ipv6.conf.all.forwarding" if flow.family == 6 else "net.ipv4.ip_forward"
    return finding(
        evidence,
        "forwarding-disabled",
        Severity.ERROR,
        Confidence.CERTAIN if off else Confidence.LIKELY,
        cause.count,
        f"Packets from the tunnel{_of(evidence, cause)} are for other hosts, such as {flow.daddr}, and this "
        f"host does not forward IPv{flow.family}.",
        peer=cause.peer,
        seen=[
            f"dropped at {event.ifname}, {times(cause.count)} ({event.reason.id}), {_such_as(event)}",
            *(f"{setting.replace('/', '.')} is 0" for setting in off),
        ],
        fix=[
            evidence.command(f"sysctl -w {name}=1"),
            f"and to keep it: {name} = 1 in /etc/sysctl.d/wireguard.conf",
        ],
        needs=(PATH,),
    )


def _rp_filter(evidence: InterfaceEvidence, cause: Cause) -> Finding | None:
    """The reverse-path filter refuses the source."""
    event, flow = cause.last, cause.last.flow
    assert flow is not None
    effective = max((int(v) for v in cause.sysctls.values() if v.isdigit()), default=None)
    strict = {1: "strict: the way back has to lead there", 2: "loose: there has to be a way back at all"}
    what = "Packets from the tunnel" if event.is_inner else "Datagrams to WireGuard's port"
    return finding(
        evidence,
        "rp-filter-drop",
        Severity.ERROR,
        Confidence.CERTAIN,
        cause.count,
        f"{what}{_of(evidence, cause)} come in at {event.ifname}, but this host's way back to {flow.saddr} "
        "does not lead there, and the reverse-path filter drops them.",
        peer=cause.peer,
        seen=[
            f"ip_rpfilter at {event.ifname}, {times(cause.count)}, {_such_as(event)}",
            *(f"{setting.replace('/', '.')} is {value}" for setting, value in cause.sysctls.items()),
            *([f"the larger counts, {strict[effective]}"] if effective in strict else []),
        ],
        fix=_route_back(evidence, event),
        needs=(PATH,),
    )


def _table_full(evidence: InterfaceEvidence, cause: Cause) -> Finding | None:
    """Connection tracking has no room for the flow that a packet begins."""
    event = cause.last
    count, most = (cause.sysctls[name] for name in CONNTRACK)
    return finding(
        evidence,
        "conntrack-table-full",
        Severity.ERROR,
        Confidence.LIKELY,
        cause.count,
        f"{_packets(event)}{_of(evidence, cause)} begin flows that connection tracking has no room for: it "
        f"has {count} entries and may have {most}, and netfilter drops them in {event.hook.name.lower()}.",
        peer=cause.peer,
        seen=[
            f"netfilter dropped {count_of(cause.count, 'packet')} by no rule, {_such_as(event)}",
            f"nf_conntrack_count is {count}, nf_conntrack_max is {most}",
        ],
        fix=[
            f"sysctl -w net.netfilter.nf_conntrack_max={2 * int(most)}",
            "and look whose entries these are:",
            evidence.command("conntrack -L"),
            "or do not track WireGuard's own datagrams (notrack)",
        ],
        needs=(PATH,),
    )


def _checksum(evidence: InterfaceEvidence, cause: Cause) -> Finding | None:
    """Datagrams arrive damaged, and the kernel drops them before WireGuard sees them."""
    event, flow = cause.last, cause.last.flow
    assert flow is not None
    if event.is_inner or event.reason.direction is Direction.TX:
        return None
    which = "IP" if event.reason.id == "ip_csum" else "UDP"
    device = quoted(event.ifname)
    return finding(
        evidence,
        "checksum-error",
        Severity.ERROR,
        Confidence.CERTAIN,
        cause.count,
        f"{_packets(event)}{_of(evidence, cause)} come in at {event.ifname} with a wrong {which} checksum "
        "and are dropped before WireGuard sees them: something between makes or changes them wrongly.",
        peer=cause.peer,
        seen=[f"{event.reason.id} at {event.ifname}, {times(cause.count)}, {_such_as(event)}"],
        fix=[
            "switch offloads off, here and then where they come from, to see which is to blame:",
            evidence.command(f"ethtool -K {device} rx off gro off"),
            evidence.command(f"ethtool -K {device} tx off gso off"),
        ],
        needs=(PATH,),
    )


def _route_back(evidence: InterfaceEvidence, event: PathEvent) -> list[str]:
    flow = event.flow
    assert flow is not None
    device = quoted(event.ifname)
    if event.is_inner:
        bits = flow.saddr.max_prefixlen
        return [
            evidence.command(f"ip route replace {flow.saddr}/{bits} dev {device}"),
            f"or, where replies may take another way: sysctl -w net.ipv4.conf.{event.ifname}.rp_filter=2",
        ]
    return [
        evidence.command(f"sysctl -w net.ipv4.conf.{device}.rp_filter=2"),
        "and with wg-quick's policy routing: sysctl -w net.ipv4.conf.all.src_valid_mark=1",
    ]


_BY_REASON: Final[dict[str, Callable[[InterfaceEvidence, Cause], Finding | None]]] = {
    "ip_inaddrerrors": _forwarding,
    "ip_rpfilter": _rp_filter,
    "ip_csum": _checksum,
    "udp_csum": _checksum,
}
