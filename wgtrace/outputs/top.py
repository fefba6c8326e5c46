# SPDX-License-Identifier: GPL-2.0-only
"""All peers as a table: redrawn on a terminal, which hears keys; else one after the other."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Sequence
from typing import Any, Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from wgtrace.diagnosis.words import age, count_of, milliseconds
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import put
from wgtrace.outputs.fields import clock, interface_label, peer_text
from wgtrace.outputs.summary import put_end
from wgtrace.report import RunStart, Summary, TopFrame, TopRow

_TITLES: Final = ("PEER", "ENDPOINT", "IN", "OUT", "DROPS", "HANDSHAKE", "TOOK")
_LEAST: Final = (11, 21, 9, 9, 6, 10, 7)
_NUMBERS: Final = frozenset({2, 3, 4, 5, 6})
_AROUND: Final = 4
"""Lines beside the rows: headline, titles, drops by reason, keys."""
ORDERS: Final[dict[str, Callable[[TopRow], object]]] = {
    "interface": lambda row: (row.ifname, row.netns, row.peer is None, peer_text(row.peer)),
    "in": lambda row: -row.rx_rate,
    "out": lambda row: -row.tx_rate,
    "drops": lambda row: (-row.new_drops, -row.dropped),
    "handshake": lambda row: (row.handshake_ns == 0, -row.handshake_ns),
}
"""By what rows can be sorted; `s` goes from one to the next."""


def bytes_rate(rate: float) -> str:
    """`0`, `873 B`, `12.3 kB`, `1.2 GB`: bytes a second."""
    for unit in ("B", "kB", "MB", "GB"):
        if rate < 999.5 or unit == "GB":
            return f"{rate:.0f} {unit}" if unit == "B" else f"{rate:.1f} {unit}"
        rate /= 1000
    raise AssertionError


def _cells(row: TopRow, now_ns: int, has_interfaces: bool) -> tuple[str, ...]:
    where = f"{interface_label(row.ifname, row.netns_name)} " if has_interfaces else ""
    if row.peer is None:
        return (f"{where}?", "", "", "", str(row.dropped), "", "")
    handshake = "never"
    if row.handshake_ns:
        handshake = f"{age(max((now_ns - row.handshake_ns) // 1_000_000_000, 0))} ago"
    return (
        where + peer_text(row.peer),
        str(row.peer.endpoint or "-"),
        bytes_rate(row.rx_rate),
        bytes_rate(row.tx_rate),
        str(row.dropped),
        handshake,
        milliseconds(row.latency_ns) if row.latency_ns else "-",
    )


def frame_lines(
    frame: TopFrame, width: int, height: int | None = None, order: str = "interface", note: str = ""
) -> list[tuple[str, str]]:
    """The lines of a frame, and the style of each.

    Args:
        height: Lines of the terminal; None: as many as there are.
        note: At the end of the headline.
    """
    rows = sorted(frame.rows, key=ORDERS[order])  # type: ignore[arg-type]  # each order compares with itself
    shown = rows if height is None else rows[: max(height - _AROUND, 1)]
    has_interfaces = len({(row.ifname, row.netns) for row in rows}) > 1
    cells = [_cells(row, frame.ts_unix_ns, has_interfaces) for row in shown]
    widths = _widths([_TITLES, *cells], width)
    peers = count_of(sum(row.peer is not None for row in rows), "peer")
    more = f", {len(rows) - len(shown)} rows more" if len(shown) < len(rows) else ""
    head = f"{clock(frame.ts_unix_ns)[:8]}  {peers}{more}, by {order}{note}"
    lines = [(head, "bold"), (_line(_TITLES, widths), "dim")]
    for row, line in zip(shown, cells, strict=True):
        lines.append((_line(line, widths), "red" if row.new_drops else ""))
    return [(line[:width], style) for line, style in [*lines, (_reasons(rows), "")]]


def _widths(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """Columns as wide as they have to be; names and endpoints give way where there is no room."""
    wanted = [max(cell_len(line[column]) for line in lines) for column in range(len(_TITLES))]
    widths = [min(most, least) for most, least in zip(wanted, _LEAST, strict=True)]
    spare = width - sum(widths) - len(_TITLES) + 1
    for column in (2, 3, 4, 5, 6, 0, 1):  # numbers first: they are never cut where there is any room
        grown = max(min(spare, wanted[column] - widths[column]), 0)
        widths[column] += grown
        spare -= grown
    return widths


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    texts = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        if cell_len(cell) > width:
            cell = set_cell_size(cell, width - 1) + "…"
        room = " " * (width - cell_len(cell))
        texts.append(room + cell if column in _NUMBERS else cell + room)
    return " ".join(texts).rstrip()


def _reasons(rows: Sequence[TopRow]) -> str:
    """Why packets were dropped since the start, the most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        for reason, count in row.drops:
            counts[reason.id] = counts.get(reason.id, 0) + count
    told = [f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])]
    return f"drops: {', '.join(told)}" if told else "no drops"


