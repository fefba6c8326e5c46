# SPDX-License-Identifier: GPL-2.0-only
"""Log2 histograms as the programs make them, and what can be said of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by power of two: bucket 0 counts the value 0, bucket n from 2^(n-1) to 2^n - 1.

    Attributes:
        counts: By bucket; the last has all that is larger, too.
        sum: Of all values, exact.
        max: The largest value, exact.
    """

    counts: tuple[int, ...]
    sum: int
    max: int

    @property
    def count(self) -> int:
        """How many values."""
        return sum(self.counts)

    def bounds(self, bucket: int) -> tuple[int, int]:
        """The smallest and the largest value that a bucket may hold; the largest seen ends it earlier."""
        low = 1 << bucket - 1 if bucket else 0
        return low, max(low, self.max) if bucket == len(self.counts) - 1 else max(low, 2 * low - 1)

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Smallest value, largest value and count of each bucket, from the first to the last that has any."""
        used = [bucket for bucket, count in enumerate(self.counts) if count]
        for bucket in range(used[0], used[-1] + 1) if used else ():
            yield (*self.bounds(bucket), self.counts[bucket])

    def percentile(self, percent: float) -> int:
        """The value that so many percent of all are no larger than, told by the buckets.

        It is in the right bucket, and there taken as if values were spread evenly: right
        to a factor of two. 0 if there is no value.
        """
        rank = max(1, math.ceil(self.count * percent / 100))
        below = 0
        for bucket, count in enumerate(self.counts):
            if count and below + count >= rank:
                low, high = self.bounds(bucket)
                high = min(high, self.max)
                return low + (high - low) * (rank - below) // count
            below += count
        return 0


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All of them as one.

    Raises:
        ValueError: There is none.
    """
    every = list(histograms)
    if not every:
        raise ValueError("no histogram")
    counts = tuple(sum(column) for column in zip(*(h.counts for h in every), strict=True))
    return Histogram(counts, sum(h.sum for h in every), max(h.max for h in every))


def since(now: Histogram, before: Histogram) -> Histogram:
    """What was counted after `before`; its maximum is told by the bucket, unless it is that of all."""
    counts = tuple(new - old for new, old in zip(now.counts, before.counts, strict=True))
    last = max((bucket for bucket, count in enumerate(counts) if count), default=0)
    largest = min(now.max, now.bounds(last)[1]) if any(counts) else 0
    return Histogram(counts, now.sum - before.sum, largest)
