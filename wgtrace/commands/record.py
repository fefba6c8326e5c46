# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace record`: a run kept in a file."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from wgtrace.commands import options
from wgtrace.commands.terminal import progress
from wgtrace.commands.view import host_facts, need_root, this_host, view_of
from wgtrace.errors import UsageError


@click.command(short_help="Keep a run in a file, to be looked at anywhere later.")
@options.interfaces
@click.option(
    "-o",
    "--output",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The recording; it must not exist.",
)
@click.option(
    "--max-size", type=options.Size(), metavar="SIZE", help="End, or rotate, once FILE has this size."
)
@click.option(
    "--rotate",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep N files: FILE, the older FILE.1, ... Needs --max-size.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep each Nth data message too, for `merge`; costs something for every packet.",
)
@options.netns
@options.everywhere
@options.invariants
@options.duration
@options.names
@options.ready_file
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def record(
    interfaces: tuple[str, ...],
    path: Path,
    max_size: int | None,
    rotate: int | None,
    sample: int | None,
    netns: str | None,
    everywhere: bool,
    invariants: bool,
    duration: float | None,
    names: Path | None,
    ready_file: Path | None,
    quiet: bool,
) -> None:
    """Keep all that wgtrace sees in a file; `wgtrace replay` shows it, anywhere.

    The file can be read at any moment, also after a crash, a full disk or kill -9:
    all but the last second is there. Ctrl-C ends it. It holds what the output of
    `drops` can hold, so no secret, but addresses and public keys; its mode is 0600.

    \b
    wgtrace record -o wg0.rec wg0
    wgtrace record -o wg0.rec wg0 --duration 600
    wgtrace record -o /var/log/wg.rec --all --max-size 64M --rotate 8

    With --rotate it may run for weeks, and FILE may be one of an earlier run.

    \b
    Exit status: 0 ran; 2 wrong usage; 3 cannot run here; 4 internal error, or
    the recording cannot be written.
    """
    if rotate and not max_size:
        raise UsageError("--rotate says how many files to keep", "not how large one is", "add --max-size")
    kept = recorded(
        interfaces,
        path,
        max_size=max_size,
        rotate=rotate,
        sample=sample,
        invariants=invariants,
        netns=netns,
        everywhere=everywhere,
        duration=duration,
        names=names,
        ready_file=ready_file,
        with_banner=not quiet,
    )
    if not quiet:
        click.echo(kept)


def recorded(
    interfaces: tuple[str, ...],
    path: Path,
    *,
    netns: str | None = None,
    everywhere: bool = False,
    names: Path | None = None,
    duration: float | None = None,
    ready_file: Path | None = None,
    max_size: int | None = None,
    rotate: int | None = None,
    sample: int | None = None,
    invariants: bool = False,
    with_banner: bool = False,
) -> str:
    """Record a run to its end; gives its last line."""
    from wgtrace.loader.build import begun
    from wgtrace.loader.tracer import Settings, Tracer

    need_root()
    from wgtrace.probes.catalogue import CATALOGUE, PACKETS, WIREGUARD
    from wgtrace.probes.invariants import INVARIANT_PROBES

    catalogue = (*CATALOGUE, *(PACKETS if sample else ()), *(INVARIANT_PROBES if invariants else ()))
    build = begun(None, catalogue)  # what follows is slow to import, and goes on beside it
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.table import TableSink
    from wgtrace.pipeline import Limits, Signals
    from wgtrace.probes.identity import identity
    from wgtrace.recording.output import Output
    from wgtrace.recording.recorder import Recorder

    view = view_of(interfaces, netns, everywhere, names)
    with Signals() as signals, contextlib.closing(Output(path, max_size, rotate)) as output:
        progress(f"attaching to {view.described} ...")
        settings = Settings(view.traced, sample=sample or 0)
        with contextlib.closing(Tracer(settings, catalogue, build)) as tracer:
            recorder = Recorder(
                tracer,
                this_host(view, tracer),
                output,
                identity(WIREGUARD),
                tracer.symbols,
                sys.argv[1:],
                host_facts(),
                sample or 0,
            )
            if with_banner:
                TableSink(make_console(sys.stdout), rows=False).start(recorder.start())
            if ready_file:
                ready_file.touch()
            recorder.run(Limits(duration), signals)
    return recorder.kept.told(output)
