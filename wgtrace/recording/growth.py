# SPDX-License-Identifier: GPL-2.0-only
"""Records of an older wgtrace, as this one has them."""

from __future__ import annotations

from typing import Any, Final

from wgtrace.events.wire import DropEventWire, EventKind, TotalKeyWire
from wgtrace.recording.facts import TOTAL_KEY, Facts, sizes


def _offset(field: Any) -> int:
    return int(field.offset)


_MATCHED_AT: Final[dict[int, int]] = {
    EventKind.DROP: _offset(DropEventWire.matched),
    TOTAL_KEY: _offset(TotalKeyWire.matched),
}


class Growth:
    """What was appended to the kinds of records since a recording was made.

    Args:
        facts: Of the recording.
    """

    def __init__(self, facts: Facts) -> None:
        self._then = facts.sizes
        # The one field of which 0 does not say "not known": before there were filters all was asked for.
        self._is_before_filters = self._then.get(EventKind.DROP, 0) <= _MATCHED_AT[EventKind.DROP]
        self._grown = {kind: now for kind, now in sizes().items() if now > self._then.get(kind, now)}

    def as_now(self, kind: int, raw: bytes) -> bytes:
        """A record, with zeros for what was appended to its kind since: it is not known."""
        size = self._grown.get(kind)
        if size and len(raw) == self._then[kind]:
            raw = raw.ljust(size, b"\0")
        at = _MATCHED_AT.get(kind)
        if at is not None and self._is_before_filters and len(raw) > at:
            raw = raw[:at] + b"\1" + raw[at + 1 :]
        return raw
