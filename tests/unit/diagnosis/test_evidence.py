# SPDX-License-Identifier: GPL-2.0-only
"""evidence: what a run has seen, in bounded memory."""

from __future__ import annotations

from factories import (
    BERLIN,
    NETNS,
    NOW,
    PARIS,
    Scene,
    device,
    drop,
    flow,
    key,
    nobody,
    outer,
    peer,
    seen,
    snapshot,
    total,
)

from wgtrace.diagnosis.evidence import MAX_KINDS, MAX_MOVES, MAX_PLACES, MAX_WAYS, Evidence
from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.report import CounterLine
from wgtrace.state.types import Namespace, Snapshot

NOBODY = SubReason.OWNED_BY_NOBODY


def test_a_number_comes_from_the_totals_not_from_the_sample() -> None:
    """The kernel's total wins over what the stream showed."""
    (wg0,) = Scene().dropped(nobody(), 5003, shown=7).evidence.interfaces()

    assert wg0.total(Reason.SRC_NOT_ALLOWED, sub=NOBODY, peer=BERLIN) == 5003
    assert wg0.seen(Reason.SRC_NOT_ALLOWED)[0].count == 7


def test_the_sample_counts_until_there_are_totals() -> None:
    """A kind that the totals do not know yet is counted from the stream."""
    evidence = Evidence()
    evidence.feed(seen(nobody()))
    (wg0,) = evidence.interfaces()

    assert wg0.total(Reason.SRC_NOT_ALLOWED) == 1


def test_new_totals_replace_the_old() -> None:
    """An interim count followed by the last one does not add up twice."""
    evidence = Evidence()
    evidence.set_totals([total(Reason.INVALID_MAC1, 3)])
    evidence.set_totals([total(Reason.INVALID_MAC1, 5)])
    (wg0,) = evidence.interfaces()

    assert wg0.total(Reason.INVALID_MAC1) == 5


def test_totals_are_kept_apart_by_peer_and_sub_reason() -> None:
    """One peer's drops are not another's, and one sub-reason's not another's."""
    evidence = Evidence()
    evidence.set_totals(
        [
            total(Reason.SRC_NOT_ALLOWED, 3, BERLIN, NOBODY),
            total(Reason.SRC_NOT_ALLOWED, 5, BERLIN, SubReason.OWNED_BY_OTHER_PEER),
            total(Reason.SRC_NOT_ALLOWED, 7, PARIS, NOBODY),
        ]
    )
    (wg0,) = evidence.interfaces()

    assert wg0.total(Reason.SRC_NOT_ALLOWED, sub=NOBODY, peer=BERLIN) == 3
    assert wg0.total(Reason.SRC_NOT_ALLOWED, peer=BERLIN) == 8
    assert wg0.total(Reason.SRC_NOT_ALLOWED) == 15


def test_memory_is_bounded_under_a_flood_of_sources() -> None:
    """A scanner with a thousand ports does not make the evidence grow without end."""
    evidence = Evidence()
    for port in range(1000):
        evidence.feed(seen(drop(Reason.INVALID_MAC1, outer=outer(sport=port + 1))))
    (wg0,) = evidence.interfaces()

    assert len(wg0.seen(Reason.INVALID_MAC1)) == MAX_KINDS
    assert wg0.not_sampled == {Reason.INVALID_MAC1: 1000 - MAX_KINDS}


def test_a_flood_of_one_reason_does_not_crowd_out_another() -> None:
    """Each reason has room of its own."""
    evidence = Evidence()
    for port in range(1000):
        evidence.feed(seen(drop(Reason.INVALID_MAC1, outer=outer(sport=port + 1))))
    evidence.feed(seen(nobody()))
    (wg0,) = evidence.interfaces()

    assert len(wg0.seen(Reason.SRC_NOT_ALLOWED)) == 1


def test_like_drops_are_one_sighting_with_the_latest_kept() -> None:
    """Two packets alike in what rules ask about share one sighting."""
    evidence = Evidence()
    evidence.feed(seen(nobody()))
    last = seen(drop(Reason.SRC_NOT_ALLOWED, BERLIN, sub_reason=NOBODY, inner=flow("10.9.7.7", "10.9.0.99")))
    evidence.feed(last)
    (wg0,) = evidence.interfaces()
    (sighting,) = wg0.seen(Reason.SRC_NOT_ALLOWED)

    assert sighting.count == 2
    assert sighting.last is last


