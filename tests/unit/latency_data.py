# SPDX-License-Identifier: GPL-2.0-only
"""Makes histograms, and entries of the map `latencies` in the bytes of the programs."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping

from factories import BOOT_NS, NETNS

from wgtrace.events.histogram import Histogram
from wgtrace.events.latency import STAGES, Stage
from wgtrace.events.reasons import Direction
from wgtrace.events.wire import BUCKETS, LatencyKeyWire, LatencyWire


def histogram(*values: int) -> Histogram:
    """The histogram of these values."""
    counts = [0] * BUCKETS
    for value in values:
        counts[min(value.bit_length(), BUCKETS - 1)] += 1
    return Histogram(tuple(counts), sum(values), max(values, default=0))


def entry(
    public_key: str,
    packets: Iterable[Mapping[Stage, int]],
    is_rx: bool = False,
    peer_id: int = 1,
    epoch: int = 0,
    cpu: int = 0,
    ifindex: int = 7,
) -> tuple[bytes, bytes]:
    """Key and value, for packets that were so long in each stage; the first is the slowest."""
    stages = STAGES[Direction.RX if is_rx else Direction.TX]
    times = [{stage: each.get(stage, 0) for stage in stages} for each in packets]
    value = LatencyWire()
    value.device.netns, value.device.ifindex = NETNS, ifindex
    value.device.ifname[:3] = list(b"wg0")
    value.public_key[:] = list(base64.b64decode(public_key))
    totals = [sum(each.values()) for each in times]
    for stage in (*stages, Stage.TOTAL):
        made = histogram(*(totals if stage is Stage.TOTAL else [each[stage] for each in times]))
        value.stage[stage].bucket[:] = list(made.counts)
        value.stage[stage].sum, value.stage[stage].max = made.sum, made.max
    for slot, (each, total) in enumerate(zip(times[:5], totals[:5], strict=True)):
        value.slowest[slot].ts_ns, value.slowest[slot].total, value.slowest[slot].cpu = BOOT_NS, total, cpu
        for stage in stages:
            setattr(value.slowest[slot], stage.id, each[stage])
    return bytes(LatencyKeyWire(peer_id=peer_id, epoch=epoch, cpu=cpu, is_rx=is_rx)), bytes(value)
