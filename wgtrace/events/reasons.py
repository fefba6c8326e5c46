# SPDX-License-Identifier: GPL-2.0-only
"""The catalogue of drop reasons: one row for each id.

Numbers are `enum wgt_reason` of bpf/events.h; names are the ids that users see.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property


class Direction(enum.Enum):
    """Which way the packet was going, seen from the WireGuard interface."""

    TX = "tx"
    RX = "rx"
    HANDSHAKE = "handshake"


class Reason(enum.IntEnum):
    """`enum wgt_reason`: why WireGuard dropped or refused a packet."""

    BAD_PROTOCOL = 1
    ALLOWEDIPS_NO_PEER = 2
    NO_ENDPOINT = 3
    GSO_SEGMENT_FAILED = 4
    SKB_CLONE_NOMEM = 5
    STAGED_QUEUE_OVERFLOW = 6
    STAGED_PURGED_GIVEUP = 7
    STAGED_PURGED_IFDOWN = 8
    STAGED_PURGED_PEER_REMOVED = 9
    PEER_DEAD_TX = 10
    TX_QUEUE_FULL = 11
    ENCRYPT_QUEUE_FULL = 12
    ENCRYPT_FAILED = 13
    UDP_SOCK_NULL = 14
    NO_ROUTE_TO_ENDPOINT = 15
    ENDPOINT_AF_INVALID = 16
    HANDSHAKE_TX_NOMEM = 17
    KEEPALIVE_NOMEM = 18

    SOCK_USER_DATA_NULL = 32
    BAD_HEADER = 33
    UNKNOWN_RECEIVER_INDEX = 34
    PEER_DEAD_RX = 35
    RX_QUEUE_FULL = 36
    DECRYPT_QUEUE_FULL = 37
    KEYPAIR_INVALID = 38
    KEYPAIR_EXPIRED = 39
    NONCE_LIMIT_RX = 40
    DECRYPT_NOMEM = 41
    DECRYPT_FAILED = 42
    REPLAY_OR_OLD_COUNTER = 43
    ENDPOINT_FROM_SKB_FAILED = 44
    BAD_INNER_SIZE = 45
    BAD_INNER_HEADER = 46
    INNER_TRIM_FAILED = 47
    SRC_NOT_ALLOWED = 48

    RNG_NOT_READY = 64
    HANDSHAKE_QUEUE_CONTENDED = 65
    HANDSHAKE_QUEUE_FULL = 66
    INVALID_MAC1 = 67
    COOKIE_UNDER_LOAD = 68
    RATELIMITED = 69
    NO_PRIVATE_KEY = 70
    INIT_DH_FAILED = 71
    INIT_STATIC_DECRYPT_FAILED = 72
    UNKNOWN_PEER_PUBKEY = 73
    INIT_PRECOMPUTED_ZERO = 74
    INIT_TIMESTAMP_DECRYPT_FAILED = 75
    HANDSHAKE_INIT_REPLAY = 76
    HANDSHAKE_FLOOD = 77
    RESP_UNKNOWN_INDEX = 78
    RESP_BAD_STATE = 79
    RESP_DECRYPT_FAILED = 80
    RESP_SUPERSEDED = 81
    RESPONSE_NOT_SENT = 82
    SESSION_NOT_STARTED = 83
    COOKIE_UNKNOWN_INDEX = 84
    COOKIE_UNSOLICITED = 85
    COOKIE_DECRYPT_FAILED = 86
    RESP_DH_FAILED = 87
    INIT_CREATE_FAILED = 88
    HANDSHAKE_PURGED_IFDOWN = 89

    @cached_property
    def id(self) -> str:
        """The name that users see, for example `src_not_allowed`."""
        return self.name.lower()

    @cached_property
    def direction(self) -> Direction:
        """The direction that the number's range stands for."""
        if self < 32:
            return Direction.TX
        return Direction.RX if self < 64 else Direction.HANDSHAKE


@dataclass(frozen=True, slots=True)
class KernelReason:
    """Why the kernel dropped a packet of a tunnel outside of WireGuard.

    Attributes:
        id: Name in `enum skb_drop_reason` of that kernel, in lower case without its prefix.
    """

    id: str
    direction: Direction


