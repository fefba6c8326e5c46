# SPDX-License-Identifier: GPL-2.0-only
"""Being stopped by a signal, without leaving anything behind."""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Signals ask a run to end at its next step, however often they come: it has to tidy up.

    Attributes:
        number: The first signal that came, 0 as long as there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Stop:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup(1) has SIGHUP
                self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave

    def _take(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
