# SPDX-License-Identifier: GPL-2.0-only
"""Packets that should not be there: foreign ones and copies."""

from __future__ import annotations

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence
from wgtrace.diagnosis.looks_like import looks_like
from wgtrace.diagnosis.rules.build import finding, places, times, unseen
from wgtrace.diagnosis.rules.explained import corrupted
from wgtrace.diagnosis.rules.handshake import is_copy
from wgtrace.diagnosis.words import listing, quoted
from wgtrace.events.reasons import Reason, SubReason

_WINDOW = 8128
"""How many packets WireGuard lets another overtake, COUNTER_WINDOW_SIZE of its messages.h."""


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
    if too_old and _are_late_copies(evidence, key):
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


def _are_late_copies(evidence: InterfaceEvidence, key: str) -> bool:
    """Whether packets that came too late are best told as copies: if there are at least as many copies."""
    late = evidence.total(Reason.REPLAY_OR_OLD_COUNTER, sub=SubReason.TOO_OLD, peer=key)
    return evidence.total(Reason.REPLAY_OR_OLD_COUNTER, sub=SubReason.DUPLICATE, peer=key) >= late


def reordered_beyond_window(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """Packets of a peer arrive so late that the window for reordered packets has passed them."""
    count = evidence.total(Reason.REPLAY_OR_OLD_COUNTER, sub=SubReason.TOO_OLD, peer=key)
    if not count or _are_late_copies(evidence, key):
        return None
    label, peer = evidence.label(key), evidence.peer(key)
    seen = evidence.seen(Reason.REPLAY_OR_OLD_COUNTER, sub=SubReason.TOO_OLD, peer=key)
    last = seen[0].last.event if seen else None
    behind = f", such as counter {last.nonce} when the highest was {last.max_nonce - 1}" if last else ""
    place = f" from {peer.endpoint}" if peer and peer.endpoint else ""
    return finding(
        evidence,
        "reordered-beyond-window",
        Severity.WARNING,
        Confidence.LIKELY,
        count,
        f"Packets of {label}{place} arrive more than {_WINDOW} packets late and are dropped: two ways of "
        "very different delay, or a queue that holds some packets back.",
        peer=key,
        seen=[
            f"a message counter came that was more than {_WINDOW} behind, {times(count)}{behind}",
            *unseen(count, seen),
        ],
        fix=[
            "have each flow take one way: no per-packet balancing (bonding mode 0, nexthops by packet, "
            "MPTCP or SD-WAN striping) between the two",
            f"see what holds packets back, here and on {label}:",
            evidence.command("tc -s qdisc show"),
        ],
        needs=(Reason.REPLAY_OR_OLD_COUNTER.id,),
        not_visible=("whether these came before: copies, or somebody who replays them, look the same",),
    )


def payload_corrupted(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """Data of a good session does not authenticate: something changed it on the way."""
    count = evidence.total(Reason.DECRYPT_FAILED, peer=key)
    if not count:
        return None
    label, peer, way = evidence.label(key), evidence.peer(key), evidence.ways.get(key)
    seen = evidence.seen(Reason.DECRYPT_FAILED, peer=key)
    handshakes = corrupted(evidence, evidence.seen(Reason.INVALID_MAC1))
    damaged = sum(s.count for s in handshakes if evidence.was_at(s.last.event.outer) == key)
    froms = evidence.sources(seen)
    at = peer.endpoint.addr if peer and peer.endpoint else None
    elsewhere = [addr for addr in froms if at and addr != at]
    place = f" from {places(seen)}" if seen else ""
    device = quoted(way.oif) if way and way.oif else "DEVICE"
    return finding(
        evidence,
        "payload-corrupted",
        Severity.ERROR,
        Confidence.LIKELY if elsewhere or not seen else Confidence.CERTAIN,
        count + damaged,
        f"Data of {label}{place} was changed after it was encrypted, and came in with a good UDP checksum: a "
        "broken offload, driver or memory, or a box on the way that rewrites packets.",
        peer=key,
        seen=[
            f"chacha20poly1305 did not authenticate it under a session of {label}, {times(count)}",
            *([f"handshakes from there were damaged too, {times(damaged)}"] if damaged else []),
            *([f"{listing(elsewhere)} is not where {label} is: it may be forged"] if elsewhere else []),
            *unseen(count, seen),
        ],
        fix=[
            f"try without the offloads of the device that leads to {label}, here and there:",
            evidence.command(f"ethtool -K {device} rx off tx off gro off gso off tso off"),
            "if that does not help, look for a rule here that changes packets, and for a box on the way:",
            evidence.command("nft list ruleset"),
        ],
        needs=(Reason.DECRYPT_FAILED.id,),
        not_visible=() if seen else ("where it came from: no packet of these was seen in detail",),
    )
