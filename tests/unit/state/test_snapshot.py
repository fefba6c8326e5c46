# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.snapshot and clock."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

import pytest

from wgtrace.errors import StateError, UnsupportedError
from wgtrace.state import snapshot
from wgtrace.state.clock import anchor, boottime_ns, clock_offset_ns
from wgtrace.state.snapshot import Followed, take
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


class Host:
    """What a stand-in for `devices` finds in each namespace.

    Args:
        found: Interfaces by the namespace's inode.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: dict[int, list[Device]]) -> None:
        self.found = found
        monkeypatch.setattr(snapshot, "devices", self.devices)
        monkeypatch.setattr(snapshot, "all_namespaces", lambda: (HERE, OTHER, BLUE))

    def devices(
        self,
        namespace: Namespace,
        _names: Mapping[str, str],
        only: Collection[str] | None = None,
        followed: Collection[int] | None = None,
    ) -> tuple[Device, ...]:
        """Those that are wanted by name or index."""
        known = followed or ()
        there = self.found.get(namespace.inode, [])
        return tuple(d for d in there if only is None or d.ifname in only or d.ifindex in known)


BLUE = Namespace(4, "/4", "blue")


def test_a_renamed_interface_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was asked for by name stays wanted by its index; another of that name is wanted too."""
    host = Host(monkeypatch, {1: [Device("wg0", 7, 1), Device("wg1", 8, 1)]})
    said: list[str] = []
    followed = Followed(HERE, {}, ("wg0",), said.append)

    assert [d.ifname for d in followed.take().devices] == ["wg0"]
    host.found[1] = [Device("vpn0", 7, 1), Device("wg1", 8, 1)]
    assert [d.ifname for d in followed.take().devices] == ["vpn0"]
    host.found[1].append(Device("wg0", 9, 1))
    taken = followed.take()
    assert [d.ifname for d in taken.devices] == ["vpn0", "wg0"]
    assert (taken.unreadable, said) == ((), [])


def test_one_that_is_deleted_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone, which is no gap in what is seen; when it is made again it is wanted again."""
    host = Host(monkeypatch, {1: [Device("wg0", 7, 1, "KEY=")]})
    said: list[str] = []
    followed = Followed(HERE, {}, ("wg0",), said.append)
    followed.take()

    host.found[1] = []
    assert followed.take().unreadable == ()
    assert followed.take().devices == ()
    assert said == ["wg0 is gone"]
    host.found[1] = [Device("wg0", 9, 1, "KEY=")]
    assert [d.ifindex for d in followed.take().devices] == [9]


def test_one_that_is_moved_away_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is now is said, as something that is not seen, until it is back."""
    host = Host(monkeypatch, {1: [Device("wg0", 7, 1, "KEY=")], 3: [Device("wg0", 2, 3, "OTHER=")]})
    said: list[str] = []
    followed = Followed(HERE, {}, None, said.append)
    followed.take()

    host.found[4], host.found[1] = [Device("wg0", 3, 4, "KEY=")], []
    (told,) = followed.take().unreadable
    assert told.startswith("wg0 was moved to network namespace blue, where it is not traced")
    assert "wgtrace drops --netns blue wg0" in told
    assert followed.take().unreadable == (told,)
    assert said == [told]
    host.found[1], host.found[4] = host.found[4], []
    assert followed.take().unreadable == ()


def test_an_anchor_holds_the_clocks_of_one_moment() -> None:
    """Each clock is what it is when it is read for itself before and after."""
    clocks = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC_RAW, time.CLOCK_REALTIME)
    before = [time.clock_gettime_ns(clock) for clock in clocks]
    now = anchor()
    after = [time.clock_gettime_ns(clock) for clock in clocks]

    read = [now.monotonic_ns, now.boottime_ns, now.raw_ns, now.realtime_ns]
    assert all(a <= ns <= b for a, ns, b in zip(before, read, after, strict=True))
    assert 0 <= now.within_ns <= after[1] - before[1]
    assert now.max_error_us >= 0
    assert abs(now.frequency_ppm) <= 500  # the kernel's limit
