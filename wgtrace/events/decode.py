# SPDX-License-Identifier: GPL-2.0-only
"""Bytes from the kernel into events and totals. Refuses, never guesses."""

from __future__ import annotations

import base64
import ctypes
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from wgtrace.errors import UndecodableRecordError
from wgtrace.events.invariants import Invariant
from wgtrace.events.mtu import MtuEvent
from wgtrace.events.reasons import Direction, HandshakeCode, KernelReason, Reason, SubReason
from wgtrace.events.types import (
    ConfigEvent,
    DeviceRef,
    DropEvent,
    DropTotal,
    Endpoint,
    Event,
    Flow,
    HandshakeEvent,
    HandshakeTimes,
    HandshakeTotal,
    InvariantEvent,
    InvariantTotal,
    IPAddress,
    NftPlace,
    Packet,
    PacketEvent,
    PathEvent,
    PathTotal,
    PeerRef,
    Tai64n,
)
from wgtrace.events.wire import (
    RECORDS,
    ConfigEventWire,
    DeviceWire,
    DropEventWire,
    EventHeader,
    EventKind,
    FlowWire,
    HandshakeEventWire,
    HandshakeTimeKeyWire,
    HandshakeTimeWire,
    Hook,
    InvariantEventWire,
    Layer,
    MtuCode,
    MtuEventWire,
    MtuOf,
    PacketEventWire,
    PacketWay,
    PathEventWire,
    PeerWire,
    RuleFound,
    TotalKeyWire,
    layout,
    unpacker,
)

# TAI64 counts from 2^62; WireGuard's clock adds 10 leap seconds (tai64n_now() in noise.c).
_TAI64_EPOCH = (1 << 62) + 10


_HEADER = layout(EventHeader).unpack_from
_PATH = unpacker(PathEventWire)
_DROP, _DROP_LEN = unpacker(DropEventWire), ctypes.sizeof(DropEventWire)
_HANDSHAKE = unpacker(HandshakeEventWire)
_CONFIG = unpacker(ConfigEventWire)
_PACKET = unpacker(PacketEventWire)
_INVARIANT = unpacker(InvariantEventWire)
_MTU = unpacker(MtuEventWire)
_TOTAL_KEY = unpacker(TotalKeyWire)
_TIME_KEY, _TIME = unpacker(HandshakeTimeKeyWire), unpacker(HandshakeTimeWire)
_DEVICE = unpacker(DeviceWire)
_FLOW = unpacker(FlowWire)
_PEER = unpacker(PeerWire)

_NO_KEY, _NO_TIME, _NO_ADDRESS = bytes(32), bytes(12), bytes(16)

# How many flows, peers and addresses are kept decoded: a flood repeats them.
_KEPT = 4096

# Quicker to look a number up in than to ask the enum.
_REASONS: Final = {int(reason): reason for reason in Reason}
_SUB_REASONS: Final = {int(sub_reason): sub_reason for sub_reason in SubReason}
_A_DROP, _A_HANDSHAKE, _A_CONFIG = (
    int(kind) for kind in (EventKind.DROP, EventKind.HANDSHAKE, EventKind.CONFIG)
)
_A_PATH, _A_PACKET, _AN_INVARIANT = (
    int(kind) for kind in (EventKind.PATH, EventKind.PACKET, EventKind.INVARIANT)
)
# Not dropped yet, and NOT_SPECIFIED (2 since SKB_CONSUMED): no reason.
_NO_REASON: Final = (None, "NOT_SPECIFIED", "NOT_DROPPED_YET")


def _place(field: Any) -> slice:
    """Where a field of a wire class is; ctypes has no type for what this takes."""
    return slice(field.offset, field.offset + field.size)


_HEADER_SIZE: Final = ctypes.sizeof(EventHeader)
_NOWHERE: Final = slice(0)
_KIND_AT: Final = _place(EventHeader.kind)
_REASON_AT: Final = _place(DropEventWire.reason)
_DEVICE_AT: Final[dict[int, slice]] = {
    kind: _place(wire.device) for kind, wire in RECORDS.items() if hasattr(wire, "device")
}


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


