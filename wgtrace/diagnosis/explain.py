# SPDX-License-Identifier: GPL-2.0-only
"""Runs the rules over the evidence: one cause, one finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from wgtrace.diagnosis.evidence import Evidence
from wgtrace.diagnosis.finding import Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence
from wgtrace.diagnosis.rules import (
    allowed_ips,
    handshake,
    invariants,
    keys,
    links,
    load,
    moved,
    outside,
    packets,
    places,
    routes,
    sessions,
)

INTERFACE_RULES: Final[tuple[Callable[[InterfaceEvidence], Finding | None], ...]] = (
    allowed_ips.destination_not_allowed,
    links.birth_namespace_gone,
    load.handshake_flood,
    load.queue_full,
    keys.wrong_key_for_us,
    packets.not_wireguard,
)
PEER_RULES: Final[tuple[Callable[[InterfaceEvidence, str], Finding | None], ...]] = (
    allowed_ips.source_not_allowed,
    allowed_ips.source_owned_by_other_peer,
    handshake.no_endpoint,
    handshake.peer_port_closed,
    handshake.peer_unreachable,
    handshake.peer_clock_went_back,
    handshake.response_lost,
    keys.preshared_key_mismatch,
    load.receive_stalled,
    moved.allowed_ips_moved,
    packets.duplicated_packets,
    packets.payload_corrupted,
    packets.reordered_beyond_window,
    places.duplicate_key,
    places.endpoint_changed,
    places.peer_port_closed,
    routes.no_route_to_endpoint,
    routes.routing_loop,
)
SLUGS: Final = (
    "allowed-ips-moved",
    "birth-namespace-gone",
    "checksum-error",
    "conntrack-invalid",
    "conntrack-table-full",
    "destination-not-allowed",
    "duplicate-key",
    "duplicated-packets",
    "endpoint-changed",
    "forwarding-disabled",
    "handshake-flood",
    "inner-blocked-by-firewall",
    "inner-too-big",
    "interface-down",
    "known-kernel-bug",
    "mtu-black-hole",
    "no-endpoint",
    "no-route-to-endpoint",
    "not-wireguard",
    "outer-blocked-by-firewall",
    "outer-fragmented",
    "padding-exceeds-mtu",
    "payload-corrupted",
    "peer-clock-went-back",
    "peer-lost-session",
    "peer-port-closed",
    "peer-unreachable",
    "preshared-key-mismatch",
    "queue-full",
    "receive-stalled",
    "reordered-beyond-window",
    "response-lost",
    "routing-loop",
    "rp-filter-drop",
    "source-not-allowed",
    "source-owned-by-other-peer",
    "unknown-peer",
    "wrong-key-for-us",
)
"""Every slug that a rule can give, those of diagnosis.mtu among them."""

_SAY_WHY_THEY_WAIT: Final = (
    "no-route-to-endpoint",
    "peer-clock-went-back",
    "peer-port-closed",
    "peer-unreachable",
    "preshared-key-mismatch",
    "routing-loop",
)
"""Findings that count the packets which waited for a session with their peer."""
_UNKNOWN_KEYS_NAMED: Final = 5
_ORDER: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def explain(evidence: Evidence) -> tuple[Finding, ...]:
    """Every finding, the gravest first, then by packets."""
    found = [finding for interface in evidence.interfaces() for finding in _explain(interface)]
    found = [f for f in found if f.slug != "response-lost" or not _is_seen_at_the_peer(evidence, f, found)]
    return tuple(sorted(found, key=lambda f: (_ORDER[f.severity], -f.count, f.slug)))


def _is_seen_at_the_peer(evidence: Evidence, lost: Finding, found: list[Finding]) -> bool:
    """Whether the peer is an interface of this host, where it shows why it confirms nothing."""
    spaces = {(i.ifname, i.netns): i.device.public_key for i in evidence.interfaces() if i.device}
    return any(
        f.slug == "preshared-key-mismatch"
        and lost.peer is not None
        and spaces.get((f.ifname, f.netns)) == lost.peer.public_key
        for f in found
    )


def _key(finding: Finding) -> str | None:
    return finding.peer.public_key if finding.peer else None


def _explain(interface: InterfaceEvidence) -> Iterator[Finding]:
    results = [rule(interface) for rule in INTERFACE_RULES]
    unknown: list[str | None] = [*keys.unknown_keys(interface)[:_UNKNOWN_KEYS_NAMED]]
    results += [keys.unknown_peer(interface, key) for key in unknown or [None]]
    results += sessions.lost_sessions(interface)
    results += invariants.known_kernel_bugs(interface)
    for key in interface.peer_keys():
        results += [rule(interface, key) for rule in PEER_RULES]
    around = outside.outside(interface)
    here = outside.unreachable_by(interface, around)
    here |= {_key(f) for f in results if f and f.slug == "peer-port-closed"}
    results = [f for f in results if not (f and f.slug == "peer-unreachable" and _key(f) in here)]
    results += around
    explained = {f.peer.public_key for f in results if f and f.peer and f.slug in _SAY_WHY_THEY_WAIT}
    results.append(links.interface_down(interface, explained))
    yield from (finding for finding in results if finding is not None)
