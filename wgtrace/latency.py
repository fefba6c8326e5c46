# SPDX-License-Identifier: GPL-2.0-only
"""A run of `wgtrace latency`: what the programs summed up, by peer, by stage or by CPU."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from wgtrace.diagnosis.words import count_of
from wgtrace.errors import UndecodableRecordError, UnsupportedError
from wgtrace.events.histogram import Histogram, merged
from wgtrace.events.latency import SlowTimes, Stage, latency
from wgtrace.events.reasons import Direction
from wgtrace.events.types import Counters
from wgtrace.events.wire import LatencyConfigWire, Loss
from wgtrace.pipeline import POLL_S, Signals
from wgtrace.probes.types import ProbeStatus
from wgtrace.report import Group, LatencyReport, LatencyRow, LatencySink, Part, RunStart, SlowPacket
from wgtrace.source import Host
from wgtrace.state.types import Snapshot

SLOWEST: Final = 5
_SETTLE_S: Final = 0.05  # a program that runs while the epoch ends is done by then
_FIRST: Final = bytes(4)  # key of an array's first entry


class By(enum.Enum):
    """What is told apart."""

    PEER = "peer"
    STAGE = "stage"
    CPU = "cpu"


class LatencySource(Protocol):
    """What the programs in the kernel tell; `loader.tracer.Tracer` is the live one."""

    @property
    def probes(self) -> tuple[ProbeStatus, ...]:
        """What became of each row of the catalogue."""

    def records(self, timeout_s: float) -> list[bytes]:
        """Waits so long, or until a signal."""

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """(key, value) of a map."""

    def write(self, name: str, key: bytes, value: bytes | None) -> None:
        """Write an entry of a map; without a value, remove it."""

    def counters(self) -> Counters:
        """Losses."""


@dataclass(frozen=True, slots=True)
class _Who:
    """Whose packets: None is all of them. What it is called is looked up when it is told."""

    direction: Direction
    device: tuple[int, int] | None = None  # inode of the namespace, index in it
    public_key: str | None = None
    cpu: int | None = None


@dataclass(slots=True)
class _Sums:
    """Histograms and the slowest packets, of some time."""

    rows: dict[_Who, dict[Stage, Histogram]] = field(default_factory=dict)
    slowest: list[tuple[_Who, SlowTimes]] = field(default_factory=list)

    def add(self, who: _Who, histograms: Mapping[Stage, Histogram]) -> None:
        """Count these with the others of the same."""
        row = self.rows.setdefault(who, {})
        for stage, histogram in histograms.items():
            row[stage] = merged([row[stage], histogram]) if stage in row else histogram

    def add_slow(self, packets: Iterable[tuple[_Who, SlowTimes]]) -> None:
        """Keep the slowest of these and of those that there are."""
        every = [*self.slowest, *packets]
        self.slowest = sorted(every, key=lambda slow: -slow[1].total)[:SLOWEST]

    def add_all(self, other: _Sums) -> None:
        """Count all of the other with these."""
        for who, histograms in other.rows.items():
            self.add(who, histograms)
        self.add_slow(other.slowest)


class LatencyRun:
    """One run of `wgtrace latency`.

    Time is cut into epochs. The programs sum up in that of the moment; one that is over is
    read and taken out of the kernel, so that a maximum is one of its time.

    Args:
        source: Attached.
        host: Where it runs.
    """

    def __init__(self, source: LatencySource, host: Host, sinks: Sequence[LatencySink], by: By) -> None:
        self._source = source
        self._host = host
        self._sinks = sinks
        self._by = by
        self._epoch = 0
        self._sums, self._interval = _Sums(), _Sums()
        self._undecodable = 0
        self._blind: tuple[str, ...] = ()
        self._ifnames: dict[tuple[int, int], str] = {}
        self._names: dict[str, str] = {}
        self._use(host.snapshot())
        self._set_epoch()
        self._started = host.elapsed_s()

    def start(self) -> None:
        """Tell the sinks that all probes are attached."""
        build, snapshot = self._host.build, self._snapshot
        start = RunStart(
            self._host.unix_ns(),
            build.version,
            build.kernel,
            build.bcc,
            snapshot.devices,
            self._source.probes,
            {space.inode: space.name for space in snapshot.namespaces if space.name},
        )
        for sink in self._sinks:
            sink.start(start)

    def interval(self) -> tuple[LatencyRow, ...]:
        """What was through since the last call, for who makes a run of their own."""
        self._collect()
        rows, self._interval = self._rows(self._interval), _Sums()
        return rows

    def run(self, duration_s: float | None, interval_s: float | None, signals: Signals) -> None:
        """Sum up until the time is over or a signal ends it; report each interval, and the whole.

        Raises:
            UnsupportedError: Nothing can be seen any more; the report was written.
        """
        signals.is_running = True
        try:
            self._follow(duration_s, interval_s, signals)
        except UnsupportedError as exc:
            self._blind = (exc.what,)
            self._take()
            self._report(Part.WHOLE, self._sums, self._started)
            raise
        self._report(Part.WHOLE, self._sums, self._started)

    def _follow(self, duration_s: float | None, interval_s: float | None, signals: Signals) -> None:
        end = self._started + duration_s if duration_s is not None else None
        began, number = self._started, 1
        while not signals.stop:
            now = self._host.elapsed_s()
            due = self._started + number * interval_s if interval_s else None
            if due is not None and interval_s and now >= due:
                self._collect()
                self._report(Part.INTERVAL, self._interval, began)
                self._interval = _Sums()
                began = self._host.elapsed_s()
                number = int((began - self._started) // interval_s) + 1
                continue
            if end is not None and now >= end:
                break
            self._source.records(max(0, min([POLL_S, *(at - now for at in (due, end) if at is not None)])))
            if signals.interim:
                signals.interim = False
                self._collect()
                self._report(Part.INTERIM, self._sums, self._started)
        self._collect()

    # -- what the programs summed up -------------------------------------------

    def _set_epoch(self) -> None:
        config = LatencyConfigWire(epoch=self._epoch, by_cpu=self._by is By.CPU)
        self._source.write("latency_config", _FIRST, bytes(config))

    def _collect(self) -> None:
        """End the epoch, and take what was summed up in it."""
        self._epoch += 1
        self._set_epoch()
        self._source.records(_SETTLE_S)
        self._take()

    def _take(self) -> None:
        """Take all out of the kernel that is not of this epoch, or that will not be added to."""
        self._use(self._host.snapshot())
        sums = _Sums()
        for key, value in self._source.entries("latencies"):
            try:
                found = latency(key, value, self._by is By.CPU)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if not found or (found.epoch == self._epoch and not self._blind):
                continue
            self._source.write("latencies", key, None)
            device = found.netns, found.ifindex
            self._ifnames.setdefault(device, found.ifname)
            peer = _Who(found.direction, device, found.public_key, found.cpu)
            sums.add(peer if self._by is By.PEER else _Who(peer.direction, cpu=peer.cpu), found.histograms)
            sums.add_slow((replace(peer, cpu=slow.cpu), slow) for slow in found.slowest)
        self._sums.add_all(sums)
        self._interval.add_all(sums)

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        for device in snapshot.devices:
            self._ifnames[device.netns, device.ifindex] = device.ifname
            self._names.update({p.public_key: p.name for p in device.peers if p.name})

    def _group(self, who: _Who) -> Group:
        ifname = self._ifnames[who.device] if who.device else None
        netns = who.device[0] if who.device else None
        name = self._names.get(who.public_key) if who.public_key else None
        return Group(who.direction, ifname, netns, who.public_key, name, who.cpu)

    def _rows(self, sums: _Sums) -> tuple[LatencyRow, ...]:
        rows = (
            LatencyRow(self._group(who), {stage: histograms[stage] for stage in sorted(histograms)})
            for who, histograms in sums.rows.items()
        )
        return tuple(sorted(rows, key=_order))

    # -- reports -----------------------------------------------------------------

    def _report(self, part: Part, sums: _Sums, since_s: float) -> None:
        losses = self._source.counters()
        offset = self._host.clock_offset_ns
        report = LatencyReport(
            self._host.unix_ns(),
            part,
            self._host.elapsed_s() - since_s,
            self._rows(sums),
            tuple(SlowPacket(self._group(who), slow.ts_ns + offset, slow) for who, slow in sums.slowest),
            losses.losses[Loss.LOST_PACKETS],
            self._incomplete_because(losses),
        )
        for sink in self._sinks:
            sink.report(report)

    def _incomplete_because(self, counters: Counters) -> tuple[str, ...]:
        lost, peers = counters.losses[Loss.LOST_PACKETS], counters.losses[Loss.LOST_PEERS]
        counted = (
            (
                lost,
                f"{count_of(lost, 'packet')} seen only in part, and not counted: under way when this "
                "began, or a program was skipped, or too many were under way at once",
            ),
            (peers, f"{count_of(peers, 'packet')} not counted: no room for the histograms of more peers"),
            (counters.missed, f"the kernel skipped {count_of(counters.missed, 'run')} of a probe"),
            (self._undecodable, f"{count_of(self._undecodable, 'histogram')} could not be read"),
        )
        said = [text for count, text in counted if count]
        said += [
            f"no probe on {status.target}: {status.because}; not visible: {status.without_it}"
            for status in self._source.probes
            if status.mechanism is None
        ]
        return (*said, *self._blind, *self._snapshot.unreadable)


def _order(row: LatencyRow) -> tuple[object, ...]:
    group = row.group
    return (
        group.ifname or "",
        group.netns or 0,
        group.peer_name or "",
        group.public_key or "",
        -1 if group.cpu is None else group.cpu,
        group.direction is Direction.RX,
    )
