# SPDX-License-Identifier: GPL-2.0-only
"""Story: each step in a sentence, with what the steps before it tell."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from factories import (
    BERLIN,
    BOOT_NS,
    NETNS,
    NOW,
    OFFSET_NS,
    OSLO,
    STRANGER,
    device,
    drop,
    endpoint,
    flow,
    outer,
    peer,
    seen,
    snapshot,
)

from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.events.types import DeviceRef, HandshakeEvent, PeerRef
from wgtrace.report import SeenStep
from wgtrace.story import EVENTS, REASONS, Story

SECOND = 1_000_000_000
AT_HOME = endpoint("203.0.113.9:51820")
WHERE = DeviceRef("wg0", NETNS, 7)
UDP = flow("10.9.0.1", "10.9.0.2", 17, 4000, 53)


def story() -> Story:
    """Of wg0 as the factories have it."""
    told = Story(OFFSET_NS)
    assert told.configured(snapshot()) == []
    return told


def event(code: HandshakeCode, after_s: float = 0, **more: Any) -> HandshakeEvent:
    """A step with berlin, at its configured endpoint."""
    given: dict[str, Any] = {"peer": PeerRef(BERLIN, AT_HOME), **more}
    return HandshakeEvent(BOOT_NS + int(after_s * SECOND), WHERE, code, **given)


def one(told: Story, what: HandshakeEvent) -> SeenStep:
    """The one step that an event makes."""
    (step,) = told.step(what)
    return step


def test_a_handshake_reads_as_a_story() -> None:
    """Wish, initiation with its route, answer, session: each with the facts of this one."""
    told = story()
    events = [
        event(HandshakeCode.REKEY_REQUESTED, 0, sub_reason=SubReason.KEY_ABSENT, queue_len=3, inner=UDP),
        event(HandshakeCode.ROUTE_FOUND, 0.001, source=outer().daddr, out_ifname="eth0"),
        event(HandshakeCode.INIT_SENT, 0.002, sender_index=0xABCD),
        event(HandshakeCode.RESPONSE_ACCEPTED, 0.107, sender_index=7, receiver_index=0xABCD),
        event(HandshakeCode.SESSION_DERIVED, 0.108, sub_reason=SubReason.INITIATOR, sender_index=0xABCD),
        event(
            HandshakeCode.HANDSHAKE_COMPLETE,
            0.109,
            sub_reason=SubReason.INITIATOR,
            sender_index=0xABCD,
            latency_ns=107_000_000,
        ),
    ]

    steps = [step for each in events for step in told.step(each)]

    assert [step.what for step in steps] == [
        "handshake wanted: there is no session; 10.9.0.1 > 10.9.0.2 and 2 packets more wait",
        "initiation sent to 203.0.113.9:51820 from 198.51.100.1 by eth0",
        "response accepted, 105 ms after the initiation left",
        "session 0000abcd made",
        "session up, it took 107 ms",
    ]
    assert {step.peer.name for step in steps if step.peer} == {"berlin"}
    assert steps[0].ts_unix_ns == NOW
    assert (steps[0].cause, steps[0].role) == ("key_absent", None)
    assert (steps[-1].cause, steps[-1].role) == (None, "initiator")
    assert str(steps[1].source) == "198.51.100.1"


def test_the_other_end_of_it() -> None:
    """Who answers has a session at once, and may use it only when it is confirmed."""
    told = story()
    role = {"sub_reason": SubReason.RESPONDER}

    assert [
        one(told, event(code, **more)).what
        for code, more in (
            (HandshakeCode.INIT_ACCEPTED, {"sender_index": 5}),
            (HandshakeCode.SESSION_DERIVED, {**role, "sender_index": 0x17}),
            (HandshakeCode.RESPONSE_SENT, {}),
            (HandshakeCode.HANDSHAKE_COMPLETE, {**role, "latency_ns": 870_000}),
        )
    ] == [
        "initiation accepted",
        "session 00000017 made, until confirmed not sent with",
        "response sent to 203.0.113.9:51820",
        "session confirmed by its first packet, 0.87 ms after the initiation came",
    ]


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (SubReason.KEY_INVALIDATED, "the session may not be used any more"),
        (SubReason.KEYPAIR_EXPIRED, "the session is over 180 s old"),
        (SubReason.NONCE_EXHAUSTED, "the session has used up its message counter"),
        (SubReason.KEY_OLD, "the session is 121 s old, and gets a successor from 120 s on"),
        (SubReason.LAST_MINUTE, "the session is 121 s old, and ends at 180 s"),
        (SubReason.NO_ANSWER, "nothing came for 15 s after data was sent"),
    ],
)
def test_why_a_handshake_is_wanted(why: SubReason, said: str) -> None:
    """Each cause has its sentence and its id."""
    step = one(
        story(),
        event(HandshakeCode.REKEY_REQUESTED, sub_reason=why, session_age_ns=121_900_000_000),
    )
    assert (step.what, step.cause) == (f"handshake wanted: {said}", why.id)


def test_retries_are_counted_until_it_is_given_up() -> None:
    """The n-th initiation is said to be the n-th of 20; the next wish begins anew."""
    told = story()
    request = event(HandshakeCode.REKEY_REQUESTED, sub_reason=SubReason.KEY_ABSENT, queue_len=1)
    assert one(told, request).what == "handshake wanted: there is no session; a keepalive waits"
    assert one(told, event(HandshakeCode.INIT_SENT, 0, sender_index=1)).attempt == 0
    for attempt in (1, 2):
        retry = one(told, event(HandshakeCode.RETRY, 5 * attempt, attempt=attempt))
        assert (retry.what, retry.attempt) == (f"no answer for 5 s: try {attempt + 1} of 20", attempt)
        sent = one(told, event(HandshakeCode.INIT_SENT, 5 * attempt, sender_index=attempt + 1))
        assert sent.what == f"initiation sent to 203.0.113.9:51820, try {attempt + 1} of 20"
        assert sent.attempt == attempt

    gave_up = one(told, event(HandshakeCode.GIVE_UP, 104, attempt=20, queue_len=7))
    assert gave_up.what == "no answer to 20 initiations: given up; 7 packets thrown away"
    assert one(told, event(HandshakeCode.INIT_SENT, 110, sender_index=9)).attempt == 0


def test_retries_are_counted_while_traffic_goes_on() -> None:
    """Each packet has WireGuard begin its count anew: the tries are counted here, and 20 are not the end."""
    told = story()
    request = event(HandshakeCode.REKEY_REQUESTED, 0, sub_reason=SubReason.KEY_ABSENT)
    one(told, request)
    one(told, event(HandshakeCode.INIT_SENT, 0, sender_index=1))
    for attempt in (1, 2, 3):
        retry = one(told, event(HandshakeCode.RETRY, 5 * attempt, attempt=1))
        assert retry.attempt == attempt
        sent = one(told, event(HandshakeCode.INIT_SENT, 5 * attempt, sender_index=attempt + 1))
        assert (sent.attempt, sent.what.rpartition(", ")[2]) == (
            attempt,
            f"try {attempt + 1}" + (" of 20" if attempt == 1 else ""),
        )
    one(told, event(HandshakeCode.REKEY_REQUESTED, 20, sub_reason=SubReason.KEY_ABSENT))  # a packet was first
    assert one(told, event(HandshakeCode.INIT_SENT, 20, sender_index=9)).attempt == 4
    one(told, event(HandshakeCode.HANDSHAKE_COMPLETE, 21, sub_reason=SubReason.INITIATOR))
    one(told, request)
    assert one(told, event(HandshakeCode.INIT_SENT, 200, sender_index=10)).attempt == 0


def late(index: int, after_s: float) -> SeenStep:
    """A response to this initiation, which the kernel does not wait for."""
    event = drop(Reason.RESP_UNKNOWN_INDEX, None, receiver_index=index, message_type=2, outer=outer())
    return _told(seen(replace(event, ts_ns=BOOT_NS + int(after_s * SECOND))))


TOLD: list[Story] = []


def _told(dropped: Any) -> SeenStep:
    step = TOLD[-1].drop(dropped)
    assert step
    return step


def test_an_answer_that_is_late_is_of_its_initiation() -> None:
    """An answer to the one before the last is late, by so much, and it is berlin's."""
    TOLD.append(story())
    one(TOLD[-1], event(HandshakeCode.INIT_SENT, 0, sender_index=0xA))
    one(TOLD[-1], event(HandshakeCode.INIT_SENT, 5.2, sender_index=0xB))

    step = late(0xA, 6.2)
    assert step.event == "response_late"
    assert step.what == "response came too late: its initiation was sent 6.2 s before, and 1 newer one since"
    assert step.peer == PeerRef(BERLIN, AT_HOME, "berlin")
    assert (step.latency_ns, step.reason) == (6_200_000_000, Reason.RESP_UNKNOWN_INDEX)


