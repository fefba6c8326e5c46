# SPDX-License-Identifier: GPL-2.0-only
"""How long a selftest waits, and that it can be stopped while it does."""

from __future__ import annotations

from functools import partial

import pytest

from wgtrace.selftest import pair
from wgtrace.selftest.pair import Patience, StoppedError


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_s

    def is_past(self, due_s: float) -> bool:
        """Whether it is that late."""
        return self.now_s >= due_s

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time passes as the test wants it."""
    made = Clock()
    monkeypatch.setattr(pair, "time", made)
    return made


def test_what_is_there_costs_nothing(clock: Clock) -> None:
    """It does not wait for what already holds."""
    assert Patience(lambda: False).until(lambda: True)
    assert clock.now_s == 0


def test_what_comes_is_waited_for(clock: Clock) -> None:
    """It waits until something holds, and loses no patience by it."""
    patience = Patience(lambda: False)

    for due_s in range(9, 999, 9):
        assert patience.until(partial(clock.is_past, due_s))


def test_patience_ends(clock: Clock) -> None:
    """A kernel where nothing is seen does not hold a run up for more than a minute."""
    patience = Patience(lambda: False)

    assert not any(patience.until(lambda: False) for _ in range(31))
    assert 30 <= clock.now_s < 60


def test_a_stop_ends_each_wait(clock: Clock) -> None:
    """Ctrl-C is heard while it waits, and before."""
    patience = Patience(lambda: clock.now_s >= 1)

    with pytest.raises(StoppedError):
        patience.until(lambda: False)
    assert clock.now_s < 1.1
    with pytest.raises(StoppedError):
        patience.check()