class TopTableSink:
    """Writes each frame below the one before."""

    is_over = False

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, start: RunStart) -> None:
        """Nothing: what cannot be seen is said in the end."""

    def frame(self, frame: TopFrame) -> None:
        """Write it."""
        for line, style in frame_lines(frame, max(self._console.width, 80)):
            put(self._console, (line, style))

    def summary(self, summary: Summary) -> None:
        """Write what is missing, and the findings."""
        put_end(self._console, summary)


class LiveTopSink(TopTableSink):
    """Draws each frame over the one before, and hears keys: q ends, s sorts, p pauses.

    Args:
        console: Of a terminal.
        keys: File descriptor that they come from.
    """

    def __init__(self, console: Console, keys: int | None = None) -> None:
        super().__init__(console)
        self._keys = sys.stdin.fileno() if keys is None else keys
        self._live = Live(console=console, screen=True, auto_refresh=False, transient=True)
        self._before: Any = None
        self._order = 0
        self._is_paused = False
        self._shown: TopFrame | None = None
        self._has_ended = False

    def start(self, start: RunStart) -> None:
        """Take the terminal."""
        if os.isatty(self._keys):
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._live.start()
        self._live.update(Text("the first figures come after one interval; q ends"), refresh=True)

    @property
    def is_over(self) -> bool:  # type: ignore[override]  # here it changes
        """Whether q was pressed."""
        while select.select([self._keys], [], [], 0)[0]:
            key = os.read(self._keys, 1)
            if not key:  # whoever typed is gone
                break
            self._on_key(key)
        return self._has_ended

    def _on_key(self, key: bytes) -> None:
        if key == b"q":
            self._has_ended = True
        elif key == b"s":
            self._order = (self._order + 1) % len(ORDERS)
        elif key == b"p":
            self._is_paused = not self._is_paused
        if self._shown and not self._has_ended:
            self._draw(self._shown)

    def frame(self, frame: TopFrame) -> None:
        """Draw it, unless paused."""
        if not self._is_paused:
            self._draw(frame)

    def _draw(self, frame: TopFrame) -> None:
        self._shown = frame
        width, height = self._console.size
        note = "; paused" if self._is_paused else ""
        lines = frame_lines(frame, width, height, list(ORDERS)[self._order], note)
        text = Text("\n", no_wrap=True).join(
            [*(Text(clean(line), style) for line, style in lines), Text("q ends  s sorts  p pauses", "dim")]
        )
        self._live.update(text, refresh=True)

    def summary(self, summary: Summary) -> None:
        """Give the terminal back; then as `TopTableSink`, with the last frame."""
        self.close()
        if self._shown:
            super().frame(self._shown)
        super().summary(summary)

    def close(self) -> None:
        """Give the terminal back, if it was taken."""
        self._live.stop()
        if self._before is not None:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)
            self._before = None