def test_an_answer_to_what_was_never_asked_is_refused() -> None:
    """Nor is one late whose initiation was answered: that is a copy."""
    TOLD.append(story())
    one(TOLD[-1], event(HandshakeCode.INIT_SENT, 0, sender_index=0xA))
    one(TOLD[-1], event(HandshakeCode.RESPONSE_ACCEPTED, 1, receiver_index=0xA))

    for index in (0xA, 0xC):
        step = late(index, 2)
        assert (step.event, step.peer) == ("response_refused", None)
        assert str(step.origin) == "203.0.113.9:51820"


def test_only_the_last_initiations_are_remembered() -> None:
    """A peer that never answers does not fill the memory."""
    TOLD.append(story())
    for index in range(1, 41):
        one(TOLD[-1], event(HandshakeCode.INIT_SENT, index, sender_index=index))
    assert late(8, 50).event == "response_refused"
    assert late(9, 50).event == "response_late"


def test_refusals_say_what_and_why() -> None:
    """The message, the reason of `drops`, and from where."""
    told = story()
    unknown = drop(Reason.UNKNOWN_PEER_PUBKEY, message_type=1, unknown_public_key=STRANGER, outer=outer())
    step = told.drop(seen(unknown))
    assert step
    assert (step.event, step.reason) == ("init_refused", Reason.UNKNOWN_PEER_PUBKEY)
    assert step.what.startswith("initiation refused: public key ")
    assert step.origin == AT_HOME

    cookie = told.drop(seen(drop(Reason.COOKIE_UNDER_LOAD, message_type=1, outer=outer())))
    assert cookie
    assert (cookie.event, cookie.what) == ("cookie_sent", "initiation answered with a cookie: under load")


