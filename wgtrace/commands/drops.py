# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace drops`: each packet of a tunnel that is dropped, and why."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wgtrace.commands import options
from wgtrace.commands.terminal import progress, sink_of, warn
from wgtrace.commands.view import host_facts, need_root, this_host, view_of
from wgtrace.errors import UnsupportedError, UsageError
from wgtrace.events.flow_filter import parse_flow
from wgtrace.events.reasons import Direction

if TYPE_CHECKING:
    from wgtrace.outputs.pcapng import PcapngSink


@click.command(short_help="Show each packet that WireGuard drops, and why.")
@options.interfaces
@options.netns
@options.everywhere
@options.peers
@options.directions
@options.reasons
@options.flow
@options.duration
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="End after N drops shown.")
@options.as_json
@click.option(
    "-w", "--write", metavar="FILE", help="Also write the packets to FILE, as pcapng; - is standard output."
)
@click.option(
    "--snaplen",
    type=click.IntRange(1, 9216),
    metavar="BYTES",
    help="With -w: so much of each packet, content too; else its headers only.",
)
@options.names
@options.invariants
@options.ready_file
@options.exit_code
@options.quiet
@click.option(
    "-v", "--verbose", is_flag=True, help="Also where the programs came from and what became of each probe."
)
def drops(
    interfaces: tuple[str, ...],
    netns: str | None,
    everywhere: bool,
    peers: tuple[str, ...],
    directions: tuple[str, ...],
    reasons: tuple[str, ...],
    flow: str | None,
    duration: float | None,
    count: int | None,
    as_json: bool,
    write: str | None,
    snaplen: int | None,
    names: Path | None,
    invariants: bool,
    ready_file: Path | None,
    exit_code: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Show each packet that WireGuard drops: which way, which peer, which flow, why.

    Without IFACE: every WireGuard interface of this network namespace. Ctrl-C ends
    it with exact totals and, for each cause, what to change; SIGUSR1 shows them in
    between. Nothing on the host is changed.

    \b
    wgtrace drops wg0
    wgtrace drops wg0 --duration 60 --json > drops.jsonl
    wgtrace drops --all --direction rx
    wgtrace drops wg0 --peer berlin --reason src_not_allowed
    wgtrace drops --netns blue wg1
    wgtrace drops wg0 -w drops.pcapng --flow 'inner dst port 443 and not ip6'

    \b
    Exit status: 0 ran; 1 findings of severity error (--exit-code); 2 wrong usage;
    3 cannot run here; 4 internal error, or the output cannot be written.
    """
    from wgtrace.loader.build import begun
    from wgtrace.loader.tracer import Settings, Tracer
    from wgtrace.probes.catalogue import CATALOGUE
    from wgtrace.probes.invariants import INVARIANT_PROBES

    wanted_reasons = options.reason_filter(reasons, _kernel_reasons() if reasons else ())
    terms = parse_flow(flow) if flow is not None else ()
    _check_write(write, snaplen, as_json)
    need_root()
    captured = (snaplen or 0) if write else None
    catalogue = (*CATALOGUE, *(INVARIANT_PROBES if invariants else ()))
    build = begun(captured, catalogue)  # what follows is slow to import, and goes on beside it
    from wgtrace.pipeline import DropsRun, Limits, Signals

    view = view_of(interfaces, netns, everywhere, names)
    wanted = replace(
        wanted_reasons,
        peers=frozenset(key for text in peers for key in view.public_keys(text)),
        directions=frozenset(Direction(text) for text in directions),
        flow=terms,
    )
    facts = host_facts()
    sink = sink_of(as_json, quiet, on_stderr=write == "-")
    with Signals() as signals, contextlib.ExitStack() as files:
        packets = _packets_sink(write, signals.end) if write else None
        if packets:
            files.callback(packets.close)
        progress(f"attaching to {view.described} ...")
        tracer = Tracer(Settings(view.traced, wanted=wanted, snaplen=captured), catalogue, build)
        try:
            sinks = [*filter(None, [packets]), sink]
            run = DropsRun(tracer, this_host(view, tracer), sinks, wanted, warn, facts)
            run.start()
            if verbose:
                click.echo(f"programs {tracer.origin}", err=True)
                for status in tracer.probes:
                    how = status.mechanism.value if status.mechanism else "not attached"
                    click.echo(f"{how:>14} {status.target}: {status.because}", err=True)
            if ready_file:
                ready_file.touch()
            findings = run.run(Limits(duration, count), signals)
        finally:
            tracer.close()
    if packets and packets.failed:
        raise packets.failed
    if exit_code and any(finding.severity.value == "error" for finding in findings):
        sys.exit(options.EXIT_FINDINGS)


def _kernel_reasons() -> Collection[str]:
    """What the running kernel calls its own reasons; none if it does not say."""
    from wgtrace.loader.outside import kernel_reasons
    from wgtrace.probes.btf import Btf

    with contextlib.suppress(UnsupportedError):
        return kernel_reasons(Btf.vmlinux()).values()
    return ()


def _check_write(write: str | None, snaplen: int | None, as_json: bool) -> None:
    if snaplen and not write:
        raise UsageError("--snaplen is about the packets that -w writes", "", "add -w FILE, or leave it out")
    if write == "-" and as_json:
        raise UsageError("-w - and --json both take standard output", "", "-w FILE")
    if write == "-" and sys.stdout.isatty():
        raise UsageError("pcapng is not for a terminal", "", "wgtrace drops -w - | tshark -r -")


def _packets_sink(write: str, on_failure: Callable[[], None]) -> PcapngSink:
    from wgtrace.outputs.pcapng import PcapngSink, open_for_writing

    if write == "-":
        return PcapngSink(os.dup(sys.stdout.fileno()), "standard output", on_failure)
    return PcapngSink(open_for_writing(Path(write)), write, on_failure)
