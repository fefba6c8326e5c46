# SPDX-License-Identifier: GPL-2.0-only
"""The human table: one drop after the other as they come, in columns that stay put."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from wgtrace.diagnosis.words import count_of
from wgtrace.events.reasons import Direction
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import around, put
from wgtrace.outputs.fields import (
    DIRECTION,
    INNER,
    INTERFACE,
    LENGTH,
    PEER,
    REASON,
    TIME,
    WHY,
    Field,
    Write,
    day,
    writer,
)
from wgtrace.outputs.summary import print_summary, wrapped
from wgtrace.probes.types import Mechanism, ProbeStatus
from wgtrace.report import RunStart, Seen, Summary
from wgtrace.state.types import Device

_GAP: Final = "  "
_ONE_LINE: Final = (TIME, DIRECTION, PEER, INNER, LENGTH, REASON, WHY)
# Where one line has no room for the flow and the reason: the reason on a line below.
_UPPER: Final = (TIME, DIRECTION, PEER, LENGTH, INNER)
_INDENT: Final = "     "
_MECHANISMS: Final = {
    Mechanism.FENTRY: "fentry",
    Mechanism.FEXIT: "fentry",
    Mechanism.KPROBE: "kprobe",
    Mechanism.KRETPROBE: "kprobe",
    Mechanism.RAW_TRACEPOINT: "raw tracepoint",
}
_STYLES: Final = {TIME: "dim", REASON: "bold red", PEER: "bold"}


class TableSink:
    """Writes a run for a person to read.

    Args:
        console: Decides on width and colour.
        rows: Whether to write a row for each drop, or only banner and summary.
    """

    def __init__(self, console: Console, rows: bool = True) -> None:
        self._console = console
        self._has_rows = rows
        self._columns: tuple[Field, ...] = _ONE_LINE
        self._widths: dict[Field, int] = {}
        self._has_reason_below = False
        self._row = writer(self._columns, self._styled)

    def start(self, start: RunStart) -> None:
        """Write the banner and the titles."""
        for text in banner(start):
            for line in wrapped(text, max(self._console.width, 40), "  "):
                put(self._console, (line, ""))
        if not self._has_rows:
            return
        self._lay_out(several=len(start.devices) > 1)
        put(self._console, *[(self._cell(field, field.title), "dim") for field in self._columns])
        if self._has_reason_below:
            put(self._console, (f"{_INDENT}REASON: WHY", "dim"))

    def drop(self, drop: Seen) -> None:
        """Write the line of a drop, or its two lines where columns are few."""
        if not self._has_rows:
            return
        if not self._widths:
            self._lay_out(several=False)
        # rich takes ten times as long for a line; it says how a style begins and ends (`around`).
        lines = [self._row(drop).rstrip()]
        if self._has_reason_below:
            lines += self._below(drop)
        self._console.file.write("\n".join(lines) + "\n")

    def rest(self) -> None:
        """Have the rows that are written be seen."""
        self._console.file.flush()

    def summary(self, summary: Summary) -> None:
        """Write the closing summary and the findings."""
        print_summary(self._console, summary)

    def _lay_out(self, several: bool) -> None:
        columns: tuple[Field, ...] = (TIME, INTERFACE, *_ONE_LINE[1:]) if several else _ONE_LINE
        self._has_reason_below = _least(columns) > self._console.width
        if self._has_reason_below:
            columns = (TIME, INTERFACE, *_UPPER[1:]) if several else _UPPER
        self._columns = columns
        self._widths = {field: field.min_width for field in columns}
        spare = self._console.width - _least(columns)
        for field in (INTERFACE, INNER, PEER, REASON):
            if field in self._widths and spare > 0 and field is not columns[-1]:
                grown = min(spare, field.max_width - field.min_width)
                self._widths[field] += grown
                spare -= grown
        self._row = writer(columns, self._styled)

    def _below(self, drop: Seen) -> list[str]:
        reason = drop.event.reason.id
        text = f"{_INDENT}{reason}: {clean(drop.why)}"
        first, *rest = wrapped(text, max(self._console.width, 40), _INDENT)
        before, after = around(self._console, _STYLES[REASON])
        return [f"{_INDENT}{before}{reason}{after}{first[len(_INDENT) + len(reason) :]}".rstrip(), *rest]

    def _styled(self, field: Field) -> Write:
        before, after = around(self._console, _STYLES.get(field, ""))
        text = field.text or (lambda _drop: "")
        if field is not DIRECTION:
            return lambda drop: f"{before}{self._cell(field, text(drop))}{after}"

        def direction(drop: Seen) -> str:
            style = "magenta" if drop.event.reason.direction is Direction.HANDSHAKE else ""
            before, after = around(self._console, style)
            return f"{before}{self._cell(field, text(drop))}{after}"

        return direction

    def _cell(self, field: Field, text: str) -> str:
        """The text padded to its column. A name is cut, a fact never: then the rest of the line moves."""
        width = self._widths[field]
        if field is self._columns[-1]:
            return text
        length = len(text) if text.isascii() else cell_len(text)
        if field in (PEER, INTERFACE) and length > width:
            text, length = set_cell_size(text, width - 1) + "…", width
        room = " " * max(0, width - length)
        return (room + text if field.is_number else text + room) + _GAP


def _least(columns: Sequence[Field]) -> int:
    return sum(field.min_width for field in columns) + len(_GAP) * (len(columns) - 1)


def banner(start: RunStart) -> list[str]:
    """What is traced, with which probes, and what those that are missing would have shown."""
    spaces = {device.netns for device in start.devices}
    names = start.netns_names if len(spaces) > 1 else None
    devices = [_device_line(device, names) for device in start.devices] or ["no interface:"]
    recorded = f"Recorded on {day(start.ts_unix_ns)}, Linux {clean(start.kernel)}."
    end = recorded if start.recorded else "Ctrl-C ends."
    lines = [*devices[:-1], f"{devices[-1]} {_probes_line(start.probes)} {end}"]
    for probe in start.probes:
        if probe.mechanism is None:
            lines.append(f"not attached: {probe.name} ({clean(probe.because)})")
            lines.append(f"  not visible: {probe.without_it}")
            if probe.do:
                lines.append(f"  to see it: {clean(probe.do)}")
    return lines


def _device_line(device: Device, netns_names: dict[int, str] | None) -> str:
    """The interface; its namespace only where there are several, by name where it has one."""
    netns = None if netns_names is None else netns_names.get(device.netns, str(device.netns))
    where = f" in netns {clean(netns)}" if netns else ""
    port = f", port {device.listen_port}" if device.listen_port else ""
    down = "" if device.is_up else ", down"
    return f"{clean(device.ifname)}{where}: {count_of(len(device.peers), 'peer')}{port}{down}."


def _probes_line(probes: Sequence[ProbeStatus]) -> str:
    kinds: dict[str, int] = {}
    for probe in probes:
        if probe.mechanism is not None:
            kind = _MECHANISMS[probe.mechanism]
            kinds[kind] = kinds.get(kind, 0) + 1
    how = ", ".join(f"{kinds[kind]} {kind}" for kind in dict.fromkeys(_MECHANISMS.values()) if kind in kinds)
    attached = sum(kinds.values())
    if attached == len(probes):
        return f"{count_of(len(probes), 'probe')} ({how}), all attached."
    return f"{attached} of {count_of(len(probes), 'probe')} attached ({how or 'none'})."
