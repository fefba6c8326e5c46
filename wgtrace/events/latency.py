# SPDX-License-Identifier: GPL-2.0-only
"""How long packets are in each stage of WireGuard, out of the map `latencies`."""

from __future__ import annotations

import base64
import ctypes
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wgtrace.errors import UndecodableRecordError
from wgtrace.events.histogram import Histogram
from wgtrace.events.reasons import Direction
from wgtrace.events.wire import LatencyKeyWire, LatencyWire


class Stage(enum.IntEnum):
    """`enum wgt_stage`; in the order of a packet's way."""

    STAGED = 0
    QUEUE = 1
    CRYPTO = 2
    ORDER = 3
    OUTPUT = 4
    TOTAL = 5

    @property
    def id(self) -> str:
        """As it is called in outputs."""
        return self.name.lower()


STAGES: Final[Mapping[Direction, tuple[Stage, ...]]] = {
    Direction.TX: (Stage.STAGED, Stage.QUEUE, Stage.CRYPTO, Stage.ORDER, Stage.OUTPUT),
    Direction.RX: (Stage.QUEUE, Stage.CRYPTO, Stage.ORDER),
}
"""The stages of each direction: the end of one is the beginning of the next."""


@dataclass(frozen=True, slots=True)
class SlowTimes:
    """One of the slowest packets.

    Attributes:
        ts_ns: CLOCK_BOOTTIME when it was through.
        total: Nanoseconds from its first stage on.
        stages: Nanoseconds in each.
        cpu: That did the crypto.
    """

    ts_ns: int
    total: int
    stages: Mapping[Stage, int]
    cpu: int


@dataclass(frozen=True, slots=True)
class Latency:
    """The packets of a peer in one direction.

    Attributes:
        epoch: In which they were through.
        cpu: That did the crypto, None where it was not asked.
        ifname: Of the interface when the first of them was through.
        histograms: Nanoseconds, by stage; the total too.
    """

    epoch: int
    direction: Direction
    cpu: int | None
    ifname: str
    ifindex: int
    netns: int
    public_key: str
    histograms: Mapping[Stage, Histogram]
    slowest: tuple[SlowTimes, ...]


def latency(key: bytes, value: bytes, by_cpu: bool) -> Latency | None:
    """An entry of the map `latencies`; None if it was only just made.

    Args:
        by_cpu: Whether the programs were told to tell the CPUs apart.

    Raises:
        UndecodableRecordError: It is none.
    """
    if len(key) != ctypes.sizeof(LatencyKeyWire) or len(value) != ctypes.sizeof(LatencyWire):
        raise UndecodableRecordError(f"an entry of {len(key)} and {len(value)} bytes")
    which, what = LatencyKeyWire.from_buffer_copy(key), LatencyWire.from_buffer_copy(value)
    if not what.device.ifindex:
        return None
    direction = Direction.RX if which.is_rx else Direction.TX
    return Latency(
        which.epoch,
        direction,
        which.cpu if by_cpu else None,
        bytes(what.device.ifname).rstrip(b"\0").decode(errors="replace"),
        what.device.ifindex,
        what.device.netns,
        base64.b64encode(bytes(what.public_key)).decode(),
        {
            stage: Histogram(tuple(what.stage[stage].bucket), what.stage[stage].sum, what.stage[stage].max)
            for stage in (*STAGES[direction], Stage.TOTAL)
        },
        tuple(
            SlowTimes(
                slow.ts_ns,
                slow.total,
                {stage: getattr(slow, stage.id) for stage in STAGES[direction]},
                slow.cpu,
            )
            for slow in what.slowest
            if slow.ts_ns
        ),
    )
