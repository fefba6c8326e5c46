# SPDX-License-Identifier: GPL-2.0-only
"""Every field of a drop, declared once: the table and the JSON lines both walk this."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Final

from wgtrace.diagnosis.firewall import Blocked
from wgtrace.diagnosis.looks_like import looks_like
from wgtrace.diagnosis.outside import layer_of
from wgtrace.diagnosis.words import short_key
from wgtrace.events.reasons import Direction, Reason
from wgtrace.events.types import DropEvent, Flow, IPAddress, PathEvent, PeerRef, Tai64n, address_text
from wgtrace.events.wire import Hook
from wgtrace.outputs.clean import clean
from wgtrace.report import Seen, SeenPath

Json = dict[str, object]

_PROTOCOLS: Final = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}
_DIRECTIONS: Final = {Direction.TX: "tx", Direction.RX: "rx", Direction.HANDSHAKE: "hs"}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a drop.

    Attributes:
        json: Its name in a JSON line, "" if it has no place of its own there.
        value: What the JSON line holds.
        title: Its column's title, "" if the table does not show it.
        text: What the column shows.
        min_width: Of the column; max_width: it grows up to this where there is room.
        is_number: Aligned to the right.
        key: Of two drops with equal keys it holds and shows the same; None: each has its own.
    """

    json: str = ""
    value: Callable[[Seen], object] | None = None
    title: str = ""
    text: Callable[[Seen], str] | None = None
    min_width: int = 0
    max_width: int = 0
    is_number: bool = False
    key: Callable[[Seen], Hashable] | None = None


_KEPT: Final = 4096
"""Texts that are kept for each group of fields: a flood repeats itself."""


Write = Callable[[Seen], str]
"""The text of a drop, or of some of its fields."""


def writer(fields: Iterable[Field], write: Callable[[Field], Write]) -> Write:
    """What writes these fields, one after the other, and what was written before only once.

    Args:
        write: Gives what writes one field.
    """
    groups = groupby(fields, lambda field: field.key)
    parts = [_kept(key, _joined([write(field) for field in group])) for key, group in groups]
    return _joined(parts)


def _joined(parts: list[Write]) -> Write:
    return parts[0] if len(parts) == 1 else lambda drop: "".join([part(drop) for part in parts])


def _kept(key: Callable[[Seen], Hashable] | None, write: Write) -> Write:
    if key is None:
        return write
    kept: dict[Hashable, tuple[str, Seen]] = {}

    def text(drop: Seen) -> str:
        of = key(drop)
        found = kept.get(of)
        if found is None:
            if len(kept) >= _KEPT:
                kept.clear()
            found = kept[of] = write(drop), drop  # the drop too: a key may hold an id() of its parts
        return found[0]

    return text


def rfc3339(unix_ns: int) -> str:
    """`2026-11-22T12:04:11.203000417Z`."""
    seconds, ns = divmod(unix_ns, 1_000_000_000)
    try:
        return f"{_utc(seconds)}.{ns:09d}Z"
    except (ValueError, OverflowError, OSError):  # a peer's initiation may hold any 64-bit time
        return "9999-12-31T23:59:59.999999999Z"


@lru_cache(64)
def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def clock(unix_ns: int) -> str:
    """Local time of day as `12:04:11.203`, as tcpdump shows it."""
    seconds, ns = divmod(unix_ns, 1_000_000_000)
    return f"{_local(seconds)}.{ns // 1_000_000:03d}"


