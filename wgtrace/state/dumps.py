# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel dumps by netlink(7), read by pyroute2 and turned into our own types.

A WireGuard dump carries private and preshared keys. The kernel writes it into a buffer
of ours, where they are overwritten before anything else looks at it: Python and pyroute2
make copies that nobody wipes. No message of pyroute2's leaves this module all the same,
nor what may hold one: its exceptions, and frames that a traceback keeps.

Import this late: pyroute2 loads all of itself, which takes a sixth of a second.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

from pyroute2.iproute import IPRoute
from pyroute2.netlink import (
    CTRL_CMD_GETFAMILY,
    GENL_ID_CTRL,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    ctrlmsg,
)
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket
from pyroute2.netlink.generic.wireguard import WG_CMD_GET_DEVICE, WG_GENL_NAME, wgmsg
from pyroute2.netlink.rtnl import RTM_GETLINK
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from wgtrace.errors import StateError
from wgtrace.events.types import Endpoint
from wgtrace.state.types import Device, Peer

_Result = TypeVar("_Result")

_DUMP = NLM_F_REQUEST | NLM_F_DUMP
_MOST_TRIES = 10
_NO_KEY = b"A" * 43 + b"="  # 32 zeros in base64
_NETLINK_GENERIC = 16
_BUFFER_BYTES = 1 << 16  # the kernel fills at most half of it at once

# linux/netlink.h, linux/genetlink.h, linux/wireguard.h
_NLMSGHDR, _GENLMSGHDR, _NLATTR = struct.Struct("=IHHII"), struct.Struct("=BBH"), struct.Struct("=HH")
_NLA_TYPE_MASK = 0x3FFF
_WGDEVICE_A_IFINDEX, _WGDEVICE_A_PRIVATE_KEY, _WGDEVICE_A_PEERS, _WGPEER_A_PRESHARED_KEY = 1, 3, 8, 2

# pyroute2 logs messages, keys and all, and tracebacks.
logging.getLogger("pyroute2").setLevel(logging.CRITICAL + 1)


def links(netns: int, kind: str = "") -> list[tuple[Device, str]]:
    """Interfaces of the calling thread's network namespace, as devices without peers, with their kinds.

    Args:
        netns: Inode of the namespace.
        kind: Only those of this kind; "" is all, and the kind of one that has none.

    Raises:
        OSError: The kernel's answer.
        StateError: They change all the time.
    """
    return told(lambda: _links(netns, kind))


def wireguard(link: Device, names: Mapping[str, str]) -> Device:
    """`link`, an interface of the calling thread's network namespace, with its peers.

    Args:
        names: Names of peers by public key.

    Raises:
        OSError: The kernel's answer, ENODEV: it is gone.
        StateError: It changes all the time.
    """
    return told(lambda: _wireguard(link, names))


def has_wireguard() -> bool:
    """Whether this kernel knows WireGuard; it tries to load its module."""
    try:
        return told(_family) > 0
    except FileNotFoundError:
        return False


def told(read: Callable[[], _Result]) -> _Result:
    """What `read` makes of a dump, asked for again if something changed meanwhile.

    Raises:
        OSError: The kernel's answer.
        StateError: Every try was interrupted, or pyroute2 does not understand the kernel.
    """
    for _ in range(_MOST_TRIES):
        result = _tried(read)
        if not isinstance(result, BaseException):
            return result
        if not isinstance(result, InterruptedError):
            raise result
    raise StateError("the configuration changes faster than it can be read", f"{_MOST_TRIES} tries failed")


def _tried(read: Callable[[], _Result]) -> _Result | BaseException:
    """What `read` returns, or an error to be raised anew: frames that it came through have messages."""
    try:
        return read()
    except NetlinkDumpInterrupted:
        return InterruptedError()
    except NetlinkError as exc:
        return OSError(exc.code, os.strerror(exc.code))
    except OSError as exc:
        return OSError(exc.errno, exc.strerror)
    except Exception as exc:  # noqa: BLE001 - decoders raise anything
        where = traceback.extract_tb(exc.__traceback__)[-1]
        at = f"{os.path.basename(where.filename)}:{where.lineno}"
        return StateError("the kernel's answer was not understood", f"{type(exc).__name__} at {at}")
    except BaseException as exc:  # noqa: BLE001 - Ctrl-C, raised again by the caller
        exc.__context__ = None
        return exc.with_traceback(None)