def test_what_was_not_sent_is_of_us() -> None:
    """An initiation without a route, or without a key; a data packet is of no story."""
    told = story()
    lost = told.drop(seen(drop(Reason.NO_ROUTE_TO_ENDPOINT, BERLIN, message_type=1, errno=101)))
    assert lost
    assert (lost.event, lost.origin) == ("init_not_sent", None)
    assert "Network is unreachable" in lost.what
    unmade = told.drop(seen(drop(Reason.INIT_CREATE_FAILED, BERLIN, message_type=1)))
    assert unmade
    assert unmade.event == "init_not_sent"

    assert told.drop(seen(drop(Reason.NO_ROUTE_TO_ENDPOINT, BERLIN, message_type=4))) is None
    assert told.drop(seen(drop(Reason.SRC_NOT_ALLOWED, BERLIN))) is None


@pytest.mark.parametrize("reason", sorted(REASONS))
@pytest.mark.parametrize("message_type", [0, 1, 2, 3])
def test_every_refusal_has_an_event(reason: Reason, message_type: int) -> None:
    """Whatever the message, the event is one of those that there are."""
    step = story().drop(seen(drop(reason, BERLIN, message_type=message_type, receiver_index=1)))
    assert step is None or step.event in EVENTS


@pytest.mark.parametrize(
    "code",
    [code for code in HandshakeCode if code.id in EVENTS and code is not HandshakeCode.ICMP_ERROR],
)
def test_every_step_has_a_sentence(code: HandshakeCode) -> None:
    """Also where nothing is known but the code."""
    told = story()
    steps = [*told.step(event(code, peer=PeerRef(OSLO))), *told.flush(everything=True)]
    assert all(step.what and not step.what.endswith(".") for step in steps)
    assert [step.event for step in steps] == ([] if code is HandshakeCode.ROUTE_FOUND else [code.id])


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("198.51.100.77:51820", "endpoint changed: 203.0.113.9:51820 -> 198.51.100.77:51820"),
        (
            "203.0.113.9:1024",
            "endpoint changed: 203.0.113.9:51820 -> 203.0.113.9:1024, only the port: a NAT gave it another",
        ),
    ],
)
def test_a_peer_that_moves_is_told_once(now: str, said: str) -> None:
    """By the first event that has it elsewhere, before that event; then it is there."""
    told = story()
    moved = PeerRef(BERLIN, endpoint(now))
    first, second = told.step(event(HandshakeCode.INIT_ACCEPTED, 1, peer=moved))
    assert (first.event, first.what, first.before, first.cause) == (
        "endpoint_changed",
        said,
        AT_HOME,
        "roamed",
    )
    assert second.event == "init_accepted"
    assert [s.event for s in told.step(event(HandshakeCode.RESPONSE_SENT, 2, peer=moved))] == [
        "response_sent"
    ]


