# SPDX-License-Identifier: GPL-2.0-only
"""Keeps text from outside from steering the terminal it is shown on."""

from __future__ import annotations

import unicodedata
from typing import Final

# Control, invisible formatting (bidi, zero width), half surrogates, line and paragraph ends.
_STRIPPED: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean(text: str) -> str:
    """The text without its control characters."""
    if text.isprintable():
        return text
    return "".join(char for char in text if unicodedata.category(char) not in _STRIPPED)
