# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace selftest`: the proof, on the kernel that runs."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from wgtrace.commands import options
from wgtrace.commands.terminal import progress, warn
from wgtrace.commands.view import need_root

if TYPE_CHECKING:
    from wgtrace.selftest.scenes import Scene


@click.command(short_help="Provoke each reason in its own namespaces: is it seen?")
@click.option("-j", "--json", "as_json", is_flag=True, help="JSON lines on standard output.")
@click.option("--clean", "only_clean", is_flag=True, help="Only remove what a killed selftest left.")
def selftest(as_json: bool, only_clean: bool) -> None:
    """Prove on this very kernel what `wgtrace drops` sees.

    Two network namespaces are made, with a tunnel between them that goes through
    wgtrace. Each reason that can be provoked safely is provoked there, 23 times
    where that is cheap, and counted.

    Nothing else on the host is touched: no interface, firewall, sysctl or module,
    and no network is contacted. Everything is removed in the end, also after
    Ctrl-C; what `kill -9` leaves is removed by the next run, or by --clean.

    \b
    Exit status: 0 all that was provoked was seen, packet for packet; 1 it was
    not; 3 cannot run here; 4 internal error; 128+n stopped by signal n.
    """
    need_root()
    from wgtrace.lab.topology import remove_leftovers
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.selftest import print_selftest, selftest_json
    from wgtrace.selftest.pair import StoppedError
    from wgtrace.selftest.run import run
    from wgtrace.selftest.stop import Stop

    if only_clean:
        for name in remove_leftovers():
            click.echo(f"removed network namespace {name}")
        return
    with Stop() as stop:
        progress("making two network namespaces, attaching ...")
        try:
            report = run(lambda: bool(stop.number), _scene_progress)
        except StoppedError:
            warn("stopped before the end: nothing is proved, nothing is left behind")
            sys.exit(128 + stop.number)
    if as_json:
        for line in selftest_json(report):
            click.echo(line)
    else:
        print_selftest(make_console(sys.stdout), report)
    if not report.has_passed:
        sys.exit(options.EXIT_FINDINGS)


def _scene_progress(number: int, of: int, scene: Scene) -> None:
    if sys.stderr.isatty():  # one line, rewritten
        end = "\n" if number == of else ""
        with contextlib.suppress(OSError):
            click.echo(f"\r\x1b[Kwgtrace: {number} of {of}: {scene.reason.id}{end}", err=True, nl=False)
