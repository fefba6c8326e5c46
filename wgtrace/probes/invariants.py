# SPDX-License-Identifier: GPL-2.0-only
"""The probes of `--invariants`: where a broken kernel does what no sound one does.

Two of them are on the path of every packet, so they are no part of the catalogue of `drops`.
"""

from __future__ import annotations

from wgtrace.events.invariants import Invariant
from wgtrace.probes.catalogue import WIREGUARD
from wgtrace.probes.types import CONTEXT, Point, Probe

INVARIANTS_FILE = "invariants.bpf.c"


def _probe(
    invariant: Invariant, target: str, point: Point, handler: str, args: tuple[str, ...], tells: str
) -> Probe:
    name = f"{invariant.id.replace('_', '-')}{'-return' if point is Point.RETURN else ''}"
    without = f"whether the invariant {invariant.id} holds"
    return Probe(
        name, (target,), WIREGUARD, point, INVARIANTS_FILE, handler, args, (invariant.id,), tells, without
    )


INVARIANT_PROBES: tuple[Probe, ...] = (
    _probe(
        Invariant.RESPONSE_INDEX,
        "wg_noise_handshake_consume_response",
        Point.ENTRY,
        "handle_take_response",
        ("u8 *message",),
        "which handshake a response names",
    ),
    _probe(
        Invariant.RESPONSE_INDEX,
        "wg_noise_handshake_consume_response",
        Point.RETURN,
        "handle_take_response_return",
        ("struct wg_peer *", CONTEXT),
        "which handshake takes it",
    ),
    _probe(
        Invariant.PADDING_ZERO,
        "wg_allowedips_lookup_src",
        Point.ENTRY,
        "handle_padding",
        ("void *table", "struct sk_buff *skb", CONTEXT),
        "a packet that was decrypted, and what fills it up",
    ),
    _probe(
        Invariant.TSTAMP_TYPE,
        "wg_socket_send_skb_to_peer",
        Point.ENTRY,
        "handle_tstamp",
        ("struct wg_peer *peer", "struct sk_buff *skb", CONTEXT),
        "when a packet is to leave, by which clock",
    ),
)
