# SPDX-License-Identifier: GPL-2.0-only
"""Entries of the map `latencies`."""

from __future__ import annotations

import pytest
from factories import BERLIN, NETNS
from latency_data import entry, histogram

from wgtrace.errors import UndecodableRecordError
from wgtrace.events.latency import Stage, latency
from wgtrace.events.reasons import Direction
from wgtrace.events.wire import LatencyWire


def test_an_entry_has_whose_it_is_and_each_stage() -> None:
    """Outwards: five stages and their total; the slowest with their stages."""
    key, value = entry(BERLIN, [{Stage.STAGED: 1000, Stage.QUEUE: 7}, {Stage.QUEUE: 23}], epoch=3, cpu=1)
    found = latency(key, value, by_cpu=True)

    assert found
    assert (found.direction, found.epoch, found.cpu, found.ifname) == (Direction.TX, 3, 1, "wg0")
    assert (found.public_key, found.netns, found.ifindex) == (BERLIN, NETNS, 7)
    assert list(found.histograms) == list(Stage)
    assert found.histograms[Stage.QUEUE] == histogram(7, 23)
    assert found.histograms[Stage.TOTAL] == histogram(1007, 23)
    assert [slow.total for slow in found.slowest] == [1007, 23]
    assert found.slowest[0].stages[Stage.STAGED] == 1000


def test_inwards_there_are_three_stages() -> None:
    """No waiting for a key and no output; the CPU is not told where it was not asked."""
    found = latency(*entry(BERLIN, [{Stage.ORDER: 7}], is_rx=True, cpu=1), by_cpu=False)

    assert found
    assert (found.direction, found.cpu) == (Direction.RX, None)
    assert list(found.histograms) == [Stage.QUEUE, Stage.CRYPTO, Stage.ORDER, Stage.TOTAL]


def test_an_entry_that_was_only_just_made_is_none_yet() -> None:
    """The programs insert it empty, then say whose it is."""
    key, _value = entry(BERLIN, [])

    assert latency(key, bytes(LatencyWire()), by_cpu=False) is None


def test_other_bytes_are_refused() -> None:
    """A key or a value of another size is of another ABI."""
    key, value = entry(BERLIN, [])

    for wrong in ((key[1:], value), (key, value + b"\0")):
        with pytest.raises(UndecodableRecordError):
            latency(*wrong, by_cpu=False)
