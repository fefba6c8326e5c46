# SPDX-License-Identifier: GPL-2.0-only
"""What holds on every sound kernel, and was seen not to hold: a kernel bug that is known."""

from __future__ import annotations

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence
from wgtrace.diagnosis.rules.build import finding
from wgtrace.diagnosis.words import count_of, listing
from wgtrace.events.invariants import INVARIANTS, Invariant
from wgtrace.events.types import InvariantTotal


def known_kernel_bugs(evidence: InterfaceEvidence) -> list[Finding]:
    """One finding for each invariant that was violated, of a peer's kernel one for each peer."""
    found = []
    for invariant, row in INVARIANTS.items():
        looks = [t for t in evidence.invariants if t.invariant is invariant]
        violated = {t.public_key: t.count for t in looks if not t.holds}
        if row.of_peer:
            of = ([t for t in looks if t.public_key == key] for key in violated)
            found += [_finding(evidence, invariant, theirs) for theirs in of]
        elif violated:
            found.append(_finding(evidence, invariant, looks))
    return found


def _finding(evidence: InterfaceEvidence, invariant: Invariant, looks: list[InvariantTotal]) -> Finding:
    row = INVARIANTS[invariant]
    violated = [t for t in looks if not t.holds]
    count, keys = sum(t.count for t in violated), [t.public_key for t in violated]
    whose = f"The kernel of {evidence.label(keys[0])}" if row.of_peer else "This kernel"
    whom = f" It did with {listing([evidence.label(key) for key in keys])}." if len(keys) > 1 else ""
    return finding(
        evidence,
        "known-kernel-bug",
        Severity.ERROR,
        Confidence.CERTAIN,
        count,
        f"{whose} {row.costs}.{whom}",
        peer=keys[0] if len(keys) == 1 else None,
        seen=[
            f"{invariant.id} violated {count} of {count_of(sum(t.count for t in looks), 'time')}: "
            f"on a sound kernel {row.holds}",
            f'mended by commit {row.commit} ("{row.title}")',
        ],
        fix=[f"{'there' if row.of_peer else 'here'}: a kernel with commit {row.commit}"],
        needs=(invariant.id,),
    )
