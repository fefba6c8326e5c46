# SPDX-License-Identifier: GPL-2.0-only
"""pipeline: limits and signals end a run, or ask for a count in between."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from drops_run import run
from stand_ins import BAD, FROM_NOBODY, Replay, Step, total_of

from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Reason
from wgtrace.pipeline import Limits, Signals

pytestmark = pytest.mark.usefixtures("in_utc")


@pytest.mark.parametrize("polls", [[[BAD] * 5], [[BAD], [BAD], [BAD], [BAD]]])
def test_a_count_ends_the_run(polls: list[list[Step]]) -> None:
    """After N drops shown the run ends; in the records at hand no more are shown; the totals are all."""
    told = run(Replay(polls, {total_of(Reason.BAD_HEADER, sub=3): 5}), limits=Limits(count=3))

    assert told.reasons == ["bad_header"] * 3
    assert [t["count"] for t in told.summary["totals"]] == [5]


def test_a_count_counts_what_is_shown() -> None:
    """Drops that a filter hides do not count towards N."""
    wanted = Filter(reasons=frozenset({Reason.SRC_NOT_ALLOWED}))

    told = run(Replay([[BAD, FROM_NOBODY] * 5]), wanted=wanted, limits=Limits(count=3))

    assert told.reasons == ["src_not_allowed"] * 3


def test_a_duration_ends_the_run() -> None:
    """When its time is over a run takes what there is, and ends with the summary."""
    told = run(Replay([[BAD]]), limits=Limits(duration_s=0.0))

    assert told.reasons == ["bad_header"]
    assert told.summary["interim"] is False


def test_a_source_that_ends_ends_the_run() -> None:
    """A recording has no Ctrl-C: when it is over the summary comes by itself."""
    told = run(Replay([[BAD], [BAD]], ends=True))

    assert told.reasons == ["bad_header"] * 2
    assert told.summary["interim"] is False


def test_a_signal_asks_for_a_count_in_between() -> None:
    """SIGUSR1 gives a summary of all that is in the buffer, marked as one in between; the run goes on."""
    tracer = Replay([], {total_of(Reason.BAD_HEADER, sub=3): 3})
    tracer.polls = [[lambda: signal.raise_signal(signal.SIGUSR1), BAD], [BAD], [BAD]]

    told = run(tracer)

    kinds = [line["type"] for line in told.lines if line["type"] in ("drop", "summary")]
    assert kinds == ["drop", "drop", "summary", "drop", "summary"]
    assert [line["interim"] for line in told.of("summary")] == [True, False]
    assert [line["totals"][0]["count"] for line in told.of("summary")] == [3, 3]


def test_signals_are_put_back() -> None:
    """After a run the process takes signals as it did before."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]

    run(Replay([[BAD]]))

    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_there_is_anything_to_count(number: signal.Signals) -> None:
    """While it starts, a signal ends the process with the status that a shell gives it."""
    with Signals(), pytest.raises(SystemExit) as ended:
        signal.raise_signal(number)

    assert ended.value.code == 128 + number


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As under nohup(1)."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            signal.raise_signal(signal.SIGHUP)
            assert not signals.stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_asked_twice_it_ends_at_once() -> None:
    """A second Ctrl-C does not wait for whatever the first one waits for."""
    script = (
        "import signal; from wgtrace.pipeline import Signals\n"
        "with Signals(is_running=True):\n"
        "    signal.raise_signal(signal.SIGINT); print('still here', flush=True)\n"
        "    signal.raise_signal(signal.SIGINT); print('never here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (130, "still here\n", "")
