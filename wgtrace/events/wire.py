# SPDX-License-Identifier: GPL-2.0-only
"""ctypes mirror of bpf/events.h: same order, same field names, nothing else.

tests/unit/events/test_abi.py holds it against the C compiler, tests/bpf/test_layout.py
against clang. Converted at once by `decode`; nothing else touches these classes.
"""

from __future__ import annotations

import ctypes
import enum
import struct
from collections import namedtuple
from collections.abc import Callable
from ctypes import c_int32, c_uint8, c_uint16, c_uint32, c_uint64
from typing import Any, Final

ABI = 1
MAX_SITES = 40
REASONS = 96
LOSSES = 9
MAX_TERMS = 8
STAGES = 6
BUCKETS = 40
SLOWEST = 5
SIZE_TRIALS = 8
FORWARD_ENDS = 8
MTU_CODES = 11
PATH_REASONS = 256
PATH_SUBSYSTEM_0 = 240
QUIET_ENDS = 16
STACK_LEN = 12
NFT_OFFSETS = {
    "pkt_skb": ("nft_pktinfo", "skb"),
    "pkt_state": ("nft_pktinfo", "state"),
    "verdict_code": ("nft_immediate_expr", "data"),
    "verdict_dreg": ("nft_immediate_expr", "dreg"),
    "table_list": ("nft_table", "list"),
    "table_chains": ("nft_table", "chains"),
    "table_handle": ("nft_table", "handle"),
    "table_name": ("nft_table", "name"),
    "table_family": ("nft_table", "family"),
    "chain_list": ("nft_chain", "list"),
    "chain_name": ("nft_chain", "name"),
    "chain_blob_0": ("nft_chain", "blob_gen_0"),
    "chain_blob_1": ("nft_chain", "blob_gen_1"),
    "blob_size": ("nft_rule_blob", "size"),
    "blob_data": ("nft_rule_blob", "data"),
    "net_tables": ("nftables_pernet", "tables"),
}
"""Fields of `PathConfigWire`, in their order: the member of nf_tables' own that each is the place of."""


class EventKind(enum.IntEnum):
    """`enum wgt_event_kind`."""

    DROP = 1
    HANDSHAKE = 2
    CONFIG = 3
    PATH = 4
    PACKET = 6
    MTU = 7
    INVARIANT = 8


class MtuCode(enum.IntEnum):
    """`enum wgt_mtu_code`: what happened to the size of packets."""

    OUTER_FRAGMENTED = 1
    INNER_FRAGMENTED = 2
    TOO_BIG_RECEIVED = 3
    TOO_BIG_SENT = 4
    TOO_BIG_LOST = 5
    PATH_MTU_CHANGED = 6
    SENDER_REFUSED = 7
    FRAGMENT_LOST = 8
    DATAGRAM_LOST = 9
    PADDING_BEYOND_MTU = 10


class MtuOf(enum.IntEnum):
    """`enum wgt_mtu_of`: what decided on an MTU."""

    UNKNOWN = 0
    DEVICE = 1
    ROUTE = 2
    ICMP = 3


class Loss(enum.IntEnum):
    """`enum wgt_loss`: index into the map `losses`."""

    LOST_EVENTS = 0
    LOST_TOTALS = 1
    LOST_UNCLASSIFIED = 2
    LOST_FRAMES = 3
    LOST_DEVICES = 4
    LOST_PACKETS = 5
    LOST_PEERS = 6
    LOST_HANDSHAKE_TIMES = 7
    LOST_SESSIONS = 8


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


class Layer(enum.IntEnum):
    """`enum wgt_layer`: the packets of a drop."""

    INNER = 1
    OUTER = 2


class Hook(enum.IntEnum):
    """`enum wgt_hook`: where netfilter looks at a packet."""

    NONE = 0
    PREROUTING = 1
    INPUT = 2
    FORWARD = 3
    OUTPUT = 4
    POSTROUTING = 5
    INGRESS = 6
    EGRESS = 7


class RuleFound(enum.IntEnum):
    """`enum wgt_rule_found`: how sure it is which nft rule dropped a packet."""

    NONE = 0
    EXACT = 1
    SOMEWHERE = 2
    IMPLICIT = 3


