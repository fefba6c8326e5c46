# SPDX-License-Identifier: GPL-2.0-only
"""AllowedIPs that do not fit the traffic."""

from __future__ import annotations

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence, Sighting
from wgtrace.diagnosis.rules.build import allow, allowed, finding, host, times, unseen
from wgtrace.diagnosis.rules.moved import refused_by_move
from wgtrace.diagnosis.words import is_noise, listing
from wgtrace.events.reasons import Reason, SubReason
from wgtrace.events.types import IPAddress
from wgtrace.state.types import IPNetwork, Peer

_IN_ONE_COMMAND = 8


def source_not_allowed(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """Traffic arrives from a peer with a source that is in nobody's AllowedIPs."""
    count = evidence.total(Reason.SRC_NOT_ALLOWED, sub=SubReason.OWNED_BY_NOBODY, peer=key)
    if not count:
        return None
    seen = evidence.seen(Reason.SRC_NOT_ALLOWED, sub=SubReason.OWNED_BY_NOBODY, peer=key)
    all_sources = _sources(seen)
    sources = [addr for addr in all_sources if not is_noise(addr)]
    only_noise = bool(all_sources) and not sources
    sources = sources or all_sources
    label, peer = evidence.label(key), evidence.peer(key)
    where = listing(sources) if sources else "an address"
    fix = [
        allow(evidence, key, sources[:_IN_ONE_COMMAND]),
        f"or, on {label}: make it send from an address of its AllowedIPs, "
        "such as by masquerading what leaves its WireGuard interface",
    ]
    if len(sources) > _IN_ONE_COMMAND:
        fix.insert(1, f"{len(sources) - _IN_ONE_COMMAND} more addresses: add the prefix that holds them all")
    if only_noise:
        fix = ["nothing, if this is only the system's own link-local traffic", fix[0]]
    if evidence.device and sources and all(evidence.device.owner_of(addr) is peer for addr in sources):
        fix = [f"nothing: {label} has {where} in its AllowedIPs by now"]
    return finding(
        evidence,
        "source-not-allowed",
        Severity.INFO if only_noise else Severity.ERROR,
        Confidence.CERTAIN if sources and peer else Confidence.LIKELY,
        count,
        f"{label} sends from {where}; its AllowedIPs are {allowed(peer)}."
        if peer
        else f"{label} sends from {where}, which is in no peer's AllowedIPs.",
        peer=key,
        seen=[
            f"wg_allowedips_lookup_src found no peer, {times(count)}",
            *evidence.counter_facts(Reason.SRC_NOT_ALLOWED),
            *unseen(count, seen),
        ],
        fix=fix,
        needs=(Reason.SRC_NOT_ALLOWED.id,),
        not_visible=() if sources else ("the inner source: no packet of these was seen in detail",),
    )


def source_owned_by_other_peer(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """Traffic arrives from one peer with a source that is in another's AllowedIPs."""
    sub = SubReason.OWNED_BY_OTHER_PEER
    count = evidence.total(Reason.SRC_NOT_ALLOWED, sub=sub, peer=key)
    seen = evidence.seen(Reason.SRC_NOT_ALLOWED, sub=sub, peer=key)
    moved = refused_by_move(evidence, key)
    if moved:  # they are another finding's
        seen = [s for s in seen if s not in moved]
        count = sum(s.count for s in seen)
    if not count:
        return None
    label = evidence.label(key)
    pairs = {
        s.last.event.inner.saddr: s.last.event.owner
        for s in seen
        if s.last.event.inner and s.last.event.owner
    }
    owners = listing([evidence.label(owner) for owner in dict.fromkeys(pairs.values())]) or "another peer"
    sources = list(pairs)
    where = listing(sources) or "an address"
    held = {_prefix(evidence.peer(owner), addr) for addr, owner in pairs.items()} - {None}
    prefixes = f" ({listing(sorted(map(str, held)))})" if held else ""
    exact = bool(held) and held <= {host(addr) for addr in sources}
    effect = f"takes it from {owners}" if exact else "the longer prefix wins"
    return finding(
        evidence,
        "source-owned-by-other-peer",
        Severity.ERROR,
        Confidence.CERTAIN if pairs else Confidence.LIKELY,
        count,
        f"{label} sends from {where}, which is in the AllowedIPs of {owners}{prefixes}.",
        peer=key,
        seen=[
            f"wg_allowedips_lookup_src gave {owners}, not {label}, {times(count)}",
            *evidence.counter_facts(Reason.SRC_NOT_ALLOWED),
            *unseen(count, seen),
        ],
        fix=[
            f"if {where} belongs to {label}:",
            f"{allow(evidence, key, sources[:_IN_ONE_COMMAND])}  # {effect}",
            f"if it belongs to {owners}: give {label} another address, "
            "or stop it from forwarding what is not its own",
        ],
        needs=(Reason.SRC_NOT_ALLOWED.id,),
        not_visible=() if pairs else ("whose address it is: no packet of these was seen in detail",),
    )


def destination_not_allowed(evidence: InterfaceEvidence) -> Finding | None:
    """Packets are routed to the interface that no peer has in its AllowedIPs."""
    count = evidence.total(Reason.ALLOWEDIPS_NO_PEER)
    everything_seen = evidence.seen(Reason.ALLOWEDIPS_NO_PEER)
    seen = [s for s in everything_seen if not evidence.is_own(s)]  # those are in a loop: another finding's
    if len(seen) < len(everything_seen):
        count = sum(s.count for s in seen)
    if not count:
        return None
    everything = [s.last.event.inner.daddr for s in seen if s.last.event.inner]
    wanted = [addr for addr in everything if not is_noise(addr)]
    only_noise = bool(everything) and not wanted
    addrs = list(dict.fromkeys(wanted or everything))
    where = listing(addrs) if addrs else "some address"
    peers = evidence.device.peers if evidence.device else ()
    near = _nearest(peers, addrs[0]) if addrs else []
    close = (
        f"nearest: {listing([f'{evidence.label(p.public_key)} has {net}' for p, net in near])}"
        if near
        else f"{evidence.ifname} has no peers"
        if evidence.device and not peers
        else ""
    )
    fix = [
        text
        for peer, _ in near[:2]
        for text in (
            f"if {where} is behind {evidence.label(peer.public_key)}:",
            allow(evidence, peer.public_key, addrs[:_IN_ONE_COMMAND]),
        )
    ]
    if not fix:
        fix = [allow(evidence, "PEER-PUBLIC-KEY", addrs[:_IN_ONE_COMMAND])]
    family = "-6 " if addrs and addrs[0].version == 6 else ""
    target = addrs[0] if addrs else "DESTINATION"
    fix.append(f"or remove the route that sends it to {evidence.ifname}; see which:")
    fix.append(evidence.command(f"ip {family}route get {target}"))
    if only_noise:
        fix = ["nothing, unless multicast is meant to go through the tunnel"]
    return finding(
        evidence,
        "destination-not-allowed",
        Severity.INFO if only_noise else Severity.ERROR,
        Confidence.CERTAIN if addrs else Confidence.LIKELY,
        count,
        f"Packets for {where} are routed to {evidence.ifname}, but no peer has "
        f"{'it' if len(addrs) < 2 else 'them'} in its AllowedIPs.",
        seen=[
            f"wg_allowedips_lookup_dst found no peer, {times(count)}",
            *([close] if close and not only_noise else []),
            *evidence.counter_facts(Reason.ALLOWEDIPS_NO_PEER),
            *unseen(count, seen),
        ],
        fix=fix,
        needs=(Reason.ALLOWEDIPS_NO_PEER.id,),
        not_visible=() if addrs else ("the destination: no packet of these was seen in detail",),
    )


def _sources(seen: list[Sighting]) -> list[IPAddress]:
    return list(dict.fromkeys(s.last.event.inner.saddr for s in seen if s.last.event.inner))


def _prefix(peer: Peer | None, addr: IPAddress) -> IPNetwork | None:
    """The longest of the peer's AllowedIPs that holds the address."""
    nets = [net for net in peer.allowed_ips if addr in net] if peer else []
    return max(nets, key=lambda net: net.prefixlen, default=None)


def _nearest(peers: tuple[Peer, ...], addr: IPAddress) -> list[tuple[Peer, IPNetwork]]:
    """The peers whose AllowedIPs share most leading bits with the address; one peer is always it."""
    best: dict[str, tuple[int, Peer, IPNetwork]] = {}
    for peer in peers:
        for net in peer.allowed_ips:
            if net.version == addr.version:
                differing = int(net.network_address) ^ int(addr)
                common = addr.max_prefixlen - differing.bit_length()
                if common > best.get(peer.public_key, (-1,))[0]:
                    best[peer.public_key] = (common, peer, net)
    if len(peers) > 1:
        floor = 8 if addr.version == 4 else 32
        top = max((common for common, _, _ in best.values()), default=0)
        best = {key: row for key, row in best.items() if row[0] == top >= floor}
    return [(peer, net) for _, peer, net in best.values()]
