# SPDX-License-Identifier: GPL-2.0-only
"""The whole flow: records -> events -> joined with the state -> sinks, findings at the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import FrameType

from wgtrace import __version__
from wgtrace.diagnosis.evidence import Evidence
from wgtrace.diagnosis.explain import explain
from wgtrace.diagnosis.finding import Finding
from wgtrace.diagnosis.words import count_of
from wgtrace.enrich import enrich
from wgtrace.errors import UndecodableRecordError
from wgtrace.events import decode
from wgtrace.events.decode import Decoder
from wgtrace.events.reasons import CATALOGUE, Direction, Reason
from wgtrace.events.types import ConfigEvent, DropEvent, DropTotal, HandshakeTotal, Losses
from wgtrace.events.wire import Loss
from wgtrace.loader.bcc_loader import Tracer, bcc_version, kernel_release
from wgtrace.report import CounterLine, RunStart, Sink, Summary
from wgtrace.state.types import Device, Snapshot

COUNTERS = ("rx_errors", "rx_length_errors", "rx_frame_errors", "tx_errors", "tx_dropped")
POLL_S = 0.2
_ROW_LIMIT = "(at most 1,000 a second for each reason and CPU)"


@dataclass(frozen=True, slots=True)
class Filter:
    """What of the drops to show and count; empty means everything.

    Attributes:
        peers: Base64 public keys.
    """

    peers: frozenset[str] = frozenset()
    directions: frozenset[Direction] = frozenset()
    reasons: frozenset[Reason] = frozenset()

    def passes(self, reason: Reason, public_key: str | None) -> bool:
        """Whether a drop for this reason and of this peer is wanted."""
        return (
            (not self.peers or public_key in self.peers)
            and (not self.directions or reason.direction in self.directions)
            and (not self.reasons or reason in self.reasons)
        )


@dataclass(slots=True)
class Limits:
    """When a run ends by itself."""

    duration_s: float | None = None
    count: int | None = None


@dataclass(slots=True)
class Signals:
    """SIGINT and SIGTERM end a run, SIGUSR1 asks for a count in between."""

    stop: bool = False
    interim: bool = False
    _previous: dict[signal.Signals, object] = field(default_factory=dict)

    def __enter__(self) -> Signals:
        handlers = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop, signal.SIGUSR1: self._interim}
        for number, handler in handlers.items():
            self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop = True

    def _interim(self, _number: int, _frame: FrameType | None) -> None:
        self.interim = True


@dataclass(slots=True)
class _Counters:
    """An interface's counters: `base` when the run began, and what a former one of its name moved."""

    ifindex: int
    base: dict[str, int]
    now: dict[str, int]
    before: dict[str, int]

    def moved(self, counter: str) -> int:
        """How far it moved since the run began."""
        return self.before.get(counter, 0) + self.now[counter] - self.base[counter]

    def now_and_before(self) -> dict[str, int]:
        """What has moved until now, to be carried over."""
        return {counter: self.moved(counter) for counter in self.now}


