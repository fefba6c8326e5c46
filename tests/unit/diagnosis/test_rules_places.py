# SPDX-License-Identifier: GPL-2.0-only
"""Peers that move, peers with two homes, and places that refuse what is sent to them."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest
from factories import BERLIN, BOOT_NS, NETNS, OFFSET_NS, endpoint, flow, snapshot

from wgtrace.diagnosis.evidence import MAX_TRAVELS, Evidence
from wgtrace.diagnosis.explain import explain
from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.events.reasons import HandshakeCode
from wgtrace.events.types import DeviceRef, HandshakeEvent, PeerRef
from wgtrace.report import SeenStep

SECOND = 1_000_000_000
HOME, OFFICE, CAFE = "203.0.113.9:51820", "198.51.100.7:51820", "192.0.2.5:40001"
NOW = BOOT_NS + OFFSET_NS


def moves(*places: str, apart_s: float = 1, cause: str | None = "roamed") -> Evidence:
    """Berlin is at one place after the other."""
    evidence = Evidence((), OFFSET_NS)
    evidence.set_snapshot(snapshot())
    for number, (before, now) in enumerate(itertools.pairwise(places)):
        ref = PeerRef(BERLIN, endpoint(now), "berlin")
        ts_ns = NOW + int(number * apart_s * SECOND)
        evidence.tell(
            SeenStep(ts_ns, "wg0", NETNS, "endpoint_changed", "", ref, cause=cause, before=endpoint(before))
        )
    return evidence


def only(evidence: Evidence) -> Finding:
    """The one finding."""
    (finding,) = explain(evidence)
    return finding


def slugs(evidence: Evidence) -> list[str]:
    """All of them."""
    return [finding.slug for finding in explain(evidence)]


def test_a_key_at_two_places_by_turns() -> None:
    """To and fro four times within seconds: two hosts have it, and that is the one finding."""
    finding = only(moves(CAFE, HOME, OFFICE, HOME, OFFICE, HOME))

    assert (finding.slug, finding.severity, finding.confidence) == (
        "duplicate-key",
        Severity.ERROR,
        Confidence.LIKELY,
    )
    assert HOME in finding.cause
    assert OFFICE in finding.cause
    assert CAFE not in finding.cause
    assert "5 times in 4 s" not in finding.evidence[0]
    assert "4 times in 3 s" in finding.evidence[0]


@pytest.mark.parametrize(
    "evidence",
    [
        moves(HOME, OFFICE, HOME, OFFICE),  # three times: chance
        moves(HOME, OFFICE, CAFE, HOME, OFFICE, CAFE),  # a person who travels
        moves(HOME, OFFICE, HOME, OFFICE, HOME, apart_s=3600),  # one that goes home each evening
    ],
)
def test_a_peer_that_travels_is_one(evidence: Evidence) -> None:
    """Its endpoint changed, and no more."""
    assert slugs(evidence) == ["endpoint-changed"]


def test_a_peer_that_moved_once() -> None:
    """From where to where, and when."""
    finding = only(moves(HOME, CAFE))

    assert (finding.severity, finding.confidence) == (Severity.INFO, Confidence.CERTAIN)
    assert finding.cause.startswith(f"berlin is at {CAFE} and no longer at {HOME}: it moved")
    assert finding.evidence[0] == "its endpoint changed once"


def test_another_port_is_a_nat() -> None:
    """The same address: a keepalive is the cure."""
    finding = only(moves(HOME, "203.0.113.9:40001"))

    assert "a NAT on its way gave it another port" in finding.cause
    assert any("persistent-keepalive 25" in text for text in finding.fix)


def test_many_moves_are_counted_and_few_are_kept() -> None:
    """Bounded; the count goes on."""
    ports = [f"203.0.113.9:{40_000 + port}" for port in range(MAX_TRAVELS * 3)]
    evidence = moves(*ports)

    assert only(evidence).evidence[0] == f"its endpoint changed {len(ports) - 1} times"
    (interface,) = evidence.interfaces()
    assert len(interface.travels[BERLIN].last) == MAX_TRAVELS


def test_what_was_configured_is_no_move() -> None:
    """Nor is the first place that a peer is heard from."""
    assert slugs(moves(HOME, CAFE, cause=None)) == []
    evidence = Evidence((), OFFSET_NS)
    evidence.set_snapshot(snapshot())
    evidence.tell(SeenStep(NOW, "wg0", NETNS, "endpoint_changed", "", PeerRef(BERLIN, endpoint(HOME))))
    assert slugs(evidence) == []


def refused(kind: int, code: int, source: str, *, sent: int = 1, later: bool = True) -> Evidence:
    """So many initiations to berlin, and then (or before) seven ICMP errors."""
    evidence = Evidence((), OFFSET_NS)
    evidence.set_snapshot(snapshot())
    where = DeviceRef("wg0", NETNS, 7)
    for number in range(sent):
        at = BOOT_NS + number * 5 * SECOND
        evidence.feed(HandshakeEvent(at, where, HandshakeCode.INIT_SENT, PeerRef(BERLIN)))
    for _ in range(7):
        step = SeenStep(
            NOW + (60 if later else -60) * SECOND,
            "wg0",
            NETNS,
            "icmp_error",
            "",
            PeerRef(BERLIN, endpoint(HOME)),
            inner=flow("10.0.0.1", "203.0.113.9", 17, 51820, 51820),
            icmp=(kind, code, ip_address(source)),
        )
        evidence.tell(step)
    return evidence


def test_nothing_listens_at_the_peer() -> None:
    """Its own host says so: start it there, or enter its port."""
    finding = only(refused(3, 3, "203.0.113.9"))

    assert (finding.slug, finding.severity) == ("peer-port-closed", Severity.ERROR)
    assert finding.cause == (
        "Nothing takes what is sent to berlin at 203.0.113.9:51820: port closed (ICMP 3/3), says 203.0.113.9."
    )
    assert finding.evidence[0] == "port closed (ICMP 3/3) from 203.0.113.9, 7 times"
    assert "has no WireGuard on UDP port 51820" in finding.fix[0]


def test_a_router_refuses() -> None:
    """It is who to ask."""
    finding = only(refused(3, 13, "192.0.2.1"))

    assert "prohibited by a firewall (ICMP 3/13), says 192.0.2.1" in finding.cause
    assert "ask who runs 192.0.2.1" in finding.fix[0]


def test_it_is_why_the_peer_is_not_reached() -> None:
    """One cause, one finding."""
    evidence = refused(3, 1, "192.0.2.1", sent=7)

    assert slugs(evidence) == ["peer-port-closed"]


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (refused(3, 4, "192.0.2.1"), "too big, which smaller ones are not"),
        (refused(11, 0, "192.0.2.1"), "a loop, or a far way"),
        (refused(3, 3, "203.0.113.9", sent=0), "no handshake is waited for"),
        (refused(3, 3, "203.0.113.9", later=False), "that was before the first initiation"),
    ],
)
def test_other_errors_are_no_closed_port(evidence: Evidence, why: str) -> None:
    """They are told in the story only."""
    assert "peer-port-closed" not in slugs(evidence), why
