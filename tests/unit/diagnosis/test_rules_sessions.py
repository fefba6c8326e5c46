# SPDX-License-Identifier: GPL-2.0-only
"""rules/sessions: data for sessions that this side has lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from factories import (
    BERLIN,
    BOOT_NS,
    NETNS,
    PARIS,
    PEERS,
    STRANGER,
    Scene,
    device,
    drop,
    missing_probe,
    outer,
    peer,
    snapshot,
)
from hypothesis import given
from hypothesis import strategies as st

from wgtrace.diagnosis.evidence import MAX_KINDS
from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import HandshakeCode, Reason
from wgtrace.events.types import DropEvent


def lost(saddr: str = "203.0.113.9", sport: int = 51820, index: int = 0xABCD, **more: Any) -> DropEvent:
    """Data for a session that is not there, by default from where berlin is."""
    return drop(Reason.UNKNOWN_RECEIVER_INDEX, outer=outer(saddr, sport), receiver_index=index, **more)


def test_the_peer_is_known_by_where_it_is() -> None:
    """Whose session, how many, the index, when it heals, and how to have it at once."""
    finding = Scene().dropped(lost(), 11).only()

    assert (finding.slug, finding.count, finding.severity, finding.confidence) == (
        "peer-lost-session",
        11,
        Severity.WARNING,
        Confidence.CERTAIN,
    )
    assert finding.peer is not None
    assert finding.peer.public_key == BERLIN
    assert "It heals within 15 s" in finding.cause
    assert "session index 0x0000abcd" in finding.evidence
    assert "ping -c 1 -W 5 10.9.0.2" in finding.fix


def test_a_peer_that_was_added_again_has_forgotten_its_endpoint() -> None:
    """It is known by where it was, and the command gives the endpoint back."""
    again = snapshot(device(peers=(peer(BERLIN, "berlin", "10.9.0.2/32"), *PEERS[1:])))
    finding = Scene(again).after(snapshot()).dropped(lost()).only()

    assert finding.peer is not None
    assert f"wg set wg0 peer {BERLIN} endpoint 203.0.113.9:51820" in finding.fix


def test_a_session_that_healed_needs_nothing() -> None:
    """A handshake after the last such packet; one before it proves nothing."""
    healed = Scene().dropped(lost(ts_ns=BOOT_NS - 3_000_000_000))
    finding = healed.stepped(HandshakeCode.INIT_ACCEPTED, BERLIN).only()
    assert (finding.severity, finding.fix[0]) == (Severity.INFO, "nothing: it has healed")
    assert "a handshake completed 3.0 s after the last" in finding.evidence

    before = Scene().dropped(lost(ts_ns=BOOT_NS + 1)).stepped(HandshakeCode.INIT_ACCEPTED, BERLIN)
    assert before.only().severity is Severity.WARNING


def test_another_port_of_its_address_is_less_sure() -> None:
    """Behind one NAT there may be others."""
    assert Scene().dropped(lost(sport=4001)).only().confidence is Confidence.LIKELY


def test_two_peers_at_one_address_are_told_by_their_ports() -> None:
    """And from a third port nobody knows whose it is."""
    two = (peer(BERLIN, "berlin", at="203.0.113.9:1"), peer(PARIS, "paris", at="203.0.113.9:2"))
    scene = Scene(snapshot(device(peers=two)))
    scene.dropped(lost(sport=1), 3).dropped(lost(sport=2), 5).dropped(lost(sport=3), 7)

    assert {(f.peer.public_key if f.peer else None, f.count) for f in scene.findings} == {
        (BERLIN, 3),
        (PARIS, 5),
        (None, 7),
    }


def test_a_stranger_is_no_warning() -> None:
    """Nobody is known to be there: what it may be, and what cannot be seen."""
    finding = Scene().dropped(lost("192.0.2.77")).only()

    assert (finding.severity, finding.peer) == (Severity.INFO, None)
    assert finding.not_visible == ("whose it is: such a packet carries only the index of its session",)


def test_a_peer_that_was_removed() -> None:
    """It cannot heal: the command adds it again."""
    without = snapshot(device(peers=PEERS[1:]))
    finding = Scene(without).after(snapshot()).dropped(lost()).only()

    assert "was removed from wg0" in finding.cause
    assert any(text.startswith(f"wg set wg0 peer {BERLIN} allowed-ips") for text in finding.fix)


def test_a_refused_handshake_is_the_nearer_cause() -> None:
    """A key that was removed, or changed here: one finding, the data its evidence."""
    for reason, slug in (
        (Reason.UNKNOWN_PEER_PUBKEY, "unknown-peer"),
        (Reason.INVALID_MAC1, "wrong-key-for-us"),
    ):
        more = {"unknown_public_key": STRANGER} if slug == "unknown-peer" else {}
        scene = Scene().dropped(lost(), 11).dropped(drop(reason, outer=outer(), **more), 3)
        assert scene.slugs == [slug]
        assert any(text.startswith("11 data packets") for text in scene.only().evidence)


def test_a_clock_is_the_nearer_cause() -> None:
    """Initiations that are too old say why no new session comes."""
    old = drop(Reason.HANDSHAKE_INIT_REPLAY, BERLIN, outer=outer())

    assert Scene().dropped(lost(), 11).dropped(old, 3).slugs == ["peer-clock-went-back"]


def test_packets_that_were_not_looked_at() -> None:
    """Only counted: somebody's; of one peer among others: its own."""
    scene = Scene().dropped(lost(), 5003, shown=0)
    assert (scene.only().count, scene.only().peer, scene.only().confidence) == (5003, None, Confidence.LIKELY)

    assert Scene().dropped(lost(), 5003, shown=7).only().count == 5003


def test_the_other_interface_has_its_own() -> None:
    """Two interfaces, one restarted."""
    scene = Scene(snapshot(device(), device("wg1"))).dropped(lost())
    event = lost()
    scene.dropped(replace(event, device=replace(event.device, ifname="wg1", netns=NETNS)), 7)

    assert [(f.ifname, f.count) for f in scene.findings] == [("wg0", 23), ("wg1", 7)]


def test_a_missing_probe_is_named() -> None:
    """Without the probe on completed handshakes nobody sees it heal."""
    scene = Scene().dropped(lost())
    scene.probes = (missing_probe("handshake_complete"),)

    assert "the thing that happens" in scene.only().not_visible


@given(ports=st.lists(st.integers(1, 65535), min_size=1, max_size=MAX_KINDS + 40))  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
def test_every_packet_is_in_one_finding_at_most(ports: list[int]) -> None:
    """However many places: the findings never count a packet twice."""
    scene = Scene()
    for number, port in enumerate(ports):
        scene.dropped(lost(f"203.0.113.{9 + number % 3}", port, number), 1)

    assert sum(f.count for f in scene.findings) <= len(ports)
