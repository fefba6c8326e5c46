# SPDX-License-Identifier: GPL-2.0-only
"""The table of scenes is complete: no reason is left out, none is said twice."""

from __future__ import annotations

from collections import Counter

from wgtrace.events.reasons import Reason, SubReason
from wgtrace.selftest.scenes import NOT_PROVOKED, SCENES, N

ROWS = [(s.reason, s.sub_reason) for s in SCENES] + [(n.reason, n.sub_reason) for n in NOT_PROVOKED]


def test_every_reason_is_provoked_or_it_is_said_why_not() -> None:
    """Who adds a reason adds a scene, or says in NOT_PROVOKED why there can be none."""
    assert {reason for reason, _ in ROWS} == set(Reason)


def test_no_row_is_twice() -> None:
    """A reason, or a sub-reason of it, has one row; a reason told as a whole has no row in parts."""
    assert [row for row, count in Counter(ROWS).items() if count > 1] == []
    whole = {reason for reason, sub in ROWS if sub is SubReason.NONE}
    assert [reason for reason, sub in ROWS if sub is not SubReason.NONE and reason in whole] == []


def test_most_of_what_a_site_meets_is_provoked() -> None:
    """At least 25 reasons, by a prime number of packets."""
    assert len({scene.reason for scene in SCENES}) >= 25
    assert N > 1
    assert all(N % divisor for divisor in range(2, N))


def test_phrases_are_short() -> None:
    """How, and why not, is said in one line without a full stop."""
    for text in [scene.how for scene in SCENES] + [row.because for row in NOT_PROVOKED]:
        assert 2 <= len(text) <= 60, text
        assert not text.endswith(".")
