# SPDX-License-Identifier: GPL-2.0-only
"""The interfaces of a run: which is which when one is renamed, moved or made anew, and its counters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from wgtrace.events.types import (
    DropEvent,
    DropTotal,
    HandshakeEvent,
    HandshakeTotal,
    InvariantTotal,
    PathEvent,
    PathTotal,
)
from wgtrace.state.types import Device, Snapshot

COUNTERS: Final = ("rx_errors", "rx_length_errors", "rx_frame_errors", "tx_errors", "tx_dropped")

Key = tuple[str, int]
"""Name of an interface, and inode of its network namespace."""
_Event = TypeVar("_Event", bound=DropEvent | PathEvent | HandshakeEvent)
_Total = TypeVar("_Total", DropTotal, PathTotal, DropTotal | PathTotal, HandshakeTotal, InvariantTotal)


@dataclass(slots=True)
class _Counted:
    """An interface and its counters.

    Attributes:
        device: As it was last seen.
        base: Its counters when the run began.
        before: How far those moved that had its name before it.
    """

    device: Device
    base: dict[str, int]
    before: dict[str, int]

    def moved(self) -> dict[str, int]:
        """How far each counter moved since the run began."""
        now = _counters(self.device)
        return {counter: self.before[counter] + now[counter] - self.base[counter] for counter in COUNTERS}


class Interfaces:
    """Follows interfaces from one snapshot to the next.

    The programs name an interface as it was called at the moment of a drop; a run
    calls it as it is called now. What was counted under a name that another interface
    took since stays with the one that had it then.

    Args:
        report: Gets a sentence when an interface is renamed or moved.
    """

    def __init__(self, report: Callable[[str], object] = lambda _: None) -> None:
        self._report = report
        self._is_first = True
        self._known: dict[Key, _Counted] = {}
        self._there: set[Key] = set()
        self._renamed: dict[Key, Key] = {}
        self._carried: dict[DropTotal | PathTotal | HandshakeTotal | InvariantTotal, dict[Key, int]] = {}

    def take(self, snapshot: Snapshot) -> tuple[tuple[Key, Key], ...]:
        """Take the interfaces as they are now.

        Gives those renamed: what it was, what it is. Have `named` look at the totals
        then, before the old name is given to another one.
        """
        renamed = []
        now = {_key(device): device for device in snapshot.devices}
        gone = {key: self._known[key] for key in self._there - set(now)}
        for key, device in now.items():
            known = self._known.get(key)
            former = None if self._is_first or key in self._there else _former(device, gone)
            if former:
                del gone[former]
                self._take_over(former, device, snapshot)
                renamed.append((former, key))
            elif known is None:
                zero = dict.fromkeys(COUNTERS, 0)
                self._known[key] = _Counted(device, _counters(device) if self._is_first else zero, zero)
            elif known.device.ifindex != device.ifindex or not _goes_on(known.device, device):
                # Made anew: its counters start at 0. The inode of a namespace is used again, too.
                self._known[key] = _Counted(device, dict.fromkeys(COUNTERS, 0), known.moved())
            else:
                known.device = device
        self._there = set(now)
        self._is_first = False
        return tuple(renamed)

    def _take_over(self, former: Key, device: Device, snapshot: Snapshot) -> None:
        """`device` is what was called `former`."""
        key, counted = _key(device), self._known.pop(former)
        if other := self._known.get(key):  # one of this name was here before, and is gone
            counted.before = {c: counted.before[c] + moved for c, moved in other.moved().items()}
        counted.device = device
        self._known[key] = counted
        self._renamed.pop(key, None)
        self._renamed = {old: key if new == former else new for old, new in self._renamed.items()}
        for shares in self._carried.values():
            if former in shares:
                shares[key] = shares.get(key, 0) + shares.pop(former)
        self._renamed[former] = key
        self._report(f"{_place(*former, snapshot)} is now {_place(*key, snapshot)}")

    def now(self, key: Key) -> Key:
        """What an interface that was called `key` is called now."""
        return key if key in self._there else self._renamed.get(key, key)

    def at(self, event: _Event) -> _Event:
        """The event, at its interface's name of now."""
        ifname, netns = self.now((event.device.ifname, event.device.netns))
        if ifname == event.device.ifname and netns == event.device.netns:
            return event
        return replace(event, device=replace(event.device, ifname=ifname, netns=netns))

    def named(self, totals: Iterable[_Total]) -> tuple[_Total, ...]:
        """The totals, each at its interface's name of now."""
        sums: dict[_Total, int] = {}
        for total in totals:
            name = total.ifname, total.netns
            shares: dict[Key, int] = {}
            if name in self._renamed:
                shares = self._carried.setdefault(replace(total, count=0), {})
            if name in self._renamed and name not in self._there:  # all of it, for good
                shares[self._renamed[name]] = (
                    total.count - sum(shares.values()) + shares.get(self._renamed[name], 0)
                )
            rest = total.count - sum(shares.values())
            for (ifname, netns), count in (*shares.items(), (name, rest)):
                if count:
                    key = replace(total, ifname=ifname, netns=netns, count=0)
                    sums[key] = sums.get(key, 0) + count
        return tuple(replace(total, count=count) for total, count in sums.items())

    def counters(self) -> Iterator[tuple[Key, dict[str, int]]]:
        """How far the counters of each interface moved since the run began."""
        for key, counted in self._known.items():
            yield key, counted.moved()


def _key(device: Device) -> Key:
    return device.ifname, device.netns


def _counters(device: Device) -> dict[str, int]:
    return {counter: device.counters.get(counter, 0) for counter in COUNTERS}


def _former(device: Device, gone: dict[Key, _Counted]) -> Key | None:
    """Which of those that are gone `device` is: one with its key, and counters that did not go back.

    In its namespace it has its index still, whatever it is called. The index alone does
    not tell: the inode of a namespace that is gone is soon that of another one.
    """
    for key, counted in gone.items():
        was = counted.device
        is_here = was.netns == device.netns and was.ifindex == device.ifindex
        is_elsewhere = was.netns != device.netns and device.public_key is not None
        if was.public_key == device.public_key and (is_here or is_elsewhere) and _goes_on(was, device):
            return key
    return None


def _goes_on(was: Device, now: Device) -> bool:
    """Whether no counter went back, which none of an interface does."""
    before, after = _counters(was), _counters(now)
    return all(after[counter] >= before[counter] for counter in COUNTERS)


def _place(ifname: str, netns: int, snapshot: Snapshot) -> str:
    """The interface, with its namespace where there are several."""
    if len(snapshot.namespaces) < 2:
        return ifname
    name = next((space.name for space in snapshot.namespaces if space.inode == netns), None)
    return f"{ifname} in netns {name or netns}"
