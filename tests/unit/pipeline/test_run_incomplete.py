# SPDX-License-Identifier: GPL-2.0-only
"""pipeline: what was lost or not seen makes a result incomplete, and is said."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from drops_run import run
from factories import (
    attached_probe,
    missing_probe,
    snapshot,
)
from stand_ins import BAD, Host, Replay, total_of

from wgtrace.errors import UnsupportedError
from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Reason
from wgtrace.events.types import Counters
from wgtrace.events.wire import Loss
from wgtrace.loader.tracer import Settings
from wgtrace.outputs.jsonl import JsonLinesSink
from wgtrace.pipeline import DropsRun, Limits, Signals

pytestmark = pytest.mark.usefixtures("in_utc")


def test_what_is_missing_of_a_recording_makes_a_result_incomplete() -> None:
    """A part of the run that is not to be had any more is said at the end."""
    told = run(Replay([]), Host(gaps=("3 blocks are missing",)))

    assert told.summary["complete"] is False
    assert told.summary["incomplete_because"] == ["3 blocks are missing"]


NONE_LOST = dict.fromkeys(Loss, 0)


@pytest.mark.parametrize(
    ("counted", "said", "where", "count"),
    [
        (
            Counters({**NONE_LOST, Loss.LOST_EVENTS: 5}, {}, 0),
            "5 records found the buffer full: counted, not shown",
            "events",
            5,
        ),
        (
            Counters(NONE_LOST, {}, 7),
            "the kernel skipped 7 runs of a probe: so many drops may be missing above",
            "missed_probes",
            7,
        ),
        (
            Counters(NONE_LOST, {}, 1),
            "the kernel skipped 1 run of a probe: so many drops may be missing above",
            "missed_probes",
            1,
        ),
        (
            Counters({**NONE_LOST, Loss.LOST_UNCLASSIFIED: 2}, {}, 0),
            "WireGuard freed 2 packets at a place that wgtrace does not know: drops may be missing above",
            "unclassified",
            2,
        ),
        (
            Counters({**NONE_LOST, Loss.LOST_FRAMES: 3}, {}, 0),
            "3 handshake messages seen only in part: refusals may be missing above",
            "frames",
            3,
        ),
        (
            Counters({**NONE_LOST, Loss.LOST_DEVICES: 5}, {}, 0),
            "the interface of 5 drops was not found: drops may be missing above",
            "devices",
            5,
        ),
        (
            Counters({**NONE_LOST, Loss.LOST_TOTALS: 3}, {}, 0),
            "3 drops counted by reason only: too many peers for the table of totals",
            "totals",
            3,
        ),
        (
            Counters(NONE_LOST, {Reason.BAD_HEADER: 11, Reason.INVALID_MAC1: 2}, 0),
            "Totals are exact; 13 rows were not shown (at most 1,000 a second for each reason and CPU)",
            "rate_limited",
            {"bad_header": 11, "invalid_mac1": 2},
        ),
        (
            Counters(NONE_LOST, {Reason.BAD_HEADER: 19_000}, 0),
            "Totals are exact; 19,000 rows were not shown (at most 1,000 a second for each reason and CPU)",
            "rate_limited",
            {"bad_header": 19_000},
        ),
    ],
)
def test_what_was_lost_makes_a_result_incomplete(
    counted: Counters, said: str, where: str, count: object
) -> None:
    """Each kind of loss is a number of its own and a sentence, and forbids to say that nothing was lost."""
    told = run(Replay([], counted=counted))

    assert told.summary["complete"] is False
    assert told.summary["incomplete_because"] == [said]
    assert told.summary["lost"][where] == count


def test_rows_left_out_do_not_make_totals_exact() -> None:
    """Beside another loss nothing is said to be exact; alone it is no heading in the table."""
    limited = {Reason.BAD_HEADER: 1}
    both = run(Replay([], counted=Counters(NONE_LOST, limited, 7)))
    alone = run(Replay([], counted=Counters(NONE_LOST, limited, 0)))

    assert both.summary["incomplete_because"][1:] == [
        "1 row was not shown (at most 1,000 a second for each reason and CPU)"
    ]
    assert "This is incomplete:\n  the kernel skipped 7 runs" in both.table
    assert "\nTotals are exact; 1 row was not shown" in alone.table
    assert "incomplete" not in alone.table


def test_the_limit_of_rows_is_what_the_summary_says() -> None:
    """The number in the sentence is the one that the programs are given."""
    told = run(Replay([], counted=Counters(NONE_LOST, {Reason.BAD_HEADER: 1}, 0)))

    assert f"{Settings(None).events_per_second:,} a second" in told.summary["incomplete_because"][0]


def test_a_probe_that_is_missing_makes_a_result_incomplete() -> None:
    """What was not visible is said with its probe and why."""
    told = run(Replay([], probes=(attached_probe(1), missing_probe("no_endpoint"))))

    assert told.summary["complete"] is False
    assert told.summary["incomplete_because"] == [
        "no probe on wg_function: no such function in this kernel; not visible: the thing that happens"
    ]


def test_a_configuration_that_cannot_be_read_makes_a_result_incomplete() -> None:
    """A namespace that is gone is said at the end."""
    host = Host(replace(snapshot(), unreadable=("blue: the network namespace blue is gone",)))

    assert run(Replay([]), host).summary["incomplete_because"] == ["blue: the network namespace blue is gone"]


def _raise(error: Exception) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


def test_the_module_is_unloaded() -> None:
    """What was seen until then is told, as incomplete, and the error goes on to the caller."""
    error = UnsupportedError("the wireguard module was unloaded")
    out = io.StringIO()
    replay = Replay([[BAD] * 5, [_raise(error)]], {total_of(Reason.BAD_HEADER, sub=3): 5})
    with Signals() as signals, pytest.raises(UnsupportedError):
        DropsRun(replay, Host(), [JsonLinesSink(out)], Filter()).run(Limits(), signals)

    *drops, summary = map(json.loads, out.getvalue().splitlines())
    assert [line["type"] for line in drops] == [*["drop"] * 5, "finding"]
    assert summary["incomplete_because"] == ["the wireguard module was unloaded"]
    assert [total["count"] for total in summary["totals"]] == [5]
