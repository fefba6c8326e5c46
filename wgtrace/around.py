# SPDX-License-Identifier: GPL-2.0-only
"""Joins a drop outside of WireGuard with rules and settings of its moment, and says why in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from wgtrace.diagnosis.firewall import Blocked, blocked_by
from wgtrace.diagnosis.outside import settings_of, why
from wgtrace.events.types import PathEvent
from wgtrace.events.wire import Hook
from wgtrace.report import SeenPath
from wgtrace.state.types import Firewall, Namespace, Snapshot

ASK_AGAIN_S: Final = 1.0
"""Rules are read again for one that is not known, but not more often than this."""
_CANDIDATES_S: Final = 10.0
"""How old rules may be when several are told as candidates."""
_MOST_KINDS: Final = 256
"""Kinds of drops that are remembered as asked for."""


class Around:
    """What is asked of the host about drops outside of WireGuard, and not more often than needed.

    Args:
        firewall: The rules of a namespace as they are now.
        sysctls: The values of these settings in a namespace, those that there are.
        elapsed_s: Seconds since some moment.
    """

    def __init__(
        self,
        firewall: Callable[[Namespace], Firewall | None],
        sysctls: Callable[[Namespace, Collection[str]], dict[str, str]],
        elapsed_s: Callable[[], float],
    ) -> None:
        self._ask_firewall, self._ask_sysctls, self._elapsed_s = firewall, sysctls, elapsed_s
        self._firewalls: dict[int, tuple[float, Firewall | None]] = {}
        self._asked: set[tuple[object, ...]] = set()
        self._sysctls: dict[tuple[int, tuple[str, ...]], tuple[float, dict[str, str]]] = {}

    def enrich(self, event: PathEvent, snapshot: Snapshot, clock_offset_ns: int) -> SeenPath:
        """Name the peer, the rule and the settings, and say why."""
        device = snapshot.device(event.device.ifname, event.device.netns)
        peer = device.peer(event.peer.public_key) if device and event.peer else None
        if event.peer is not None and peer is not None and peer.name is not None:
            event = replace(event, peer=replace(event.peer, name=peer.name))
        blocked, sysctls = None, dict[str, str]()
        space = next((n for n in snapshot.namespaces if n.inode == event.netns), None)
        if event.hook is not Hook.NONE:
            blocked = self._blocked(event, space)
        if names := settings_of(event, blocked):
            sysctls = self._values(names, space)
        return SeenPath(
            event=event,
            ts_unix_ns=event.ts_ns + clock_offset_ns,
            why=why(event, blocked, sysctls),
            netns_name=next((n.name for n in snapshot.namespaces if n.inode == event.device.netns), None),
            blocked=blocked,
            sysctls=sysctls,
        )

    def _blocked(self, event: PathEvent, space: Namespace | None) -> Blocked:
        asked_s, firewall = self._firewalls.get(event.netns, (float("-inf"), None))
        found = blocked_by(event, firewall)
        if space is None or found.is_known:
            return found
        # Rules that are new, or were made anew: asked at once for each kind of drop, then now and then;
        # sooner where what was read has nothing that can have done it, as that is not how it is now.
        kind = (event.netns, event.nft or (event.hook, event.found, event.flow and event.flow.family))
        is_wrong = event.nft is not None or found == Blocked()
        is_old = self._elapsed_s() - asked_s >= (ASK_AGAIN_S if is_wrong else _CANDIDATES_S)
        if kind in self._asked and not is_old:
            return found
        if len(self._asked) >= _MOST_KINDS:
            self._asked.clear()
        self._asked.add(kind)
        firewall = self._ask_firewall(space)
        self._firewalls[event.netns] = self._elapsed_s(), firewall
        return blocked_by(event, firewall)

    def _values(self, names: tuple[str, ...], space: Namespace | None) -> dict[str, str]:
        key = (space.inode if space else 0, names)
        asked_s, values = self._sysctls.get(key, (float("-inf"), {}))
        if space is not None and self._elapsed_s() - asked_s >= ASK_AGAIN_S:
            values = self._ask_sysctls(space, names)
            self._sysctls[key] = self._elapsed_s(), values
        return values
