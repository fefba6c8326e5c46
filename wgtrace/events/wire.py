# SPDX-License-Identifier: GPL-2.0-only
"""ctypes mirror of bpf/events.h: same order, same field names, nothing else.

tests/unit/events/test_abi.py holds it against the C compiler, tests/bpf/test_layout.py
against clang. Converted at once by `decode`; nothing else touches these classes.
"""

from __future__ import annotations

import ctypes
import enum

from ctypes import c_int32 as S32
from ctypes import c_uint8 as U8
from ctypes import c_uint16 as U16
from ctypes import c_uint32 as U32
from ctypes import c_uint64 as U64

MAX_SITES = 40
REASONS = 96
LOSSES = 8


class EventKind(enum.IntEnum):
    """`enum wgt_event_kind`."""

    DROP = 1
    HANDSHAKE = 2
    CONFIG = 3


class Loss(enum.IntEnum):
    """`enum wgt_loss`: index into the map `losses`."""

    LOST_EVENTS = 0
    LOST_TOTALS = 1
    LOST_UNCLASSIFIED = 2
    LOST_FRAMES = 3


class Site(enum.IntEnum):
    """`enum wgt_site`: functions of WireGuard that free packets."""

    NONE = 0
    XMIT = 1
    PURGE = 2
    SEND_STAGED = 3
    TX_WORKER = 4
    SEND = 5
    SEND_SKB = 6
    RECEIVE = 7
    RX_POLL = 8
    HANDSHAKE_WORKER = 9
    STOP = 10


class EventHeader(ctypes.Structure):
    """`struct wgt_event_header`."""

    ts_ns: int
    cpu: int
    kind: int
    len: int
    _fields_ = [("ts_ns", U64), ("cpu", U32), ("kind", U16), ("len", U16)]


class FlowWire(ctypes.Structure):
    """`struct wgt_flow`."""

    saddr: ctypes.Array[U8]
    daddr: ctypes.Array[U8]
    sport: int
    dport: int
    len: int
    family: int
    proto: int
    _fields_ = [
        ("saddr", U8 * 16),
        ("daddr", U8 * 16),
        ("sport", U16),
        ("dport", U16),
        ("len", U32),
        ("family", U8),
        ("proto", U8),
        ("pad", U8 * 6),
    ]


class DeviceWire(ctypes.Structure):
    """`struct wgt_device`."""

    ifname: ctypes.Array[U8]
    netns: int
    ifindex: int
    _fields_ = [("ifname", U8 * 16), ("netns", U32), ("ifindex", U32)]


class PeerWire(ctypes.Structure):
    """`struct wgt_peer`."""

    public_key: ctypes.Array[U8]
    endpoint_addr: ctypes.Array[U8]
    endpoint_port: int
    endpoint_family: int
    known: int
    _fields_ = [
        ("public_key", U8 * 32),
        ("endpoint_addr", U8 * 16),
        ("endpoint_port", U16),
        ("endpoint_family", U8),
        ("known", U8),
        ("pad", U8 * 4),
    ]


class DropEventWire(ctypes.Structure):
    """`struct wgt_drop_event`."""

    hdr: EventHeader
    device: DeviceWire
    peer: PeerWire
    inner: FlowWire
    outer: FlowWire
    location: int
    nonce: int
    max_nonce: int
    session_age_ns: int
    kernel_reason: int
    receiver_index: int
    sender_index: int
    queue_len: int
    err: int
    reason: int
    sub_reason: int
    message_type: int
    other_key: ctypes.Array[U8]
    timestamp: ctypes.Array[U8]
    latest_timestamp: ctypes.Array[U8]
    payload: ctypes.Array[U8]
    payload_len: int
    _fields_ = [
        ("hdr", EventHeader),
        ("device", DeviceWire),
        ("peer", PeerWire),
        ("inner", FlowWire),
        ("outer", FlowWire),
        ("location", U64),
        ("nonce", U64),
        ("max_nonce", U64),
        ("session_age_ns", U64),
        ("kernel_reason", U32),
        ("receiver_index", U32),
        ("sender_index", U32),
        ("queue_len", U32),
        ("err", S32),
        ("reason", U16),
        ("sub_reason", U8),
        ("message_type", U8),
        ("other_key", U8 * 32),
        ("timestamp", U8 * 12),
        ("latest_timestamp", U8 * 12),
        ("payload", U8 * 16),
        ("payload_len", U32),
        ("pad", U32),
    ]


class HandshakeEventWire(ctypes.Structure):
    """`struct wgt_handshake_event`."""

    hdr: EventHeader
    device: DeviceWire
    peer: PeerWire
    sender_index: int
    receiver_index: int
    attempt: int
    code: int
    _fields_ = [
        ("hdr", EventHeader),
        ("device", DeviceWire),
        ("peer", PeerWire),
        ("sender_index", U32),
        ("receiver_index", U32),
        ("attempt", U32),
        ("code", U16),
        ("pad", U16),
    ]


class ConfigEventWire(ctypes.Structure):
    """`struct wgt_config_event`."""

    hdr: EventHeader
    pid: int
    comm: ctypes.Array[U8]
    _fields_ = [("hdr", EventHeader), ("pid", U32), ("pad", U32), ("comm", U8 * 16)]


class TotalKeyWire(ctypes.Structure):
    """`struct wgt_total_key`."""

    ifname: ctypes.Array[U8]
    netns: int
    kind: int
    code: int
    sub_reason: int
    peer_known: int
    public_key: ctypes.Array[U8]
    _fields_ = [
        ("ifname", U8 * 16),
        ("netns", U32),
        ("kind", U16),
        ("code", U16),
        ("sub_reason", U8),
        ("peer_known", U8),
        ("pad", U8 * 6),
        ("public_key", U8 * 32),
    ]


class StreamWire(ctypes.Structure):
    """`struct wgt_stream`."""

    second: int
    shown: int
    limited: int
    total: int
    _fields_ = [("second", U64), ("shown", U64), ("limited", U64), ("total", U64)]


class ConfigWire(ctypes.Structure):
    """`struct wgt_config`."""

    all: int
    events_per_second: int
    _fields_ = [("all", U32), ("events_per_second", U32)]


class TracedKeyWire(ctypes.Structure):
    """`struct wgt_traced_key`."""

    ifname: ctypes.Array[U8]
    netns: int
    _fields_ = [("ifname", U8 * 16), ("netns", U32), ("pad", U32)]


class SiteRangeWire(ctypes.Structure):
    """`struct wgt_site_range`."""

    start: int
    end: int
    site: int
    _fields_ = [("start", U64), ("end", U64), ("site", U64)]


class SitesWire(ctypes.Structure):
    """`struct wgt_sites`."""

    start: int
    end: int
    range: ctypes.Array[SiteRangeWire]
    _fields_ = [("start", U64), ("end", U64), ("range", SiteRangeWire * MAX_SITES)]
