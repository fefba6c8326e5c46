# SPDX-License-Identifier: GPL-2.0-only
"""words: the phrases of sentences."""

from __future__ import annotations

import pytest
from factories import NOW

from wgtrace.diagnosis.words import age, count_of, listing, utc


def test_utc_cuts_and_does_not_round() -> None:
    """A time is cut after the digits asked for."""
    assert utc(NOW) == "2026-11-22 12:04:11.203"
    assert utc(NOW, 0) == "2026-11-22 12:04:11"


@pytest.mark.parametrize(
    ("items", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (list("abcdef"), "a, b, c, d and 2 more")],
)
def test_listing(items: list[str], text: str) -> None:
    """A list reads as a sentence does, and a long one is cut."""
    assert listing(items) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (42, "42 s"), (300, "5 min"), (10_800, "3 h"), (864_000, "10 days")],
)
def test_age(seconds: float, text: str) -> None:
    """A span has the unit that people would use."""
    assert age(seconds) == text


def test_count_of() -> None:
    """One packet, two packets."""
    assert (count_of(1, "packet"), count_of(2, "packet")) == ("1 packet", "2 packets")
