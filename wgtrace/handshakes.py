# SPDX-License-Identifier: GPL-2.0-only
"""One run of `wgtrace handshakes`: the stories as they come, and how long handshakes took in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from wgtrace.errors import UndecodableRecordError
from wgtrace.events import decode
from wgtrace.events.flow_filter import Filter
from wgtrace.events.histogram import Histogram, merged
from wgtrace.events.reasons import SubReason
from wgtrace.events.types import HandshakeEvent, PeerRef
from wgtrace.events.wire import BUCKETS
from wgtrace.interfaces import Key
from wgtrace.pipeline import HostFacts, Limits, Run
from wgtrace.report import HandshakeHistogram, Seen, SeenDrop, SeenStep, StorySink, Summary
from wgtrace.source import Host, StorySource
from wgtrace.state.types import Snapshot
from wgtrace.story import REASONS, Story


class HandshakesRun(Run):
    """One run of `wgtrace handshakes`.

    Args:
        source: Attached.
        sinks: Where it is told.
        wanted: Its peers count; what it says of packets does not.
    """

    def __init__(
        self,
        source: StorySource,
        host: Host,
        sinks: Sequence[StorySink],
        wanted: Filter,
        report: Callable[[str], object] = lambda _: None,
        facts: HostFacts | None = None,
    ) -> None:
        self._story = Story(host.clock_offset_ns)
        self._story_sinks = sinks
        self._handshake_times = source.handshake_times
        self._unshown: list[SeenStep] = []
        self._limits = Limits()
        super().__init__(source, host, sinks, wanted, report, facts)

    # -- events --------------------------------------------------------------

    def _on_drop(self, seen: Seen, limits: Limits) -> None:
        step = self._story.drop(seen) if isinstance(seen, SeenDrop) else None
        if step:
            self._show([step], limits)

    def _take(self, records: Iterable[bytes], limits: Limits) -> None:
        super()._take(records, limits)
        self._limits = limits
        self._show(self._story.flush(), limits)  # and what a new configuration alone tells

    def _on_step(self, event: HandshakeEvent, limits: Limits) -> None:
        self._show(self._story.step(event), limits)

    def _use(self, snapshot: Snapshot) -> None:
        by_someone = bool(self._changers)
        super()._use(snapshot)
        self._unshown += self._story.configured(snapshot, by_someone)

    def _show(self, steps: Iterable[SeenStep], limits: Limits) -> None:
        due, self._unshown = [*self._unshown, *steps], []
        for step in due:
            public_key = step.peer.public_key if step.peer else None
            if self._wanted.peers and public_key not in self._wanted.peers:
                continue
            if self._may_show(limits):
                for sink in self._story_sinks:
                    sink.step(step)

    # -- sums ----------------------------------------------------------------

    def _told(self, summary: Summary) -> Summary:
        """Of the drops those of handshake messages; WireGuard's counters of packets have none of them."""
        self._show(self._story.flush(everything=True), self._limits)
        return replace(
            summary,
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
