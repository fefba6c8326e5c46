# SPDX-License-Identifier: GPL-2.0-only
"""What a recording tells, taken once: the run, its events in order, where WireGuard freed packets."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wgtrace.diagnosis.outside import layer_of
from wgtrace.diagnosis.words import short_key, utc
from wgtrace.errors import UndecodableRecordError
from wgtrace.events.decode import Decoder
from wgtrace.events.flow_filter import Filter
from wgtrace.events.invariants import Invariant
from wgtrace.events.reasons import Reason
from wgtrace.events.types import (
    ConfigEvent,
    DropEvent,
    DropTotal,
    Event,
    HandshakeEvent,
    InvariantEvent,
    PacketEvent,
    PathEvent,
)
from wgtrace.outputs.console import make_console
from wgtrace.outputs.jsonl import JsonLinesSink
from wgtrace.outputs.table import TableSink
from wgtrace.pipeline import DropsRun, Limits, Signals
from wgtrace.recording.facts import Facts
from wgtrace.recording.replay import Recording
from wgtrace.report import RunStart, Sink, Summary
from wgtrace.report import Seen as SeenAny
from wgtrace.state.types import Snapshot

MOST_LINES: Final = 400


@dataclass
class Seen:
    """A recording, told.

    Attributes:
        before: The configuration when it began; after: when it ended.
        timeline: What happened, a line each, what repeats in one.
        outside: Packets that were dropped outside of WireGuard, by (layer, reason).
        places: How often WireGuard freed a packet where, by (place, reason); `other_places`: the
            rest of the kernel.
        violations: What was found in place of what when an invariant did not hold, a sentence each, and
            the stack of the first.
        table: As `wgtrace replay` shows it; lines: as its JSON lines.
    """

    facts: Facts
    before: Snapshot
    after: Snapshot
    summary: Summary
    drops: Counter[Reason] = field(default_factory=Counter)
    timeline: tuple[str, ...] = ()
    outside: Counter[tuple[str, str]] = field(default_factory=Counter)
    places: Counter[tuple[str, str]] = field(default_factory=Counter)
    other_places: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: dict[Invariant, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    table: str = ""
    lines: str = ""


def seen(paths: Sequence[Path]) -> Seen:
    """Tell a recording.

    Args:
        paths: All files of a run.
    """
    table, lines = io.StringIO(), io.StringIO()
    last = _Last()
    with contextlib.closing(Recording(paths)) as recording, Signals() as signals:
        before = recording.snapshot()
        sinks: list[Sink] = [TableSink(make_console(table), rows=False), JsonLinesSink(lines), last]
        run = DropsRun(recording, recording, sinks, Filter(), facts=recording.asked)
        run.start()
        run.run(Limits(), signals)
        assert last.is_told
        told = Seen(recording.facts, before, recording.snapshot(), last.told)
    told.table, told.lines = table.getvalue(), lines.getvalue()
    for total in last.told.totals:
        if isinstance(total, DropTotal):
            told.drops[total.reason] += total.count
        else:
            told.outside[layer_of(total.reason, total.hook), total.reason.id] += total.count
    timeline = _Timeline(told.facts.clock_offset_ns)
    with contextlib.closing(Recording(paths)) as recording:
        for event in _events(recording):
            timeline.take(event)
            if isinstance(event, DropEvent) and event.where:
                told.places[event.where, event.reason.id] += 1
            elif isinstance(event, PathEvent) and event.where:
                told.other_places[event.where, event.reason.id] += 1
            elif isinstance(event, InvariantEvent):
                told.violations.setdefault(event.invariant, (violation(event), event.stack))
    told.timeline = tuple(timeline.ended())
    return told


class _Last:
    """A sink that keeps the summary."""

    def __init__(self) -> None:
        self.is_told = False
        self.told: Summary

    def start(self, start: RunStart) -> None:
        """Nothing is kept of it."""

    def drop(self, drop: SeenAny) -> None:
        """Nothing is kept of it."""

    def rest(self) -> None:
        """There is nothing to be seen."""

    def summary(self, summary: Summary) -> None:
        """Keep it."""
        self.told, self.is_told = summary, True


def _events(recording: Recording) -> Iterator[Event]:
    decoder = Decoder(recording.describe, recording.kernel_reasons)
    while (records := recording.records(0)) is not None:
        for record in records:
            with contextlib.suppress(UndecodableRecordError):
                event = decoder.event(record)
                if not isinstance(event, PacketEvent):
                    yield event


class _Timeline:
    """A line for each event, or for each row of the same in a row; no more than can be read."""

    def __init__(self, offset_ns: int) -> None:
        self._offset_ns = offset_ns
        self._lines: list[str] = []
        self._left_out = 0
        self._text, self._count, self._first_ns, self._last_ns = "", 0, 0, 0

    def take(self, event: Event) -> None:
        """The next event."""
        text = _told(event)
        if text != self._text:
            self._close()
            self._text, self._first_ns = text, event.ts_ns
        self._count += 1
        self._last_ns = event.ts_ns

    def ended(self) -> list[str]:
        """The lines."""
        self._close()
        if self._left_out:
            self._lines.append(f"and {self._left_out} more events: events.jsonl has the drops")
        return self._lines

    def _close(self) -> None:
        if self._count and len(self._lines) < MOST_LINES:
            first, last = (utc(ns + self._offset_ns, 6) for ns in (self._first_ns, self._last_ns))
            until = f", {self._count} times until {last[11:]}" if self._count > 1 else ""
            self._lines.append(f"{first}  {self._text}{until}")
        else:
            self._left_out += self._count
        self._count = 0


def violation(event: InvariantEvent) -> str:
    """What was found in place of what."""
    if event.invariant is Invariant.RESPONSE_INDEX:
        return f"a response for {event.expected:08x} was taken by the handshake {event.found:08x}"
    if event.invariant is Invariant.PADDING_ZERO:
        return f"{event.found} of {event.length} bytes of padding are not zero"
    return f"the time {event.expected} ns of the monotonic clock says that it is of clock {event.found}"


def _told(event: Event) -> str:
    if isinstance(event, ConfigEvent):
        return f"configuration changed by {event.comm}"
    if isinstance(event, PacketEvent):
        return ""
    who = f" {short_key(event.peer.public_key)}" if event.peer else ""
    name = event.device.ifname
    if isinstance(event, InvariantEvent):
        # of packets one like the other: a row of them is one line
        what = f": {violation(event)}" if event.invariant is Invariant.RESPONSE_INDEX else ""
        return f"{name}{who}: {event.invariant.id} violated{what}"
    if isinstance(event, HandshakeEvent):
        numbers = [f"{n:08x}" for n in (event.sender_index, event.receiver_index) if n]
        which = f" [{' > '.join(numbers)}]" if numbers else ""
        attempt = f", attempt {event.attempt}" if event.attempt else ""
        return f"{name}{who}: {event.code.id}{which}{attempt}"
    if isinstance(event, PathEvent):
        where = event.where or "a place not known"
        return f"{name}{who}: dropped outside of WireGuard, {event.reason.id}, at {where}"
    what = ":".join(filter(None, (event.reason.id, event.sub_reason.id)))
    return f"{name}{who}: dropped, {what}, at {event.where or 'a refused message'}"
