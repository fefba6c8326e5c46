# SPDX-License-Identifier: GPL-2.0-only
"""The command line: options in, exit status out. The work is done elsewhere."""

from __future__ import annotations

import errno
import importlib
import os
import sys

import click

from wgtrace import __version__
from wgtrace.commands.terminal import have_standard_streams, say, write_no_more
from wgtrace.errors import OutputError, WgtraceError

#: Each is a module of its name in wgtrace/commands/.
COMMANDS = (
    *("drops", "evidence", "handshakes", "lab", "latency", "merge", "mtu", "probes", "record", "replay"),
    *("selftest", "top"),
)

EXIT_INTERNAL = 4
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOBODY_READS = (errno.EPIPE, errno.EIO)  # the reader has what it wanted; the terminal is gone

_HELP = {"help_option_names": ["-h", "--help"]}


class _Commands(click.Group):
    """The commands: they end quietly when their reader goes away, and are imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"wgtrace.commands.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; click itself would make a closed pipe exit status 1."""
        try:
            return super().invoke(ctx)
        except OSError as exc:
            if exc.errno in _NOBODY_READS:
                write_no_more()
                return None
            if exc.errno not in _CANNOT_WRITE:
                raise
            write_no_more()
            raise OutputError(
                "the output cannot be written", exc.strerror or "", "make room, or write it elsewhere"
            ) from exc


@click.group(cls=_Commands, context_settings=_HELP)
@click.version_option(__version__, prog_name="wgtrace")
def cli() -> None:
    """Why WireGuard on this host drops a packet, and what to change.

    \b
    sudo wgtrace drops wg0    each dropped packet, then the causes and fixes
    wgtrace lab demo          see it work in a virtual machine
    """


def main() -> None:
    """Run the command line; errors become a message and an exit status."""
    have_standard_streams()
    try:
        cli(prog_name="wgtrace", standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except WgtraceError as exc:
        say(f"error: {exc.what}")
        for line in filter(None, (*exc.because.splitlines(), exc.do)):
            say(f"  {line}")
        sys.exit(exc.exit_code)
    except Exception as exc:
        if os.environ.get("WGTRACE_DEBUG"):
            raise
        say(f"error: internal error: {type(exc).__name__}: {exc}")
        say("  this is a bug of wgtrace; WGTRACE_DEBUG=1 shows where")
        sys.exit(EXIT_INTERNAL)
