# SPDX-License-Identifier: GPL-2.0-only
"""Handshakes that cannot start, are not answered, or come out of the past."""

from __future__ import annotations

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import Attempts, InterfaceEvidence
from wgtrace.diagnosis.rules.build import STAGED, finding, preshared_note, settings, times, unseen, waiting
from wgtrace.diagnosis.rules.keys import peers_with_key_trouble
from wgtrace.diagnosis.rules.routes import is_loop, leads, question
from wgtrace.diagnosis.words import age, count_of, quoted, unreachable_why, utc
from wgtrace.events.reasons import Direction, HandshakeCode, Reason, SubReason
from wgtrace.events.types import DropEvent

_ANSWERS = (
    HandshakeCode.RESPONSE_ACCEPTED,
    HandshakeCode.HANDSHAKE_COMPLETE,
    HandshakeCode.INIT_ACCEPTED,
)
_NOT_SENT = (
    Reason.NO_ENDPOINT,
    Reason.NO_ROUTE_TO_ENDPOINT,
    Reason.UDP_SOCK_NULL,
    Reason.ENDPOINT_AF_INVALID,
    Reason.HANDSHAKE_TX_NOMEM,
)
_SOMETHING_CAME = tuple(reason for reason in Reason if reason.direction is not Direction.TX)
_ASKED_AGAIN = 3
"""Sessions in a row without a packet: two may be one lost response and one not confirmed yet."""
_SILENCE_AFTER_ANSWER = 3
"""Attempts without an answer that one lost packet does not explain once there was an answer."""


