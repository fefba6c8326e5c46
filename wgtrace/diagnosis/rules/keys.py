# SPDX-License-Identifier: GPL-2.0-only
"""Keys that do not fit: ours at the peer, the peer's here, the preshared one."""

from __future__ import annotations

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence, Sighting
from wgtrace.diagnosis.rules.build import finding, places, preshared_note, settings, times, unseen, waiting
from wgtrace.diagnosis.rules.explained import corrupted, in_flood
from wgtrace.diagnosis.words import count_of, quoted
from wgtrace.events.reasons import HandshakeCode, Reason
from wgtrace.events.types import IPAddress
from wgtrace.state.types import Peer

_MAC1 = (Reason.INVALID_MAC1, Reason.NO_PRIVATE_KEY)


def peers_with_key_trouble(evidence: InterfaceEvidence) -> dict[str, str]:
    """Peers whose silence another key explains: public key → slug of the finding.

    A handshake that fails for its key names no peer; the address it came from
    does, if just one configured peer has its endpoint there.
    """
    trouble: dict[str, str] = {}
    for slug, reasons in (("unknown-peer", (Reason.UNKNOWN_PEER_PUBKEY,)), ("wrong-key-for-us", _MAC1)):
        for addr in evidence.sources(_own(evidence, *reasons)[1]):
            peer = _only_peer_at(evidence, addr)
            if peer:
                trouble[peer.public_key] = slug
    return trouble


def wrong_key_for_us(evidence: InterfaceEvidence) -> Finding | None:
    """Handshakes arrive that were made for another public key than this interface's."""
    count, seen = _own(evidence, *_MAC1)
    if not count:
        return None
    addrs = evidence.sources(seen)
    ifname, device = evidence.ifname, evidence.device
    who = _who(evidence, addrs)
    facts = [
        f"the first check of the handshake (mac1) failed, {times(count)}",
        *([f"from {places(seen)}"] if addrs else []),
        *_old_sessions(evidence, addrs),
        *_silent_peers(evidence, "wrong-key-for-us"),
        *unseen(count, seen),
    ]
    if device is not None and device.public_key is None:
        cause = f"{ifname} has no private key, so it refuses every handshake; {who} asks for one."
        fix = [evidence.wg_set("private-key FILE"), "FILE holds the key that `wg genkey` made for this side"]
    else:
        ours = device.public_key if device else None
        verb = "has" if len(addrs) < 2 else "have"
        cause = f"{who} {verb} another public key for {ifname} than the one it has now."
        fix = [
            f"on the sender, the public key of its peer must be: {ours}"
            if ours
            else "on the sender, correct the public key of its peer",
            "which is what this side shows:",
            evidence.command(f"wg show {quoted(ifname)} public-key"),
        ]
    return finding(
        evidence,
        "wrong-key-for-us",
        Severity.ERROR,
        Confidence.CERTAIN if device and addrs else Confidence.LIKELY,
        count,
        cause,
        seen=facts,
        fix=fix,
        needs=(Reason.INVALID_MAC1.id,),
        not_visible=["who sent them: a handshake that fails this check carries no readable name"]
        if not any(_only_peer_at(evidence, addr) for addr in addrs)
        else (),
    )


def unknown_keys(evidence: InterfaceEvidence) -> list[str]:
    """The public keys that knocked and are no peer here, most frequent first."""
    _, seen = _own(evidence, Reason.UNKNOWN_PEER_PUBKEY)
    counts: dict[str, int] = {}
    for s in seen:
        key = s.last.event.unknown_public_key
        if key is not None:
            counts[key] = counts.get(key, 0) + s.count
    return sorted(counts, key=lambda key: -counts[key])


def unknown_peer(evidence: InterfaceEvidence, unknown: str | None) -> Finding | None:
    """A public key that is not configured here asks for a session."""
    total, own = _own(evidence, Reason.UNKNOWN_PEER_PUBKEY)
    if not total:
        return None
    seen = [s for s in own if s.last.event.unknown_public_key == unknown]
    alone = unknown_keys(evidence) in ([unknown], []) and not evidence.not_sampled.get(
        Reason.UNKNOWN_PEER_PUBKEY
    )
    shown = sum(s.count for s in seen)
    count = total if alone else shown
    facts = [f"wg_pubkey_hashtable_lookup found no peer, {times(count)}"]
    if not alone:
        facts.append(f"{total} handshakes with unknown keys in all")
    addrs = evidence.sources(seen)
    facts += _old_sessions(evidence, addrs)
    owner = _only_peer_at(evidence, addrs[0]) if addrs else None
    key = unknown or "PUBLIC-KEY"
    add = evidence.wg_set(f"peer {key} allowed-ips ADDRESS/32") + "  # the address it has in the tunnel"
    fix = ["if it should be a peer:", add]
    if owner:
        label = evidence.label(owner.public_key)
        fix = [
            f"if {label} has a new key:",
            evidence.wg_set(f"peer {owner.public_key} remove peer {key} {settings(owner)}"),
            *preshared_note(owner),
            "if it is somebody else, who should be a peer:",
            add,
        ]
    where = f" from {places(seen)}" if addrs else ""
    there = f", where {evidence.label(owner.public_key)} is" if owner else ""
    return finding(
        evidence,
        "unknown-peer",
        Severity.ERROR,
        Confidence.CERTAIN if unknown else Confidence.LIKELY,
        count,
        f"Public key {key} asks for a session{where}{there}, and is no peer of {evidence.ifname}."
        if unknown
        else f"A public key that is no peer of {evidence.ifname} asks for a session{where}.",
        seen=[*facts, *_silent_peers(evidence, "unknown-peer"), *(unseen(count, seen) if alone else [])],
        fix=[*fix, "or nothing, if it has no business here"],
        needs=(Reason.UNKNOWN_PEER_PUBKEY.id,),
        not_visible=() if unknown else ("the key itself: no packet of these was seen in detail",),
    )


