# SPDX-License-Identifier: GPL-2.0-only
"""What `wgtrace mtu` is told by its programs: events, how many, and the sizes that pass."""

from __future__ import annotations

import base64
import ctypes
from dataclasses import dataclass
from typing import Final

from wgtrace.errors import UndecodableRecordError
from wgtrace.events.types import DeviceRef, Endpoint, Flow, IPAddress, PeerRef
from wgtrace.events.wire import (
    EndpointKeyWire,
    EndpointWire,
    EventKind,
    MtuCode,
    MtuOf,
    SizesWire,
    TotalKeyWire,
)

_IDS: Final = {
    MtuCode.OUTER_FRAGMENTED: "outer_fragmented_tx",
    MtuCode.INNER_FRAGMENTED: "inner_fragmented",
    MtuCode.TOO_BIG_RECEIVED: "outer_frag_needed_received",
    MtuCode.TOO_BIG_LOST: "too_big_lost",
    MtuCode.PATH_MTU_CHANGED: "path_mtu_changed",
    MtuCode.SENDER_REFUSED: "inner_local_emsgsize",
    MtuCode.DATAGRAM_LOST: "outer_dev_mtu_drop",
    MtuCode.PADDING_BEYOND_MTU: "padding_beyond_mtu",
}
# Who frees fragments that waited in vain; since Linux 6.7 there is a reason of its own.
_EXPIRED: Final = ("ip_expire", "ip6_frag_expire", "ip6frag_expire", "nf_ct_frag6_expire", "inet_frag_")
_REASSEMBLY: Final = ("ip_defrag", "ip_frag_", "ipv6_frag_rcv", "ip6_frag_queue", "nf_ct_frag6_gather")


@dataclass(frozen=True, slots=True)
class MtuEvent:
    """`struct wgt_mtu_event`.

    Attributes:
        ts_ns: CLOCK_BOOTTIME.
        device: `ifname` is "" of `SENDER_REFUSED`: which interface is found out later.
        is_inner: It is about the plain packet, else about the datagram.
        inner: The plain packet, where it is known; of a datagram it is not.
        where: Function that dropped it.
        kernel_reason: Why, if the kernel says so.
        ifname: Device that the packet was at, or was routed to.
        netns: Inode of the namespace of that.
        mtu: That it had to fit, or that was told, 0: not known.
        size: Of the IP packet in bytes, 0: not known.
        origin: Who told.
    """

    ts_ns: int
    code: MtuCode
    device: DeviceRef
    is_inner: bool
    outgoing: bool
    peer: PeerRef | None = None
    inner: Flow | None = None
    outer: Flow | None = None
    where: str = ""
    kernel_reason: str | None = None
    ifname: str = ""
    netns: int = 0
    mtu: int = 0
    mtu_of: MtuOf = MtuOf.UNKNOWN
    size: int = 0
    origin: IPAddress | None = None

    @property
    def id(self) -> str:
        """As it is called in outputs."""
        if self.code is MtuCode.TOO_BIG_SENT:
            return f"inner_too_big_v{self.inner.family if self.inner else 4}"
        if self.code is MtuCode.FRAGMENT_LOST:
            if self.is_expired:
                return "outer_reasm_timeout"
            is_refused = self.where.startswith(_REASSEMBLY)
            return "outer_reasm_dropped" if is_refused else "outer_fragment_lost"
        return _IDS[self.code]

    @property
    def is_expired(self) -> bool:
        """Of a fragment: it waited for the others in vain."""
        return self.kernel_reason == "FRAG_REASM_TIMEOUT" or self.where.startswith(_EXPIRED)

    @property
    def flow(self) -> Flow | None:
        """Of the packet that it is about."""
        return self.inner if self.is_inner else self.outer


EVENT_IDS: Final = (
    *_IDS.values(),
    *("inner_too_big_v4", "inner_too_big_v6"),
    *("outer_reasm_timeout", "outer_reasm_dropped", "outer_fragment_lost"),
)
"""Every id that an event may have."""


@dataclass(frozen=True, slots=True)
class MtuTotal:
    """One exact total from the kernel: how often since the start.

    Attributes:
        public_key: Of the peer, None where it is not known.
    """

    ifname: str
    netns: int
    code: MtuCode
    outgoing: bool
    public_key: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """`struct wgt_sizes`: of a peer's inner packets, in bytes; 0: none.

    Attributes:
        sent: The largest that went out.
        passed: The largest that went out and was answered: by an acknowledgement of TCP, or an echo.
        failed: The smallest that was tried and not answered, and is larger than those.
        failures: How often in a row.
        received: The largest that came in.
        first_failed_ns: Since when there was no answer to `failed`, CLOCK_BOOTTIME.
        heard_ns: When the peer's side last answered something while one was waited for.
    """

    device: DeviceRef
    public_key: str
    sent: int = 0
    passed: int = 0
    failed: int = 0
    failures: int = 0
    received: int = 0
    first_failed_ns: int = 0
    failed_ns: int = 0
    heard_ns: int = 0


def _text(raw: ctypes.Array[ctypes.c_uint8]) -> str:
    return bytes(raw).split(b"\0", 1)[0].decode("utf-8", "replace")


def sizes(value: bytes) -> Sizes | None:
    """A value of the map `sizes`; None if it was only just made.

    Raises:
        UndecodableRecordError: It is none.
    """
    if len(value) != ctypes.sizeof(SizesWire):
        raise UndecodableRecordError(f"{len(value)} bytes are no sizes")
    wire = SizesWire.from_buffer_copy(value)
    if not wire.device.ifindex:
        return None
    return Sizes(
        DeviceRef(_text(wire.device.ifname), wire.device.netns, wire.device.ifindex),
        base64.b64encode(bytes(wire.public_key)).decode(),
        *(wire.sent, wire.passed, wire.failed, wire.failures, wire.received),
        *(wire.first_failed_ns, wire.failed_ns, wire.heard_ns),
    )


def mtu_total(key: bytes, count: int) -> MtuTotal:
    """An entry of the map `totals`.

    Raises:
        UndecodableRecordError: It is none of `wgtrace mtu`.
    """
    try:
        wire = TotalKeyWire.from_buffer_copy(key)
        if wire.kind != EventKind.MTU:
            raise ValueError(f"kind {wire.kind}")
        public_key = base64.b64encode(bytes(wire.public_key)).decode() if wire.peer_known else None
        code = MtuCode(wire.code)
    except ValueError as exc:
        raise UndecodableRecordError(f"a key of {len(key)} bytes is no total", str(exc)) from exc
    return MtuTotal(_text(wire.ifname), wire.netns, code, bool(wire.outgoing), public_key, count)


def endpoint_entry(netns: int, device: DeviceRef, public_key: str, endpoint: Endpoint) -> tuple[bytes, bytes]:
    """(key, value) for the map `endpoints`.

    Args:
        netns: Where the interface's UDP socket is.
    """
    addr, raw = endpoint.addr, endpoint.addr.packed
    key = EndpointKeyWire(netns=netns, family=addr.version)
    value = EndpointWire()
    key.addr[: len(raw)] = list(raw)
    name = device.ifname.encode()[: len(value.device.ifname) - 1]
    value.device.ifname[: len(name)] = list(name)
    value.device.netns, value.device.ifindex = device.netns, device.ifindex
    value.peer.public_key[:] = list(base64.b64decode(public_key))
    value.peer.endpoint_addr[: len(raw)] = list(raw)
    value.peer.endpoint_port, value.peer.endpoint_family = endpoint.port, addr.version
    value.peer.known = 1
    return bytes(key), bytes(value)
