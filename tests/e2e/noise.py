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


def _open(key: bytes, sealed: bytes, data: bytes) -> bytes:
    plain: bytes = ChaCha20Poly1305(key).decrypt(bytes(12), sealed, data)
    return plain


def _hchacha20(key: bytes, nonce: bytes) -> bytes:
    """What makes XChaCha20 of ChaCha20: a key out of a key and the first 16 bytes of the nonce."""
    state = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for x, y, z, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & 0xFFFFFFFF
            mixed = state[z] ^ state[x]
            state[z] = (mixed << bits | mixed >> (32 - bits)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for row in range(4):
            quarter(row, (row + 1) % 4 + 4, (row + 2) % 4 + 8, (row + 3) % 4 + 12)
    return struct.pack("<8I", *state[:4], *state[12:])


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

    def initiation(self, sent_at: float | None = None, spoilt: str = "") -> bytes:
        """A handshake initiation.

        Args:
            sent_at: Unix time that it says; None: now.
            spoilt: What of it is not authentic: "ephemeral" (no point of the curve), "static",
                "timestamp", or "low order": it comes from the public key of zeros.
        """
        self._ephemeral = X25519PrivateKey.generate()
        ephemeral: bytes = self._ephemeral.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        responder = X25519PublicKey.from_public_bytes(self._responder)
        chain = _hash(CONSTRUCTION)
        digest = _hash(_hash(chain, IDENTIFIER), self._responder)
        digest = _hash(digest, ephemeral)
        (chain,) = _kdf(chain, ephemeral, 1)
        chain, key = _kdf(chain, self._ephemeral.exchange(responder), 2)
        static = _seal(key, 0, ZERO_KEY if spoilt == "low order" else self._static_public, digest)
        digest = _hash(digest, static)
        chain, key = _kdf(chain, self._static.exchange(responder), 2)
        timestamp = _seal(key, 0, tai64n(time.time() if sent_at is None else sent_at), digest)
        self._chain, self._digest = chain, _hash(digest, timestamp)
        parts = {"ephemeral": ephemeral, "static": static, "timestamp": timestamp}
        if spoilt in parts:
            parts[spoilt] = bytes(len(parts[spoilt]))
        message = struct.pack("<II", 1, self.index) + b"".join(parts.values())
        return message + mac1(message, self._responder) + bytes(16)

    def response(self, initiation: bytes, preshared: bytes = ZERO_KEY, spoilt: bool = False) -> bytes:
        """The answer to the kernel's initiation, and with it the keys of a session.

        Args:
            spoilt: Its ephemeral key is no point of the curve.
        """
        kind, self.remote_index = struct.unpack_from("<II", initiation)
        assert kind == 1
        theirs = X25519PublicKey.from_public_bytes(initiation[8:40])
        chain = _hash(CONSTRUCTION)
        digest = _hash(_hash(_hash(chain, IDENTIFIER), self._static_public), initiation[8:40])
        (chain,) = _kdf(chain, initiation[8:40], 1)
        chain, key = _kdf(chain, self._static.exchange(theirs), 2)
        static = _open(key, initiation[40:88], digest)
        assert static == self._responder
        digest = _hash(digest, initiation[40:88])
        responder = X25519PublicKey.from_public_bytes(static)
        chain, key = _kdf(chain, self._static.exchange(responder), 2)
        digest = _hash(digest, initiation[88:116])
        secret = X25519PrivateKey.generate()
        ephemeral: bytes = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        digest = _hash(digest, ephemeral)
        (chain,) = _kdf(chain, ephemeral, 1)
        (chain,) = _kdf(chain, secret.exchange(theirs), 1)
        (chain,) = _kdf(chain, secret.exchange(responder), 1)
        chain, tau, key = _kdf(chain, preshared, 3)
        nothing = _seal(key, 0, b"", _hash(digest, tau))
        self._receiving, self._sending = _kdf(chain, b"", 2)
        self.counter = 0
        message = struct.pack("<III", 2, self.index, self.remote_index)
        message += (ZERO_KEY if spoilt else ephemeral) + nothing
        return message + mac1(message, self._responder) + bytes(16)

    def cookie_reply(self, initiation: bytes) -> bytes:
        """A cookie for who sent that initiation, to be sent along with the next one."""
        (index,) = struct.unpack_from("<I", initiation, 4)
        nonce, key = os.urandom(24), _hash(b"cookie--", self._static_public)
        box = ChaCha20Poly1305(_hchacha20(key, nonce[:16]))
        sealed: bytes = box.encrypt(bytes(4) + nonce[16:], os.urandom(16), initiation[-32:-16])
        return struct.pack("<II", 3, index) + nonce + sealed

    def with_cookie(self, message: bytes, reply: bytes, to: bytes) -> bytes:
        """A handshake message with the second MAC, made of the cookie in the reply to another one."""
        box = ChaCha20Poly1305(_hchacha20(_hash(b"cookie--", self._responder), reply[8:24]))
        cookie = box.decrypt(bytes(4) + reply[24:32], reply[32:64], to[-32:-16])
        return message[:-16] + hashlib.blake2s(message[:-16], digest_size=16, key=cookie).digest()

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
        sock.settimeout(60)
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
