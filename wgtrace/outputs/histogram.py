# SPDX-License-Identifier: GPL-2.0-only
"""Log2 histograms as text, as users of bcc's tools know them; and a line of a heat map."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from wgtrace.events.histogram import Histogram

_STARS: Final = 40
_SHADES: Final = " .:-=+*#%@"
# Columns of a heat map: from 256 ns to 17 s; what is outside goes to the first and the last.
_FIRST: Final = 9
_LAST: Final = 34
_MARKED: Final = 8  # each so many columns
_UNITS: Final = (("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000))


def duration(ns: int) -> str:
    """`812ns`, `1.24us`, `34.1ms`, `104s`: three figures."""
    for unit, size in _UNITS:
        value = ns / size
        if value >= 0.9995:
            digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{digits}f}{unit}"
    return f"{ns}ns"


def text_histogram(histogram: Histogram, unit: str = "nsecs") -> Iterator[str]:
    """The lines of a histogram, from the first bucket that has a value to the last.

    Three empty buckets or more in a row are one line.
    """
    buckets = list(histogram.buckets())
    most = max((count for _low, _high, count in buckets), default=0)
    width = max([10, *(len(str(high)) for _low, high, _count in buckets)])
    room = _STARS - 2 * (width - 10)
    yield f"{unit:>{width + 2}}{'':{width + 2}} : count     distribution"
    for is_empty, group in itertools.groupby(buckets, lambda bucket: not bucket[2]):
        run = list(group)
        if is_empty and len(run) > 2:
            yield f"{'...':>{width}}"
            continue
        for low, high, count in run:
            stars = "*" * (count * room // most)
            yield f"{low:>{width}} -> {high:<{width}} : {count:<8} |{stars:<{room}}|"


def heat_scale() -> str:
    """What stands above the lines of a heat map: which column is which time."""
    marks = (duration(1 << bucket - 1) for bucket in range(_FIRST, _LAST + 1, _MARKED))
    return "".join(f"{mark:<{_MARKED}}" for mark in marks).rstrip()


def heat_line(histogram: Histogram) -> str:
    """A column for each bucket, the darker the more of the packets it has."""
    columns = [0] * (_LAST - _FIRST + 1)
    for bucket, count in enumerate(histogram.counts):
        columns[min(max(bucket, _FIRST), _LAST) - _FIRST] += count
    most = max(columns) or 1
    last = len(_SHADES) - 1
    return "".join(_SHADES[-(-count * last // most)] for count in columns)
