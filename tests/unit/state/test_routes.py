# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.routes, on pyroute2's messages decoded from bytes as the kernel writes them."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import kernel_messages as wire
import pytest
from pyroute2.iproute import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from wgtrace.state import netns, routes
from wgtrace.state.types import Device, Namespace, Route, Rule, Way

V4, V6 = ip_address("203.0.113.9"), ip_address("2001:db8::9")
DUMP = 0x301


def decoded(message_class: Callable[[bytes], Any], message: bytes) -> Any:
    """A message as pyroute2 hands it out."""
    result = message_class(message)
    result.decode()
    return result


def route(
    dst: str, *, kind: int = 1, table: int = 254, oif: int = 0, via: str = "", protocol: int = 3
) -> bytes:
    """An RTM_NEWROUTE message."""
    net = ip_network(dst)
    family = socket.AF_INET6 if net.version == 6 else socket.AF_INET
    attributes = wire.attribute(15, wire.u32(table))
    if net.prefixlen:
        attributes += wire.attribute(1, net.network_address.packed)
    if oif:
        attributes += wire.attribute(4, wire.u32(oif))
    if via:
        attributes += wire.attribute(5, ip_address(via).packed)
    header = struct.pack("=BBBBBBBBI", family, net.prefixlen, 0, 0, min(table, 252), protocol, 0, kind, 0)
    return wire.message(24, header + attributes)


def rule(action: int, flags: int = 0, *attributes: tuple[int, bytes]) -> bytes:
    """An RTM_NEWRULE message."""
    header = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 0, 0, 0, action, flags)
    return wire.message(32, header + b"".join(wire.attribute(kind, value) for kind, value in attributes))


def address(ifindex: int, scope: int) -> bytes:
    """An RTM_NEWADDR message."""
    return wire.message(20, struct.pack("=BBBBI", 10, 64, 0x80, scope, ifindex))


class Kernel:
    """Stands for a socket of rtnetlink.

    Args:
        answers: What a route get says, by mark: a message or an errno.
    """

    def __init__(
        self,
        answers: dict[int, bytes | int],
        table: tuple[bytes, ...] = (),
        rules: tuple[bytes, ...] = (),
        addresses: tuple[bytes, ...] = (),
    ) -> None:
        self.answers, self.table, self.rules, self.addresses = answers, table, rules, addresses
        self.asked: list[tuple[int, int]] = []

    def link(self, _request: object) -> list[Any]:
        """Every interface."""
        links = ((b"eth0", 2, ""), (b"wg0", 7, "wireguard"))
        return [decoded(ifinfmsg, wire.link(name, index, kind)) for name, index, kind in links]

    def nlm_request(self, request: Any, msg_type: int, msg_flags: int) -> Iterator[Any]:
        """The messages that answer a request."""
        self.asked.append((msg_type, msg_flags))
        if msg_flags == DUMP:
            found = {RTM_GETROUTE: self.table, RTM_GETRULE: self.rules, RTM_GETADDR: self.addresses}[msg_type]
            kinds: dict[int, Callable[[bytes], Any]]
            kinds = {RTM_GETROUTE: rtmsg, RTM_GETRULE: fibmsg, RTM_GETADDR: ifaddrmsg}
            messages = [decoded(kinds[msg_type], message) for message in found]
            if msg_type == RTM_GETROUTE:  # the kernel's own filter, NETLINK_GET_STRICT_CHK
                messages = [m for m in messages if m["proto"] == request["proto"]]
            yield from messages
            return
        answer = self.answers[dict(request["attrs"]).get("RTA_MARK", 0)]
        if isinstance(answer, int):
            raise NetlinkError(answer)
        yield decoded(rtmsg, answer)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[Kernel], Kernel]:
    """Has routes.look_up ask this kernel."""

    def use(chosen: Kernel) -> Kernel:
        monkeypatch.setattr(routes, "IPRoute", lambda **_options: contextlib.nullcontext(chosen))
        return chosen

    return use


def asked(endpoint: Any = V4, mark: int = 0, port: int = 0) -> Way:
    """What look_up says here."""
    here = netns.current()
    way = routes.look_up(Device("wg0", 7, here.inode, fwmark=mark, listen_port=port), endpoint, [here])
    assert way is not None
    return way


