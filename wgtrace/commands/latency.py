# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace latency`: how long packets are in each stage of WireGuard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wgtrace.commands import options
from wgtrace.commands.terminal import progress
from wgtrace.commands.view import need_root, this_host, view_of
from wgtrace.errors import UsageError
from wgtrace.events.flow_filter import Filter

if TYPE_CHECKING:
    from wgtrace.report import LatencySink


@click.command(short_help="Show how long packets are in each stage of WireGuard.")
@options.interfaces
@options.netns
@options.everywhere
@options.peers
@options.duration
@click.option(
    "--by",
    type=click.Choice(["peer", "stage", "cpu"]),
    default="peer",
    show_default=True,
    help="What is told apart, beside direction and stage: each peer, nothing, or the CPU of the crypto.",
)
@click.option(
    "--interval", type=click.FloatRange(min=0.1), metavar="SECONDS", help="Also a table each so many seconds."
)
@click.option("--heatmap", is_flag=True, help="With --interval: a line of a heat map instead of a table.")
@options.as_json
@options.names
@options.ready_file
@click.option("-q", "--quiet", is_flag=True, help="No histograms: only the table.")
def latency(
    interfaces: tuple[str, ...],
    netns: str | None,
    everywhere: bool,
    peers: tuple[str, ...],
    duration: float | None,
    by: str,
    interval: float | None,
    heatmap: bool,
    as_json: bool,
    names: Path | None,
    ready_file: Path | None,
    quiet: bool,
) -> None:
    """Show how long packets are in each stage of WireGuard, out and in.

    \b
    staged  out: it waits for a key, while there is no session
    queue   it waits for a crypto worker
    crypto  it is encrypted or decrypted
    order   it waits for older packets of its peer, and for its turn
    output  out: route, firewall, queueing or sending, until that returns
    total   all of it: the sum of its stages

    Without IFACE: every WireGuard interface of this network namespace. Ctrl-C ends
    it with the histograms; SIGUSR1 shows the table in between. Each segment of a
    super-packet counts, an empty keepalive does not, and a packet that is lost on its
    way counts nowhere: `wgtrace drops` tells of it.

    \b
    wgtrace latency wg0
    wgtrace latency wg0 --by cpu --duration 10 --quiet
    wgtrace latency wg0 --peer berlin --json > latency.jsonl
    wgtrace latency --all --interval 1 --heatmap

    \b
    Exit status: 0 ran; 2 wrong usage; 3 cannot run here; 4 internal error, or the
    output cannot be written.
    """
    from wgtrace.loader.build import begun
    from wgtrace.loader.tracer import Settings, Tracer
    from wgtrace.probes.latency import LATENCY

    if heatmap and (interval is None or as_json):
        raise UsageError("--heatmap draws a line for each interval", "", "add --interval 1, without --json")
    need_root()
    build = begun(catalogue=LATENCY)  # what follows is slow to import, and goes on beside it
    from wgtrace.latency import By, LatencyRun
    from wgtrace.pipeline import Signals

    view = view_of(interfaces, netns, everywhere, names)
    wanted = Filter(frozenset(key for text in peers for key in view.public_keys(text)))
    with Signals() as signals:
        progress(f"attaching to {view.described} ...")
        tracer = Tracer(Settings(view.traced, wanted=wanted), LATENCY, build)
        try:
            run = LatencyRun(tracer, this_host(view, tracer), [_sink(as_json, quiet, heatmap)], By(by))
            run.start()
            if ready_file:
                ready_file.touch()
            run.run(duration, interval, signals)
        finally:
            tracer.close()


def _sink(as_json: bool, quiet: bool, heat_map: bool) -> LatencySink:
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.latency import LatencyJsonSink, LatencyTableSink

    if as_json:
        return LatencyJsonSink(sys.stdout)
    return LatencyTableSink(make_console(sys.stdout), not quiet, heat_map)