class SubReason(enum.IntEnum):
    """`enum wgt_sub_reason`: a finer reason within one."""

    NONE = 0
    BOGUS_IP = 1
    UDP_LEN_LIES = 2
    TOO_SHORT = 3
    UNKNOWN_TYPE = 4
    WRONG_LENGTH_FOR_TYPE = 5
    NONLINEAR_PULL_FAILED = 6
    DUPLICATE = 16
    TOO_OLD = 17
    EXHAUSTED = 18
    OWNED_BY_NOBODY = 32
    OWNED_BY_OTHER_PEER = 33
    KEY_ABSENT = 48
    KEY_INVALIDATED = 49
    KEYPAIR_EXPIRED = 50
    NONCE_EXHAUSTED = 51
    KEY_OLD = 52
    LAST_MINUTE = 53
    NO_ANSWER = 54
    UNUSED_540S = 64
    INTERFACE_DOWN = 65
    PEER_REMOVED = 66
    SUSPENDED = 67
    INITIATOR = 72
    RESPONDER = 73
    PORT_UNREACHABLE = 80
    HOST_UNREACHABLE = 81
    PROHIBITED = 82

    @cached_property
    def id(self) -> str | None:
        """The name that users see, or None for `NONE`."""
        return self.name.lower() if self else None


