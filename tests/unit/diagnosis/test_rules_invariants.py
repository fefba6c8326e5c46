# SPDX-License-Identifier: GPL-2.0-only
"""known-kernel-bug: what holds on every sound kernel was seen not to hold."""

from __future__ import annotations

import pytest
from factories import BERLIN, NETNS, PARIS, device, peer, snapshot

from wgtrace.diagnosis.evidence import Evidence
from wgtrace.diagnosis.explain import explain
from wgtrace.diagnosis.finding import Finding, Severity
from wgtrace.events.invariants import INVARIANTS, Invariant
from wgtrace.events.types import InvariantTotal

N, M = 23, 7


def look(invariant: Invariant, holds: bool, key: str, count: int) -> InvariantTotal:
    """So often it held, or not."""
    return InvariantTotal("wg0", NETNS, invariant, holds, key, count)


def found(*looks: InvariantTotal) -> list[Finding]:
    """The findings."""
    evidence = Evidence()
    evidence.set_snapshot(snapshot(device(peers=(peer(BERLIN, "berlin"), peer(PARIS, "paris")))))
    evidence.set_totals((), (), looks)
    return list(explain(evidence))


@pytest.mark.parametrize("invariant", Invariant)
def test_what_held_is_no_finding(invariant: Invariant) -> None:
    """However often it was looked at."""
    assert found(look(invariant, True, BERLIN, N)) == []


@pytest.mark.parametrize("invariant", Invariant)
def test_what_did_not_hold_names_the_commit(invariant: Invariant) -> None:
    """How often, of how many, with whom, and what mended it."""
    (finding,) = found(look(invariant, False, BERLIN, M), look(invariant, True, BERLIN, N))

    assert (finding.slug, finding.severity) == ("known-kernel-bug", Severity.ERROR)
    assert (finding.count, finding.peer and finding.peer.public_key) == (M, BERLIN)
    assert f"{invariant.id} violated {M} of {N + M} times" in finding.evidence[0]
    assert INVARIANTS[invariant].commit in finding.fix[0]


@pytest.mark.parametrize("invariant", [i for i in Invariant if not INVARIANTS[i].of_peer])
def test_one_kernel_is_one_finding(invariant: Invariant) -> None:
    """It is this kernel with all of its peers, and those are named."""
    (finding,) = found(
        look(invariant, False, BERLIN, M), look(invariant, False, PARIS, N), look(invariant, True, PARIS, 2)
    )
    assert (finding.count, finding.peer) == (N + M, None)
    assert "berlin" in finding.cause
    assert "paris" in finding.cause
    assert f"violated {N + M} of {N + M + 2} times" in finding.evidence[0]


def test_the_kernels_of_peers_are_apart() -> None:
    """It is the sender who fills packets up: one finding for each, with its own counts."""
    paris, berlin = found(
        look(Invariant.PADDING_ZERO, False, BERLIN, M),
        look(Invariant.PADDING_ZERO, False, PARIS, N),
        look(Invariant.PADDING_ZERO, True, PARIS, 2),
        look(Invariant.PADDING_ZERO, True, BERLIN, 1),
    )
    assert [finding.count for finding in (paris, berlin)] == [N, M]
    assert "kernel of paris" in paris.cause
    assert f"violated {N} of {N + 2} times" in paris.evidence[0]
    assert f"violated {M} of {M + 1} times" in berlin.evidence[0]
