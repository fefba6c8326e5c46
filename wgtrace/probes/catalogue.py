# SPDX-License-Identifier: GPL-2.0-only
"""The probe catalogue: every place where wgtrace attaches, and what it is for.

A row says where; `loader` finds out how. No row is on the path of a good packet
but the two skb tracepoints, which look at one address and return.
"""

from __future__ import annotations

from functools import partial

from wgtrace.events.reasons import Direction, HandshakeCode, Reason
from wgtrace.probes.types import CONTEXT, Point, Probe

WIREGUARD = "wireguard"

NF_TABLES = "nf_tables"
PATH = "outside_wireguard"
"""What the probes give that look at packets outside of WireGuard: the kernel names the reasons."""

_DROP, _HANDSHAKE = "drop.bpf.c", "handshake.bpf.c"
_PACKET, _PATH = "packet.bpf.c", "path.bpf.c"

_OUT = tuple(r for r in Reason if r.direction is Direction.TX)
_IN = tuple(r for r in Reason if r.direction is Direction.RX)
_NOT_QUEUED = (Reason.RNG_NOT_READY, Reason.HANDSHAKE_QUEUE_CONTENDED, Reason.HANDSHAKE_QUEUE_FULL)
_NO_PACKET = (Reason.HANDSHAKE_TX_NOMEM, Reason.KEEPALIVE_NOMEM)
_PURGED = ("staged_purged_giveup", "staged_purged_ifdown", "staged_purged_peer_removed")
_RECEIVED_HANDSHAKES = tuple(
    r.id
    for r in Reason
    if r.direction is Direction.HANDSHAKE
    and r not in (*_NOT_QUEUED, Reason.HANDSHAKE_PURGED_IFDOWN, Reason.INIT_CREATE_FAILED)
)
_INITIATIONS_REFUSED = tuple(
    r for r in _RECEIVED_HANDSHAKES if r.startswith(("init_", "unknown_", "handshake_"))
)
_COOKIES_REFUSED = ("cookie_unknown_index", "cookie_unsolicited", "cookie_decrypt_failed")
_RESPONSES_REFUSED = tuple(r for r in _RECEIVED_HANDSHAKES if r.startswith("resp_"))
_SENT = (HandshakeCode.INIT_SENT.id, HandshakeCode.RESPONSE_SENT.id)


def _at(
    point: Point,
    target: str,
    handler: str,
    args: tuple[str, ...],
    gives: tuple[str, ...],
    tells: str,
    without: str,
    file: str = _HANDSHAKE,
) -> Probe:
    name = target.replace("_", "-") + ("-return" if point is Point.RETURN else "")
    return Probe(name, (target,), WIREGUARD, point, file, handler, args, gives, tells, without)


_entry, _return = partial(_at, Point.ENTRY), partial(_at, Point.RETURN)


def _nft(function: str, module: str, handler: str, tells: str) -> Probe:
    args = ("u8 *expr", "void *regs", "u8 *pkt")
    return Probe(
        function.replace("_", "-"),
        (function,),
        module,
        Point.ENTRY,
        _PATH,
        handler,
        args,
        (PATH,),
        tells,
        "the very nft rule that drops a packet",
        is_late=True,
    )


