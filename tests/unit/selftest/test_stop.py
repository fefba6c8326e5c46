# SPDX-License-Identifier: GPL-2.0-only
"""Signals to a selftest: it ends at its next step, and is not torn out of its tidying up."""

from __future__ import annotations

import signal

from wgtrace.selftest.stop import Stop


def test_the_first_signal_counts() -> None:
    """However many come, none raises anything; afterwards they mean what they did before."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Stop() as stop:
        assert stop.number == 0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT, signal.SIGHUP):
            signal.raise_signal(number)
        assert stop.number == signal.SIGTERM
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_what_is_ignored_stays_ignored() -> None:
    """Under nohup(1) a closed terminal does not stop it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.number == 0
    finally:
        signal.signal(signal.SIGHUP, before)
