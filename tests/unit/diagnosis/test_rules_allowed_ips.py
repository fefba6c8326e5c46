# SPDX-License-Identifier: GPL-2.0-only
"""rules/allowed_ips: AllowedIPs that do not fit the traffic."""

from __future__ import annotations

from dataclasses import replace

from factories import (
    BERLIN,
    NETNS,
    PARIS,
    Scene,
    device,
    drop,
    flow,
    missing_probe,
    nobody,
    peer,
    snapshot,
)

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import Reason, SubReason
from wgtrace.events.types import DropEvent
from wgtrace.report import CounterLine
from wgtrace.state.types import Snapshot


def others(saddr: str = "10.9.4.7", owner: str | None = PARIS) -> DropEvent:
    """Berlin sends from an address of paris."""
    return drop(
        Reason.SRC_NOT_ALLOWED,
        BERLIN,
        sub_reason=SubReason.OWNED_BY_OTHER_PEER,
        inner=flow(saddr, "10.9.0.1"),
        owner=owner,
    )


def to(daddr: str) -> DropEvent:
    """A packet that no peer is for."""
    saddr = "fd00::1" if ":" in daddr else "10.9.0.1"
    return drop(Reason.ALLOWEDIPS_NO_PEER, inner=flow(saddr, daddr, 1))


def test_source_not_allowed_names_peer_prefix_and_command() -> None:
    """One finding with the peer, the exact count, and the whole new list of AllowedIPs."""
    scene = Scene(counters=(CounterLine("wg0", NETNS, "rx_frame_errors", 23, 23),))
    finding = scene.dropped(nobody()).only()

    assert finding.slug == "source-not-allowed"
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.CERTAIN)
    assert finding.peer
    assert (finding.peer.name, finding.peer.public_key) == ("berlin", BERLIN)
    assert finding.count == 23
    assert finding.cause == "berlin sends from 10.9.7.7; its AllowedIPs are 10.9.0.2/32 only."
    assert finding.fix[0] == f"wg set wg0 peer {BERLIN} allowed-ips 10.9.0.2/32,10.9.7.7/32"
    assert "wg_allowedips_lookup_src found no peer, 23 times" in finding.evidence
    assert "rx_frame_errors of wg0 +23" in finding.evidence
    assert finding.not_visible == ()


def test_source_not_allowed_keeps_every_prefix_the_peer_has() -> None:
    """`wg set` replaces the list: the command repeats it, IPv6 too, and adds each new address."""
    finding = Scene().dropped(nobody("fd00::7", PARIS), 3).dropped(nobody("10.8.1.1", PARIS), 2).only()

    assert finding.fix[0].endswith("allowed-ips 10.9.0.3/32,10.9.4.0/24,fd00::7/128,10.8.1.1/32")
    assert finding.count == 5


def test_source_not_allowed_in_a_namespace_says_where() -> None:
    """The command is one that works from outside the namespace."""
    finding = Scene(snapshot(netns_name="hub")).dropped(nobody()).only()

    assert finding.fix[0].startswith("ip netns exec hub wg set wg0 peer ")


def test_source_not_allowed_is_less_sure_without_a_packet() -> None:
    """When all were counted and none was seen, the address is not known: said, and less sure."""
    finding = Scene().dropped(nobody(), 23, shown=0).only()

    assert finding.count == 23
    assert finding.confidence is Confidence.LIKELY
    assert any("inner source" in text for text in finding.not_visible)


def test_source_not_allowed_is_less_sure_without_the_configuration() -> None:
    """Without the device's state no list is made up."""
    finding = Scene(Snapshot(0)).dropped(nobody()).only()

    assert finding.confidence is Confidence.LIKELY
    assert "PRESENT-ALLOWED-IPS" in finding.fix[0]
    assert any("configuration of wg0" in text for text in finding.not_visible)


def test_source_not_allowed_that_was_fixed_meanwhile_says_so() -> None:
    """An address that the peer has by now is not added once more."""
    fixed = snapshot(device(peers=(peer(BERLIN, "berlin", "10.9.7.0/24"),)))
    finding = Scene(fixed).dropped(nobody()).only()

    assert finding.fix == ("nothing: berlin has 10.9.7.7 in its AllowedIPs by now",)


