# SPDX-License-Identifier: GPL-2.0-only
"""rules/load: floods of handshakes and full queues."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import (
    BERLIN,
    PARIS,
    STRANGER,
    Scene,
    attached_probe,
    device,
    drop,
    key,
    missing_probe,
    outer,
    peer,
    snapshot,
)

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import Reason
from wgtrace.events.types import DropEvent, Tai64n
from wgtrace.state.types import Load, Way

FLOODER = "192.0.2.66"


def handshake(reason: Reason, saddr: str = FLOODER, public_key: str | None = None) -> DropEvent:
    """A handshake message that was refused."""
    more = {"unknown_public_key": key(200)} if reason is Reason.UNKNOWN_PEER_PUBKEY else {}
    return drop(reason, public_key, outer=outer(saddr), **more)


def flood() -> Scene:
    """From one stranger, until the queue was full."""
    scene = Scene().dropped(handshake(Reason.COOKIE_UNDER_LOAD), 5437)
    return scene.dropped(handshake(Reason.HANDSHAKE_QUEUE_FULL), 101)


def test_a_flood_is_said_once() -> None:
    """From where, how many, by what WireGuard did; one command that blocks it, one that takes it back."""
    finding = flood().only()

    assert (finding.slug, finding.count, finding.severity) == ("handshake-flood", 5538, Severity.WARNING)
    assert f"from {FLOODER}: it is under load" in finding.cause
    assert finding.evidence[:2] == ("5437 answered with a cookie", "101 found the queue of 4096 full")
    assert "ip saddr { 192.0.2.66 } udp dport 51820 drop" in finding.fix[0]
    assert finding.fix[-1] == "nft delete table inet wg_flood"


@pytest.mark.parametrize("reason", [Reason.INVALID_MAC1, Reason.UNKNOWN_PEER_PUBKEY])
def test_the_keys_of_a_flood_are_no_finding(reason: Reason) -> None:
    """What the flood's messages say is part of it: from its sources, and from where no peer is."""
    scene = flood().dropped(handshake(reason), 211).dropped(handshake(reason, "198.51.100.77"), 13)
    finding = scene.only()

    assert (finding.slug, finding.count) == ("handshake-flood", 5538 + 211 + 13)
    assert f"224 of them refused by {reason.id}" in finding.evidence


def test_a_peer_with_a_wrong_key_is_found_in_a_flood() -> None:
    """It comes from where a peer is, and not from where the flood comes."""
    scene = flood().dropped(handshake(Reason.INVALID_MAC1), 211)
    scene.dropped(handshake(Reason.INVALID_MAC1, "203.0.113.9"), 3)

    assert {(f.slug, f.count) for f in scene.findings} == {
        ("handshake-flood", 5538 + 211),
        ("wrong-key-for-us", 3),
    }


def test_wrong_keys_without_load_are_no_flood() -> None:
    """Many, but not more than can be checked."""
    assert Scene().dropped(handshake(Reason.INVALID_MAC1), 9001).slugs == ["wrong-key-for-us"]


def test_many_sources_are_not_blocked_one_by_one() -> None:
    """They may be made up: a limit instead."""
    scene = Scene()
    for last in range(1, 12):
        scene.dropped(handshake(Reason.RATELIMITED, f"192.0.2.{last}"), 7)
    (limit,) = (text for text in scene.only().fix if text.startswith("nft 'add"))

    assert "limit rate over 100/second drop" in limit
    assert "192.0.2.1 " not in limit


def test_a_peer_is_not_blocked() -> None:
    """From where a peer is no rule is offered that would cut its tunnel."""
    finding = Scene().dropped(handshake(Reason.COOKIE_UNDER_LOAD, "203.0.113.9")).only()

    assert finding.fix[0].startswith("look at berlin, which is at 203.0.113.9")
    assert not any("nft" in text for text in finding.fix)


def test_a_client_that_starts_over_and_over() -> None:
    """Known by its key; a few at once are harmless."""
    again = handshake(Reason.HANDSHAKE_FLOOD, "203.0.113.9", BERLIN)
    finding = Scene().dropped(again, 23).only()

    assert finding.peer is not None
    assert (finding.slug, finding.peer.public_key) == ("handshake-flood", BERLIN)
    assert Scene().dropped(again, 5).slugs == []


