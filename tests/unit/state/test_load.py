# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.load: how busy the CPUs are."""

from __future__ import annotations

from pathlib import Path

from wgtrace.state.load import cpu_load
from wgtrace.state.types import Load


def test_the_columns_of_proc_stat(tmp_path: Path) -> None:
    """Each CPU, without the sum; idle and waiting for a disk is not busy; guest is part of user."""
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  11 22 33 44 55 66 77 88 99 10\n"
        "cpu0 1 2 3 40 50 6 7 8 1 0\n"
        "cpu1 10 0 0 90 0 0 5 0 0 0\n"
        "intr 17 0\n"
    )

    assert cpu_load(stat) == Load(busy=(27, 15), softirq=(7, 5), ticks=(117, 105))


def test_this_machine_has_cpus() -> None:
    """The real file, and one that is not there."""
    load = cpu_load()

    assert len(load.ticks) == len(load.busy) > 0
    assert all(busy <= ticks for busy, ticks in zip(load.busy, load.ticks, strict=True))
    assert cpu_load(Path("/nonexistent")) == Load()
