# SPDX-License-Identifier: GPL-2.0-only
"""Prefixes that a change of the configuration took from one peer and gave to another."""

from __future__ import annotations

from pathlib import PurePath

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence, Move, Sighting
from wgtrace.diagnosis.rules.build import allow, finding, times
from wgtrace.diagnosis.words import listing, utc
from wgtrace.events.reasons import Reason, SubReason
from wgtrace.state.types import IPNetwork


def allowed_ips_moved(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """A prefix of this peer went to another, by a change while tracing or by files that both claim it."""
    moves, files = moves_from(evidence, key), _claimed(evidence, key)
    refused = refused_by_move(evidence, key)
    count = sum(s.count for s in refused)
    total = evidence.total(Reason.SRC_NOT_ALLOWED, sub=SubReason.OWNED_BY_OTHER_PEER, peer=key)
    if refused and len(refused) == len(_refused(evidence, key)):
        count = total
    peer = evidence.peer(key)
    nets = list(dict.fromkeys([*(move.net for move in moves), *files]))
    is_back = bool(peer) and all(net in peer.allowed_ips for net in nets) if peer else False
    if not nets or (is_back and not count):
        return None
    winners = list(dict.fromkeys([*(m.winner for m in moves), *(w for w, _ in files.values())]))
    label, takers = evidence.label(key), listing([evidence.label(winner) for winner in winners])
    lost = listing(nets)
    by = list(dict.fromkeys(process for move in moves for process in move.by))
    where = list(dict.fromkeys(PurePath(path).name for _, paths in files.values() for path in paths))
    facts = [
        f"at {utc(move.unix_ns, 0)} UTC {move.net} went from {label} to {evidence.label(move.winner)}"
        + (f", by {listing(move.by)}" if move.by else "")
        for move in moves[:3]
    ]
    facts += [f"{listing(where)} {'gives' if len(where) == 1 else 'give'} it to both"] if where else []
    facts += [f"packets of {label} from there were refused, {times(count)}"] if count else []
    if moves:
        cause = (
            f"{lost} belonged to {label} and was given to {takers}{f' by {by[0]}' if len(by) == 1 else ''}: "
            f"a prefix has one owner, so {label} lost it without a word."
        )
    else:
        cause = (
            f"{listing(where)} {'gives' if len(where) == 1 else 'give'} {lost} to both {label} and {takers}: "
            f"a prefix has one owner, and the one configured last, {takers}, has it."
        )
    fix = [
        f"if it belongs to {label}:",
        f"{allow(evidence, key, nets)}  # takes it from {takers}",
        f"if it belongs to {takers}: give {label} another, and take it out of its [Peer] section",
    ]
    none_left = peer is not None and not peer.allowed_ips
    severity = Severity.ERROR if count else Severity.WARNING if none_left or files else Severity.INFO
    return finding(
        evidence,
        "allowed-ips-moved",
        Severity.WARNING if is_back else severity,
        Confidence.CERTAIN if by or where else Confidence.LIKELY,
        count,
        cause,
        peer=key,
        seen=facts,
        fix=[f"nothing: {label} has it again by now"] if is_back else fix,
        needs=(Reason.SRC_NOT_ALLOWED.id,),
        not_visible=() if by or where else ("which process did it",),
    )


def moves_from(evidence: InterfaceEvidence, key: str) -> list[Move]:
    """What this peer lost to others and they still have, or was refused for. Giving back is no loss."""
    moves = [
        move for at, move in enumerate(evidence.moves) if move.loser == key and not _is_undo(evidence, at)
    ]
    sources = [s.last.event.inner.saddr for s in _refused(evidence, key) if s.last.event.inner]
    return [
        move
        for move in moves
        if ((owner := evidence.peer(move.winner)) and move.net in owner.allowed_ips)
        or any(addr in move.net for addr in sources)
    ]


def _is_undo(evidence: InterfaceEvidence, at: int) -> bool:
    """Whether this move only took back what an earlier one had taken."""
    move = evidence.moves[at]
    return any((m.net, m.loser, m.winner) == (move.net, move.winner, move.loser) for m in evidence.moves[:at])


def refused_by_move(evidence: InterfaceEvidence, key: str) -> list[Sighting]:
    """The peer's refused packets whose source it owned before, or a file says that it owns."""
    owned = {(m.net, m.winner) for m in moves_from(evidence, key)}
    owned |= {(net, winner) for net, (winner, _) in _claimed(evidence, key).items()}
    return [
        s
        for s in _refused(evidence, key)
        if (e := s.last.event).inner
        and any(e.owner == winner and e.inner.saddr in net for net, winner in owned)
    ]


def _refused(evidence: InterfaceEvidence, key: str) -> list[Sighting]:
    return evidence.seen(Reason.SRC_NOT_ALLOWED, sub=SubReason.OWNED_BY_OTHER_PEER, peer=key)


def _claimed(evidence: InterfaceEvidence, key: str) -> dict[IPNetwork, tuple[str, list[str]]]:
    """Prefixes that a file gives this peer and another has, as a file says too: the winner, the files."""
    peer, device = evidence.peer(key), evidence.device
    if peer is None or device is None:
        return {}
    found: dict[IPNetwork, tuple[str, list[str]]] = {}
    for claim in evidence.claims:
        if claim.public_key != key or claim.net in peer.allowed_ips:
            continue
        for other in evidence.claims:
            owner = evidence.peer(other.public_key)
            if (
                other.net == claim.net
                and other.public_key != key
                and owner
                and claim.net in owner.allowed_ips
            ):
                found[claim.net] = (other.public_key, list(dict.fromkeys([claim.file, other.file])))
    return found
