# SPDX-License-Identifier: GPL-2.0-only
"""Network interfaces and their counters, by rtnetlink(7)."""

from __future__ import annotations

import socket
import struct

from wgtrace.state.netlink import Netlink, attribute, attributes, consistent, number
from wgtrace.state.types import Device

_RTM_GETLINK, _IFF_UP = 18, 1
_IFINFOMSG = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_STATS64 = 3, 4, 18, 23
_IFLA_INFO_KIND = 1
# struct rtnl_link_stats64; older kernels have fewer.
_COUNTERS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
    "rx_otherhost_dropped",
)


def links(route: Netlink, netns: int, kind: str = "") -> list[tuple[Device, str]]:
    """Interfaces by index, as devices without peers, and the link kind of each ("": none).

    Args:
        route: A socket of NETLINK_ROUTE in that network namespace.
        netns: Inode of the namespace.
        kind: Only those of this kind.

    Raises:
        OSError: The kernel's answer.
        StateError: They change all the time.
    """
    request = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0)
    if kind:
        request += attribute(_IFLA_LINKINFO, attribute(_IFLA_INFO_KIND, kind.encode()))
    found = consistent(lambda: [link(message, netns) for message in route.dump(_RTM_GETLINK, request)])
    # A kernel that does not know the kind (no module) does not filter by it.
    return sorted((pair for pair in found if kind in ("", pair[1])), key=lambda pair: pair[0].ifindex)


def link(message: memoryview, netns: int) -> tuple[Device, str]:
    """An RTM_NEWLINK message as a device without peers, and its link kind or ""."""
    _, _, _, ifindex, flags, _ = _IFINFOMSG.unpack_from(message)
    found, nothing = dict(attributes(message[_IFINFOMSG.size :])), memoryview(b"")
    info = dict(attributes(found.get(_IFLA_LINKINFO, nothing)))
    counters = struct.iter_unpack("=Q", found.get(_IFLA_STATS64, nothing))
    device = Device(
        ifname=_text(found[_IFLA_IFNAME]),
        ifindex=ifindex,
        netns=netns,
        is_up=bool(flags & _IFF_UP),
        mtu=number(found[_IFLA_MTU]),
        counters={name: value for name, (value,) in zip(_COUNTERS, counters, strict=False)},
    )
    return device, _text(info.get(_IFLA_INFO_KIND, nothing))


def _text(data: memoryview) -> str:
    return bytes(data).rstrip(b"\0").decode(errors="replace")
