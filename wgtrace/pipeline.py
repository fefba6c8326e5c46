# SPDX-License-Identifier: GPL-2.0-only
"""The whole flow: records -> events -> joined with the state -> sinks, findings at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

from wgtrace.around import Around
from wgtrace.diagnosis.evidence import Evidence
from wgtrace.diagnosis.explain import explain
from wgtrace.diagnosis.finding import Finding
from wgtrace.diagnosis.words import count_of
from wgtrace.enrich import enrich
from wgtrace.errors import UndecodableRecordError, UnsupportedError
from wgtrace.events import decode
from wgtrace.events.decode import Decoder
from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Reason
from wgtrace.events.types import (
    ConfigEvent,
    DropEvent,
    DropTotal,
    HandshakeEvent,
    HandshakeTotal,
    InvariantEvent,
    InvariantTotal,
    IPAddress,
    Losses,
    PacketEvent,
    PathEvent,
    PathTotal,
)
from wgtrace.events.wire import Loss
from wgtrace.interfaces import COUNTERS, Interfaces
from wgtrace.report import CounterLine, RunSink, RunStart, Seen, Sink, Summary, counters_of
from wgtrace.source import Host, Source
from wgtrace.state.types import Claim, Device, Firewall, Load, Namespace, Snapshot, Way

POLL_S = 0.2
UNSENT = frozenset({Reason.NO_ROUTE_TO_ENDPOINT, Reason.UDP_SOCK_NULL})
ASK_AGAIN_S = 1.0
_ROW_LIMIT = "(at most 1,000 a second for each reason and CPU)"


@dataclass(slots=True)
class Limits:
    """When a run ends by itself."""

    duration_s: float | None = None
    count: int | None = None


@dataclass(slots=True)
class Signals:
    """SIGINT, SIGTERM and SIGHUP end a run, SIGUSR1 asks for a count in between.

    Before there is anything to count, and when asked twice, they end the process:
    the kernel itself takes away all that was attached.

    Attributes:
        is_running: Whether there is a run that looks at `stop`.
    """

    is_running: bool = False
    stop: bool = False
    interim: bool = False
    _previous: dict[signal.Signals, object] = field(default_factory=dict)

    def __enter__(self) -> Signals:
        handlers = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop, signal.SIGUSR1: self._interim}
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup(1) has it
            handlers[signal.SIGHUP] = self._stop
        for number, handler in handlers.items():
            self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave

    def end(self) -> None:
        """End the run, as a signal would."""
        self.stop = True

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop:  # perhaps nobody reads what is being written
            os._exit(128 + number)
        self.stop = True
        if not self.is_running:
            raise SystemExit(128 + number)

    def _interim(self, _number: int, _frame: FrameType | None) -> None:
        self.interim = True


def _no_way(_device: Device, _endpoint: IPAddress, _namespaces: Iterable[Namespace]) -> Way | None:
    return None


def _same_way(way: Way, _namespaces: Iterable[Namespace]) -> Way:
    return way


def _no_firewall(_namespace: Namespace) -> Firewall | None:
    return None


def _no_sysctls(_namespace: Namespace, _names: Collection[str]) -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a rule may want to know of this host, asked when it is needed.

    Attributes:
        way: How the kernel routes to a peer's endpoint now; the namespaces are those known.
        claims: Who wants which prefix in the configuration files.
        load: What the CPUs have done since boot.
        firewall: The rules of a namespace.
        sysctls: Settings of a namespace, by their paths under /proc/sys.
        way_again: The route and its MTU as they are now, in what was told of a way before.
    """

    way: Callable[[Device, IPAddress, Iterable[Namespace]], Way | None] = _no_way
    claims: Callable[[], tuple[Claim, ...]] = tuple
    load: Callable[[], Load] = Load
    firewall: Callable[[Namespace], Firewall | None] = _no_firewall
    sysctls: Callable[[Namespace, Collection[str]], dict[str, str]] = _no_sysctls
    way_again: Callable[[Way, Iterable[Namespace]], Way] = _same_way