@lru_cache(64)
def _local(seconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def day(unix_ns: int) -> str:
    """Local date as `2026-11-22`."""
    return time.strftime("%Y-%m-%d", time.localtime(unix_ns // 1_000_000_000))


def interface_label(ifname: str, netns_name: str | None) -> str:
    """`wg0`, or `hub/wg0` in a named namespace."""
    return clean(f"{netns_name}/{ifname}" if netns_name else ifname) or "?"


def peer_text(peer: PeerRef | None) -> str:
    """The peer's name, its short key, or `?`."""
    if peer is None:
        return "?"
    return clean(peer.name or "") or short_key(peer.public_key)


def proto_name(proto: int) -> str:
    """`tcp`, `udp`, `icmp`, `icmpv6`, else the number."""
    return _PROTOCOLS.get(proto, str(proto))


def address(addr: IPAddress, port: int) -> str:
    """`10.9.4.7:52114`, `[fd00::1]:443`; without a port just the address."""
    text = address_text(addr)
    if not port:
        return text
    return f"[{text}]:{port}" if addr.version == 6 else f"{text}:{port}"


def flow_text(drop: Seen) -> str:
    """The inner flow; where only the outer is known, the far end of that."""
    inner, outer = drop.event.inner, drop.event.outer
    if inner:
        has_ports = proto_name(inner.proto) not in ("icmp", "icmpv6")
        source = address(inner.saddr, inner.sport if has_ports else 0)
        target = address(inner.daddr, inner.dport if has_ports else 0)
        return f"{source} > {target} {proto_name(inner.proto)}"
    if outer and drop.event.reason.direction is Direction.TX:
        return f"to {address(outer.daddr, outer.dport)}"
    return f"from {address(outer.saddr, outer.sport)}" if outer else "?"


def _len_text(drop: Seen) -> str:
    flow = drop.event.inner or drop.event.outer
    return str(flow.len) if flow and flow.len else ""


def flow_json(flow: Flow | None) -> Json | None:
    """A flow as JSON lines hold it."""
    if flow is None:
        return None
    return {
        "family": flow.family,
        "saddr": address_text(flow.saddr),
        "daddr": address_text(flow.daddr),
        "proto": flow.proto,
        "sport": flow.sport,
        "dport": flow.dport,
        "len": flow.len,
    }


def peer_json(peer: PeerRef | None) -> Json | None:
    """A peer as JSON lines hold it."""
    if peer is None:
        return None
    return {
        "public_key": peer.public_key,
        "endpoint": str(peer.endpoint) if peer.endpoint else None,
        "name": clean(peer.name) if peer.name else None,
    }


def _tai(when: Tai64n | None) -> str | None:
    return rfc3339(when.unix_ns) if when else None


# How each key of `detail` is got; None: not known for this packet, and left out.
DETAIL: Final[dict[str, Callable[[DropEvent], object]]] = {
    "nonce": lambda e: e.nonce,
    "max_nonce": lambda e: e.max_nonce,
    "session_age_ns": lambda e: e.session_age_ns or None,
    "receiver_index": lambda e: e.receiver_index,
    "sender_index": lambda e: e.sender_index,
    "queue_len": lambda e: e.queue_len or None,
    "errno": lambda e: e.errno or None,
    "message_type": lambda e: e.message_type or None,
    "owner": lambda e: e.owner,
    "unknown_public_key": lambda e: e.unknown_public_key,
    "timestamp": lambda e: _tai(e.timestamp),
    "latest_timestamp": lambda e: _tai(e.latest_timestamp),
    "payload": lambda e: e.payload.hex(),
    "payload_len": lambda e: e.payload_len,
    "looks_like": lambda e: looks_like(e.payload, e.payload_len),
}

_QUEUED = ("queue_len",)
_BUNDLE = ("nonce", "receiver_index")
_SEND = ("message_type", "errno")
_SESSION = ("receiver_index", "nonce", "session_age_ns")
_MESSAGE = ("message_type", "sender_index")
_TIMES = ("sender_index", "timestamp", "latest_timestamp")
_ANSWER = ("message_type", "receiver_index")

DETAIL_KEYS: Final[dict[Reason, tuple[str, ...]]] = {
    Reason.GSO_SEGMENT_FAILED: _SEND,
    Reason.STAGED_QUEUE_OVERFLOW: _QUEUED,
    Reason.STAGED_PURGED_GIVEUP: _QUEUED,
    Reason.STAGED_PURGED_IFDOWN: _QUEUED,
    Reason.STAGED_PURGED_PEER_REMOVED: _QUEUED,
    Reason.PEER_DEAD_TX: _BUNDLE,
    Reason.TX_QUEUE_FULL: (*_BUNDLE, "queue_len"),
    Reason.ENCRYPT_QUEUE_FULL: (*_BUNDLE, "queue_len"),
    Reason.ENCRYPT_FAILED: _BUNDLE,
    Reason.UDP_SOCK_NULL: _SEND,
    Reason.NO_ROUTE_TO_ENDPOINT: _SEND,
    Reason.ENDPOINT_AF_INVALID: _SEND,
    Reason.HANDSHAKE_TX_NOMEM: _SEND,
    Reason.BAD_HEADER: ("payload", "payload_len", "looks_like"),
    Reason.UNKNOWN_RECEIVER_INDEX: ("receiver_index", "nonce"),
    Reason.PEER_DEAD_RX: _SESSION,
    Reason.RX_QUEUE_FULL: (*_SESSION, "queue_len"),
    Reason.DECRYPT_QUEUE_FULL: (*_SESSION, "queue_len"),
    Reason.KEYPAIR_INVALID: _SESSION,
    Reason.KEYPAIR_EXPIRED: _SESSION,
    Reason.NONCE_LIMIT_RX: _SESSION,
    Reason.DECRYPT_NOMEM: _SESSION,
    Reason.DECRYPT_FAILED: _SESSION,
    Reason.REPLAY_OR_OLD_COUNTER: ("nonce", "max_nonce"),
    Reason.SRC_NOT_ALLOWED: ("owner",),
    Reason.HANDSHAKE_QUEUE_CONTENDED: ("message_type", "queue_len"),
    Reason.HANDSHAKE_QUEUE_FULL: ("message_type", "queue_len"),
    Reason.INVALID_MAC1: _MESSAGE,
    Reason.COOKIE_UNDER_LOAD: (*_MESSAGE, "queue_len"),
    Reason.RATELIMITED: _MESSAGE,
    Reason.NO_PRIVATE_KEY: _MESSAGE,
    Reason.INIT_DH_FAILED: ("sender_index",),
    Reason.INIT_STATIC_DECRYPT_FAILED: ("sender_index",),
    Reason.UNKNOWN_PEER_PUBKEY: ("unknown_public_key", "sender_index"),
    Reason.INIT_PRECOMPUTED_ZERO: ("sender_index",),
    Reason.INIT_TIMESTAMP_DECRYPT_FAILED: ("sender_index",),
    Reason.HANDSHAKE_INIT_REPLAY: _TIMES,
    Reason.HANDSHAKE_FLOOD: _TIMES,
    Reason.RESP_UNKNOWN_INDEX: _ANSWER,
    Reason.RESP_BAD_STATE: _ANSWER,
    Reason.RESP_DECRYPT_FAILED: _ANSWER,
    Reason.RESP_SUPERSEDED: _ANSWER,
    Reason.COOKIE_UNKNOWN_INDEX: _ANSWER,
    Reason.COOKIE_UNSOLICITED: _ANSWER,
    Reason.COOKIE_DECRYPT_FAILED: _ANSWER,
    Reason.RESP_DH_FAILED: _ANSWER,
    Reason.RESPONSE_NOT_SENT: ("sender_index",),
    Reason.SESSION_NOT_STARTED: _ANSWER,
    Reason.HANDSHAKE_PURGED_IFDOWN: _MESSAGE,
}
"""The keys that a reason's `detail` can have; a reason without a row has none."""

_KEEP_NULL: Final = frozenset({"owner"})  # null says that nobody has the address


def rule_json(blocked: Blocked | None) -> Json | None:
    """What of the firewall dropped a packet, as JSON lines hold it."""
    if blocked is None:
        return None
    return {
        "family": blocked.family or None,
        "table": clean(blocked.table) or None,
        "chain": clean(blocked.chain) or None,
        "handle": blocked.handle or None,
        "text": clean(blocked.text) or None,
        "exact": blocked.is_exact,
        "candidates": [clean(text) for text in blocked.others],
    }


OUTSIDE: Final = ("device", "hook", "rule", "mark", "sysctls")
"""The keys that only the `detail` of a drop outside of WireGuard can have."""


def _outside_json(drop: SeenPath) -> Json:
    event = drop.event
    values: Json = {
        "device": clean(event.ifname) or None,
        "hook": hook_name(event.hook),
        "rule": rule_json(drop.blocked),
        "mark": event.mark,
        "message_type": event.message_type or None,
        "receiver_index": event.receiver_index or None,
        "sysctls": dict(drop.sysctls) or None,
    }
    return {key: value for key, value in values.items() if value is not None}


def hook_name(hook: Hook) -> str | None:
    """As nft(8) calls it, None: netfilter did nothing."""
    return hook.name.lower() if hook is not Hook.NONE else None


def packet_name(is_inner: bool) -> str:
    """Which packet of a tunnel it was."""
    return "inner" if is_inner else "outer"


def _detail(drop: Seen) -> Json:
    return _outside_json(drop) if isinstance(drop, SeenPath) else detail_json(drop.event)


_DETAILS: Final = {
    reason: tuple((key, DETAIL[key], key in _KEEP_NULL) for key in keys)
    for reason, keys in DETAIL_KEYS.items()
}


def detail_json(event: DropEvent) -> Json:
    """What is known beyond the common fields."""
    found: Json = {}
    for key, get, keeps_null in _DETAILS.get(event.reason, ()):
        value = get(event)
        if value is not None or keeps_null:
            found[key] = value
    return found


# The decoder gives the same object for the same bytes; to hash what is in it costs more.
def _place(drop: Seen) -> Hashable:
    event = drop.event
    if isinstance(event, PathEvent):
        return id(event.device), drop.netns_name, event.reason, event.where, event.is_inner, event.hook
    return (
        id(event.device),
        drop.netns_name,
        event.reason,
        event.sub_reason,
        event.where,
        event.kernel_reason,
    )


def _flows(drop: Seen) -> Hashable:
    event = drop.event
    return id(event.inner), id(event.outer), event.reason


def _who(drop: Seen) -> Hashable:
    return id(drop.peer)


def _layer(drop: Seen) -> str:
    event = drop.event
    return layer_of(event.reason, event.hook, event.where) if isinstance(event, PathEvent) else "wireguard"


def _packet(drop: Seen) -> str | None:
    return packet_name(drop.event.is_inner) if isinstance(drop.event, PathEvent) else None


TIME = Field("ts", lambda d: rfc3339(d.ts_unix_ns), "TIME", lambda d: clock(d.ts_unix_ns), 12, 12)
INTERFACE = Field(
    "ifname",
    lambda d: clean(d.event.device.ifname),
    "IF",
    lambda d: interface_label(d.event.device.ifname, d.netns_name),
    8,
    20,
    key=_place,
)
DIRECTION = Field(
    "direction",
    lambda d: d.event.reason.direction.value,
    "DIR",
    lambda d: _DIRECTIONS[d.event.reason.direction],
    3,
    3,
    key=_place,
)
PEER = Field("peer", lambda d: peer_json(d.peer), "PEER", lambda d: peer_text(d.peer), 9, 16, key=_who)
INNER = Field("inner", lambda d: flow_json(d.event.inner), "FLOW", flow_text, 36, 50, key=_flows)
LENGTH = Field(title="LEN", text=_len_text, min_width=5, max_width=5, is_number=True, key=_flows)
REASON = Field(
    "reason", lambda d: d.event.reason.id, "REASON", lambda d: d.event.reason.id, 22, 26, key=_place
)
WHY = Field("why", lambda d: clean(d.why), "WHY", lambda d: clean(d.why), 72, 72)

FIELDS: Final = (
    TIME,
    Field("netns", lambda d: d.event.device.netns, key=_place),
    INTERFACE,
    DIRECTION,
    REASON,
    Field("sub_reason", lambda d: d.event.sub_reason.id, key=_place),
    Field("layer", _layer, key=_place),
    Field("packet", _packet, key=_place),
    Field("where", lambda d: d.event.where, key=_place),
    Field("kernel_reason", lambda d: d.event.kernel_reason, key=_place),
    PEER,
    INNER,
    LENGTH,
    Field("outer", lambda d: flow_json(d.event.outer), key=_flows),
    WHY,
    Field("detail", _detail),
)
"""Every field of a drop, in the order of a JSON line."""
