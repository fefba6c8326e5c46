# SPDX-License-Identifier: GPL-2.0-only
"""rules/routes: WireGuard's own packets that find no way to the peer, or the wrong one."""

from __future__ import annotations

import errno
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from factories import BERLIN, NETNS, PARIS, Scene, device, drop, flow, missing_probe, peer, snapshot

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import HandshakeCode, Reason
from wgtrace.events.types import DropEvent
from wgtrace.state.types import Device, Route, Rule, Way

ENDPOINT = ip_address("203.0.113.9")
MAIN, LOCAL = Rule(32766, "lookup", 254), Rule(0, "lookup", 255)
MARKED = device(fwmark=0xCA6C)


def way(number: int = errno.ENETUNREACH, **more: Any) -> Way:
    """No route to berlin."""
    return Way(ENDPOINT, errno=number, **{"rules": (LOCAL, MAIN), "netns": NETNS, **more})


def unsent(key: str = BERLIN, number: int = errno.ENETUNREACH) -> DropEvent:
    """A handshake message that found no route."""
    return drop(Reason.NO_ROUTE_TO_ENDPOINT, key, errno=number)


def refused(found: Way | None, given: Device | None = None) -> Scene:
    """23 packets to berlin that found no route."""
    scene = Scene(snapshot(given or device())).dropped(unsent())
    return scene.asked(BERLIN, found)


def test_no_default_route() -> None:
    """The plain case: cause, errno, answer of the kernel, command."""
    finding = refused(way()).only()

    assert (finding.slug, finding.severity, finding.confidence) == (
        "no-route-to-endpoint",
        Severity.ERROR,
        Confidence.CERTAIN,
    )
    assert finding.cause == (
        "This host has no route to berlin's endpoint 203.0.113.9:51820: it has no default route, and none to "
        "that address."
    )
    assert finding.fix[0] == "ip route add default via GATEWAY dev DEVICE"
    assert any("Network is unreachable (ENETUNREACH)" in text for text in finding.evidence)


def test_packets_that_wait_are_counted_here_and_are_no_unreachable_peer() -> None:
    """Staged packets behind a handshake that cannot leave: one finding."""
    scene = refused(way()).dropped(drop(Reason.STAGED_QUEUE_OVERFLOW, BERLIN), 271)
    scene.dropped(drop(Reason.STAGED_PURGED_IFDOWN, BERLIN), 11)
    finding = scene.stepped(HandshakeCode.INIT_SENT, BERLIN, 7).only()

    assert (finding.slug, finding.count) == ("no-route-to-endpoint", 23 + 271 + 11)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, "prohibit"), (errno.EHOSTUNREACH, "unreachable"), (errno.EINVAL, "blackhole")],
)
def test_a_route_that_forbids_it(number: int, kind: str) -> None:
    """The longest of the routes of that kind is named, with its table, and deleted."""
    routes = (
        Route(ip_network("203.0.0.0/8"), 254, kind),
        Route(ip_network("203.0.113.0/24"), 7, kind),
        Route(ip_network("203.0.113.9/32"), 254, "throw"),
    )
    finding = refused(way(number, refusing=routes)).only()

    assert f"the {kind} route 203.0.113.0/24 of table 7 forbids it" in finding.cause
    assert finding.fix == (f"ip route del {kind} 203.0.113.0/24 table 7",)


def test_a_rule_that_forbids_it() -> None:
    """Without such a route it is the first rule of that kind that takes the packet."""
    other = Rule(90, "prohibit", mark=9, mask=0xFFFFFFFF)
    finding = refused(way(errno.EACCES, rules=(LOCAL, other, Rule(100, "prohibit"), MAIN))).only()

    assert finding.fix == ("ip rule del priority 100",)
    assert refused(way(errno.EACCES)).only().confidence is Confidence.LIKELY


def test_marked_packets_are_left_out() -> None:
    """Packets without the fwmark would get out: the rule for those with it."""
    diverting = Rule(32765, "lookup", 88, 0xCA6C, 0xFFFFFFFF, is_inverted=True)
    without = Way(ENDPOINT, oif="eth0", table=88)
    found = way(mark=0xCA6C, unmarked=without, rules=(LOCAL, diverting, MAIN))
    finding = refused(found, MARKED).only()

    assert "rule 32765 sends only those without to table 88" in finding.cause
    assert finding.fix == ("ip rule add fwmark 0xca6c lookup 88",)


def test_a_default_route_into_the_tunnel_is_none_for_wireguard() -> None:
    """wg-quick's full tunnel without a default route outside."""
    found = way(mark=0xCA6C, unmarked=Way(ENDPOINT, oif="wg0", table=51820))
    finding = refused(found, MARKED).only()

    assert "the one into wg0 is not for WireGuard's own packets" in finding.cause
    assert finding.fix[0].startswith("ip route add default via")


def test_a_table_that_no_rule_asks() -> None:
    """A default route for the mark's table, and its rule is missing; one for another mark does not do."""
    defaults = (Route(ip_network("0.0.0.0/0"), 100, oif="eth1", gateway=ip_address("192.0.2.1")),)
    elsewhere = Rule(100, "lookup", 100, mark=7, mask=0xFFFFFFFF)
    found = way(mark=0xCA6C, unmarked=way(), defaults=defaults, rules=(LOCAL, elsewhere, MAIN))

    assert refused(found, MARKED).only().fix == ("ip rule add fwmark 0xca6c lookup 100",)
    asked = replace(found, rules=(LOCAL, Rule(100, "lookup", 100, mark=0xCA6C, mask=0xFFFFFFFF), MAIN))
    assert "no default route" in refused(asked, MARKED).only().cause
    assert "default via GATEWAY" in refused(replace(found, mark=0, unmarked=None)).only().fix[0]


