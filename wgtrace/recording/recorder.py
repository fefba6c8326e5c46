# SPDX-License-Identifier: GPL-2.0-only
"""Writes a run down as it happens: what the kernel tells, and the configuration around it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from wgtrace.diagnosis.evidence import MAX_WAYS
from wgtrace.diagnosis.firewall import blocked_by
from wgtrace.diagnosis.outside import settings_of
from wgtrace.diagnosis.words import age, count_of
from wgtrace.errors import UndecodableRecordError, UnsupportedError
from wgtrace.events.decode import Decoder, device_of, kind_of, reason_of
from wgtrace.events.reasons import HandshakeCode
from wgtrace.events.types import (
    ConfigEvent,
    Counters,
    DropEvent,
    HandshakeEvent,
    InvariantEvent,
    IPAddress,
    PacketEvent,
    PathEvent,
)
from wgtrace.events.wire import EventKind, Loss
from wgtrace.pipeline import ASK_AGAIN_S, UNSENT, HostFacts, Limits, Signals, polls
from wgtrace.probes.identity import Identity
from wgtrace.probes.kernel import Symbol
from wgtrace.recording import bodies
from wgtrace.recording.facts import Asked, AskedWay, Facts
from wgtrace.recording.format import Flag, Kind
from wgtrace.recording.output import Output
from wgtrace.recording.plain import dumped
from wgtrace.report import RunStart
from wgtrace.source import Host, Source
from wgtrace.state.clock import anchor
from wgtrace.state.types import Firewall, Snapshot, Way

_ANSWERED = (HandshakeCode.INIT_ACCEPTED, HandshakeCode.RESPONSE_ACCEPTED, HandshakeCode.HANDSHAKE_COMPLETE)
FLUSH_S = 0.6  # with one poll on top, a record is in the file within a second
FLUSH_BYTES = 1 << 18
CLOCK_S = 30.0
CHECKPOINT_S = 5.0
_CHECKPOINT_SHARE = 50  # checkpoints take at most this part of the time ...
_CHECKPOINT_RATE = 1024  # ... and, on average, so many bytes a second


@dataclass(frozen=True, slots=True)
class Kept:
    """What a recording holds until now.

    Attributes:
        counters: What happened and is not in it.
    """

    records: int
    seconds: float
    counters: Counters

    def told(self, output: Output) -> str:
        """The last line of a run."""
        where = ", ".join(str(path) for path in output.paths)
        text = f"{count_of(self.records, 'record')} of {age(self.seconds)} kept in {where}."
        lost = self.counters.losses[Loss.LOST_EVENTS]
        limited = sum(self.counters.limited.values())
        if lost:
            text += f" Not in it, but in the totals: {count_of(lost, 'record')} that found the buffer full."
        if limited:
            text += f" Not in it, but in the totals: {count_of(limited, 'drop')} of a flood."
        return text


class Recorder:
    """One run of `wgtrace record`.

    Args:
        source: Attached.
        host: Where it runs.
        output: Nothing was written to it yet.
        kernel: What runs there.
        symbols: Functions of WireGuard.
        command: Words of the command line.
        facts: What rules may ask for.
        sample: As in `Facts`.
    """

    def __init__(
        self,
        source: Source,
        host: Host,
        output: Output,
        kernel: Identity,
        symbols: Iterable[Symbol] = (),
        command: Sequence[str] = (),
        facts: HostFacts | None = None,
        sample: int = 0,
    ) -> None:
        self._ask = facts or HostFacts()
        self._decoder = Decoder(kernel_reasons=source.kernel_reasons)
        self._troubled: dict[str, None] = {}
        self._ways: dict[tuple[str, int, IPAddress], Way] = {}
        self._asked_at = 0.0
        self._rules_at = 0.0
        self._places: dict[int, str] = {}
        self._firewalls: dict[int, Firewall] = {}
        self._sysctls: dict[int, dict[str, str]] = {}
        self._source = source
        self._host = host
        self._output = output
        self._facts = Facts(
            run=secrets.token_hex(8),
            file=0,
            version=host.build.version,
            bcc=host.build.bcc,
            kernel=kernel,
            clock_offset_ns=host.clock_offset_ns,
            clock=anchor(),
            command=tuple(command),
            sample=sample,
            probes=source.probes,
            kernel_reasons=dict(source.kernel_reasons),
            symbols=tuple(symbol for symbol in symbols if symbol.is_text),
        )
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._records = 0
        self._asked: set[tuple[str, int]] = set()
        self._written_totals: dict[bytes, int] = {}
        self._started = self._flushed = self._clocked = host.elapsed_s()
        self._use(host.snapshot())
        self._totals = dict(source.totals())
        self._counters = source.counters()
        self._checkpointed, self._checkpoint_every = self._started, CHECKPOINT_S
        self._open()

    def start(self) -> RunStart:
        """What is recorded, on what."""
        return RunStart(
            self._host.unix_ns(),
            self._facts.version,
            self._facts.kernel.release,
            self._facts.bcc,
            self._snapshot.devices,
            self._facts.probes,
            {space.inode: space.name for space in self._snapshot.namespaces if space.name},
        )

    @property
    def kept(self) -> Kept:
        """What there is until now."""
        return Kept(self._records, self._host.elapsed_s() - self._started, self._counters)

    def run(self, limits: Limits, signals: Signals) -> None:
        """Record until a limit, a signal, or a full file if there is no next one.

        SIGUSR1 writes down all that is known at that moment.

        Raises:
            OutputError: The disk is full, or broken. What was written stays readable.
            UnsupportedError: Nothing can be seen any more; the recording says so.
        """
        signals.is_running = True
        try:
            because = self._follow(limits, signals)
        except UnsupportedError as exc:
            self._end("blind", exc.what)
            raise
        self._end(because)

    def _follow(self, limits: Limits, signals: Signals) -> str:
        """Record, and say why no longer."""
        for records in polls(self._source, self._host, self._started, limits, signals):
            self._take(records)
            self._tick(now=signals.interim)
            signals.interim = False
            if self._output.is_full:
                if not self._output.rotates:
                    return "full"
                self._next_file()
        self._take(self._source.records(0) or ())
        return "stopped"

    # -- records and the configuration around them ---------------------------

    def _take(self, records: Iterable[bytes]) -> None:
        """Keep records, and the configuration read where `pipeline.DropsRun` would read it."""
        is_stale = False
        for record in records:
            if kind_of(record) == EventKind.CONFIG:
                if not is_stale:
                    self._flush()  # what comes before is told by the STATE before
                is_stale = True  # read again only when the next event needs it
            else:
                if is_stale:
                    self._read_state(Flag.CHANGED)
                if self._is_unknown(record) and not is_stale:
                    self._read_state(Flag.NONE)
                is_stale = False
                self._note_trouble(record)
            self._pending.append(record)
            self._pending_bytes += len(record)
        if is_stale:
            self._read_state(Flag.CHANGED)

    def _note_trouble(self, record: bytes) -> None:
        """Remember whose packets find no way, and ask for it while they find none."""
        if kind_of(record) == EventKind.DROP and reason_of(record) not in UNSENT:
            return
        with contextlib.suppress(UndecodableRecordError):
            event = self._decoder.event(record)
            if isinstance(event, PathEvent):
                self._note_path(event)
                return
            if isinstance(event, InvariantEvent):
                self._note_places(event.stack)
                return
            if isinstance(event, (ConfigEvent, PacketEvent)) or event.peer is None:
                return
            if isinstance(event, HandshakeEvent) and event.code in _ANSWERED:
                self._troubled.pop(event.peer.public_key, None)
                return
            self._troubled[event.peer.public_key] = None
            if isinstance(event, DropEvent) and self._host.elapsed_s() - self._asked_at > ASK_AGAIN_S:
                self._flush()
                self._write_asked(Flag.NONE)

    def _note_places(self, addresses: Iterable[str]) -> None:
        """Name addresses in the kernel before the first record that has them."""
        new = {int(text, 16) for text in addresses if text} - set(self._places)
        if new:
            self._places |= {address: self._source.describe(address) for address in new}
            self._flush()
            self._write_asked(Flag.NONE)

    def _note_path(self, event: PathEvent) -> None:
        """Keep what a replay cannot ask for: names of code, rules, settings."""
        self._note_places((event.where,))
        space = next((n for n in self._snapshot.namespaces if n.inode == event.netns), None)
        if space is None:
            return
        known = self._firewalls.get(space.inode)
        is_known = known is not None and blocked_by(event, known).is_known
        elapsed = self._host.elapsed_s()
        if event.hook and not is_known and elapsed - self._rules_at > ASK_AGAIN_S:
            self._rules_at = elapsed
            if (rules := self._ask.firewall(space)) is not None:
                self._firewalls[space.inode] = rules
                self._flush()
                self._write_asked(Flag.NONE)
        if names := settings_of(event):
            self._sysctls.setdefault(space.inode, {}).update(self._ask.sysctls(space, names))

    def _ask_ways(self) -> None:
        self._asked_at = self._host.elapsed_s()
        for device in self._snapshot.devices:
            troubled = [p for p in device.peers if p.endpoint and p.public_key in self._troubled]
            for peer in troubled[:MAX_WAYS]:
                assert peer.endpoint
                way = self._ask.way(device, peer.endpoint.addr, self._snapshot.namespaces)
                if way is not None:
                    self._ways[device.ifname, device.netns, peer.endpoint.addr] = way

    def _is_unknown(self, record: bytes) -> bool:
        """Whether the record is of an interface that is new to us; asked once for each."""
        device = device_of(record)
        if device is None or device in self._known or device in self._asked:
            return False
        self._asked.add(device)
        return True

    def _read_state(self, flags: Flag) -> None:
        self._flush()
        self._use(self._host.snapshot())
        self._output.write(Kind.STATE, dumped(self._snapshot), flags)

    def _use(self, snapshot: Snapshot) -> None:
        """Take what a view would read here too: what it then does not know, we ask for as it does."""
        self._snapshot = snapshot
        self._known = {(device.ifname, device.netns) for device in snapshot.devices}

    def _flush(self) -> None:
        if self._pending:
            self._output.write(Kind.RECORDS, bodies.records_body(self._pending))
            self._records += len(self._pending)
            self._pending.clear()
            self._pending_bytes = 0
        self._flushed = self._host.elapsed_s()

    # -- now and then ----------------------------------------------------------

    def _tick(self, *, now: bool) -> None:
        """Write what is due. Never between a change and its STATE: `_take` leaves nothing stale."""
        elapsed = self._host.elapsed_s()
        if now or elapsed - self._flushed >= FLUSH_S or self._pending_bytes >= FLUSH_BYTES:
            self._flush()
        if now or elapsed - self._checkpointed >= self._checkpoint_every:
            self._checkpoint()
        if now or elapsed - self._clocked >= CLOCK_S:
            self._output.write(Kind.CLOCK, dumped(anchor()))
            self._clocked = elapsed

    def _checkpoint(self) -> None:
        """Totals and counters of now, if they moved, so that a run that is killed has them."""
        begun, size = self._host.elapsed_s(), self._output.written_bytes
        counters, totals = self._source.counters(), dict(self._source.totals())
        if (counters, totals) != (self._counters, self._totals):
            self._flush()
            self._snapshot = self._host.snapshot()
            self._totals, self._counters = dict(self._source.totals()), counters
            self._write_known(Flag.NONE)
        self._checkpointed = self._host.elapsed_s()
        self._checkpoint_every = max(
            CHECKPOINT_S,
            (self._checkpointed - begun) * _CHECKPOINT_SHARE,
            (self._output.written_bytes - size) / _CHECKPOINT_RATE,
        )

    def _write_known(self, flags: Flag) -> None:
        changed = {k: count for k, count in self._totals.items() if self._written_totals.get(k) != count}
        self._written_totals |= changed
        self._write_asked(flags)
        self._output.write(Kind.STATE, dumped(self._snapshot), flags)
        self._output.write(Kind.TOTALS, bodies.totals_body(changed), flags)
        self._output.write(Kind.COUNTERS, bodies.counters_body(self._counters), flags)

    def _write_asked(self, flags: Flag) -> None:
        self._ask_ways()
        ways = tuple(AskedWay(ifname, netns, way) for (ifname, netns, _), way in self._ways.items())
        asked = Asked(
            self._ask.load(), self._ask.claims(), ways, self._places, self._firewalls, self._sysctls
        )
        self._output.write(Kind.ASKED, dumped(asked), flags)

    # -- files -----------------------------------------------------------------

    def _open(self) -> None:
        self._output.write(Kind.FACTS, dumped(self._facts), Flag.OPENING)
        self._written_totals = {}
        self._write_known(Flag.OPENING)

    def _next_file(self) -> None:
        self._end("next file")
        self._output.next_file()
        now = anchor()  # the wall clock may have been set since the run began
        offset_ns = now.realtime_ns - now.boottime_ns
        self._facts = replace(self._facts, file=self._facts.file + 1, clock=now, clock_offset_ns=offset_ns)
        self._open()

    def _end(self, because: str, blind: str = "") -> None:
        self._flush()
        totals = dict(self._source.totals())
        for _attempt in range(3):  # totals and counters of one moment, if the traffic lets us
            before = totals
            self._snapshot = self._host.snapshot()
            totals = dict(self._source.totals())
            if totals == before:
                break
        self._totals, self._counters = totals, self._source.counters()
        self._write_known(Flag.NONE)
        self._output.write(Kind.CLOCK, dumped(anchor()))
        self._output.write(Kind.END, dumped({"because": because, "blind": blind}))
