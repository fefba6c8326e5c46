# SPDX-License-Identifier: GPL-2.0-only
"""Log2 histograms: bounds, percentiles, sums."""

from __future__ import annotations

import itertools
import random

import pytest
from latency_data import histogram

from wgtrace.events.histogram import merged, since
from wgtrace.events.wire import BUCKETS


def test_each_bucket_has_its_bounds() -> None:
    """Bucket 0 is 0, bucket n from 2^(n-1) to 2^n - 1, without a gap; the last one ends with the largest."""
    found = histogram(3, 1 << 45)
    bounds = [found.bounds(bucket) for bucket in range(BUCKETS)]

    assert bounds[:4] == [(0, 0), (1, 1), (2, 3), (4, 7)]
    assert all(low == before + 1 for (_low, before), (low, _high) in itertools.pairwise(bounds))
    assert bounds[-1] == (1 << BUCKETS - 2, 1 << 45)


def test_buckets_are_those_between_the_first_and_the_last_that_have_any() -> None:
    """An empty bucket between two others is told, one outside is not."""
    assert list(histogram(5, 6, 23).buckets()) == [(4, 7, 2), (8, 15, 0), (16, 31, 1)]
    assert list(histogram().buckets()) == []


@pytest.mark.parametrize("seed", range(7))
def test_a_percentile_is_in_the_right_bucket(seed: int) -> None:
    """Held against the values themselves: never off by more than the bucket, and never above the largest."""
    rng = random.Random(seed)
    values = sorted(int(rng.lognormvariate(9, 2)) for _ in range(rng.choice((1, 2, 23, 1009))))
    found = histogram(*values)

    for percent in (1, 50, 90, 99, 100):
        true = values[max(1, -(-len(values) * percent // 100)) - 1]
        said = found.percentile(percent)
        low, high = found.bounds(true.bit_length())
        assert low <= said <= min(high, values[-1])
    assert found.percentile(100) == found.max == values[-1]


def test_percentiles_lie_evenly_in_a_bucket() -> None:
    """Of 100 values in one bucket, P50 is in its middle; a single value is told as it is."""
    found = histogram(*range(1024, 2048))

    assert [found.percentile(p) for p in (25, 50, 75)] == [1279, 1535, 1791]
    assert histogram(1100).percentile(50) == 1100
    assert histogram(0, 0, 0, 7).percentile(50) == 0
    assert histogram().percentile(99) == 0


def test_merged_are_the_histogram_of_all_values() -> None:
    """Counts and sums are added, the largest is the largest."""
    assert merged([histogram(1, 2, 3), histogram(), histogram(1 << 20)]) == histogram(1, 2, 3, 1 << 20)
    with pytest.raises(ValueError, match="no histogram"):
        merged([])


def test_what_was_counted_since() -> None:
    """Counts and sum are exact; the maximum is, if it is that of all, else it is its bucket's."""
    before = histogram(3, 1000)
    later = since(histogram(3, 1000, 7, 23), before)
    assert (later.count, later.sum, later.max) == (2, 30, 31)
    assert since(histogram(3, 1000, 2000), before) == histogram(2000)
    none = since(before, before)
    assert (none.count, none.sum, none.max) == (0, 0, 0)