def no_endpoint(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """There are packets for a peer whose address is neither configured nor learned."""
    count = evidence.total(Reason.NO_ENDPOINT, peer=key)
    if not count:
        return None
    label, peer = evidence.label(key), evidence.peer(key)
    fix = [
        evidence.wg_set(f"peer {key} endpoint HOST:PORT"),
        f"or let {label} speak first: on {label}, persistent-keepalive 25 for this side",
    ]
    if peer and peer.endpoint:
        fix = [f"nothing: {label} has the endpoint {peer.endpoint} by now"]
    return finding(
        evidence,
        "no-endpoint",
        Severity.ERROR,
        Confidence.CERTAIN,
        count,
        f"There are packets for {label}, but no endpoint is configured for it and it has not spoken yet.",
        peer=key,
        seen=[
            f"wg_xmit found no endpoint, {times(count)}",
            *evidence.counter_facts(Reason.NO_ENDPOINT),
        ],
        fix=fix,
        needs=(Reason.NO_ENDPOINT.id,),
    )


def peer_unreachable(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """Initiations leave for a peer, and nothing that completes a handshake comes back."""
    sent = _unanswered(evidence, key)
    if not sent or key in peers_with_key_trouble(evidence) or is_loop(evidence, key):
        return None
    if evidence.total(*_NOT_SENT, Reason.RESP_DECRYPT_FAILED, peer=key):
        return None
    label, peer, way = evidence.label(key), evidence.peer(key), evidence.ways.get(key)
    endpoint = f" at {peer.endpoint}" if peer and peer.endpoint else ""
    first = evidence.attempts.get(key, Attempts()).since_unix_ns
    since = f" since {utc(first, 0)} UTC" if first else ""
    needs = [code.id for code in (*_ANSWERS, HandshakeCode.INIT_SENT)]
    needs += [Reason.RESP_DECRYPT_FAILED.id, Reason.NO_ROUTE_TO_ENDPOINT.id]
    blind = evidence.missing(*needs)
    return finding(
        evidence,
        "peer-unreachable",
        Severity.ERROR,
        Confidence.POSSIBLE if blind else Confidence.LIKELY,
        evidence.total(*STAGED, peer=key),
        f"{count_of(sent, 'handshake initiation')} went to {label}{endpoint}{since}, and none was answered.",
        peer=key,
        seen=[
            f"{count_of(sent, 'initiation')} sent, no response accepted",
            *(
                [f"gave up after 20 attempts, {times(gave_up)}"]
                if (gave_up := evidence.steps(HandshakeCode.GIVE_UP, peer=key))
                else []
            ),
            *([f"ip route get {question(way)} says {leads(way)}"] if way and not way.errno else []),
            *waiting(evidence, key),
        ],
        fix=_reach(evidence, key),
        needs=needs,
        not_visible=[
            f"whether the initiations arrive at {label}: run wgtrace drops there. A wrong key or clock "
            f"at either end, a blocked port and a host that is down all look like this from here"
        ],
    )


def peer_port_closed(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """An ICMP message says that datagrams to a peer do not reach it, and nothing has come from it since."""
    told, last = evidence.steps(HandshakeCode.UNREACHABLE, peer=key), evidence.unreachable.get(key)
    answered_ns = evidence.attempts.get(key, Attempts()).answered_ns
    if not told or last is None or answered_ns > last.ts_ns:
        return None
    label, peer = evidence.label(key), evidence.peer(key)
    endpoint = last.peer.endpoint if last.peer else None
    at = f" at {endpoint}" if endpoint else ""
    is_itself = bool(endpoint and last.source == endpoint.addr)
    origin = str(last.source or "somebody on the way")
    who = "its own host" if is_itself else f"{origin}, which is not the peer,"
    fix = [f"on {label}: is the interface up, and is its ListenPort the port of this endpoint? wg show"]
    if last.sub_reason is SubReason.HOST_UNREACHABLE:
        fix = [f"check that the endpoint {endpoint} is still the right one, and that {label} is up"]
    elif last.sub_reason is SubReason.PROHIBITED:
        fix = [f"let UDP to {endpoint} through, in the firewall of {origin}"]
    elif peer and peer.latest_handshake_ns:
        fix.append(
            f"if {label} is behind NAT, its mapping may be gone; there: wg set IFACE peer "
            f"{evidence.device.public_key if evidence.device else 'KEY'} persistent-keepalive 25"
        )
    return finding(
        evidence,
        "peer-port-closed",
        Severity.ERROR,
        Confidence.CERTAIN if is_itself else Confidence.LIKELY,
        evidence.total(*STAGED, peer=key),
        f"Datagrams to {label}{at} come back: {who} says that {unreachable_why(last.sub_reason)}.",
        peer=key,
        seen=[
            f"{count_of(told, 'ICMP message')} ({last.sub_reason.id or 'unknown'}), the last from {origin}",
            *waiting(evidence, key),
        ],
        fix=fix,
        needs=(HandshakeCode.UNREACHABLE.id,),
    )


def _unanswered(evidence: InterfaceEvidence, key: str) -> int:
    """Initiations that this peer left without an answer, 0 where that means nothing yet."""
    attempts = evidence.attempts.get(key, Attempts())
    if attempts.answered or evidence.steps(*_ANSWERS, peer=key):
        return attempts.count if attempts.count >= _SILENCE_AFTER_ANSWER else 0
    if evidence.total(*_SOMETHING_CAME, peer=key):
        return 0
    sent = evidence.steps(HandshakeCode.INIT_SENT, peer=key)
    retries = evidence.steps(HandshakeCode.RETRY, peer=key)
    return max(sent, retries) if sent >= 2 or retries else 0


def _reach(evidence: InterfaceEvidence, key: str) -> list[str]:
    peer, label = evidence.peer(key), evidence.label(key)
    if peer is None or peer.endpoint is None:
        return [f"check that {label} is up and that its UDP port is open"]
    port, addr, way = peer.endpoint.port, peer.endpoint.addr, evidence.ways.get(key)
    look = ["see which way they go:", evidence.command(f"ip route get {addr}")]
    if way and not way.errno:
        watch = quoted(f"udp port {port} and host {addr}")
        look = [
            "see whether anything comes back:",
            evidence.command(f"tcpdump -ni {quoted(way.oif)} {watch}"),
        ]
    return [
        f"check that the endpoint {peer.endpoint} is still the right one",
        f"check that {label} is up, listens on UDP port {port}, and that no firewall or router on the way "
        f"blocks it",
        *look,
    ]


def response_lost(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """A peer asks again and again, is answered each time, and confirms no session.

    `wgtrace handshakes` only: `drops` does not look at sessions.
    """
    count = evidence.unconfirmed.get(key, 0)
    if count < _ASKED_AGAIN:
        return None
    label, peer = evidence.label(key), evidence.peer(key)
    at = f" at {peer.endpoint}" if peer and peer.endpoint else ""
    port = evidence.device.listen_port if evidence.device else 0
    return finding(
        evidence,
        "response-lost",
        Severity.ERROR,
        Confidence.LIKELY,
        0,
        f"{label}{at} asked for a session {count} times and was answered each time, but uses none of them: "
        f"the responses do not arrive there, or it has another preshared key.",
        peer=key,
        seen=[
            f"{count_of(count, 'initiation')} accepted and as many sessions made, one after the other",
            "no packet came by any of them",
        ],
        fix=[
            f"on {label}: wgtrace handshakes. A response that is refused there is another preshared key:",
            evidence.wg_set(f"peer {key} preshared-key FILE") + f"  # the same key here and on {label}",
            f"no response there: let UDP from port {port} of this host through to {label}, in every firewall "
            f"and NAT on the way",
        ],
        needs=(HandshakeCode.SESSION_DERIVED.id, HandshakeCode.HANDSHAKE_COMPLETE.id),
        not_visible=[f"whether the responses arrive at {label}"],
    )


def peer_clock_went_back(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """Initiations of a peer are older than the last one accepted."""
    seen = evidence.seen(Reason.HANDSHAKE_INIT_REPLAY, peer=key)
    total = evidence.total(Reason.HANDSHAKE_INIT_REPLAY, peer=key)
    # The very same time as the last accepted one is a copy of that initiation, not a clock.
    copies = [s for s in seen if is_copy(s.last.event)]
    older = [s for s in seen if s not in copies]
    if not total or (copies and not older):
        return None
    count = sum(s.count for s in older) if copies else total
    last = older[0].last.event if older else None
    label, peer = evidence.label(key), evidence.peer(key)
    facts = [f"the initiation's time was not newer than the last one accepted, {times(total)}"]
    cause = f"{label} sends handshakes that are older than its last one accepted here: its clock went back."
    known = last is not None and last.timestamp is not None and last.latest_timestamp is not None
    if last and last.timestamp and last.latest_timestamp:
        sent, accepted = last.timestamp.unix_ns, last.latest_timestamp.unix_ns
        cause = (
            f"The clock of {label} went back {age((accepted - sent) / 1e9)}: it sends {utc(sent)}, "
            f"and {utc(accepted)} was accepted before (UTC)."
        )
    return finding(
        evidence,
        "peer-clock-went-back",
        Severity.ERROR,
        Confidence.CERTAIN if known else Confidence.LIKELY,
        count,
        cause,
        peer=key,
        seen=[*facts, *waiting(evidence, key), *(unseen(total, seen))],
        fix=[
            f"on {label}: set the clock, before WireGuard starts: timedatectl set-ntp true",
            "at once, from here, forget the time by removing the peer and adding it again:",
            evidence.wg_set(f"peer {key} remove"),
            evidence.wg_set(f"peer {key} {settings(peer)}"),
            *preshared_note(peer),
            f"if the clock of {label} is right: two machines use its private key; give each its own",
        ],
        needs=(Reason.HANDSHAKE_INIT_REPLAY.id,),
        not_visible=() if known else ("the two times: the initiation's could not be read",),
    )


def is_copy(event: DropEvent) -> bool:
    """Whether a refused initiation carries the very time of the last one accepted."""
    return event.timestamp is not None and event.timestamp == event.latest_timestamp