def _complete(dump: Iterable[Any]) -> list[Any]:
    """The messages of a dump that no change interrupted. pyroute2 0.9 leaves this to its caller."""
    messages = list(dump)
    if any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages):
        raise NetlinkDumpInterrupted
    return messages


def _links(netns: int, kind: str) -> list[tuple[Device, str]]:
    # link("dump", kind=...) would have the kernel send all interfaces, and decode them, to choose then.
    with IPRoute() as route:
        messages = _complete(route.link((RTM_GETLINK, _DUMP), **({"kind": kind} if kind else {})))
    found = [link(message, netns) for message in messages]
    # A kernel that does not know the kind (no module) sends all.
    return sorted((pair for pair in found if kind in ("", pair[1])), key=lambda pair: pair[0].ifindex)


def link(message: Any, netns: int) -> tuple[Device, str]:
    """An `ifinfmsg` as a device without peers, and its kind or ""."""
    name, info = message.get_attr("IFLA_IFNAME"), message.get_attr("IFLA_LINKINFO")
    device = Device(
        ifname=name if isinstance(name, str) else name.decode(errors="replace"),  # bytes: no UTF-8
        ifindex=message["index"],
        netns=netns,
        is_up=bool(message["flags"] & IFF_UP),
        has_carrier=bool(message.get_attr("IFLA_CARRIER", 1)),
        mtu=message.get_attr("IFLA_MTU"),
        counters=dict(message.get_attr("IFLA_STATS64", {})),
    )
    return device, info.get_attr("IFLA_INFO_KIND", "") if info else ""


def _family() -> int:
    """Number of WireGuard's family. `generic.bind()` would ask too, but log to stderr if there is none."""
    with GenericNetlinkSocket() as generic:
        generic.register_policy(GENL_ID_CTRL, ctrlmsg)
        request = ctrlmsg()
        request["cmd"], request["version"] = CTRL_CMD_GETFAMILY, 1
        request["attrs"].append(("CTRL_ATTR_FAMILY_NAME", WG_GENL_NAME))
        (answer,) = generic.nlm_request(request, msg_type=GENL_ID_CTRL, msg_flags=NLM_F_REQUEST)
        return int(answer.get_attr("CTRL_ATTR_FAMILY_ID"))


def _wireguard(link: Device, names: Mapping[str, str]) -> Device:
    return configured(link, _complete(_dumped(_family(), link.ifindex)), names)


def _dumped(family: int, ifindex: int) -> Iterator[Any]:
    """The `wgmsg`s of an interface's dump, without the keys that are secret."""
    for message in _answered(family, ifindex):
        without_secrets(message)
        decoded = wgmsg(bytes(message))
        decoded.decode()
        yield decoded


def _answered(family: int, ifindex: int) -> Iterator[memoryview]:
    """The messages of an interface's dump, in a buffer that is wiped in the end: with all keys."""
    wanted = _NLATTR.pack(8, _WGDEVICE_A_IFINDEX) + struct.pack("=I", ifindex)
    body = _GENLMSGHDR.pack(WG_CMD_GET_DEVICE, 1, 0) + wanted
    request = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), family, _DUMP, 0, 0) + body
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as kernel:
            kernel.send(request)
            while True:
                for kind, message in _messages(buffer[: kernel.recv_into(buffer)]):
                    if kind in (NLMSG_DONE, NLMSG_ERROR):
                        (code,) = struct.unpack_from("=i", message, _NLMSGHDR.size)
                        if code:
                            raise OSError(-code, os.strerror(-code))
                        return
                    yield message
    finally:  # what was not overwritten, or what an error left in it
        buffer[:] = bytes(len(buffer))


def secret_keys(ifindex: int) -> list[bytearray]:
    """The private and preshared keys of an interface of the calling thread's network namespace.

    For a search in what is about to be handed out, and for nothing else: the caller wipes them.

    Raises:
        OSError: The kernel's answer, ENODEV: it is gone.
        StateError: It changes all the time.
    """

    def read() -> list[bytearray]:
        return [key for message in _answered(_family(), ifindex) for key in _secrets(message) if any(key)]

    return told(read)


