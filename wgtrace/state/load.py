# SPDX-License-Identifier: GPL-2.0-only
"""How busy the CPUs are, proc_stat(5)."""

from __future__ import annotations

from pathlib import Path

from wgtrace.state.types import Load

_STAT = Path("/proc/stat")


def cpu_load(stat: Path = _STAT) -> Load:
    """What each CPU has done since boot; empty if it cannot be read."""
    rows = []
    try:
        for line in stat.read_text(encoding="ascii").splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name != "cpu":
                rows.append([int(field) for field in fields])
    except (OSError, ValueError):
        return Load()
    # user nice system idle iowait irq softirq steal: guest times are part of user.
    ticks = tuple(sum(row[:8]) for row in rows)
    busy = tuple(all_of - row[3] - row[4] for all_of, row in zip(ticks, rows, strict=True))
    return Load(busy, tuple(row[6] for row in rows), ticks)
