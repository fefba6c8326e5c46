# SPDX-License-Identifier: GPL-2.0-only
"""WireGuard's messages as far as they can be made without a key (wireguard.com/protocol).

The first MAC takes no more than the receiver's public key, which gets a message as far as the
kernel's handshake code; what it finds inside is noise.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct

INITIATION, RESPONSE, COOKIE, DATA = 1, 2, 3, 4
INITIATION_LEN, RESPONSE_LEN, COOKIE_LEN, KEEPALIVE_LEN = 148, 92, 64, 32
_MAC_LEN = 16
_TIMESTAMP_AT = 88  # in an initiation, encrypted


def mac1(message: bytes, public_key: str) -> bytes:
    """The first MAC over what comes before the MACs of a handshake message.

    Args:
        public_key: The receiver's, base64.
    """
    key = hashlib.blake2s(b"mac1----" + base64.b64decode(public_key)).digest()
    return hashlib.blake2s(message, digest_size=_MAC_LEN, key=key).digest()


def initiation(public_key: str, ephemeral: bytes | None = None) -> bytes:
    """An initiation that is right up to its first MAC.

    Args:
        public_key: The receiver's, base64.
        ephemeral: 32 bytes; None: a good key.
    """
    inside = (ephemeral or os.urandom(32)) + os.urandom(INITIATION_LEN - 40 - 2 * _MAC_LEN)
    return _with_macs(struct.pack("<II", INITIATION, _index()) + inside, public_key)


def with_timestamp_broken(message: bytes, public_key: str) -> bytes:
    """A good initiation, changed where its time is, and with the first MAC made right again."""
    broken = bytearray(message[: -2 * _MAC_LEN])
    broken[_TIMESTAMP_AT] ^= 1
    return _with_macs(bytes(broken), public_key)


def response(public_key: str) -> bytes:
    """A response to an initiation that nobody sent, with a right first MAC."""
    inside = os.urandom(RESPONSE_LEN - 12 - 2 * _MAC_LEN)
    return _with_macs(struct.pack("<III", RESPONSE, _index(), _index()) + inside, public_key)


def cookie(receiver: int | None = None) -> bytes:
    """A cookie reply that does not authenticate.

    Args:
        receiver: Index of the handshake that it is for; None: of none.
    """
    index = _index() if receiver is None else receiver
    return struct.pack("<II", COOKIE, index) + os.urandom(COOKIE_LEN - 8)


def data_for_nobody() -> bytes:
    """A data message of a session that does not exist."""
    return struct.pack("<IIQ", DATA, _index(), 0) + os.urandom(KEEPALIVE_LEN - 16)


def changed(message: bytes) -> bytes:
    """The message with one bit of its end changed."""
    return message[:-1] + bytes([message[-1] ^ 1])


def sender_index(message: bytes) -> int:
    """The index that the sender of a handshake message gave itself."""
    return int(struct.unpack_from("<I", message, 4)[0])


def receiver_index(message: bytes) -> int:
    """The index that the sender of a response says its receiver has."""
    return int(struct.unpack_from("<I", message, 8)[0])


def counter(message: bytes) -> int:
    """The counter of a data message."""
    return int(struct.unpack_from("<Q", message, 8)[0])


def _with_macs(message: bytes, public_key: str) -> bytes:
    return message + mac1(message, public_key) + bytes(_MAC_LEN)


def _index() -> int:
    return int.from_bytes(os.urandom(4), "little")
