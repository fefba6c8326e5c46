# SPDX-License-Identifier: GPL-2.0-only
"""rules/handshake: handshakes that cannot start, are not answered, or come out of the past."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from factories import (
    BERLIN,
    NOW,
    OSLO,
    OURS,
    PARIS,
    Scene,
    device,
    drop,
    flow,
    missing_probe,
    outer,
    peer,
    snapshot,
)

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.events.types import DropEvent, PeerRef, Tai64n
from wgtrace.state.types import Way

HOUR_NS = 3_600_000_000_000


def no_endpoint() -> DropEvent:
    """A packet for a peer without endpoint."""
    return drop(Reason.NO_ENDPOINT, OSLO, inner=flow("10.9.0.1", "10.9.0.4", 1))


def initiation(behind_ns: int | None = HOUR_NS) -> DropEvent:
    """An initiation of paris whose time is this much before the last accepted one."""
    times: dict[str, Any] = {}
    if behind_ns is not None:
        times = {"timestamp": Tai64n(NOW - behind_ns), "latest_timestamp": Tai64n(NOW)}
    return drop(Reason.HANDSHAKE_INIT_REPLAY, PARIS, outer=outer("2001:db8::3", 4500), **times)


def unanswered(key: str = BERLIN, count: int = 7) -> Scene:
    """A peer that has answered nothing."""
    return Scene().stepped(HandshakeCode.INIT_SENT, key, count)


def test_no_endpoint_says_how_to_give_one() -> None:
    """The peer, the count and both remedies."""
    finding = Scene().dropped(no_endpoint(), 7).only()

    assert (finding.slug, finding.count, finding.severity) == ("no-endpoint", 7, Severity.ERROR)
    assert finding.fix[0] == f"wg set wg0 peer {OSLO} endpoint HOST:PORT"
    assert "persistent-keepalive" in finding.fix[1]


def test_no_endpoint_that_was_learned_meanwhile_says_so() -> None:
    """A peer that has an endpoint by now needs no command."""
    state = snapshot(device(peers=(peer(OSLO, "oslo", at="192.0.2.9:51820"),)))
    finding = Scene(state).dropped(no_endpoint()).only()

    assert finding.fix == ("nothing: oslo has the endpoint 192.0.2.9:51820 by now",)


def test_no_endpoint_is_not_an_unreachable_peer() -> None:
    """Nothing was sent, so nothing went unanswered."""
    assert Scene().dropped(no_endpoint()).stepped(HandshakeCode.RETRY, OSLO, 2).slugs == ["no-endpoint"]


def test_no_endpoint_of_an_unknown_peer_stays_silent() -> None:
    """Without a peer there is nobody to give an endpoint to."""
    assert Scene().dropped(drop(Reason.NO_ENDPOINT)).slugs == []


def test_peer_unreachable_says_how_often_and_since_when() -> None:
    """Attempts, start, and what cannot be known from one side."""
    finding = unanswered().only()

    assert (finding.slug, finding.severity) == ("peer-unreachable", Severity.ERROR)
    assert finding.cause == (
        "7 handshake initiations went to berlin at 203.0.113.9:51820 since 2026-11-22 12:04:11 UTC, "
        "and none was answered."
    )
    assert finding.confidence is Confidence.LIKELY
    assert any("arrive at berlin" in text for text in finding.not_visible)


def test_peer_unreachable_says_which_way_they_go() -> None:
    """Where the route is known it is said, and the command looks for what comes back there."""
    way = Way(ip_address("203.0.113.9"), mark=7, oif="eth0", gateway=ip_address("198.51.100.254"))
    finding = unanswered().asked(BERLIN, way).only()

    assert "ip route get 203.0.113.9 mark 0x7 says via 198.51.100.254 dev eth0" in finding.evidence
    assert "tcpdump -ni eth0 'udp port 51820 and host 203.0.113.9'" in finding.fix
    assert "ip route get 203.0.113.9" in unanswered().only().fix


def test_peer_unreachable_counts_the_packets_that_waited() -> None:
    """Overflow and purge of the waiting packets are evidence of it, and its count."""
    scene = unanswered().stepped(HandshakeCode.GIVE_UP, BERLIN)
    scene.dropped(drop(Reason.STAGED_QUEUE_OVERFLOW, BERLIN), 271)
    finding = scene.dropped(drop(Reason.STAGED_PURGED_GIVEUP, BERLIN), 129).only()

    assert finding.count == 400
    assert "gave up after 20 attempts, once" in finding.evidence


@pytest.mark.parametrize(
    "answer", [HandshakeCode.RESPONSE_ACCEPTED, HandshakeCode.HANDSHAKE_COMPLETE, HandshakeCode.INIT_ACCEPTED]
)
def test_a_peer_that_answers_is_reachable(answer: HandshakeCode) -> None:
    """One answer after retries is a healthy, if lossy, path."""
    assert unanswered().stepped(answer, BERLIN).slugs == []


def test_one_initiation_is_no_finding() -> None:
    """A run that ends before the answer does not cry wolf."""
    assert unanswered(count=1).slugs == []


def test_one_retry_is_enough() -> None:
    """A retry means that five seconds passed without an answer."""
    scene = unanswered(count=1).stepped(HandshakeCode.RETRY, BERLIN)

    assert scene.slugs == ["peer-unreachable"]


@pytest.mark.parametrize("reason", [Reason.NO_ROUTE_TO_ENDPOINT, Reason.UDP_SOCK_NULL])
def test_what_was_never_sent_is_not_unreachable(reason: Reason) -> None:
    """Initiations that did not leave this host cannot be unanswered."""
    assert "peer-unreachable" not in unanswered().dropped(drop(reason, BERLIN)).slugs


def test_a_response_that_fails_is_not_silence() -> None:
    """The preshared key is nearer to the root than the missing session."""
    scene = unanswered().dropped(drop(Reason.RESP_DECRYPT_FAILED, BERLIN, outer=outer()), 7)

    assert scene.slugs == ["preshared-key-mismatch"]


def test_a_peer_that_fell_silent_is_found() -> None:
    """After an answer, three attempts in a row without one are no lost packet any more."""
    scene = Scene().stepped(HandshakeCode.RESPONSE_ACCEPTED, BERLIN)

    assert scene.stepped(HandshakeCode.INIT_SENT, BERLIN, 2).slugs == []
    assert scene.stepped(HandshakeCode.INIT_SENT, BERLIN, 1).slugs == ["peer-unreachable"]


def test_peer_unreachable_is_only_possible_when_answers_are_not_visible() -> None:
    """Without the probe that sees responses, silence proves little."""
    scene = unanswered()
    scene.probes = (missing_probe("response_accepted"),)
    finding = scene.only()

    assert finding.confidence is Confidence.POSSIBLE
    assert "the thing that happens" in finding.not_visible


def test_clock_went_back_gives_both_times() -> None:
    """By how much, both times, and commands that give the peer back all that it had."""
    finding = Scene().dropped(initiation(), 7).only()

    assert (finding.slug, finding.count, finding.confidence) == (
        "peer-clock-went-back",
        7,
        Confidence.CERTAIN,
    )
    assert finding.cause == (
        "The clock of paris went back 60 min: it sends 2026-11-22 11:04:11.203, "
        "and 2026-11-22 12:04:11.203 was accepted before (UTC)."
    )
    assert f"wg set wg0 peer {PARIS} remove" in finding.fix
    assert (
        f"wg set wg0 peer {PARIS} allowed-ips 10.9.0.3/32,10.9.4.0/24 endpoint [2001:db8::3]:4500"
        in finding.fix
    )


def test_clock_remedy_keeps_preshared_key_and_keepalive() -> None:
    """Removing a peer forgets its preshared key: the command says so."""
    given = peer(PARIS, "paris", "10.9.0.3/32", has_preshared_key=True, persistent_keepalive=25)
    finding = Scene(snapshot(device(peers=(given,)))).dropped(initiation()).only()

    assert any(
        text.endswith("preshared-key FILE allowed-ips 10.9.0.3/32 persistent-keepalive 25")
        for text in finding.fix
    )


def test_a_copied_initiation_is_no_clock() -> None:
    """The very time that was accepted before is the same initiation again."""
    assert Scene().dropped(initiation(0), 3).slugs == []


def test_copies_do_not_hide_a_clock() -> None:
    """With both kinds only the older ones count."""
    scene = Scene().dropped(initiation(0), 3).dropped(initiation(), 5)

    assert [(f.slug, f.count) for f in scene.findings] == [("peer-clock-went-back", 5)]


def test_clock_without_times_is_less_sure() -> None:
    """When the times could not be read the finding says so."""
    finding = Scene().dropped(initiation(None)).only()

    assert finding.confidence is Confidence.LIKELY
    assert finding.not_visible


def test_handshake_flood_is_no_clock() -> None:
    """Two initiations within 20 ms are another matter."""
    assert "peer-clock-went-back" not in Scene().dropped(drop(Reason.HANDSHAKE_FLOOD, PARIS)).slugs


def answered(count: int) -> Scene:
    """Berlin asks so often, and is answered."""
    return Scene().stepped(HandshakeCode.SESSION_DERIVED, BERLIN, count, SubReason.RESPONDER)


def test_response_lost_says_how_often_it_asked() -> None:
    """Both causes that look alike from here, and how the other end tells them apart."""
    finding = answered(7).only()

    assert (finding.slug, finding.confidence) == ("response-lost", Confidence.LIKELY)
    assert finding.cause.startswith("berlin at 203.0.113.9:51820 asked for a session 7 times")
    assert "wgtrace handshakes" in finding.fix[0]
    assert "port 51820" in finding.fix[2]


def test_no_response_is_lost_that_was_confirmed() -> None:
    """Twice may be chance; a confirmed session ends the row; sessions that we asked for are none."""
    assert answered(2).slugs == []
    confirmed = answered(2).stepped(HandshakeCode.HANDSHAKE_COMPLETE, BERLIN, 1, SubReason.RESPONDER)
    again = confirmed.stepped(HandshakeCode.SESSION_DERIVED, BERLIN, 2, SubReason.RESPONDER)
    assert again.slugs == []
    assert Scene().stepped(HandshakeCode.SESSION_DERIVED, BERLIN, 7, SubReason.INITIATOR).slugs == []


def test_response_lost_without_confirmations_in_sight_says_so() -> None:
    """Where a probe is missing, what it would have shown is not visible."""
    scene = answered(7)
    scene.probes = (missing_probe("handshake_complete"),)
    (finding,) = [f for f in scene.findings if f.slug == "response-lost"]
    assert "the thing that happens" in " ".join(finding.not_visible)


def test_a_preshared_key_that_is_seen_at_the_peer_is_one_finding() -> None:
    """Both ends on this host: the end that refuses knows why the other is not confirmed."""
    scene = answered(7)
    there = device("wg1", public_key=BERLIN, peers=(peer(OURS, "hub", "10.9.0.1/32"),))
    scene.state = snapshot(device(), there)
    scene.dropped(drop(Reason.RESP_DECRYPT_FAILED, OURS, "wg1", message_type=2), 7)

    assert scene.slugs == ["preshared-key-mismatch"]
    scene.state = snapshot(device(), device("wg1", public_key=PARIS, peers=there.peers))
    assert scene.slugs == ["preshared-key-mismatch", "response-lost"]


def told(sub: SubReason, source: str, shaken_ns: int = 0) -> Scene:
    """Three initiations to berlin, and as many ICMP messages about them."""
    berlin = peer(BERLIN, "berlin", "10.9.0.2/32", at="203.0.113.9:51820", latest_handshake_ns=shaken_ns)
    scene = Scene(snapshot(device(peers=(berlin,)))).stepped(HandshakeCode.INIT_SENT, BERLIN, 3)
    scene.stepped(HandshakeCode.UNREACHABLE, BERLIN, 3, sub)
    ref = PeerRef(BERLIN, berlin.endpoint)
    scene.handshakes = [
        replace(event, source=ip_address(source), peer=ref)
        if event.code is HandshakeCode.UNREACHABLE
        else event
        for event in scene.handshakes
    ]
    return scene


def test_a_closed_port() -> None:
    """The peer's own host says so: certain, and not peer-unreachable besides."""
    found = told(SubReason.PORT_UNREACHABLE, "203.0.113.9").only()

    assert (found.slug, found.confidence) == ("peer-port-closed", Confidence.CERTAIN)
    assert found.cause.startswith(
        "Datagrams to berlin at 203.0.113.9:51820 come back: its own host says that "
    )
    assert found.cause.endswith(" nobody listens at the port.")
    assert "3 ICMP messages (port_unreachable), the last from 203.0.113.9" in found.evidence
    assert not any("NAT" in text for text in found.fix)


def test_a_port_that_was_open_once() -> None:
    """There was a session: it may be a NAT that forgot."""
    assert any(
        "persistent-keepalive 25" in text
        for text in told(SubReason.PORT_UNREACHABLE, "203.0.113.9", 1).only().fix
    )


@pytest.mark.parametrize(
    ("sub", "what"),
    [(SubReason.PROHIBITED, "a firewall forbids it"), (SubReason.HOST_UNREACHABLE, "there is no way to it")],
)
def test_a_router_that_says_so(sub: SubReason, what: str) -> None:
    """Somebody between: likely, and what it says."""
    found = told(sub, "192.0.2.1").only()

    assert (found.slug, found.confidence) == ("peer-port-closed", Confidence.LIKELY)
    assert f"192.0.2.1, which is not the peer, says that {what}" in found.cause


def test_a_peer_that_answered_since() -> None:
    """Whatever an ICMP message said before is over."""
    scene = told(SubReason.PORT_UNREACHABLE, "203.0.113.9").stepped(HandshakeCode.RESPONSE_ACCEPTED, BERLIN)
    assert scene.findings == ()
