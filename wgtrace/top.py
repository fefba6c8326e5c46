# SPDX-License-Identifier: GPL-2.0-only
"""One run of `wgtrace top`: all peers, once for each interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import HandshakeCode, Reason
from wgtrace.events.types import HandshakeEvent, PathTotal, PeerRef
from wgtrace.interfaces import Key
from wgtrace.pipeline import HostFacts, Limits, Run, Signals
from wgtrace.report import TopFrame, TopRow, TopSink
from wgtrace.source import Host, Source
from wgtrace.state.types import Snapshot

_Who = tuple[Key, str | None]
"""An interface, and the public key of a peer if it is known."""


class TopRun(Run):
    """One run of `wgtrace top`.

    Args:
        source: Attached.
        sinks: Where it is told.
        wanted: Its peers count.
        interval_s: Between two frames.
    """

    def __init__(
        self,
        source: Source,
        host: Host,
        sinks: Sequence[TopSink],
        wanted: Filter,
        interval_s: float,
        report: Callable[[str], object] = lambda _: None,
        facts: HostFacts | None = None,
    ) -> None:
        self._handshakes: dict[_Who, tuple[int, str | None]] = {}
        super().__init__(source, host, sinks, wanted, report, facts)
        self._top_sinks = sinks
        self._interval_s = interval_s
        self._due_s = self._started + interval_s
        self._last = self._snapshot
        self._dropped: dict[_Who, int] = {}

    def _on_step(self, event: HandshakeEvent, limits: Limits) -> None:
        if event.code is HandshakeCode.HANDSHAKE_COMPLETE and event.peer:
            who = (event.device.ifname, event.device.netns), event.peer.public_key
            self._handshakes[who] = event.latency_ns, event.sub_reason.id

    def _tick(self, limits: Limits, signals: Signals) -> None:
        if any(sink.is_over for sink in self._top_sinks):
            signals.end()
        now_s = self._host.elapsed_s()
        if now_s < self._due_s or not self._may_show(limits):
            return
        while self._due_s <= now_s:  # those that were missed are left out
            self._due_s += self._interval_s
        self._use(self._host.snapshot())
        frame = self._frame(self._snapshot, now_s - self._started)
        for sink in self._top_sinks:
            sink.frame(frame)

    def _frame(self, now: Snapshot, duration_s: float) -> TopFrame:
        before, self._last = self._last, now
        interval_s = max((now.taken_ns - before.taken_ns) / 1e9, 1e-3)
        drops = self._drops()
        rows = []
        for device in now.devices:
            interface = device.ifname, device.netns
            was = before.device(*interface)
            for peer in device.peers:
                if self._wanted.peers and peer.public_key not in self._wanted.peers:
                    continue
                old = was.peer(peer.public_key) if was and was.ifindex == device.ifindex else None
                latency_ns, role = self._handshakes.get((interface, peer.public_key), (0, None))
                rows.append(
                    TopRow(
                        *interface,
                        self._netns_name(device.netns),
                        PeerRef(peer.public_key, peer.endpoint, peer.name),
                        # One that was removed and added again begins at 0.
                        max(peer.rx_bytes - (old.rx_bytes if old else 0), 0) / interval_s,
                        max(peer.tx_bytes - (old.tx_bytes if old else 0), 0) / interval_s,
                        peer.rx_bytes,
                        peer.tx_bytes,
                        *self._of(drops, (interface, peer.public_key)),
                        peer.latest_handshake_ns,
                        latency_ns,
                        role,
                    )
                )
            nobodys, new = self._of(drops, (interface, None))
            if nobodys:
                name = self._netns_name(device.netns)
                rows.append(TopRow(*interface, name, None, drops=nobodys, new_drops=new))
        return TopFrame(self._host.unix_ns(), interval_s, duration_s, tuple(rows))

    def _drops(self) -> dict[_Who, dict[Reason, int]]:
        drops: dict[_Who, dict[Reason, int]] = {}
        for total in self._totals()[0]:
            if isinstance(total, PathTotal):  # no packet of WireGuard's own
                continue
            if total.matched and self._wanted.passes(total.reason, total.public_key):
                of = drops.setdefault(((total.ifname, total.netns), total.public_key), {})
                of[total.reason] = of.get(total.reason, 0) + total.count
        return drops

    def _of(
        self, drops: dict[_Who, dict[Reason, int]], who: _Who
    ) -> tuple[tuple[tuple[Reason, int], ...], int]:
        """Somebody's drops, the most frequent first, and how many are new."""
        found = sorted(drops.get(who, {}).items(), key=lambda item: (-item[1], item[0]))
        whole = sum(count for _reason, count in found)
        new, self._dropped[who] = whole - self._dropped.get(who, 0), whole
        return tuple(found), max(new, 0)

    def _netns_name(self, netns: int) -> str | None:
        return next((space.name for space in self._snapshot.namespaces if space.inode == netns), None)
