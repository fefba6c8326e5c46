# SPDX-License-Identifier: GPL-2.0-only
"""pipeline: a whole run over bytes as the programs write them; only the tracer is a stand-in."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from factories import (
    BERLIN,
    BOOT_NS,
    NETNS,
    OSLO,
    PARIS,
    attached_probe,
    console,
    device,
    missing_probe,
    peer,
    snapshot,
    written,
)
from records import flow4, record, total_key
from rich.console import Console
from stand_ins import Host, Replay, Step, drop, raw, step, total_of

from wgtrace.diagnosis.finding import Finding
from wgtrace.errors import UnsupportedError
from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Direction, HandshakeCode, Reason, SubReason
from wgtrace.events.types import Counters
from wgtrace.events.wire import EventKind, Loss
from wgtrace.loader.tracer import Settings
from wgtrace.outputs.jsonl import JsonLinesSink
from wgtrace.outputs.table import TableSink
from wgtrace.pipeline import DropsRun, HostFacts, Limits, Signals
from wgtrace.report import Sink
from wgtrace.state.types import Claim, Device, Load, Namespace, Snapshot, Way

pytestmark = pytest.mark.usefixtures("in_utc")


@dataclass
class Told:
    """What a run said on its sinks."""

    lines: list[dict[str, Any]]
    table: str
    findings: tuple[Finding, ...]
    host: Host

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a type."""
        return [line for line in self.lines if line["type"] == kind]

    @property
    def reasons(self) -> list[str]:
        """Reasons of the drops shown, in their order."""
        return [line["reason"] for line in self.of("drop")]

    @property
    def summary(self) -> dict[str, Any]:
        """The last line, which is the summary."""
        assert self.lines[-1]["type"] == "summary"
        return self.lines[-1]

    @property
    def slugs(self) -> list[str]:
        """The findings, by name."""
        return sorted(finding.slug for finding in self.findings)

    @property
    def reconciliation(self) -> dict[str, tuple[int, int]]:
        """By counter: how far it moved, and how much of that is explained."""
        return {r["counter"]: (r["moved"], r["explained"]) for r in self.summary["reconciliation"]}


def run(
    tracer: Replay,
    host: Host | None = None,
    wanted: Filter | None = None,
    limits: Limits | None = None,
    before_start: Callable[[], None] = lambda: None,
    facts: HostFacts | None = None,
) -> Told:
    """A whole run, to the end of the replay or its limits."""
    host, out, screen = host or Host(), io.StringIO(), console(200)
    sinks: list[Sink] = [JsonLinesSink(out), TableSink(screen)]
    with Signals() as signals:
        whole = DropsRun(tracer, host, sinks, wanted or Filter(), facts=facts)
        before_start()
        whole.start()
        findings = whole.run(limits or Limits(), signals)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return Told(lines, written(screen), findings, host)


CONFIG = record(EventKind.CONFIG, pid=4242, comm=b"wg")
BAD = drop(Reason.BAD_HEADER, payload=b"\x09", payload_len=1, sub_reason=SubReason.TOO_SHORT)
FROM_NOBODY = drop(
    Reason.SRC_NOT_ALLOWED,
    BERLIN,
    sub_reason=SubReason.OWNED_BY_NOBODY,
    inner=flow4("10.9.7.7", "10.9.0.1", 6, 52114, 443, 84),
    location=0x1C4,
    kernel_reason=2,
)


def wg0(name: str | None = "berlin", **counters: int) -> Device:
    """The interface wg0, berlin being called by another name or none."""
    return device(peers=(peer(BERLIN, name, "10.9.0.2/32"), peer(PARIS, "paris")), counters=counters)


