# SPDX-License-Identifier: GPL-2.0-only
"""The probes of `wgtrace mtu`: what is fragmented, refused or lost for its size, and what passes.

The two of WireGuard are on the path of every packet: one run for each that goes out, a
super-packet being one, and one for each that comes in. All others run only where
something does not fit, and the tracepoint for each packet that is dropped.
"""

from __future__ import annotations

from typing import Final

from wgtrace.probes.catalogue import WIREGUARD
from wgtrace.probes.types import Point, Probe

_FILE: Final = "mtu.bpf.c"
_SKB: Final = "struct sk_buff *skb"


def _at(
    target: str,
    handler: str,
    args: tuple[str, ...],
    gives: tuple[str, ...],
    tells: str,
    without: str,
    module: str = "",
) -> Probe:
    name = f"mtu-{target.strip('_').replace('_', '-')}"
    return Probe(name, (target,), module, Point.ENTRY, _FILE, handler, args, gives, tells, without)


MTU: tuple[Probe, ...] = (
    Probe(
        "size-kfree-skb",
        ("kfree_skb",),
        "",
        Point.TRACEPOINT,
        _FILE,
        "handle_size_free",
        (_SKB, "u64 location", "u32 reason"),
        ("outer_fragment_lost", "outer_reasm_timeout", "outer_dev_mtu_drop", "too_big_lost"),
        "fragments, datagrams and ICMP messages that are dropped",
        "where packets that are too big die on this host",
    ),
    _at(
        "ip_do_fragment",
        "handle_fragment",
        ("void *net", "void *sk", _SKB),
        ("outer_fragmented_tx", "inner_fragmented"),
        "an IPv4 packet that is fragmented",
        "which IPv4 packets of the tunnel are fragmented",
    ),
    _at(
        "ip6_fragment",
        "handle_fragment",
        ("void *net", "void *sk", _SKB),
        ("outer_fragmented_tx", "inner_fragmented"),
        "an IPv6 packet that is fragmented",
        "which IPv6 packets of the tunnel are fragmented",
    ),
    _at(
        "udp_err",
        "handle_udp_err",
        (_SKB, "u32 info"),
        ("outer_frag_needed_received",),
        "an ICMP message about a datagram",
        "that a router asks for smaller IPv4 datagrams",
    ),
    _at(
        "udpv6_err",
        "handle_udpv6_err",
        (_SKB, "void *opt", "u8 type", "u8 code", "s32 offset", "u32 info"),
        ("outer_frag_needed_received",),
        "an ICMPv6 message about a datagram",
        "that a router asks for smaller IPv6 datagrams",
    ),
    _at(
        "__ip_rt_update_pmtu",
        "handle_pmtu",
        ("struct dst_entry *dst", "struct flowi4 *flow", "u32 mtu"),
        ("path_mtu_changed",),
        "a path MTU that the kernel takes note of",
        "when the path MTU of an IPv4 way changes",
    ),
    _at(
        "__ip6_rt_update_pmtu",
        "handle_pmtu6",
        ("struct dst_entry *dst", "void *sk", "u8 *iph", "u32 mtu"),
        ("path_mtu_changed",),
        "a path MTU that the kernel takes note of",
        "when the path MTU of an IPv6 way changes",
    ),
    _at(
        "__icmp_send",
        "handle_icmp_send",
        (_SKB, "u32 type", "u32 code", "u32 info"),
        ("inner_too_big_v4",),
        "an ICMP message that this host sends",
        "forwarded IPv4 packets that are too big for the tunnel",
    ),
    _at(
        "icmp6_send",
        "handle_icmp6_send",
        (_SKB, "u8 type", "u8 code", "u32 info"),
        ("inner_too_big_v6",),
        "an ICMPv6 message that this host sends",
        "forwarded IPv6 packets that are too big for the tunnel",
    ),
    _at(
        "ip_local_error",
        "handle_local_error",
        ("struct sock_common *sk", "s32 err", "u32 daddr", "u16 port", "u32 info"),
        ("inner_local_emsgsize",),
        "an IPv4 packet that its sender must make smaller",
        "programs of this host that send what is too big for the tunnel",
    ),
    _at(
        "ipv6_local_error",
        "handle_local_error6",
        ("struct sock_common *sk", "s32 err", "struct flowi6 *flow", "u32 info"),
        ("inner_local_emsgsize",),
        "an IPv6 packet that its sender must make smaller",
        "programs of this host that send what is too big for the tunnel",
    ),
    _at(
        "wg_packet_send_staged_packets",
        "handle_staged",
        ("struct wg_peer *peer",),
        ("sizes out", "padding_beyond_mtu"),
        "the size of a packet that goes out",
        "which sizes go out and are answered, and padding beyond the MTU",
        WIREGUARD,
    ),
    _at(
        "wg_allowedips_lookup_src",
        "handle_received",
        ("void *table", _SKB),
        ("sizes in",),
        "the size of a packet that came in",
        "which sizes come in, and which answers",
        WIREGUARD,
    ),
)
