# SPDX-License-Identifier: GPL-2.0-only
"""LatencyRun: epochs, groups, what is said at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from factories import BERLIN, OFFSET_NS, PARIS, attached_probe, device, missing_probe
from latency_data import entry, histogram
from stand_ins import Host

from wgtrace.errors import UnsupportedError
from wgtrace.events.latency import Stage
from wgtrace.events.types import Counters
from wgtrace.events.wire import LatencyConfigWire, Loss
from wgtrace.latency import By, LatencyRun
from wgtrace.pipeline import Signals
from wgtrace.probes.types import ProbeStatus
from wgtrace.report import LatencyReport, Part, RunStart


@dataclass
class Kernel:
    """Stands for an attached `Tracer`: does what a test says at each poll, then interrupts the run."""

    polls: list[Callable[[], None]] = field(default_factory=list)
    maps: dict[bytes, bytes] = field(default_factory=dict)
    config: LatencyConfigWire = field(default_factory=LatencyConfigWire)
    counted: Counters = field(default_factory=lambda: Counters(dict.fromkeys(Loss, 0), {}, 0))
    probes: tuple[ProbeStatus, ...] = (attached_probe(1),)

    def records(self, timeout_s: float) -> list[bytes]:
        """Nothing; Ctrl-C when there is nothing more to do."""
        if timeout_s == 0.05:
            return []
        if self.polls:
            self.polls.pop(0)()
        else:
            signal.raise_signal(signal.SIGINT)
        return []

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """The map `latencies`."""
        assert name == "latencies"
        return list(self.maps.items())

    def write(self, name: str, key: bytes, value: bytes | None) -> None:
        """Configuration, or an entry is taken away."""
        if value is None:
            del self.maps[key]
        else:
            assert name == "latency_config"
            self.config = LatencyConfigWire.from_buffer_copy(value)

    def counters(self) -> Counters:
        """Losses."""
        return self.counted

    def through(self, public_key: str, *packets: dict[Stage, int], is_rx: bool = False, **more: int) -> None:
        """Packets are through in this epoch."""
        key, value = entry(public_key, packets, is_rx, epoch=self.config.epoch, **more)
        assert key not in self.maps
        self.maps[key] = value


@dataclass
class Kept:
    """A sink that keeps what it gets."""

    starts: list[RunStart] = field(default_factory=list)
    reports: list[LatencyReport] = field(default_factory=list)

    def start(self, start: RunStart) -> None:
        """Keep it."""
        self.starts.append(start)

    def report(self, report: LatencyReport) -> None:
        """Keep it."""
        self.reports.append(report)


def ran(
    kernel: Kernel, by: By = By.PEER, interval_s: float | None = None, host: Host | None = None
) -> list[LatencyReport]:
    """The reports of a run that lasts until the kernel has nothing more to do."""
    kept = Kept()
    with Signals() as signals:
        run = LatencyRun(kernel, host or Host(), [kept], by)
        run.start()
        run.run(None, interval_s, signals)
    assert len(kept.starts) == 1
    return kept.reports


def test_each_peer_and_direction_is_a_row() -> None:
    """With names, outwards before inwards, and nothing left in the kernel."""
    kernel = Kernel()
    kernel.polls = [
        lambda: kernel.through(PARIS, {Stage.QUEUE: 7}),
        lambda: kernel.through(BERLIN, {Stage.ORDER: 23}, is_rx=True),
        lambda: kernel.through(BERLIN, {Stage.QUEUE: 3}, {Stage.QUEUE: 5}, peer_id=2),
    ]
    (report,) = ran(kernel)

    assert report.part is Part.WHOLE
    assert [(r.group.peer_name, r.group.direction.value) for r in report.rows] == [
        ("berlin", "tx"),
        ("berlin", "rx"),
        ("paris", "tx"),
    ]
    assert report.rows[0].histograms[Stage.QUEUE] == histogram(3, 5)
    assert list(report.rows[0].histograms)[-1] is Stage.TOTAL
    assert [slow.times.total for slow in report.slowest] == [23, 7, 5, 3]
    assert report.slowest[0].ts_unix_ns == report.slowest[0].times.ts_ns + OFFSET_NS
    assert (report.incomplete_because, kernel.maps) == ((), {})


def test_a_peer_that_was_configured_anew_is_the_same_row() -> None:
    """The kernel calls it another one; its key is the same."""
    kernel = Kernel()
    kernel.polls = [
        lambda: kernel.through(BERLIN, {Stage.QUEUE: 3}),
        lambda: kernel.through(BERLIN, {Stage.QUEUE: 5}, peer_id=2),
    ]
    (report,) = ran(kernel)

    assert [row.histograms[Stage.QUEUE] for row in report.rows] == [histogram(3, 5)]


def test_by_stage_all_peers_are_one() -> None:
    """But the slowest packets still say whose they are."""
    kernel = Kernel()
    kernel.polls = [
        lambda: kernel.through(PARIS, {Stage.QUEUE: 7}),
        lambda: kernel.through(BERLIN, {Stage.QUEUE: 23}, peer_id=2),
    ]
    (report,) = ran(kernel, By.STAGE)

    assert [(r.group.public_key, r.group.ifname) for r in report.rows] == [(None, None)]
    assert report.rows[0].histograms[Stage.TOTAL] == histogram(7, 23)
    assert [slow.group.peer_name for slow in report.slowest] == ["berlin", "paris"]


def test_by_cpu_the_programs_are_told_so() -> None:
    """And each CPU is a row."""
    kernel = Kernel()
    kernel.polls = [
        lambda: kernel.through(PARIS, {Stage.QUEUE: 7}, cpu=3),
        lambda: kernel.through(PARIS, {Stage.QUEUE: 23}, cpu=1),
    ]
    (report,) = ran(kernel, By.CPU)

    assert kernel.config.by_cpu == 1
    assert [(r.group.cpu, r.histograms[Stage.TOTAL]) for r in report.rows] == [
        (1, histogram(23)),
        (3, histogram(7)),
    ]


def test_an_interval_is_about_its_own_packets() -> None:
    """Its largest is one of its time; the whole has all."""
    kernel, host = Kernel(), Host()
    now = [0.0]
    host.elapsed_s = lambda: now[0]  # type: ignore[method-assign]

    def after(seconds: float, *packets: dict[Stage, int]) -> Callable[[], None]:
        def step() -> None:
            now[0] = seconds
            if packets:
                kernel.through(BERLIN, *packets)

        return step

    kernel.polls = [after(0.5, {Stage.QUEUE: 1000}), after(1.1), after(1.5, {Stage.QUEUE: 7}), after(3.2)]
    reports = ran(kernel, interval_s=1, host=host)

    assert [report.part for report in reports] == [Part.INTERVAL, Part.INTERVAL, Part.WHOLE]
    assert [report.rows[0].histograms[Stage.QUEUE].max for report in reports] == [1000, 7, 1000]
    assert [round(report.duration_s, 1) for report in reports] == [1.1, 2.1, 3.2]
    assert reports[-1].rows[0].histograms[Stage.QUEUE] == histogram(1000, 7)


def test_a_count_in_between_is_of_all_so_far() -> None:
    """SIGUSR1 asks for it, and the run goes on."""
    kernel = Kernel()

    def asked() -> None:
        kernel.through(BERLIN, {Stage.QUEUE: 3})
        signal.raise_signal(signal.SIGUSR1)

    kernel.polls = [asked, lambda: kernel.through(BERLIN, {Stage.QUEUE: 5}), lambda: None]
    interim, whole = ran(kernel)

    assert (interim.part, whole.part) == (Part.INTERIM, Part.WHOLE)
    assert interim.rows[0].histograms[Stage.QUEUE] == histogram(3)
    assert whole.rows[0].histograms[Stage.QUEUE] == histogram(3, 5)


def test_a_count_in_between_takes_nothing_from_its_interval() -> None:
    """What was counted before it and after it is in one interval."""
    kernel, host = Kernel(), Host()
    now = [0.0]
    host.elapsed_s = lambda: now[0]  # type: ignore[method-assign]

    def asked() -> None:
        kernel.through(BERLIN, {Stage.QUEUE: 3})
        signal.raise_signal(signal.SIGUSR1)

    def over() -> None:
        kernel.through(BERLIN, {Stage.QUEUE: 5})
        now[0] = 1.5

    kernel.polls = [asked, over]
    _interim, interval, whole = ran(kernel, interval_s=1, host=host)

    assert interval.part is Part.INTERVAL
    assert interval.rows[0].histograms[Stage.QUEUE] == histogram(3, 5)
    assert whole.rows == interval.rows


def test_what_comes_while_an_epoch_ends_is_of_the_next() -> None:
    """It is not taken out of the kernel while programs may still add to it."""
    kernel = Kernel()

    def late() -> None:
        kernel.config.epoch += 1
        kernel.through(BERLIN, {Stage.QUEUE: 23})
        kernel.config.epoch -= 1
        signal.raise_signal(signal.SIGUSR1)

    kernel.polls = [late, lambda: None]
    interim, whole = ran(kernel)

    assert interim.rows == ()
    assert whole.rows[0].histograms[Stage.QUEUE] == histogram(23)


def test_a_renamed_interface_is_told_by_its_name_of_now() -> None:
    """The programs know the name that it had."""
    kernel, host = Kernel(), Host()
    kernel.polls = [lambda: kernel.through(BERLIN, {Stage.QUEUE: 3}), host.set(device("wg9"))]
    (report,) = ran(kernel, host=host)

    assert [row.group.ifname for row in report.rows] == ["wg9"]


def test_losses_are_said() -> None:
    """Packets seen in part, peers without room, probes that are missing or were skipped."""
    losses = {**dict.fromkeys(Loss, 0), Loss.LOST_PACKETS: 7, Loss.LOST_PEERS: 3}
    kernel = Kernel(counted=Counters(losses, {}, 11), probes=(missing_probe("encrypt_packet"),))
    (report,) = ran(kernel)

    assert report.partly_seen == 7
    first, second, third, fourth = report.incomplete_because
    assert first.startswith("7 packets seen only in part")
    assert second.startswith("3 packets not counted")
    assert third == "the kernel skipped 11 runs of a probe"
    assert fourth.startswith("no probe on ")


def test_bytes_of_another_abi_are_said() -> None:
    """And nothing else is lost with them."""
    kernel = Kernel(maps={b"key": b"value"})
    kernel.polls = [lambda: kernel.through(BERLIN, {Stage.QUEUE: 3})]
    (report,) = ran(kernel)

    assert len(report.rows) == 1
    assert report.incomplete_because == ("1 histogram could not be read",)


def test_the_end_of_the_module_ends_the_run() -> None:
    """What was counted is told, then the error."""
    kernel, kept = Kernel(), Kept()

    def unloaded() -> None:
        raise UnsupportedError("the wireguard module was unloaded")

    kernel.polls = [lambda: kernel.through(BERLIN, {Stage.QUEUE: 3}), unloaded]
    with Signals() as signals, pytest.raises(UnsupportedError):
        LatencyRun(kernel, Host(), [kept], By.PEER).run(None, None, signals)

    (report,) = kept.reports
    assert report.rows[0].histograms[Stage.QUEUE] == histogram(3)
    assert report.incomplete_because == ("the wireguard module was unloaded",)


def test_a_duration_ends_it() -> None:
    """Without a signal."""
    kernel, kept = Kernel(), Kept()
    kernel.polls = [lambda: kernel.through(BERLIN, {Stage.QUEUE: 3})]
    with Signals() as signals:
        LatencyRun(kernel, Host(), [kept], By.PEER).run(0, None, signals)

    assert [(report.part, report.rows) for report in kept.reports] == [(Part.WHOLE, ())]
    assert kernel.polls
