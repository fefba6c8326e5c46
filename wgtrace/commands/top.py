# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace top`: all peers, live."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from wgtrace.commands import options
from wgtrace.commands.terminal import progress, top_sink_of, warn
from wgtrace.commands.view import host_facts, need_root, this_host, view_of


@click.command(short_help="Show all peers live: traffic, drops, handshakes.")
@options.interfaces
@options.netns
@options.everywhere
@options.peers
@click.option(
    "--interval",
    type=click.FloatRange(min=0.2, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two readings.",
)
@click.option("--once", is_flag=True, help="One reading, after one interval, then end.")
@options.duration
@options.as_json
@options.names
@options.ready_file
@options.exit_code
def top(
    interfaces: tuple[str, ...],
    netns: str | None,
    everywhere: bool,
    peers: tuple[str, ...],
    interval: float,
    once: bool,
    duration: float | None,
    as_json: bool,
    names: Path | None,
    ready_file: Path | None,
    exit_code: bool,
) -> None:
    """Show all peers live: where they are, what comes and goes, what is dropped, and
    when the last handshake was and how long it took.

    On a terminal: q ends, s sorts by the next column, p pauses; findings come in the
    end. Elsewhere a table for each interval. Without IFACE: every WireGuard
    interface of this network namespace.

    \b
    wgtrace top
    wgtrace top wg0 --interval 5
    wgtrace top --all --once --json

    \b
    Exit status: 0 ran; 1 findings of severity error (--exit-code); 2 wrong usage;
    3 cannot run here; 4 internal error, or the output cannot be written.
    """
    need_root()
    from wgtrace.events.flow_filter import Filter
    from wgtrace.loader.build import begun
    from wgtrace.probes.story import TOP

    build = begun(catalogue=TOP)  # what follows is slow to import, and goes on beside it
    from wgtrace.loader.tracer import Settings, Tracer
    from wgtrace.pipeline import Limits, Signals
    from wgtrace.top import TopRun

    view = view_of(interfaces, netns, everywhere, names)
    wanted = Filter(frozenset(key for text in peers for key in view.public_keys(text)))
    facts = host_facts()
    with Signals() as signals, contextlib.ExitStack() as terminal:
        progress(f"attaching to {view.described} ...")
        tracer = Tracer(Settings(view.traced, wanted=wanted), TOP, build)
        terminal.callback(tracer.close)
        sink, close = top_sink_of(as_json, once)
        terminal.callback(close)
        run = TopRun(tracer, this_host(view, tracer), [sink], wanted, interval, warn, facts)
        run.start()
        if ready_file:
            ready_file.touch()
        findings = run.run(Limits(duration, 1 if once else None), signals)
    if exit_code and any(finding.severity.value == "error" for finding in findings):
        sys.exit(options.EXIT_FINDINGS)
