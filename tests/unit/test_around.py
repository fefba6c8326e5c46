# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.around: rules and settings are asked for when they are needed, and not for each packet."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from factories import BERLIN, NETNS, OFFSET_NS, flow, path_drop, snapshot

from wgtrace.around import Around
from wgtrace.events.types import NftPlace, PathEvent
from wgtrace.events.wire import Hook, RuleFound
from wgtrace.report import SeenPath
from wgtrace.state.types import Firewall, Namespace, NftChain

INNER = flow("10.9.7.7", "10.9.0.1", 17)
BY_RULE = path_drop(
    "netfilter_drop",
    BERLIN,
    inner=INNER,
    hook=Hook.INPUT,
    found=RuleFound.EXACT,
    nft=NftPlace(1, "fw", 5, "in", 4),
)
RULES = NftChain("inet", "fw", 5, "in", "input", "0", "accept", {4: "udp dport 9 drop"})
POLICY = NftChain("inet", "fw", 5, "in", "input", "0", "drop")


class Host:
    """Has rules and settings, a clock, and counts how often it is asked."""

    def __init__(self, *chains: NftChain) -> None:
        self.chains, self.asked, self.now_s = chains, 0, 100.0
        self.around = Around(self.firewall, self.sysctls, lambda: self.now_s)

    def firewall(self, _space: Namespace) -> Firewall:
        """Its rules."""
        self.asked += 1
        return Firewall(self.chains)

    def sysctls(self, _space: Namespace, names: Collection[str]) -> dict[str, str]:
        """All of them are 0."""
        self.asked += 1
        return dict.fromkeys(names, "0")

    def seen(self, event: PathEvent) -> SeenPath:
        """The event joined with what this host is asked."""
        return self.around.enrich(event, snapshot(netns_name="hub"), OFFSET_NS)


def test_a_rule_is_named_and_asked_for_once() -> None:
    """However many packets it drops."""
    host = Host(RULES)
    whys = {host.seen(BY_RULE).why for _ in range(23)}

    assert whys == {"inner packet in input at wg0: rule 4 in chain in of table inet fw: udp dport 9 drop"}
    assert host.asked == 1


def test_another_rule_is_asked_for_at_once() -> None:
    """The rules were changed since they were read: that a rule is not among them says so."""
    host = Host(RULES)
    host.seen(BY_RULE)
    host.chains = (replace(RULES, rules={9: "drop"}),)
    assert BY_RULE.nft
    other = replace(BY_RULE, nft=replace(BY_RULE.nft, handle=9))

    assert host.seen(other).why.endswith("drop")
    assert host.asked == 2


def test_a_rule_that_is_gone_is_not_asked_for_with_each_packet() -> None:
    """But now and then, and its handle is told all the same."""
    host = Host()
    for _ in range(23):
        assert host.seen(BY_RULE).why.endswith("rule 4 in chain in of table inet fw")
    assert host.asked == 1

    host.now_s += 1.5
    host.seen(BY_RULE)
    assert host.asked == 2


def test_a_policy_is_found_after_the_rules_changed() -> None:
    """Nothing named it, so a drop without a rule is another kind of drop."""
    host = Host(RULES)
    host.seen(BY_RULE)
    host.chains = (POLICY,)

    assert "the policy of chain in" in host.seen(replace(BY_RULE, nft=None, found=RuleFound.IMPLICIT)).why


def test_rules_with_nothing_that_drops_are_read_again() -> None:
    """A second later they may be those that did it; candidates are believed for longer."""
    host = Host()
    by_policy = replace(BY_RULE, nft=None, found=RuleFound.IMPLICIT)
    assert host.seen(by_policy).why.endswith("the firewall")
    host.chains = (POLICY,)
    assert host.seen(by_policy).why.endswith("the firewall")

    host.now_s += 1.5
    assert "the policy of chain in" in host.seen(by_policy).why
    assert host.asked == 2


def test_settings_decide_about_forwarding() -> None:
    """They are read where the packet died, for the device that it was at."""
    host = Host()
    seen = host.seen(path_drop("ip_inaddrerrors", BERLIN, inner=INNER))

    assert seen.sysctls == {"net/ipv4/conf/all/forwarding": "0", "net/ipv4/conf/wg0/forwarding": "0"}
    assert seen.why == "inner packet at wg0: forwarding is off"
    assert (seen.netns_name, seen.event.netns) == ("hub", NETNS)


def test_of_an_unknown_namespace_nothing_is_asked() -> None:
    """The rule that the kernel named is told."""
    host = Host(RULES)
    seen = host.seen(replace(BY_RULE, netns=1))

    assert (host.asked, seen.blocked and seen.blocked.handle) == (0, 4)


def test_sentences_of_other_reasons() -> None:
    """They name the packet's own addresses; where the kernel says nothing, the function is told."""
    host = Host()
    outer = flow("203.0.113.9", "203.0.113.1", 17, 4500, 51820)
    closed = path_drop("no_socket", is_inner=False, outer=outer, ifname="eth0", message_type=1)
    unknown = path_drop("reason_99", inner=INNER, where="ip_mystery+0x10")

    said = "nobody listens at port 51820: the interface is down, or has another one"
    assert host.seen(closed).why == f"handshake initiation at eth0: {said}"
    assert host.seen(unknown).why == "inner packet at wg0: dropped in ip_mystery()"


def test_a_full_table_is_asked_about_where_no_rule_is_known() -> None:
    """By the two numbers of connection tracking; a rule that is known needs neither."""
    no_rule = path_drop("netfilter_drop", BERLIN, inner=INNER, hook=Hook.PREROUTING)
    host = Host()
    host.around = Around(host.firewall, lambda _space, names: dict.fromkeys(names, "97"), lambda: host.now_s)

    assert host.seen(no_rule).why == "inner packet in prerouting at wg0: connection tracking's table is full"
    assert host.seen(replace(no_rule, hook=Hook.INPUT)).sysctls == {}
    assert Host(RULES).seen(BY_RULE).sysctls == {}
