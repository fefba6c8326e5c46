# SPDX-License-Identifier: GPL-2.0-only
"""rules/moved: prefixes that a change of the configuration gave to another peer."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from factories import (
    BERLIN,
    OSLO,
    PARIS,
    Scene,
    device,
    drop,
    flow,
    missing_probe,
    nobody,
    outer,
    peer,
    snapshot,
)

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import Reason, SubReason
from wgtrace.events.types import DropEvent
from wgtrace.state.types import Claim, Snapshot

LAN = ip_network("10.9.4.0/24")


def owned(berlin: str, paris: str, *more: str) -> Snapshot:
    """Who has what."""
    nets = [text.split() for text in (berlin, paris)]
    third = (peer(OSLO, "oslo", *more),)
    return snapshot(
        device(
            peers=(
                peer(BERLIN, "berlin", *nets[0], at="203.0.113.9:51820"),
                peer(PARIS, "paris", *nets[1]),
                *third,
            )
        )
    )


BEFORE = owned("10.9.0.2/32 10.9.4.0/24", "10.9.0.3/32")
AFTER = owned("10.9.0.2/32", "10.9.0.3/32 10.9.4.0/24")


def refused(saddr: str = "10.9.4.7", key: str = BERLIN, owner: str = PARIS) -> DropEvent:
    """A packet of one peer from an address that another has."""
    return drop(
        Reason.SRC_NOT_ALLOWED,
        key,
        sub_reason=SubReason.OWNED_BY_OTHER_PEER,
        inner=flow(saddr, "10.9.0.1"),
        outer=outer(),
        owner=owner,
    )


def test_a_prefix_that_was_taken() -> None:
    """Which, from whom, to whom, by whom, and the command that gives it back."""
    finding = Scene(AFTER).after(BEFORE, "wg (pid 812)").dropped(refused(), 13).only()

    assert (finding.slug, finding.count, finding.severity, finding.confidence) == (
        "allowed-ips-moved",
        13,
        Severity.ERROR,
        Confidence.CERTAIN,
    )
    assert finding.cause == (
        "10.9.4.0/24 belonged to berlin and was given to paris by wg (pid 812): a prefix has one owner, so "
        "berlin lost it without a word."
    )
    assert finding.fix[1].startswith(f"wg set wg0 peer {BERLIN} allowed-ips 10.9.0.2/32,10.9.4.0/24 ")


def test_what_was_always_another_s_is_another_finding() -> None:
    """Only the packets from the moved prefix are this finding's; no packet is counted twice."""
    scene = Scene(AFTER).after(BEFORE, "wg (pid 812)").dropped(refused(), 13).dropped(refused("10.9.0.3"), 7)

    assert {(f.slug, f.count) for f in scene.findings} == {
        ("allowed-ips-moved", 13),
        ("source-owned-by-other-peer", 7),
    }


def test_a_longer_prefix_of_a_third_peer_is_no_move() -> None:
    """Inside the moved prefix, and never the loser's."""
    scene = Scene(AFTER).after(BEFORE, "wg (pid 812)").dropped(refused("10.9.4.7", owner=OSLO), 7)

    assert {(f.slug, f.count) for f in scene.findings} == {
        ("allowed-ips-moved", 0),
        ("source-owned-by-other-peer", 7),
    }


def test_without_a_move_it_is_owned_by_another() -> None:
    """Nothing changed while tracing."""
    assert Scene(AFTER).dropped(refused()).slugs == ["source-owned-by-other-peer"]


@pytest.mark.parametrize(
    ("before", "after", "severity"),
    [
        (BEFORE, AFTER, Severity.INFO),
        (owned("10.9.4.0/24", ""), owned("", "10.9.4.0/24"), Severity.WARNING),
    ],
)
def test_a_move_before_any_packet(before: Snapshot, after: Snapshot, severity: Severity) -> None:
    """Said, and a warning if the loser has nothing left."""
    finding = Scene(after).after(before, "wg (pid 812)").only()

    assert (finding.slug, finding.count, finding.severity) == ("allowed-ips-moved", 0, severity)