def test_no_ipv6_address() -> None:
    """Nearer to the root than the route that a host without address cannot have."""
    scene = Scene().dropped(unsent(PARIS))
    scene.asked(
        PARIS, Way(ip_address("2001:db8::3"), errno=errno.ENETUNREACH, has_address=False, netns=NETNS)
    )
    finding = scene.only()

    assert "it has no IPv6 address" in finding.cause
    assert finding.fix[0] == "ip -6 address add ADDRESS/PREFIX dev DEVICE"


def test_a_kernel_without_ipv6_has_no_socket_for_it() -> None:
    """Then the drop is another, the finding the same."""
    scene = Scene().dropped(drop(Reason.UDP_SOCK_NULL, PARIS, errno=64))
    scene.asked(PARIS, Way(ip_address("2001:db8::3"), errno=97, has_family=False, has_address=False))

    assert scene.slugs == ["no-route-to-endpoint"]
    assert "IPv6 switched off" in scene.only().cause


def test_a_route_that_is_back() -> None:
    """What was missing is still said; nothing is to be done."""
    finding = refused(way()).asked(BERLIN, Way(ENDPOINT, oif="eth0", netns=NETNS)).only()

    assert finding.cause.startswith("This host had no route")
    assert (finding.severity, finding.fix) == (
        Severity.WARNING,
        ("nothing: there is a route by now, by dev eth0",),
    )


def test_an_answer_that_came_too_late_is_less_sure() -> None:
    """Routes were looked at only when they were there again, or never."""
    late = refused(Way(ENDPOINT, oif="eth0", netns=NETNS)).only()
    never = refused(None).only()

    assert (late.confidence, never.confidence) == (Confidence.LIKELY, Confidence.LIKELY)
    assert late.not_visible == never.not_visible == ("the routes of the moment when it was refused",)
    assert any(text.startswith("ip route get 203.0.113.9") for text in never.fix)


def test_a_socket_in_another_namespace() -> None:
    """The commands go where the socket is; where that is not known, it is the likely reason."""
    finding = refused(way(netns=77, netns_name="under lay")).only()
    assert finding.fix[0].startswith("ip netns exec 'under lay' ip route add default")
    assert any("in namespace under lay, where wg0 was made" in text for text in finding.evidence)

    unknown = refused(Way(ENDPOINT, oif="eth0")).only()
    assert unknown.confidence is Confidence.POSSIBLE
    assert "made in another namespace" in unknown.cause


def test_a_missing_probe_is_named() -> None:
    """Without the errno's probe it says so."""
    scene = refused(way())
    scene.probes = (missing_probe("no_route_to_endpoint"),)

    assert "the thing that happens" in scene.only().not_visible


def test_two_peers_are_two_findings_and_an_interface_is_not_another() -> None:
    """Each peer has its own way."""
    two = snapshot(device(), device("wg1"))
    scene = Scene(two).dropped(unsent()).dropped(unsent(PARIS), 7)
    scene.dropped(drop(Reason.NO_ROUTE_TO_ENDPOINT, BERLIN, "wg1"), 5)
    scene.asked(BERLIN, way()).asked(PARIS, None)

    assert [(f.ifname, f.count) for f in scene.findings] == [("wg0", 23), ("wg0", 7), ("wg1", 5)]


def looping(**more: Any) -> Scene:
    """Handshakes to berlin that go into wg0."""
    state = snapshot(device(peers=(peer(BERLIN, "berlin", "0.0.0.0/0", at="203.0.113.9:51820"),)))
    scene = Scene(state).stepped(HandshakeCode.INIT_SENT, BERLIN, 2)
    return scene.asked(BERLIN, Way(ENDPOINT, oif="wg0", table=254, **{"netns": NETNS, **more}))


def test_a_loop_is_no_unreachable_peer() -> None:
    """The way into the tunnel is nearer to the root than the silence; the route past it is the cure."""
    out = Route(ip_network("0.0.0.0/0"), 254, oif="eth0", gateway=ip_address("198.51.100.254"))
    finding = looping(defaults=(out,)).only()

    assert finding.slug == "routing-loop"
    assert finding.fix[0] == "ip route replace 203.0.113.9/32 via 198.51.100.254 dev eth0"
    assert "the AllowedIPs of berlin hold it" in finding.cause


def test_a_loop_that_no_allowed_ips_hold() -> None:
    """Then its packets are refused as for no peer: part of this finding, and no other."""
    own = drop(Reason.ALLOWEDIPS_NO_PEER, inner=flow("10.0.0.1", "203.0.113.9", 17, 51820, 51820))
    scene = looping().dropped(own, 5)

    assert [(f.slug, f.count) for f in scene.findings] == [("routing-loop", 5)]


@pytest.mark.parametrize("more", [{"netns": 77}, {"mark": 1}])
def test_a_tunnel_in_a_tunnel_is_no_loop(more: dict[str, Any]) -> None:
    """The same name in another namespace, or another device, is another tunnel."""
    found = looping(**more) if "netns" in more else looping().asked(BERLIN, Way(ENDPOINT, oif="wg1"))

    assert found.slugs == ["peer-unreachable"]


def test_a_way_into_the_tunnel_with_answers_is_no_loop() -> None:
    """Whatever the table says: it works."""
    assert looping().stepped(HandshakeCode.RESPONSE_ACCEPTED, BERLIN).slugs == []