def test_a_new_configuration_moves_peers_too() -> None:
    """Somebody may have entered it, so it is not called roaming; an event from before it changes nothing."""
    told = story()
    state = replace(
        snapshot(device(peers=(peer(BERLIN, "berlin", "10.9.0.2/32", at="198.51.100.8:51820"),))),
        taken_ns=BOOT_NS + 2 * SECOND,
    )
    (step,) = told.configured(state, by_someone=True)
    assert step.what == "endpoint changed: 203.0.113.9:51820 -> 198.51.100.8:51820"
    assert step.cause is None
    assert [s.event for s in told.step(event(HandshakeCode.INIT_SENT, 1))] == ["init_sent"]


def test_an_endpoint_that_was_not_known_is_learned() -> None:
    """The first word of a peer without endpoint says where it is."""
    first, _second = story().step(
        event(HandshakeCode.INIT_ACCEPTED, 1, peer=PeerRef(OSLO, endpoint("192.0.2.4:1024")))
    )
    assert (first.what, first.before) == ("endpoint learned: 192.0.2.4:1024", None)


def test_another_route_is_told_and_the_first_one_is_not() -> None:
    """What each initiation says anyway is no news; that packets go another way now is."""
    told = story()
    way = {"source": outer().daddr, "out_ifname": "eth0"}
    assert told.step(event(HandshakeCode.ROUTE_FOUND, 0, **way)) == []
    assert told.step(event(HandshakeCode.ROUTE_FOUND, 1, **way)) == []
    step = one(told, event(HandshakeCode.ROUTE_FOUND, 2, source=outer().daddr, out_ifname="wlan0"))
    assert step.what == "sent from 198.51.100.1 by wlan0 from now on"


def test_why_keys_are_zeroed() -> None:
    """Each cause has its words."""
    said = {
        cause: one(story(), event(HandshakeCode.KEYS_CLEARED, sub_reason=cause)).what
        for cause in (
            SubReason.UNUSED_540S,
            SubReason.INTERFACE_DOWN,
            SubReason.PEER_REMOVED,
            SubReason.SUSPENDED,
        )
    }
    assert len(set(said.values())) == 4
    assert said[SubReason.INTERFACE_DOWN] == "keys zeroed: the interface went down"


def test_a_peer_that_is_gone_is_forgotten() -> None:
    """Added again elsewhere it has not moved."""
    told = story()
    assert told.configured(snapshot(device(peers=()))) == []
    elsewhere = snapshot(device(peers=(peer(BERLIN, "berlin", at="198.51.100.8:51820"),)))
    assert told.configured(elsewhere) == []


