# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace probes`: what can be seen on this kernel."""

from __future__ import annotations

import sys
import time

import click

from wgtrace.commands.terminal import progress
from wgtrace.commands.view import need_root


@click.command(short_help="Show what can be seen on this kernel, and what cannot.")
@click.option("-j", "--json", "as_json", is_flag=True, help="One JSON object.")
def probes(as_json: bool) -> None:
    """Show what can be seen on this kernel, how, and what cannot, and why.

    Each probe is attached for a moment, for real, and taken away again.
    """
    need_root()
    from wgtrace.loader.tracer import Settings, Tracer
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.probes import print_probes, probes_json
    from wgtrace.probes.story import EVERYTHING

    progress("attaching each probe for a moment ...")
    tracer = Tracer(Settings(traced=()), EVERYTHING)
    try:
        if as_json:
            click.echo(probes_json(tracer.probes, time.time_ns()))
        else:
            print_probes(make_console(sys.stdout), tracer.probes)
    finally:
        tracer.close()
