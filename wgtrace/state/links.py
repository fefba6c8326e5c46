# SPDX-License-Identifier: GPL-2.0-only
"""What is at the other end of a veth pair.

Import this late: pyroute2 loads all of itself, which takes a sixth of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from pyroute2.iproute import IPRoute
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_GETLINK

from wgtrace.errors import WgtraceError
from wgtrace.state.dumps import link, told
from wgtrace.state.netns import all_namespaces, inside
from wgtrace.state.types import Namespace

_DUMP: Final = NLM_F_REQUEST | NLM_F_DUMP


def veth_peer_mtu(netns: int, ifname: str) -> int:
    """The MTU of a veth device's other end, in whatever namespace that is; 0: not known, or no veth.

    Args:
        netns: Inode of the namespace of the device.
    """
    spaces = list(all_namespaces())
    pairs = {space.inode: list(_pairs(space)) for space in spaces}
    here = next((pair for pair in pairs.get(netns, ()) if pair[0] == ifname), None)
    if here is None:
        return 0
    _name, index, other, _mtu = here
    found = {mtu for many in pairs.values() for _, at, back, mtu in many if (at, back) == (other, index)}
    return found.pop() if len(found) == 1 else 0


def _pairs(space: Namespace) -> Iterable[tuple[str, int, int, int]]:
    """(name, index, index of the other end, MTU) of the veth devices of a namespace."""
    try:
        return inside(space, lambda: told(lambda: list(_veths())))
    except (WgtraceError, OSError):
        return ()


def _veths() -> Iterator[tuple[str, int, int, int]]:
    with IPRoute(strict_check=True) as netlink:
        message: Any
        for message in netlink.link((RTM_GETLINK, _DUMP)):
            device, kind = link(message, 0)
            other = message.get_attr("IFLA_LINK")
            if kind == "veth" and other:
                yield device.ifname, device.ifindex, other, device.mtu
