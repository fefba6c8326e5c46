# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.diagnosis.rules.outside: what firewall and routing of this host do to the tunnel."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import BERLIN, PARIS, Scene, flow, outer, path_drop

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.diagnosis.firewall import Blocked
from wgtrace.events.reasons import HandshakeCode
from wgtrace.events.wire import Hook

RULE = Blocked("inet", "fw", "in", 4, "udp dport 51820 drop", is_exact=True)
OUTER = path_drop("netfilter_drop", BERLIN, is_inner=False, outer=outer(), hook=Hook.INPUT, message_type=1)
INNER = path_drop("netfilter_drop", BERLIN, inner=flow("10.9.7.7", "10.8.0.1"), hook=Hook.FORWARD)
OFF = {"net/ipv4/conf/all/forwarding": "0", "net/ipv4/conf/wg0/forwarding": "0"}


def test_a_rule_that_drops_datagrams() -> None:
    """The rule, its place and the peer, and a command that lets these pass before it."""
    found = Scene().died(OUTER, RULE).only()

    assert (found.slug, found.severity, found.confidence) == (
        "outer-blocked-by-firewall",
        Severity.ERROR,
        Confidence.CERTAIN,
    )
    assert found.peer
    assert found.peer.public_key == BERLIN
    assert found.count == 23
    assert "input by rule 4 in chain in of table inet fw: udp dport 51820 drop" in found.cause
    assert "nft insert rule inet fw in position 4 udp dport 51820 accept" in found.fix


def test_a_rule_that_drops_inner_packets() -> None:
    """What is forwarded out of the tunnel is told by the interface that it came from."""
    found = Scene().died(INNER, replace(RULE, chain="fwd", handle=7, text="drop")).only()

    assert found.slug == "inner-blocked-by-firewall"
    assert "nft insert rule inet fw fwd position 7 iifname wg0 accept" in found.fix


@pytest.mark.parametrize(
    ("blocked", "command"),
    [
        (Blocked("inet", "fw", "in", is_exact=True), "nft add rule inet fw in udp dport 51820 accept"),
        (
            Blocked("ip", "filter", "INPUT", 4, "udp dport 1 drop", is_exact=True),
            "iptables -t filter -I INPUT -p udp --dport 51820 -j ACCEPT",
        ),
        (Blocked(others=("a", "b")), "nft -a list ruleset"),
    ],
)
def test_the_tool_that_made_the_rule_cures_it(blocked: Blocked, command: str) -> None:
    """A policy gets a rule, iptables' own chain one of iptables; what is not known is to be looked for."""
    assert command in Scene().died(OUTER, blocked).only().fix


def test_the_totals_count() -> None:
    """Rows that were left out of a flood are of the only rule that there is."""
    assert Scene().died(OUTER, RULE, count=1_000_003, shown=23).only().count == 1_000_003


def test_two_rules_are_two_findings_and_two_peers_of_one_rule_one() -> None:
    """One cause, one finding, whoever's packets it drops; the peer is named where there is but one."""
    scene = Scene().died(OUTER, RULE, 5).died(OUTER, replace(RULE, handle=9), 7)
    assert [f.count for f in scene.findings] == [7, 5]

    other = path_drop("netfilter_drop", PARIS, is_inner=False, outer=outer(), hook=Hook.INPUT)
    found = Scene().died(OUTER, RULE, 5).died(other, RULE, 7).only()
    assert (found.count, found.peer) == (12, None)


def test_a_peer_behind_the_own_firewall_is_not_unreachable_besides() -> None:
    """The nearest cause wins; for another peer both are told."""
    scene = Scene().stepped(HandshakeCode.INIT_SENT, BERLIN, 3).died(OUTER, RULE)
    assert scene.slugs == ["outer-blocked-by-firewall"]

    scene = Scene().stepped(HandshakeCode.INIT_SENT, PARIS, 3).died(OUTER, RULE)
    assert sorted(scene.slugs) == ["outer-blocked-by-firewall", "peer-unreachable"]


def test_an_inner_rule_does_not_explain_an_unreachable_peer() -> None:
    """What dies inside has nothing to do with the handshake."""
    scene = Scene().stepped(HandshakeCode.INIT_SENT, BERLIN, 3).died(INNER, RULE)
    assert sorted(scene.slugs) == ["inner-blocked-by-firewall", "peer-unreachable"]


def test_noise_is_no_finding() -> None:
    """Multicast and link-local packets are dropped everywhere, and nobody misses them."""
    noise = path_drop("netfilter_drop", inner=flow("fe80::1", "ff02::16", 58), hook=Hook.OUTPUT)
    assert Scene().died(noise, RULE).findings == ()


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("ct state invalid drop", "conntrack-invalid"),
        ("ct state invalid,new drop", "inner-blocked-by-firewall"),
        ("fib saddr . iif oif missing drop", "inner-blocked-by-firewall"),
    ],
)
def test_what_a_rule_looks_at(text: str, slug: str) -> None:
    """A rule about invalid packets is another finding; in forward nothing is a reverse-path filter."""
    assert Scene().died(INNER, replace(RULE, text=text)).only().slug == slug


