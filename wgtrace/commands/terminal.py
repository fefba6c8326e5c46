# SPDX-License-Identifier: GPL-2.0-only
"""What every command does with the terminal: standard streams, sentences for the operator, sinks."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgtrace.report import Sink, StorySink, TopSink


def have_standard_streams() -> None:
    """Have descriptors 0 to 2 open: else what is opened next gets what is written to them."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(file)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def write_no_more() -> None:
    """Nothing more goes to standard output, also not at exit, where it would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Write a line for the operator, without what steers a terminal: interfaces can be called anything."""
    from wgtrace.outputs.clean import clean

    with contextlib.suppress(OSError):  # the terminal is gone, or the same disk is full
        click.echo(clean(text), err=True)


def warn(text: str) -> None:
    """Say something that the operator should know."""
    say(f"wgtrace: {text}")


def progress(text: str) -> None:
    """Say what is waited for, to those who wait."""
    if sys.stderr.isatty():
        warn(text)


def sink_of(as_json: bool, quiet: bool, *, on_stderr: bool = False) -> Sink:
    """The sink that writes JSON lines, or the table."""
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.jsonl import JsonLinesSink
    from wgtrace.outputs.table import TableSink

    if as_json:
        return JsonLinesSink(sys.stdout, rows=not quiet)
    return TableSink(make_console(sys.stderr if on_stderr else sys.stdout), rows=not quiet)


def story_sink_of(as_json: bool, quiet: bool, heat_map: bool = False) -> StorySink:
    """As `sink_of`, for handshakes."""
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.jsonl import JsonLinesSink
    from wgtrace.outputs.story import StoryTableSink

    if as_json:
        return JsonLinesSink(sys.stdout, rows=not quiet)
    return StoryTableSink(make_console(sys.stdout), rows=not quiet and not heat_map, heat_map=heat_map)


def top_sink_of(as_json: bool, once: bool) -> tuple[TopSink, Callable[[], None]]:
    """As `sink_of`, for all peers; and what gives the terminal back."""
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.jsonl import JsonLinesSink
    from wgtrace.outputs.top import TopTableSink
    from wgtrace.outputs.top_live import LiveTopSink

    if as_json:
        return JsonLinesSink(sys.stdout), lambda: None
    console = make_console(sys.stdout)
    if once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        return TopTableSink(console), lambda: None
    live = LiveTopSink(console)
    return live, live.close
