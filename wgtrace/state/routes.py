# SPDX-License-Identifier: GPL-2.0-only
"""Which way WireGuard's own packets go now, as `ip route get ENDPOINT mark FWMARK` tells.

Import this late: pyroute2 loads all of itself, which takes a sixth of a second.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

from pyroute2.iproute import IPRoute
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_GETRULE
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from wgtrace.errors import WgtraceError
from wgtrace.events.types import IPAddress
from wgtrace.state.dumps import link, told
from wgtrace.state.netns import all_namespaces, inside
from wgtrace.state.types import Device, Namespace, Route, Rule, Way

_DUMP: Final = NLM_F_REQUEST | NLM_F_DUMP
# Who enters routes by hand or by DHCP: RTPROT_BOOT, STATIC, RA, DHCP. The kernel sends only
# theirs: a routing daemon may have a million more.
_ENTERED_BY: Final = (3, 4, 9, 16)
_KINDS: Final = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}  # RTN_*
_ACTIONS: Final = {1: "lookup", 6: "blackhole", 7: "unreachable", 8: "prohibit"}  # FR_ACT_*
_INVERTED: Final = 0x2  # FIB_RULE_INVERT
_LOOKUP_TABLE: Final = 0x1000  # RTM_F_LOOKUP_TABLE: tell the table that has the route
_UNIVERSE: Final = 0  # RT_SCOPE_UNIVERSE
# What a rule can ask besides for the mark; one that does is left alone.
_SELECTORS: Final = ("FRA_SRC", "FRA_IIFNAME", "FRA_OIFNAME", "FRA_UID_RANGE", "FRA_IP_PROTO")
_SELECTORS_TOO: Final = ("FRA_SPORT_RANGE", "FRA_DPORT_RANGE", "FRA_DST", "FRA_TUN_ID", "FRA_L3MDEV")


def look_up(device: Device, endpoint: IPAddress, namespaces: Iterable[Namespace]) -> Way | None:
    """How the kernel routes to `endpoint` with the interface's fwmark; it is only asked.

    It is asked where the interface's UDP socket is: in the namespace that the
    interface was made in, which need not be the one it is in.

    Args:
        namespaces: Those known, the interface's among them.

    Returns:
        None: it cannot be told.
    """
    home = next((space for space in namespaces if space.inode == device.netns), None)
    if home is None:
        return None
    try:
        space = _socket_namespace(device, home)
        way = inside(space or home, lambda: told(lambda: _way(endpoint, device.fwmark)))
    except (WgtraceError, OSError):
        return None
    return replace(way, netns=space.inode if space else 0, netns_name=(space or home).name)


def look_again(way: Way, namespaces: Iterable[Namespace]) -> Way:
    """What `look_up` gave, with the route and its MTU of now: a fraction of the questions.

    Args:
        namespaces: Those known.
    """
    known = (space for spaces in (namespaces, all_namespaces()) for space in spaces)
    space = next((space for space in known if space.inode == way.netns), None)
    if space is None:
        return way
    try:
        return inside(space, lambda: told(lambda: _routed_now(way)))
    except (WgtraceError, OSError):
        return way


def _routed_now(way: Way) -> Way:
    with IPRoute(strict_check=True) as netlink:
        links = [link(message, 0)[0] for message in netlink.link((RTM_GETLINK, _DUMP))]
        names = {device.ifindex: device.ifname for device in links}
        now = _asked(netlink, way.endpoint, way.mark, names)
    return replace(
        way,
        errno=now.errno,
        oif=now.oif,
        table=now.table,
        gateway=now.gateway,
        mtu=now.mtu,
        is_mtu_learned=now.is_mtu_learned,
        link_mtu=next((device.mtu for device in links if device.ifname == now.oif), 0),
    )


def _way(endpoint: IPAddress, mark: int) -> Way:
    family = socket.AF_INET6 if endpoint.version == 6 else socket.AF_INET
    with IPRoute(strict_check=True) as netlink:
        links = [link(message, 0) for message in netlink.link((RTM_GETLINK, _DUMP))]
        names = {device.ifindex: device.ifname for device, _ in links}
        tunnels = {device.ifindex for device, kind in links if kind == "wireguard"}
        way = _asked(netlink, endpoint, mark, names)
        unmarked = _asked(netlink, endpoint, 0, names) if mark else None
        routes = list(_routes(netlink, family, names))
        return replace(
            way,
            unmarked=unmarked,
            defaults=tuple(r for r in routes if r.kind == "unicast" and not r.net.prefixlen),
            refusing=tuple(r for r in routes if r.kind != "unicast" and endpoint in r.net),
            rules=tuple(_rules(netlink, family)),
            has_address=_has_address(netlink, family, tunnels),
            link_mtu=next((device.mtu for device, _ in links if device.ifname == way.oif), 0),
            has_family=endpoint.version == 4 or Path("/proc/thread-self/net/if_inet6").exists(),
        )


def _asked(netlink: Any, endpoint: IPAddress, mark: int, names: dict[int, str]) -> Way:
    request = rtmsg()
    request["family"] = socket.AF_INET6 if endpoint.version == 6 else socket.AF_INET
    request["dst_len"] = endpoint.max_prefixlen
    if endpoint.version == 4:  # IPv6 tells the table anyway, and takes the flag for an error
        request["flags"] = _LOOKUP_TABLE
    request["attrs"] = [("RTA_DST", str(endpoint)), *([("RTA_MARK", mark)] if mark else [])]
    try:
        answers = told(lambda: list(netlink.nlm_request(request, RTM_GETROUTE, NLM_F_REQUEST)))
    except OSError as exc:
        return Way(endpoint, mark, errno=exc.errno or 0)
    route = _route(answers[0], names)
    metrics, cached = answers[0].get_attr("RTA_METRICS"), answers[0].get_attr("RTA_CACHEINFO")
    return Way(
        endpoint,
        mark,
        oif=route.oif,
        table=route.table,
        gateway=route.gateway,
        mtu=(metrics.get_attr("RTAX_MTU") if metrics else None) or 0,
        is_mtu_learned=bool(cached and cached["rta_expires"]),
    )


def _routes(netlink: Any, family: int, names: dict[int, str]) -> Iterator[Route]:
    """Routes that somebody entered, of all tables."""
    for protocol in _ENTERED_BY:
        request = rtmsg()
        request["family"], request["proto"] = family, protocol
        for message in netlink.nlm_request(request, RTM_GETROUTE, _DUMP):
            if message["type"] in _KINDS:
                yield _route(message, names)


def _route(message: Any, names: dict[int, str]) -> Route:
    any_addr = "::" if message["family"] == socket.AF_INET6 else "0.0.0.0"
    gateway = message.get_attr("RTA_GATEWAY")
    return Route(
        net=ip_network(f"{message.get_attr('RTA_DST', any_addr)}/{message['dst_len']}", strict=False),
        table=message.get_attr("RTA_TABLE", message["table"]),
        kind=_KINDS.get(message["type"], ""),
        oif=names.get(message.get_attr("RTA_OIF"), ""),
        gateway=ip_address(gateway) if gateway else None,
    )


def _rules(netlink: Any, family: int) -> Iterator[Rule]:
    """The policy rules that ask for nothing but the mark, in their order."""
    request = fibmsg()
    request["family"] = family
    for message in netlink.nlm_request(request, RTM_GETRULE, _DUMP):
        if message["action"] in _ACTIONS and not any(map(message.get_attr, _SELECTORS + _SELECTORS_TOO)):
            yield Rule(
                priority=message.get_attr("FRA_PRIORITY", 0),
                action=_ACTIONS[message["action"]],
                table=message.get_attr("FRA_TABLE", message["table"]),
                mark=message.get_attr("FRA_FWMARK", 0),
                mask=message.get_attr("FRA_FWMASK", 0),
                is_inverted=bool(message["flags"] & _INVERTED),
            )


def _has_address(netlink: Any, family: int, tunnels: set[int]) -> bool:
    """Whether there is an address of the family that is not one inside a tunnel."""
    request = ifaddrmsg()
    request["family"] = family
    addresses = list(netlink.nlm_request(request, RTM_GETADDR, _DUMP))
    return any(a["scope"] == _UNIVERSE and a["index"] not in tunnels for a in addresses)


def _socket_namespace(device: Device, home: Namespace) -> Namespace | None:
    """Where the interface's UDP socket is; None: nowhere, or it cannot be told from another's."""
    found = []
    for space in (home, *(other for other in all_namespaces() if other.inode != home.inode)):
        try:
            if inside(space, lambda: _is_bound(device.listen_port)):
                if space is home:
                    return home
                found.append(space)
        except (WgtraceError, OSError):
            continue
    return found[0] if len(found) == 1 else None


def _is_bound(port: int) -> bool:
    """Whether the calling thread's network namespace has a UDP socket at this port, udp(7)."""
    for name in ("udp", "udp6"):
        with open(f"/proc/thread-self/net/{name}", encoding="ascii") as lines:
            next(lines)
            if any(line.split()[1].endswith(f":{port:04X}") for line in lines):
                return True
    return False
