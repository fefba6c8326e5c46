# SPDX-License-Identifier: GPL-2.0-only
"""probes: what `wgtrace probes` prints."""

from __future__ import annotations

from factories import attached_probe, console, missing_probe, written

from wgtrace.outputs.probes import print_probes
from wgtrace.probes.types import Mechanism

PROBES = (attached_probe(1), missing_probe("x"), attached_probe(23, Mechanism.RAW_TRACEPOINT))

AT_80 = """\
1 probe of 3 cannot be attached:

a-probe  wg_function
  because      no such function in this kernel
  not visible  the thing that happens
  do           load the module: modprobe wireguard

PROBE     MECHANISM       TARGET   TELLS
probe-1   fexit           wg_xmit  a packet was sent
probe-23  raw tracepoint  wg_xmit  a packet was sent
"""


def test_probes_at_80_columns() -> None:
    """What is missing comes first, with what to do; the rest is a table."""
    to = console(80)
    print_probes(to, PROBES)

    assert written(to) == AT_80


def test_probes_in_few_columns_take_two_lines() -> None:
    """Nothing is cut where there is little room."""
    to = console(60)
    print_probes(to, PROBES[:1])

    assert written(to) == (
        "PROBE    MECHANISM       TARGET\n     TELLS\n"
        "probe-1  fexit           wg_xmit\n     a packet was sent\n"
    )


def test_a_second_best_mechanism_says_why() -> None:
    """Where a kprobe stands in for fentry or a tracepoint it says why; what is preferred does not."""
    kinds = [Mechanism.KPROBE, Mechanism.KRETPROBE, Mechanism.FENTRY, Mechanism.RAW_TRACEPOINT]
    probes = [attached_probe(number, kind) for number, kind in enumerate(kinds)]
    wide, narrow = console(80), console(60)
    print_probes(wide, probes)
    print_probes(narrow, probes[:1])

    assert written(wide) == (
        "PROBE    MECHANISM       TARGET   TELLS\n"
        "probe-0  kprobe          wg_xmit  a packet was sent\n"
        "     kprobe: in BTF\n"
        "probe-1  kretprobe       wg_xmit  a packet was sent\n"
        "     kretprobe: in BTF\n"
        "probe-2  fentry          wg_xmit  a packet was sent\n"
        "probe-3  raw tracepoint  wg_xmit  a packet was sent\n"
    )
    assert written(narrow).endswith("wg_xmit\n     a packet was sent\n     kprobe: in BTF\n")


def test_a_whole_catalogue_says_nothing_of_missing() -> None:
    """With everything attached there is only the table."""
    to = console(200)
    print_probes(to, PROBES[:1])

    assert written(to).startswith("PROBE")