def answer(
    code: HandshakeCode = HandshakeCode.RESPONSE_ACCEPTED, at_s: float = 1, **more: Any
) -> HandshakeEvent:
    """An answer to the initiation 0xA."""
    return event(code, at_s, **{"receiver_index": 0xA, **more})


def test_an_answer_waits_for_what_it_answers() -> None:
    """The initiation was sent on another CPU and is told after its answer: it goes before it all the same."""
    told = story()
    done = event(HandshakeCode.HANDSHAKE_COMPLETE, 1.1, sub_reason=SubReason.INITIATOR)
    assert told.step(answer()) == told.step(done) == told.flush() == []

    steps = told.step(event(HandshakeCode.INIT_SENT, 1.2, sender_index=0xA))
    assert [step.event for step in steps] == ["init_sent", "response_accepted", "handshake_complete"]
    assert [step.ts_unix_ns for step in steps] == sorted(step.ts_unix_ns for step in steps)
    assert told.flush() == told.flush() == []


def test_a_confirmation_waits_for_the_response() -> None:
    """As the packet that confirms a session may be faster than the return of who sent the response."""
    told = story()
    role = {"sub_reason": SubReason.RESPONDER}
    assert told.step(event(HandshakeCode.SESSION_DERIVED, 1, **role))
    assert told.step(event(HandshakeCode.HANDSHAKE_COMPLETE, 1.1, **role)) == []
    steps = told.step(event(HandshakeCode.RESPONSE_SENT, 1.2))
    assert [step.event for step in steps] == ["response_sent", "handshake_complete"]
    assert told.step(event(HandshakeCode.HANDSHAKE_COMPLETE, 2, **role))


@pytest.mark.parametrize("everything", [False, True])
def test_nothing_waits_for_long(everything: bool) -> None:
    """The initiation was sent before the run, or its record was lost: told one poll later, or in the end."""
    told = story()
    assert told.step(answer()) == []
    if not everything:
        assert told.flush() == []
    assert [step.event for step in told.flush(everything=everything)] == ["response_accepted"]


def icmp(family: int, kind: int, code: int, to: str, message_type: int = 1) -> HandshakeEvent:
    """An ICMP error from a router for what was sent to an endpoint."""
    here, router = ("10.0.0.1", "192.0.2.1") if family == 4 else ("fd00::1", "fd00::9")
    where = endpoint(to)
    return event(
        HandshakeCode.ICMP_ERROR,
        peer=None,
        inner=flow(here, str(where.addr), 17, 51820, where.port),
        source=ip_address(router),
        icmp=(kind, code),
        message_type=message_type,
    )


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ((4, 3, 3, "203.0.113.9:51820", 1), "port closed (ICMP 3/3), says 192.0.2.1: the initiation to"),
        ((4, 3, 13, "203.0.113.9:51820", 4), "prohibited by a firewall (ICMP 3/13), says 192.0.2.1: data to"),
        ((4, 11, 0, "203.0.113.9:51820", 0), "time to live exceeded (ICMP 11/0), says 192.0.2.1: what was"),
        ((6, 1, 4, "[fd00::7]:51820", 2), "port closed (ICMPv6 1/4), says fd00::9: the response to"),
        ((6, 77, 7, "[fd00::7]:51820", 1), "error (ICMPv6 77/7), says fd00::9: the initiation to"),
    ],
)
def test_icmp_errors_are_told(errors: tuple[int, int, int, str, int], said: str) -> None:
    """What they say, who, and of which message; whose it was, if just one peer is at that endpoint."""
    step = one(story(), icmp(*errors))

    assert step.what.startswith(said)
    assert step.event == "icmp_error"
    assert (step.peer.public_key if step.peer else None) == (BERLIN if errors[0] == 4 else None)
    assert step.icmp is not None
    assert step.icmp[:2] == errors[1:3]
