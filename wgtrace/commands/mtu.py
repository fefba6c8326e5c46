# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace mtu`: what is too big, where it dies, and the MTU that would fit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wgtrace.commands import options
from wgtrace.commands.terminal import progress
from wgtrace.commands.view import host_facts, need_root, this_host, view_of

if TYPE_CHECKING:
    from wgtrace.report import MtuSink


@click.command(short_help="Show what is too big for its way, and the MTU that would fit.")
@options.interfaces
@options.netns
@options.everywhere
@options.peers
@options.duration
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="End after N events shown.")
@options.as_json
@options.names
@options.ready_file
@options.exit_code
@click.option("-q", "--quiet", is_flag=True, help="No line for each event: only the table and the findings.")
def mtu(
    interfaces: tuple[str, ...],
    netns: str | None,
    everywhere: bool,
    peers: tuple[str, ...],
    duration: float | None,
    count: int | None,
    as_json: bool,
    names: Path | None,
    ready_file: Path | None,
    exit_code: bool,
    quiet: bool,
) -> None:
    """Show what is too big for its way, where it dies, and the MTU that would fit.

    Without IFACE: every WireGuard interface of this network namespace. A line for each
    datagram that is fragmented, fragment that is lost, ICMP message that says "too big",
    path MTU that changes, and packet that is too big for the tunnel. Ctrl-C ends it with
    a table of sizes, one line for each peer, and what is wrong; SIGUSR1 shows them in between.

    What size passes is learned from the traffic that there is: a packet passed if TCP
    acknowledged it, or its echo came back. To try sizes, send pings of them
    meanwhile: ping -M do -s 1392 ADDRESS sends 1420 bytes, with IPv6 1440.

    \b
    wgtrace mtu wg0
    wgtrace mtu wg0 --peer berlin --duration 30
    wgtrace mtu --all --json > mtu.jsonl

    \b
    Exit status: 0 ran; 1 findings of severity error (only with --exit-code); 2 wrong
    usage; 3 cannot run here; 4 internal error, or the output cannot be written.
    """
    from wgtrace.events.flow_filter import Filter
    from wgtrace.loader.build import begun
    from wgtrace.probes.mtu import MTU

    need_root()
    build = begun(catalogue=MTU)  # what follows is slow to import, and goes on beside it
    from wgtrace.loader.tracer import Settings, Tracer
    from wgtrace.mtu import FORWARD, MtuRun
    from wgtrace.pipeline import Limits, Signals
    from wgtrace.probes.kernel import function_ranges
    from wgtrace.state.links import veth_peer_mtu

    view = view_of(interfaces, netns, everywhere, names)
    wanted = Filter(frozenset(key for text in peers for key in view.public_keys(text)))
    facts = host_facts()
    with Signals() as signals:
        progress(f"attaching to {view.described} ...")
        tracer = Tracer(Settings(view.traced, wanted=wanted), MTU, build)
        try:
            host, forward = this_host(view, tracer), function_ranges(FORWARD)
            sinks = [_sink(as_json, quiet)]
            run = MtuRun(tracer, host, sinks, facts, wanted.peers, forward, veth_peer_mtu)
            run.start()
            if ready_file:
                ready_file.touch()
            findings = run.run(Limits(duration, count), signals)
        finally:
            tracer.close()
    if exit_code and any(finding.severity.value == "error" for finding in findings):
        sys.exit(options.EXIT_FINDINGS)


def _sink(as_json: bool, quiet: bool) -> MtuSink:
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.mtu import MtuJsonSink, MtuTableSink

    if as_json:
        return MtuJsonSink(sys.stdout, not quiet)
    return MtuTableSink(make_console(sys.stdout), not quiet)
