# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures of the unit tests. Events and configurations are made by `factories`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import hypothesis
import pytest

# How long an example takes says something about the machine, nothing about the code.
hypothesis.settings.register_profile("wgtrace", deadline=None)
hypothesis.settings.load_profile("wgtrace")


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC, so that stored tables hold everywhere."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
