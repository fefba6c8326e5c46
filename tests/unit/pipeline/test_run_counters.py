# SPDX-License-Identifier: GPL-2.0-only
"""pipeline: the interface counters held against the totals, whatever becomes of the interfaces."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from drops_run import run, wg0
from factories import (
    BERLIN,
    BOOT_NS,
    NETNS,
    PARIS,
    snapshot,
)
from records import total_key
from stand_ins import CONFIG, FROM_NOBODY, Host, Replay, drop, raw, total_of

from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Reason, SubReason
from wgtrace.events.wire import EventKind
from wgtrace.outputs.jsonl import JsonLinesSink
from wgtrace.pipeline import DropsRun, Limits, Signals
from wgtrace.state.types import Snapshot

pytestmark = pytest.mark.usefixtures("in_utc")


def test_counters_are_held_against_the_totals() -> None:
    """How far each interface counter moved stands beside the drops that the kernel counts there."""
    host = Host(snapshot(wg0(rx_errors=100, rx_frame_errors=40, tx_errors=7)))
    after = wg0(rx_errors=123, rx_frame_errors=63, tx_errors=9)
    sums = {
        total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32): 20,
        total_of(Reason.SRC_NOT_ALLOWED, PARIS, 33): 3,
        total_of(Reason.BAD_HEADER, sub=4): 11,
    }

    tracer = Replay([[host.set(after)]])

    told = run(tracer, host, before_start=lambda: tracer.sums.update(sums))

    assert told.reconciliation == {"rx_errors": (23, 23), "rx_frame_errors": (23, 23), "tx_errors": (2, 0)}


def test_drops_of_before_the_start_explain_nothing() -> None:
    """Only what was dropped since the counters were first read is held against them."""
    host = Host(snapshot(wg0(rx_errors=2, rx_frame_errors=2)))
    key = total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32)
    tracer = Replay([[host.set(wg0(rx_errors=25, rx_frame_errors=25))]], {key: 2})

    told = run(tracer, host, before_start=lambda: tracer.sums.update({key: 25}))

    assert told.reconciliation == {"rx_errors": (23, 23), "rx_frame_errors": (23, 23)}
    assert [t["count"] for t in told.summary["totals"]] == [25]


def test_counters_that_did_not_move_are_not_listed() -> None:
    """A run without drops has nothing to reconcile, and is complete."""
    told = run(Replay([]), Host(snapshot(wg0(rx_errors=100))))

    assert told.reconciliation == {}
    assert told.summary["complete"] is True
    assert told.summary["totals"] == []


def test_an_interface_that_appears_is_counted_from_nothing() -> None:
    """An interface made during the run has its counters from 0 on: all of its drops are explained."""
    host = Host(Snapshot(BOOT_NS))
    key = total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32)
    tracer = Replay([[host.set(wg0(rx_errors=5, rx_frame_errors=5)), FROM_NOBODY]])

    told = run(tracer, host, before_start=lambda: tracer.sums.update({key: 5}))

    assert told.reconciliation == {"rx_errors": (5, 5), "rx_frame_errors": (5, 5)}


def test_an_interface_that_is_made_anew_does_not_move_backwards() -> None:
    """wg-quick down and up again starts the counters anew; what moved since is never negative."""
    again = replace(wg0(rx_errors=3, rx_frame_errors=3), ifindex=8)
    host = Host(snapshot(wg0(rx_errors=100, rx_frame_errors=100)))
    key = total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32)
    tracer = Replay([[host.set(again), CONFIG]])

    told = run(tracer, host, before_start=lambda: tracer.sums.update({key: 3}))

    assert told.reconciliation == {"rx_errors": (3, 3), "rx_frame_errors": (3, 3)}


def test_a_renamed_interface_is_one() -> None:
    """Drops, totals, counters and findings of both names are the new name's, and it is told."""
    host, out = Host(), io.StringIO()
    said: list[str] = []
    host.state = snapshot(wg0(rx_errors=100))
    renamed = replace(wg0(rx_errors=107, rx_frame_errors=7), ifname="vpn0")
    sums = {
        total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32): 3,
        total_key(
            ifname=b"vpn0",
            netns=NETNS,
            kind=EventKind.DROP,
            code=Reason.SRC_NOT_ALLOWED,
            sub_reason=32,
            peer_known=1,
            matched=1,
            public_key=raw(BERLIN),
        ): 4,
    }
    after = drop(Reason.SRC_NOT_ALLOWED, BERLIN, "vpn0", sub_reason=SubReason.OWNED_BY_NOBODY)
    replay = Replay([[FROM_NOBODY] * 3, [host.set(renamed), *[after] * 4]])
    replay.polls[0].append(lambda: replay.sums.update(sums))
    with Signals() as signals:
        whole = DropsRun(replay, host, [JsonLinesSink(out)], Filter(), said.append)
        whole.run(Limits(), signals)

    *_, finding, summary = map(json.loads, out.getvalue().splitlines())
    assert said == ["wg0 is now vpn0"]
    assert (finding["ifname"], finding["count"]) == ("vpn0", 7)
    assert [(t["ifname"], t["count"]) for t in summary["totals"]] == [("vpn0", 7)]
    assert {(r["ifname"], r["counter"]): (r["moved"], r["explained"]) for r in summary["reconciliation"]} == {
        ("vpn0", "rx_errors"): (7, 7),
        ("vpn0", "rx_frame_errors"): (7, 7),
    }


def test_counters_are_explained_by_drops_of_both_kinds() -> None:
    """What the kernel's filter hides still explains how far a counter moved."""
    host = Host(snapshot(wg0()))
    tracer = Replay([[host.set(wg0(rx_errors=84, rx_frame_errors=84))]])
    sums = {
        total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32): 23,
        total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32, matched=0): 61,
    }

    told = run(tracer, host, before_start=lambda: tracer.sums.update(sums))

    assert told.reconciliation == {"rx_errors": (84, 84), "rx_frame_errors": (84, 84)}
