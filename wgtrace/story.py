# SPDX-License-Identifier: GPL-2.0-only
"""Handshakes as a story: each step in a sentence, with what the steps before it tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from wgtrace.diagnosis.icmp import icmp_text
from wgtrace.diagnosis.words import age, count_of, milliseconds, unreachable_why
from wgtrace.events.reasons import Direction, HandshakeCode, Reason, SubReason
from wgtrace.events.types import Endpoint, Flow, HandshakeEvent, IPAddress, PeerRef
from wgtrace.report import SeenDrop, SeenStep
from wgtrace.state.types import Snapshot

ENDPOINT_CHANGED: Final = "endpoint_changed"
TRIES: Final = 20
"""How often an initiation is sent before it is given up: MAX_TIMER_HANDSHAKES and two."""
_REMEMBERED: Final = 32
"""Initiations remembered for each peer, to recognise an answer that comes too late."""

_OVER: Final = (HandshakeCode.HANDSHAKE_COMPLETE, HandshakeCode.GIVE_UP)
_AFRESH_NS: Final = 10_000_000_000
"""Nothing was sent for so long, twice REKEY_TIMEOUT: what is wanted now is another handshake."""
_SENT: Final = (HandshakeCode.INIT_SENT, HandshakeCode.RESPONSE_SENT)
# What begins or ends the time in which a response is on its way out.
_ANSWERING: Final = {
    HandshakeCode.SESSION_DERIVED: True,
    HandshakeCode.RESPONSE_SENT: False,
    HandshakeCode.HANDSHAKE_COMPLETE: False,
}
_MESSAGES: Final = {1: "init", 2: "response", 3: "cookie"}
_SENT_TYPES: Final = {
    **dict.fromkeys(range(256), "what was sent"),
    1: "the initiation",
    2: "the response",
    3: "the cookie",
    4: "data",
}
_NAMES: Final = {"init": "initiation", "response": "response", "cookie": "cookie", "message": "message"}
#: A reason that says by itself what was not sent.
_NOT_SENT: Final = {Reason.INIT_CREATE_FAILED: "init", Reason.RESPONSE_NOT_SENT: "response"}
SENDING: Final = (
    Reason.NO_ROUTE_TO_ENDPOINT,
    Reason.UDP_SOCK_NULL,
    Reason.ENDPOINT_AF_INVALID,
    Reason.HANDSHAKE_TX_NOMEM,
)
REASONS: Final = frozenset((*(r for r in Reason if r.direction is Direction.HANDSHAKE), *SENDING))
"""Drops that a story tells, the last four only of handshake messages."""
EVENTS: Final = (
    *(
        code.id
        for code in HandshakeCode
        if code
        not in (HandshakeCode.INIT_SUPPRESSED_5S, HandshakeCode.INIT_PEER_DEAD, HandshakeCode.STAGED_WAIT)
    ),
    ENDPOINT_CHANGED,
    *(f"{message}_refused" for message in _NAMES),
    "init_not_sent",
    "response_not_sent",
    "cookie_sent",
    "response_late",
)
"""Every event that a story has."""


@dataclass(slots=True)
class _Peer:
    """What the steps of a peer's story leave behind.

    Attributes:
        endpoint_ns: When it was there, CLOCK_BOOTTIME.
        initiations: When each was sent, by its index.
        sent: Initiations since the last answer. WireGuard's own count of retries begins anew with
            each packet that wants a session.
        sent_ns: When the last of them was, CLOCK_BOOTTIME.
        is_of_tries: Whether WireGuard counts as many: after `TRIES` it gives up.
        is_answering: A session was made, and the response is on its way out.
        held: Events that came before one which they follow, see `Story.step`.
        is_old: Whether they were held already when `flush` was last called.
    """

    endpoint: Endpoint | None = None
    endpoint_ns: int = 0
    source: IPAddress | None = None
    out_ifname: str = ""
    initiations: dict[int, int] = field(default_factory=dict)
    sent: int = 0
    sent_ns: int = 0
    is_of_tries: bool = False
    is_answering: bool = False
    held: list[HandshakeEvent] = field(default_factory=list)
    is_old: bool = False


class Story:
    """The stories of all peers, as far as it is needed to go on telling them.

    Args:
        clock_offset_ns: CLOCK_REALTIME minus CLOCK_BOOTTIME.
    """

    def __init__(self, clock_offset_ns: int) -> None:
        self._offset_ns = clock_offset_ns
        self._peers: dict[tuple[str, int, str], _Peer] = {}
        self._snapshot = Snapshot(0, (), ())

    def configured(self, snapshot: Snapshot, by_someone: bool = False) -> list[SeenStep]:
        """Take the configuration; gives the peers that are at another endpoint now.

        Args:
            by_someone: Somebody changed something, which may be why, or not.
        """
        self._snapshot = snapshot
        there = {(d.ifname, d.netns, p.public_key): p for d in snapshot.devices for p in d.peers}
        told = []
        for key, peer in there.items():
            if key not in self._peers:
                self._peers[key] = _Peer(peer.endpoint, snapshot.taken_ns)
            elif peer.endpoint:
                ref = PeerRef(peer.public_key, peer.endpoint, peer.name)
                told += self._moved(key, ref, snapshot.taken_ns, None if by_someone else "roamed")
        self._peers = {key: known for key, known in self._peers.items() if key in there}
        return told

    def step(self, event: HandshakeEvent) -> list[SeenStep]:
        """What an event adds to the story, in order; nothing where it only tells what belongs to others.

        That a message was sent is known when the function that sends it returns. On another
        CPU the answer may have been handled by then: it is held until it has its turn.
        """
        if event.code is HandshakeCode.ICMP_ERROR:
            return self._refused(event)
        if event.peer is None:
            return []
        key = (event.device.ifname, event.device.netns, event.peer.public_key)
        peer = self._peers.setdefault(key, _Peer(event.peer.endpoint, event.ts_ns))
        if peer.held and event.code in _SENT:
            held, peer.held = peer.held, []
            event = replace(event, ts_ns=min(event.ts_ns, held[0].ts_ns))
            return [step for each in (event, *held) for step in self._tell(key, peer, each)]
        is_early = event.code is HandshakeCode.RESPONSE_ACCEPTED and (
            event.receiver_index not in peer.initiations
        )
        is_early |= peer.is_answering and event.code is HandshakeCode.HANDSHAKE_COMPLETE
        if peer.held or is_early:
            peer.is_old = peer.is_old and bool(peer.held)
            peer.held.append(event)
            return []
        return self._tell(key, peer, event)

    def flush(self, *, everything: bool = False) -> list[SeenStep]:
        """What is held since the last call, or at all: what it waits for was before this run, or was lost."""
        told = []
        for key, peer in self._peers.items():
            if peer.held and (peer.is_old or everything):
                held, peer.held = peer.held, []
                told += [step for each in held for step in self._tell(key, peer, each)]
            peer.is_old = bool(peer.held)
        return told

    def _tell(self, key: tuple[str, int, str], peer: _Peer, event: HandshakeEvent) -> list[SeenStep]:
        assert event.peer
        event = replace(event, peer=self._named(key, event.peer))
        assert event.peer
        told = self._moved(key, event.peer, event.ts_ns, "roamed")
        code = event.code
        if code is HandshakeCode.REKEY_REQUESTED:
            peer.sent = 0 if event.ts_ns - peer.sent_ns > _AFRESH_NS else peer.sent
            peer.is_of_tries = False
        elif code is HandshakeCode.RETRY:
            peer.sent = max(peer.sent, event.attempt)  # those before this run count, too
            peer.is_of_tries = peer.sent == event.attempt
        seen = self._seen(event, peer)
        if code is HandshakeCode.ROUTE_FOUND:
            was, now = (peer.source, peer.out_ifname), (event.source, event.out_ifname)
            peer.source, peer.out_ifname = now
            return [*told, seen] if was[1] and was != now else told
        if code in _ANSWERING:
            peer.is_answering = _ANSWERING[code] and event.sub_reason is SubReason.RESPONDER
        if code is HandshakeCode.INIT_SENT:
            peer.sent, peer.sent_ns = peer.sent + 1, event.ts_ns
            peer.initiations[event.sender_index] = event.ts_ns
            for index in list(peer.initiations)[:-_REMEMBERED]:
                del peer.initiations[index]
        elif code in _OVER:
            peer.sent = 0
        elif code is HandshakeCode.RESPONSE_ACCEPTED:
            peer.initiations.pop(event.receiver_index, None)
        return [*told, seen]

    def drop(self, drop: SeenDrop) -> SeenStep | None:
        """What a refused message, or one that was not sent, adds to the story; None: it is of no story."""
        event = drop.event
        if event.reason not in REASONS:
            return None
        message = _NOT_SENT.get(event.reason) or _MESSAGES.get(event.message_type, "message")
        is_ours = event.reason in SENDING or event.reason in _NOT_SENT
        if event.reason in SENDING and message not in ("init", "response"):
            return None
        seen = SeenStep(
            ts_unix_ns=drop.ts_unix_ns,
            ifname=event.device.ifname,
            netns=event.device.netns,
            netns_name=drop.netns_name,
            event=f"{message}_{'not_sent' if is_ours else 'refused'}",
            what=f"{_NAMES[message]} {'not sent' if is_ours else 'refused'}: {drop.why}",
            peer=event.peer,
            origin=None if is_ours or not event.outer else Endpoint(event.outer.saddr, event.outer.sport),
            reason=event.reason,
            sender_index=event.sender_index,
            receiver_index=event.receiver_index,
        )
        if event.reason is Reason.COOKIE_UNDER_LOAD:
            return replace(
                seen, event="cookie_sent", what=f"{_NAMES[message]} answered with a cookie: under load"
            )
        if event.reason is Reason.RESP_UNKNOWN_INDEX:
            return self._late(seen, event.ts_ns)
        return seen

    def _late(self, seen: SeenStep, ts_ns: int) -> SeenStep:
        """Whether a response answers an initiation that was sent before the last one."""
        for key, peer in self._peers.items():
            sent_ns = peer.initiations.get(seen.receiver_index)
            if key[:2] != (seen.ifname, seen.netns) or sent_ns is None:
                continue
            since = ts_ns - sent_ns
            later = sum(1 for other in peer.initiations.values() if other > sent_ns)
            what = f"response came too late: its initiation was sent {age(since / 1e9)} before"
            if later:
                what += f", and {count_of(later, 'newer one')} since"
            who = PeerRef(key[2], peer.endpoint)
            return replace(
                seen, event="response_late", what=what, peer=self._named(key, who), latency_ns=since
            )
        return seen

    def _moved(
        self, key: tuple[str, int, str], ref: PeerRef, ts_ns: int, cause: str | None
    ) -> list[SeenStep]:
        """The peer is at another endpoint than before."""
        peer = self._peers[key]
        before, now = peer.endpoint, ref.endpoint
        if now is None or now == before or ts_ns < peer.endpoint_ns:
            return []
        peer.endpoint, peer.endpoint_ns = now, ts_ns
        if before is None:
            what = f"endpoint learned: {now}" if cause else f"endpoint is now {now}"
        else:
            is_port = cause is not None and before.addr == now.addr
            how = ", only the port: a NAT gave it another" if is_port else ""
            what = f"endpoint changed: {before} -> {now}{how}"
        return [
            SeenStep(
                ts_unix_ns=ts_ns + self._offset_ns,
                ifname=key[0],
                netns=key[1],
                netns_name=self._netns_name(key[1]),
                event=ENDPOINT_CHANGED,
                what=what,
                peer=self._named(key, ref),
                cause=cause,
                before=before,
            )
        ]

    def _seen(self, event: HandshakeEvent, peer: _Peer) -> SeenStep:
        is_session = event.sub_reason in (SubReason.INITIATOR, SubReason.RESPONDER)
        is_sent = event.code in _SENT
        is_route = event.code is HandshakeCode.ROUTE_FOUND
        is_try = event.code in (HandshakeCode.INIT_SENT, HandshakeCode.RETRY)
        attempt = peer.sent if is_try else event.attempt
        return SeenStep(
            ts_unix_ns=event.ts_ns + self._offset_ns,
            ifname=event.device.ifname,
            netns=event.device.netns,
            netns_name=self._netns_name(event.device.netns),
            event=event.code.id,
            what=_SENTENCES[event.code](event, peer),
            peer=event.peer,
            cause=None if is_session else event.sub_reason.id,
            role=event.sub_reason.id if is_session else None,
            attempt=attempt,
            sender_index=event.sender_index,
            receiver_index=event.receiver_index,
            latency_ns=event.latency_ns,
            session_age_ns=event.session_age_ns,
            source=event.source if is_route else peer.source if is_sent else None,
            out_ifname=event.out_ifname if is_route else peer.out_ifname if is_sent else "",
            inner=event.inner,
            queue_len=event.queue_len,
        )

    def _refused(self, event: HandshakeEvent) -> list[SeenStep]:
        """An ICMP error: of the peer that what was sent went to, if there is but one at that endpoint."""
        sent, device = event.inner, self._snapshot.device(event.device.ifname, event.device.netns)
        if sent is None or event.icmp is None or event.source is None:
            return []
        to = Endpoint(sent.daddr, sent.dport)
        there = [peer for peer in device.peers if peer.endpoint == to] if device else []
        said = icmp_text(sent.family, *event.icmp)
        return [
            SeenStep(
                ts_unix_ns=event.ts_ns + self._offset_ns,
                ifname=event.device.ifname,
                netns=event.device.netns,
                netns_name=self._netns_name(event.device.netns),
                event=event.code.id,
                what=f"{said}, says {event.source}: {_SENT_TYPES[event.message_type]} to {to} was refused",
                peer=PeerRef(there[0].public_key, to, there[0].name) if len(there) == 1 else None,
                inner=sent,
                icmp=(*event.icmp, event.source),
            )
        ]

    def _named(self, key: tuple[str, int, str], peer: PeerRef) -> PeerRef:
        device = self._snapshot.device(key[0], key[1])
        known = device.peer(key[2]) if device else None
        return replace(peer, name=known.name) if known and known.name else peer

    def _netns_name(self, netns: int) -> str | None:
        return next((space.name for space in self._snapshot.namespaces if space.inode == netns), None)


def _flow(flow: Flow) -> str:
    return f"{flow.saddr} > {flow.daddr}"


def _waiting(event: HandshakeEvent) -> str:
    """What waits for the session, as the end of a sentence."""
    if not event.queue_len:
        return ""
    first = _flow(event.inner) if event.inner else "a keepalive"
    more = f" and {count_of(event.queue_len - 1, 'packet')} more" if event.queue_len > 1 else ""
    return f"; {first}{more} {'wait' if more else 'waits'}"


def _requested(event: HandshakeEvent, peer: _Peer) -> str:
    seconds = event.session_age_ns // 1_000_000_000
    why = {
        SubReason.KEY_ABSENT: "there is no session",
        SubReason.KEY_INVALIDATED: "the session may not be used any more",
        SubReason.KEYPAIR_EXPIRED: "the session is over 180 s old",
        SubReason.NONCE_EXHAUSTED: "the session has used up its message counter",
        SubReason.KEY_OLD: f"the session is {seconds} s old, and gets a successor from 120 s on",
        SubReason.LAST_MINUTE: f"the session is {seconds} s old, and ends at 180 s",
        SubReason.NO_ANSWER: "nothing came for 15 s after data was sent",
    }.get(event.sub_reason, "it is asked for")
    return f"handshake wanted: {why}{_waiting(event)}"


def _try(peer: _Peer) -> str:
    return f"try {peer.sent + 1}{f' of {TRIES}' if peer.is_of_tries else ''}"


def _sent(message: str) -> Callable[[HandshakeEvent, _Peer], str]:
    def sentence(event: HandshakeEvent, peer: _Peer) -> str:
        endpoint = event.peer.endpoint if event.peer else None
        to = f" to {endpoint}" if endpoint else ""
        by = f" from {peer.source} by {peer.out_ifname}" if peer.source else ""
        again = f", {_try(peer)}" if peer.sent and message == "initiation" else ""
        return f"{message} sent{to}{by}{again}"

    return sentence


def _gave_up(event: HandshakeEvent, peer: _Peer) -> str:
    lost = f"; {count_of(event.queue_len, 'packet')} thrown away" if event.queue_len else ""
    return f"no answer to {TRIES} initiations: given up{lost}"


def _accepted(event: HandshakeEvent, peer: _Peer) -> str:
    sent_ns = peer.initiations.get(event.receiver_index)
    after = f", {milliseconds(event.ts_ns - sent_ns)} after the initiation left" if sent_ns else ""
    return f"response accepted{after}"


def _derived(event: HandshakeEvent, peer: _Peer) -> str:
    indices = f"session {event.sender_index:08x} made"
    return indices if event.sub_reason is SubReason.INITIATOR else f"{indices}, until confirmed not sent with"


def _complete(event: HandshakeEvent, peer: _Peer) -> str:
    if event.sub_reason is SubReason.RESPONDER:
        after = f", {milliseconds(event.latency_ns)} after the initiation came" if event.latency_ns else ""
        return f"session confirmed by its first packet{after}"
    return f"session up{f', it took {milliseconds(event.latency_ns)}' if event.latency_ns else ''}"


def _cleared(event: HandshakeEvent, peer: _Peer) -> str:
    why = {
        SubReason.UNUSED_540S: "540 s without a new session",
        SubReason.INTERFACE_DOWN: "the interface went down",
        SubReason.PEER_REMOVED: "the peer was removed",
        SubReason.SUSPENDED: "the machine was suspended",
    }.get(event.sub_reason, "WireGuard forgot them")
    return f"keys zeroed: {why}"


def _routed(event: HandshakeEvent, peer: _Peer) -> str:
    return f"sent from {event.source} by {event.out_ifname} from now on"


def _unreachable(event: HandshakeEvent, peer: _Peer) -> str:
    return f"{event.source} says that a datagram did not arrive: {unreachable_why(event.sub_reason)}"


_SENTENCES: Final[dict[HandshakeCode, Callable[[HandshakeEvent, _Peer], str]]] = {
    HandshakeCode.REKEY_REQUESTED: _requested,
    HandshakeCode.NO_ANSWER_15S: lambda event, peer: "data was sent, and nothing came for 15 s",
    HandshakeCode.INIT_SENT: _sent("initiation"),
    HandshakeCode.RETRY: lambda event, peer: f"no answer for 5 s: {_try(peer)}{_waiting(event)}",
    HandshakeCode.GIVE_UP: _gave_up,
    HandshakeCode.INIT_ACCEPTED: lambda event, peer: "initiation accepted",
    HandshakeCode.RESPONSE_SENT: _sent("response"),
    HandshakeCode.RESPONSE_ACCEPTED: _accepted,
    HandshakeCode.SESSION_DERIVED: _derived,
    HandshakeCode.HANDSHAKE_COMPLETE: _complete,
    HandshakeCode.COOKIE_RECEIVED: lambda event, peer: "cookie accepted: the next initiation carries it",
    HandshakeCode.ROUTE_FOUND: _routed,
    HandshakeCode.KEYS_CLEARED: _cleared,
    HandshakeCode.UNREACHABLE: _unreachable,
    HandshakeCode.KEYS_EXPIRED: lambda event, peer: "session ended: this end has a new private key",
}
