# SPDX-License-Identifier: GPL-2.0-only
"""All peers on a terminal: each frame is drawn over the one before, and keys are heard."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import tty
from dataclasses import replace
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from wgtrace.outputs.clean import clean
from wgtrace.outputs.fields import interface_label, peer_text
from wgtrace.outputs.top import ORDERS, TopTableSink, frame_lines, peer_lines, sorted_rows
from wgtrace.report import RunStart, Summary, TopFrame, TopRow

_KEYS: Final = "q ends  s sorts  p pauses  / filters  up and down choose  Enter opens"
_KEYS_OPEN: Final = "q ends  p pauses  Esc goes back"
_KEYS_TYPING: Final = "type a part of a name, key, interface or endpoint; Enter keeps it, Esc ends it"
# What a terminal sends for one key: an arrow, or a single byte.
_KEY: Final = re.compile(rb"\x1b[\[O]([AB])|(.)", re.DOTALL)
_NAMES: Final = {b"A": b"k", b"B": b"j"}
_Who = tuple[str, int, str | None]


def _who(row: TopRow) -> _Who:
    return row.ifname, row.netns, row.peer.public_key if row.peer else None


def _text(row: TopRow) -> str:
    """What a filter looks at."""
    of = [interface_label(row.ifname, row.netns_name), peer_text(row.peer)]
    of += [row.peer.public_key, str(row.peer.endpoint)] if row.peer else []
    return " ".join(of).lower()


class LiveTopSink(TopTableSink):
    """Draws frames, and hears keys.

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
        self._filter = ""
        self._is_typing = False
        self._chosen: _Who | None = None
        self._is_open = False
        self._shown: TopFrame | None = None
        self._has_ended = False

    def start(self, start: RunStart) -> None:
        """Take the terminal."""
        if os.isatty(self._keys):
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)
        self._live.start()
        self._live.update(Text("the first figures come after one interval; q ends"), refresh=True)

    # -- keys ----------------------------------------------------------------

    @property
    def is_over(self) -> bool:  # type: ignore[override]  # here it changes
        """Whether q was pressed."""
        while select.select([self._keys], [], [], 0)[0]:
            typed = os.read(self._keys, 64)
            if not typed:  # whoever typed is gone
                break
            for arrow, key in _KEY.findall(typed):
                self._on_key(_NAMES.get(arrow, key) if not (arrow and self._is_typing) else b"")
        return self._has_ended

    def _on_key(self, key: bytes) -> None:
        if self._is_typing:
            self._on_letter(key)
        elif key == b"q":
            self._has_ended = True
        elif key == b"s":
            self._order = (self._order + 1) % len(ORDERS)
        elif key == b"p":
            self._is_paused = not self._is_paused
        elif key == b"/" and not self._is_open:
            self._is_typing, self._filter = True, ""
        elif key in (b"j", b"k") and not self._is_open:
            self._choose(1 if key == b"j" else -1)
        elif key in (b"\n", b"\r"):
            self._is_open = self._chosen is not None
        elif key in (b"\x1b", b"\x7f"):
            self._is_open, self._filter = False, self._filter if self._is_open else ""
        if self._shown and not self._has_ended:
            self._draw(self._shown)

    def _on_letter(self, key: bytes) -> None:
        if key in (b"\n", b"\r"):
            self._is_typing = False
        elif key == b"\x1b":
            self._is_typing, self._filter = False, ""
        elif key == b"\x7f":
            self._filter = self._filter[:-1]
        elif key.isascii() and key.decode("ascii").isprintable():
            self._filter += key.decode("ascii").lower()

    def _choose(self, step: int) -> None:
        rows = [_who(row) for row in self._rows(self._shown)] if self._shown else []
        if rows:
            at = rows.index(self._chosen) + step if self._chosen in rows else 0
            self._chosen = rows[max(0, min(at, len(rows) - 1))]

    # -- drawing -------------------------------------------------------------

    def frame(self, frame: TopFrame) -> None:
        """Draw it, unless paused."""
        if not self._is_paused:
            self._draw(frame)

    def _rows(self, frame: TopFrame) -> list[TopRow]:
        rows = sorted_rows(frame, list(ORDERS)[self._order])
        return [row for row in rows if self._filter in _text(row)]

    def _draw(self, frame: TopFrame) -> None:
        self._shown = frame
        width, height = self._console.size
        note = "; paused" if self._is_paused else ""
        rows = self._rows(frame)
        chosen = next((at for at, row in enumerate(rows) if _who(row) == self._chosen), None)
        keys = _KEYS
        if self._is_open and chosen is not None:
            lines, keys = peer_lines(frame, rows[chosen], width, height, note), _KEYS_OPEN
        else:
            if self._filter or self._is_typing:
                note += f"; with {self._filter!r}"
            order = list(ORDERS)[self._order]
            lines = frame_lines(replace(frame, rows=tuple(rows)), width, height, order, note, chosen)
            keys = _KEYS_TYPING if self._is_typing else keys
        texts = [*(Text(clean(line), style) for line, style in lines), Text(keys[:width], "dim")]
        self._live.update(Text("\n", no_wrap=True).join(texts), refresh=True)

    # -- the end ---------------------------------------------------------------

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