def test_link_local_sources_are_no_error() -> None:
    """What a system sends by itself is told, but is no broken tunnel."""
    assert Scene().dropped(nobody("fe80::1"), 2).only().severity is Severity.INFO


def test_missing_probe_is_said_by_the_rule_that_needs_it() -> None:
    """A probe that could not be attached becomes a `not visible` of its findings only."""
    scene = Scene(probes=(missing_probe("src_not_allowed"),)).dropped(nobody()).dropped(to("192.168.77.1"))
    blind = {finding.slug: finding.not_visible for finding in scene.findings}

    assert blind == {"source-not-allowed": ("the thing that happens",), "destination-not-allowed": ()}


def test_source_owned_by_other_peer_names_both() -> None:
    """The sender, the owner and the owner's prefix are named; the fix moves just the address."""
    finding = Scene().dropped(others()).only()

    assert finding.slug == "source-owned-by-other-peer"
    assert finding.peer
    assert finding.peer.name == "berlin"
    assert finding.cause == "berlin sends from 10.9.4.7, which is in the AllowedIPs of paris (10.9.4.0/24)."
    assert finding.fix[1] == (
        f"wg set wg0 peer {BERLIN} allowed-ips 10.9.0.2/32,10.9.4.7/32  # the longer prefix wins"
    )
    assert finding.confidence is Confidence.CERTAIN


def test_source_owned_by_other_peer_warns_that_the_same_prefix_moves() -> None:
    """The very prefix that the other peer has would be taken from it, silently."""
    finding = Scene().dropped(others("10.9.0.3")).only()

    assert finding.fix[1].endswith("# takes it from paris")


def test_source_owned_by_nobody_is_not_owned_by_other() -> None:
    """Each of the two sub-reasons has its own finding and count."""
    scene = Scene().dropped(nobody(), 5).dropped(others(), 3)

    assert [(f.slug, f.count) for f in scene.findings] == [
        ("source-not-allowed", 5),
        ("source-owned-by-other-peer", 3),
    ]


def test_source_owned_by_other_peer_without_owner_is_less_sure() -> None:
    """When the owner could not be read the finding says so."""
    finding = Scene().dropped(others(owner=None)).only()

    assert finding.confidence is Confidence.LIKELY
    assert finding.not_visible


def test_destination_not_allowed_names_destination_and_nearest_peer() -> None:
    """Where it goes, who is nearest, what to add and what to look at."""
    finding = Scene().dropped(to("10.9.5.1"), 7).only()

    assert finding.slug == "destination-not-allowed"
    assert finding.count == 7
    assert finding.cause == "Packets for 10.9.5.1 are routed to wg0, but no peer has it in its AllowedIPs."
    assert "nearest: paris has 10.9.4.0/24" in finding.evidence
    assert f"wg set wg0 peer {PARIS} allowed-ips 10.9.0.3/32,10.9.4.0/24,10.9.5.1/32" in finding.fix
    assert "ip route get 10.9.5.1" in finding.fix


def test_destination_far_from_every_peer_names_none() -> None:
    """No peer is guessed when none is near."""
    finding = Scene().dropped(to("192.168.77.1")).only()

    assert not any(key in text for text in finding.fix for key in (BERLIN, PARIS))


def test_destination_over_ipv6_asks_the_ipv6_routes() -> None:
    """The command fits the family."""
    assert "ip -6 route get fd00:77::1" in Scene().dropped(to("fd00:77::1")).only().fix


def test_multicast_destinations_are_no_error() -> None:
    """Neighbour discovery and the like are told as what they are."""
    assert Scene().dropped(to("ff02::16"), 2).only().severity is Severity.INFO


def test_destination_without_a_packet_is_less_sure() -> None:
    """Counted but not seen: the destination is not visible."""
    finding = Scene().dropped(to("10.9.5.1"), 7, shown=0).only()

    assert finding.confidence is Confidence.LIKELY
    assert finding.not_visible


def test_a_packet_without_readable_addresses_breaks_nothing() -> None:
    """The inner header may be unreadable: the findings stay, less sure."""
    scene = Scene().dropped(replace(nobody(), inner=None)).dropped(replace(to("10.9.5.1"), inner=None))

    assert {f.confidence for f in scene.findings} == {Confidence.LIKELY}
