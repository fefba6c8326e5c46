# SPDX-License-Identifier: GPL-2.0-only
"""Options that several commands have, and what their values mean."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import click

from wgtrace.errors import UsageError
from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Direction, Reason

EXIT_FINDINGS = 1
_LEAST_SIZE = 1 << 16

interfaces = click.argument("interfaces", nargs=-1, metavar="[IFACE]...")
netns = click.option(
    "--netns", metavar="NAME|PATH", help="Look in this network namespace instead of the current one."
)
everywhere = click.option(
    "--all", "everywhere", is_flag=True, help="Every WireGuard interface in every namespace."
)
peers = click.option(
    "--peer", "peers", multiple=True, metavar="KEY|KEY-PREFIX|NAME", help="Only this peer's packets."
)
directions = click.option(
    "--direction",
    "directions",
    multiple=True,
    type=click.Choice([d.value for d in Direction]),
    help="Only packets going out (tx), coming in (rx), or handshake messages received.",
)
reasons = click.option(
    "--reason",
    "reasons",
    multiple=True,
    metavar="REASON",
    help="Only drops for this reason; findings are told all the same.",
)
flow = click.option(
    "--flow", metavar="EXPR", help="Only packets with these addresses, ports, protocols; see README."
)
duration = click.option(
    "--duration", type=click.FloatRange(min=0), metavar="SECONDS", help="End after this time."
)
as_json = click.option(
    "-j", "--json", "as_json", is_flag=True, help="JSON lines on standard output, nothing else there."
)
names = click.option(
    "--names",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Names of peers, a line each: NAME PUBLIC-KEY.",
)
ready_file = click.option(
    "--ready-file", type=click.Path(path_type=Path), metavar="PATH", help="Created once all is attached."
)
invariants = click.option(
    "--invariants",
    is_flag=True,
    help="Also look whether what holds on every sound kernel holds here; costs something for every packet.",
)
exit_code = click.option(
    "--exit-code", is_flag=True, help="Exit with 1 if there is a finding of severity error."
)
quiet = click.option("-q", "--quiet", is_flag=True, help="No row or line for each packet: only the summary.")


class Size(click.ParamType):
    """A size in bytes as people write it: `500K`, `64M`, `2G`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        text = str(value).upper()
        factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        digits = text[:-1] if factor > 1 else text
        if not (digits.isascii() and digits.isdigit()) or int(digits) * factor < _LEAST_SIZE:
            self.fail(f"{value!r} is not a size like 64M, at least {_LEAST_SIZE >> 10}K", param, ctx)
        return int(digits) * factor


def reason_filter(texts: Iterable[str], kernel_reasons: Collection[str]) -> Filter:
    """Which reasons these ids ask for: WireGuard's, and the kernel's own outside of it.

    Args:
        kernel_reasons: What the kernel calls its own, as `Source.kernel_reasons` has them.

    Raises:
        UsageError: There is none of that name; the message has those that are alike.
    """
    ours, kernels = set[Reason](), set[str]()
    others = {name.lower() for name in kernel_reasons}
    for text in texts:
        if text.upper() in Reason.__members__:
            ours.add(Reason[text.upper()])
        elif text.lower() in others:
            kernels.add(text.lower())
        else:
            known = sorted({*(r.id for r in Reason), *others})
            alike = [name for name in known if text.lower() in name]
            there = ", ".join(alike or sorted(r.id for r in Reason))
            raise UsageError(f"no reason {text!r}", f"there are: {there}")
    return Filter(reasons=frozenset(ours), kernel_reasons=frozenset(kernels))
