# SPDX-License-Identifier: GPL-2.0-only
"""All that was configured, taken together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from wgtrace.errors import WgtraceError
from wgtrace.state.clock import boottime_ns
from wgtrace.state.netns import all_namespaces
from wgtrace.state.types import Device, Namespace, Snapshot
from wgtrace.state.wireguard import devices


def take(namespaces: Iterable[Namespace], names: Mapping[str, str]) -> Snapshot:
    """The WireGuard interfaces of these namespaces as they are now.

    What cannot be read (a namespace that is gone, no permission) is listed in the
    snapshot, and nothing is raised.

    Args:
        names: Names of peers by public key.
    """
    taken_ns, namespaces = boottime_ns(), tuple(namespaces)
    found: list[Device] = []
    unreadable = []
    for namespace in namespaces:
        try:
            found += devices(namespace, names)
        except WgtraceError as exc:
            unreadable.append(_sentence(namespace, exc))
    return Snapshot(taken_ns, tuple(found), namespaces, tuple(unreadable))


class Followed:
    """The interfaces of one namespace that were asked for, followed when they are renamed.

    Args:
        names: Names of peers by public key.
        only: Names of the interfaces wanted; None: all of them.
        report: Gets a sentence when one is gone.
    """

    def __init__(
        self,
        namespace: Namespace,
        names: Mapping[str, str],
        only: Collection[str] | None = None,
        report: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._report = report
        self._namespace = namespace
        self._names = names
        self._only = only
        self._there: dict[int, Device] = {}
        self._moved: dict[str, str] = {}

    def take(self) -> Snapshot:
        """These interfaces as they are now; one that was moved to another namespace is listed."""
        taken_ns = boottime_ns()
        unreadable: list[str] = []
        try:
            found = devices(self._namespace, self._names, self._only, followed=self._there)
        except WgtraceError as exc:
            found = ()
            unreadable.append(_sentence(self._namespace, exc))
        now = {device.ifindex: device for device in found}
        for ifindex in self._there.keys() - now.keys():
            gone = self._there[ifindex]
            if moved := _elsewhere(gone):
                self._moved[gone.ifname] = moved
            self._report(moved or f"{gone.ifname} is gone")
        for device in found:
            self._moved.pop(device.ifname, None)
        self._there = now
        return Snapshot(taken_ns, found, (self._namespace,), (*unreadable, *self._moved.values()))


def _elsewhere(gone: Device) -> str:
    """Where an interface is now that left its namespace; "": nowhere."""
    others = (space for space in all_namespaces() if space.inode != gone.netns)
    for space in others:
        for device in take((space,), {}).devices:
            if gone.public_key and device.public_key == gone.public_key:
                where = space.name or space.path
                return (
                    f"{gone.ifname} was moved to network namespace {where}, where it is not traced: "
                    f"wgtrace drops --netns {where} {device.ifname}, or --all"
                )
    return ""


def _sentence(namespace: Namespace, exc: WgtraceError) -> str:
    because = f" ({exc.because})" if exc.because else ""
    return f"{namespace.name or namespace.path}: {exc.what}{because}"
