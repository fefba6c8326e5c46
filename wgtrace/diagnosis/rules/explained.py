# SPDX-License-Identifier: GPL-2.0-only
"""Drops that look like one cause and come of another: who has the nearer one."""

from __future__ import annotations

from wgtrace.diagnosis.interface import InterfaceEvidence, Sighting
from wgtrace.events.reasons import Reason
from wgtrace.events.types import IPAddress

UNDER_LOAD = (
    Reason.COOKIE_UNDER_LOAD,
    Reason.RATELIMITED,
    Reason.HANDSHAKE_QUEUE_FULL,
    Reason.HANDSHAKE_QUEUE_CONTENDED,
)
"""What WireGuard does with handshakes only when there are more than it can check."""
_A_FEW = 5
"""Initiations less than 20 ms apart that two machines or an odd client make without harm."""


def is_flood(evidence: InterfaceEvidence) -> bool:
    """Whether more handshakes arrive than can be checked, or than a client has reason to send."""
    return evidence.total(*UNDER_LOAD) > 0 or evidence.total(Reason.HANDSHAKE_FLOOD) > _A_FEW


def flooders(evidence: InterfaceEvidence) -> list[IPAddress]:
    """Where the flood comes from, most frequent first; empty: there is none, or it is not known."""
    if not is_flood(evidence):
        return []
    return evidence.sources(evidence.seen(*UNDER_LOAD, Reason.HANDSHAKE_FLOOD))


def in_flood(evidence: InterfaceEvidence, seen: list[Sighting]) -> list[Sighting]:
    """Of these refused handshakes, those that are part of the flood.

    That is all from where it comes from, and in a flood all from where no peer is:
    its source addresses may be made up.
    """
    if not is_flood(evidence):
        return []
    sources = set(flooders(evidence))
    return [s for s in seen if not (o := s.last.event.outer) or o.saddr in sources or not evidence.was_at(o)]


def corrupted(evidence: InterfaceEvidence, seen: list[Sighting]) -> list[Sighting]:
    """Of these refused handshakes, those of a peer whose good session's data arrives damaged.

    It has the right keys, or there were no session: its handshakes are damaged too.
    """
    return [
        s
        for s in seen
        if (key := evidence.was_at(s.last.event.outer)) and evidence.total(Reason.DECRYPT_FAILED, peer=key)
    ]
