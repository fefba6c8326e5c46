# SPDX-License-Identifier: GPL-2.0-only
"""Packets that should not be there: foreign ones and copies."""

from __future__ import annotations

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence
from wgtrace.diagnosis.looks_like import looks_like
from wgtrace.diagnosis.rules.build import finding, times, unseen
from wgtrace.diagnosis.rules.handshake import is_copy
from wgtrace.diagnosis.words import listing, quoted
from wgtrace.events.reasons import Reason, SubReason


def not_wireguard(evidence: InterfaceEvidence) -> Finding | None:
    """Something else sends to the port."""
    count = evidence.total(Reason.BAD_HEADER)
    if not count:
        return None
    seen = evidence.seen(Reason.BAD_HEADER)
    addrs = evidence.sources(seen)
    device = evidence.device
    port = f"port {device.listen_port}" if device and device.listen_port else "the port"
    peers = [peer for addr in addrs for peer in evidence.peers_at(addr)]
    kinds = list(dict.fromkeys(looks_like(s.last.event.payload, s.last.event.payload_len) for s in seen))
    named = [kind for kind in kinds if not kind.startswith("unknown")]
    if named:
        what = f"looks like {listing(named)}"
    elif kinds:
        what = f"is of an unknown kind ({listing([kind.removeprefix('unknown: ') for kind in kinds], 2)})"
    else:
        what = "is of an unknown kind"
    where = listing(addrs) if addrs else "somebody"
    fix = [
        f"find out what {where} sends to UDP {port} of this host; packets like these harm nothing",
        "or move away, and give every peer the new port in its endpoint:",
        evidence.wg_set("listen-port PORT"),
    ]
    cause = f"{where} sends to {port} of {evidence.ifname} what is no WireGuard message; it {what}."
    if peers:
        label = listing(list(dict.fromkeys(evidence.label(peer.public_key) for peer in peers)))
        cause = (
            f"{where}, where {label} is, sends to {port} of {evidence.ifname} what is no WireGuard message; "
            f"it {what}."
        )
        fix = [
            f"check that {label} runs plain WireGuard: no obfuscation (such as AmneziaWG), no reserved bytes",
            "check what is on the way: something may cut or change its packets",
        ]
    return finding(
        evidence,
        "not-wireguard",
        Severity.WARNING if peers else Severity.INFO,
        Confidence.CERTAIN if seen else Confidence.LIKELY,
        count,
        cause,
        seen=[
            f"the message type or length fits no WireGuard message, {times(count)}",
            *unseen(count, seen),
        ],
        fix=fix,
        needs=(Reason.BAD_HEADER.id,),
        not_visible=() if seen else ("what it is and from where: no packet of these was seen in detail",),
    )


def duplicated_packets(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """The same packet of a peer arrives more than once."""
    count = evidence.total(Reason.REPLAY_OR_OLD_COUNTER, sub=SubReason.DUPLICATE, peer=key)
    if not count:
        return None
    label, peer, device = evidence.label(key), evidence.peer(key), evidence.device
    seen = evidence.seen(Reason.REPLAY_OR_OLD_COUNTER, sub=SubReason.DUPLICATE, peer=key)
    last = seen[0].last.event if seen else None
    again = [s for s in evidence.seen(Reason.HANDSHAKE_INIT_REPLAY, peer=key) if is_copy(s.last.event)]
    place = f" from {peer.endpoint}" if peer and peer.endpoint else ""
    facts = [f"a message counter came that had been seen before, {times(count)}"]
    if last:
        facts.append(f"such as counter {last.nonce} when the highest was {last.max_nonce - 1}")
    if again:
        facts.append(f"copies of a handshake initiation came too, {times(sum(s.count for s in again))}")
    too_old = evidence.total(Reason.REPLAY_OR_OLD_COUNTER, sub=SubReason.TOO_OLD, peer=key)
    if too_old:
        facts.append(f"{too_old} more came too late to be told from copies")
    watch = f"udp port {device.listen_port}" if device and device.listen_port else "udp"
    if peer and peer.endpoint:
        watch += f" and host {peer.endpoint.addr}"
    return finding(
        evidence,
        "duplicated-packets",
        Severity.WARNING,
        Confidence.CERTAIN,
        count,
        f"Packets of {label}{place} arrive more than once; the copies are dropped, nothing is lost by it.",
        peer=key,
        seen=[*facts, *unseen(count, seen)],
        fix=[
            "look for what copies packets on the way: bonding, a mirrored switch port, Wi-Fi, "
            "a failover pair",
            "see both copies arrive:",
            evidence.command(f"tcpdump -ni any {quoted(watch)}"),
            "if copies come seconds later or from elsewhere, somebody replays them: they stay refused",
        ],
        needs=(Reason.REPLAY_OR_OLD_COUNTER.id,),
    )
