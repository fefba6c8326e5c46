# SPDX-License-Identifier: GPL-2.0-only
"""What a run has to say, as plain data: the sinks in `outputs` render it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Protocol

from wgtrace.diagnosis.finding import Finding
from wgtrace.diagnosis.firewall import Blocked
from wgtrace.events.histogram import Histogram
from wgtrace.events.latency import SlowTimes, Stage
from wgtrace.events.mtu import MtuEvent, MtuTotal
from wgtrace.events.reasons import CATALOGUE, Direction, Reason, SubReason
from wgtrace.events.session import Arrivals, Queues, Session
from wgtrace.events.types import (
    DropEvent,
    DropTotal,
    Endpoint,
    Flow,
    HandshakeTotal,
    InvariantTotal,
    IPAddress,
    Losses,
    PathEvent,
    PathTotal,
    PeerRef,
    made_often,
)
from wgtrace.events.wire import Hook
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
class SeenPath:
    """A drop outside of WireGuard joined with the state of its moment.

    Attributes:
        event: As of `SeenDrop`, and what follows too.
        blocked: What of the firewall did it, None if it did not.
        sysctls: The settings that decided, as they are now, by their paths under /proc/sys.
    """

    event: PathEvent
    ts_unix_ns: int
    why: str
    netns_name: str | None = None
    blocked: Blocked | None = None
    sysctls: dict[str, str] = field(default_factory=dict)

    @property
    def peer(self) -> PeerRef | None:
        """The event's, with its name."""
        return self.event.peer


Seen = SeenDrop | SeenPath


def counters_of(total: DropTotal | PathTotal) -> tuple[str, ...]:
    """The interface counters that the kernel counts these drops in.

    WireGuard's own, or for a datagram what iptunnel_xmit() and ip6tunnel_xmit() make
    of netfilter's answer.
    """
    if isinstance(total, DropTotal):
        return CATALOGUE[total.reason].counter
    if total.is_inner or total.hook not in (Hook.OUTPUT, Hook.POSTROUTING):
        return ()
    return ("tx_dropped",) if total.family == 4 else ("tx_errors",)


@dataclass(frozen=True, slots=True)
class SeenStep:
    """A step of a handshake, or what ended one, joined with the state of its moment.

    Attributes:
        event: Its id: that of a `HandshakeCode`, `endpoint_changed`, or for a message
            that went wrong `init_refused`, `response_not_sent` and the like.
        what: One sentence, no full stop.
        peer: With its name; None where the message does not tell.
        origin: Of a refused message: where it came from.
        cause: Why, for those events that have several causes.
        reason: Of what was refused or not sent.
        role: `initiator` or `responder`, of a session.
        attempt: Retries so far, this one included.
        latency_ns: How long the handshake took; of a response that came too late,
            since its initiation.
        before: endpoint_changed: where the peer was.
        source: Outer source address of what was sent, and the interface that it left by.
        icmp: icmp_error: type and code, and who says so.
    """

    ts_unix_ns: int
    ifname: str
    netns: int
    event: str
    what: str
    peer: PeerRef | None = None
    netns_name: str | None = None
    origin: Endpoint | None = None
    cause: str | None = None
    reason: Reason | None = None
    role: str | None = None
    attempt: int = 0
    sender_index: int = 0
    receiver_index: int = 0
    latency_ns: int = 0
    session_age_ns: int = 0
    before: Endpoint | None = None
    source: IPAddress | None = None
    out_ifname: str = ""
    inner: Flow | None = None
    queue_len: int = 0
    icmp: tuple[int, int, IPAddress] | None = None


@dataclass(frozen=True, slots=True)
class HandshakeHistogram:
    """How long the handshakes with a peer took, nanoseconds.

    Attributes:
        role: This side's: `initiator`, until the session was up, or `responder`, until it was confirmed.
    """

    ifname: str
    netns: int
    peer: PeerRef
    role: str
    histogram: Histogram


@dataclass(frozen=True, slots=True)
class TopRow:
    """A peer in a frame of `wgtrace top`.

    Attributes:
        peer: None: what is of this interface and of no peer that is known.
        rx_rate: Bytes a second that came from it since the frame before, with WireGuard's headers.
        drops: By reason, since the start; `new_drops`: since the frame before.
        handshake_ns: When the last one was, Unix time; 0: never.
        latency_ns: How long that took, 0: it was before this run.
        role: This side's in it, None: it was before this run.
        arrivals: What came from it since the start, by all sessions; None: that is not seen.
        sessions: Those that something came by, or may still, the newest first.
        steps: The last of its story, the newest last.
        queues: What of it waits; None: that is not seen, as of a peer without AllowedIPs.
        latency: How long its packets were in WireGuard since the frame before, nanoseconds, by
            direction; only where that was asked for, and there were any.
    """

    ifname: str
    netns: int
    netns_name: str | None
    peer: PeerRef | None
    rx_rate: float = 0.0
    tx_rate: float = 0.0
    rx_bytes: int = 0
    tx_bytes: int = 0
    drops: tuple[tuple[Reason, int], ...] = ()
    new_drops: int = 0
    handshake_ns: int = 0
    latency_ns: int = 0
    role: str | None = None
    arrivals: Arrivals | None = None
    sessions: tuple[Session, ...] = ()
    steps: tuple[SeenStep, ...] = ()
    queues: Queues | None = None
    latency: dict[Direction, Histogram] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """All of its drops since the start."""
        return sum(count for _reason, count in self.drops)


