# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.loader.outside: what the programs outside of WireGuard are told."""

from __future__ import annotations

import pytest

from wgtrace.errors import UnsupportedError
from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Direction, Reason
from wgtrace.events.wire import PATH_SUBSYSTEM_0, PathRule
from wgtrace.loader.outside import firsts, path_config, path_rules, slot_of
from wgtrace.probes.kernel import Symbol, TextRange

NAMES = {
    0: "NOT_DROPPED_YET",
    1: "CONSUMED",
    7: "NETFILTER_DROP",
    8: "OTHERHOST",
    47: "XDP",
    3 << 16 | 2: "QDISC_DROP_OVERLIMIT",
}
HIDDEN = PathRule.HIDE_TX | PathRule.HIDE_RX


def test_slots() -> None:
    """Each of the core's reasons has its own, the reasons of a subsystem share one, none is outside."""
    assert [slot_of(n) for n in (0, 7, 239, 240, 65_535)] == [0, 7, 239, 0, 0]
    assert slot_of(3 << 16) == slot_of(3 << 16 | 9) == PATH_SUBSYSTEM_0 + 3
    assert slot_of(0xFFFF_FFFF) == 255


def test_without_a_filter() -> None:
    """What is no loss is never told; the rest is, whether it has a name or not."""
    rules = path_rules(NAMES, Filter())

    assert [number for number in range(240) if rules[number] & PathRule.NEVER] == [0, 1, 8]
    assert rules[7] == PathRule.NETFILTER | PathRule.DELIVERED
    assert rules[47] == PathRule.INCOMING
    assert (rules[99], rules[PATH_SUBSYSTEM_0 + 3]) == (0, 0)


def test_with_a_direction() -> None:
    """The other one is hidden, for all reasons."""
    rules = path_rules(NAMES, Filter(directions=frozenset({Direction.TX})))

    assert {rule & HIDDEN for rule in rules.values()} == {int(PathRule.HIDE_RX)}


def test_with_a_reason() -> None:
    """One of the kernel's hides the others, and one of WireGuard's all of them."""
    rules = path_rules(NAMES, Filter(kernel_reasons=frozenset({"netfilter_drop"})))
    assert [slot for slot, rule in rules.items() if not rule & HIDDEN] == [7]

    rules = path_rules(NAMES, Filter(reasons=frozenset({Reason.BAD_HEADER})))
    assert all(rule & HIDDEN == HIDDEN for rule in rules.values())


def test_a_reason_of_a_subsystem_keeps_its_slot_open() -> None:
    """Which of them it is, is looked at again where they have names."""
    rules = path_rules(NAMES, Filter(kernel_reasons=frozenset({"qdisc_drop_overlimit"})))
    assert [slot for slot, rule in rules.items() if not rule & HIDDEN] == [PATH_SUBSYSTEM_0 + 3]


def test_what_is_counted_for_a_subsystem_is_told_once() -> None:
    """Its reasons share a slot: under the first of them."""
    assert firsts([2, 7, 3 << 16 | 1, 3 << 16]) == {2: 2, 7: 7, PATH_SUBSYSTEM_0 + 3: 3 << 16}


def test_without_nf_tables() -> None:
    """Only the functions that free copies are told."""
    wire = path_config(quiet=[TextRange("packet_rcv", 16, 32)])

    assert (wire.net_id, wire.verdict_code, list(wire.quiet)[:3]) == (0, 0, [16, 32, 0])


def test_an_nf_tables_that_is_not_known() -> None:
    """It is told what is missing, and nothing is guessed."""
    with pytest.raises(UnsupportedError, match="another one"):
        path_config([Symbol("nft_do_chain", 16, "T")], nft=object())  # type: ignore[arg-type]  # not asked