def _secrets(message: memoryview) -> Iterator[bytearray]:
    for kind, value in _attributes(message[_NLMSGHDR.size + _GENLMSGHDR.size :]):
        if kind == _WGDEVICE_A_PRIVATE_KEY:
            yield bytearray(value)
        for _, peer in _attributes(value) if kind == _WGDEVICE_A_PEERS else ():
            yield from (
                bytearray(key) for of_peer, key in _attributes(peer) if of_peer == _WGPEER_A_PRESHARED_KEY
            )


def _messages(answer: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and bytes of each message in what the kernel sent at once."""
    while len(answer) >= _NLMSGHDR.size:
        length, kind, _flags, _sequence, _port = _NLMSGHDR.unpack_from(answer)
        yield kind, answer[:length]
        answer = answer[(max(length, _NLMSGHDR.size) + 3) & ~3 :]


def _attributes(nest: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and value of each attribute in a row of them."""
    while len(nest) >= _NLATTR.size:
        length, kind = _NLATTR.unpack_from(nest)
        yield kind & _NLA_TYPE_MASK, nest[_NLATTR.size : length]
        nest = nest[(max(length, _NLATTR.size) + 3) & ~3 :]


def without_secrets(message: memoryview) -> None:
    """Overwrite the private and preshared keys of a `wgmsg` where they are.

    Of a preshared key it stays to be seen whether there is one: it becomes 32 times 1.
    """
    for kind, value in _attributes(message[_NLMSGHDR.size + _GENLMSGHDR.size :]):
        if kind == _WGDEVICE_A_PRIVATE_KEY:
            value[:] = bytes(len(value))
        for _, peer in _attributes(value) if kind == _WGDEVICE_A_PEERS else ():
            for of_peer, key in _attributes(peer):
                if of_peer == _WGPEER_A_PRESHARED_KEY and any(key):
                    key[:] = b"\x01" * len(key)


def configured(link: Device, messages: Iterable[Any], names: Mapping[str, str]) -> Device:
    """`link` with what the `wgmsg`s of its dump say; WGDEVICE_A_PRIVATE_KEY is never asked for.

    The kernel continues in the next message when one is full, if need be in the
    middle of a peer: it then repeats the public key, and goes on with AllowedIPs.
    """
    peers: dict[str, Peer] = {}
    for message in messages:
        public_key = message.get_attr("WGDEVICE_A_PUBLIC_KEY", _NO_KEY)
        if public_key != _NO_KEY:
            link = replace(link, public_key=public_key.decode())
        link = replace(
            link,
            listen_port=message.get_attr("WGDEVICE_A_LISTEN_PORT", link.listen_port),
            fwmark=message.get_attr("WGDEVICE_A_FWMARK", link.fwmark),
        )
        for nested in message.get_attr("WGDEVICE_A_PEERS", ()):
            peer = _peer(nested, names)
            if before := peers.get(peer.public_key):
                peer = replace(before, allowed_ips=before.allowed_ips + peer.allowed_ips)
            peers[peer.public_key] = peer
    return replace(link, peers=tuple(peers.values()))


def _peer(nested: Any, names: Mapping[str, str]) -> Peer:
    public_key = nested.get_attr("WGPEER_A_PUBLIC_KEY").decode()
    endpoint = nested.get_attr("WGPEER_A_ENDPOINT")
    handshake = nested.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 0, "tv_nsec": 0})
    return Peer(
        public_key=public_key,
        # The scope of a link-local address is not kept.
        endpoint=Endpoint(ip_address(endpoint["addr"]), endpoint["port"]) if endpoint else None,
        allowed_ips=tuple(
            ip_network(allowed["addr"], strict=False)
            for allowed in nested.get_attr("WGPEER_A_ALLOWEDIPS", ())
        ),
        has_preshared_key=nested.get_attr("WGPEER_A_PRESHARED_KEY", _NO_KEY) != _NO_KEY,
        persistent_keepalive=nested.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", 0),
        latest_handshake_ns=handshake["tv_sec"] * 1_000_000_000 + handshake["tv_nsec"],
        rx_bytes=nested.get_attr("WGPEER_A_RX_BYTES", 0),
        tx_bytes=nested.get_attr("WGPEER_A_TX_BYTES", 0),
        name=names.get(public_key),
    )
