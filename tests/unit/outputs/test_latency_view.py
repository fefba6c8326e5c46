# SPDX-License-Identifier: GPL-2.0-only
"""What `wgtrace latency` shows: table, histograms, heat map, JSON lines."""

from __future__ import annotations

import io
import json
from typing import Any

import jsonschema
import pytest
from factories import BERLIN, NETNS, NOW, OSLO, console, run_start, written
from latency_data import histogram
from rich.cells import cell_len

from wgtrace.events.latency import STAGES, SlowTimes, Stage
from wgtrace.events.reasons import Direction
from wgtrace.outputs.jsonl import json_schema
from wgtrace.outputs.latency import LatencyJsonSink, LatencyTableSink
from wgtrace.report import Group, LatencyReport, LatencyRow, Part, SlowPacket

pytestmark = pytest.mark.usefixtures("in_utc")

LONG = "a-peer-with-a-name-that-is-long"
TX = Group(Direction.TX, "wg0", NETNS, BERLIN, "berlin")
RX = Group(Direction.RX, "wg0", NETNS, OSLO, LONG)


def row(group: Group, *packets: dict[Stage, int]) -> LatencyRow:
    """Packets that were so long in each stage, 0 where it is not said."""
    stages = STAGES[group.direction]
    histograms = {stage: histogram(*(packet.get(stage, 0) for packet in packets)) for stage in stages}
    return LatencyRow(group, histograms | {Stage.TOTAL: histogram(*(sum(p.values()) for p in packets))})


def report(*rows: LatencyRow, part: Part = Part.WHOLE, **more: Any) -> LatencyReport:
    """A report of 23 seconds, with one slow packet."""
    stages = {**dict.fromkeys(STAGES[Direction.TX], 0), Stage.STAGED: 90_000_000, Stage.QUEUE: 100}
    times = SlowTimes(0, 90_000_100, stages, 1)
    return LatencyReport(NOW, part, 23.0, rows, (SlowPacket(TX, NOW, times),), **more)


ROWS = (
    row(TX, {Stage.STAGED: 90_000_000, Stage.QUEUE: 100}, *[{Stage.CRYPTO: 3000}] * 22),
    row(RX, *[{Stage.QUEUE: 4000, Stage.ORDER: 170_000_000_000}] * 7),
)


def shown(*reports: LatencyReport, width: int = 80, **options: Any) -> list[str]:
    """The lines of a run."""
    to = console(width)
    sink = LatencyTableSink(to, **options)
    sink.start(run_start())
    for each in reports:
        sink.report(each)
    return written(to).splitlines()


def test_the_table_fits_80_columns() -> None:
    """With the longest name, and the longest that a packet may wait."""
    lines = shown(report(*ROWS))

    assert max(map(cell_len, lines)) <= 80
    table = lines[lines.index("23 packets out, 7 in in 23 s.") + 1 :]
    assert table[0].split() == ["PEER", "DIR", "STAGE", "COUNT", "P50", "P90", "P99", "MAX"]
    assert table[1].split() == ["berlin", "tx", "staged", "23", "0ns", "0ns", "90.0ms", "90.0ms"]
    assert table[6].split()[:4] == ["berlin", "tx", "total", "23"]
    assert table[7].split() == ["a-peer-with-a…", "rx", "queue", "7", "3.16us", "4.00us", "4.00us", "4.00us"]


def test_histograms_of_stages_where_there_is_one_group() -> None:
    """Of each stage in which anything waited; with several peers, of their totals."""
    one = [line for line in shown(report(*ROWS)) if line.startswith(("wg0 ", "tx", "rx"))]
    more = row(Group(Direction.TX, "wg0", NETNS, OSLO), {Stage.QUEUE: 7})
    several = [line for line in shown(report(*ROWS, more)) if line.startswith("wg0 ")]
    without = [line for line in shown(report(*ROWS), histograms=False) if line.startswith("wg0 ")]

    assert one == [
        *(f"wg0 berlin tx {stage}" for stage in ("staged", "queue", "crypto", "total")),
        *(f"wg0 {LONG} rx {stage}" for stage in ("queue", "order", "total")),
    ]
    assert several == ["wg0 berlin tx total", f"wg0 {LONG} rx total", f"wg0 {OSLO[:8]}… tx total"]
    assert without == []


def test_the_slowest_are_told_with_their_stages() -> None:
    """When, whose, how long in each stage, and on which CPU."""
    lines = shown(report(*ROWS), width=200)

    assert lines[lines.index("The slowest:") + 1] == (
        "  12:04:11.203 tx berlin 90.0ms: staged 90.0ms, queue 100ns, crypto 0ns, order 0ns, "
        "output 0ns (CPU 1)"
    )


