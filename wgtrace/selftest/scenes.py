# SPDX-License-Identifier: GPL-2.0-only
"""What selftest does to a tunnel: one scene for each reason that can be had, and why not for the others.

A scene is a generator. It provokes its reason, yields how many packets or messages WireGuard
must have dropped for it, and, once they were looked for, tidies up. It may leave peers and
sessions as they are: each scene that needs any makes them anew.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from wgtrace.events.reasons import Reason, SubReason
from wgtrace.selftest import messages
from wgtrace.selftest.pair import IFNAME, Pair, SceneError, new_public_key

N = 23
_FEW = 7  # where each one takes a peer of its own
_WAITING_MOST = 129  # a packet more than MAX_STAGED_PACKETS, as the kernel looks before it adds
_WINDOW = 8192  # COUNTER_BITS_TOTAL: what is older is too old
_FOREIGN = "198.51.100.7"  # an address of RFC 5737, inside the tunnel only
_FLOOD_TRIES = 20
_NEWER_S = 0.02  # kernels round the time in an initiation to 16.8 ms
_GRACE_S = 0.05  # more than the 20 ms in which an initiation is one too many

Steps = Generator[int, None, None]
Play = Callable[[Pair], Steps]


@dataclass(frozen=True, slots=True)
class Scene:
    """How a reason is provoked.

    Attributes:
        how: For the operator, one short phrase.
    """

    reason: Reason
    how: str
    play: Play
    sub_reason: SubReason = SubReason.NONE


@dataclass(frozen=True, slots=True)
class NotProvoked:
    """Why a reason is not provoked; `sub_reason`: only that one of it."""

    reason: Reason
    because: str
    sub_reason: SubReason = SubReason.NONE


# -- on the way out ------------------------------------------------------------


def _interface_down(pair: Pair) -> Steps:
    pair.peers_anew()
    pair.send(N)
    pair.a.ip("link", "set", IFNAME, "down")
    yield N
    pair.a.ip("link", "set", IFNAME, "up")


def _peer_removed(pair: Pair) -> Steps:
    pair.peers_anew()
    pair.send(N)
    pair.a.wg("set", IFNAME, "peer", pair.b.public_key, "remove")
    yield N


def _queue_overflows(pair: Pair) -> Steps:
    pair.peers_anew()
    pair.send(_WAITING_MOST + N)
    yield N


def _not_ip(pair: Pair) -> Steps:
    pair.frames([b"\xff" * 60] * N)
    yield N


def _nobodys_address(pair: Pair) -> Steps:
    with pair.route(_FOREIGN):
        yield _refused(pair)


def _no_endpoint(pair: Pair) -> Steps:
    stranger = new_public_key()
    pair.a.wg("set", IFNAME, "peer", stranger, "allowed-ips", _FOREIGN)
    with pair.route(_FOREIGN):
        yield _refused(pair)
    pair.a.wg("set", IFNAME, "peer", stranger, "remove")


def _refused(pair: Pair) -> int:
    """Send to the foreign address what the kernel refuses with an error; how often it did."""
    count = 0
    for _ in range(N):
        try:
            pair.a.send_udp(_FOREIGN)
        except OSError:
            count += 1
    return count


def _no_socket(pair: Pair) -> Steps:
    # An interface keeps its socket in the namespace that it was made in: one that ends with this shell.
    orphan, here = "orphan", pair.a.netns
    made = f"ip link add {orphan} netns {here} type wireguard && ip -n {here} link set {orphan} up"
    subprocess.run(
        ["unshare", "--net", "sh", "-c", made], check=True, capture_output=True, start_new_session=True
    )
    pair.wait_until(lambda: "NO-CARRIER" in pair.a.ip("link", "show", orphan), "a namespace ends")
    pair.a.wg("set", orphan, "private-key", "/dev/stdin", stdin=pair.a.wg("genkey"))
    _knock(pair, orphan, "endpoint", pair.b.endpoint)
    yield _FEW
    pair.a.ip("link", "del", orphan)


def _nowhere_to_knock(pair: Pair) -> Steps:
    strangers = _knock(pair, IFNAME)
    yield _FEW
    pair.a.wg("set", IFNAME, *(word for key in strangers for word in ("peer", key, "remove")))


def _knock(pair: Pair, ifname: str, *settings: str) -> list[str]:
    """Give an interface of a new peers, to each of which it sends an initiation at once.

    A keepalive interval makes it do so; the next one goes 5 s later, if there is a peer by then.
    """
    strangers = [new_public_key() for _ in range(_FEW)]
    peers = [("peer", key, *settings, "persistent-keepalive", "25") for key in strangers]
    pair.a.wg("set", ifname, *(word for peer in peers for word in peer))
    return strangers


def _no_route(pair: Pair) -> Steps:
    pair.connect()
    with pair.route(pair.b.outer_addr, "blackhole"):
        pair.send(N)
        yield N


# -- on the way in ---------------------------------------------------------------


def _datagrams(message: bytes) -> Play:
    """A scene that sends datagrams of no meaning to b."""

    def play(pair: Pair) -> Steps:
        pair.relay.deliver(pair.b, [message] * N)
        yield N

    return play


def _unknown_session(pair: Pair) -> Steps:
    pair.relay.deliver(pair.b, [messages.data_for_nobody() for _ in range(N)])
    yield N


def _changed_on_the_way(pair: Pair) -> Steps:
    pair.connect()
    pair.relay.deliver(pair.b, [messages.changed(message) for message in pair.data(N)])
    yield N


def _duplicated(pair: Pair) -> Steps:
    pair.connect()
    pair.relay.deliver(pair.b, pair.data() * (1 + N))
    yield N


def _too_late(pair: Pair) -> Steps:
    pair.connect()
    late = pair.data(N)
    newest = beyond = messages.counter(late[-1]) + _WINDOW
    pair.use_up_counters(_WINDOW)
    while newest <= beyond:
        pair.relay.forget(pair.a)
        (overtook,) = pair.data()
        newest = messages.counter(overtook)
    pair.relay.deliver(pair.b, [overtook, *late])
    yield N


def _inner_length_lies(pair: Pair) -> Steps:
    pair.connect()
    pair.frames([_ipv4(pair, bytes(40), total_len=2000)] * N)
    pair.relay.deliver(pair.b, pair.relay.held(pair.a, messages.DATA, N))
    yield N


def _source_of_nobody(pair: Pair) -> Steps:
    pair.connect()
    pair.a.ip("addr", "add", _FOREIGN, "dev", "lo")
    pair.relay.deliver(pair.b, pair.data(N, source=_FOREIGN))
    yield N
    pair.a.ip("addr", "del", _FOREIGN, "dev", "lo")


def _source_of_another(pair: Pair) -> Steps:
    owner = new_public_key()
    pair.b.wg("set", IFNAME, "peer", owner, "allowed-ips", _FOREIGN)
    yield from _source_of_nobody(pair)
    pair.b.wg("set", IFNAME, "peer", owner, "remove")


# -- handshakes --------------------------------------------------------------------


def _mac1_of_another(pair: Pair) -> Steps:
    pair.relay.deliver(pair.b, [messages.initiation(new_public_key()) for _ in range(N)])
    yield N


def _no_private_key(pair: Pair) -> Steps:
    first = pair.initiation()
    key = pair.b.wg("show", IFNAME, "private-key")
    pair.b.wg("set", IFNAME, "private-key", "/dev/null")
    pair.relay.deliver(pair.b, [first] * N)
    yield N
    pair.b.wg("set", IFNAME, "private-key", "/dev/stdin", stdin=key)


def _bad_ephemeral(pair: Pair) -> Steps:
    low_order = bytes(32)
    pair.relay.deliver(pair.b, [messages.initiation(pair.b.public_key, low_order) for _ in range(N)])
    yield N


def _forged_initiation(pair: Pair) -> Steps:
    pair.relay.deliver(pair.b, [messages.initiation(pair.b.public_key) for _ in range(N)])
    yield N


def _unknown_peer(pair: Pair) -> Steps:
    pair.b.wg("set", IFNAME, "peer", pair.a.public_key, "remove")
    pair.relay.deliver(pair.b, [pair.initiation()] * N)
    yield N


def _changed_initiation(pair: Pair) -> Steps:
    pair.peers_anew()
    broken = messages.with_timestamp_broken(pair.initiation(), pair.b.public_key)
    pair.relay.deliver(pair.b, [broken] * N)
    yield N


def _replayed_initiation(pair: Pair) -> Steps:
    pair.peers_anew()
    first = pair.initiation()
    _response(pair, first)
    pair.relay.deliver(pair.b, [first] * N)
    yield N


def _hasty_initiations(pair: Pair) -> Steps:
    # A kernel may be too slow to be hasty. What b did not answer it refused, so that can be counted.
    pair.peers_anew()
    for _ in range(_FLOOD_TRIES):
        first, second = (_newer_initiation(pair, _NEWER_S) for _ in range(2))
        pair.relay.forget(pair.b)
        pair.relay.deliver(pair.b, [first])
        time.sleep(0.001)  # several CPUs may work on them at once; the first is to be the first
        pair.relay.deliver(pair.b, [second])
        third = _newer_initiation(pair, _GRACE_S)
        pair.relay.deliver(pair.b, [third])
        answered: set[int] = set()
        while messages.sender_index(third) not in answered:
            (answer,) = pair.relay.held(pair.b, messages.RESPONSE)
            answered.add(messages.receiver_index(answer))
        if messages.sender_index(first) in answered and messages.sender_index(second) not in answered:
            yield 1
            return
    raise SceneError("this machine is too slow to take two initiations within 20 ms")


def _newer_initiation(pair: Pair, seconds: float) -> bytes:
    time.sleep(seconds)
    return pair.initiation()


def _answer_to_nobody(pair: Pair) -> Steps:
    pair.relay.deliver(pair.a, [messages.response(pair.a.public_key) for _ in range(N)])
    yield N


def _other_preshared_key(pair: Pair) -> Steps:
    pair.peers_anew()
    first = pair.initiation()
    pair.a.wg(
        *("set", IFNAME, "peer", pair.b.public_key, "preshared-key", "/dev/stdin"), stdin=pair.a.wg("genpsk")
    )
    pair.relay.deliver(pair.a, [_response(pair, first)] * N)
    yield N


def _cookie_for_nobody(pair: Pair) -> Steps:
    pair.relay.deliver(pair.a, [messages.cookie() for _ in range(N)])
    yield N


def _forged_cookie(pair: Pair) -> Steps:
    index = messages.sender_index(pair.initiation())
    pair.relay.deliver(pair.a, [messages.cookie(index) for _ in range(N)])
    yield N


def _response(pair: Pair, first: bytes) -> bytes:
    """What b answers to an initiation."""
    pair.relay.forget(pair.b)
    pair.relay.deliver(pair.b, [first])
    return pair.relay.held(pair.b, messages.RESPONSE)[0]


def _ipv4(pair: Pair, payload: bytes, total_len: int | None = None) -> bytes:
    """An IPv4 packet from a to b, of protocol 253 (for experiments)."""
    length = 20 + len(payload) if total_len is None else total_len
    addresses = socket.inet_aton(pair.a.inner()) + socket.inet_aton(pair.b.inner())
    return struct.pack(">BBHHHBBH", 0x45, 0, length, 0, 0, 64, 253, 0) + addresses + payload


#: In the order in which they are played: the first two find nothing waiting that others left.
SCENES: tuple[Scene, ...] = (
    Scene(Reason.STAGED_PURGED_IFDOWN, "packets wait while the interface goes down", _interface_down),
    Scene(Reason.STAGED_PURGED_PEER_REMOVED, "packets wait while their peer is removed", _peer_removed),
    Scene(Reason.STAGED_QUEUE_OVERFLOW, "152 packets to a peer that does not answer", _queue_overflows),
    Scene(Reason.BAD_PROTOCOL, "frames that are no IP packets", _not_ip),
    Scene(Reason.ALLOWEDIPS_NO_PEER, "to an address of no peer", _nobodys_address),
    Scene(Reason.NO_ENDPOINT, "to a peer without endpoint", _no_endpoint),
    Scene(Reason.UDP_SOCK_NULL, "an interface whose first namespace is gone", _no_socket),
    Scene(Reason.ENDPOINT_AF_INVALID, "handshakes with peers without endpoint", _nowhere_to_knock),
    Scene(Reason.NO_ROUTE_TO_ENDPOINT, "a blackhole route to the endpoint", _no_route),
    Scene(Reason.BAD_HEADER, "2 bytes", _datagrams(b"\x01\x00"), SubReason.TOO_SHORT),
    Scene(
        Reason.BAD_HEADER,
        "a type that WireGuard has not",
        _datagrams(b"\x09" + bytes(63)),
        SubReason.UNKNOWN_TYPE,
    ),
    Scene(
        Reason.BAD_HEADER,
        "an initiation of 147 bytes",
        _datagrams(b"\x01" + bytes(146)),
        SubReason.WRONG_LENGTH_FOR_TYPE,
    ),
    Scene(Reason.UNKNOWN_RECEIVER_INDEX, "data of a session that never was", _unknown_session),
    Scene(Reason.DECRYPT_FAILED, "data with a bit changed on the way", _changed_on_the_way),
    Scene(Reason.REPLAY_OR_OLD_COUNTER, "data that arrives again", _duplicated, SubReason.DUPLICATE),
    Scene(Reason.REPLAY_OR_OLD_COUNTER, "data overtaken by 8192 others", _too_late, SubReason.TOO_OLD),
    Scene(Reason.BAD_INNER_SIZE, "inner packets shorter than they say", _inner_length_lies),
    Scene(Reason.SRC_NOT_ALLOWED, "from a source of no peer", _source_of_nobody, SubReason.OWNED_BY_NOBODY),
    Scene(
        Reason.SRC_NOT_ALLOWED,
        "from the source of another peer",
        _source_of_another,
        SubReason.OWNED_BY_OTHER_PEER,
    ),
    Scene(Reason.INVALID_MAC1, "initiations for another public key", _mac1_of_another),
    Scene(Reason.NO_PRIVATE_KEY, "initiations while the private key is gone", _no_private_key),
    Scene(Reason.INIT_DH_FAILED, "initiations with an ephemeral key of 0", _bad_ephemeral),
    Scene(Reason.INIT_STATIC_DECRYPT_FAILED, "initiations of noise, first MAC right", _forged_initiation),
    Scene(Reason.UNKNOWN_PEER_PUBKEY, "initiations of a peer that was removed", _unknown_peer),
    Scene(Reason.INIT_TIMESTAMP_DECRYPT_FAILED, "initiations with their time changed", _changed_initiation),
    Scene(Reason.HANDSHAKE_INIT_REPLAY, "an initiation that arrives again", _replayed_initiation),
    Scene(Reason.HANDSHAKE_FLOOD, "two initiations within 20 ms", _hasty_initiations),
    Scene(Reason.RESP_UNKNOWN_INDEX, "responses that nobody waits for", _answer_to_nobody),
    Scene(Reason.RESP_DECRYPT_FAILED, "responses under another preshared key", _other_preshared_key),
    Scene(Reason.COOKIE_UNKNOWN_INDEX, "cookies that nobody waits for", _cookie_for_nobody),
    Scene(Reason.COOKIE_DECRYPT_FAILED, "cookies that are noise", _forged_cookie),
)

_NO_MEMORY = "needs memory to run out"
_RACE = "needs a race that lasts microseconds"
_OVERLOAD = "needs CPUs too busy for WireGuard"
_OTHERS = "would put every WireGuard interface of the host under load"
_PEER_OF_OURS = "needs a peer that is no kernel's"

NOT_PROVOKED: tuple[NotProvoked, ...] = (
    NotProvoked(Reason.GSO_SEGMENT_FAILED, "the kernel cuts bad super-packets before WireGuard does"),
    NotProvoked(Reason.SKB_CLONE_NOMEM, _NO_MEMORY),
    NotProvoked(Reason.STAGED_PURGED_GIVEUP, "needs 100 s"),
    NotProvoked(Reason.PEER_DEAD_TX, _RACE),
    NotProvoked(Reason.TX_QUEUE_FULL, _OVERLOAD),
    NotProvoked(Reason.ENCRYPT_QUEUE_FULL, _OVERLOAD),
    NotProvoked(Reason.ENCRYPT_FAILED, _NO_MEMORY),
    NotProvoked(Reason.HANDSHAKE_TX_NOMEM, _NO_MEMORY),
    NotProvoked(Reason.KEEPALIVE_NOMEM, _NO_MEMORY),
    NotProvoked(Reason.SOCK_USER_DATA_NULL, _RACE),
    NotProvoked(Reason.BAD_HEADER, "the kernel's UDP drops it before", SubReason.BOGUS_IP),
    NotProvoked(Reason.BAD_HEADER, "the kernel's UDP drops it before", SubReason.UDP_LEN_LIES),
    NotProvoked(Reason.BAD_HEADER, _NO_MEMORY, SubReason.NONLINEAR_PULL_FAILED),
    NotProvoked(Reason.PEER_DEAD_RX, _RACE),
    NotProvoked(Reason.RX_QUEUE_FULL, _OVERLOAD),
    NotProvoked(Reason.DECRYPT_QUEUE_FULL, _OVERLOAD),
    NotProvoked(Reason.KEYPAIR_INVALID, _PEER_OF_OURS),
    NotProvoked(Reason.KEYPAIR_EXPIRED, "needs 180 s"),
    NotProvoked(Reason.NONCE_LIMIT_RX, _PEER_OF_OURS),
    NotProvoked(Reason.DECRYPT_NOMEM, _NO_MEMORY),
    NotProvoked(Reason.REPLAY_OR_OLD_COUNTER, _PEER_OF_OURS, SubReason.EXHAUSTED),
    NotProvoked(Reason.ENDPOINT_FROM_SKB_FAILED, "no kernel gives WireGuard such a packet"),
    NotProvoked(Reason.BAD_INNER_HEADER, _PEER_OF_OURS),
    NotProvoked(Reason.INNER_TRIM_FAILED, _NO_MEMORY),
    NotProvoked(Reason.RNG_NOT_READY, "only in the first seconds after boot"),
    NotProvoked(Reason.HANDSHAKE_QUEUE_CONTENDED, _OTHERS),
    NotProvoked(Reason.HANDSHAKE_QUEUE_FULL, _OTHERS),
    NotProvoked(Reason.COOKIE_UNDER_LOAD, _OTHERS),
    NotProvoked(Reason.RATELIMITED, _OTHERS),
    NotProvoked(Reason.INIT_PRECOMPUTED_ZERO, _PEER_OF_OURS),
    NotProvoked(Reason.RESP_BAD_STATE, _RACE),
    NotProvoked(Reason.RESP_SUPERSEDED, _RACE),
    NotProvoked(Reason.RESPONSE_NOT_SENT, _RACE),
    NotProvoked(Reason.SESSION_NOT_STARTED, _RACE),
    NotProvoked(Reason.COOKIE_UNSOLICITED, _OTHERS),
    NotProvoked(Reason.RESP_DH_FAILED, _PEER_OF_OURS),
    NotProvoked(Reason.INIT_CREATE_FAILED, "needs an interface without a private key that sends"),
    NotProvoked(Reason.HANDSHAKE_PURGED_IFDOWN, _OTHERS),
)
