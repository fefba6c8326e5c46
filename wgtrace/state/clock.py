# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's clock of events, and the other clocks, clock_gettime(2) and adjtimex(2)."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass

_SAMPLES = 5
_TIME_ERROR = 5


@dataclass(frozen=True, slots=True)
class Anchor:
    """The clocks of one moment.

    Attributes:
        boottime_ns: CLOCK_BOOTTIME, the clock of events; monotonic_ns, realtime_ns
            and raw_ns (CLOCK_MONOTONIC_RAW, which NTP does not slew) like it.
        within_ns: All were read within this time.
        synchronised: Whether the kernel holds CLOCK_REALTIME to be synchronised by NTP.
        max_error_us: The kernel's bound of its error, in microseconds.
        frequency_ppm: By how much NTP makes the clocks faster.
    """

    monotonic_ns: int
    boottime_ns: int
    raw_ns: int
    realtime_ns: int
    within_ns: int
    synchronised: bool = False
    max_error_us: int = 0
    frequency_ppm: float = 0.0


def boottime_ns() -> int:
    """CLOCK_BOOTTIME, as bpf_ktime_get_boot_ns() has it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def clock_offset_ns() -> int:
    """CLOCK_REALTIME minus CLOCK_BOOTTIME: what to add to an event's time to get Unix time.

    It changes when the wall clock is set. Of some samples the one counts that took
    the least time between the two readings of CLOCK_BOOTTIME around it.
    """
    samples = []
    for _ in range(_SAMPLES):
        before, wall, after = boottime_ns(), time.time_ns(), boottime_ns()
        samples.append((after - before, wall - (before + after) // 2))
    return min(samples)[1]


def anchor() -> Anchor:
    """The clocks now: of some samples the one that took the least time."""
    return min((_sample() for _ in range(_SAMPLES)), key=lambda sample: sample.within_ns)


def _sample() -> Anchor:
    before = boottime_ns()
    wall = time.time_ns()
    monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    raw = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    after = boottime_ns()
    return Anchor(monotonic, (before + after) // 2, raw, wall, after - before, *_ntp())


def _ntp() -> tuple[bool, int, float]:
    """What adjtimex(2) knows of CLOCK_REALTIME; zeros where a long has no 64 bits."""
    timex = (ctypes.c_int64 * 32)()  # more than `struct timex` has; all modes are 0: nothing is set
    state = ctypes.CDLL(None).adjtimex(timex)
    if ctypes.sizeof(ctypes.c_long) != 8 or state < 0:
        return False, 0, 0.0
    _modes, _offset, frequency, max_error = timex[:4]
    return state != _TIME_ERROR, max_error, frequency / 65536