@lru_cache(_KEPT)
def _key(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@lru_cache(_KEPT)
def _address(raw: bytes, family: int) -> IPAddress:
    return IPv4Address(raw[:4]) if family == 4 else IPv6Address(raw)


@lru_cache(_KEPT)
def _flow(raw: bytes) -> Flow | None:
    wire = _FLOW(raw)
    if wire.family not in (4, 6):
        return None
    return Flow(
        _address(wire.saddr, wire.family),
        _address(wire.daddr, wire.family),
        wire.proto,
        wire.sport,
        wire.dport,
        wire.len,
    )


@lru_cache(_KEPT)
def _device(raw: bytes) -> DeviceRef:
    wire = _DEVICE(raw)
    return DeviceRef(_text(wire.ifname), wire.netns, wire.ifindex)


@lru_cache(_KEPT)
def _peer(raw: bytes) -> PeerRef | None:
    wire = _PEER(raw)
    if not wire.known:
        return None
    endpoint = None
    if wire.endpoint_family in (4, 6):
        address = _address(wire.endpoint_addr, wire.endpoint_family)
        endpoint = Endpoint(address, wire.endpoint_port)
    return PeerRef(_key(wire.public_key), endpoint)


def _tai64n(raw: bytes) -> Tai64n | None:
    if raw == _NO_TIME:
        return None
    seconds, nanoseconds = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")
    return Tai64n((seconds - _TAI64_EPOCH) * 1_000_000_000 + nanoseconds)


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes what one run's programs hand over.

    Attributes:
        describe: Text for a kernel address, such as `wg_xmit+0x83`.
        kernel_reasons: `enum skb_drop_reason` of this kernel, without its prefix.
    """

    describe: Callable[[int], str] = hex
    kernel_reasons: Mapping[int, str] = field(default_factory=dict)

    def event(self, record: bytes) -> Event:
        """Decode one ring-buffer record.

        Raises:
            UndecodableRecordError: It is no event of this ABI.
        """
        try:
            ts_ns, _cpu, kind, length = _HEADER(record)
            if length > len(record):
                raise ValueError(f"the header says {length}")
            if kind == _A_DROP:
                return self._drop(ts_ns, _DROP(record), record)
            if kind == _A_PATH:
                return self._path(ts_ns, _PATH(record))
            if kind == _A_HANDSHAKE:
                return _handshake(ts_ns, _HANDSHAKE(record))
            if kind == _A_CONFIG:
                return _config(ts_ns, _CONFIG(record))
            if kind == _A_PACKET:
                return _data_message(ts_ns, _PACKET(record))
            if kind == _AN_INVARIANT:
                return self._invariant(ts_ns, _INVARIANT(record))
            raise ValueError(f"{kind} is no kind of event")
        except (ValueError, KeyError, struct.error) as exc:
            raise UndecodableRecordError(f"a record of {len(record)} bytes is no event", str(exc)) from exc

    def mtu_event(self, record: bytes) -> MtuEvent:
        """Decode one record of `wgtrace mtu`, which has no others.

        Raises:
            UndecodableRecordError: It is none.
        """
        try:
            ts_ns, _cpu, kind, length = _HEADER(record)
            if kind != EventKind.MTU or length > len(record):
                raise ValueError(f"kind {kind}, the header says {length}")
            return self._mtu(ts_ns, _MTU(record))
        except (ValueError, KeyError, struct.error) as exc:
            raise UndecodableRecordError(f"a record of {len(record)} bytes is no event", str(exc)) from exc

    def _mtu(self, ts_ns: int, wire: Any) -> MtuEvent:
        inner, outer = _flow(wire.inner), _flow(wire.outer)
        reason = self.kernel_reasons.get(wire.kernel_reason)
        origin = _address(wire.origin, outer.family) if outer and wire.origin != _NO_ADDRESS else None
        return MtuEvent(
            ts_ns=ts_ns,
            code=MtuCode(wire.code),
            device=_device(wire.device),
            is_inner=Layer(wire.layer) is Layer.INNER,
            outgoing=bool(wire.outgoing),
            peer=_peer(wire.peer),
            inner=inner,
            outer=outer,
            where=self.describe(wire.location) if wire.location else "",
            kernel_reason=None if reason in _NO_REASON else reason,
            ifname=_text(wire.ifname),
            netns=wire.netns,
            mtu=wire.mtu,
            mtu_of=MtuOf(wire.of),
            size=wire.size,
            origin=origin,
        )

    def _drop(self, ts_ns: int, wire: Any, record: bytes) -> DropEvent:
        reason = _REASONS[wire.reason]
        if wire.captured_len > len(record) - _DROP_LEN:
            raise ValueError(f"{wire.captured_len} bytes of a packet in {len(record) - _DROP_LEN}")
        kernel_reason = self.kernel_reasons.get(wire.kernel_reason)
        other = _key(wire.other_key) if wire.other_key != _NO_KEY else None
        # By place: 25 keywords cost a microsecond. In the order of DropEvent.
        return DropEvent(
            ts_ns,
            _device(wire.device),
            reason,
            _SUB_REASONS[wire.sub_reason],
            _peer(wire.peer),
            _flow(wire.inner),
            _flow(wire.outer),
            self.describe(wire.location) if wire.location else "",
            None if kernel_reason in _NO_REASON else kernel_reason,
            wire.nonce,
            wire.max_nonce,
            wire.session_age_ns,
            wire.receiver_index,
            wire.sender_index,
            wire.queue_len,
            -wire.err,
            wire.message_type,
            other if reason is Reason.SRC_NOT_ALLOWED else None,
            other if reason is Reason.UNKNOWN_PEER_PUBKEY else None,
            None if wire.timestamp == _NO_TIME else _tai64n(wire.timestamp),
            None if wire.latest_timestamp == _NO_TIME else _tai64n(wire.latest_timestamp),
            wire.payload[: wire.payload_len],
            wire.payload_len,
            _packet(wire, record[_DROP_LEN:]) if wire.packet_len else None,
            bool(wire.matched),
        )

    def _path(self, ts_ns: int, wire: Any) -> PathEvent:
        found, nft = RuleFound(wire.rule), None
        if found is RuleFound.EXACT:
            names = _text(wire.table), _text(wire.chain)
            nft = NftPlace(wire.table_family, names[0], wire.table_handle, names[1], wire.rule_handle)
        return PathEvent(
            ts_ns=ts_ns,
            device=_device(wire.device),
            reason=kernel_reason(self.kernel_reasons, wire.kernel_reason, bool(wire.outgoing)),
            is_inner=Layer(wire.layer) is Layer.INNER,
            peer=_peer(wire.peer),
            inner=_flow(wire.inner),
            outer=_flow(wire.outer),
            where=self.describe(wire.location) if wire.location else "",
            hook=Hook(wire.hook),
            found=found,
            nft=nft,
            ifname=_text(wire.ifname),
            netns=wire.netns,
            mark=wire.mark,
            receiver_index=wire.receiver_index,
            message_type=wire.message_type,
            matched=bool(wire.matched),
        )

    def _invariant(self, ts_ns: int, wire: Any) -> InvariantEvent:
        addresses = struct.unpack(f"={len(wire.stack) // 8}Q", wire.stack)
        return InvariantEvent(
            ts_ns=ts_ns,
            device=_device(wire.device),
            invariant=Invariant(wire.code),
            peer=_peer(wire.peer),
            expected=wire.expected,
            found=wire.found,
            inner=_flow(wire.inner),
            length=wire.len,
            stack=tuple(self.describe(address) for address in addresses if address),
        )


def kernel_reason(names: Mapping[int, str], number: int, is_outgoing: bool) -> KernelReason:
    """A reason of the kernel; its number where it has no name."""
    direction = Direction.TX if is_outgoing else Direction.RX
    return KernelReason(names.get(number, f"reason_{number}").lower(), direction)


def _packet(wire: Any, captured: bytes) -> Packet:
    data = captured[: wire.captured_len]
    return Packet(wire.captured_layer == Layer.INNER, wire.packet_len, data)


def kind_of(record: bytes) -> int:
    """The number of a record's kind, 0 if it is too short to have one."""
    return int.from_bytes(record[_KIND_AT], sys.byteorder) if len(record) >= _HEADER_SIZE else 0


def device_of(record: bytes) -> tuple[str, int] | None:
    """Name and namespace of the interface of a record, without decoding the rest of it.

    None: it belongs to none, or its kind is not known.
    """
    raw = record[_DEVICE_AT.get(kind_of(record), _NOWHERE)]
    if len(raw) < ctypes.sizeof(DeviceWire):
        return None
    device = _device(raw)
    return device.ifname, device.netns


def reason_of(record: bytes) -> int:
    """The number of the reason of a drop's record, 0 if it is none."""
    raw = record[_REASON_AT] if kind_of(record) == EventKind.DROP else b""
    return int.from_bytes(raw, sys.byteorder)


def _handshake(ts_ns: int, wire: Any) -> HandshakeEvent:
    peer, code, inner = _peer(wire.peer), HandshakeCode(wire.code), _flow(wire.inner)
    is_icmp = code is HandshakeCode.ICMP_ERROR
    source = None
    if wire.source != _NO_ADDRESS:
        beside = inner.saddr if is_icmp and inner else peer.endpoint.addr if peer and peer.endpoint else None
        source = _address(wire.source, beside.version) if beside else None
    return HandshakeEvent(
        ts_ns=ts_ns,
        device=_device(wire.device),
        code=code,
        peer=peer,
        sender_index=wire.sender_index,
        receiver_index=wire.receiver_index,
        attempt=wire.attempt,
        message_ns=wire.message_ns,
        sub_reason=SubReason(wire.sub_reason),
        latency_ns=wire.latency_ns,
        session_age_ns=wire.session_age_ns,
        inner=inner,
        source=source,
        out_ifname=_text(wire.out_ifname),
        queue_len=wire.queue_len,
        icmp=(wire.icmp_type, wire.icmp_code) if is_icmp else None,
        message_type=wire.message_type,
    )


def _data_message(ts_ns: int, wire: Any) -> PacketEvent:
    return PacketEvent(
        ts_ns=ts_ns,
        device=_device(wire.device),
        way=PacketWay(wire.way),
        receiver_index=wire.receiver_index,
        nonce=wire.nonce,
        length=wire.len,
        peer=_peer(wire.peer),
        outer=_flow(wire.outer),
    )


def _config(ts_ns: int, wire: Any) -> ConfigEvent:
    return ConfigEvent(ts_ns, wire.pid, _text(wire.comm))


def total(
    key: bytes, count: int, kernel_reasons: Mapping[int, str] | None = None
) -> DropTotal | PathTotal | HandshakeTotal | InvariantTotal:
    """Decode one entry of the map `totals`.

    Args:
        kernel_reasons: As in `Decoder`.

    Raises:
        UndecodableRecordError: The key is none of this ABI.
    """
    try:
        wire = _TOTAL_KEY(key)
        public_key = _key(wire.public_key) if wire.peer_known else None
        ifname = _text(wire.ifname)
        if EventKind(wire.kind) is EventKind.DROP:
            reason, sub_reason = Reason(wire.code), SubReason(wire.sub_reason)
            return DropTotal(ifname, wire.netns, reason, sub_reason, public_key, count, bool(wire.matched))
        if EventKind(wire.kind) is EventKind.PATH:
            return PathTotal(
                ifname,
                wire.netns,
                kernel_reason(kernel_reasons or {}, wire.subsystem << 16 | wire.code, bool(wire.outgoing)),
                Layer(wire.layer) is Layer.INNER,
                Hook(wire.hook),
                RuleFound(wire.rule),
                wire.sub_reason,
                public_key,
                count,
                bool(wire.matched),
            )
        if EventKind(wire.kind) is EventKind.INVARIANT:
            invariant = Invariant(wire.code)
            return InvariantTotal(ifname, wire.netns, invariant, bool(wire.matched), public_key, count)
        if EventKind(wire.kind) is not EventKind.HANDSHAKE:
            raise ValueError(f"there are no totals of kind {wire.kind}")
        code, sub_reason = HandshakeCode(wire.code), SubReason(wire.sub_reason)
        return HandshakeTotal(ifname, wire.netns, code, public_key, count, sub_reason)
    except (ValueError, struct.error) as exc:
        raise UndecodableRecordError(f"a key of {len(key)} bytes is no total", str(exc)) from exc


def handshake_time(key: bytes, values: Iterable[bytes]) -> HandshakeTimes:
    """Decode one entry of the map `handshake_times`: the values of all CPUs.

    Raises:
        UndecodableRecordError: The key is none of this ABI.
    """
    try:
        wire, sums = _TIME_KEY(key), [_TIME(value) for value in values]
        return HandshakeTimes(
            _text(wire.ifname),
            wire.netns,
            _key(wire.public_key),
            SubReason(wire.role),
            wire.bucket,
            sum(each.count for each in sums),
            sum(each.sum for each in sums),
            max((each.max for each in sums), default=0),
        )
    except (ValueError, struct.error) as exc:
        raise UndecodableRecordError(
            f"a key of {len(key)} bytes is no time of a handshake", str(exc)
        ) from exc
