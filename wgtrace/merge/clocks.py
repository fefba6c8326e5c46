# SPDX-License-Identifier: GPL-2.0-only
"""How far one host's clock is ahead of another's, from messages that both recorded.

A message that left A when A's clock showed a, and had arrived at B when B's showed b, says
that B is ahead by at most b - a; one from B to A that B is ahead by at least so much. Where
both clocks run evenly, B's lead is a straight line over time below all of the former and
above all of the latter. All such lines together are a convex set; at each time its ends
bound the lead, so the bound holds whatever the ways took, and however uneven they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MOST_DRIFT: Final = 1000e-6
"""Of two clocks that each are off by 500 ppm, which is what adjtimex(2) lets them be corrected by."""
_ROUNDS: Final = 120


@dataclass(frozen=True, slots=True)
class Bound:
    """One message: the lead of B's clock when A's showed `at_ns` is at most, or at least, `lead_ns`."""

    at_ns: int
    lead_ns: int


@dataclass(frozen=True, slots=True)
class Lead:
    """How far B's clock, CLOCK_BOOTTIME, is ahead of A's.

    Attributes:
        at_ns: A's clock, in the middle of the messages.
        lead_ns: Then; within_ns: by how much it may be wrong, None: not known.
        drift_ppm: By how much B's is faster; drift_within_ppm: may be wrong by so much.
        begin_ns, end_ns: A's clock at the first and last message.
        worst_ns: By how much it may be wrong at any time between them.
        messages: How many it is taken from, from A to B and from B to A.
        unevenness_ns: How far the messages contradict each other, as they do if a clock
            ran unevenly; it is part of what may be wrong. 0: they do not.
    """

    at_ns: int
    lead_ns: int
    within_ns: int | None
    drift_ppm: float = 0.0
    drift_within_ppm: float | None = None
    begin_ns: int = 0
    end_ns: int = 0
    worst_ns: int | None = None
    messages: tuple[int, int] = (0, 0)
    unevenness_ns: int = 0

    def at(self, a_ns: int) -> int:
        """B's lead when A's clock shows this."""
        return self.lead_ns + round((a_ns - self.at_ns) * self.drift_ppm / 1e6)

    def to_a(self, b_ns: int) -> int:
        """What A's clock showed when B's showed this."""
        guess = b_ns - self.lead_ns
        return b_ns - self.at(guess)


def lead(at_most: Sequence[Bound], at_least: Sequence[Bound]) -> Lead | None:
    """B's lead, from messages each way; None: there are none in one of them."""
    if not at_most or not at_least:
        return None
    times = [bound.at_ns for bound in (*at_most, *at_least)]
    begin, end = min(times), max(times)
    middle, base = (begin + end) // 2, at_most[0].lead_ns
    # Small numbers, relative to the middle: floats have 53 bits.
    above = _hull(((b.at_ns - middle, b.lead_ns - base) for b in at_most), 1)
    below = _hull(((b.at_ns - middle, b.lead_ns - base) for b in at_least), -1)

    def highest(drift: float) -> float:
        return min(value - drift * at for at, value in above)

    def lowest(drift: float) -> float:
        return max(value - drift * at for at, value in below)

    def room(drift: float) -> float:
        return highest(drift) - lowest(drift)

    best = _peak(room, -MOST_DRIFT, MOST_DRIFT)
    slack = max(0.0, -room(best) / 2)
    slowest = _edge(lambda drift: room(drift) + 2 * slack >= 0, best, -MOST_DRIFT)
    fastest = _edge(lambda drift: room(drift) + 2 * slack >= 0, best, MOST_DRIFT)

    def between(at: float) -> tuple[float, float]:
        """The middle of what B's lead may be at a time, and half of how much it may be."""
        top = _peak(lambda drift: highest(drift) + drift * at, slowest, fastest)
        bottom = _peak(lambda drift: -(lowest(drift) + drift * at), slowest, fastest)
        most, least = highest(top) + top * at, lowest(bottom) + bottom * at
        return (most + least) / 2, max(0.0, most - least) / 2 + slack

    # What the lead may be is widest at the ends, and a line between the middles there is within it.
    (first, first_within), (last, last_within) = between(begin - middle), between(end - middle)
    now, within = (first + last) / 2, (first_within + last_within) / 2
    drift = (last - first) / (end - begin) if end > begin else (slowest + fastest) / 2
    return Lead(
        at_ns=middle,
        lead_ns=base + round(now),
        within_ns=round(within) + 1,
        drift_ppm=drift * 1e6,
        drift_within_ppm=max(fastest - drift, drift - slowest) * 1e6,
        begin_ns=begin,
        end_ns=end,
        worst_ns=round(max(first_within, last_within)) + 1,
        messages=(len(at_most), len(at_least)),
        unevenness_ns=round(slack),
    )


def _hull(points: Iterable[tuple[int, int]], side: int) -> list[tuple[int, int]]:
    """The lower (side 1) or upper (side -1) convex hull: no other point bounds any line."""
    hull: list[tuple[int, int]] = []
    for point in sorted(points, key=lambda p: (p[0], side * p[1])):
        if hull and hull[-1][0] == point[0]:
            continue
        while len(hull) > 1:
            (ax, ay), (bx, by) = hull[-2], hull[-1]
            if side * ((bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax)) > 0:
                break
            hull.pop()
        hull.append(point)
    return hull


def _peak(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a concave function is highest."""
    for _ in range(_ROUNDS):
        third = (high - low) / 3
        if function(low + third) < function(high - third):
            low += third
        else:
            high -= third
    return (low + high) / 2


def _edge(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """How far from `inside`, where it holds, towards `outside` it still does."""
    if holds(outside):
        return outside
    for _ in range(_ROUNDS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return inside
