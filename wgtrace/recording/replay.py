# SPDX-License-Identifier: GPL-2.0-only
"""A recording as the source and the host of a run: what was, as if it were now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wgtrace.diagnosis.words import count_of, utc
from wgtrace.errors import UsageError
from wgtrace.events.decode import kind_of
from wgtrace.events.types import Counters, IPAddress
from wgtrace.events.wire import Loss
from wgtrace.pipeline import HostFacts
from wgtrace.probes import kernel
from wgtrace.probes.types import ProbeStatus
from wgtrace.recording import bodies
from wgtrace.recording.facts import TOTAL_KEY, Asked, Facts
from wgtrace.recording.format import Block, Flag, Kind
from wgtrace.recording.growth import Growth
from wgtrace.recording.plain import loaded
from wgtrace.recording.reader import Damage, File, opened
from wgtrace.source import Build
from wgtrace.state.types import Device, Load, Namespace, Peer, Snapshot, Way

_NOTHING = Counters(dict.fromkeys(Loss, 0), {}, 0)


class Recording:
    """The files of one run; a `source.Source` and a `source.Host`.

    Each call of `records` goes on by some blocks, and everything else is as it was
    at that point of the run.

    Args:
        paths: One file, or several of one rotation, in any order.

    Raises:
        UsageError: One is no recording, or they are not of one run.
        UnsupportedError: One may not be read here, or a newer wgtrace made it.
    """

    recorded = True

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._files = _opened(paths)
        self._facts: Facts = self._files[0].facts
        self._growth = Growth(self._facts)
        self._described: dict[int, str] = {}
        self._gaps: list[str] = []
        self._unknown_losses = 0
        self._state: tuple[File, Block] | Snapshot = Snapshot(0)
        self._sums: dict[bytes, int] = {}
        self._counted = _NOTHING
        self._asked = Asked(Load())
        self._is_ended = False
        self._ts_ns = 0
        self._blocks = self._all_blocks()
        self._ahead: tuple[File, Block] | None = next(self._blocks, None)
        while self._ahead and self._ahead[1].flags & Flag.OPENING:
            self._pass()
        # The kernel counts since the start of the run: of what comes before the first file nothing is told.
        is_whole = self._facts.file == 0
        self._sums_before = {} if is_whole else dict(self._sums)
        self._counted_before = _NOTHING if is_whole else self._counted

    # -- the source --------------------------------------------------------------

    @property
    def probes(self) -> tuple[ProbeStatus, ...]:
        """What became of each row of the catalogue."""
        return self._facts.probes

    @property
    def kernel_reasons(self) -> dict[int, str]:
        """`enum skb_drop_reason` of the kernel that was recorded."""
        return self._facts.kernel_reasons

    def describe(self, address: int) -> str:
        """`wg_xmit+0x83` for an address in the kernel."""
        if address in self._asked.places:
            return self._asked.places[address]
        if address not in self._described:
            self._described[address] = kernel.describe_address(self._facts.symbols, address)
        return self._described[address]

    def records(self, timeout_s: float) -> list[bytes] | None:
        """The next block of records, at once; None: there are no more."""
        while self._ahead:
            file, block = self._ahead
            self._pass()
            if block.kind == Kind.RECORDS:
                return [self._growth.as_now(kind_of(r), r) for r in file.understood(bodies.records, block)]
        return None

    def totals(self) -> list[tuple[bytes, int]]:
        """(key, packets) of the map `totals`, as last written down."""
        counts = {key: count - self._sums_before.get(key, 0) for key, count in self._sums.items()}
        return [(self._growth.as_now(TOTAL_KEY, key), count) for key, count in counts.items() if count]

    def handshake_times(self) -> list[tuple[bytes, list[bytes]]]:
        """None: `record` has no such map."""
        return []

    def counters(self) -> Counters:
        """Losses and limits, as last written down."""
        before = self._counted_before
        return Counters(
            {loss: count - before.losses[loss] for loss, count in self._counted.losses.items()},
            {
                reason: count - before.limited.get(reason, 0)
                for reason, count in self._counted.limited.items()
                if count > before.limited.get(reason, 0)
            },
            self._counted.missed - before.missed,
            {
                number: count - before.path_limited.get(number, 0)
                for number, count in self._counted.path_limited.items()
                if count > before.path_limited.get(number, 0)
            },
        )

    # -- the host ----------------------------------------------------------------

    @property
    def build(self) -> Build:
        """What looked at which kernel."""
        return Build(self._facts.version, self._facts.kernel.release, self._facts.bcc)

    @property
    def clock_offset_ns(self) -> int:
        """CLOCK_REALTIME minus CLOCK_BOOTTIME when the first of the files began."""
        return self._facts.clock_offset_ns

    @property
    def gaps(self) -> tuple[str, ...]:
        """What was found to be missing or damaged so far."""
        gaps = list(self._gaps)
        if self._unknown_losses:
            gaps.append(f"{self._unknown_losses} losses of kinds that this wgtrace does not know")
        if not self._ahead and not self._is_ended:
            gaps.append(
                f"the recording breaks off at {self._time()}: it was not ended, or still goes on; "
                "totals are those that were last written down"
            )
        return tuple(gaps)

    def snapshot(self) -> Snapshot:
        """How the host was configured."""
        if self._ahead and self._ahead[1].flags & Flag.CHANGED:
            self._pass()
        if not isinstance(self._state, Snapshot):
            file, block = self._state
            self._state = file.understood(lambda body: loaded(Snapshot, body), block)
        return self._state

    def unix_ns(self) -> int:
        """CLOCK_REALTIME."""
        return self._ts_ns + self._facts.clock_offset_ns

    def elapsed_s(self) -> float:
        """CLOCK_BOOTTIME."""
        return self._ts_ns / 1_000_000_000

    @property
    def asked(self) -> HostFacts:
        """What rules ask the host for, as last written down."""
        return HostFacts(
            self._way,
            lambda: self._asked.claims,
            lambda: self._asked.load,
            lambda space: self._asked.firewalls.get(space.inode),
            lambda space, names: {
                name: value
                for name, value in self._asked.sysctls.get(space.inode, {}).items()
                if name in names
            },
        )

    def _way(self, device: Device, endpoint: IPAddress, _namespaces: Iterable[Namespace]) -> Way | None:
        """As asked then; None: it was not, or there is none."""
        wanted = (device.ifname, device.netns, endpoint)
        asked = (way for way in self._asked.ways if (way.ifname, way.netns, way.way.endpoint) == wanted)
        return next((found.way for found in asked), None)

    # -- more than a run needs -----------------------------------------------------

    @property
    def facts(self) -> Facts:
        """Who recorded what, on which kernel."""
        return self._facts

    def peers(self) -> dict[str, Peer]:
        """Every peer that was ever configured, by public key; takes reading all of the files."""
        found: dict[str, Peer] = {}
        for file in self._files:
            for block in file.blocks():
                if isinstance(block, Block) and block.kind == Kind.STATE:
                    snapshot = file.understood(lambda body: loaded(Snapshot, body), block)
                    found |= {p.public_key: p for device in snapshot.devices for p in device.peers}
        return found

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    # -- blocks --------------------------------------------------------------------

    def _pass(self) -> None:
        """Go on by one block."""
        assert self._ahead
        file, block = self._ahead
        self._ts_ns = max(self._ts_ns, block.ts_ns)
        if block.kind == Kind.STATE:
            self._state = file, block  # read once somebody asks
        elif block.kind == Kind.TOTALS:
            self._sums |= file.understood(bodies.totals, block)
        elif block.kind == Kind.ASKED:
            self._asked = file.understood(lambda body: loaded(Asked, body), block)
        elif block.kind == Kind.COUNTERS:
            self._counted, self._unknown_losses = file.understood(bodies.counters, block)
        self._is_ended = block.kind == Kind.END
        if self._is_ended and (blind := file.understood(bodies.blind, block)):
            self._note(blind)
        self._ahead = next(self._blocks, None)

    def _all_blocks(self) -> Iterator[tuple[File, Block]]:
        """The blocks of all files; what is missing between them is noted on the way."""
        expected = 0 if self._facts.file == 0 else None
        for file in self._files:
            damaged = 0
            for block in file.blocks():
                if isinstance(block, Damage):
                    damaged += block.size
                    if block.is_end:
                        self._note(f"no whole block at the end of {file.path.name}: {_bytes(damaged)}")
                    continue
                if damaged:
                    self._note(f"damaged within {file.path.name}: {_bytes(damaged)}")
                if expected is not None and block.number != expected:
                    between = f"between {self._time()} and {self._time(block.ts_ns)}"
                    self._note(f"missing {between}: {count_of(abs(block.number - expected), 'block')}")
                expected, damaged = block.number + 1, 0
                yield file, block

    def _note(self, text: str) -> None:
        self._gaps.append(text)

    def _time(self, ts_ns: int | None = None) -> str:
        return f"{utc((self._ts_ns if ts_ns is None else ts_ns) + self._facts.clock_offset_ns)} UTC"


def _bytes(count: int) -> str:
    return count_of(count, "byte")


def _opened(paths: Sequence[Path]) -> tuple[File, ...]:
    """The files in the order in which they were written."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(contextlib.closing(opened(path))) for path in paths]
        _check_one_run(files)
        stack.pop_all()
    return tuple(sorted(files, key=lambda file: file.facts.file))


def _check_one_run(files: Sequence[File]) -> None:
    if len({file.facts.run for file in files}) > 1:
        raise UsageError(
            "these are recordings of several runs",
            "one run at a time can be replayed, with all files of its rotation",
        )
    if len({file.facts.file for file in files}) < len(files):
        raise UsageError("a file is given twice")
