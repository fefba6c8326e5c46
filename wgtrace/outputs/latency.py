# SPDX-License-Identifier: GPL-2.0-only
"""How `wgtrace latency` is told: a table with histograms below it, a heat map, or JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from wgtrace.diagnosis.words import count_of, short_key
from wgtrace.events.histogram import Histogram, merged
from wgtrace.events.latency import STAGES, Stage
from wgtrace.events.reasons import Direction
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import put
from wgtrace.outputs.fields import Json, clock
from wgtrace.outputs.histogram import duration, heat_line, heat_scale, text_histogram
from wgtrace.outputs.jsonl import JsonLinesSink
from wgtrace.outputs.summary import span, wrapped
from wgtrace.outputs.table import banner
from wgtrace.report import Group, LatencyReport, LatencyRow, Part, RunStart, SlowPacket

PERCENTS: Final = (50, 90, 99)
_NAME: Final = 14  # columns of a peer or an interface
_TITLES: Final = f"{'DIR':<5}{'STAGE':<8}{'COUNT':>8}" + "".join(f"{f'P{p}':>9}" for p in PERCENTS)


class LatencyTableSink:
    """Writes a run for a person to read.

    Args:
        console: Decides on width and colour.
        histograms: Whether to write histograms at the end: of each stage, or where peers or
            CPUs are told apart of their totals.
        heat_map: Whether an interval is a line of a heat map instead of a table.
    """

    def __init__(self, console: Console, histograms: bool = True, heat_map: bool = False) -> None:
        self._console = console
        self._has_histograms = histograms
        self._has_heat_map = heat_map
        self._has_scale = False

    def start(self, start: RunStart) -> None:
        """Write the banner."""
        for text in banner(start):
            self._put_wrapped(text)

    def report(self, report: LatencyReport) -> None:
        """Write an interval, a count in between, or the whole."""
        if report.part is Part.INTERVAL and self._has_heat_map:
            self._put_heat(report)
            return
        put(self._console)
        put(self._console, (_headline(report), "bold"))
        for line in _table(report.rows):
            put(self._console, line)
        if report.part is Part.INTERVAL:
            return
        if report.rows:
            self._put_wrapped(
                "P50, P90 and P99 are told by power-of-two buckets, right to a factor of two; MAX is exact."
            )
        if self._has_histograms and report.part is Part.WHOLE:
            is_one = len({row.group.direction for row in report.rows}) == len(report.rows)
            for row in report.rows:
                self._put_histograms(row, tuple(row.histograms) if is_one else (Stage.TOTAL,))
        if report.slowest:
            put(self._console)
            put(self._console, ("The slowest:", "bold"))
            for packet in report.slowest:
                self._put_wrapped(f"  {_slow_text(packet)}", indent="    ")
        if report.incomplete_because:
            put(self._console, ("This is incomplete:", "yellow"))
            for text in report.incomplete_because:
                self._put_wrapped(f"  {clean(text)}", indent="    ")

    def _put_heat(self, report: LatencyReport) -> None:
        if not self._has_scale:
            put(self._console, (f"{'TIME':<10}DIR  {heat_scale()}", "dim"))
            self._has_scale = True
        at = clock(report.ts_unix_ns)[:8]
        for direction in (Direction.TX, Direction.RX):
            rows = [row for row in report.rows if row.group.direction is direction]
            if rows:
                total = merged(row.histograms[Stage.TOTAL] for row in rows)
                worst = f"max {duration(total.max)}"
                line = f"{at}  {direction.value}  |{heat_line(total)}| {total.count:>8}  {worst}"
                put(self._console, (line, ""))

    def _put_histograms(self, row: LatencyRow, stages: Sequence[Stage]) -> None:
        for stage in stages:
            histogram = row.histograms[stage]
            if not histogram.max:
                continue  # nobody waited: the table says so
            put(self._console)
            put(self._console, (f"{_who(row.group)}{row.group.direction.value} {stage.id}", "bold"))
            for line in text_histogram(histogram):
                put(self._console, (line, ""))

    def _put_wrapped(self, text: str, indent: str = "  ") -> None:
        for line in wrapped(text, min(max(self._console.width, 40), 160), indent):
            put(self._console, (line, ""))


def _headline(report: LatencyReport) -> str:
    counts = {direction: 0 for direction in (Direction.TX, Direction.RX)}
    for row in report.rows:
        counts[row.group.direction] += row.histograms[Stage.TOTAL].count
    what = f"{count_of(counts[Direction.TX], 'packet')} out, {counts[Direction.RX]} in"
    if report.part is Part.INTERVAL:
        return f"{clock(report.ts_unix_ns)[:8]}: {what} in {span(report.duration_s)}."
    so_far = "So far: " if report.part is Part.INTERIM else ""
    return f"{so_far}{what} in {span(report.duration_s)}."


def _table(rows: tuple[LatencyRow, ...]) -> Iterator[tuple[str, str]]:
    """The lines, each with its style."""
    if not rows:
        return
    groups = [row.group for row in rows]
    has_ifname = len({(g.ifname, g.netns) for g in groups}) > 1
    has_peer = any(g.public_key for g in groups)
    has_cpu = any(g.cpu is not None for g in groups)
    titles = [("IFACE", _NAME)] * has_ifname + [("PEER", _NAME)] * has_peer
    first = "".join(f"{title:<{width + 1}}" for title, width in titles) + "CPU  " * has_cpu
    yield f"{first}{_TITLES}{'MAX':>9}", "dim"
    for row in rows:
        names = [row.group.ifname or ""] * has_ifname + [_peer(row.group)] * has_peer
        begin = "".join(_fitted(name) for name in names) + f"{row.group.cpu or 0:<5}" * has_cpu
        for stage, histogram in row.histograms.items():
            yield f"{begin}{_cells(row.group, stage, histogram)}", "bold" if stage is Stage.TOTAL else ""


def _cells(group: Group, stage: Stage, histogram: Histogram) -> str:
    times = [*(histogram.percentile(percent) for percent in PERCENTS), histogram.max]
    numbers = "".join(f"{duration(ns):>9}" for ns in times)
    return f"{group.direction.value:<5}{stage.id:<8}{histogram.count:>8}{numbers}"


def _fitted(name: str) -> str:
    text = clean(name)
    if cell_len(text) > _NAME:
        text = set_cell_size(text, _NAME - 1) + "…"
    return set_cell_size(text, _NAME + 1)


def _peer(group: Group) -> str:
    return group.peer_name or short_key(group.public_key or "")


def _who(group: Group) -> str:
    """What a histogram is about, before the direction and the stage."""
    peer = f"{clean(group.ifname or '')} {clean(_peer(group))} " if group.public_key else ""
    return f"{peer}CPU {group.cpu} " if group.cpu is not None else peer


def _slow_text(packet: SlowPacket) -> str:
    group, times = packet.group, packet.times
    stages = ", ".join(f"{stage.id} {duration(ns)}" for stage, ns in times.stages.items())
    who = f"{group.direction.value} {clean(_peer(group))}"
    return f"{clock(packet.ts_unix_ns)} {who} {duration(times.total)}: {stages} (CPU {times.cpu})"


class LatencyJsonSink(JsonLinesSink):
    """Writes a run as JSON lines: one for each histogram, for each of the slowest packets, and the end."""

    def report(self, report: LatencyReport) -> None:
        """Write a report."""
        for row in report.rows:
            for stage, histogram in row.histograms.items():
                self._write(
                    "histogram", report.ts_unix_ns, _histogram_json(report, row.group, stage, histogram)
                )
        for packet in report.slowest:
            self._write("slow_packet", packet.ts_unix_ns, _slow_json(report, packet))
        end: Json = {
            "part": report.part.value,
            "duration_s": round(report.duration_s, 3),
            "partly_seen": report.partly_seen,
            "complete": not report.incomplete_because,
            "incomplete_because": [clean(text) for text in report.incomplete_because],
        }
        self._write("latency_summary", report.ts_unix_ns, end)


def _group_json(report: LatencyReport, group: Group) -> Json:
    peer = {"public_key": group.public_key, "name": clean(group.peer_name) if group.peer_name else None}
    return {
        "part": report.part.value,
        "netns": group.netns,
        "ifname": None if group.ifname is None else clean(group.ifname),
        "peer": peer if group.public_key else None,
        "cpu": group.cpu,
        "direction": group.direction.value,
    }


def _histogram_json(report: LatencyReport, group: Group, stage: Stage, histogram: Histogram) -> Json:
    body: Json = {"name": "latency", "unit": "ns", **_group_json(report, group), "stage": stage.id}
    body["buckets"] = [list(bucket) for bucket in histogram.buckets()]
    body |= {"count": histogram.count, "sum": histogram.sum, "max": histogram.max}
    return body | {f"p{percent}": histogram.percentile(percent) for percent in PERCENTS}


def _slow_json(report: LatencyReport, packet: SlowPacket) -> Json:
    group, times = packet.group, packet.times
    stages = {stage.id: times.stages[stage] for stage in STAGES[group.direction]}
    return {**_group_json(report, group), "unit": "ns", "total": times.total, "stages": stages}
