# SPDX-License-Identifier: GPL-2.0-only
"""What `wgtrace handshakes` attaches: handshake rows of the catalogue, some with a handler that tells more.

No row is on the path of a good packet, but for the last of `TOP`: packets are not looked at, so
what finds the queue of handshakes full is seen by `wgtrace drops` and `wgtrace top` only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wgtrace.events.reasons import HandshakeCode
from wgtrace.probes.catalogue import CATALOGUE, WIREGUARD
from wgtrace.probes.types import Point, Probe

_STORY: Final = "story.bpf.c"
_SESSION: Final = "session.bpf.c"
_ROUTE: Final = ("struct dst_cache *cache", "struct dst_entry *dst")


def _entry(
    target: str, handler: str, args: tuple[str, ...], code: HandshakeCode, tells: str, without: str
) -> Probe:
    module = WIREGUARD if target.startswith("wg_") else ""
    name = target.replace("_", "-")
    return Probe(name, (target,), module, Point.ENTRY, _STORY, handler, args, (code.id,), tells, without)


STORY: Final[tuple[Probe, ...]] = (
    _entry(
        "wg_expired_new_handshake",
        "handle_no_answer",
        ("struct timer_list *timer",),
        HandshakeCode.NO_ANSWER_15S,
        "fifteen seconds without anything from a peer that data was sent to",
        "that a handshake is asked for as nothing came for 15 s: it is told as an old key",
    ),
    _entry(
        "dst_cache_set_ip4",
        "handle_route4",
        (*_ROUTE, "u32 source"),
        HandshakeCode.ROUTE_FOUND,
        "the route to a peer's IPv4 endpoint, when it is looked up anew",
        "the source address and device of what is sent, and roaming between two handshakes, by IPv4",
    ),
    _entry(
        "dst_cache_set_ip6",
        "handle_route6",
        (*_ROUTE, "u8 *source"),
        HandshakeCode.ROUTE_FOUND,
        "the route to a peer's IPv6 endpoint, when it is looked up anew",
        "the source address and device of what is sent, and roaming between two handshakes, by IPv6",
    ),
    _entry(
        "wg_timers_session_derived",
        "handle_session_derived",
        ("struct wg_peer *peer",),
        HandshakeCode.SESSION_DERIVED,
        "a session's keys",
        "the indices of sessions, and responses that are not confirmed",
    ),
    _entry(
        "wg_noise_keypairs_clear",
        "handle_keypairs_clear",
        ("struct noise_keypairs *keypairs",),
        HandshakeCode.KEYS_CLEARED,
        "a session's keys being thrown away",
        "when and why sessions end",
    ),
    _entry(
        "wg_noise_expire_current_peer_keypairs",
        "handle_keypairs_expire",
        ("struct wg_peer *peer",),
        HandshakeCode.KEYS_EXPIRED,
        "a session that may not be used any more",
        "that sessions end with a new private key",
    ),
    *(
        Probe(
            name,
            targets,
            "",
            Point.ENTRY,
            _STORY,
            handler,
            ("struct sk_buff *skb",),
            (HandshakeCode.ICMP_ERROR.id,),
            f"ICMP errors for what was sent to a peer's {family} endpoint",
            f"that the way to a peer, or its host, refuses what is sent by {family}",
        )
        for name, targets, handler, family in (
            ("udp-err", ("udp_err",), "handle_icmp_error4", "IPv4"),
            # Since Linux 7.2 the one function is the other; before, the second has no place for a probe.
            ("udpv6-err", ("__udp6_lib_err", "udpv6_err"), "handle_icmp_error6", "IPv6"),
        )
    ),
)
"""The rows that are of no use to `wgtrace drops`."""

# The catalogue's rows that tell more: what their handler is, and what it gives beside.
_TOLD: Final[dict[str, tuple[str, tuple[HandshakeCode, ...]]]] = {
    "wg-packet-send-queued-handshake-initiation": (
        "handle_story_queued_initiation",
        (HandshakeCode.REKEY_REQUESTED,),
    ),
    "wg-noise-handshake-create-initiation-return": ("handle_story_create_initiation_return", ()),
    "wg-receive-handshake-packet": ("handle_story_receive_handshake", ()),
    "wg-noise-handshake-consume-initiation-return": ("handle_story_consume_return", ()),
    "wg-noise-handshake-consume-response-return": ("handle_story_consume_return", ()),
    "wg-expired-retransmit-handshake": ("handle_story_retransmit", ()),
    "wg-timers-handshake-complete": ("handle_story_complete", ()),
}


def _is_in_story(probe: Probe) -> bool:
    """ICMP errors: STORY tells more of them."""
    return HandshakeCode.UNREACHABLE.id in probe.gives


def _told(probe: Probe) -> Probe:
    if probe.name not in _TOLD:
        return probe
    handler, codes = _TOLD[probe.name]
    return replace(probe, file=_STORY, handler=handler, gives=(*probe.gives, *(code.id for code in codes)))


EVERYTHING: Final[tuple[Probe, ...]] = (
    *(probe for probe in CATALOGUE if not _is_in_story(probe)),
    *STORY,
)
"""All that `wgtrace drops` and `wgtrace handshakes` attach."""

HANDSHAKES: Final[tuple[Probe, ...]] = (
    *(
        _told(probe)
        for probe in CATALOGUE
        if probe.file == "handshake.bpf.c" and "keepalive" not in probe.name and not _is_in_story(probe)
    ),
    *STORY,
)
"""All that `wgtrace handshakes` attaches."""


def _counted(probe: Probe) -> Probe:
    """The row that tells of a session has it counted, too."""
    if probe.name != "wg-timers-session-derived":
        return probe
    return replace(probe, file=_SESSION, handler="handle_counted_session")


TOP: Final[tuple[Probe, ...]] = (
    *(_told(probe) for probe in CATALOGUE if not _is_in_story(probe)),
    *(_counted(probe) for probe in STORY),
    Probe(
        "wg-socket-endpoint-from-skb",
        ("wg_socket_endpoint_from_skb",),
        WIREGUARD,
        Point.ENTRY,
        _SESSION,
        "handle_accepted",
        ("void *endpoint", "struct sk_buff *skb"),
        ("sessions",),
        "the counters of the data messages that come",
        "what is lost on its way from a peer, or comes out of order",
    ),
    Probe(
        "wg-allowedips-read-node",
        ("wg_allowedips_read_node",),
        WIREGUARD,
        Point.ENTRY,
        _SESSION,
        "handle_listed",
        ("struct allowedips_node *node",),
        ("queues",),
        "that somebody lists the peers, as wgtrace itself does",
        "how many packets of a peer wait",
    ),
)
"""All that `wgtrace top` attaches: drops, handshakes, and one row on the way of good packets that come in."""
