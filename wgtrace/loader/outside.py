# SPDX-License-Identifier: GPL-2.0-only
"""What the programs outside of WireGuard are told: the maps `path_reasons` and `path_config`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from wgtrace.errors import UnsupportedError
from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Direction, KernelReason
from wgtrace.events.wire import (
    NFT_OFFSETS,
    PATH_REASONS,
    PATH_SUBSYSTEM_0,
    QUIET_ENDS,
    PathConfigWire,
    PathRule,
)
from wgtrace.probes.btf import Btf
from wgtrace.probes.kernel import Symbol, TextRange, address_of

_SUBSYSTEM: Final = 1 << 16
_PREFIXES: Final = ("SKB_DROP_REASON_", "SKB_")
# Copies for a packet socket, and packets that were never meant for this host.
_NO_LOSS: Final = frozenset(
    {"NOT_DROPPED_YET", "CONSUMED", "OTHERHOST", "PACKET_SOCK_ERROR", "TAP_FILTER", "TAP_TXFILTER"}
)
_THOUGH_DELIVERED: Final = frozenset({"NETFILTER_DROP", "XFRM_POLICY"})
_COMING_IN: Final = frozenset({"CPU_BACKLOG", "XDP"})

PARTS: Final = ("skb_release_data",)
"""Frees the fragments that a packet is made of, whether that was dropped or delivered."""
COPIES: Final = ("packet_rcv", "packet_rcv_spkt", "tpacket_rcv")
"""Functions that drop copies for packet sockets: what tcpdump(8) does not take is no loss."""


def kernel_reasons(vmlinux: Btf) -> dict[int, str]:
    """`enum skb_drop_reason` and those of its subsystems, without their prefixes."""
    qdisc = vmlinux.enum_names("qdisc_drop_reason")
    names = vmlinux.enum_names("skb_drop_reason") | {v: n for v, n in qdisc.items() if v >= _SUBSYSTEM}
    return {value: _bare(name) for value, name in names.items()}


def _bare(name: str) -> str:
    return next((name[len(p) :] for p in _PREFIXES if name.startswith(p)), name)


def slot_of(reason: int) -> int:
    """Where `path_reasons` has one of the kernel's reasons; those of a subsystem share one."""
    if reason >= _SUBSYSTEM:
        return PATH_SUBSYSTEM_0 + (reason >> 16 & 15)
    return reason if reason < PATH_SUBSYSTEM_0 else 0


def firsts(reasons: Iterable[int]) -> dict[int, int]:
    """Each slot of them with its reason; the first one of a subsystem, whose reasons share one."""
    found: dict[int, int] = {}
    for number in sorted(reasons):
        found.setdefault(slot_of(number), number)
    return found


def path_rules(names: Mapping[int, str], wanted: Filter) -> dict[int, int]:
    """The entries of `path_reasons`.

    Args:
        names: What `kernel_reasons` gave.
        wanted: What the user asks for.
    """
    rules: dict[int, int] = {}
    asked: dict[tuple[int, PathRule], bool] = {}
    slots = {slot_of(number): "" for number in range(PATH_REASONS)}
    for number, name in {**slots, **names}.items():
        slot, rule = slot_of(number), 0
        if name in _NO_LOSS:
            rule |= PathRule.NEVER
        if name in _THOUGH_DELIVERED:
            rule |= PathRule.DELIVERED
        if name in _COMING_IN:
            rule |= PathRule.INCOMING
        if name == "NETFILTER_DROP":
            rule |= PathRule.NETFILTER
        rules[slot] = rules.get(slot, 0) | rule
        for hide, way in ((PathRule.HIDE_TX, Direction.TX), (PathRule.HIDE_RX, Direction.RX)):
            is_asked = wanted.wants(KernelReason(name.lower(), way))
            asked[slot, hide] = asked.get((slot, hide), False) or is_asked
    for (slot, hide), is_asked in asked.items():
        if not is_asked:
            rules[slot] |= hide
    return rules


def path_config(
    nft_symbols: Iterable[Symbol] = (), nft: Btf | None = None, quiet: Iterable[TextRange] = ()
) -> PathConfigWire:
    """The one entry of `path_config`.

    Args:
        nft_symbols: Of the module nf_tables, if it is loaded; nft: its types.
        quiet: Where the functions are that drop what is no packet of its own.

    Raises:
        UnsupportedError: nf_tables lacks a member or symbol that is needed.
    """
    wire = PathConfigWire()
    for at, place in enumerate(list(quiet)[: QUIET_ENDS // 2]):
        wire.quiet[2 * at], wire.quiet[2 * at + 1] = place.start, place.end
    if nft is None:
        return wire
    symbols = tuple(nft_symbols)
    wire.net_id = address_of(symbols, "nf_tables_net_id")
    if not wire.net_id:
        raise UnsupportedError("nf_tables is another one than is known", "it lacks nf_tables_net_id")
    for field, (struct, member) in NFT_OFFSETS.items():
        offset = nft.offset_of(struct, member)
        if offset is None:
            raise UnsupportedError("nf_tables is another one than is known", f"no {struct}.{member}")
        if struct == "nft_immediate_expr":  # it is the private part of an expression
            offset += nft.offset_of("nft_expr", "data") or 0
        setattr(wire, field, offset)
    return wire