def test_what_is_missing_is_said() -> None:
    """A run that did not see all is called incomplete."""
    lines = shown(report(*ROWS, incomplete_because=("7 packets seen only in part",)))

    assert lines[-2:] == ["This is incomplete:", "  7 packets seen only in part"]
    assert not any("incomplete" in line for line in shown(report(*ROWS)))


def test_nothing_seen_is_no_table() -> None:
    """Without a packet there are no titles."""
    lines = shown(LatencyReport(NOW, Part.WHOLE, 23.0, (), ()))

    assert lines[-1] == "0 packets out, 0 in in 23 s."


def test_an_interval_is_a_table_without_histograms() -> None:
    """Its head says when it ended."""
    lines = shown(report(*ROWS, part=Part.INTERVAL))

    assert "12:04:11: 23 packets out, 7 in in 23 s." in lines
    assert not any("distribution" in line for line in lines)


def test_a_heat_map_has_a_line_for_each_interval_and_direction() -> None:
    """And its scale once."""
    lines = shown(*[report(*ROWS, part=Part.INTERVAL)] * 2, heat_map=True)

    (scale,) = (line for line in lines if "65.5us" in line)
    heat = lines[lines.index(scale) + 1 :]
    assert [line.split()[:2] for line in heat] == [["12:04:11", "tx"], ["12:04:11", "rx"]] * 2
    assert heat[0].endswith("|   @              .       |       23  max 90.0ms")
    assert max(map(cell_len, lines)) <= 80


def test_cpus_are_told_apart() -> None:
    """By CPU there is a column for it, and none for peers."""
    lines = shown(report(row(Group(Direction.TX, cpu=11), {Stage.QUEUE: 7})))
    titles = next(line for line in lines if "STAGE" in line)

    assert titles.split()[:3] == ["CPU", "DIR", "STAGE"]
    assert lines[lines.index(titles) + 1].split()[:3] == ["11", "tx", "staged"]
    assert "CPU 11 tx total" in lines


def test_several_interfaces_are_told_apart() -> None:
    """By a column of their names."""
    other = row(Group(Direction.TX, "wg1", NETNS, BERLIN, "berlin"), {Stage.QUEUE: 7})
    lines = shown(report(*ROWS, other), width=100)

    assert any(line.split()[:3] == ["wg1", "berlin", "tx"] for line in lines)


def test_json_lines_are_of_the_schema() -> None:
    """A line for each histogram, each slow packet and the end; the sums of stages are those of the total."""
    out = io.StringIO()
    sink = LatencyJsonSink(out)
    sink.start(run_start())
    sink.report(report(*ROWS, row(Group(Direction.TX, cpu=1), {Stage.QUEUE: 7}), partly_seen=2))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]

    for line in lines:
        jsonschema.validate(line, dict(json_schema()))
    kinds = [line["type"] for line in lines]
    assert kinds == ["start", *["histogram"] * (6 + 4 + 6), "slow_packet", "latency_summary"]
    first = [line for line in lines if line["type"] == "histogram"][:6]
    assert first[0] | {"ts": ""} == {
        "schema": 1,
        "type": "histogram",
        "ts": "",
        "name": "latency",
        "unit": "ns",
        "part": "whole",
        "netns": NETNS,
        "ifname": "wg0",
        "peer": {"public_key": BERLIN, "name": "berlin"},
        "cpu": None,
        "direction": "tx",
        "stage": "staged",
        "count": 23,
        "sum": 90_000_000,
        "max": 90_000_000,
        "p50": 0,
        "p90": 0,
        "p99": 90_000_000,
        "buckets": [[0, 0, 22], *[[1 << n, (2 << n) - 1, 0] for n in range(26)], [1 << 26, (1 << 27) - 1, 1]],
    }
    assert sum(line["sum"] for line in first[:5]) == first[5]["sum"]
    assert lines[-1]["partly_seen"] == 2


def test_a_line_of_another_form_is_refused() -> None:
    """The schema can fail: a stage that there is not, a histogram without its sum."""
    out = io.StringIO()
    LatencyJsonSink(out).report(report(*ROWS))
    good = json.loads(out.getvalue().splitlines()[0])

    jsonschema.validate(good, dict(json_schema()))
    for wrong in (good | {"stage": "elsewhere"}, {k: v for k, v in good.items() if k != "sum"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, dict(json_schema()))
