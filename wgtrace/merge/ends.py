# SPDX-License-Identifier: GPL-2.0-only
"""A recording as one end of tunnels: what left, what arrived, what was refused, in its own time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wgtrace.errors import UndecodableRecordError, UsageError
from wgtrace.events import decode
from wgtrace.events.decode import Decoder
from wgtrace.events.types import DropEvent, DropTotal, HandshakeEvent, PacketEvent
from wgtrace.events.wire import Loss
from wgtrace.recording.facts import Facts
from wgtrace.recording.reader import opened
from wgtrace.recording.replay import Recording
from wgtrace.state.types import Device


@dataclass
class End:
    """One host's recording.

    Attributes:
        name: Of its first file, without its ending.
        devices: Every interface that had a key, as it was last seen, by name, namespace and key.
        begin_ns, end_ns: CLOCK_BOOTTIME of this host.
        lost: Records of packets and handshakes that may be missing.
        gaps: What is missing of the recording, a sentence each.
    """

    name: str
    facts: Facts
    begin_ns: int
    end_ns: int = 0
    devices: dict[tuple[str, int, str], Device] = field(default_factory=dict)
    handshakes: list[HandshakeEvent] = field(default_factory=list)
    packets: list[PacketEvent] = field(default_factory=list)
    drops: list[DropEvent] = field(default_factory=list)
    totals: tuple[DropTotal, ...] = ()
    lost: int = 0
    gaps: tuple[str, ...] = ()


def ends(paths: Sequence[Path]) -> list[End]:
    """The ends that these files are, in their order; files of one run are one end.

    Raises:
        UsageError: One is no recording, or they are all of one run.
        UnsupportedError: One may not be read here, or a newer wgtrace made it.
        RecordingError: One is whole, and yet not what this wgtrace expects.
    """
    runs: dict[str, list[Path]] = {}
    for path in paths:
        with contextlib.closing(opened(path)) as file:
            runs.setdefault(file.facts.run, []).append(path)
    if len(runs) < 2:
        raise UsageError(
            "these are recordings of one run",
            "two ends of a tunnel are put together",
            "give both ends' recordings",
        )
    found = [_end(files) for files in runs.values()]
    names = [end.name for end in found]
    for number, end in enumerate(found, 1):
        if names.count(end.name) > 1:
            end.name = f"{end.name} ({number})"
    return found


def _end(paths: Sequence[Path]) -> End:
    with contextlib.closing(Recording(paths)) as recording:
        facts = recording.facts
        end = End(paths[0].name.partition(".")[0] or paths[0].name, facts, facts.clock.boottime_ns)
        decoder = Decoder(recording.describe, recording.kernel_reasons)
        _take_devices(end, recording)
        while (records := recording.records(0)) is not None:
            for record in records:
                try:
                    event = decoder.event(record)
                except UndecodableRecordError:
                    end.lost += 1
                    continue
                if isinstance(event, PacketEvent):
                    end.packets.append(event)
                elif isinstance(event, HandshakeEvent):
                    end.handshakes.append(event)
                elif isinstance(event, DropEvent):
                    end.drops.append(event)
            _take_devices(end, recording)
        end.end_ns = round(recording.elapsed_s() * 1_000_000_000)
        counters = recording.counters()
        end.lost += counters.losses[Loss.LOST_EVENTS] + counters.missed
        totals = []
        for key, count in recording.totals():
            with contextlib.suppress(UndecodableRecordError):
                totals.append(decode.total(key, count))
        end.totals = tuple(total for total in totals if isinstance(total, DropTotal))
        end.gaps = recording.gaps
    return end


def _take_devices(end: End, recording: Recording) -> None:
    for device in recording.snapshot().devices:
        if device.public_key:
            end.devices[device.ifname, device.netns, device.public_key] = device
