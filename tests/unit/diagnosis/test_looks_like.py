# SPDX-License-Identifier: GPL-2.0-only
"""looks_like: guesses at packets that are no WireGuard messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgtrace.diagnosis.looks_like import looks_like

SAMPLES = [
    ("abcd01000001000000000000", 29, "DNS (a query)"),
    ("abcd81800001000100000000", 45, "DNS (an answer)"),
    ("000100002112a442aabbccdd", 20, "STUN"),
    ("c000000001088394c8f03e51", 1200, "QUIC"),
    ("c36b3343cf088394c8f03e51", 1200, "QUIC"),
    ("16fefd00000000000000", 120, "DTLS"),
    ("23000000000000000000000000000000", 48, "NTP"),
    ("ff", 1, "an IPsec NAT keepalive"),
    ("0000000001020304050607080000", 200, "IPsec IKE"),
    ("380102030405060708", 14, "OpenVPN"),
    (b"OPTIONS sip:x".hex(), 300, "SIP"),
    (b"M-SEARCH * HTTP".hex(), 150, "SSDP"),
    ("01a1b2c3", 148, "WireGuard initiation with reserved bytes set"),
    ("04a1b2c3", 96, "WireGuard data with reserved bytes set"),
    ("01000000", 140, "WireGuard initiation of the wrong length, 140 bytes and not 148"),
    ("04000000", 20, "WireGuard data of the wrong length, 20 bytes and not at least 32"),
    ("", 0, "nothing: an empty datagram"),
    ("", 50, "unknown: its bytes could not be read"),
    ("010203", 3, "unknown: begins 01 02 03"),
    ("ffffffffffffffffffff", 10, "unknown: begins ff ff ff ff ff ff ff ff"),
]


@pytest.mark.parametrize(("payload", "length", "name"), SAMPLES)
def test_names_the_protocol(payload: str, length: int, name: str) -> None:
    """First bytes and length give the protocol, or `unknown` with the bytes."""
    assert looks_like(bytes.fromhex(payload), length) == name


@pytest.mark.parametrize(("kind", "length"), [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1452)])
def test_a_good_message_is_not_called_damaged(kind: int, length: int) -> None:
    """A message of the right type and length is never called one of the wrong length."""
    assert "WireGuard" not in looks_like(bytes([kind, 0, 0, 0, 9, 9, 9, 9]), length)


@given(payload=st.binary(max_size=16), length=st.integers(0, 65_535))  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
def test_any_bytes_get_an_answer(payload: bytes, length: int) -> None:
    """No payload, however cut, breaks the guess."""
    assert looks_like(payload, length)
