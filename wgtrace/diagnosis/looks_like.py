# SPDX-License-Identifier: GPL-2.0-only
"""Guesses from its first bytes what a packet that is no WireGuard message is."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

# Linux uapi and the WireGuard paper: type byte → (name, exact length; 0: at least 32).
_WIREGUARD: Final = {
    1: ("initiation", 148),
    2: ("response", 92),
    3: ("cookie reply", 64),
    4: ("data", 0),
}
_STUN_COOKIE: Final = b"\x21\x12\xa4\x42"
_QUIC_VERSIONS: Final = (b"\0\0\0\1", b"\0\0\0\0", b"\x6b\x33\x43\xcf")
_TEXT_STARTS: Final = {
    b"M-SEARCH": "SSDP",
    b"NOTIFY *": "SSDP",
    b"OPTIONS ": "SIP",
    b"REGISTER": "SIP",
    b"INVITE s": "SIP",
    b"SIP/2.0 ": "SIP",
}


@lru_cache(1024)  # a flood repeats itself
def looks_like(payload: bytes, length: int) -> str:
    """Name the protocol, or say `unknown: begins 01 02 03`.

    Args:
        payload: First bytes (at most 16) of the UDP payload.
        length: The whole UDP payload in bytes.
    """
    if not payload:
        return "nothing: an empty datagram" if length == 0 else "unknown: its bytes could not be read"
    return (
        _wireguard(payload, length)
        or _by_magic(payload, length)
        or _dns(payload, length)
        or _ntp(payload, length)
        or f"unknown: begins {payload[:8].hex(' ')}"
    )


def _wireguard(payload: bytes, length: int) -> str | None:
    if len(payload) < 4 or payload[0] not in _WIREGUARD:
        return None
    name, exact = _WIREGUARD[payload[0]]
    fits = length == exact if exact else length >= 32
    if payload[1:4] != b"\0\0\0":
        return f"WireGuard {name} with reserved bytes set" if fits else None
    if fits:
        return None
    want = f"{exact}" if exact else "at least 32"
    return f"WireGuard {name} of the wrong length, {length} bytes and not {want}"


def _by_magic(payload: bytes, length: int) -> str | None:
    first = payload[0]
    if length >= 20 and first < 0x40 and payload[4:8] == _STUN_COOKIE:
        return "STUN"
    if first & 0xC0 == 0xC0 and (payload[1:5] in _QUIC_VERSIONS or payload[1:4] == b"\xff\0\0"):
        return "QUIC"
    if 20 <= first <= 25 and payload[1:3] in (b"\xfe\xfd", b"\xfe\xff"):
        return "DTLS"
    if length == 1 and first == 0xFF:
        return "an IPsec NAT keepalive"
    if length >= 32 and payload[:4] == b"\0\0\0\0" and any(payload[4:12]):
        return "IPsec IKE"
    if first == 0x38 and length >= 14:
        return "OpenVPN"
    return next((name for start, name in _TEXT_STARTS.items() if payload.startswith(start)), None)


def _dns(payload: bytes, length: int) -> str | None:
    if len(payload) < 12 or length < 17:
        return None
    flags = int.from_bytes(payload[2:4], "big")
    questions, answers, authorities, additional = (
        int.from_bytes(payload[at : at + 2], "big") for at in (4, 6, 8, 10)
    )
    if questions != 1 or flags & 0x7840 or additional > 20 or authorities > 20 or answers > 100:
        return None
    if flags & 0x8000:
        return "DNS (an answer)"
    return "DNS (a query)" if answers == 0 and authorities == 0 else None


def _ntp(payload: bytes, length: int) -> str | None:
    version, mode = payload[0] >> 3 & 7, payload[0] & 7
    return "NTP" if length in (48, 68) and 1 <= version <= 4 and 1 <= mode <= 5 else None
