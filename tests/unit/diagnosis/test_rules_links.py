# SPDX-License-Identifier: GPL-2.0-only
"""rules/links: interfaces that are down, or have lost the namespace of their sockets."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import BERLIN, NETNS, PARIS, Scene, device, drop, missing_probe, snapshot

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import HandshakeCode, Reason
from wgtrace.state.types import Namespace, Snapshot

DOWN = snapshot(device(is_up=False))
DEAD = snapshot(device(has_carrier=False))
WAITED = drop(Reason.STAGED_PURGED_IFDOWN, BERLIN)
NO_SOCKET = drop(Reason.UDP_SOCK_NULL, BERLIN, errno=64)


def test_down_with_packets_waiting() -> None:
    """How many, for whom, and the command."""
    finding = Scene(DOWN).dropped(WAITED, 17).only()

    assert (finding.slug, finding.count, finding.severity, finding.confidence) == (
        "interface-down",
        17,
        Severity.ERROR,
        Confidence.CERTAIN,
    )
    assert finding.fix[0] == "ip link set wg0 up"
    assert "17 packets for berlin waited (staged_purged_ifdown)" in finding.evidence


@pytest.mark.parametrize("state", [DOWN, snapshot(), Snapshot(0)])
def test_down_with_nothing_waiting_is_no_finding(state: Snapshot) -> None:
    """A shutdown in peace is nobody's trouble."""
    assert Scene(state).after(snapshot()).slugs == []


def test_up_again_is_only_said() -> None:
    """Nothing is to be done any more."""
    finding = Scene().dropped(WAITED).only()

    assert (finding.severity, finding.fix) == (Severity.INFO, ("nothing: it is up again",))


def test_a_deleted_interface() -> None:
    """It cannot be set up, only made again."""
    finding = Scene(Snapshot(0)).after(snapshot()).dropped(WAITED).only()

    assert finding.severity is Severity.WARNING
    assert "wg-quick up wg0" in finding.fix


def test_two_peers_are_one_interface() -> None:
    """One cause."""
    scene = Scene(DOWN).dropped(WAITED, 5).dropped(drop(Reason.STAGED_PURGED_IFDOWN, PARIS), 7)

    assert [(f.slug, f.count) for f in scene.findings] == [("interface-down", 12)]


def test_why_they_waited_is_nearer_to_the_root() -> None:
    """Packets for a peer that did not answer were lost before the interface went down."""
    scene = Scene(DOWN).dropped(WAITED, 17).stepped(HandshakeCode.INIT_SENT, BERLIN, 3)
    assert [(f.slug, f.count) for f in scene.findings] == [("peer-unreachable", 17)]

    scene.dropped(drop(Reason.STAGED_PURGED_IFDOWN, PARIS), 7)
    assert {(f.slug, f.count) for f in scene.findings} == {("peer-unreachable", 17), ("interface-down", 7)}


def test_without_the_configuration_it_is_less_sure() -> None:
    """Nobody knows whether it is up by now."""
    finding = Scene(Snapshot(0)).dropped(WAITED).only()

    assert finding.confidence is Confidence.LIKELY
    assert any("configuration of wg0" in text for text in finding.not_visible)


def test_a_missing_probe_is_named() -> None:
    """Without the probe on the purge nothing that waited is seen."""
    scene = Scene(DOWN).dropped(drop(Reason.SOCK_USER_DATA_NULL), 3)
    scene.probes = (missing_probe("staged_purged_ifdown"),)

    assert "the thing that happens" in scene.only().not_visible


def test_the_birth_namespace_is_gone() -> None:
    """No carrier, no socket: for good, and how to make it anew."""
    scene = Scene(DEAD).dropped(NO_SOCKET, 13).dropped(WAITED, 3)
    finding = scene.only()

    assert (finding.slug, finding.count, finding.severity, finding.confidence) == (
        "birth-namespace-gone",
        16,
        Severity.ERROR,
        Confidence.CERTAIN,
    )
    commands = [text for text in finding.fix if text.startswith(("ip ", "wg ", "sh "))]
    assert commands == [
        "sh -c 'umask 077; wg showconf wg0 > FILE'",
        "ip link del wg0",
        "ip link add wg0 type wireguard",
        "wg setconf wg0 FILE",
        "ip address add ADDRESS/PREFIX dev wg0",
        "ip link set wg0 up",
    ]


def test_the_birth_namespace_is_gone_with_no_packet_sent() -> None:
    """The carrier alone proves it; no peer is called unreachable for it."""
    scene = Scene(DEAD).stepped(HandshakeCode.RETRY, BERLIN, 3).dropped(NO_SOCKET, 3)

    assert Scene(DEAD).slugs == scene.slugs == ["birth-namespace-gone"]


def test_an_interface_that_went_with_its_namespace_is_no_finding() -> None:
    """Deleted is deleted."""
    assert Scene(Snapshot(0)).after(DEAD).slugs == []


def test_its_commands_run_in_the_namespace_of_the_interface() -> None:
    """And hostile names stay inside their quotes."""
    state = Snapshot(
        0,
        (device("wg0;reboot", has_carrier=False),),
        (Namespace(NETNS, "/run/netns/box", "box"),),
    )
    commands = [text for text in Scene(state).only().fix if text.startswith("ip netns exec box ")]

    assert commands[1] == "ip netns exec box ip link del 'wg0;reboot'"
    assert commands[0] == ("ip netns exec box sh -c 'umask 077; wg showconf '\"'\"'wg0;reboot'\"'\"' > FILE'")


def test_no_socket_with_a_carrier_is_an_interface_going_down() -> None:
    """The moment between."""
    assert Scene(DOWN).dropped(NO_SOCKET, 3).slugs == ["interface-down"]
    event = replace(NO_SOCKET, device=replace(NO_SOCKET.device, ifname="wg1"))
    two = Scene(snapshot(device(has_carrier=False), device("wg1", is_up=False))).dropped(event, 5)
    assert {(f.ifname, f.slug) for f in two.findings} == {
        ("wg0", "birth-namespace-gone"),
        ("wg1", "interface-down"),
    }
