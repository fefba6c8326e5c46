# SPDX-License-Identifier: GPL-2.0-only
"""The probes of `wgtrace latency`: where a packet goes from one stage to the next.

Unlike those of `drops` they are on the path of every packet: five runs outwards, four
inwards. The last row is where a packet is first known, so it is attached last: what is
known then passes all the others.
"""

from __future__ import annotations

from wgtrace.probes.catalogue import WIREGUARD
from wgtrace.probes.types import REMEMBER, Point, Probe

_FILE = "latency.bpf.c"
_TX, _RX = "latency of packets going out", "latency of packets coming in"


def _probe(
    target: str, point: Point, handler: str, args: tuple[str, ...], gives: tuple[str, ...], tells: str
) -> Probe:
    name = f"{target.replace('_', '-')}{'-return' if point is Point.RETURN else ''}"
    ways = " and ".join({"tx": _TX, "rx": _RX}.get(way, way) for way in gives)
    return Probe(name, (target,), WIREGUARD, point, _FILE, handler, args, gives, tells, ways)


LATENCY: tuple[Probe, ...] = (
    _probe(
        "wg_socket_send_skb_to_peer",
        Point.RETURN,
        "handle_send_return",
        ("s32",),
        ("tx",),
        "when route and output are done with a packet",
    ),
    _probe(
        "wg_socket_send_skb_to_peer",
        Point.ENTRY,
        "handle_send",
        ("struct wg_peer *peer", "struct sk_buff *skb"),
        ("tx",),
        "when a packet's turn to be sent has come",
    ),
    _probe(
        "wg_allowedips_lookup_src",
        Point.ENTRY,
        "handle_deliver",
        ("void *table", "struct sk_buff *skb"),
        ("rx",),
        "when a packet's turn to be handed up has come",
    ),
    _probe(
        "encrypt_packet",
        Point.RETURN,
        "handle_crypto_return",
        ("struct sk_buff *skb", "u64"),
        ("tx",),
        "when a packet is encrypted",
    ),
    _probe(
        "encrypt_packet",
        Point.ENTRY,
        "handle_crypto",
        ("struct sk_buff *skb", REMEMBER),
        ("tx",),
        "when a worker begins to encrypt a packet",
    ),
    _probe(
        "decrypt_packet",
        Point.RETURN,
        "handle_crypto_return",
        ("struct sk_buff *skb", "u64"),
        ("rx",),
        "when a packet is decrypted",
    ),
    _probe(
        "decrypt_packet",
        Point.ENTRY,
        "handle_crypto",
        ("struct sk_buff *skb", REMEMBER),
        ("rx",),
        "when a worker begins to decrypt a packet",
    ),
    _probe(
        "wg_packet_purge_staged_packets",
        Point.ENTRY,
        "handle_no_more_staged",
        ("struct wg_peer *peer",),
        ("how long packets wait for a key",),
        "that packets wait for a key no longer",
    ),
    _probe(
        "wg_packet_send_queued_handshake_initiation",
        Point.ENTRY,
        "handle_no_key",
        ("struct wg_peer *peer",),
        ("how long packets wait for a key",),
        "since when packets wait for a key",
    ),
    _probe(
        "wg_prev_queue_enqueue",
        Point.ENTRY,
        "handle_enqueue",
        ("void *queue", "struct sk_buff *skb"),
        ("tx", "rx"),
        "when packets are queued for a crypto worker",
    ),
)