class PathRule(enum.IntEnum):
    """`enum wgt_path_rule`: what the map `path_reasons` says of one of the kernel's reasons."""

    NEVER = 1
    DELIVERED = 2
    NETFILTER = 4
    HIDE_TX = 8
    HIDE_RX = 16
    INCOMING = 32


class FlowEnd(enum.IntEnum):
    """`enum wgt_flow_end`."""

    SOURCE = 1
    DESTINATION = 2


class TermKind(enum.IntEnum):
    """`enum wgt_term_kind`: what a term of a flow filter looks at."""

    NET = 1
    PORT = 2
    PROTO = 3
    FAMILY = 4


class PacketWay(enum.IntEnum):
    """`enum wgt_way`: which way a packet went."""

    LEFT = 1
    ARRIVED = 2


class EventHeader(ctypes.Structure):
    """`struct wgt_event_header`."""

    ts_ns: int
    cpu: int
    kind: int
    len: int
    _fields_ = [("ts_ns", c_uint64), ("cpu", c_uint32), ("kind", c_uint16), ("len", c_uint16)]


class FlowWire(ctypes.Structure):
    """`struct wgt_flow`."""

    saddr: ctypes.Array[c_uint8]
    daddr: ctypes.Array[c_uint8]
    sport: int
    dport: int
    len: int
    family: int
    proto: int
    _fields_ = [
        ("saddr", c_uint8 * 16),
        ("daddr", c_uint8 * 16),
        ("sport", c_uint16),
        ("dport", c_uint16),
        ("len", c_uint32),
        ("family", c_uint8),
        ("proto", c_uint8),
        ("pad", c_uint8 * 6),
    ]


class DeviceWire(ctypes.Structure):
    """`struct wgt_device`."""

    ifname: ctypes.Array[c_uint8]
    netns: int
    ifindex: int
    _fields_ = [("ifname", c_uint8 * 16), ("netns", c_uint32), ("ifindex", c_uint32)]


