# SPDX-License-Identifier: GPL-2.0-only
"""WireGuard's interfaces and peers, as wg(8) shows them.

Links come by rtnetlink(7), the rest by WireGuard's generic netlink family
(uapi/linux/wireguard.h). Its dump carries the private key and preshared keys: the
first is passed over, of the others it is only looked whether they are zero.
"""

from __future__ import annotations

import errno
import socket
import struct
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from wgtrace.errors import UnsupportedError, UsageError
from wgtrace.events.types import Endpoint
from wgtrace.state.links import links
from wgtrace.state.netlink import (
    NETLINK_GENERIC,
    Netlink,
    attribute,
    attributes,
    consistent,
    number,
    state_errors,
)
from wgtrace.state.netns import entered
from wgtrace.state.types import Device, IPNetwork, Namespace, Peer

_KIND = "wireguard"
_WG_CMD_GET_DEVICE = 0
_WGDEVICE_IFINDEX, _WGDEVICE_PUBLIC_KEY, _WGDEVICE_LISTEN_PORT = 1, 4, 6
_WGDEVICE_FWMARK, _WGDEVICE_PEERS = 7, 8
_WGPEER_PUBLIC_KEY, _WGPEER_PRESHARED_KEY, _WGPEER_ENDPOINT, _WGPEER_KEEPALIVE = 1, 2, 4, 5
_WGPEER_LAST_HANDSHAKE, _WGPEER_RX_BYTES, _WGPEER_TX_BYTES, _WGPEER_ALLOWEDIPS = 6, 7, 8, 9
_WGALLOWEDIP_FAMILY, _WGALLOWEDIP_IPADDR, _WGALLOWEDIP_CIDR_MASK = 1, 2, 3


def devices(
    namespace: Namespace, names: Mapping[str, str], only: Collection[str] | None = None
) -> tuple[Device, ...]:
    """The WireGuard interfaces of a network namespace, by interface index.

    Args:
        names: Names of peers by public key.
        only: Names of the interfaces wanted; None: all of them.

    Raises:
        UsageError: One that is wanted does not exist, or is no WireGuard interface.
        UnsupportedError: This kernel has no WireGuard, or it takes root.
        StateError: The namespace is gone, or netlink fails.
    """
    with entered(namespace), state_errors("WireGuard's configuration"):
        with Netlink(socket.NETLINK_ROUTE) as route:
            found = links(route, namespace.inode, kind=_KIND)
            missing = sorted(set(only or ()) - {link.ifname for link, _ in found})
            everything = links(route, namespace.inode) if missing else []
        wanted = [link for link, _ in found if only is None or link.ifname in only]
        if not wanted and not missing:
            return ()
        with Netlink(NETLINK_GENERIC) as generic:
            family = _family(generic)
            if missing:
                raise _not_wireguard(missing[0], everything)
            read = (_read(generic, family, link, names) for link in wanted)
            return tuple(device for device in read if device)


def _read(generic: Netlink, family: int, link: Device, names: Mapping[str, str]) -> Device | None:
    request = attribute(_WGDEVICE_IFINDEX, struct.pack("=I", link.ifindex))
    try:
        return consistent(
            lambda: configured(link, generic.generic_dump(family, _WG_CMD_GET_DEVICE, request), names)
        )
    except OSError as exc:
        if exc.errno in (errno.ENODEV, errno.EOPNOTSUPP):  # deleted, or replaced, since it was listed
            return None
        if exc.errno in (errno.EPERM, errno.EACCES):
            raise UnsupportedError(
                f"not permitted to read the peers of {link.ifname}", "this needs root", "run it by sudo"
            ) from exc
        raise


