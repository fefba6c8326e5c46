# SPDX-License-Identifier: GPL-2.0-only
"""The console that tables are written to."""

from __future__ import annotations

import io
import os
from functools import lru_cache
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

WIDE: Final = 200
"""Columns where there is no terminal: one line for each drop, so that grep finds all of it."""


def make_console(out: TextIO) -> Console:
    """A console on this stream: colour only on a terminal, and not with NO_COLOR."""
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")  # a terminal that has no `…` shows `?`
    width = None if out.isatty() or "COLUMNS" in os.environ else WIDE
    return Console(file=out, width=width, highlight=False, markup=False, emoji=False, legacy_windows=False)


@lru_cache(64)
def around(console: Console, style: str) -> tuple[str, str]:
    """What the console writes before and after a text of this style."""
    with console.capture() as capture:
        console.print(Text("x", style), end="")
    before, _, after = capture.get().partition("x")
    return before, after


def put(console: Console, *parts: tuple[str, str]) -> None:
    """Write one line of (text, style) parts, as long as it is: the terminal wraps it, or not."""
    line = Text()
    for text, style in parts:
        line.append(text, style)
    line.rstrip()
    console.print(line, soft_wrap=True)
