# SPDX-License-Identifier: GPL-2.0-only
"""A user's filter as the programs read it: the maps `filters` and `wanted_peers`."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Final

from wgtrace.events.flow_filter import Filter, FlowTerm
from wgtrace.events.reasons import Reason
from wgtrace.events.wire import FilterWire, FlowTermWire, PublicKeyWire

SAMPLES_PER_SECOND: Final = 100
"""Drops that nobody asked for and diagnosis needs, for each reason and CPU."""


def filter_wire(wanted: Filter) -> FilterWire:
    """The one entry of the map `filters`."""
    wire = FilterWire(
        has_peers=bool(wanted.peers), terms=len(wanted.flow), samples_per_second=SAMPLES_PER_SECOND
    )
    for reason in Reason:
        wire.hidden[reason] = not wanted.wants(reason)
    for slot, term in enumerate(wanted.flow):
        wire.term[slot] = term_wire(term)
    return wire


def term_wire(term: FlowTerm) -> FlowTermWire:
    """One term."""
    wire = FlowTermWire(
        port=term.port,
        kind=term.kind,
        layers=term.layers,
        ends=term.ends,
        negated=term.negated,
        family=term.net.version if term.net else term.family,
        proto=term.proto,
    )
    if term.net:
        for field, value in ((wire.addr, term.net.network_address), (wire.mask, term.net.netmask)):
            field[: len(value.packed)] = list(value.packed)
    return wire


def peer_keys(wanted: Filter) -> Iterator[PublicKeyWire]:
    """The keys of the map `wanted_peers`."""
    for peer in sorted(wanted.peers):
        yield PublicKeyWire.from_buffer_copy(base64.b64decode(peer))
