# SPDX-License-Identifier: GPL-2.0-only
"""Runs the rules over the evidence: one cause, one finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from wgtrace.diagnosis.evidence import Evidence
from wgtrace.diagnosis.finding import Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence
from wgtrace.diagnosis.rules import allowed_ips, handshake, keys, packets

INTERFACE_RULES: Final[tuple[Callable[[InterfaceEvidence], Finding | None], ...]] = (
    allowed_ips.destination_not_allowed,
    keys.wrong_key_for_us,
    packets.not_wireguard,
)
PEER_RULES: Final[tuple[Callable[[InterfaceEvidence, str], Finding | None], ...]] = (
    allowed_ips.source_not_allowed,
    allowed_ips.source_owned_by_other_peer,
    handshake.no_endpoint,
    handshake.peer_unreachable,
    handshake.peer_clock_went_back,
    keys.preshared_key_mismatch,
    packets.duplicated_packets,
)
SLUGS: Final = (
    "destination-not-allowed",
    "duplicated-packets",
    "no-endpoint",
    "not-wireguard",
    "peer-clock-went-back",
    "peer-unreachable",
    "preshared-key-mismatch",
    "source-not-allowed",
    "source-owned-by-other-peer",
    "unknown-peer",
    "wrong-key-for-us",
)
"""Every slug that a rule can give."""

_UNKNOWN_KEYS_NAMED: Final = 5
_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def explain(evidence: Evidence) -> tuple[Finding, ...]:
    """Every finding, the gravest first, then by packets."""
    found = [finding for interface in evidence.interfaces() for finding in _explain(interface)]
    return tuple(sorted(found, key=lambda f: (_ORDER[f.severity], -f.count, f.slug)))


def _explain(interface: InterfaceEvidence) -> Iterator[Finding]:
    results = [rule(interface) for rule in INTERFACE_RULES]
    unknown: list[str | None] = [*keys.unknown_keys(interface)[:_UNKNOWN_KEYS_NAMED]]
    results += [keys.unknown_peer(interface, key) for key in unknown or [None]]
    for key in interface.peer_keys():
        results += [rule(interface, key) for rule in PEER_RULES]
    yield from (finding for finding in results if finding is not None)
