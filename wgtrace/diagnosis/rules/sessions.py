# SPDX-License-Identifier: GPL-2.0-only
"""Data for sessions that this side has lost."""

from __future__ import annotations

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import Attempts, InterfaceEvidence, Sighting
from wgtrace.diagnosis.rules.build import finding, places, settings, unseen
from wgtrace.diagnosis.words import count_of, listing, quoted
from wgtrace.events.reasons import HandshakeCode, Reason

# A refused handshake from the same place says why no new session comes: the nearer cause.
_REFUSED = (Reason.UNKNOWN_PEER_PUBKEY, Reason.INVALID_MAC1, Reason.NO_PRIVATE_KEY)


def lost_sessions(evidence: InterfaceEvidence) -> list[Finding]:
    """Peers that use a session which this side does not have, one finding for each."""
    total = evidence.total(Reason.UNKNOWN_RECEIVER_INDEX)
    if not total:
        return []
    refused = set(evidence.sources(evidence.seen(*_REFUSED)))
    by_peer: dict[str | None, list[Sighting]] = {}
    elsewhere = 0
    for sighting in evidence.seen(Reason.UNKNOWN_RECEIVER_INDEX):
        outer = sighting.last.event.outer
        key = evidence.was_at(outer)
        if (outer and outer.saddr in refused) or (
            key and evidence.total(Reason.HANDSHAKE_INIT_REPLAY, peer=key)
        ):
            elsewhere += sighting.count
        else:
            by_peer.setdefault(key, []).append(sighting)
    if not by_peer:
        return [] if elsewhere else [_lost(evidence, None, [], total)]
    rest = total - elsewhere - sum(s.count for seen in by_peer.values() for s in seen)
    alone = len(by_peer) == 1 and not elsewhere  # then what was not looked at is its own too
    return [
        _lost(evidence, key, seen, sum(s.count for s in seen) + (rest if alone else 0))
        for key, seen in by_peer.items()
    ]


def _lost(evidence: InterfaceEvidence, key: str | None, seen: list[Sighting], count: int) -> Finding:
    ifname = evidence.ifname
    peer = evidence.peer(key) if key else None
    indices = list(dict.fromkeys(f"0x{s.last.event.receiver_index:08x}" for s in seen))
    last_ns = max((s.last.event.ts_ns for s in seen), default=0)
    healed_ns = evidence.attempts.get(key, Attempts()).answered_ns if key else 0
    is_healed = bool(last_ns) and healed_ns > last_ns
    where = f" from {places(seen)}" if seen else ""
    facts = [
        f"wg_index_hashtable_lookup knew no session for {count_of(count, 'data packet')}{where}",
        *([f"session {'index' if len(indices) == 1 else 'indices'} {listing(indices)}"] if indices else []),
        *([f"a handshake completed {(healed_ns - last_ns) / 1e9:.1f} s after the last"] if is_healed else []),
        *unseen(count, seen),
    ]
    if key and peer:
        label = evidence.label(key)
        cause = (
            f"{label} uses a session that {ifname} does not have any more: this side lost it, as when the "
            f"interface or the peer is made anew."
        )
        now = "It has a new one by now." if is_healed else "It heals within 15 s after it sends data."
        cause = f"{cause} {now}"
        fix = ["nothing: it has healed"] if is_healed else _renew(evidence, key, seen)
        fix += [
            "next time change the configuration without losing sessions:",
            evidence.command(f"bash -c {quoted(f'wg syncconf {ifname} <(wg-quick strip {ifname})')}"),
        ]
    elif key:
        label = evidence.label(key)
        cause = f"{label} still sends data, and was removed from {ifname}."
        fix = [
            "nothing, if that was meant; else add it again:",
            evidence.wg_set(f"peer {key} {settings(None)}"),
        ]
    else:
        cause = (
            f"Data arrives{where} for {'a session' if len(indices) < 2 else 'sessions'} that {ifname} does "
            "not have; no peer is known to be there."
        )
        fix = [
            "wait 15 s: a peer that lost its session makes a new one after it sends data",
            "if it goes on: somebody there still has an old interface running, or it is noise",
        ]
    return finding(
        evidence,
        "peer-lost-session",
        Severity.INFO if is_healed or not peer else Severity.WARNING,
        Confidence.CERTAIN if peer and _is_exact(evidence, key, seen) else Confidence.LIKELY,
        count,
        cause,
        peer=key,
        seen=facts,
        fix=fix,
        needs=(Reason.UNKNOWN_RECEIVER_INDEX.id, HandshakeCode.HANDSHAKE_COMPLETE.id),
        not_visible=() if key else ("whose it is: such a packet carries only the index of its session",),
    )


def _renew(evidence: InterfaceEvidence, key: str, seen: list[Sighting]) -> list[str]:
    """Commands that have this side start a new session at once."""
    peer, label = evidence.peer(key), evidence.label(key)
    if peer is None:
        return []
    inside = next((net for net in peer.allowed_ips if net.prefixlen), None)
    target = inside[0] if inside and inside.num_addresses == 1 else f"ADDRESS-OF-{label}"
    ping = evidence.command(f"ping -c 1 -W 5 {target if inside else 'ADDRESS'}")
    fix = ["at once, from this side, which then starts a new session:"]
    if peer.endpoint is None:
        at = places(seen[:1])
        fix.append(evidence.wg_set(f"peer {key} endpoint {at or 'HOST:PORT'}"))
    return [*fix, ping]


def _is_exact(evidence: InterfaceEvidence, key: str | None, seen: list[Sighting]) -> bool:
    """Whether all came from the very address and port that the peer was at."""
    flows = [s.last.event.outer for s in seen]
    return all(o is not None and evidence.places.get(o.saddr, {}).get(o.sport) == key for o in flows)