def test_a_drop_goes_all_the_way() -> None:
    """A record becomes a line of both sinks, joined with the configuration, and a finding with its fix."""
    told = run(Replay([[FROM_NOBODY] * 23], {total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32): 23}))

    assert [line["type"] for line in told.lines] == ["start", *["drop"] * 23, "finding", "summary"]
    shown = told.of("drop")[0]
    assert (shown["reason"], shown["sub_reason"]) == ("src_not_allowed", "owned_by_nobody")
    assert shown["peer"]["name"] == "berlin"
    assert shown["where"] == "wg_packet_rx_poll+0x1c4"
    assert shown["kernel_reason"] is None
    assert shown["ts"] == "2026-11-22T12:04:11.203000417Z"
    assert told.table.count("10.9.7.7 is in no peer's AllowedIPs") == 23
    assert [(f.slug, f.count) for f in told.findings] == [("source-not-allowed", 23)]
    assert "10.9.7.7" in told.findings[0].cause
    assert told.summary["complete"] is True
    assert [t["count"] for t in told.summary["totals"]] == [23]


def test_what_a_poll_brings_is_seen_before_the_next() -> None:
    """Rows wait in no buffer of ours for the next drop, which may come in an hour."""
    written = [io.BytesIO(), io.BytesIO()]
    files = [io.TextIOWrapper(buffer, encoding="utf-8") for buffer in written]
    sinks: list[Sink] = [JsonLinesSink(files[0]), TableSink(Console(file=files[1], width=200))]
    seen: list[list[int]] = []

    def look() -> None:
        seen.append([buffer.getvalue().count(b"not_allowed") for buffer in written])

    with Signals() as signals:
        replay = Replay([[FROM_NOBODY] * 2, [look], [FROM_NOBODY] * 3, [look]])
        DropsRun(replay, Host(), sinks, Filter()).run(Limits(), signals)

    assert seen == [[2, 2], [5, 5]]


def test_the_start_is_told_before_anything_else() -> None:
    """The first line says what runs, on what, and what became of each probe."""
    start = run(Replay([], probes=(attached_probe(1), missing_probe("no_endpoint")))).lines[0]

    assert (start["type"], start["bcc"]) == ("start", "0.31.0")
    assert [d["ifname"] for d in start["devices"]] == ["wg0"]
    assert [len(start["probes"][kind]) for kind in ("attached", "missing")] == [1, 1]


def test_the_configuration_is_read_again_between_two_drops() -> None:
    """What comes before a change of the configuration is told by the old one, what comes after by the new."""
    host = Host(snapshot(wg0("old")))

    told = run(Replay([[host.set(wg0("new")), FROM_NOBODY, CONFIG, FROM_NOBODY]]), host)

    assert [line["peer"]["name"] for line in told.of("drop")] == ["old", "new"]


def test_many_changes_at_once_are_one_reading() -> None:
    """A script that configures a hundred peers does not make wgtrace read a hundred times."""
    first: list[Step] = [*[CONFIG] * 100, FROM_NOBODY, *[CONFIG] * 100]

    told = run(Replay([first, [FROM_NOBODY]]))

    # at the start, before each of the two drops, and for the summary
    assert told.host.readings == 4
    assert told.summary["complete"] is True


def test_an_interface_that_is_new_is_read_once() -> None:
    """A drop of an interface that was not there has it read, once even if it cannot be found."""
    host = Host(snapshot(wg0()))
    stranger = drop(Reason.BAD_HEADER, ifname="wg7")

    told = run(Replay([[stranger] * 5, [stranger]]), host)

    assert told.reasons == ["bad_header"] * 6
    assert host.readings == 3


def test_what_cannot_be_decoded_is_counted() -> None:
    """A record of nonsense is counted, the next one is still shown, and the result is not complete."""
    told = run(Replay([[b"", b"\xff" * 328, BAD[:-1], BAD]]))

    assert told.reasons == ["bad_header"]
    assert told.summary["lost"]["undecodable"] == 3
    assert told.summary["complete"] is False
    assert "3 records could not be read: not shown, perhaps not counted" in told.summary["incomplete_because"]


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


