# SPDX-License-Identifier: GPL-2.0-only
"""What a run has to say, as plain data: the sinks in `outputs` render it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Protocol

from wgtrace.diagnosis.finding import Finding
from wgtrace.events.reasons import Reason, SubReason
from wgtrace.events.types import DropEvent, DropTotal, HandshakeTotal, Losses, PeerRef, made_often
from wgtrace.probes.types import ProbeStatus
from wgtrace.state.types import Device


@dataclass(frozen=True, slots=True)
class RunStart:
    """All probes that can be attached are attached.

    Attributes:
        ts_unix_ns: CLOCK_REALTIME.
        kernel: `uname -r`.
        bcc: Version of BCC.
        devices: The interfaces traced.
        probes: Each row of the probe catalogue, attached or not.
        netns_names: Names of the namespaces that have one, by inode.
        recorded: This is told from a recording.
    """

    ts_unix_ns: int
    version: str
    kernel: str
    bcc: str
    devices: tuple[Device, ...]
    probes: tuple[ProbeStatus, ...]
    netns_names: dict[int, str] = field(default_factory=dict)
    recorded: bool = False


@made_often
class SeenDrop:
    """A drop joined with the state of its moment.

    Attributes:
        event: As decoded.
        ts_unix_ns: CLOCK_REALTIME of the drop.
        why: One short sentence for this very packet, no full stop.
        peer: The event's, with its name.
        netns_name: Name of the interface's namespace if it has one.
    """

    event: DropEvent
    ts_unix_ns: int
    why: str
    peer: PeerRef | None = None
    netns_name: str | None = None


@dataclass(frozen=True, slots=True)
class CounterLine:
    """One interface counter held against the totals.

    Attributes:
        counter: Field of rtnl_link_stats64, such as `rx_frame_errors`.
        moved: How far it moved since the start.
        explained: How many drops of the totals the kernel counts there.
    """

    ifname: str
    netns: int
    counter: str
    moved: int
    explained: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a run, or an interim count (SIGUSR1).

    Attributes:
        complete: True only if nothing was lost and no probe was missing.
        incomplete_because: One sentence for each thing that was not seen.
        handshakes: What handshakes did, and why packets wait for one.
    """

    ts_unix_ns: int
    duration_s: float
    totals: tuple[DropTotal, ...]
    losses: Losses
    reconciliation: tuple[CounterLine, ...]
    findings: tuple[Finding, ...]
    complete: bool
    incomplete_because: tuple[str, ...] = ()
    peer_names: dict[str, str] | None = None
    interim: bool = False
    handshakes: tuple[HandshakeTotal, ...] = ()


class Verdict(enum.Enum):
    """What `wgtrace selftest` says of a reason."""

    SEEN = "seen"
    NOT_SEEN = "not_seen"
    MISCOUNTED = "miscounted"
    NOT_STAGED = "not_staged"
    NOT_PROVOKED = "not_provoked"


@dataclass(frozen=True, slots=True)
class SelftestRow:
    """What `wgtrace selftest` found for one reason, or one sub-reason of it.

    Attributes:
        how: How it was provoked, "" if it was not.
        sent: Packets that the kernel must have dropped for it.
        seen: Those that wgtrace counted.
        because: Why the verdict is not SEEN, "" if it is or if nothing is known.
    """

    reason: Reason
    sub_reason: SubReason
    verdict: Verdict
    how: str = ""
    sent: int = 0
    seen: int = 0
    because: str = ""


@dataclass(frozen=True, slots=True)
class SelftestReport:
    """A whole run of `wgtrace selftest`; `rows` in the order of the catalogue."""

    ts_unix_ns: int
    version: str
    kernel: str
    bcc: str
    duration_s: float
    rows: tuple[SelftestRow, ...]

    @property
    def provoked(self) -> tuple[SelftestRow, ...]:
        """The rows that were to be seen."""
        return tuple(row for row in self.rows if row.verdict is not Verdict.NOT_PROVOKED)

    @property
    def has_passed(self) -> bool:
        """Whether all that was provoked was seen, packet for packet."""
        return bool(self.provoked) and all(row.verdict is Verdict.SEEN for row in self.provoked)


class Sink(Protocol):
    """Renders a run; each method is called from one thread, in this order."""

    def start(self, start: RunStart) -> None:
        """Called once, when attached."""

    def drop(self, drop: SeenDrop) -> None:
        """Called for each drop shown."""

    def rest(self) -> None:
        """Called when there are no more drops for now: those before are to be seen."""

    def summary(self, summary: Summary) -> None:
        """Called for each interim count and once at the end."""
