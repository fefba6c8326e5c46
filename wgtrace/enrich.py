# SPDX-License-Identifier: GPL-2.0-only
"""Joins a drop with the configuration of its moment, and says why in one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from wgtrace.diagnosis.looks_like import looks_like
from wgtrace.diagnosis.words import peer_label, short_key, utc
from wgtrace.events.reasons import CATALOGUE, Reason, SubReason
from wgtrace.events.types import DropEvent, PeerRef, address_text
from wgtrace.report import SeenDrop
from wgtrace.state.types import Device, Snapshot


def enrich(event: DropEvent, snapshot: Snapshot, clock_offset_ns: int) -> SeenDrop:
    """Fill in the peer's name and the namespace's, and say why.

    Args:
        event: As decoded.
        snapshot: The configuration of that moment.
        clock_offset_ns: CLOCK_REALTIME minus CLOCK_BOOTTIME.
    """
    where, ref, name = event.device, event.peer, None
    device = snapshot.device(where.ifname, where.netns)
    if ref is not None and ref.name is None and device is not None:
        peer = device.peer(ref.public_key)
        name = peer.name if peer is not None else None
    return SeenDrop(
        event,
        event.ts_ns + clock_offset_ns,
        why(event, device),
        ref if ref is None or name is None else _named(ref, name),
        snapshot.netns_name(where.netns),
    )


@lru_cache(4096)
def _named(ref: PeerRef, name: str) -> PeerRef:
    return replace(ref, name=name)


def why(event: DropEvent, device: Device | None) -> str:
    """One short sentence for this very packet, no full stop."""
    sentence = _SENTENCES.get(event.reason)
    return (sentence(event, device) if sentence else None) or CATALOGUE[event.reason].means


# A sentence is None when the facts that it would name are missing.
_Sentence = Callable[[DropEvent, "Device | None"], "str | None"]


def _peer(event: DropEvent, device: Device | None) -> str:
    if event.peer is None:
        return "the peer"
    return event.peer.name or peer_label(device, event.peer.public_key)


def _about_peer(template: str) -> _Sentence:
    """A sentence that only needs the peer and the interface."""

    def sentence(event: DropEvent, device: Device | None) -> str | None:
        if event.peer is None:
            return None
        return template.format(peer=_peer(event, device), ifname=_ifname(event))

    return sentence


def _ifname(event: DropEvent) -> str:
    return event.device.ifname or "this interface"


def _no_peer(event: DropEvent, device: Device | None) -> str | None:
    return f"no peer has {address_text(event.inner.daddr)} in its AllowedIPs" if event.inner else None


def _src_not_allowed(event: DropEvent, device: Device | None) -> str | None:
    if event.inner is None:
        return None
    if event.owner is not None:
        return f"{address_text(event.inner.saddr)} is in the AllowedIPs of {peer_label(device, event.owner)}"
    if event.sub_reason is SubReason.OWNED_BY_OTHER_PEER:
        return f"{address_text(event.inner.saddr)} is in another peer's AllowedIPs"
    return f"{address_text(event.inner.saddr)} is in no peer's AllowedIPs"


def _send_failed(event: DropEvent, device: Device | None) -> str | None:
    where = f"the endpoint {event.peer.endpoint}" if event.peer and event.peer.endpoint else None
    what = f"no route to {where or 'the peer' + chr(39) + 's endpoint'}"
    if not event.errno:
        return what if where else None
    return f"{what}: {_errno(event.errno)}"


def _errno(number: int) -> str:
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


def _gso_failed(event: DropEvent, device: Device | None) -> str | None:
    return f"{CATALOGUE[event.reason].means}: {_errno(event.errno)}" if event.errno else None


def _no_socket(event: DropEvent, device: Device | None) -> str | None:
    if event.peer is None or event.peer.endpoint is None:
        return None
    return (
        f"{_ifname(event)} has no IPv{event.peer.endpoint.addr.version} socket to reach {event.peer.endpoint}"
    )


def _bad_header(event: DropEvent, device: Device | None) -> str | None:
    fixed = {
        SubReason.BOGUS_IP: "its IP header is damaged",
        SubReason.UDP_LEN_LIES: "its UDP length field does not fit the packet",
        SubReason.NONLINEAR_PULL_FAILED: "no memory to read its header",
    }.get(event.sub_reason)
    if fixed or not (event.payload or event.sub_reason):
        return fixed
    guess = looks_like(event.payload, event.payload_len)
    if event.sub_reason is SubReason.TOO_SHORT and guess.startswith("unknown"):
        return f"{event.payload_len} bytes are too short for a WireGuard message"
    return guess if guess.startswith(("unknown", "nothing")) else f"looks like {guess}"


def _unknown_index(event: DropEvent, device: Device | None) -> str | None:
    return f"session index 0x{event.receiver_index:08x} is not known here"


def _expired(event: DropEvent, device: Device | None) -> str | None:
    if not event.session_age_ns:
        return None
    return f"session is {event.session_age_ns // 1_000_000_000} s old, 180 s is the end"


def _replay(event: DropEvent, device: Device | None) -> str | None:
    if event.sub_reason is SubReason.DUPLICATE:
        return f"counter {event.nonce} seen before (highest {event.max_nonce - 1})"
    if event.sub_reason is SubReason.TOO_OLD:
        return f"counter {event.nonce} too old (highest {event.max_nonce - 1})"
    if event.sub_reason is SubReason.EXHAUSTED:
        return f"counter {event.nonce} is past the last one that a session may use"
    return None


def _bad_mac1(event: DropEvent, device: Device | None) -> str | None:
    if device is not None and device.public_key is None:
        return f"{_ifname(event)} has no private key"
    return f"made for another public key than {event.device.ifname}'s" if event.device.ifname else None


def _ratelimited(event: DropEvent, device: Device | None) -> str | None:
    return f"more than 20 handshakes a second from {address_text(event.outer.saddr)}" if event.outer else None


def _unknown_peer(event: DropEvent, device: Device | None) -> str | None:
    if event.unknown_public_key is None:
        return None
    return f"public key {short_key(event.unknown_public_key)} is no peer of {_ifname(event)}"


def _old_initiation(event: DropEvent, device: Device | None) -> str | None:
    if event.timestamp is None or event.latest_timestamp is None:
        return None
    sent, latest = utc(event.timestamp.unix_ns), utc(event.latest_timestamp.unix_ns)
    if event.timestamp == event.latest_timestamp:
        return f"the initiation of {sent} was accepted before"
    return f"sent at {sent}, last accepted {latest}"


def _no_initiation(event: DropEvent, device: Device | None) -> str | None:
    if device is not None and device.public_key is None:
        return f"no initiation to {_peer(event, device)}: {_ifname(event)} has no private key"
    return f"no initiation to {_peer(event, device)} could be made"


def _unknown_initiation(event: DropEvent, device: Device | None) -> str | None:
    if not event.receiver_index:
        return None
    return f"answers initiation 0x{event.receiver_index:08x}, which is no longer waited for"


_SENTENCES: Final[dict[Reason, _Sentence]] = {
    Reason.ALLOWEDIPS_NO_PEER: _no_peer,
    Reason.NO_ENDPOINT: _about_peer("{peer} has no endpoint yet and has not spoken"),
    Reason.GSO_SEGMENT_FAILED: _gso_failed,
    Reason.STAGED_QUEUE_OVERFLOW: _about_peer("no session with {peer}: more than 128 packets wait"),
    Reason.STAGED_PURGED_GIVEUP: _about_peer("{peer} completed no handshake in 20 attempts"),
    Reason.STAGED_PURGED_IFDOWN: _about_peer("{ifname} went down while it waited for {peer}"),
    Reason.STAGED_PURGED_PEER_REMOVED: _about_peer("{peer} was removed while it waited"),
    Reason.PEER_DEAD_TX: _about_peer("{peer} was removed just now"),
    Reason.KEEPALIVE_NOMEM: _about_peer("no memory for a keepalive to {peer}"),
    Reason.TX_QUEUE_FULL: _about_peer("1024 packets for {peer} already wait to be sent"),
    Reason.UDP_SOCK_NULL: _no_socket,
    Reason.NO_ROUTE_TO_ENDPOINT: _send_failed,
    Reason.ENDPOINT_AF_INVALID: _about_peer("the endpoint of {peer} vanished while sending"),
    Reason.HANDSHAKE_TX_NOMEM: _about_peer("no memory for a handshake message to {peer}"),
    Reason.BAD_HEADER: _bad_header,
    Reason.UNKNOWN_RECEIVER_INDEX: _unknown_index,
    Reason.PEER_DEAD_RX: _about_peer("{peer} was removed just now"),
    Reason.RX_QUEUE_FULL: _about_peer("1024 packets from {peer} already wait to be received"),
    Reason.KEYPAIR_INVALID: _about_peer("the keys of this session with {peer} are no longer valid"),
    Reason.KEYPAIR_EXPIRED: _expired,
    Reason.DECRYPT_FAILED: _about_peer("changed on the way from {peer}: authentication failed"),
    Reason.REPLAY_OR_OLD_COUNTER: _replay,
    Reason.SRC_NOT_ALLOWED: _src_not_allowed,
    Reason.INVALID_MAC1: _bad_mac1,
    Reason.RATELIMITED: _ratelimited,
    Reason.NO_PRIVATE_KEY: lambda event, device: f"{_ifname(event)} has no private key",
    Reason.UNKNOWN_PEER_PUBKEY: _unknown_peer,
    Reason.INIT_PRECOMPUTED_ZERO: _about_peer("the public key of {peer} is invalid"),
    Reason.HANDSHAKE_INIT_REPLAY: _old_initiation,
    Reason.HANDSHAKE_FLOOD: _about_peer("less than 20 ms after the last initiation of {peer}"),
    Reason.RESP_UNKNOWN_INDEX: _unknown_initiation,
    Reason.RESP_DECRYPT_FAILED: _about_peer(
        "the response of {peer} does not authenticate: another preshared key"
    ),
    Reason.RESP_DH_FAILED: _about_peer("the ephemeral key in the response of {peer} is invalid"),
    Reason.INIT_CREATE_FAILED: _no_initiation,
    Reason.RESPONSE_NOT_SENT: _about_peer("no response to {peer} could be made"),
    Reason.SESSION_NOT_STARTED: _about_peer("no session with {peer} could be made from a good response"),
}