class PeerWire(ctypes.Structure):
    """`struct wgt_peer`."""

    public_key: ctypes.Array[c_uint8]
    endpoint_addr: ctypes.Array[c_uint8]
    endpoint_port: int
    endpoint_family: int
    known: int
    _fields_ = [
        ("public_key", c_uint8 * 32),
        ("endpoint_addr", c_uint8 * 16),
        ("endpoint_port", c_uint16),
        ("endpoint_family", c_uint8),
        ("known", c_uint8),
        ("pad", c_uint8 * 4),
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
    other_key: ctypes.Array[c_uint8]
    timestamp: ctypes.Array[c_uint8]
    latest_timestamp: ctypes.Array[c_uint8]
    payload: ctypes.Array[c_uint8]
    payload_len: int
    packet_len: int
    captured_len: int
    captured_layer: int
    matched: int
    _fields_ = [
        ("hdr", EventHeader),
        ("device", DeviceWire),
        ("peer", PeerWire),
        ("inner", FlowWire),
        ("outer", FlowWire),
        ("location", c_uint64),
        ("nonce", c_uint64),
        ("max_nonce", c_uint64),
        ("session_age_ns", c_uint64),
        ("kernel_reason", c_uint32),
        ("receiver_index", c_uint32),
        ("sender_index", c_uint32),
        ("queue_len", c_uint32),
        ("err", c_int32),
        ("reason", c_uint16),
        ("sub_reason", c_uint8),
        ("message_type", c_uint8),
        ("other_key", c_uint8 * 32),
        ("timestamp", c_uint8 * 12),
        ("latest_timestamp", c_uint8 * 12),
        ("payload", c_uint8 * 16),
        ("payload_len", c_uint32),
        ("packet_len", c_uint32),
        ("captured_len", c_uint16),
        ("captured_layer", c_uint8),
        ("matched", c_uint8),
        ("pad", c_uint32),
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
    message_ns: int
    latency_ns: int
    session_age_ns: int
    inner: FlowWire
    source: ctypes.Array[c_uint8]
    out_ifname: ctypes.Array[c_uint8]
    queue_len: int
    sub_reason: int
    icmp_type: int
    icmp_code: int
    message_type: int
    _fields_ = [
        ("hdr", EventHeader),
        ("device", DeviceWire),
        ("peer", PeerWire),
        ("sender_index", c_uint32),
        ("receiver_index", c_uint32),
        ("attempt", c_uint32),
        ("code", c_uint16),
        ("pad", c_uint16),
        ("message_ns", c_uint64),
        ("latency_ns", c_uint64),
        ("session_age_ns", c_uint64),
        ("inner", FlowWire),
        ("source", c_uint8 * 16),
        ("out_ifname", c_uint8 * 16),
        ("queue_len", c_uint32),
        ("sub_reason", c_uint8),
        ("icmp_type", c_uint8),
        ("icmp_code", c_uint8),
        ("message_type", c_uint8),
    ]


class ConfigEventWire(ctypes.Structure):
    """`struct wgt_config_event`."""

    hdr: EventHeader
    pid: int
    comm: ctypes.Array[c_uint8]
    _fields_ = [("hdr", EventHeader), ("pid", c_uint32), ("pad", c_uint32), ("comm", c_uint8 * 16)]


class PacketEventWire(ctypes.Structure):
    """`struct wgt_packet_event`."""

    hdr: EventHeader
    device: DeviceWire
    peer: PeerWire
    outer: FlowWire
    nonce: int
    receiver_index: int
    len: int
    way: int
    _fields_ = [
        ("hdr", EventHeader),
        ("device", DeviceWire),
        ("peer", PeerWire),
        ("outer", FlowWire),
        ("nonce", c_uint64),
        ("receiver_index", c_uint32),
        ("len", c_uint32),
        ("way", c_uint8),
        ("pad", c_uint8 * 7),
    ]


class InvariantEventWire(ctypes.Structure):
    """`struct wgt_invariant_event`."""

    hdr: EventHeader
    device: DeviceWire
    peer: PeerWire
    inner: FlowWire
    expected: int
    found: int
    stack: ctypes.Array[c_uint64]
    code: int
    len: int
    _fields_ = [
        ("hdr", EventHeader),
        ("device", DeviceWire),
        ("peer", PeerWire),
        ("inner", FlowWire),
        ("expected", c_uint64),
        ("found", c_uint64),
        ("stack", c_uint64 * STACK_LEN),
        ("code", c_uint32),
        ("len", c_uint32),
    ]


class PathEventWire(ctypes.Structure):
    """`struct wgt_path_event`."""

    hdr: EventHeader
    device: DeviceWire
    peer: PeerWire
    inner: FlowWire
    outer: FlowWire
    location: int
    table_handle: int
    rule_handle: int
    table: ctypes.Array[c_uint8]
    chain: ctypes.Array[c_uint8]
    ifname: ctypes.Array[c_uint8]
    netns: int
    kernel_reason: int
    mark: int
    receiver_index: int
    layer: int
    outgoing: int
    hook: int
    rule: int
    table_family: int
    message_type: int
    matched: int
    _fields_ = [
        ("hdr", EventHeader),
        ("device", DeviceWire),
        ("peer", PeerWire),
        ("inner", FlowWire),
        ("outer", FlowWire),
        ("location", c_uint64),
        ("table_handle", c_uint64),
        ("rule_handle", c_uint64),
        ("table", c_uint8 * 32),
        ("chain", c_uint8 * 32),
        ("ifname", c_uint8 * 16),
        ("netns", c_uint32),
        ("kernel_reason", c_uint32),
        ("mark", c_uint32),
        ("receiver_index", c_uint32),
        ("layer", c_uint8),
        ("outgoing", c_uint8),
        ("hook", c_uint8),
        ("rule", c_uint8),
        ("table_family", c_uint8),
        ("message_type", c_uint8),
        ("matched", c_uint8),
        ("pad", c_uint8),
    ]


class MtuEventWire(ctypes.Structure):
    """`struct wgt_mtu_event`."""

    hdr: EventHeader
    device: DeviceWire
    peer: PeerWire
    inner: FlowWire
    outer: FlowWire
    location: int
    origin: ctypes.Array[c_uint8]
    ifname: ctypes.Array[c_uint8]
    netns: int
    kernel_reason: int
    mtu: int
    size: int
    code: int
    of: int
    layer: int
    outgoing: int
    _fields_ = [
        ("hdr", EventHeader),
        ("device", DeviceWire),
        ("peer", PeerWire),
        ("inner", FlowWire),
        ("outer", FlowWire),
        ("location", c_uint64),
        ("origin", c_uint8 * 16),
        ("ifname", c_uint8 * 16),
        ("netns", c_uint32),
        ("kernel_reason", c_uint32),
        ("mtu", c_uint32),
        ("size", c_uint32),
        ("code", c_uint16),
        ("of", c_uint8),
        ("layer", c_uint8),
        ("outgoing", c_uint8),
        ("pad", c_uint8 * 3),
    ]


RECORDS: Final[dict[EventKind, type[ctypes.Structure]]] = {
    EventKind.DROP: DropEventWire,
    EventKind.HANDSHAKE: HandshakeEventWire,
    EventKind.CONFIG: ConfigEventWire,
    EventKind.PATH: PathEventWire,
    EventKind.PACKET: PacketEventWire,
    EventKind.INVARIANT: InvariantEventWire,
}
"""What a ring-buffer record of each kind is; those of `wgtrace mtu` have nothing to do with them."""


class TotalKeyWire(ctypes.Structure):
    """`struct wgt_total_key`."""

    ifname: ctypes.Array[c_uint8]
    netns: int
    kind: int
    code: int
    sub_reason: int
    peer_known: int
    matched: int
    subsystem: int
    layer: int
    outgoing: int
    hook: int
    rule: int
    public_key: ctypes.Array[c_uint8]
    _fields_ = [
        ("ifname", c_uint8 * 16),
        ("netns", c_uint32),
        ("kind", c_uint16),
        ("code", c_uint16),
        ("sub_reason", c_uint8),
        ("peer_known", c_uint8),
        ("matched", c_uint8),
        ("subsystem", c_uint8),
        ("layer", c_uint8),
        ("outgoing", c_uint8),
        ("hook", c_uint8),
        ("rule", c_uint8),
        ("public_key", c_uint8 * 32),
    ]


class HandshakeTimeKeyWire(ctypes.Structure):
    """`struct wgt_handshake_time_key`."""

    ifname: ctypes.Array[c_uint8]
    netns: int
    role: int
    bucket: int
    public_key: ctypes.Array[c_uint8]
    _fields_ = [
        ("ifname", c_uint8 * 16),
        ("netns", c_uint32),
        ("role", c_uint8),
        ("bucket", c_uint8),
        ("pad", c_uint8 * 2),
        ("public_key", c_uint8 * 32),
    ]


class HandshakeTimeWire(ctypes.Structure):
    """`struct wgt_handshake_time`."""

    count: int
    sum: int
    max: int
    _fields_ = [("count", c_uint64), ("sum", c_uint64), ("max", c_uint64)]


class StreamWire(ctypes.Structure):
    """`struct wgt_stream`."""

    second: int
    shown: int
    limited: int
    total: int
    sampled: int
    _fields_ = [
        ("second", c_uint64),
        ("shown", c_uint64),
        ("limited", c_uint64),
        ("total", c_uint64),
        ("sampled", c_uint64),
    ]


class ConfigWire(ctypes.Structure):
    """`struct wgt_config`."""

    all: int
    events_per_second: int
    device_list: int
    _fields_ = [("all", c_uint32), ("events_per_second", c_uint32), ("device_list", c_uint64)]


class TracedKeyWire(ctypes.Structure):
    """`struct wgt_traced_key`."""

    ifname: ctypes.Array[c_uint8]
    netns: int
    ifindex: int
    _fields_ = [("ifname", c_uint8 * 16), ("netns", c_uint32), ("ifindex", c_uint32)]


class FlowTermWire(ctypes.Structure):
    """`struct wgt_flow_term`."""

    addr: ctypes.Array[c_uint8]
    mask: ctypes.Array[c_uint8]
    port: int
    kind: int
    layers: int
    ends: int
    negated: int
    family: int
    proto: int
    _fields_ = [
        ("addr", c_uint8 * 16),
        ("mask", c_uint8 * 16),
        ("port", c_uint16),
        ("kind", c_uint8),
        ("layers", c_uint8),
        ("ends", c_uint8),
        ("negated", c_uint8),
        ("family", c_uint8),
        ("proto", c_uint8),
    ]


class FilterWire(ctypes.Structure):
    """`struct wgt_filter`."""

    has_peers: int
    terms: int
    samples_per_second: int
    hidden: ctypes.Array[c_uint8]
    term: ctypes.Array[FlowTermWire]
    _fields_ = [
        ("has_peers", c_uint32),
        ("terms", c_uint32),
        ("samples_per_second", c_uint32),
        ("pad", c_uint32),
        ("hidden", c_uint8 * REASONS),
        ("term", FlowTermWire * MAX_TERMS),
    ]


class PublicKeyWire(ctypes.Structure):
    """`struct wgt_public_key`."""

    bytes: ctypes.Array[c_uint8]
    _fields_ = [("bytes", c_uint8 * 32)]


class PathConfigWire(ctypes.Structure):
    """`struct wgt_path_config`."""

    net_id: int
    quiet: ctypes.Array[c_uint64]
    _fields_ = [
        ("net_id", c_uint64),
        *[(name, c_uint16) for name in NFT_OFFSETS],
        ("pad", c_uint16 * 4),
        ("quiet", c_uint64 * QUIET_ENDS),
    ]


class SiteRangeWire(ctypes.Structure):
    """`struct wgt_site_range`."""

    start: int
    end: int
    site: int
    _fields_ = [("start", c_uint64), ("end", c_uint64), ("site", c_uint64)]


class SitesWire(ctypes.Structure):
    """`struct wgt_sites`."""

    start: int
    end: int
    range: ctypes.Array[SiteRangeWire]
    list_start: int
    list_end: int
    _fields_ = [
        ("start", c_uint64),
        ("end", c_uint64),
        ("range", SiteRangeWire * MAX_SITES),
        ("list_start", c_uint64),
        ("list_end", c_uint64),
    ]


class LatencyKeyWire(ctypes.Structure):
    """`struct wgt_latency_key`."""

    peer_id: int
    epoch: int
    cpu: int
    is_rx: int
    _fields_ = [
        ("peer_id", c_uint64),
        ("epoch", c_uint32),
        ("cpu", c_uint16),
        ("is_rx", c_uint8),
        ("pad", c_uint8),
    ]


class HistogramWire(ctypes.Structure):
    """`struct wgt_histogram`."""

    sum: int
    max: int
    bucket: ctypes.Array[c_uint64]
    _fields_ = [("sum", c_uint64), ("max", c_uint64), ("bucket", c_uint64 * BUCKETS)]


class SlowPacketWire(ctypes.Structure):
    """`struct wgt_slow_packet`."""

    ts_ns: int
    total: int
    staged: int
    queue: int
    crypto: int
    order: int
    output: int
    cpu: int
    _fields_ = [
        ("ts_ns", c_uint64),
        ("total", c_uint64),
        ("staged", c_uint64),
        ("queue", c_uint64),
        ("crypto", c_uint64),
        ("order", c_uint64),
        ("output", c_uint64),
        ("cpu", c_uint32),
        ("pad", c_uint32),
    ]


class LatencyWire(ctypes.Structure):
    """`struct wgt_latency`."""

    device: DeviceWire
    public_key: ctypes.Array[c_uint8]
    least: int
    stage: ctypes.Array[HistogramWire]
    slowest: ctypes.Array[SlowPacketWire]
    _fields_ = [
        ("device", DeviceWire),
        ("public_key", c_uint8 * 32),
        ("least", c_uint64),
        ("stage", HistogramWire * STAGES),
        ("slowest", SlowPacketWire * SLOWEST),
    ]


class LatencyConfigWire(ctypes.Structure):
    """`struct wgt_latency_config`."""

    epoch: int
    by_cpu: int
    _fields_ = [("epoch", c_uint32), ("by_cpu", c_uint32)]


class SessionWire(ctypes.Structure):
    """`struct wgt_session`."""

    device: DeviceWire
    public_key: ctypes.Array[c_uint8]
    born_ns: int
    first: int
    next: int
    received: int
    late: int
    duplicates: int
    too_old: int
    unread: int
    index: int
    is_initiator: int
    _fields_ = [
        ("device", DeviceWire),
        ("public_key", c_uint8 * 32),
        *[
            (name, c_uint64)
            for name in ("born_ns", "first", "next", "received", "late", "duplicates", "too_old", "unread")
        ],
        ("index", c_uint32),
        ("is_initiator", c_uint8),
        ("pad", c_uint8 * 3),
    ]


class QueuesWire(ctypes.Structure):
    """`struct wgt_queues`."""

    device: DeviceWire
    public_key: ctypes.Array[c_uint8]
    ts_ns: int
    staged: int
    outgoing: int
    incoming: int
    _fields_ = [
        ("device", DeviceWire),
        ("public_key", c_uint8 * 32),
        ("ts_ns", c_uint64),
        ("staged", c_uint32),
        ("outgoing", c_uint32),
        ("incoming", c_uint32),
        ("pad", c_uint32),
    ]


class SizeTrialWire(ctypes.Structure):
    """`struct wgt_size_trial`."""

    _fields_ = [
        ("sent_ns", c_uint64),
        ("ends", c_uint32),
        ("number", c_uint32),
        ("sport", c_uint16),
        ("dport", c_uint16),
        ("len", c_uint16),
        ("proto", c_uint8),
        ("pad", c_uint8),
    ]


class SizesWire(ctypes.Structure):
    """`struct wgt_sizes`."""

    device: DeviceWire
    public_key: ctypes.Array[c_uint8]
    failed_ns: int
    first_failed_ns: int
    heard_ns: int
    sent: int
    passed: int
    failed: int
    failures: int
    received: int
    mtu: int
    waiting: int
    _fields_ = [
        ("device", DeviceWire),
        ("public_key", c_uint8 * 32),
        ("failed_ns", c_uint64),
        ("first_failed_ns", c_uint64),
        ("heard_ns", c_uint64),
        ("sent", c_uint32),
        ("passed", c_uint32),
        ("failed", c_uint32),
        ("failures", c_uint32),
        ("received", c_uint32),
        ("mtu", c_uint32),
        ("waiting", c_uint32),
        ("pad", c_uint32),
        ("trial", SizeTrialWire * SIZE_TRIALS),
    ]


class EndpointKeyWire(ctypes.Structure):
    """`struct wgt_endpoint_key`."""

    addr: ctypes.Array[c_uint8]
    netns: int
    family: int
    _fields_ = [("addr", c_uint8 * 16), ("netns", c_uint32), ("family", c_uint32)]


class EndpointWire(ctypes.Structure):
    """`struct wgt_endpoint`."""

    device: DeviceWire
    peer: PeerWire
    _fields_ = [("device", DeviceWire), ("peer", PeerWire)]


class MtuConfigWire(ctypes.Structure):
    """`struct wgt_mtu_config`."""

    forward: ctypes.Array[c_uint64]
    _fields_ = [("forward", c_uint64 * FORWARD_ENDS)]


_CODES: dict[Any, str] = {c_uint8: "B", c_uint16: "H", c_uint32: "I", c_uint64: "Q", c_int32: "i"}


def layout(structure: type[ctypes.Structure]) -> struct.Struct:
    """The struct for module struct: numbers, and arrays and structs in it as bytes."""
    # Every gap has a field of its own (bpf/README.md), so "=" adds none.
    kinds = [field[1] for field in structure._fields_]
    return struct.Struct("=" + "".join(_CODES.get(kind, f"{ctypes.sizeof(kind)}s") for kind in kinds))


def unpacker(structure: type[ctypes.Structure]) -> Callable[[bytes], Any]:
    """What reads a record that begins with this struct, a good deal quicker than ctypes.

    Returns:
        A function of the record: the fields by name, arrays and structs in it as bytes. It
        raises struct.error if the record is too short.
    """
    unpack = layout(structure).unpack_from
    fields: Any = namedtuple(structure.__name__, [field[0] for field in structure._fields_])  # type: ignore[misc]
    make = fields._make
    return lambda record: make(unpack(record))
