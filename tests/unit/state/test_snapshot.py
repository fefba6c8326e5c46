# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.snapshot and clock."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from wgtrace.errors import StateError, UnsupportedError
from wgtrace.state import snapshot
from wgtrace.state.clock import boottime_ns, clock_offset_ns
from wgtrace.state.snapshot import take
from wgtrace.state.types import Device, Namespace

HERE, GONE, OTHER = Namespace(1, "/1"), Namespace(2, "/2", "blue"), Namespace(3, "/3")


def test_what_cannot_be_read_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One namespace that is gone, or not to be read, does not hide the others."""

    def devices(namespace: Namespace, _names: Mapping[str, str]) -> tuple[Device, ...]:
        if namespace is GONE:
            raise StateError("the network namespace blue is gone")
        if namespace is OTHER:
            raise UnsupportedError("not permitted to read the peers of wg0", "this needs root")
        return (Device("wg0", 7, namespace.inode),)

    monkeypatch.setattr(snapshot, "devices", devices)

    before = boottime_ns()
    taken = take([HERE, GONE, OTHER], {})

    assert taken.device("wg0", 1) is not None
    assert taken.device("wg0", 3) is None
    assert taken.namespaces == (HERE, GONE, OTHER)
    assert taken.unreadable == (
        "blue: the network namespace blue is gone",
        "/3: not permitted to read the peers of wg0 (this needs root)",
    )
    assert before <= taken.taken_ns <= boottime_ns()


def test_the_clocks_offset() -> None:
    """An event's time plus the offset is the wall clock's time."""
    assert abs(boottime_ns() + clock_offset_ns() - time.time_ns()) < 1_000_000_000


def test_the_best_sample_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample that was interrupted between its readings is not taken."""
    boot = iter([0, 900, 1000, 1002, 2000, 2500, 3000, 3900, 4000, 4900])
    wall = iter([70_800, 71_001, 72_400, 73_000, 74_000])
    monkeypatch.setattr("wgtrace.state.clock.boottime_ns", lambda: next(boot))
    monkeypatch.setattr("time.time_ns", lambda: next(wall))

    assert clock_offset_ns() == 70_000