def test_a_reverse_path_rule_of_nft() -> None:
    """As firewalld has it, in prerouting."""
    early = replace(INNER, hook=Hook.PREROUTING)
    assert Scene().died(early, replace(RULE, text="fib saddr . mark . iif oif 0 drop")).only().slug == (
        "rp-filter-drop"
    )


def test_forwarding_is_off() -> None:
    """The sysctl and its value; the command that turns it on."""
    event = path_drop("ip_inaddrerrors", BERLIN, inner=flow("10.9.7.7", "10.8.0.1"))
    found = Scene().died(event, sysctls=OFF).only()

    assert (found.slug, found.confidence, found.count) == ("forwarding-disabled", Confidence.CERTAIN, 23)
    assert "sysctl -w net.ipv4.ip_forward=1" in found.fix
    assert "net.ipv4.conf.wg0.forwarding is 0" in found.evidence


def test_forwarding_is_on() -> None:
    """Then it is something else that made the address an error."""
    event = path_drop("ip_inaddrerrors", BERLIN, inner=flow("10.9.7.7", "10.8.0.1"))
    assert Scene().died(event, sysctls=dict.fromkeys(OFF, "1")).findings == ()


def test_forwarding_of_ipv6() -> None:
    """Without the values it is likely."""
    event = path_drop("ip_inaddrerrors", BERLIN, inner=flow("fd09::2", "fd08::1"))
    found = Scene().died(event).only()

    assert found.confidence is Confidence.LIKELY
    assert "sysctl -w net.ipv6.conf.all.forwarding=1" in found.fix


def test_reverse_path_filter() -> None:
    """Which setting counts, and the route that is missing."""
    event = path_drop("ip_rpfilter", BERLIN, inner=flow("10.7.7.7", "10.9.0.1"), ifname="wg0")
    values = {"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/wg0/rp_filter": "1"}
    found = Scene().died(event, sysctls=values).only()

    assert (found.slug, found.count) == ("rp-filter-drop", 23)
    assert "ip route replace 10.7.7.7/32 dev wg0" in found.fix
    assert any(text.startswith("the larger counts, strict") for text in found.evidence)


def test_a_reason_without_a_rule_is_no_finding() -> None:
    """It is shown and counted; what to do about it nobody knows for sure."""
    assert Scene().died(path_drop("qdisc_drop", BERLIN, inner=flow("10.9.7.7", "10.9.0.1"))).findings == ()


FULL = {"net/netfilter/nf_conntrack_count": "4096", "net/netfilter/nf_conntrack_max": "4096"}


def test_no_room_in_connection_tracking() -> None:
    """No rule did it, and there are as many entries as there may be: both numbers, and twice as many."""
    scene = Scene().stepped(HandshakeCode.INIT_SENT, BERLIN, 3)
    found = scene.died(replace(OUTER, hook=Hook.PREROUTING), Blocked(), sysctls=FULL).only()

    assert (found.slug, found.severity, found.count) == ("conntrack-table-full", Severity.ERROR, 23)
    assert "4096 entries" in found.cause
    assert "sysctl -w net.netfilter.nf_conntrack_max=8192" in found.fix


def test_room_in_connection_tracking() -> None:
    """With one entry less it was something else."""
    room = {**FULL, "net/netfilter/nf_conntrack_count": "4095"}
    scene = Scene().died(replace(OUTER, hook=Hook.PREROUTING), Blocked(), sysctls=room)
    assert scene.slugs == ["outer-blocked-by-firewall"]


@pytest.mark.parametrize(("reason", "which"), [("udp_csum", "UDP"), ("ip_csum", "IP")])
def test_a_wrong_checksum(reason: str, which: str) -> None:
    """Of datagrams that come in: they never reach WireGuard, so the peer is not unreachable besides."""
    damaged = path_drop(reason, BERLIN, is_inner=False, outer=outer(), ifname="eth0")
    found = Scene().stepped(HandshakeCode.INIT_SENT, BERLIN, 3).died(damaged).only()

    assert (found.slug, found.count) == ("checksum-error", 23)
    assert f"come in at eth0 with a wrong {which} checksum" in found.cause
    assert "ethtool -K eth0 rx off gro off" in found.fix


def test_a_wrong_checksum_inside_is_not_the_tunnels() -> None:
    """Whoever sent it made it wrong; the tunnel brought it as it was."""
    assert Scene().died(path_drop("udp_csum", BERLIN, inner=flow("10.9.0.2", "10.9.0.1"))).findings == ()