def polls(
    source: Source, host: Host, started_s: float, limits: Limits, signals: Signals
) -> Iterator[Iterable[bytes]]:
    """The records of each poll, until the time is over, a signal ends it, or the source.

    Args:
        started_s: `host.elapsed_s()` when the run began.
    """
    deadline = started_s + limits.duration_s if limits.duration_s is not None else None
    while not signals.stop:
        wait_s = POLL_S
        if deadline is not None:
            wait_s = min(wait_s, deadline - host.elapsed_s())
            if wait_s <= 0:
                return
        records = source.records(wait_s)
        if records is None:
            return
        yield records


class Run:
    """One run of a command that shows events as they come, and sums and findings in the end.

    Args:
        source: Attached, or a recording.
        host: Where it runs, or ran.
        sinks: Where the run begins and ends; what is shown between is the command's own.
        report: Gets a sentence when an interface is renamed or moved.
        facts: What rules may ask for.
    """

    def __init__(
        self,
        source: Source,
        host: Host,
        sinks: Sequence[RunSink],
        wanted: Filter,
        report: Callable[[str], object] = lambda _: None,
        facts: HostFacts | None = None,
    ) -> None:
        self._source = source
        self._host = host
        self._sinks = sinks
        self._clock_offset_ns = host.clock_offset_ns
        self._wanted = wanted
        self._wants_all = wanted == Filter()
        self._facts = facts or HostFacts()
        self._around = Around(self._facts.firewall, self._facts.sysctls, host.elapsed_s)
        self._load = self._facts.load()
        self._changers: list[str] = []
        self._asked_at = 0.0
        self._decoder = Decoder(source.describe, source.kernel_reasons)
        self._evidence = Evidence(source.probes, host.clock_offset_ns)
        self._undecodable = 0
        self._shown = 0
        self._unknown_devices: set[tuple[str, int]] = set()
        self._names: dict[str, str] = {}
        self._interfaces = Interfaces(report)
        self._blind: tuple[str, ...] = ()
        self._invariants: tuple[InvariantTotal, ...] = ()
        self._started = host.elapsed_s()
        self._use(host.snapshot())
        self._before = self._totals()[0]

    def start(self) -> None:
        """Tell the sinks that all probes are attached."""
        start = RunStart(
            self._host.unix_ns(),
            self._host.build.version,
            self._host.build.kernel,
            self._host.build.bcc,
            self._snapshot.devices,
            self._source.probes,
            {space.inode: space.name for space in self._snapshot.namespaces if space.name},
            self._host.recorded,
        )
        for sink in self._sinks:
            sink.start(start)

    def run(self, limits: Limits, signals: Signals) -> tuple[Finding, ...]:
        """Show events until a limit, a signal or the source ends; then the summary. Gives the findings.

        Raises:
            UnsupportedError: Nothing can be seen any more; the summary was written.
        """
        signals.is_running = True
        try:
            self._follow(limits, signals)
        except UnsupportedError as exc:
            self._blind = (exc.what,)
            self._summarise(interim=False)
            raise
        return self._summarise(interim=False)

    def _follow(self, limits: Limits, signals: Signals) -> None:
        for records in polls(self._source, self._host, self._started, limits, signals):
            self._take(records, limits)
            if signals.interim:
                signals.interim = False
                self._take(self._source.records(0) or (), limits)
                self._summarise(interim=True)
            self._tick(limits, signals)
            if limits.count is not None and self._shown >= limits.count:
                break
        if limits.count is None:
            self._take(self._source.records(0) or (), limits)

    def _tick(self, limits: Limits, signals: Signals) -> None:
        """Some time has passed, whether anything came or not."""

    # -- events --------------------------------------------------------------

    def _take(self, records: Iterable[bytes], limits: Limits) -> None:
        stale = is_unsent = False
        for record in records:
            try:
                event = self._decoder.event(record)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if isinstance(event, ConfigEvent):
                self._changers.append(f"{event.comm} (pid {event.pid})")
                stale = True  # read again only when the next event needs it
                continue
            if isinstance(event, PacketEvent | InvariantEvent):  # for `merge`, and for `evidence`
                continue
            if stale:
                self._use(self._host.snapshot())
            if (event.device.ifname, event.device.netns) not in self._at_home:
                if self._is_unknown(event.device.ifname, event.device.netns) and not stale:
                    self._use(self._host.snapshot())
                event = self._interfaces.at(event)
            stale = False
            if isinstance(event, DropEvent | PathEvent):
                is_unsent = is_unsent or event.reason in UNSENT
                seen = self._seen(event)
                self._evidence.feed(seen)  # also what is not asked for: a cause may lie in it
                self._on_drop(seen, limits)
            else:
                self._evidence.feed(event)
                self._on_step(event, limits)
        self._rest()
        if stale:
            self._use(self._host.snapshot())
        if is_unsent and self._host.elapsed_s() - self._asked_at > ASK_AGAIN_S:
            self._ask_ways()  # while the packets still find none

    def _ask_ways(self) -> None:
        self._asked_at = self._host.elapsed_s()
        for device, key, endpoint in self._evidence.in_trouble():
            way = self._facts.way(device, endpoint.addr, self._snapshot.namespaces)
            self._evidence.set_way(device, key, way)

    def _seen(self, event: DropEvent | PathEvent) -> Seen:
        if isinstance(event, PathEvent):
            return self._around.enrich(event, self._snapshot, self._clock_offset_ns)
        return enrich(event, self._snapshot, self._clock_offset_ns)

    def _on_drop(self, seen: Seen, limits: Limits) -> None:
        """A drop has come, of those asked for and of those that are there for diagnosis."""

    def _on_step(self, event: HandshakeEvent, limits: Limits) -> None:
        """A handshake took a step."""

    def _rest(self) -> None:
        """All that has come was handed on: it is to be seen now."""

    def _may_show(self, limits: Limits) -> bool:
        """Whether one more may be shown; counts it."""
        if limits.count is not None and self._shown >= limits.count:
            return False
        self._shown += 1
        return True

    def _is_unknown(self, ifname: str, netns: int) -> bool:
        """Whether this interface is new to us; asked once for each."""
        if self._snapshot.device(ifname, netns) or (ifname, netns) in self._unknown_devices:
            return False
        self._unknown_devices.add((ifname, netns))
        return True

    def _use(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._at_home = {(device.ifname, device.netns) for device in snapshot.devices}
        renamed = self._interfaces.take(snapshot)
        for was, now in renamed:
            self._evidence.rename(was, now)
        if renamed:
            self._totals()
        self._evidence.set_snapshot(snapshot, self._changers)
        self._changers.clear()
        for device in snapshot.devices:
            self._names.update({p.public_key: p.name for p in device.peers if p.name})

    # -- totals --------------------------------------------------------------

    def _totals(self) -> tuple[tuple[DropTotal | PathTotal, ...], tuple[HandshakeTotal, ...]]:
        drops: list[DropTotal | PathTotal] = []
        handshakes: list[HandshakeTotal] = []
        invariants: list[InvariantTotal] = []
        for key, count in self._source.totals():
            try:
                total = decode.total(key, count, self._source.kernel_reasons)
            except UndecodableRecordError:
                self._undecodable += 1
                continue
            if isinstance(total, HandshakeTotal):
                handshakes.append(total)
            elif isinstance(total, InvariantTotal):
                invariants.append(total)
            else:
                drops.append(total)
        self._invariants = self._interfaces.named(invariants)
        return self._interfaces.named(drops), self._interfaces.named(handshakes)

    @staticmethod
    def _explained(drops: Iterable[DropTotal | PathTotal]) -> dict[tuple[str, int, str], int]:
        explained: dict[tuple[str, int, str], int] = {}
        for drop in drops:
            for counter in counters_of(drop):
                key = (drop.ifname, drop.netns, counter)
                explained[key] = explained.get(key, 0) + drop.count
        return explained

    def _reconcile(self, drops: Iterable[DropTotal | PathTotal]) -> tuple[CounterLine, ...]:
        """Hold the interface counters against the totals."""
        explained = self._explained(drops)
        before = self._explained(self._interfaces.named(self._before))
        lines = []
        for (ifname, netns), moved in self._interfaces.counters():
            for counter in COUNTERS:
                key = (ifname, netns, counter)
                count = explained.get(key, 0) - before.get(key, 0)
                if moved[counter] or count:
                    lines.append(CounterLine(*key, moved[counter], count))
        return tuple(lines)

    def _losses(self) -> Losses:
        counters = self._source.counters()
        return Losses(
            events=counters.losses[Loss.LOST_EVENTS],
            missed_probes=counters.missed,
            undecodable=self._undecodable,
            totals=counters.losses[Loss.LOST_TOTALS],
            unclassified=counters.losses[Loss.LOST_UNCLASSIFIED],
            frames=counters.losses[Loss.LOST_FRAMES],
            devices=counters.losses[Loss.LOST_DEVICES],
            handshake_times=counters.losses.get(Loss.LOST_HANDSHAKE_TIMES, 0),
            rate_limited={reason.id: count for reason, count in counters.limited.items()}
            | {
                self._source.kernel_reasons.get(number, str(number)).lower(): count
                for number, count in counters.path_limited.items()
            },
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
            (
                losses.devices,
                f"the interface of {count_of(losses.devices, 'drop')} was not found: "
                "drops may be missing above",
            ),
            (
                losses.handshake_times,
                f"{count_of(losses.handshake_times, 'handshake')} not in the histograms: "
                "too many peers for the table of times",
            ),
        )
        said = [text for count, text in counted if count]
        said += [
            f"no probe on {status.target}: {status.because}; not visible: {status.without_it}"
            for status in self._source.probes
            if status.mechanism is None
        ]
        said += [*self._blind, *self._snapshot.unreadable, *self._host.gaps]
        if hidden:
            rows = f"{hidden:,} {'row was' if hidden == 1 else 'rows were'} not shown {_ROW_LIMIT}"
            said.append(rows if said else f"Totals are exact; {rows}")
        return tuple(said)

    def _summarise(self, *, interim: bool) -> tuple[Finding, ...]:
        all_drops, handshakes = self._totals()
        for _attempt in range(3):  # totals and counters of one moment, if the traffic lets us
            before = all_drops
            self._use(self._host.snapshot())
            all_drops, handshakes = self._totals()
            if all_drops == before:
                break
        counters = self._reconcile(all_drops)
        drops = tuple(t for t in all_drops if t.matched and self._wanted.passes(t.reason, t.public_key))
        self._evidence.set_totals(all_drops, handshakes, self._invariants)
        self._evidence.set_counters(counters)
        self._evidence.set_claims(self._facts.claims())
        self._evidence.set_load(self._load, self._facts.load())
        self._ask_ways()
        losses = self._losses()
        because = self._incomplete_because(losses)
        findings = tuple(
            f
            for f in explain(self._evidence)
            if not self._wanted.peers or (f.peer and f.peer.public_key in self._wanted.peers)
        )
        summary = self._told(
            Summary(
                ts_unix_ns=self._host.unix_ns(),
                duration_s=self._host.elapsed_s() - self._started,
                totals=drops,
                losses=losses,
                reconciliation=counters,
                findings=findings,
                complete=not because,
                incomplete_because=because,
                peer_names=dict(self._names),
                interim=interim,
                handshakes=tuple(
                    t for t in handshakes if not self._wanted.peers or t.public_key in self._wanted.peers
                ),
                invariants=tuple(
                    t
                    for t in self._invariants
                    if not self._wanted.peers or t.public_key in self._wanted.peers
                ),
            )
        )
        for sink in self._sinks:
            sink.summary(summary)
        return findings

    def _told(self, summary: Summary) -> Summary:
        """The summary as this command tells it."""
        return summary


class DropsRun(Run):
    """One run of `wgtrace drops`.

    Args:
        sinks: Where it is told.
    """

    def __init__(
        self,
        source: Source,
        host: Host,
        sinks: Sequence[Sink],
        wanted: Filter,
        report: Callable[[str], object] = lambda _: None,
        facts: HostFacts | None = None,
    ) -> None:
        super().__init__(source, host, sinks, wanted, report, facts)
        self._drop_sinks = sinks

    def _on_drop(self, seen: Seen, limits: Limits) -> None:
        if not seen.event.matched or not (self._wants_all or self._is_wanted(seen.event)):
            return
        if self._may_show(limits):
            for sink in self._drop_sinks:
                sink.drop(seen)

    def _rest(self) -> None:
        for sink in self._drop_sinks:
            sink.rest()

    def _is_wanted(self, event: DropEvent | PathEvent) -> bool:
        return self._wanted.passes(event.reason, event.peer.public_key if event.peer else None)
