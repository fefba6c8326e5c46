# SPDX-License-Identifier: GPL-2.0-only
"""Where a run comes from: the kernel and the host it runs on, or a recording of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from wgtrace.events.types import Counters
from wgtrace.probes.types import ProbeStatus
from wgtrace.state.clock import clock_offset_ns
from wgtrace.state.types import Snapshot


@dataclass(frozen=True, slots=True)
class Build:
    """What looked at which kernel.

    Attributes:
        version: Of wgtrace.
        kernel: `uname -r`.
        bcc: Version of BCC.
    """

    version: str
    kernel: str
    bcc: str


class Source(Protocol):
    """What the programs in the kernel tell; `loader.bcc_loader.Tracer` is the live one."""

    @property
    def probes(self) -> tuple[ProbeStatus, ...]:
        """What became of each row of the catalogue."""

    @property
    def kernel_reasons(self) -> Mapping[int, str]:
        """`enum skb_drop_reason` of the kernel, without its prefix."""

    def describe(self, address: int) -> str:
        """`wg_xmit+0x83` for an address in WireGuard."""

    def records(self, timeout_s: float) -> list[bytes] | None:
        """Records since the last call; waits up to `timeout_s` for the first. None: no more will come."""

    def totals(self) -> list[tuple[bytes, int]]:
        """(key, packets) of the map `totals`."""

    def counters(self) -> Counters:
        """Losses and limits."""


class StorySource(Source, Protocol):
    """The programs of `probes.story.HANDSHAKES`."""

    def handshake_times(self) -> list[tuple[bytes, list[bytes]]]:
        """(key, values of the CPUs) of the map `handshake_times`."""


class TopSource(Source, Protocol):
    """The programs of `probes.story.TOP`."""

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """(key, value) of a map."""

    def write(self, name: str, key: bytes, value: bytes | None) -> None:
        """Write an entry of a map; without a value, remove it."""


class Host(Protocol):
    """The host that the programs run on, as it is at the moment of the last record."""

    @property
    def build(self) -> Build:
        """What looks at which kernel."""

    @property
    def clock_offset_ns(self) -> int:
        """CLOCK_REALTIME minus CLOCK_BOOTTIME when the run began."""

    @property
    def recorded(self) -> bool:
        """Whether this was, instead of is."""

    @property
    def gaps(self) -> tuple[str, ...]:
        """Parts of the run that are not to be had any more, a sentence each."""

    def snapshot(self) -> Snapshot:
        """How it is configured."""

    def unix_ns(self) -> int:
        """CLOCK_REALTIME."""

    def elapsed_s(self) -> float:
        """Seconds since some moment before the run."""


class ThisHost:
    """The host that wgtrace runs on, now.

    Args:
        take_snapshot: Gives the configuration of this moment.
    """

    recorded = False
    gaps: tuple[str, ...] = ()

    def __init__(self, build: Build, take_snapshot: Callable[[], Snapshot]) -> None:
        self.build = build
        self.clock_offset_ns = clock_offset_ns()
        self._take_snapshot = take_snapshot

    def snapshot(self) -> Snapshot:
        """How it is configured at this moment."""
        return self._take_snapshot()

    def unix_ns(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()

    def elapsed_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()
