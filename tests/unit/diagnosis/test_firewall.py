# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.diagnosis.firewall: which rule it was, and when it is only a candidate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import BERLIN, flow, path_drop

from wgtrace.diagnosis.firewall import Blocked, blocked_by
from wgtrace.events.types import NftPlace
from wgtrace.events.wire import Hook, RuleFound
from wgtrace.state.types import Firewall, NftChain

IN = NftChain("inet", "fw", 5, "in", "input", "filter", "accept", {4: "udp dport 9 drop", 7: "jump deep"})
DEEP = NftChain("inet", "fw", 5, "deep", rules={6: "reject with icmpx port-unreachable"})
POLICY = NftChain("ip", "filter", 2, "INPUT", "input", "filter", "drop")
UNFOLLOWED = path_drop("netfilter_drop", BERLIN, inner=flow("10.9.7.7", "10.9.0.1", 17), hook=Hook.INPUT)
INSIDE = replace(UNFOLLOWED, found=RuleFound.IMPLICIT)
BY_RULE = replace(INSIDE, found=RuleFound.EXACT, nft=NftPlace(1, "fw", 5, "in", 4))


def test_the_rule_that_the_kernel_names() -> None:
    """It is exact whether its text could be read or not."""
    named = Blocked("inet", "fw", "in", 4, "udp dport 9 drop", is_exact=True)

    assert blocked_by(BY_RULE, Firewall((IN, DEEP))) == named
    assert str(named) == "rule 4 in chain in of table inet fw: udp dport 9 drop"
    for unknown in (None, Firewall(unreadable="no nft")):
        assert str(blocked_by(BY_RULE, unknown)) == "rule 4 in chain in of table inet fw"
        assert not blocked_by(BY_RULE, unknown).is_known


def test_a_rule_of_a_table_made_anew_is_not_taken_for_it() -> None:
    """The same handle in a table of the same name that is another one."""
    again = replace(IN, table_handle=8)

    assert blocked_by(BY_RULE, Firewall((again,))).text == ""


def test_the_only_policy_is_exact() -> None:
    """No statement did it: then it was a policy, and there is one at that hook for that family."""
    assert str(blocked_by(INSIDE, Firewall((IN, POLICY)))) == "the policy of chain INPUT of table ip filter"
    assert blocked_by(INSIDE, Firewall((IN, POLICY))).is_exact


def test_without_the_probe_a_policy_is_a_candidate() -> None:
    """Where nobody follows the statements, it can have been one of them just as well."""
    assert not blocked_by(UNFOLLOWED, Firewall((POLICY,))).is_exact
    assert len(blocked_by(UNFOLLOWED, Firewall((IN, POLICY))).others) == 2


def test_a_verdict_map_and_a_policy() -> None:
    """The kernel names neither; a map that holds `drop` is no statement."""
    by_map = replace(IN, rules={4: "udp dport vmap { 9 : drop, 10 : accept }", 7: "udp dport 1 drop"})
    blocked = blocked_by(INSIDE, Firewall((by_map,)))

    assert (blocked.handle, blocked.is_exact) == (4, False)
    assert len(blocked_by(INSIDE, Firewall((by_map, POLICY))).others) == 2
    assert blocked_by(replace(INSIDE, found=RuleFound.SOMEWHERE), Firewall((by_map, POLICY))).handle == 7


@pytest.mark.parametrize(
    "firewall",
    [
        Firewall((POLICY, replace(POLICY, family="inet", table="other", table_handle=9))),
        Firewall((POLICY,), legacy=("filter",)),
    ],
)
def test_several_that_may_have_done_it(firewall: Firewall) -> None:
    """Nothing is named then, and all of them are told."""
    blocked = blocked_by(INSIDE, firewall)

    assert (blocked.chain, blocked.is_exact, len(blocked.others)) == ("", False, 2)
    assert str(blocked).startswith("one of the policy of chain INPUT of table ip filter")


def test_a_policy_of_the_other_family_or_hook_is_none() -> None:
    """A packet of IPv4 in input does not meet the policy of IPv6, nor that of forward."""
    others = (replace(POLICY, family="ip6"), replace(POLICY, hook="forward"))

    assert blocked_by(INSIDE, Firewall(others)) == Blocked()


def test_a_verdict_that_the_kernel_does_not_name() -> None:
    """Only rules that a packet can reach at its hook, and that may refuse it, are candidates."""
    somewhere = replace(INSIDE, found=RuleFound.SOMEWHERE)
    jumps = replace(IN, rules={7: "jump deep", 8: "udp dport 1 accept"})
    blocked = blocked_by(somewhere, Firewall((jumps, DEEP, replace(DEEP, name="unused"))))

    assert (blocked.chain, blocked.handle, blocked.is_exact) == ("deep", 6, False)
    assert str(blocked).startswith("perhaps rule 6 in chain deep")


def test_rules_of_wg_quick() -> None:
    """They are told as such."""
    place = NftPlace(1, "wg-quick-wg0", 3, "preraw", 2)
    blocked = blocked_by(replace(BY_RULE, nft=place), None)

    assert blocked.is_wg_quick
    assert str(blocked).startswith("wg-quick's own rule 2 in chain preraw")