def test_two_clients_are_one_flood() -> None:
    """It is the interface that suffers."""
    scene = Scene().dropped(handshake(Reason.HANDSHAKE_FLOOD, "203.0.113.9", BERLIN), 7)
    finding = scene.dropped(handshake(Reason.HANDSHAKE_FLOOD, "2001:db8::3", PARIS), 11).only()

    assert (finding.peer, finding.count) == (None, 18)


def test_a_replayed_initiation_in_a_flood_is_no_clock() -> None:
    """One captured initiation, sent a thousand times."""
    copy = replace(
        handshake(Reason.HANDSHAKE_INIT_REPLAY, FLOODER, PARIS),
        timestamp=Tai64n(7),
        latest_timestamp=Tai64n(7),
    )

    assert flood().dropped(copy, 113).only().count == 5538 + 113


def test_a_flood_that_was_not_looked_at() -> None:
    """Counted, and from where is not known."""
    finding = Scene().dropped(handshake(Reason.COOKIE_UNDER_LOAD), 5437, shown=0).only()

    assert (finding.confidence, finding.count) == (Confidence.LIKELY, 5437)
    assert finding.not_visible


def test_a_flood_of_one_interface_is_not_another_s() -> None:
    """Strange keys on wg1 stay what they are."""
    scene = flood()
    scene.state = snapshot(device(), device("wg1"))
    event = handshake(Reason.UNKNOWN_PEER_PUBKEY)
    scene.dropped(replace(event, device=replace(event.device, ifname="wg1"), unknown_public_key=STRANGER), 3)

    assert {(f.ifname, f.slug) for f in scene.findings} == {
        ("wg0", "handshake-flood"),
        ("wg1", "unknown-peer"),
    }


def busy(*cpus: tuple[int, int]) -> tuple[Load, Load]:
    """Percent busy and percent softirq of each CPU."""
    idle = Load(tuple(0 for _ in cpus), tuple(0 for _ in cpus), tuple(0 for _ in cpus))
    return idle, Load(tuple(c[0] for c in cpus), tuple(c[1] for c in cpus), tuple(100 for _ in cpus))


def test_a_full_queue_says_which_whose_and_how_busy() -> None:
    """Both ways, one finding: the CPUs."""
    scene = Scene(load=busy((97, 64), (3, 1)))
    scene.dropped(drop(Reason.RX_QUEUE_FULL, BERLIN), 23).dropped(drop(Reason.DECRYPT_QUEUE_FULL, BERLIN), 7)
    finding = scene.asked(BERLIN, Way(outer().saddr, oif="eth3")).only()

    assert (finding.slug, finding.count, finding.confidence) == ("queue-full", 30, Confidence.CERTAIN)
    assert finding.peer is not None
    assert (
        "CPU 0, the busiest of 2, was busy 97% of this run, 64% with receiving (softirq)" in finding.evidence
    )
    assert "the queue of 1024 packets received from berlin was full, 23 times" in finding.evidence
    assert any("/sys/class/net/eth3/queues" in text and "echo 3 >" in text for text in finding.fix)
    assert not any("tbf" in text for text in finding.fix)


def test_queues_of_two_peers_are_one_finding() -> None:
    """The CPUs are the cause, not the peers."""
    scene = Scene().dropped(drop(Reason.TX_QUEUE_FULL, BERLIN), 5)
    finding = scene.dropped(drop(Reason.ENCRYPT_QUEUE_FULL, PARIS), 3).only()

    assert (finding.peer, finding.count) == (None, 8)
    assert "berlin and paris" in finding.cause
    assert any("tc qdisc replace dev wg0 root tbf" in text for text in finding.fix)
    assert not any("rps_cpus" in text for text in finding.fix)


def test_a_queue_of_nobody_s() -> None:
    """The interface's own queue, no peer known, one CPU, its load not known."""
    scene = Scene().dropped(drop(Reason.DECRYPT_QUEUE_FULL), 1)
    scene.probes = (missing_probe("rx_queue_full"), attached_probe(1))
    finding = scene.only()

    assert (finding.confidence, finding.peer) == (Confidence.LIKELY, None)
    assert {"how busy the CPUs were", "the thing that happens"} <= set(finding.not_visible)


def test_a_staged_queue_is_another() -> None:
    """Waiting for a session is not slowness."""
    waiting = drop(Reason.STAGED_QUEUE_OVERFLOW, BERLIN)

    assert Scene(snapshot(device(peers=(peer(BERLIN),)))).dropped(waiting).slugs == []