def preshared_key_mismatch(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """The peer's responses do not authenticate though all other keys fit."""
    count = evidence.total(Reason.RESP_DECRYPT_FAILED, peer=key)
    if not count:
        return None
    label, peer = evidence.label(key), evidence.peer(key)
    completed = evidence.steps(HandshakeCode.RESPONSE_ACCEPTED, peer=key)
    has_one = "it is not known here whether this side has one"
    fix = [evidence.wg_set(f"peer {key} preshared-key FILE") + f"  # the same key here and on {label}"]
    if peer:
        has_one = f"this side has {'one' if peer.has_preshared_key else 'none'}"
        if peer.has_preshared_key:
            fix += [
                "or none on both sides; here:",
                evidence.wg_set(f"peer {key} preshared-key /dev/null"),
            ]
        else:
            fix.append(f"or remove it on {label}")
    return finding(
        evidence,
        "preshared-key-mismatch",
        Severity.ERROR,
        Confidence.LIKELY if completed else Confidence.CERTAIN,
        count,
        f"{label} and {evidence.ifname} have different preshared keys ({has_one}).",
        peer=key,
        seen=[
            f"{label} answered this side's initiation, and its response did not authenticate, {times(count)}",
            *([f"{count_of(completed, 'response')} did authenticate"] if completed else []),
            *waiting(evidence, key),
        ],
        fix=fix,
        needs=(Reason.RESP_DECRYPT_FAILED.id, HandshakeCode.RESPONSE_ACCEPTED.id),
    )


def _own(evidence: InterfaceEvidence, *reasons: Reason) -> tuple[int, list[Sighting]]:
    """Refusals that no flood and no damage on the way explains: how many, and those looked at."""
    seen = evidence.seen(*reasons)
    other = [*in_flood(evidence, seen), *corrupted(evidence, seen)]
    if not other:
        return evidence.total(*reasons), seen
    own = [s for s in seen if s not in other]
    return sum(s.count for s in own), own


def _old_sessions(evidence: InterfaceEvidence, addrs: list[IPAddress]) -> list[str]:
    """Data from there for sessions that this side has forgotten: the same cause."""
    seen = [
        s
        for s in evidence.seen(Reason.UNKNOWN_RECEIVER_INDEX)
        if (outer := s.last.event.outer) and outer.saddr in addrs
    ]
    count = sum(s.count for s in seen)
    return [f"{count_of(count, 'data packet')} of a session that ended came from there too"] if count else []


def _only_peer_at(evidence: InterfaceEvidence, addr: IPAddress) -> Peer | None:
    peers = evidence.peers_at(addr)
    return peers[0] if len(peers) == 1 else None


def _who(evidence: InterfaceEvidence, addrs: list[IPAddress]) -> str:
    if not addrs:
        return "A sender"
    peer = _only_peer_at(evidence, addrs[0])
    name = f" (where {evidence.label(peer.public_key)} is)" if peer else ""
    others = len(addrs) - 1
    more = f" and {others} other address{'es' if others > 1 else ''}" if others else ""
    return f"{addrs[0]}{name}{more}"


def _silent_peers(evidence: InterfaceEvidence, slug: str) -> list[str]:
    """This side's own unanswered initiations to the peers at these addresses: the same cause."""
    facts: list[str] = []
    for key, cause in peers_with_key_trouble(evidence).items():
        tried = evidence.steps(HandshakeCode.INIT_SENT, peer=key)
        done = evidence.steps(HandshakeCode.RESPONSE_ACCEPTED, HandshakeCode.HANDSHAKE_COMPLETE, peer=key)
        if cause == slug and tried and not done:
            facts.append(
                f"{count_of(tried, 'initiation')} of this side to {evidence.label(key)} had no answer"
            )
            facts += waiting(evidence, key)
    return facts
