# SPDX-License-Identifier: GPL-2.0-only
"""The few phrases that sentences for the operator are built from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime

from wgtrace.events.reasons import SubReason
from wgtrace.events.types import IPAddress
from wgtrace.state.types import Device

_SHOWN = 4
_UNREACHABLE = {
    SubReason.PORT_UNREACHABLE: "nobody listens at the port",
    SubReason.HOST_UNREACHABLE: "there is no way to it, or it does not answer",
    SubReason.PROHIBITED: "a firewall forbids it",
}


def unreachable_why(sub_reason: SubReason) -> str:
    """What an ICMP message says of a datagram."""
    return _UNREACHABLE.get(sub_reason, "it is unreachable")


def short_key(public_key: str) -> str:
    """A public key as tables show it: `7Kx3aBcd…`."""
    return f"{public_key[:8]}…"


def peer_label(device: Device | None, public_key: str | None) -> str:
    """The peer's name, or its short key, or `the peer` when it is not known."""
    if public_key is None:
        return "the peer"
    peer = device.peer(public_key) if device else None
    return (peer.name if peer else None) or short_key(public_key)


def utc(unix_ns: int, digits: int = 3) -> str:
    """A time as `2026-11-22 12:04:11.203`, in UTC, cut after `digits` of a second."""
    seconds, ns = divmod(unix_ns, 1_000_000_000)
    try:
        text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # a peer may send any 64-bit time
        return f"{seconds} s since 1970"
    return f"{text}.{ns:09d}"[: len(text) + 1 + digits] if digits else text


def count_of(count: int, noun: str) -> str:
    """`1 packet`, `23 packets`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listing(items: Sequence[object], shown: int = _SHOWN) -> str:
    """`a, b and c`; a long list ends in `and 12 more`."""
    texts = [str(item) for item in items]
    if len(texts) > shown:
        return f"{', '.join(texts[:shown])} and {len(texts) - shown} more"
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def age(seconds: float) -> str:
    """A span as people say it: `42 s`, `5 min`, `3 h`, `12 days`."""
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"


def milliseconds(ns: int) -> str:
    """`0.87 ms`, `105 ms`, `6.2 s`."""
    if ns >= 2_000_000_000:
        return f"{ns / 1e9:.1f} s"
    return f"{ns / 1e6:.3g} ms" if ns < 100_000_000 else f"{ns / 1e6:.0f} ms"


def quoted(name: str) -> str:
    """A name that is safe inside a shell command."""
    return shlex.quote(name)


def is_noise(addr: IPAddress) -> bool:
    """Whether an address is one that hosts use by themselves and tunnels seldom carry."""
    limited_broadcast = addr.version == 4 and addr.packed == b"\xff" * 4
    return addr.is_multicast or addr.is_link_local or addr.is_unspecified or limited_broadcast