@pytest.mark.parametrize(
    "after",
    [
        owned("10.9.0.2/32", "10.9.0.3/32"),  # taken away, given to nobody
        owned("10.9.0.2/32 10.9.4.0/24", "10.9.0.3/32 10.9.4.0/25"),  # a longer one is no move
        snapshot(device(peers=(peer(PARIS, "paris", "10.9.0.2/32", "10.9.4.0/24"),))),  # berlin replaced
    ],
)
def test_what_is_no_move(after: Snapshot) -> None:
    """Its nearest neighbours."""
    removed = drop(Reason.STAGED_PURGED_PEER_REMOVED, BERLIN)

    assert Scene(after).after(BEFORE, "wg (pid 812)").dropped(removed, 3).slugs == []


def test_an_interface_made_anew_moved_nothing() -> None:
    """Another interface of the same name has its own owners."""
    other = snapshot(device())
    renewed = Snapshot(
        0, (type(other.devices[0])("wg0", 8, other.devices[0].netns, peers=AFTER.devices[0].peers),)
    )

    assert Scene(renewed).after(BEFORE).slugs == []


def test_given_back() -> None:
    """With packets refused meanwhile it is still said, else not; the winner has not lost it."""
    assert Scene(BEFORE).after(BEFORE, "wg (pid 812)").after(AFTER, "wg (pid 813)").slugs == []
    scene = Scene(BEFORE).after(BEFORE, "wg (pid 812)").after(AFTER, "wg (pid 813)").dropped(refused(), 13)
    finding = scene.only()

    assert (finding.severity, finding.fix) == (
        Severity.WARNING,
        ("nothing: berlin has it again by now",),
    )


def test_who_did_it_may_not_be_known() -> None:
    """Then it is said so."""
    finding = Scene(AFTER).after(BEFORE).dropped(refused()).only()

    assert finding.confidence is Confidence.LIKELY
    assert "which process did it" in finding.not_visible


def test_a_missing_probe_is_named() -> None:
    """Without the probe that sees refused packets there may be more."""
    scene = Scene(AFTER).after(BEFORE, "wg (pid 1)")
    scene.probes = (missing_probe("src_not_allowed"),)

    assert "the thing that happens" in scene.only().not_visible


def test_two_prefixes_to_two_peers_are_one_finding_of_the_loser() -> None:
    """One loser, one finding; two losers, two."""
    before = owned("10.9.0.2/32 10.9.4.0/24 10.9.5.0/24", "10.9.0.3/32")
    after = owned("", "10.9.0.3/32 10.9.4.0/24", "10.9.5.0/24", "10.9.0.2/32")
    finding = Scene(after).after(before, "wg (pid 1)").only()

    assert "10.9.0.2/32, 10.9.4.0/24 and 10.9.5.0/24" in finding.cause
    assert "paris" in finding.cause
    assert "oslo" in finding.cause


CLAIMS = (
    Claim("/etc/wireguard/wg0.conf", BERLIN, LAN),
    Claim("/etc/wireguard/extra.conf", PARIS, LAN),
)


def test_two_files_that_claim_one_prefix() -> None:
    """The one configured last has it; which files, and the command for the other."""
    finding = Scene(AFTER, claims=CLAIMS).dropped(refused(), 7).only()

    assert finding.cause == (
        "wg0.conf and extra.conf give 10.9.4.0/24 to both berlin and paris: a prefix has one owner, and the "
        "one configured last, paris, has it."
    )
    assert (finding.slug, finding.count, finding.severity) == ("allowed-ips-moved", 7, Severity.ERROR)


def test_claims_that_fit_are_no_finding() -> None:
    """One claims it; or nobody has it; or it is a stranger's."""
    assert Scene(AFTER, claims=CLAIMS[1:]).slugs == []
    assert Scene(owned("", ""), claims=CLAIMS).slugs == []
    assert Scene(AFTER, claims=(CLAIMS[1], Claim("/etc/wireguard/wg7.conf", "x", LAN))).slugs == []


def test_nobody_s_source_is_no_move() -> None:
    """A prefix that nobody has was not taken."""
    assert (
        Scene(AFTER).after(BEFORE, "wg (pid 1)").dropped(nobody("10.88.0.1")).slugs[0] == "source-not-allowed"
    )