class DropsRun:
    """One run of `wgtrace drops`.

    Args:
        tracer: Attached.
        take_snapshot: Gives the configuration of this moment.
        sinks: Where the run is told.
        clock_offset_ns: CLOCK_REALTIME minus CLOCK_BOOTTIME.
    """

    def __init__(
        self,
        tracer: Tracer,
        take_snapshot: Callable[[], Snapshot],
        sinks: Sequence[Sink],
        clock_offset_ns: int,
        wanted: Filter,
    ) -> None:
        self._tracer = tracer
        self._take_snapshot = take_snapshot
        self._sinks = sinks
        self._clock_offset_ns = clock_offset_ns
        self._wanted = wanted
        self._decoder = Decoder(tracer.describe, tracer.kernel_reasons)
        self._evidence = Evidence(tracer.probes, clock_offset_ns)
        self._undecodable = 0
        self._shown = 0
        self._unknown_devices: set[tuple[str, int]] = set()
        self._names: dict[str, str] = {}
        self._counters: dict[tuple[str, int], _Counters] = {}
        self._started = time.monotonic()
        self._use(take_snapshot(), first=True)
        self._explained_before = self._explained(self._totals()[0])

    def start(self) -> None:
        """Tell the sinks that all probes are attached."""
        start = RunStart(
            time.time_ns(),
            __version__,
            kernel_release(),
            bcc_version(),
            self._snapshot.devices,
            self._tracer.probes,
            {space.inode: space.name for space in self._snapshot.namespaces if space.name},
        )
        for sink in self._sinks:
            sink.start(start)

    def run(self, limits: Limits, signals: Signals) -> tuple[Finding, ...]:
        """Show drops until a limit or a signal; then the summary. Gives the findings."""
        deadline = self._started + limits.duration_s if limits.duration_s is not None else None
        while not signals.stop:
            wait_s = POLL_S
            if deadline is not None:
                wait_s = min(wait_s, deadline - time.monotonic())
                if wait_s <= 0:
                    break
            self._take(self._tracer.records(wait_s), limits)
            if signals.interim:
                signals.interim = False
                self._take(self._tracer.records(0), limits)
                self._summarise(interim=True)
            if limits.count is not None and self._shown >= limits.count:
                break
        if limits.count is None:
            self._take(self._tracer.records(0), limits)
        return self._summarise(interim=False)

    # -- events --------------------------------------------------------------

    def _take(self, records: Iterable[bytes], limits: Limits) -> None:
        stale = False
        for record in records:
            try:
                event = self._decoder.event(record)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if isinstance(event, ConfigEvent):
                stale = True  # read again only when the next event needs it
                continue
            if stale or self._is_unknown(event.device.ifname, event.device.netns):
                self._use(self._take_snapshot())
                stale = False
            if isinstance(event, DropEvent):
                self._show(event, limits)
            else:
                self._evidence.feed(event)
        if stale:
            self._use(self._take_snapshot())

    def _show(self, event: DropEvent, limits: Limits) -> None:
        seen = enrich(event, self._snapshot, self._clock_offset_ns)
        self._evidence.feed(seen)  # all of it: a cause may lie in what is not asked for
        if not self._wanted.passes(event.reason, event.peer.public_key if event.peer else None):
            return
        if limits.count is not None and self._shown >= limits.count:
            return
        self._shown += 1
        for sink in self._sinks:
            sink.drop(seen)

    def _is_unknown(self, ifname: str, netns: int) -> bool:
        """Whether this interface is new to us; asked once for each."""
        if self._snapshot.device(ifname, netns) or (ifname, netns) in self._unknown_devices:
            return False
        self._unknown_devices.add((ifname, netns))
        return True

    def _use(self, snapshot: Snapshot, *, first: bool = False) -> None:
        self._snapshot = snapshot
        self._evidence.set_snapshot(snapshot)
        for device in snapshot.devices:
            self._names.update({p.public_key: p.name for p in device.peers if p.name})
            self._count(device, is_first=first)

    def _count(self, device: Device, *, is_first: bool) -> None:
        """Follow an interface's counters; one that is made anew starts them at 0."""
        now = {counter: device.counters.get(counter, 0) for counter in COUNTERS}
        known = self._counters.get((device.ifname, device.netns))
        if known is None or known.ifindex != device.ifindex:
            before = known.now_and_before() if known else {}
            base = now if is_first else dict.fromkeys(COUNTERS, 0)
            known = _Counters(device.ifindex, base, now, before)
            self._counters[device.ifname, device.netns] = known
        known.now = now

    # -- totals --------------------------------------------------------------

    def _totals(self) -> tuple[tuple[DropTotal, ...], tuple[HandshakeTotal, ...]]:
        drops: list[DropTotal] = []
        handshakes: list[HandshakeTotal] = []
        for key, count in self._tracer.totals():
            try:
                total = decode.total(key, count)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if isinstance(total, HandshakeTotal):
                handshakes.append(total)
            else:
                drops.append(total)
        return tuple(drops), tuple(handshakes)

    @staticmethod
    def _explained(drops: Iterable[DropTotal]) -> dict[tuple[str, int, str], int]:
        explained: dict[tuple[str, int, str], int] = {}
        for drop in drops:
            for counter in CATALOGUE[drop.reason].counter:
                key = (drop.ifname, drop.netns, counter)
                explained[key] = explained.get(key, 0) + drop.count
        return explained

    def _reconcile(self, drops: Iterable[DropTotal]) -> tuple[CounterLine, ...]:
        """Hold the interface counters against the totals."""
        explained = self._explained(drops)
        lines = []
        for (ifname, netns), counters in self._counters.items():
            for counter in COUNTERS:
                key = (ifname, netns, counter)
                moved = counters.moved(counter)
                count = explained.get(key, 0) - self._explained_before.get(key, 0)
                if moved or count:
                    lines.append(CounterLine(*key, moved, count))
        return tuple(lines)

    def _losses(self) -> Losses:
        counters = self._tracer.counters()
        return Losses(
            events=counters.losses[Loss.LOST_EVENTS],
            missed_probes=counters.missed,
            undecodable=self._undecodable,
            totals=counters.losses[Loss.LOST_TOTALS],
            unclassified=counters.losses[Loss.LOST_UNCLASSIFIED],
            frames=counters.losses[Loss.LOST_FRAMES],
            rate_limited={reason.id: count for reason, count in counters.limited.items()},
        )

    def _incomplete_because(self, losses: Losses) -> tuple[str, ...]:
        hidden = sum(losses.rate_limited.values())
        counted = (
            (losses.events, f"{count_of(losses.events, 'record')} found the buffer full: counted, not shown"),
            (
                losses.missed_probes,
                f"the kernel skipped {count_of(losses.missed_probes, 'run')} of a probe: "
                "so many drops may be missing above",
            ),
            (
                losses.undecodable,
                f"{count_of(losses.undecodable, 'record')} could not be read: not shown, perhaps not counted",
            ),
            (
                losses.totals,
                f"{count_of(losses.totals, 'drop')} counted by reason only: "
                "too many peers for the table of totals",
            ),
            (
                losses.unclassified,
                f"WireGuard freed {count_of(losses.unclassified, 'packet')} at a place that wgtrace "
                "does not know: drops may be missing above",
            ),
            (
                losses.frames,
                f"{count_of(losses.frames, 'handshake message')} seen only in part: "
                "refusals may be missing above",
            ),
        )
        said = [text for count, text in counted if count]
        said += [
            f"no probe on {status.target}: {status.because}; not visible: {status.without_it}"
            for status in self._tracer.probes
            if status.mechanism is None
        ]
        said += self._snapshot.unreadable
        if hidden:
            rows = f"{hidden:,} {'row was' if hidden == 1 else 'rows were'} not shown {_ROW_LIMIT}"
            said.append(rows if said else f"Totals are exact; {rows}")
        return tuple(said)

    def _summarise(self, *, interim: bool) -> tuple[Finding, ...]:
        all_drops, handshakes = self._totals()
        for _attempt in range(3):  # totals and counters of one moment, if the traffic lets us
            before = all_drops
            self._use(self._take_snapshot())
            all_drops, handshakes = self._totals()
            if all_drops == before:
                break
        counters = self._reconcile(all_drops)
        drops = tuple(t for t in all_drops if self._wanted.passes(t.reason, t.public_key))
        self._evidence.set_totals(all_drops, handshakes)
        self._evidence.set_counters(counters)
        losses = self._losses()
        because = self._incomplete_because(losses)
        findings = tuple(
            f
            for f in explain(self._evidence)
            if not self._wanted.peers or (f.peer and f.peer.public_key in self._wanted.peers)
        )
        summary = Summary(
            ts_unix_ns=time.time_ns(),
            duration_s=time.monotonic() - self._started,
            totals=drops,
            losses=losses,
            reconciliation=counters,
            findings=findings,
            complete=not because,
            incomplete_because=because,
            peer_names=dict(self._names),
            interim=interim,
        )
        for sink in self._sinks:
            sink.summary(summary)
        return findings
