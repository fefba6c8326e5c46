# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace handshakes`: how each session comes to be, or does not."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from wgtrace.commands import options
from wgtrace.commands.terminal import progress, story_sink_of, warn
from wgtrace.commands.view import host_facts, need_root, this_host, view_of
from wgtrace.errors import UsageError


@click.command(short_help="Tell how each session comes to be, or does not.")
@options.interfaces
@options.netns
@options.everywhere
@options.peers
@options.duration
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="End after N steps shown.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    metavar="SECONDS",
    help="Also how long handshakes took, each so many seconds.",
)
@click.option("--heatmap", is_flag=True, help="With --interval: as lines of a heat map, and no steps.")
@options.as_json
@options.names
@options.ready_file
@options.exit_code
@options.quiet
def handshakes(
    interfaces: tuple[str, ...],
    netns: str | None,
    everywhere: bool,
    peers: tuple[str, ...],
    duration: float | None,
    count: int | None,
    interval: float | None,
    heatmap: bool,
    as_json: bool,
    names: Path | None,
    ready_file: Path | None,
    exit_code: bool,
    quiet: bool,
) -> None:
    """Tell the handshakes of each peer, step by step: who wants one and why, what
    is sent by which route, what comes and is accepted or refused, retries, the
    session and its end, and peers that move.

    Without IFACE: every WireGuard interface of this network namespace. Ctrl-C ends
    it with sums for each peer and histograms, made in the kernel, of how long
    handshakes took; SIGUSR1 shows them in between. Nothing on the host is changed,
    and nothing runs for the packets of a session.

    \b
    wgtrace handshakes wg0
    wgtrace handshakes wg0 --peer berlin
    wgtrace handshakes --all --json --duration 600 > handshakes.jsonl
    wgtrace handshakes --all --interval 60 --heatmap

    \b
    Exit status: 0 ran; 1 findings of severity error (--exit-code); 2 wrong usage;
    3 cannot run here; 4 internal error, or the output cannot be written.
    """
    if heatmap and (interval is None or as_json):
        raise UsageError("--heatmap draws a line for each interval", "", "add --interval 60, without --json")
    need_root()
    from wgtrace.events.flow_filter import Filter
    from wgtrace.loader.build import begun
    from wgtrace.probes.story import HANDSHAKES

    build = begun(catalogue=HANDSHAKES)  # what follows is slow to import, and goes on beside it
    from wgtrace.handshakes import HandshakesRun
    from wgtrace.loader.tracer import Settings, Tracer
    from wgtrace.pipeline import Limits, Signals
    from wgtrace.story import REASONS

    view = view_of(interfaces, netns, everywhere, names)
    wanted = Filter(frozenset(key for text in peers for key in view.public_keys(text)), reasons=REASONS)
    facts = host_facts()
    sink = story_sink_of(as_json, quiet, heatmap)
    with Signals() as signals:
        progress(f"attaching to {view.described} ...")
        tracer = Tracer(Settings(view.traced, wanted=wanted), HANDSHAKES, build)
        try:
            run = HandshakesRun(tracer, this_host(view, tracer), [sink], wanted, warn, facts, interval)
            run.start()
            if ready_file:
                ready_file.touch()
            findings = run.run(Limits(duration, count), signals)
        finally:
            tracer.close()
    if exit_code and any(finding.severity.value == "error" for finding in findings):
        sys.exit(options.EXIT_FINDINGS)
