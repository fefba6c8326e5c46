# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's clock of events, and the wall clock, clock_gettime(2)."""

from __future__ import annotations

import time

_SAMPLES = 5


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