def configured(link: Device, messages: Iterable[memoryview], names: Mapping[str, str]) -> Device:
    """`link` with what the messages of a WG_CMD_GET_DEVICE dump say.

    The kernel continues in the next message when one is full, if need be in the
    middle of a peer: it then repeats the public key, and goes on with AllowedIPs.

    Args:
        messages: Attributes of each message. Nothing of them is kept but copies
            of what `Device` and `Peer` hold.
    """
    peers: dict[str, Peer] = {}
    for message in messages:
        for kind, value in attributes(message):
            if kind == _WGDEVICE_PUBLIC_KEY and any(value):
                link = replace(link, public_key=_key(value))
            elif kind == _WGDEVICE_LISTEN_PORT:
                link = replace(link, listen_port=number(value))
            elif kind == _WGDEVICE_FWMARK:
                link = replace(link, fwmark=number(value))
            elif kind == _WGDEVICE_PEERS:
                for _, nested in attributes(value):
                    peer = _peer(nested, names)
                    if before := peers.get(peer.public_key):
                        peer = replace(before, allowed_ips=before.allowed_ips + peer.allowed_ips)
                    peers[peer.public_key] = peer
    return replace(link, peers=tuple(peers.values()))


def _peer(data: memoryview, names: Mapping[str, str]) -> Peer:
    found = dict(attributes(data))
    nothing = memoryview(b"")
    public_key = _key(found[_WGPEER_PUBLIC_KEY])
    seconds, nanoseconds = struct.unpack("=qq", found.get(_WGPEER_LAST_HANDSHAKE, bytes(16)))
    return Peer(
        public_key=public_key,
        endpoint=_endpoint(found.get(_WGPEER_ENDPOINT, nothing)),
        allowed_ips=tuple(
            _allowed_ip(value) for _, value in attributes(found.get(_WGPEER_ALLOWEDIPS, nothing))
        ),
        has_preshared_key=any(found.get(_WGPEER_PRESHARED_KEY, nothing)),
        persistent_keepalive=number(found.get(_WGPEER_KEEPALIVE, nothing)),
        latest_handshake_ns=seconds * 1_000_000_000 + nanoseconds,
        rx_bytes=number(found.get(_WGPEER_RX_BYTES, nothing)),
        tx_bytes=number(found.get(_WGPEER_TX_BYTES, nothing)),
        name=names.get(public_key),
    )


def _endpoint(sockaddr: memoryview) -> Endpoint | None:
    """`struct sockaddr_in` or `sockaddr_in6`; the scope of a link-local address is not kept."""
    if len(sockaddr) < 8:
        return None
    family, port = number(sockaddr[:2]), int.from_bytes(sockaddr[2:4], "big")
    if family == socket.AF_INET:
        return Endpoint(IPv4Address(bytes(sockaddr[4:8])), port)
    if family == socket.AF_INET6:
        return Endpoint(IPv6Address(bytes(sockaddr[8:24])), port)
    return None


def _allowed_ip(data: memoryview) -> IPNetwork:
    found = dict(attributes(data))
    network = IPv4Network if number(found[_WGALLOWEDIP_FAMILY]) == socket.AF_INET else IPv6Network
    address, length = bytes(found[_WGALLOWEDIP_IPADDR]), number(found[_WGALLOWEDIP_CIDR_MASK])
    return network((address, length), strict=False)


def _key(data: memoryview) -> str:
    return b64encode(data).decode()


def _family(generic: Netlink) -> int:
    family = generic.family(_KIND)
    if family is None:
        raise UnsupportedError(
            "this kernel has no WireGuard", "its module is not loaded, or not built", "modprobe wireguard"
        )
    return family


def _not_wireguard(name: str, all_links: list[tuple[Device, str]]) -> UsageError:
    """Why an interface of this name cannot be traced, told from all interfaces of its namespace."""
    known = ", ".join(link.ifname for link, kind in all_links if kind == _KIND) or "none"
    for link, kind in all_links:
        if link.ifname == name:
            because = f"its kind is {kind}" if kind else "it is a device of another kind"
            if kind == "tun":
                because += ", and WireGuard outside the kernel (wireguard-go, boringtun) is not seen"
            return UsageError(
                f"{name} is not a WireGuard interface", because, f"WireGuard interfaces here: {known}"
            )
    return UsageError(f"there is no interface {name}", f"WireGuard interfaces here: {known}")