CATALOGUE: tuple[Probe, ...] = (
    Probe(
        "kfree-skb",
        ("kfree_skb",),
        "",
        Point.TRACEPOINT,
        _DROP,
        "handle_kfree_skb",
        ("struct sk_buff *skb", "u64 location", "u32 reason", CONTEXT),
        (
            *(r.id for r in _OUT if r not in (Reason.STAGED_QUEUE_OVERFLOW, *_NO_PACKET)),
            Reason.SOCK_USER_DATA_NULL.id,
            Reason.HANDSHAKE_PURGED_IFDOWN.id,
        ),
        "packets that WireGuard drops on the way out",
        "packets refused or lost on the way out",
    ),
    Probe(
        "consume-skb",
        ("consume_skb",),
        "",
        Point.TRACEPOINT,
        _DROP,
        "handle_consume_skb",
        ("struct sk_buff *skb", "u64 location"),
        (
            Reason.STAGED_QUEUE_OVERFLOW.id,
            *(r.id for r in _NOT_QUEUED),
            *(r.id for r in _IN if r is not Reason.SOCK_USER_DATA_NULL),
        ),
        "packets that WireGuard drops silently: all of receive, and the staged queue's overflow",
        "every drop on receive, and overflow while a handshake is waited for",
    ),
    _entry(
        "wg_packet_purge_staged_packets",
        "handle_purge",
        ("struct wg_peer *peer",),
        _PURGED,
        "why packets that wait for a handshake are thrown away",
        "packets thrown away while they wait for a handshake",
        _DROP,
    ),
    _return(
        "wg_packet_purge_staged_packets", "handle_purge_return", (), _PURGED, "that it is over", "", _DROP
    ),
    _entry(
        "wg_receive_handshake_packet",
        "handle_receive_handshake",
        ("struct wg_device *wg", "struct sk_buff *skb"),
        (*_RECEIVED_HANDSHAKES, "init_accepted", "response_accepted", "cookie_received"),
        "a handshake message that is looked at",
        "every handshake message received, and why it is refused",
    ),
    _return(
        "wg_receive_handshake_packet",
        "handle_receive_handshake_return",
        (),
        (*_RECEIVED_HANDSHAKES, "init_accepted", "response_accepted", "cookie_received"),
        "what became of it",
        "every handshake message received, and why it is refused",
    ),
    _entry(
        "wg_cookie_validate_packet",
        "handle_cookie_validate",
        ("void *checker", "struct sk_buff *skb", "u64 check_cookie"),
        ("cookie_under_load",),
        "whether the interface is under load",
        "handshakes answered with a cookie",
    ),
    _return(
        "wg_cookie_validate_packet",
        "handle_cookie_validate_return",
        ("s32",),
        ("invalid_mac1", "cookie_under_load", "ratelimited", "no_private_key"),
        "whether the message was made for this interface's public key",
        "handshakes made for another public key, and rate limiting",
    ),
    _entry(
        "wg_noise_handshake_consume_initiation",
        "handle_consume_initiation",
        (),
        _INITIATIONS_REFUSED,
        "an initiation being checked",
        "why an initiation is refused",
    ),
    _return(
        "wg_noise_handshake_consume_initiation",
        "handle_consume_return",
        ("struct wg_peer *",),
        (*_INITIATIONS_REFUSED, "init_accepted"),
        "whether it is accepted, and whose it is",
        "why an initiation is refused",
    ),
    _entry(
        "wg_pubkey_hashtable_lookup",
        "handle_pubkey_lookup",
        ("void *table", "u8 *public_key"),
        ("unknown_peer_pubkey",),
        "the public key of who knocks",
        "the public key of an unknown peer",
    ),
    _return(
        "wg_pubkey_hashtable_lookup",
        "handle_pubkey_lookup_return",
        ("struct wg_peer *",),
        ("unknown_peer_pubkey", "handshake_init_replay", "handshake_flood"),
        "whether that key is a peer here",
        "unknown peers, and whose initiation is refused",
    ),
    _return(
        "mix_dh",
        "handle_mix_dh_return",
        ("u64",),
        ("init_dh_failed", "resp_dh_failed"),
        "an invalid ephemeral key",
        "an invalid ephemeral key in a response is told as resp_bad_state",
    ),
    Probe(
        "chacha20poly1305-decrypt",
        ("chacha20poly1305_decrypt",),
        "libchacha20poly1305",
        Point.ENTRY,
        _HANDSHAKE,
        "handle_aead",
        ("u8 *dst", "u8 *src", "u64 src_len"),
        ("handshake_init_replay", "resp_decrypt_failed", "init_timestamp_decrypt_failed"),
        "a part of a handshake message being authenticated",
        "what of a handshake message does not authenticate; the time in an initiation",
    ),
    Probe(
        "chacha20poly1305-decrypt-return",
        ("chacha20poly1305_decrypt",),
        "libchacha20poly1305",
        Point.RETURN,
        _HANDSHAKE,
        "handle_aead_return",
        ("u64",),
        ("handshake_init_replay", "resp_decrypt_failed", "init_timestamp_decrypt_failed"),
        "whether it is authentic",
        "what of a handshake message does not authenticate; the time in an initiation",
    ),
    _entry(
        "wg_noise_handshake_consume_response",
        "handle_consume_response",
        (),
        _RESPONSES_REFUSED,
        "a response being checked",
        "why a response is refused",
    ),
    _return(
        "wg_noise_handshake_consume_response",
        "handle_consume_return",
        ("struct wg_peer *",),
        (*_RESPONSES_REFUSED, "response_accepted"),
        "whether it is accepted",
        "why a response is refused",
    ),
    _entry(
        "wg_cookie_message_consume",
        "handle_cookie_consume",
        (),
        (*_COOKIES_REFUSED, "cookie_received"),
        "a cookie being looked at",
        "cookies that are refused",
    ),
    Probe(
        "xchacha20poly1305-decrypt-return",
        ("xchacha20poly1305_decrypt",),
        "libchacha20poly1305",
        Point.RETURN,
        _HANDSHAKE,
        "handle_cookie_aead_return",
        ("u64",),
        (*_COOKIES_REFUSED, "cookie_received"),
        "whether a cookie is authentic",
        "every cookie is told as cookie_unsolicited",
    ),
    _return(
        "wg_noise_handshake_create_response",
        "handle_session_return",
        ("u64",),
        ("response_not_sent",),
        "whether a response could be made",
        "responses that were not made",
    ),
    _return(
        "wg_noise_handshake_begin_session",
        "handle_session_return",
        ("u64",),
        ("response_not_sent", "session_not_started"),
        "whether a session came of it",
        "sessions that were not started",
    ),
    _entry(
        "wg_packet_send_handshake_initiation",
        "handle_send_handshake",
        ("struct wg_peer *peer",),
        (*_SENT, "handshake_tx_nomem"),
        "an initiation on its way out",
        "handshake messages that do not leave",
    ),
    _return(
        "wg_packet_send_handshake_initiation",
        "handle_send_initiation_return",
        (),
        (*_SENT, "init_suppressed_5s"),
        "that it is on its way, or was not made as another one was just sent",
        "",
    ),
    _return(
        "wg_noise_handshake_create_initiation",
        "handle_create_initiation_return",
        ("u64",),
        ("init_create_failed", "init_suppressed_5s"),
        "whether an initiation could be made",
        "initiations that are not made for want of a good key",
    ),
    _entry(
        "wg_packet_send_queued_handshake_initiation",
        "handle_queued_initiation",
        ("struct wg_peer *peer", "u64 is_retry"),
        ("staged_wait", "init_suppressed_5s", "init_peer_dead"),
        "that a handshake is wanted, and what is wrong with the key",
        "why packets wait for a handshake",
    ),
    _entry(
        "wg_packet_send_keepalive",
        "handle_keepalive",
        ("struct wg_peer *peer",),
        ("keepalive_nomem",),
        "a keepalive on its way out",
        "keepalives for which there is no memory",
    ),
    _return(
        "wg_packet_send_keepalive",
        "handle_keepalive_return",
        (),
        ("keepalive_nomem",),
        "whether there was one",
        "keepalives for which there is no memory",
    ),
    _entry(
        "wg_packet_send_handshake_response",
        "handle_send_handshake",
        ("struct wg_peer *peer",),
        (*_SENT, "handshake_tx_nomem"),
        "a response on its way out",
        "handshake messages that do not leave",
    ),
    _return(
        "wg_packet_send_handshake_response",
        "handle_send_handshake_return",
        (),
        _SENT,
        "that it is on its way",
        "",
    ),
    _return(
        "wg_socket_send_buffer_to_peer",
        "handle_send_buffer_return",
        ("s32",),
        (*_SENT, "handshake_tx_nomem", "no_route_to_endpoint", "udp_sock_null", "endpoint_af_invalid"),
        "whether a handshake message left, and the errno if not",
        "handshake messages that do not leave",
    ),
    _entry(
        "wg_expired_retransmit_handshake",
        "handle_retransmit",
        ("struct timer_list *timer",),
        (HandshakeCode.RETRY.id, HandshakeCode.GIVE_UP.id),
        "five seconds without an answer to an initiation",
        "how often a handshake was tried",
    ),
    _entry(
        "wg_timers_handshake_complete",
        "handle_handshake_complete",
        ("struct wg_peer *peer",),
        (HandshakeCode.HANDSHAKE_COMPLETE.id,),
        "a handshake that completed",
        "that a session exists again",
    ),
    Probe(
        "set-device",
        # Since Linux 7.2 generated netlink code names it wg_set_device_doit().
        ("wg_set_device_doit", "wg_set_device"),
        WIREGUARD,
        Point.RETURN,
        _HANDSHAKE,
        "handle_set_device_return",
        (),
        (),
        "that the configuration changed",
        "changes of the configuration are seen up to a second late",
    ),
    Probe(
        "udp-err",
        ("udp_err",),
        "",
        Point.ENTRY,
        _HANDSHAKE,
        "handle_unreachable",
        ("struct sk_buff *skb",),
        (HandshakeCode.UNREACHABLE.id,),
        "an ICMP message about a datagram",
        "who says that a peer with an IPv4 endpoint is unreachable",
    ),
    Probe(
        "udpv6-err",
        ("__udp6_lib_err", "udpv6_err"),  # 6.12 takes no kprobe on the latter
        "",
        Point.ENTRY,
        _HANDSHAKE,
        "handle_unreachable6",
        ("struct sk_buff *skb", "void *opt", "u8 type", "u8 code"),
        (HandshakeCode.UNREACHABLE.id,),
        "an ICMPv6 message about a datagram",
        "who says that a peer with an IPv6 endpoint is unreachable",
    ),
    Probe(
        "path-kfree-skb",
        ("kfree_skb",),
        "",
        Point.TRACEPOINT,
        _PATH,
        "handle_path",
        ("struct sk_buff *skb", "u64 location", "u32 reason", CONTEXT),
        (PATH,),
        "packets of a tunnel that are dropped outside of WireGuard",
        "packets of a tunnel that firewall, routing or a device drop",
    ),
    _nft("nft_immediate_eval", NF_TABLES, "handle_nft_immediate", "which nft rule drops a packet"),
    _nft("nft_reject_inet_eval", "nft_reject_inet", "handle_nft_reject", "which nft rule rejects one"),
    _nft("nft_reject_ipv4_eval", "nft_reject_ipv4", "handle_nft_reject", "which nft rule rejects one"),
    _nft("nft_reject_ipv6_eval", "nft_reject_ipv6", "handle_nft_reject", "which nft rule rejects one"),
)

# Data messages, one in so many: these run for every packet, so they are no part of CATALOGUE.
PACKETS: tuple[Probe, ...] = (
    _entry(
        "wg_socket_send_skb_to_peer",
        "handle_send_skb",
        ("struct wg_peer *peer", "struct sk_buff *skb"),
        ("packet_left",),
        "a data message about to leave",
        "which data messages left",
        _PACKET,
    ),
    _return(
        "wg_socket_send_skb_to_peer",
        "handle_send_skb_return",
        ("s32",),
        ("packet_left",),
        "whether it left",
        "which data messages left",
        _PACKET,
    ),
    _entry(
        "wg_packet_receive",
        "handle_packet_receive",
        ("struct wg_device *wg", "struct sk_buff *skb"),
        ("packet_arrived",),
        "a data message that arrived",
        "which data messages arrived",
        _PACKET,
    ),
)
