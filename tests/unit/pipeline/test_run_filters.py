# SPDX-License-Identifier: GPL-2.0-only
"""pipeline: what is asked for, and what is looked at all the same."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from drops_run import run, wg0
from factories import (
    BERLIN,
    OSLO,
    snapshot,
)
from records import flow4
from stand_ins import BAD, FROM_NOBODY, Host, Replay, Step, drop, step, total_of

from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Direction, HandshakeCode, Reason, SubReason
from wgtrace.pipeline import Limits

pytestmark = pytest.mark.usefixtures("in_utc")


MIXED: Iterable[bytes] = (BAD, FROM_NOBODY, drop(Reason.NO_ENDPOINT, OSLO), drop(Reason.INVALID_MAC1))


SUMS = {
    total_of(Reason.BAD_HEADER, sub=3): 1,
    total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32): 1,
    total_of(Reason.NO_ENDPOINT, OSLO): 1,
    total_of(Reason.INVALID_MAC1): 1,
}


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Filter(), ["bad_header", "src_not_allowed", "no_endpoint", "invalid_mac1"]),
        (Filter(peers=frozenset({BERLIN})), ["src_not_allowed"]),
        (Filter(directions=frozenset({Direction.TX, Direction.HANDSHAKE})), ["no_endpoint", "invalid_mac1"]),
        (Filter(reasons=frozenset({Reason.BAD_HEADER})), ["bad_header"]),
        (Filter(frozenset({OSLO}), frozenset({Direction.RX})), []),
    ],
)
def test_filters_choose_drops_and_totals(wanted: Filter, shown: list[str]) -> None:
    """Only drops that every filter lets through are shown, and only theirs are the totals listed."""
    told = run(Replay([list(MIXED)], dict(SUMS)), wanted=wanted)

    assert told.reasons == shown
    assert sorted(t["reason"] for t in told.summary["totals"]) == sorted(shown)


def test_a_peer_filter_chooses_findings() -> None:
    """Asked about one peer, only what concerns that peer is explained."""
    told = run(Replay([list(MIXED)], dict(SUMS)), wanted=Filter(peers=frozenset({BERLIN})))

    assert told.slugs == ["source-not-allowed"]


REFUSED_ANSWER = drop(Reason.RESP_DECRYPT_FAILED, OSLO, message_type=2)


REFUSED_ANSWERS = total_of(Reason.RESP_DECRYPT_FAILED, OSLO)


PRESHARED: list[Step] = [*[step(HandshakeCode.INIT_SENT, OSLO), REFUSED_ANSWER] * 5, FROM_NOBODY]


PRESHARED_SUMS = {
    total_of(HandshakeCode.INIT_SENT, OSLO): 5,
    REFUSED_ANSWERS: 5,
    total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32): 1,
}


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("counted", [True, False])
def test_a_filter_takes_no_evidence_away(streamed: bool, counted: bool) -> None:
    """Answers that a reason filter hides are still answers, whether streamed or only counted."""
    is_answered = streamed or counted
    records = [r for r in PRESHARED if streamed or r != REFUSED_ANSWER]
    sums = {key: n for key, n in PRESHARED_SUMS.items() if counted or key != REFUSED_ANSWERS}
    wanted = Filter(reasons=frozenset({Reason.SRC_NOT_ALLOWED}))

    everything = run(Replay([list(records)], dict(sums)))
    told = run(Replay([list(records)], dict(sums)), wanted=wanted)

    assert told.reasons == ["src_not_allowed"]
    assert [t["reason"] for t in told.summary["totals"]] == ["src_not_allowed"]
    assert told.slugs == everything.slugs
    assert ("peer-unreachable" in told.slugs) is not is_answered
    assert ("preshared-key-mismatch" in told.slugs) is is_answered


def test_a_filter_leaves_the_counters_reconciled() -> None:
    """What is not shown still explains how far a counter moved."""
    host = Host(snapshot(wg0()))
    key = total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32)
    tracer = Replay([[host.set(wg0(rx_errors=3, rx_frame_errors=3))]])

    told = run(
        tracer,
        host,
        wanted=Filter(reasons=frozenset({Reason.BAD_HEADER})),
        before_start=lambda: tracer.sums.update({key: 3}),
    )

    assert told.reconciliation == {"rx_errors": (3, 3), "rx_frame_errors": (3, 3)}
    assert told.summary["totals"] == []


def test_what_the_kernels_filter_hides_is_evidence_only() -> None:
    """A sample that was not asked for gives a finding its facts, and is neither shown nor in the totals."""
    hidden = drop(
        Reason.SRC_NOT_ALLOWED,
        BERLIN,
        sub_reason=SubReason.OWNED_BY_NOBODY,
        inner=flow4("10.9.8.8", "10.9.0.1", 6, 52114, 80, 84),
        matched=0,
    )
    sums = {
        total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32): 23,
        total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32, matched=0): 61,
    }

    told = run(Replay([[hidden, FROM_NOBODY] * 23, [hidden] * 38], sums), limits=Limits(count=23))

    assert told.reasons == ["src_not_allowed"] * 23
    assert {line["inner"]["saddr"] for line in told.of("drop")} == {"10.9.7.7"}
    assert [(t["reason"], t["count"]) for t in told.summary["totals"]] == [("src_not_allowed", 23)]
    (finding,) = told.findings
    assert finding.count == 23 + 61
    assert "10.9.8.8 and 10.9.7.7" in finding.cause
