# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace replay`: a recording, shown as the live command would have shown the run."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import click

from wgtrace.commands import options
from wgtrace.commands.terminal import sink_of, story_sink_of, warn
from wgtrace.commands.view import public_keys
from wgtrace.errors import UsageError
from wgtrace.events.reasons import Direction

_VIEWS = ("drops", "handshakes")


@click.command(short_help="Show a recording, anywhere and without root.")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(readable=False, path_type=Path)
)
@click.option(
    "--view",
    "view_name",
    type=click.Choice(_VIEWS),
    default=_VIEWS[0],
    show_default=True,
    help="The command whose output to give.",
)
@options.peers
@options.directions
@options.reasons
@options.as_json
@options.exit_code
@options.quiet
def replay(
    files: tuple[Path, ...],
    view_name: str,
    peers: tuple[str, ...],
    directions: tuple[str, ...],
    reasons: tuple[str, ...],
    as_json: bool,
    exit_code: bool,
    quiet: bool,
) -> None:
    """Show a recording as the live command would have shown the run.

    Of a rotation give all files, in any order, or those of interest. It needs
    neither root nor BCC nor WireGuard. What is missing of the recording (it was cut,
    a byte was changed, the disk was full) is said, and the rest is shown. Of handshakes
    it has what was sent, accepted and refused; why one was wanted, by which route it
    left, and histograms only `wgtrace handshakes` itself can tell.

    \b
    wgtrace replay wg0.rec
    wgtrace replay wg0.rec --peer berlin --json
    wgtrace replay wg0.rec --view handshakes
    wgtrace replay /var/log/wg.rec*

    \b
    Exit status: 0 shown; 1 findings of severity error (--exit-code); 2 wrong
    usage, or no recording; 3 not permitted to read it, or of a newer wgtrace.
    """
    from wgtrace.handshakes import HandshakesRun
    from wgtrace.pipeline import DropsRun, Limits, Run, Signals
    from wgtrace.recording.replay import Recording
    from wgtrace.story import REASONS

    if view_name == "handshakes" and (directions or reasons):
        raise UsageError("--direction and --reason are of packets", "", "leave them out, or the view")
    with contextlib.closing(Recording(files)) as recording, Signals() as signals:
        known = {key: peer.name for key, peer in recording.peers().items()} if peers else {}
        wanted = replace(
            options.reason_filter(reasons, recording.kernel_reasons.values()),
            peers=frozenset(key for text in peers for key in public_keys(text, known, "the recording")),
            directions=frozenset(Direction(text) for text in directions),
        )
        how = (warn, recording.asked)
        run: Run
        if view_name == "handshakes":
            wanted = replace(wanted, reasons=REASONS)
            run = HandshakesRun(recording, recording, [story_sink_of(as_json, quiet)], wanted, *how)
        else:
            run = DropsRun(recording, recording, [sink_of(as_json, quiet)], wanted, *how)
        run.start()
        findings = run.run(Limits(), signals)
    if exit_code and any(finding.severity.value == "error" for finding in findings):
        sys.exit(options.EXIT_FINDINGS)
