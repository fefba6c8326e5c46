# SPDX-License-Identifier: GPL-2.0-only
"""clean: text from outside cannot steer a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgtrace.outputs.clean import clean

HOSTILE = [
    ("\x1b[2J\x1b]0;owned\x07berlin", "[2J]0;ownedberlin"),
    ("berlin\nparis", "berlinparis"),
    ("berlin\rfake", "berlinfake"),
    ("berlin\u202enilreb", "berlinnilreb"),
    ("ber\u200blin\u2066", "berlin"),
    ("\x9b31mberlin\x85", "31mberlin"),
    ("ber\u2028lin\x7f\x00", "berlin"),
    ("\ud800berlin", "berlin"),
]


@pytest.mark.parametrize(("text", "cleaned"), HOSTILE)
def test_control_characters_are_stripped(text: str, cleaned: str) -> None:
    """Escapes, line ends, C1, bidi marks, invisible characters and half surrogates go."""
    assert clean(text) == cleaned


@pytest.mark.parametrize("text", ["berlin", "Zürich 2", "東京", "a'b\"c|d", ""])
def test_names_that_people_use_stay(text: str) -> None:
    """Letters of any script, spaces and punctuation are left alone."""
    assert clean(text) == text


@given(text=st.text())  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
def test_nothing_that_steers_is_left(text: str) -> None:
    """No character of a control category survives."""
    assert not {unicodedata.category(char) for char in clean(text)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
