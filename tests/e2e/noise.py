# SPDX-License-Identifier: GPL-2.0-only
"""A WireGuard peer of our own making, that can misbehave in every way.

It speaks the protocol of wireguard.com/protocol as the initiator, over a plain UDP
socket, so a test can send what no kernel would: any inner bytes, any counter, any
time. Keys are made for the test and thrown away with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import struct
import time

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
TAI64_EPOCH = (1 << 62) + 10
ZERO_KEY = bytes(32)


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.blake2s).digest()


def _kdf(chaining_key: bytes, data: bytes, count: int) -> list[bytes]:
    secret, outputs, last = _hmac(chaining_key, data), [], b""
    for number in range(1, count + 1):
        last = _hmac(secret, last + bytes([number]))
        outputs.append(last)
    return outputs


def mac1(message: bytes, receiver_public: bytes) -> bytes:
    """The first MAC of a handshake message: anyone who knows the receiver's public key can make it."""
    return hashlib.blake2s(message, digest_size=16, key=_hash(b"mac1----", receiver_public)).digest()


def _seal(key: bytes, counter: int, plain: bytes, data: bytes = b"") -> bytes:
    sealed: bytes = ChaCha20Poly1305(key).encrypt(bytes(4) + struct.pack("<Q", counter), plain, data)
    return sealed


def tai64n(unix_seconds: float) -> bytes:
    """A TAI64N time as the kernel makes it, without the whitening."""
    whole = int(unix_seconds)
    return struct.pack(">QI", TAI64_EPOCH + whole, int((unix_seconds - whole) * 1e9))


class Impostor:
    """A peer in a test's hands.

    Args:
        responder: The kernel's public key, base64.
        private: Its own private key; None: a new one.
    """

    def __init__(self, responder: str, private: bytes | None = None) -> None:
        self._static = X25519PrivateKey.from_private_bytes(private or os.urandom(32))
        self._responder = base64.b64decode(responder)
        self.index = int.from_bytes(os.urandom(4), "little")
        self.counter = 0

    @property
    def public_key(self) -> str:
        """Base64."""
        return base64.b64encode(self._static_public).decode()

    @property
    def private_key(self) -> str:
        """Base64, for `wg set ... private-key /dev/stdin`."""
        raw = self._static.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return base64.b64encode(raw).decode()

    @property
    def _static_public(self) -> bytes:
        raw: bytes = self._static.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return raw

    def initiation(self, sent_at: float | None = None) -> bytes:
        """A handshake initiation.

        Args:
            sent_at: Unix time that it says; None: now.
        """
        self._ephemeral = X25519PrivateKey.generate()
        ephemeral: bytes = self._ephemeral.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        responder = X25519PublicKey.from_public_bytes(self._responder)
        chain = _hash(CONSTRUCTION)
        digest = _hash(_hash(chain, IDENTIFIER), self._responder)
        digest = _hash(digest, ephemeral)
        (chain,) = _kdf(chain, ephemeral, 1)
        chain, key = _kdf(chain, self._ephemeral.exchange(responder), 2)
        static = _seal(key, 0, self._static_public, digest)
        digest = _hash(digest, static)
        chain, key = _kdf(chain, self._static.exchange(responder), 2)
        timestamp = _seal(key, 0, tai64n(time.time() if sent_at is None else sent_at), digest)
        self._chain, self._digest = chain, _hash(digest, timestamp)
        message = struct.pack("<II", 1, self.index) + ephemeral + static + timestamp
        return message + mac1(message, self._responder) + bytes(16)

    def take_response(self, message: bytes, preshared: bytes = ZERO_KEY) -> None:
        """Derive the session's keys from a handshake response."""
        kind, self.remote_index, receiver = struct.unpack_from("<III", message)
        assert (kind, receiver) == (2, self.index)
        ephemeral = message[12:44]
        peer = X25519PublicKey.from_public_bytes(ephemeral)
        (chain,) = _kdf(self._chain, ephemeral, 1)
        (chain,) = _kdf(chain, self._ephemeral.exchange(peer), 1)
        (chain,) = _kdf(chain, self._static.exchange(peer), 1)
        chain, _tau, _key = _kdf(chain, preshared, 3)
        self._sending, self._receiving = _kdf(chain, b"", 2)
        self.counter = 0

    def data(self, inner: bytes, counter: int | None = None) -> bytes:
        """A transport data message that holds `inner`, padded to 16 bytes.

        Args:
            counter: None: the next one.
        """
        if counter is None:
            counter, self.counter = self.counter, self.counter + 1
        padded = inner + bytes(-len(inner) % 16)
        header = struct.pack("<IIQ", 4, self.remote_index, counter)
        return header + _seal(self._sending, counter, padded)

    def connect(self, sock: socket.socket, to: tuple[str, int]) -> None:
        """Shake hands with the kernel at `to` and confirm with a keepalive."""
        sock.settimeout(10)
        sock.sendto(self.initiation(), to)
        while True:
            message = sock.recv(2048)
            if message[0] == 2:
                break
        self.take_response(message)
        sock.sendto(self.data(b""), to)


def response_for_nobody(receiver_public: str, receiver_index: int) -> bytes:
    """A handshake response with a right first MAC and nothing else right."""
    message = struct.pack("<III", 2, 7, receiver_index) + os.urandom(48)
    return message + mac1(message, base64.b64decode(receiver_public)) + bytes(16)


def ipv4(saddr: str, daddr: str, payload: bytes = b"", total_len: int | None = None) -> bytes:
    """An IPv4 packet of protocol 253 (for experiments), with a total length of one's choice."""
    header = struct.pack(
        ">BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload) if total_len is None else total_len,
        0,
        0,
        64,
        253,
        0,
        socket.inet_aton(saddr),
        socket.inet_aton(daddr),
    )
    return header + payload


def ipv6(saddr: str, daddr: str, payload: bytes = b"", payload_len: int | None = None) -> bytes:
    """An IPv6 packet of protocol 253, with a payload length of one's choice."""
    length = len(payload) if payload_len is None else payload_len
    addresses = socket.inet_pton(socket.AF_INET6, saddr) + socket.inet_pton(socket.AF_INET6, daddr)
    return struct.pack(">IHBB", 6 << 28, length, 253, 64) + addresses + payload
