# SPDX-License-Identifier: GPL-2.0-only
"""Peers that are at another endpoint than before, and places that refuse what is sent there.

`wgtrace handshakes` and `wgtrace top` only: `drops` follows no story.
"""

from __future__ import annotations

from typing import Final

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.icmp import icmp_text, is_unreachable
from wgtrace.diagnosis.interface import Attempts, IcmpErrors, InterfaceEvidence, Travel, Travels
from wgtrace.diagnosis.rules.build import finding, times, waiting
from wgtrace.diagnosis.words import count_of, quoted, utc
from wgtrace.events.reasons import HandshakeCode

_TO_AND_FRO: Final = 4
"""So many moves between the same two places, one right after the other, are no person who travels."""
_WITHIN_NS: Final = 180_000_000_000
_EARLY_NS: Final = 1_000_000_000
"""An error of a host nearby comes before the function that sends is done, which is when it is told."""
_PORT_CLOSED: Final = frozenset({(4, 3, 3), (6, 1, 4)})


def duplicate_key(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """A peer is at two places at once: two hosts have its key."""
    travels = evidence.travels.get(key, Travels())
    flaps = _flaps(travels.last)
    if not flaps:
        return None
    label, first, second = evidence.label(key), flaps[-1].before, flaps[-1].now
    seconds = (flaps[-1].unix_ns - flaps[0].unix_ns) / 1e9
    asked = evidence.steps(HandshakeCode.INIT_ACCEPTED, peer=key)
    return finding(
        evidence,
        "duplicate-key",
        Severity.ERROR,
        Confidence.LIKELY,
        0,
        f"{label} is at {first} and at {second} by turns: two hosts use its key, and each takes the "
        f"session away from the other.",
        peer=key,
        seen=[
            f"its endpoint went to and fro between the two {times(len(flaps))} in {seconds:.0f} s",
            *([f"{count_of(asked, 'initiation')} of it accepted in this run"] if asked else []),
        ],
        fix=[
            "give each host a key of its own: on one of the two",
            "wg genkey > private.key  # then its public key is a peer of its own here:",
            evidence.wg_set("peer ITS-PUBLIC-KEY allowed-ips ITS-ADDRESS/32"),
        ],
        not_visible=(
            "whether these are two hosts: one that changes between two ways out each few seconds looks "
            "the same",
        ),
    )


def _flaps(travels: list[Travel]) -> list[Travel]:
    """The last moves, as far as they go between two places only and quickly; [] if that are few."""
    found: list[Travel] = []
    for travel in reversed(travels):
        if found and (
            travel.now != found[-1].before
            or travel.before != found[-1].now
            or found[0].unix_ns - travel.unix_ns > _WITHIN_NS
        ):
            break
        found.append(travel)
    return found[::-1] if len(found) >= _TO_AND_FRO else []


def endpoint_changed(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """A peer moved, or a NAT on its way gave it another port."""
    travels = evidence.travels.get(key, Travels())
    if not travels.count or _flaps(travels.last):
        return None
    label, first, last = evidence.label(key), travels.last[0], travels.last[-1]
    is_port = all(travel.before.addr == travel.now.addr for travel in travels.last)
    how = "a NAT on its way gave it another port" if is_port else "it moved, or its address changed"
    fix = ["nothing, if data goes on: WireGuard answers to where the last good packet came from"]
    if is_port:
        fix += [
            f"if {label} cannot be reached after it was silent for a while, have it keep that; there:",
            "wg set INTERFACE peer PUBLIC-KEY-OF-THIS-SIDE persistent-keepalive 25",
        ]
    return finding(
        evidence,
        "endpoint-changed",
        Severity.INFO,
        Confidence.CERTAIN,
        0,
        f"{label} is at {last.now} and no longer at {first.before}: {how}.",
        peer=key,
        seen=[
            f"its endpoint changed {times(travels.count)}",
            *(f"at {utc(t.unix_ns, 0)} UTC from {t.before} to {t.now}" for t in travels.last[-3:]),
        ],
        fix=fix,
    )


def peer_port_closed(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """Handshakes are not answered, and an ICMP error says why."""
    attempts = evidence.attempts.get(key, Attempts())
    errors = [
        error
        for error in evidence.icmp.get(key, {}).values()
        if is_unreachable(error.family, error.kind, error.code)
        and error.last_unix_ns >= attempts.since_unix_ns - _EARLY_NS
    ]
    if not errors or not attempts.count:
        return None
    last = max(errors, key=lambda error: error.last_unix_ns)
    label, peer = evidence.label(key), evidence.peer(key)
    at = f" at {peer.endpoint}" if peer and peer.endpoint else ""
    said = [
        f"{icmp_text(e.family, e.kind, e.code)} from {e.source}, {times(e.count)}"
        for e in sorted(errors, key=lambda error: -error.count)
    ]
    return finding(
        evidence,
        "peer-port-closed",
        Severity.ERROR,
        Confidence.LIKELY,
        0,
        f"Nothing takes what is sent to {label}{at}: "
        f"{icmp_text(last.family, last.kind, last.code)}, says {last.source}.",
        peer=key,
        seen=[
            *said,
            f"{count_of(attempts.count, 'initiation')} since without an answer",
            *waiting(evidence, key),
        ],
        fix=_open(evidence, key, last),
        needs=(HandshakeCode.INIT_SENT.id, HandshakeCode.ICMP_ERROR.id),
        not_visible=("whether it is true: an ICMP error can be forged",),
    )


def _open(evidence: InterfaceEvidence, key: str, error: IcmpErrors) -> list[str]:
    peer, label = evidence.peer(key), evidence.label(key)
    endpoint = peer.endpoint if peer else None
    if endpoint and error.source == endpoint.addr and (error.family, error.kind, error.code) in _PORT_CLOSED:
        return [
            f"{endpoint.addr} is up, and has no WireGuard on UDP port {endpoint.port}: start it there, or",
            "see which port it has, there:",
            "wg show INTERFACE listen-port",
            "and enter it here:",
            evidence.wg_set(f"peer {key} endpoint {quoted(f'{endpoint.addr}:PORT')}"),
        ]
    return [
        f"ask who runs {error.source} why it refuses what goes to {label}; or see which way that goes:",
        evidence.command(f"ip route get {endpoint.addr if endpoint else 'ADDRESS'}"),
    ]
