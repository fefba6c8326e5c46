# SPDX-License-Identifier: GPL-2.0-only
"""Runs that tell handshakes; and one of `wgtrace handshakes`: the stories as they come, then their times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from wgtrace.errors import UndecodableRecordError
from wgtrace.events import decode
from wgtrace.events.flow_filter import Filter
from wgtrace.events.histogram import Histogram, merged, since
from wgtrace.events.reasons import SubReason
from wgtrace.events.types import HandshakeEvent, PeerRef
from wgtrace.events.wire import BUCKETS
from wgtrace.interfaces import Key
from wgtrace.pipeline import HostFacts, Limits, Run, Signals
from wgtrace.report import HandshakeHistogram, RunSink, Seen, SeenDrop, SeenStep, StorySink, Summary
from wgtrace.source import Host, Source, StorySource
from wgtrace.state.types import Snapshot
from wgtrace.story import REASONS, Story

_Of = tuple[str, int, str, str]
"""Interface, inode of its namespace, public key, role."""


class StoryRun(Run):
    """A run in which the stories of handshakes are told: each step of them goes to `_on_told`."""

    def __init__(
        self,
        source: Source,
        host: Host,
        sinks: Sequence[RunSink],
        wanted: Filter,
        report: Callable[[str], object] = lambda _: None,
        facts: HostFacts | None = None,
    ) -> None:
        self._story = Story(host.clock_offset_ns)
        self._untold: list[SeenStep] = []
        self._limits = Limits()
        super().__init__(source, host, sinks, wanted, report, facts)

    def _on_told(self, step: SeenStep, limits: Limits) -> None:
        """A step, of a peer that was asked for."""

    def _on_drop(self, seen: Seen, limits: Limits) -> None:
        step = self._story.drop(seen) if isinstance(seen, SeenDrop) else None
        if step:
            self._tell([step], limits)

    def _take(self, records: Iterable[bytes], limits: Limits) -> None:
        super()._take(records, limits)
        self._limits = limits
        self._tell(self._story.flush(), limits)  # and what a new configuration alone tells

    def _on_step(self, event: HandshakeEvent, limits: Limits) -> None:
        self._tell(self._story.step(event), limits)

    def _use(self, snapshot: Snapshot) -> None:
        by_someone = bool(self._changers)
        super()._use(snapshot)
        self._untold += self._story.configured(snapshot, by_someone)

    def _tell(self, steps: Iterable[SeenStep], limits: Limits) -> None:
        due, self._untold = [*self._untold, *steps], []
        for step in due:
            self._evidence.tell(step)
            public_key = step.peer.public_key if step.peer else None
            if not self._wanted.peers or public_key in self._wanted.peers:
                self._on_told(step, limits)

    def _told(self, summary: Summary) -> Summary:
        self._tell(self._story.flush(everything=True), self._limits)
        return summary


class HandshakesRun(StoryRun):
    """One run of `wgtrace handshakes`.

    Args:
        source: Attached.
        sinks: Where it is told.
        wanted: Its peers count; what it says of packets does not.
        interval_s: Also tell the times of the handshakes of each so many seconds.
    """

    def __init__(
        self,
        source: StorySource,
        host: Host,
        sinks: Sequence[StorySink],
        wanted: Filter,
        report: Callable[[str], object] = lambda _: None,
        facts: HostFacts | None = None,
        interval_s: float | None = None,
    ) -> None:
        self._story_sinks = sinks
        self._handshake_times = source.handshake_times
        self._interval_s = interval_s
        self._at_interval: dict[_Of, Histogram] = {}
        super().__init__(source, host, sinks, wanted, report, facts)
        self._due_s = self._started + (interval_s or 0)

    def _on_told(self, step: SeenStep, limits: Limits) -> None:
        if self._may_show(limits):
            for sink in self._story_sinks:
                sink.step(step)

    # -- sums ----------------------------------------------------------------

    def _tick(self, limits: Limits, signals: Signals) -> None:
        now_s = self._host.elapsed_s()
        if not self._interval_s or now_s < self._due_s:
            return
        while self._due_s <= now_s:  # those that were missed are left out
            self._due_s += self._interval_s
        told = []
        for whole in self._histograms():
            of = whole.ifname, whole.netns, whole.peer.public_key, whole.role
            before = self._at_interval.get(of)
            self._at_interval[of] = whole.histogram
            new = since(whole.histogram, before) if before else whole.histogram
            if new.count:
                told.append(replace(whole, histogram=new))
        for sink in self._story_sinks:
            sink.interval(self._host.unix_ns(), tuple(told))

    def _told(self, summary: Summary) -> Summary:
        """Of the drops those of handshake messages; WireGuard's counters of packets have none of them."""
        return replace(
            super()._told(summary),
            totals=tuple(total for total in summary.totals if total.reason in REASONS),
            reconciliation=(),
            histograms=tuple(self._histograms()),
        )

    def _histograms(self) -> Iterator[HandshakeHistogram]:
        found: dict[tuple[Key, str, SubReason], Histogram] = {}
        for key, values in self._handshake_times():
            try:
                times = decode.handshake_time(key, values)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if self._wanted.peers and times.public_key not in self._wanted.peers:
                continue
            of = self._interfaces.now((times.ifname, times.netns)), times.public_key, times.role
            counts = tuple(times.count if bucket == times.bucket else 0 for bucket in range(BUCKETS))
            one = Histogram(counts, times.sum, times.max)
            found[of] = merged((found[of], one)) if of in found else one
        for (interface, public_key, role), histogram in sorted(found.items(), key=lambda item: item[0]):
            peer = PeerRef(public_key, name=self._names.get(public_key))
            yield HandshakeHistogram(*interface, peer, role.id or "", histogram)
