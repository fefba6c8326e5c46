# SPDX-License-Identifier: GPL-2.0-only
"""What `wgtrace handshakes` attaches: handshake rows of the catalogue, some with a handler that tells more.

No row is on the path of a good packet: packets are not looked at, so what finds the queue
of handshakes full is seen by `wgtrace drops` only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from wgtrace.events.reasons import HandshakeCode
from wgtrace.probes.catalogue import CATALOGUE, WIREGUARD
from wgtrace.probes.types import Point, Probe

_STORY: Final = "story.bpf.c"
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


def _told(probe: Probe) -> Probe:
    if probe.name not in _TOLD:
        return probe
    handler, codes = _TOLD[probe.name]
    return replace(probe, file=_STORY, handler=handler, gives=(*probe.gives, *(code.id for code in codes)))


HANDSHAKES: Final[tuple[Probe, ...]] = (
    *(
        _told(probe)
        for probe in CATALOGUE
        if probe.file == "handshake.bpf.c" and "keepalive" not in probe.name
    ),
    *STORY,
)
"""All that `wgtrace handshakes` attaches."""

TOP: Final[tuple[Probe, ...]] = (*(_told(probe) for probe in CATALOGUE), *STORY)
"""All that `wgtrace top` attaches: drops and handshakes."""