def test_what_is_missing_of_a_recording_makes_a_result_incomplete() -> None:
    """A part of the run that is not to be had any more is said at the end."""
    told = run(Replay([]), Host(gaps=("3 blocks are missing",)))

    assert told.summary["complete"] is False
    assert told.summary["incomplete_because"] == ["3 blocks are missing"]


def test_records_that_came_while_it_was_stopped_are_shown() -> None:
    """What is in the buffer when Ctrl-C comes is still taken."""
    told = run(Replay([[lambda: signal.raise_signal(signal.SIGTERM), BAD], [BAD]]))

    assert told.reasons == ["bad_header"] * 2


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


def test_the_banner_names_namespaces() -> None:
    """The names of the snapshot's namespaces reach the sinks."""
    second = Namespace(7, "/run/netns/blue", "blue")
    state = snapshot(device(), replace(device(), netns=7))
    told = run(Replay([]), Host(replace(state, namespaces=(*state.namespaces, second))))

    assert told.table.startswith(f"wg0 in netns {NETNS}: 3 peers, port 51820.\nwg0 in netns blue: ")


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


UNSENT = drop(Reason.NO_ROUTE_TO_ENDPOINT, BERLIN, errno=101)


def test_the_way_is_asked_while_there_is_none() -> None:
    """At once when packets find no route, and again for the summary: what it was stays known."""
    answers = [Way(ip_address("203.0.113.9"), errno=13), Way(ip_address("203.0.113.9"), oif="eth0")]
    asked: list[tuple[str, str]] = []

    def way(of: Device, endpoint: object, _namespaces: object) -> Way:
        asked.append((of.ifname, str(endpoint)))
        return answers.pop(0)

    tracer = Replay([[UNSENT], [UNSENT]], {total_of(Reason.NO_ROUTE_TO_ENDPOINT, BERLIN): 2})
    told = run(tracer, facts=HostFacts(way=way))

    assert asked == [("wg0", "203.0.113.9")] * 2
    assert told.slugs == ["no-route-to-endpoint"]
    assert "EACCES" in str(told.findings[0].evidence)
    assert told.findings[0].fix == ("nothing: there is a route by now, by dev eth0",)


def test_a_healthy_run_asks_for_no_way() -> None:
    """Routes are not read for peers without trouble."""

    def way(*_: object) -> Way:
        raise AssertionError("asked")

    assert run(
        Replay([[BAD], [step(HandshakeCode.RESPONSE_ACCEPTED, BERLIN)]]), facts=HostFacts(way=way)
    ).findings


def test_who_moved_a_prefix_is_said() -> None:
    """The process that configured something between two snapshots."""
    host = Host(snapshot(device(peers=(peer(BERLIN, "berlin", "10.9.4.0/24"), peer(PARIS, "paris")))))
    moved = host.set(device(peers=(peer(BERLIN, "berlin"), peer(PARIS, "paris", "10.9.4.0/24"))))
    told = run(Replay([[BAD], [moved, CONFIG, BAD]]), host)

    assert "by wg (pid 4242)" in next(f.cause for f in told.findings if f.slug == "allowed-ips-moved")


def test_claims_and_load_reach_the_rules() -> None:
    """Read for the summary, the load also at the start."""
    loads = iter((Load((10,), (5,), (100,)), Load((100,), (50,), (200,))))
    net = ip_network("10.9.4.0/24")
    claims = tuple(Claim("/etc/wireguard/wg0.conf", key, net) for key in (BERLIN, PARIS))
    host = Host(snapshot(device(peers=(peer(BERLIN, "berlin"), peer(PARIS, "paris", "10.9.4.0/24")))))
    tracer = Replay([[]], {total_of(Reason.RX_QUEUE_FULL, BERLIN): 7})
    told = run(tracer, host, facts=HostFacts(claims=lambda: claims, load=lambda: next(loads)))

    assert told.slugs == ["allowed-ips-moved", "queue-full"]
    full = next(f for f in told.findings if f.slug == "queue-full")
    assert "was busy 90% of this run, 45% with receiving (softirq)" in str(full.evidence)