class HandshakeCode(enum.IntEnum):
    """`enum wgt_handshake_code`: a step that a handshake took, or why one is waited for."""

    INIT_SENT = 1
    RETRY = 2
    GIVE_UP = 3
    INIT_ACCEPTED = 4
    RESPONSE_SENT = 5
    RESPONSE_ACCEPTED = 6
    HANDSHAKE_COMPLETE = 7
    COOKIE_RECEIVED = 8
    INIT_SUPPRESSED_5S = 9
    INIT_PEER_DEAD = 10
    STAGED_WAIT = 11
    REKEY_REQUESTED = 12
    NO_ANSWER_15S = 13
    ROUTE_FOUND = 14
    SESSION_DERIVED = 15
    KEYS_CLEARED = 16
    KEYS_EXPIRED = 17
    ICMP_ERROR = 18
    UNREACHABLE = 19

    @cached_property
    def id(self) -> str:
        """The name that users see, for example `init_sent`."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """What one reason means.

    Attributes:
        means: One short sentence without a subject's details, no full stop.
        counter: Fields of `ip -s -s link show` (rtnl_link_stats64) that the
            kernel counts it in; empty: it moves no counter.
    """

    means: str
    counter: tuple[str, ...] = ()


CATALOGUE: dict[Reason, ReasonRow] = {
    Reason.BAD_PROTOCOL: ReasonRow(
        "not an IP packet, or marked as another IP version than it is", ("tx_errors",)
    ),
    Reason.ALLOWEDIPS_NO_PEER: ReasonRow("no peer has the destination in its AllowedIPs", ("tx_errors",)),
    Reason.NO_ENDPOINT: ReasonRow("the peer has no endpoint yet", ("tx_errors",)),
    Reason.GSO_SEGMENT_FAILED: ReasonRow(
        "the kernel could not cut the super-packet into segments", ("tx_errors",)
    ),
    Reason.SKB_CLONE_NOMEM: ReasonRow("no memory for a copy of the packet"),
    Reason.STAGED_QUEUE_OVERFLOW: ReasonRow(
        "waited for a handshake, and more than 128 packets wait", ("tx_dropped",)
    ),
    Reason.STAGED_PURGED_GIVEUP: ReasonRow(
        "waited for a handshake that never completed (20 attempts)", ("tx_dropped",)
    ),
    Reason.STAGED_PURGED_IFDOWN: ReasonRow(
        "was waiting for a handshake when the interface went down", ("tx_dropped",)
    ),
    Reason.STAGED_PURGED_PEER_REMOVED: ReasonRow(
        "was waiting for a handshake when the peer was removed", ("tx_dropped",)
    ),
    Reason.PEER_DEAD_TX: ReasonRow("the peer was removed just now"),
    Reason.TX_QUEUE_FULL: ReasonRow("1024 packets of this peer already wait to be sent"),
    Reason.ENCRYPT_QUEUE_FULL: ReasonRow("1024 packets of this interface already wait for encryption"),
    Reason.ENCRYPT_FAILED: ReasonRow("the packet could not be encrypted"),
    Reason.UDP_SOCK_NULL: ReasonRow("WireGuard has no UDP socket of the endpoint's family"),
    Reason.NO_ROUTE_TO_ENDPOINT: ReasonRow("no route to the peer's endpoint"),
    Reason.ENDPOINT_AF_INVALID: ReasonRow("the peer's endpoint vanished while sending"),
    Reason.HANDSHAKE_TX_NOMEM: ReasonRow("no memory for a handshake message"),
    Reason.KEEPALIVE_NOMEM: ReasonRow("no memory for a keepalive"),
    Reason.SOCK_USER_DATA_NULL: ReasonRow("the UDP socket was being closed"),
    Reason.BAD_HEADER: ReasonRow("not a WireGuard message"),
    Reason.UNKNOWN_RECEIVER_INDEX: ReasonRow("for a session that this side does not have"),
    Reason.PEER_DEAD_RX: ReasonRow("the peer was removed just now"),
    Reason.RX_QUEUE_FULL: ReasonRow("1024 packets of this peer already wait to be received"),
    Reason.DECRYPT_QUEUE_FULL: ReasonRow("1024 packets of this interface already wait for decryption"),
    Reason.KEYPAIR_INVALID: ReasonRow("the session's keys are no longer valid"),
    Reason.KEYPAIR_EXPIRED: ReasonRow("the session is older than 180 seconds"),
    Reason.NONCE_LIMIT_RX: ReasonRow("the session has used up its message counter"),
    Reason.DECRYPT_NOMEM: ReasonRow("no memory to decrypt the packet, or in too many pieces"),
    Reason.DECRYPT_FAILED: ReasonRow("changed on the way: authentication failed"),
    Reason.REPLAY_OR_OLD_COUNTER: ReasonRow("its message counter was seen before, or is too old"),
    Reason.ENDPOINT_FROM_SKB_FAILED: ReasonRow("the outer packet is neither IPv4 nor IPv6"),
    Reason.BAD_INNER_SIZE: ReasonRow(
        "the inner packet's length field is wrong", ("rx_errors", "rx_length_errors")
    ),
    Reason.BAD_INNER_HEADER: ReasonRow(
        "the inner packet is neither IPv4 nor IPv6", ("rx_errors", "rx_frame_errors")
    ),
    Reason.INNER_TRIM_FAILED: ReasonRow("no memory to trim the packet"),
    Reason.SRC_NOT_ALLOWED: ReasonRow(
        "the inner source is not in this peer's AllowedIPs", ("rx_errors", "rx_frame_errors")
    ),
    Reason.RNG_NOT_READY: ReasonRow("the kernel's random numbers are not ready yet"),
    Reason.HANDSHAKE_QUEUE_CONTENDED: ReasonRow("the handshake queue is busy"),
    Reason.HANDSHAKE_QUEUE_FULL: ReasonRow("4096 handshake messages already wait"),
    Reason.INVALID_MAC1: ReasonRow("made for another public key than this interface's"),
    Reason.COOKIE_UNDER_LOAD: ReasonRow("under load: answered with a cookie, to be asked again"),
    Reason.RATELIMITED: ReasonRow("more than 20 handshakes a second from this address"),
    Reason.NO_PRIVATE_KEY: ReasonRow("this interface has no private key"),
    Reason.INIT_DH_FAILED: ReasonRow("the initiation's ephemeral key is invalid"),
    Reason.INIT_STATIC_DECRYPT_FAILED: ReasonRow("the initiation was changed on the way or is forged"),
    Reason.UNKNOWN_PEER_PUBKEY: ReasonRow("its public key is no peer here"),
    Reason.INIT_PRECOMPUTED_ZERO: ReasonRow("the peer's public key is invalid"),
    Reason.INIT_TIMESTAMP_DECRYPT_FAILED: ReasonRow("the initiation was changed on the way or is forged"),
    Reason.HANDSHAKE_INIT_REPLAY: ReasonRow("the initiation is not newer than the last one accepted"),
    Reason.HANDSHAKE_FLOOD: ReasonRow("less than 20 ms after the last initiation accepted"),
    Reason.RESP_UNKNOWN_INDEX: ReasonRow("answers an initiation that is no longer waited for"),
    Reason.RESP_BAD_STATE: ReasonRow("answers an initiation that was already answered"),
    Reason.RESP_DECRYPT_FAILED: ReasonRow("the response does not authenticate: another preshared key"),
    Reason.RESP_SUPERSEDED: ReasonRow("another handshake was faster"),
    Reason.RESPONSE_NOT_SENT: ReasonRow("no response could be made"),
    Reason.SESSION_NOT_STARTED: ReasonRow("no session could be made from a good response"),
    Reason.COOKIE_UNKNOWN_INDEX: ReasonRow("a cookie for a handshake that is not ours"),
    Reason.COOKIE_UNSOLICITED: ReasonRow("a cookie that was not asked for"),
    Reason.COOKIE_DECRYPT_FAILED: ReasonRow("the cookie does not authenticate"),
    Reason.RESP_DH_FAILED: ReasonRow("the response's ephemeral key is invalid"),
    Reason.INIT_CREATE_FAILED: ReasonRow(
        "no initiation could be made: no private key, or an invalid public one"
    ),
    Reason.HANDSHAKE_PURGED_IFDOWN: ReasonRow("waited to be looked at when the interface went down"),
}
