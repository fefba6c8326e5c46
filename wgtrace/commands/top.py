# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace top`: all peers, live."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wgtrace.commands import options
from wgtrace.commands.terminal import progress, top_sink_of, warn
from wgtrace.commands.view import host_facts, need_root, this_host, view_of

if TYPE_CHECKING:
    from wgtrace.report import LatencyRow


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
@click.option("--latency", is_flag=True, help="Also how long packets are in WireGuard: nine programs more.")
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
    latency: bool,
    duration: float | None,
    as_json: bool,
    names: Path | None,
    ready_file: Path | None,
    exit_code: bool,
) -> None:
    """Show all peers live: where they are, what comes and goes, what is lost on its way
    from them, what is dropped here, and when the last handshake was and how long it took.

    LOSS is told by the receiver alone: the sender numbers its messages. Enter opens a
    peer, with those that came late or twice, each session, and its last handshakes.

    On a terminal: q ends, s sorts by the next column, p pauses, / filters; findings
    come in the end. Elsewhere a table for each interval. Without IFACE: every WireGuard
    interface of this network namespace.

    \b
    wgtrace top
    wgtrace top wg0 --interval 5
    wgtrace top --all --once --json --latency

    \b
    Exit status: 0 ran; 1 findings of severity error (--exit-code); 2 wrong usage;
    3 cannot run here; 4 internal error, or the output cannot be written.
    """
    need_root()
    from wgtrace.events.flow_filter import Filter
    from wgtrace.loader.build import begun
    from wgtrace.probes.story import TOP

    build = begun(catalogue=TOP)  # what follows is slow to import, and goes on beside it
    from wgtrace.latency import By, LatencyRun
    from wgtrace.loader.tracer import Settings, Tracer
    from wgtrace.pipeline import Limits, Signals
    from wgtrace.probes.latency import LATENCY
    from wgtrace.top import TopRun

    view = view_of(interfaces, netns, everywhere, names)
    wanted = Filter(frozenset(key for text in peers for key in view.public_keys(text)))
    facts = host_facts()
    with Signals() as signals, contextlib.ExitStack() as terminal:
        progress(f"attaching to {view.described} ...")
        tracer = Tracer(Settings(view.traced, wanted=wanted), TOP, build)
        terminal.callback(tracer.close)
        latencies: Callable[[], Iterable[LatencyRow]] = tuple
        if latency:  # programs and maps of their own, beside the others
            more = Tracer(Settings(view.traced, wanted=wanted), LATENCY)
            terminal.callback(more.close)
            latencies = LatencyRun(more, this_host(view, more), [], By.PEER).interval
        sink, close = top_sink_of(as_json, once)
        terminal.callback(close)
        run = TopRun(tracer, this_host(view, tracer), [sink], wanted, interval, warn, facts, latencies)
        run.start()
        if ready_file:
            ready_file.touch()
        findings = run.run(Limits(duration, 1 if once else None), signals)
    if exit_code and any(finding.severity.value == "error" for finding in findings):
        sys.exit(options.EXIT_FINDINGS)