def test_a_way(kernel: Callable[[Kernel], Kernel]) -> None:
    """Device, gateway and table of the answer; nothing but questions is sent."""
    used = kernel(Kernel({0: route("203.0.113.9/32", oif=2, via="192.0.2.1", table=88)}))
    way = asked()

    assert (way.errno, way.oif, way.gateway, way.table) == (0, "eth0", ip_address("192.0.2.1"), 88)
    assert way.unmarked is None
    assert {kind for kind, _ in used.asked} <= {RTM_GETROUTE, RTM_GETRULE, RTM_GETADDR}
    assert {flags for _, flags in used.asked} == {0x1, DUMP}


def test_no_way_and_all_that_may_say_why(kernel: Callable[[Kernel], Kernel]) -> None:
    """Errno with and without the mark, default routes, routes that refuse, and rules."""
    table = (
        route("0.0.0.0/0", table=88, oif=2, via="192.0.2.1"),
        route("0.0.0.0/0", table=51820, oif=7, protocol=4),
        route("203.0.113.0/24", kind=8, protocol=16),
        route("203.0.0.0/8", kind=7),
        route("198.51.100.0/24", kind=8),  # not the endpoint's
        route("203.0.113.0/25", oif=2),  # no default
        route("0.0.0.0/0", table=5, oif=2, protocol=186),  # a routing daemon's
    )
    rules = (
        rule(1, 0, (15, wire.u32(255))),
        rule(1, 2, (15, wire.u32(88)), (6, wire.u32(32765)), (10, wire.u32(7)), (16, wire.u32(0xFFFFFFFF))),
        rule(8, 0, (6, wire.u32(100)), (3, b"eth9\0")),  # asks for more than the mark
        rule(8, 0, (6, wire.u32(200))),
    )
    kernel(Kernel({7: errno.EACCES, 0: errno.ENETUNREACH}, table, rules))
    way = asked(mark=7)

    assert (way.errno, way.mark, way.oif) == (errno.EACCES, 7, "")
    assert way.unmarked == Way(V4, errno=errno.ENETUNREACH)
    everything = ip_network("0.0.0.0/0")
    assert set(way.defaults) == {
        Route(everything, 88, oif="eth0", gateway=ip_address("192.0.2.1")),
        Route(everything, 51820, oif="wg0"),
    }
    assert {(str(r.net), r.kind) for r in way.refusing} == {
        ("203.0.113.0/24", "prohibit"),
        ("203.0.0.0/8", "unreachable"),
    }
    assert way.rules == (
        Rule(0, "lookup", 255),
        Rule(32765, "lookup", 88, mark=7, mask=0xFFFFFFFF, is_inverted=True),
        Rule(200, "prohibit"),
    )
    assert [r.takes(7) for r in way.rules] == [True, False, True]
    assert [r.takes(0) for r in way.rules] == [True, True, True]


@pytest.mark.parametrize(
    ("addresses", "has_address"),
    [((), False), (((2, 253),), False), (((7, 0),), False), (((7, 0), (2, 0)), True)],
)
def test_an_address_of_the_family(
    kernel: Callable[[Kernel], Kernel], addresses: tuple[tuple[int, int], ...], *, has_address: bool
) -> None:
    """A link-local one is none to go out by, and one inside the tunnel neither."""
    kernel(Kernel({0: errno.ENETUNREACH}, addresses=tuple(address(*a) for a in addresses)))

    assert asked(V6).has_address is has_address


def test_where_the_socket_is(kernel: Callable[[Kernel], Kernel]) -> None:
    """A UDP socket at the port, here; with none the namespace is not known."""
    kernel(Kernel({0: errno.ENETUNREACH}))
    for family, addr in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((addr, 0))
            port = sock.getsockname()[1]
            assert asked(port=port).netns == netns.current().inode
        assert asked(port=port).netns == 0


def test_a_namespace_that_is_gone() -> None:
    """Nothing can be told."""
    device = Device("wg0", 7, 17)

    assert routes.look_up(device, V4, []) is None
    assert routes.look_up(device, V4, [Namespace(17, "/nonexistent")]) is None


def test_this_machine_s_own_loopback() -> None:
    """The real kernel, asked: 127.0.0.1 is reached by lo."""
    way = asked(ip_address("127.0.0.1"))

    assert (way.errno, way.oif) == (0, "lo")
    assert way.rules


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_both_families_may_be_asked(address: str) -> None:
    """The kernel that runs here is asked: it takes flags of the one family for an error of the other."""
    with IPRoute(strict_check=True) as netlink:
        way = routes._asked(netlink, ip_address(address), 0, {1: "lo"})

    assert (way.errno, way.oif) == (0, "lo")