@dataclass(frozen=True, slots=True)
class TopFrame:
    """All peers at one moment, in the order of their interfaces.

    Attributes:
        interval_s: Since the frame before.
        duration_s: Since the start.
        boot_ns: CLOCK_BOOTTIME of this moment.
    """

    ts_unix_ns: int
    interval_s: float
    duration_s: float
    rows: tuple[TopRow, ...]
    boot_ns: int = 0


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
        histograms: `wgtrace handshakes`: how long they took, for each peer and role.
        invariants: How often each was looked at, and held or not; of a run with --invariants.
    """

    ts_unix_ns: int
    duration_s: float
    totals: tuple[DropTotal | PathTotal, ...]
    losses: Losses
    reconciliation: tuple[CounterLine, ...]
    findings: tuple[Finding, ...]
    complete: bool
    incomplete_because: tuple[str, ...] = ()
    peer_names: dict[str, str] | None = None
    interim: bool = False
    handshakes: tuple[HandshakeTotal, ...] = ()
    histograms: tuple[HandshakeHistogram, ...] = ()
    invariants: tuple[InvariantTotal, ...] = ()


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


class Part(enum.Enum):
    """What a report on latency is about."""

    INTERVAL = "interval"
    INTERIM = "interim"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Group:
    """Packets that are counted together: None is all of them.

    Attributes:
        cpu: That did the crypto.
    """

    direction: Direction
    ifname: str | None = None
    netns: int | None = None
    public_key: str | None = None
    peer_name: str | None = None
    cpu: int | None = None


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """How long the packets of a group were in each stage, nanoseconds; in order, the total last."""

    group: Group
    histograms: dict[Stage, Histogram]


@dataclass(frozen=True, slots=True)
class SlowPacket:
    """One of the slowest packets; `group` says whose, and the CPU that did the crypto."""

    group: Group
    ts_unix_ns: int
    times: SlowTimes


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """The end of a run of `wgtrace latency`, an interval of it, or a count in between.

    Attributes:
        duration_s: Of the part that it is about.
        partly_seen: Packets that were seen only in part, and count nowhere.
        incomplete_because: One sentence for each thing that was not seen.
    """

    ts_unix_ns: int
    part: Part
    duration_s: float
    rows: tuple[LatencyRow, ...]
    slowest: tuple[SlowPacket, ...]
    partly_seen: int = 0
    incomplete_because: tuple[str, ...] = ()


class LatencySink(Protocol):
    """Renders a run of `wgtrace latency`."""

    def start(self, start: RunStart) -> None:
        """Called once, when attached."""

    def report(self, report: LatencyReport) -> None:
        """Called for each interval, each count in between, and once at the end."""


@dataclass(frozen=True, slots=True)
class SeenMtu:
    """An event of `wgtrace mtu`, with the name of its peer.

    Attributes:
        what: One short sentence, no full stop.
    """

    event: MtuEvent
    ts_unix_ns: int
    what: str


@dataclass(frozen=True, slots=True)
class MtuRow:
    """The sizes of a peer, bytes; 0: not known, or none.

    Attributes:
        mtu: Of the WireGuard interface.
        oif: Device that datagrams to the peer leave by; `link_mtu`: its MTU.
        route_mtu: What the route says itself.
        path_mtu: The smallest that is known; `path_of`: who says so.
        overhead: What encryption adds to a packet.
        passed: Largest inner packet that was answered; `failed`: smallest that was not.
        received: Largest inner packet that came in; `sent`: that went out.
        fits: The MTU of the interface with which no datagram to this peer is too big.
    """

    ifname: str
    netns: int
    peer: PeerRef
    mtu: int
    oif: str
    link_mtu: int
    route_mtu: int
    path_mtu: int
    path_of: str
    overhead: int
    passed: int
    failed: int
    received: int
    sent: int
    fits: int


@dataclass(frozen=True, slots=True)
class MtuReport:
    """The end of a run of `wgtrace mtu`, or a count in between.

    Attributes:
        lost: Events that could not be shown.
        incomplete_because: One sentence for each thing that was not seen.
    """

    ts_unix_ns: int
    duration_s: float
    rows: tuple[MtuRow, ...]
    totals: tuple[MtuTotal, ...]
    findings: tuple[Finding, ...]
    lost: int = 0
    incomplete_because: tuple[str, ...] = ()
    is_interim: bool = False


class MtuSink(Protocol):
    """Renders a run of `wgtrace mtu`."""

    def start(self, start: RunStart) -> None:
        """Called once, when attached."""

    def event(self, seen: SeenMtu) -> None:
        """Called for each event."""

    def report(self, report: MtuReport) -> None:
        """Called for each count in between, and once at the end."""


class RunSink(Protocol):
    """Renders a run; each method is called from one thread, `start` first."""

    def start(self, start: RunStart) -> None:
        """Called once, when attached."""

    def summary(self, summary: Summary) -> None:
        """Called for each interim count and once at the end."""


class Sink(RunSink, Protocol):
    """Renders a run of `wgtrace drops`."""

    def drop(self, drop: Seen) -> None:
        """Called for each drop shown."""

    def rest(self) -> None:
        """Called when there are no more drops for now: those before are to be seen."""


class StorySink(RunSink, Protocol):
    """Renders a run of `wgtrace handshakes`."""

    def step(self, step: SeenStep) -> None:
        """Called for each step shown."""

    def interval(self, ts_unix_ns: int, histograms: tuple[HandshakeHistogram, ...]) -> None:
        """Called for each interval that was asked for, with the handshakes that were done in it."""


class TopSink(RunSink, Protocol):
    """Renders a run of `wgtrace top`."""

    @property
    def is_over(self) -> bool:
        """Whether who looks at it has seen enough; looks for keys that were pressed."""

    def frame(self, frame: TopFrame) -> None:
        """Called once for each interval."""
