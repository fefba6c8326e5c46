# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.interfaces: one interface stays one, whatever is done to its name, and its counters add up."""

from __future__ import annotations

import pytest

from wgtrace.events.reasons import Reason, SubReason
from wgtrace.events.types import DropTotal
from wgtrace.interfaces import COUNTERS, Interfaces
from wgtrace.state.types import Device, Namespace, Snapshot

HERE, BLUE = Namespace(1, "/1"), Namespace(2, "/2", "blue")
KEY, OTHER_KEY = "K" * 43 + "=", "O" * 43 + "="


def snap(*devices: Device) -> Snapshot:
    """These interfaces, in two namespaces."""
    return Snapshot(0, devices, (HERE, BLUE))


def wg(name: str, index: int = 7, errors: int = 0, netns: int = 1, key: str = KEY) -> Device:
    """An interface, and its rx_errors."""
    return Device(name, index, netns, key, counters={"rx_errors": errors})


def total(name: str, count: int, netns: int = 1) -> DropTotal:
    """Drops at an interface."""
    return DropTotal(name, netns, Reason.BAD_HEADER, SubReason.NONE, None, count)


def moved(interfaces: Interfaces) -> dict[tuple[str, int], int]:
    """How far rx_errors moved."""
    return {key: counters["rx_errors"] for key, counters in interfaces.counters()}


def counts(totals: tuple[DropTotal, ...]) -> dict[tuple[str, int], int]:
    """Packets by interface."""
    return {(t.ifname, t.netns): t.count for t in totals}


def test_counters_count_from_the_start() -> None:
    """What a counter had before the run is not the run's; one that comes later counts from 0."""
    interfaces = Interfaces()
    interfaces.take(snap(wg("wg0", errors=100)))
    interfaces.take(snap(wg("wg0", errors=107), wg("wg1", 8, errors=5, key=OTHER_KEY)))

    assert moved(interfaces) == {("wg0", 1): 7, ("wg1", 1): 5}
    assert {c for _, counters in interfaces.counters() for c in counters} == set(COUNTERS)


def test_made_anew() -> None:
    """An interface that was deleted and made again adds to what the former one moved."""
    interfaces = Interfaces()
    interfaces.take(snap(wg("wg0", errors=100)))
    interfaces.take(snap(wg("wg0", errors=107)))
    interfaces.take(snap())
    interfaces.take(snap(wg("wg0", 9, errors=5)))

    assert moved(interfaces) == {("wg0", 1): 12}
    assert counts(interfaces.named([total("wg0", 23)])) == {("wg0", 1): 23}


def test_made_anew_with_the_same_index() -> None:
    """As in a new namespace that got the inode of one that is gone: the counters tell."""
    interfaces = Interfaces()
    interfaces.take(snap(wg("wg0", errors=100)))
    interfaces.take(snap(wg("wg0", errors=107)))
    interfaces.take(snap(wg("wg0", errors=5)))

    assert moved(interfaces) == {("wg0", 1): 12}


def test_another_name_and_key_in_a_namespace_number_used_again() -> None:
    """An interface of another key is another one, whatever its index: drops are not taken over."""
    interfaces = Interfaces()
    interfaces.take(snap(wg("wg0", errors=100)))

    assert interfaces.take(snap(wg("vpn0", errors=103, key=OTHER_KEY))) == ()
    assert counts(interfaces.named([total("wg0", 3), total("vpn0", 4)])) == {("wg0", 1): 3, ("vpn0", 1): 4}


def test_renamed() -> None:
    """Totals under both names are of the new one, as are the counters; it is told once."""
    said: list[str] = []
    interfaces = Interfaces(said.append)
    interfaces.take(snap(wg("wg0", errors=100)))
    renamed = interfaces.take(snap(wg("vpn0", errors=103)))
    interfaces.take(snap(wg("vpn0", errors=107)))

    assert renamed == ((("wg0", 1), ("vpn0", 1)),)
    assert said == ["wg0 in netns 1 is now vpn0 in netns 1"]
    assert moved(interfaces) == {("vpn0", 1): 7}
    assert counts(interfaces.named([total("wg0", 3), total("vpn0", 4)])) == {("vpn0", 1): 7}


def test_a_name_that_is_taken_again() -> None:
    """What was counted under a name stays with who had it, also if they are renamed again."""
    interfaces = Interfaces()
    interfaces.take(snap(wg("wg0")))
    interfaces.take(snap(wg("vpn0", errors=3)))
    assert counts(interfaces.named([total("wg0", 3)])) == {("vpn0", 1): 3}
    interfaces.take(snap(wg("vpn0", errors=3), wg("wg0", 8, errors=5, key=OTHER_KEY)))
    both = [total("wg0", 8), total("vpn0", 2)]

    assert counts(interfaces.named(both)) == {("vpn0", 1): 5, ("wg0", 1): 5}
    interfaces.take(snap(wg("vpn1", errors=3), wg("wg1", 8, errors=5, key=OTHER_KEY)))
    assert counts(interfaces.named(both)) == {("vpn1", 1): 5, ("wg1", 1): 5}
    assert moved(interfaces) == {("vpn1", 1): 3, ("wg1", 1): 5}


def test_back_to_its_old_name() -> None:
    """Renamed and renamed back: all of it is the one name's."""
    interfaces = Interfaces()
    interfaces.take(snap(wg("wg0", errors=1)))
    interfaces.take(snap(wg("vpn0", errors=3)))
    interfaces.named([total("wg0", 3)])
    interfaces.take(snap(wg("wg0", errors=9)))

    assert counts(interfaces.named([total("wg0", 5), total("vpn0", 6)])) == {("wg0", 1): 11}
    assert moved(interfaces) == {("wg0", 1): 8}


@pytest.mark.parametrize("index", [7, 3])
def test_moved_to_another_namespace(index: int) -> None:
    """The same key and counters that go on: it is the same one, whatever index it has there."""
    said: list[str] = []
    interfaces = Interfaces(said.append)
    interfaces.take(snap(wg("wg0", errors=100)))
    interfaces.take(snap(wg("wg0", index, errors=107, netns=2)))

    assert moved(interfaces) == {("wg0", 2): 7}
    assert counts(interfaces.named([total("wg0", 3), total("wg0", 4, netns=2)])) == {("wg0", 2): 7}
    assert said == ["wg0 in netns 1 is now wg0 in netns blue"]


@pytest.mark.parametrize("other", [{"key": OTHER_KEY, "errors": 107}, {"errors": 99}])
@pytest.mark.parametrize("place", [{"netns": 2, "index": 3}, {"name": "vpn0"}])
def test_another_one(other: dict[str, object], place: dict[str, object]) -> None:
    """Another key, or counters that went back: it is another one, in whatever namespace."""
    said: list[str] = []
    interfaces = Interfaces(said.append)
    interfaces.take(snap(wg("wg0", errors=100)))
    interfaces.take(snap(wg(**{"name": "wg0", **place, **other})))  # type: ignore[arg-type]

    assert said == []
    assert moved(interfaces)["wg0", 1] == 0
    assert counts(interfaces.named([total("wg0", 3)])) == {("wg0", 1): 3}
