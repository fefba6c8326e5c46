# SPDX-License-Identifier: GPL-2.0-only
"""pipeline: a whole run over bytes as the programs write them; only the tracer is a stand-in."""

from __future__ import annotations

import io
import signal
from dataclasses import replace

import pytest
from drops_run import run, wg0
from factories import (
    BERLIN,
    NETNS,
    attached_probe,
    device,
    missing_probe,
    snapshot,
)
from rich.console import Console
from stand_ins import BAD, CONFIG, FROM_NOBODY, Host, Replay, Step, drop, total_of

from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Reason
from wgtrace.outputs.jsonl import JsonLinesSink
from wgtrace.outputs.table import TableSink
from wgtrace.pipeline import DropsRun, Limits, Signals
from wgtrace.report import Sink
from wgtrace.state.types import Namespace

pytestmark = pytest.mark.usefixtures("in_utc")


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


def test_records_that_came_while_it_was_stopped_are_shown() -> None:
    """What is in the buffer when Ctrl-C comes is still taken."""
    told = run(Replay([[lambda: signal.raise_signal(signal.SIGTERM), BAD], [BAD]]))

    assert told.reasons == ["bad_header"] * 2


def test_the_banner_names_namespaces() -> None:
    """The names of the snapshot's namespaces reach the sinks."""
    second = Namespace(7, "/run/netns/blue", "blue")
    state = snapshot(device(), replace(device(), netns=7))
    told = run(Replay([]), Host(replace(state, namespaces=(*state.namespaces, second))))

    assert told.table.startswith(f"wg0 in netns {NETNS}: 3 peers, port 51820.\nwg0 in netns blue: ")
