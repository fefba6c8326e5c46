# SPDX-License-Identifier: GPL-2.0-only
"""One run of `wgtrace top`: all peers, once for each interval."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from wgtrace.diagnosis.interface import Stall
from wgtrace.errors import UndecodableRecordError
from wgtrace.events.flow_filter import Filter
from wgtrace.events.histogram import Histogram
from wgtrace.events.latency import Stage
from wgtrace.events.reasons import Direction, HandshakeCode, Reason
from wgtrace.events.session import Arrivals, Queues, Session, queues, session, summed
from wgtrace.events.types import HandshakeEvent, PathTotal, PeerRef
from wgtrace.handshakes import StoryRun
from wgtrace.interfaces import Key
from wgtrace.pipeline import HostFacts, Limits, Signals
from wgtrace.report import LatencyRow, SeenStep, TopFrame, TopRow, TopSink
from wgtrace.source import Host, TopSource
from wgtrace.state.types import Snapshot

_Who = tuple[Key, str | None]
"""An interface, and the public key of a peer if it is known."""
_ALIVE: Final = 3
"""Sessions that something can come by: WireGuard's previous, current and next one."""
_STEPS: Final = 16
"""Steps of each peer's story that are kept."""
_STALLED_NS: Final = 5_000_000_000
"""So long nothing comes out of a full queue that is stalled: a burst is over in less than a second."""


@dataclass(slots=True)
class _Still:
    """Since when nothing was accepted from a peer, while packets of it found its queue full."""

    received: int
    full_before: int
    full: int
    since_ns: int = 0


class TopRun(StoryRun):
    """One run of `wgtrace top`.

    Args:
        source: Attached.
        sinks: Where it is told.
        wanted: Its peers count.
        interval_s: Between two frames.
        latencies: Gives what was through since it was called before; None: that is not measured.
    """

    def __init__(
        self,
        source: TopSource,
        host: Host,
        sinks: Sequence[TopSink],
        wanted: Filter,
        interval_s: float,
        report: Callable[[str], object] = lambda _: None,
        facts: HostFacts | None = None,
        latencies: Callable[[], Iterable[LatencyRow]] = tuple,
    ) -> None:
        self._latencies = latencies
        self._handshakes: dict[_Who, tuple[int, str | None]] = {}
        self._entries, self._write = source.entries, source.write
        self._sessions: dict[_Who, dict[Session, bytes]] = {}
        self._ended: dict[_Who, Arrivals] = {}
        self._steps: dict[_Who, deque[SeenStep]] = {}
        self._still: dict[_Who, _Still] = {}
        super().__init__(source, host, sinks, wanted, report, facts)
        self._has_arrivals = all(p.mechanism for p in source.probes if "sessions" in p.gives)
        self._top_sinks = sinks
        self._interval_s = interval_s
        self._due_s = self._started + interval_s
        self._last = self._snapshot
        self._dropped: dict[_Who, int] = {}

    def _on_told(self, step: SeenStep, limits: Limits) -> None:
        who = (step.ifname, step.netns), step.peer.public_key if step.peer else None
        self._steps.setdefault(who, deque(maxlen=_STEPS)).append(step)

    def _on_step(self, event: HandshakeEvent, limits: Limits) -> None:
        super()._on_step(event, limits)
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
        self._read_sessions(now)
        waiting = self._read_queues(before.taken_ns)
        latency: dict[_Who, dict[Direction, Histogram]] = {}
        for through in self._latencies():
            of = through.group
            latency.setdefault(((of.ifname or "", of.netns or 0), of.public_key), {})[of.direction] = (
                through.histograms[Stage.TOTAL]
            )
        rows = []
        for device in now.devices:
            interface = device.ifname, device.netns
            was = before.device(*interface)
            for peer in device.peers:
                if self._wanted.peers and peer.public_key not in self._wanted.peers:
                    continue
                old = was.peer(peer.public_key) if was and was.ifindex == device.ifindex else None
                who = interface, peer.public_key
                latency_ns, role = self._handshakes.get(who, (0, None))
                sessions = sorted(self._sessions.get(who, ()), key=lambda each: -each.number)
                ended = self._ended.get(who, Arrivals())
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
                        *self._of(drops, who),
                        peer.latest_handshake_ns,
                        latency_ns,
                        role,
                        summed([ended, *(each.arrivals for each in sessions)])
                        if self._has_arrivals
                        else None,
                        tuple(sessions[:_ALIVE]),
                        tuple(self._steps.get(who, ())),
                        waiting.get(who),
                        latency.get(who, {}),
                    )
                )
            nobodys, new = self._of(drops, (interface, None))
            if nobodys:
                name = self._netns_name(device.netns)
                rows.append(TopRow(*interface, name, None, drops=nobodys, new_drops=new))
        for row in rows:
            self._look_for_stall(row, now.taken_ns)
        return TopFrame(self._host.unix_ns(), interval_s, duration_s, tuple(rows), now.taken_ns)

    def _look_for_stall(self, row: TopRow, now_ns: int) -> None:
        if row.peer is None or row.arrivals is None:
            return
        who = (row.ifname, row.netns), row.peer.public_key
        received, full = row.arrivals.received, dict(row.drops).get(Reason.RX_QUEUE_FULL, 0)
        still = self._still.get(who)
        if still is None or still.received != received or still.full == full:
            self._still[who] = _Still(received, full, full)
            return
        still.full = full  # more of them in each frame, and nothing came out
        still.since_ns = still.since_ns or now_ns  # of these frames; that before may be old
        lasted_ns = now_ns - still.since_ns
        if lasted_ns >= _STALLED_NS:
            began = still.since_ns + self._clock_offset_ns
            stall = Stall(began, lasted_ns / 1e9, full - still.full_before)
            self._evidence.stall(row.ifname, row.netns, row.peer.public_key, stall)

    def _read_sessions(self, now: Snapshot) -> None:
        """Read what came by each session, and take those that are over out of the kernel."""
        before, self._sessions = self._sessions, {}
        there: set[_Who] = {((d.ifname, d.netns), p.public_key) for d in now.devices for p in d.peers}
        for key, value in self._entries("sessions"):
            try:
                found = session(key, value)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            who: _Who = self._interfaces.now((found.ifname, found.netns)), found.public_key
            if who in there:
                self._sessions.setdefault(who, {})[found] = key
            else:
                self._forget([key])
        self._ended = {who: ended for who, ended in self._ended.items() if who in there}
        self._steps = {who: steps for who, steps in self._steps.items() if who in there}
        self._still = {who: still for who, still in self._still.items() if who in there}
        for peer, sessions in self._sessions.items():
            # Packets of a session that is over may wait in a queue: nothing came by it since the last time.
            over = sorted(sessions, key=lambda each: -each.number)[_ALIVE:]
            over = [each for each in over if each in before.get(peer, ())]
            self._forget([sessions.pop(each) for each in over])
            if over:
                ended = self._ended.get(peer, Arrivals())
                self._ended[peer] = summed([ended, *(each.arrivals for each in over)])

    def _read_queues(self, before_ns: int) -> dict[_Who, Queues]:
        """What was noted of each peer when this frame had it listed; others are there no more."""
        found: dict[_Who, Queues] = {}
        for key, value in self._entries("queues"):
            try:
                of = queues(value)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if of.ts_ns > before_ns:
                found[self._interfaces.now((of.ifname, of.netns)), of.public_key] = of
            else:
                self._write("queues", key, None)
        return found

    def _forget(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self._write("sessions", key, None)

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