def test_interfaces_of_one_name_in_two_namespaces_are_two() -> None:
    """The namespace tells wg0 from wg0."""
    evidence = Evidence()
    evidence.set_counters(
        [CounterLine("wg0", 1, "rx_errors", 3, 3), CounterLine("wg0", 2, "rx_errors", 5, 5)]
    )

    assert [i.counters[0].moved for i in evidence.interfaces()] == [3, 5]


def test_an_interface_that_is_gone_keeps_its_last_configuration() -> None:
    """What was known of wg0 is still known when it was deleted."""
    evidence = Evidence()
    evidence.set_snapshot(snapshot())
    evidence.set_snapshot(Snapshot(0))
    (wg0,) = evidence.interfaces()

    assert wg0.label(BERLIN) == "berlin"


def test_attempts_end_with_an_answer() -> None:
    """Initiations count from the last answer on, and since the first of them."""
    scene = Scene().stepped(HandshakeCode.INIT_SENT, BERLIN, 2)
    (wg0,) = scene.evidence.interfaces()
    assert (wg0.attempts[BERLIN].count, wg0.attempts[BERLIN].since_unix_ns) == (2, NOW)

    scene.stepped(HandshakeCode.RESPONSE_ACCEPTED, BERLIN).stepped(HandshakeCode.INIT_SENT, BERLIN)
    (wg0,) = scene.evidence.interfaces()
    assert (wg0.attempts[BERLIN].count, wg0.attempts[BERLIN].answered) == (1, True)


def test_commands_run_in_the_namespace_of_the_interface() -> None:
    """A named namespace is entered by name, another by its path, our own not at all."""
    spaces = {
        "hub": snapshot(netns_name="hub"),
        "spaced": snapshot(netns_name="a b"),
        "container": Snapshot(0, snapshot().devices, (Namespace(NETNS, "/proc/77/ns/net"),)),
        "own": snapshot(),
    }
    commands = {}
    for name, state in spaces.items():
        evidence = Evidence()
        evidence.set_snapshot(state)
        commands[name] = evidence.interfaces()[0].wg_set("fwmark 1")

    assert commands == {
        "hub": "ip netns exec hub wg set wg0 fwmark 1",
        "spaced": "ip netns exec 'a b' wg set wg0 fwmark 1",
        "container": "nsenter --net=/proc/77/ns/net wg set wg0 fwmark 1",
        "own": "wg set wg0 fwmark 1",
    }


def test_only_peers_in_trouble_need_a_way() -> None:
    """Those that answer nothing or cannot be sent to; not too many at once, and none without endpoint."""
    assert Scene().stepped(HandshakeCode.RESPONSE_ACCEPTED, BERLIN).evidence.in_trouble() == []
    asked = Scene().stepped(HandshakeCode.INIT_SENT, BERLIN).dropped(drop(Reason.UDP_SOCK_NULL, PARIS))
    assert [(d.ifname, k, str(e)) for d, k, e in asked.evidence.in_trouble()] == [
        ("wg0", BERLIN, "203.0.113.9:51820"),
        ("wg0", PARIS, "[2001:db8::3]:4500"),
    ]
    many = Scene(snapshot(device(peers=tuple(peer(key(n), at=f"192.0.2.{n}:1") for n in range(1, 40)))))
    for number in range(1, 40):
        many.stepped(HandshakeCode.INIT_SENT, key(number))
    assert len(many.evidence.in_trouble()) == MAX_WAYS


def test_places_and_moves_are_bounded() -> None:
    """A peer that roams for ever, and a daemon that rewrites for ever, do not fill the memory."""
    evidence = Evidence()
    everywhere = (f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}:{1 + n % 7}" for n in range(MAX_PLACES + 100))
    evidence.set_snapshot(snapshot(device(peers=tuple(peer(BERLIN, at=at) for at in everywhere))))
    for n in range(MAX_MOVES + 100):
        owner, other = (BERLIN, PARIS) if n % 2 else (PARIS, BERLIN)
        evidence.set_snapshot(snapshot(device(peers=(peer(owner, None, "10.0.0.0/8"), peer(other)))))
    (wg0,) = evidence.interfaces()

    assert len(wg0.places) == MAX_PLACES
    assert len(wg0.moves) == MAX_MOVES
