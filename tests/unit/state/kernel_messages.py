# SPDX-License-Identifier: GPL-2.0-only
"""Netlink messages as the kernel writes them, for tests of what reads them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Network, ip_network

NESTED = 0x8000
MULTI, DUMP_INTERRUPTED = 0x2, 0x10


def message(kind: int, payload: bytes, flags: int = MULTI) -> bytes:
    """`struct nlmsghdr` and what follows it."""
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 255, 4711) + payload


def generic(kind: int, payload: bytes, flags: int = MULTI) -> bytes:
    """A message of a generic netlink family, command 0, version 1."""
    return message(kind, struct.pack("=BBH", 0, 1, 0) + payload, flags)


def attribute(kind: int, value: bytes) -> bytes:
    """One `struct nlattr` with its padding."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def u16(value: int) -> bytes:
    """A number in the host's byte order."""
    return struct.pack("=H", value)


def u32(value: int) -> bytes:
    """A number in the host's byte order."""
    return struct.pack("=I", value)


def u64(value: int) -> bytes:
    """A number in the host's byte order."""
    return struct.pack("=Q", value)


def nest(kind: int, items: Iterable[bytes]) -> bytes:
    """An attribute that holds an array of nested ones."""
    return attribute(kind | NESTED, b"".join(attribute(NESTED, item) for item in items))


def sockaddr(addr: str, port: int) -> bytes:
    """`struct sockaddr_in` or `sockaddr_in6`."""
    if ":" in addr:
        packed = socket.inet_pton(socket.AF_INET6, addr)
        return u16(socket.AF_INET6) + port.to_bytes(2, "big") + bytes(4) + packed + bytes(4)
    return u16(socket.AF_INET) + port.to_bytes(2, "big") + socket.inet_aton(addr) + bytes(8)


def allowed_ip(text: str) -> bytes:
    """Attributes of one AllowedIPs entry."""
    network = ip_network(text)
    family = socket.AF_INET if isinstance(network, IPv4Network) else socket.AF_INET6
    address = attribute(2, network.network_address.packed)
    return attribute(1, u16(family)) + address + attribute(3, bytes([network.prefixlen]))


def peer_part(public_key: bytes, allowed_ips: Iterable[str]) -> bytes:
    """What the kernel writes of a peer in the message after the one that it did not fit in."""
    return attribute(1, public_key) + nest(9, map(allowed_ip, allowed_ips))


def peer(
    public_key: bytes,
    allowed_ips: Iterable[str] = (),
    preshared_key: bytes = bytes(32),
    endpoint: tuple[str, int] | None = None,
    handshake: tuple[int, int] = (0, 0),
) -> bytes:
    """Attributes of one peer, in the kernel's order."""
    return b"".join(
        (
            attribute(1, public_key),
            attribute(2, preshared_key),
            attribute(6, struct.pack("=qq", *handshake)),
            attribute(5, u16(25)),
            attribute(8, u64(2**40 + 7)),
            attribute(7, u64(2**33 + 1)),
            attribute(10, u32(1)),
            attribute(4, sockaddr(*endpoint)) if endpoint else b"",
            nest(9, map(allowed_ip, allowed_ips)),
        )
    )


def device(private_key: bytes, public_key: bytes, peers: Iterable[bytes]) -> bytes:
    """Attributes of the first message of a device's dump."""
    return b"".join(
        (
            attribute(6, u16(51820)),
            attribute(7, u32(0xCA6C)),
            attribute(1, u32(7)),
            attribute(2, b"wg0\0"),
            attribute(3, private_key) + attribute(4, public_key) if private_key else b"",
            nest(8, peers),
        )
    )


def more(peers: Iterable[bytes]) -> bytes:
    """Attributes of a further message of it."""
    return nest(8, peers)


def link(
    ifname: bytes, ifindex: int, kind: str, flags: int = 1, counters: int = 25, carrier: int | None = None
) -> bytes:
    """An RTM_NEWLINK message; each counter is 100 and its place among them."""
    return message(
        16,
        b"".join(
            (
                struct.pack("=BBHiII", 0, 0, 65534, ifindex, flags, 0),
                attribute(3, ifname + b"\0"),
                attribute(4, u32(1420)),
                b"" if carrier is None else attribute(33, bytes([carrier])),
                attribute(23, b"".join(u64(100 + place) for place in range(counters))),
                attribute(18 | NESTED, attribute(1, kind.encode() + b"\0")) if kind else b"",
            )
        ),
    )
