# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace merge`: recordings of several hosts, put together."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from wgtrace.commands import options


@click.command(short_help="Put recordings of both ends of a tunnel together.")
@click.argument(
    "files", nargs=-1, required=True, metavar="A B...", type=click.Path(readable=False, path_type=Path)
)
@options.as_json
@options.exit_code
def merge(files: tuple[Path, ...], as_json: bool, exit_code: bool) -> None:
    """Say what left one end of a tunnel and arrived at the other, and what the two prove together.

    Each file is a recording of one end (of a rotation give all files). The clocks need
    not agree: how far one is ahead is taken from the messages, with a bound that holds.
    Handshakes are in every recording; data messages in those of `record --sample N`.

    \b
    wgtrace merge hub.rec berlin.rec
    wgtrace merge hub.rec berlin.rec --json

    \b
    Exit status: 0 shown; 1 findings of severity error (--exit-code); 2 wrong
    usage, or no recording; 3 not permitted to read it, or of a newer wgtrace.
    """
    from wgtrace.merge.ends import ends
    from wgtrace.merge.findings import findings
    from wgtrace.merge.tunnel import tunnels
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.merge import merge_json, print_merge

    found = ends(files)
    told = [(tunnel, findings(tunnel)) for tunnel in tunnels(found)]
    if as_json:
        for line in merge_json(told):
            click.echo(line)
    else:
        print_merge(make_console(sys.stdout), found, told)
    if exit_code and any(finding.severity.value == "error" for _, proved in told for finding in proved):
        sys.exit(options.EXIT_FINDINGS)
