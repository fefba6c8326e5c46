# SPDX-License-Identifier: GPL-2.0-only
"""merge.clocks: whatever the clocks and the ways, the truth is within the bound that is stated."""

from __future__ import annotations

import random

import pytest

from wgtrace.merge.clocks import Bound, lead

HOUR_NS = 3_600_000_000_000
MS = 1_000_000


def messages(
    rng: random.Random, offset_ns: int, ppm: float, count: int, span_ns: int, delay_ns: tuple[int, int]
) -> tuple[list[Bound], list[Bound]]:
    """Messages each way at any times, each way's delays at least `delay_ns` and with a long tail."""
    bounds: tuple[list[Bound], list[Bound]] = ([], [])
    for way, least in enumerate(delay_ns):
        for _ in range(count):
            left = rng.randrange(span_ns)
            arrived = left + least + round(rng.expovariate(1 / (3 * MS)))
            b = [at + offset_ns + round(at * ppm / 1e6) for at in (left, arrived)]
            if way == 0:
                bounds[0].append(Bound(left, b[1] - left))
            else:
                bounds[1].append(Bound(arrived, b[0] - arrived))
    return bounds


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ppm", [0, 200, -200, 999])
@pytest.mark.parametrize("offset_ns", [0, HOUR_NS, -9999 * HOUR_NS])
@pytest.mark.parametrize(
    "delay_ns", [(100_000, 100_000), (40 * MS, 0), (0, 40 * MS)], ids=["even", "there", "back"]
)
def test_the_truth_is_within_the_bound(
    seed: int, ppm: float, offset_ns: int, delay_ns: tuple[int, int]
) -> None:
    """At each time between the messages, also where one way takes much longer than the other."""
    rng, span = random.Random(seed), 60_000 * MS
    found = lead(*messages(rng, offset_ns, ppm, 101, span, delay_ns))

    assert found
    assert found.worst_ns is not None
    assert found.drift_within_ppm is not None
    assert found.unevenness_ns == 0
    for at in range(found.begin_ns, found.end_ns, span // 17):
        assert abs(found.at(at) - (offset_ns + at * ppm / 1e6)) <= found.worst_ns
    assert abs(found.drift_ppm - ppm) <= found.drift_within_ppm + 1e-6
    half_of_both = sum(delay_ns) / 2
    assert found.worst_ns < half_of_both + 5 * MS  # it says something


@pytest.mark.parametrize("seed", range(7))
def test_more_messages_make_it_no_worse(seed: int) -> None:
    """What is known once stays known."""
    rng = random.Random(seed)
    there, back = messages(rng, HOUR_NS, 50, 301, 60_000 * MS, (MS, MS))
    # The same span: a longer one has more to say of.
    ends = sorted(there, key=lambda b: b.at_ns)[:: len(there) - 1]
    some, all_of_it = lead([*ends, *there[:23]], back[:23]), lead(there, back)

    assert some
    assert all_of_it
    assert (all_of_it.within_ns or 0) <= (some.within_ns or 0)
    assert (all_of_it.drift_within_ppm or 0) <= (some.drift_within_ppm or 0)


def test_one_message_each_way() -> None:
    """The round trip bounds the lead; of the drift only what clocks can have is known."""
    found = lead([Bound(0, 30)], [Bound(10, -10)])

    assert found
    assert abs(found.lead_ns - 10) <= 1
    assert found.within_ns == 21
    assert found.drift_within_ppm is not None
    assert found.drift_within_ppm > 999


@pytest.mark.parametrize("bounds", [([], []), ([Bound(0, 1)], []), ([], [Bound(0, 1)])])
def test_one_way_tells_nothing(bounds: tuple[list[Bound], list[Bound]]) -> None:
    """A lead that is bounded on one side only is not known."""
    assert lead(*bounds) is None


def test_clocks_that_run_unevenly() -> None:
    """A clock that is slewed makes messages contradict each other: that is said, and in the bound."""
    there = [Bound(at * MS, 1000 + (at > 500) * 7 * MS) for at in range(0, 1000, 10)]
    back = [Bound(at * MS + 5, -1000 + (at > 500) * 7 * MS) for at in range(0, 1000, 10)]
    found = lead(there, back)

    assert found
    assert found.worst_ns is not None
    assert 2 * MS < found.unevenness_ns <= found.worst_ns
    for at in range(0, 1000, 10):
        assert abs(found.at(at * MS) - (at > 500) * 7 * MS) <= found.worst_ns + 1000


def test_the_reverse_of_it() -> None:
    """What A's clock showed when B's showed this."""
    found = lead(
        [Bound(0, HOUR_NS + 30), Bound(60_000 * MS, HOUR_NS + 6 * MS)], [Bound(30_000 * MS, HOUR_NS)]
    )

    assert found
    for at in (0, 7 * MS, 60_000 * MS):
        assert abs(found.to_a(at + found.at(at)) - at) <= 6000  # to the drift of the drift
