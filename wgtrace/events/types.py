# SPDX-License-Identifier: GPL-2.0-only
"""What happened, typed. No kernel, no I/O, nothing that is not plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar, dataclass_transform

from wgtrace.events.invariants import Invariant
from wgtrace.events.reasons import HandshakeCode, KernelReason, Reason, SubReason
from wgtrace.events.wire import Hook, Loss, PacketWay, RuleFound

IPAddress = IPv4Address | IPv6Address
_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def made_often(cls: type[_T]) -> type[_T]:
    """A dataclass for what each packet makes anew: frozen for mypy only.

    One that Python holds frozen takes eight times as long to make (25 fields: 2.5 µs, 0.3 µs).
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@lru_cache(4096)  # a flood repeats them
def address_text(addr: IPAddress) -> str:
    """The address as text."""
    return str(addr)


@made_often
class Flow:
    """Addresses of one IP packet.

    Attributes:
        proto: IPPROTO number.
        sport: Source port in host order, the identifier of an ICMP echo, or 0.
        dport: Destination port in host order, or 0.
        len: Length of the IP packet in bytes, 0 if not known.
    """

    saddr: IPAddress
    daddr: IPAddress
    proto: int
    sport: int
    dport: int
    len: int

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.saddr.version


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A peer's UDP address, printed as wg(8) does."""

    addr: IPAddress
    port: int

    def __str__(self) -> str:
        if self.addr.version == 6:
            return f"[{address_text(self.addr)}]:{self.port}"
        return f"{address_text(self.addr)}:{self.port}"


@dataclass(frozen=True, slots=True)
class PeerRef:
    """The peer that an event belongs to, as the kernel had it at that moment.

    Attributes:
        public_key: Base64, as wg(8) prints it.
        endpoint: Where its packets went at that moment, if anywhere.
        name: From `# Name =` comments or --names; None until enriched.
    """

    public_key: str
    endpoint: Endpoint | None = None
    name: str | None = None

    def __hash__(self) -> int:
        return hash(self.public_key)  # quick, and tells peers apart


@dataclass(frozen=True, slots=True)
class DeviceRef:
    """The WireGuard interface that an event belongs to.

    Attributes:
        netns: Inode number of its network namespace, 0 if not known.
        ifname: "" when it could not be told which interface.
    """

    ifname: str
    netns: int
    ifindex: int


@dataclass(frozen=True, slots=True)
class Tai64n:
    """A TAI64N time as an initiation carries it (12 bytes), in nanoseconds UTC."""

    unix_ns: int


@dataclass(frozen=True, slots=True)
class Packet:
    """First bytes of a packet as WireGuard freed it, from the IP header on.

    Attributes:
        is_inner: The packet inside the tunnel, else the UDP datagram around it.
        length: Of the whole packet, bytes.
        data: As much of it as was taken; b"" where its bytes are not known.
    """

    is_inner: bool
    length: int
    data: bytes


@made_often
class DropEvent:
    """`struct wgt_drop_event`: WireGuard dropped or refused a packet.

    Attributes:
        ts_ns: CLOCK_BOOTTIME.
        where: Kernel function and offset that freed it, such as
            `wg_packet_rx_poll+0x1c4`, or the function that refused it.
        kernel_reason: Name of the kernel's own skb drop reason, None if none.
        owner: src_not_allowed: base64 public key of the peer that has the
            source address; None: nobody has.
        unknown_public_key: unknown_peer_pubkey: the key that knocked, base64.
        errno: Positive errno of a failed send, 0 if not known.
        message_type: 1 initiation, 2 response, 3 cookie, 4 data, 0 not known.
        timestamp: Time in this initiation; `latest_timestamp`: in the last one
            accepted from this peer.
        payload: bad_header: first bytes (at most 16) of the UDP payload.
        payload_len: bad_header: whole UDP payload in bytes.
        packet: Its first bytes, where the run was asked for them (-w).
        matched: False for one that was not asked for: a sample, for diagnosis.
    """

    ts_ns: int
    device: DeviceRef
    reason: Reason
    sub_reason: SubReason = SubReason.NONE
    peer: PeerRef | None = None
    inner: Flow | None = None
    outer: Flow | None = None
    where: str = ""
    kernel_reason: str | None = None
    nonce: int = 0
    max_nonce: int = 0
    session_age_ns: int = 0
    receiver_index: int = 0
    sender_index: int = 0
    queue_len: int = 0
    errno: int = 0
    message_type: int = 0
    owner: str | None = None
    unknown_public_key: str | None = None
    timestamp: Tai64n | None = None
    latest_timestamp: Tai64n | None = None
    payload: bytes = b""
    payload_len: int = 0
    packet: Packet | None = None
    matched: bool = True


@dataclass(frozen=True, slots=True)
class HandshakeEvent:
    """`struct wgt_handshake_event`: a handshake took a step.

    Attributes:
        message_ns: CLOCK_BOOTTIME, of a message sent: before it left; of one received:
            after it came; 0: not known.
        attempt: retry: 1 is the first one.
        sub_reason: Why it is asked for, why keys are cleared, or whether this is
            the session's INITIATOR or its RESPONDER.
        latency_ns: handshake_complete: since the initiation was made, or came in; 0: not known.
        session_age_ns: Of the session that is, or was, sent with.
        inner: rekey_requested: the packet that waits longest, None for a keepalive. icmp_error: the
            datagram that was sent; its peer is not told.
        source: route_found: the address that is sent from, by the interface `out_ifname`.
            icmp_error and unreachable: who says so.
        queue_len: Packets that wait for a session.
        icmp: icmp_error: type and code, of ICMPv6 where `inner` is IPv6.
        message_type: icmp_error: of the message that was sent, 0: not told.
    """

    ts_ns: int
    device: DeviceRef
    code: HandshakeCode
    peer: PeerRef | None = None
    sender_index: int = 0
    receiver_index: int = 0
    attempt: int = 0
    message_ns: int = 0
    sub_reason: SubReason = SubReason.NONE
    latency_ns: int = 0
    session_age_ns: int = 0
    inner: Flow | None = None
    source: IPAddress | None = None
    out_ifname: str = ""
    queue_len: int = 0
    icmp: tuple[int, int] | None = None
    message_type: int = 0


@dataclass(frozen=True, slots=True)
class ConfigEvent:
    """`struct wgt_config_event`: a process configured some WireGuard interface."""

    ts_ns: int
    pid: int
    comm: str


@dataclass(frozen=True, slots=True)
class PacketEvent:
    """`struct wgt_packet_event`: a data message left or arrived, one in so many.

    Attributes:
        ts_ns: CLOCK_BOOTTIME, before it left or after it arrived.
        outer: Of one that arrived.
        length: Of the message, bytes.
    """

    ts_ns: int
    device: DeviceRef
    way: PacketWay
    receiver_index: int
    nonce: int
    length: int
    peer: PeerRef | None = None
    outer: Flow | None = None


@dataclass(frozen=True, slots=True)
class NftPlace:
    """Where in nft's rules a packet was dropped.

    Attributes:
        family: NFPROTO number of the table, 0 if not known.
        table_handle: No other table of the namespace ever has it.
        handle: Of the rule; no other rule of the table ever has it.
    """

    family: int
    table: str
    table_handle: int
    chain: str
    handle: int


@dataclass(frozen=True, slots=True)
class PathEvent:
    """`struct wgt_path_event`: a packet of a tunnel was dropped, and not by WireGuard.

    Attributes:
        ts_ns: CLOCK_BOOTTIME.
        is_inner: The plain packet, before encryption or after decryption; else the datagram.
        hook: Where netfilter dropped it, NONE: something else did.
        found: Whether a rule of nft dropped it, and whether `nft` is that rule.
        ifname: The device that it was at, "" if at none.
        netns: Inode of the namespace where that was.
        mark: Of the packet.
        message_type: 1 initiation, 2 response, 3 cookie, 4 data, 0 not known or inner.
        matched: False for one that was not asked for: a sample, for diagnosis.
    """

    ts_ns: int
    device: DeviceRef
    reason: KernelReason
    is_inner: bool
    peer: PeerRef | None = None
    inner: Flow | None = None
    outer: Flow | None = None
    where: str = ""
    hook: Hook = Hook.NONE
    found: RuleFound = RuleFound.NONE
    nft: NftPlace | None = None
    ifname: str = ""
    netns: int = 0
    mark: int = 0
    receiver_index: int = 0
    message_type: int = 0
    matched: bool = True
    packet: Packet | None = None
    sub_reason: SubReason = SubReason.NONE

    @property
    def kernel_reason(self) -> str:
        """As `DropEvent` has it."""
        return self.reason.id.upper()

    @property
    def flow(self) -> Flow | None:
        """Of the packet that died."""
        return self.inner if self.is_inner else self.outer


@dataclass(frozen=True, slots=True)
class InvariantEvent:
    """`struct wgt_invariant_event`: what holds on every sound kernel did not.

    Attributes:
        ts_ns: CLOCK_BOOTTIME.
        expected: And `found`: as bpf/events.h has them, by invariant.
        inner: padding_zero: the packet.
        length: padding_zero: of the padding, bytes.
        stack: Kernel functions and offsets that led there, the innermost first.
    """

    ts_ns: int
    device: DeviceRef
    invariant: Invariant
    peer: PeerRef | None
    expected: int
    found: int
    inner: Flow | None = None
    length: int = 0
    stack: tuple[str, ...] = ()


Event = DropEvent | PathEvent | HandshakeEvent | ConfigEvent | PacketEvent | InvariantEvent


@dataclass(frozen=True, slots=True)
class DropTotal:
    """One exact total from the kernel: drops since the start.

    Attributes:
        public_key: Base64 of the peer, None where no peer is knowable.
        matched: Whether the kernel's filter asks for these; one kind may be there both ways.
    """

    ifname: str
    netns: int
    reason: Reason
    sub_reason: SubReason
    public_key: str | None
    count: int
    matched: bool = True


@dataclass(frozen=True, slots=True)
class PathTotal:
    """One exact total from the kernel: packets of a tunnel dropped outside of WireGuard.

    Attributes:
        public_key: As in `DropTotal`, and `matched` too.
        family: 4 or 6, of the packet that died.
    """

    ifname: str
    netns: int
    reason: KernelReason
    is_inner: bool
    hook: Hook
    found: RuleFound
    family: int
    public_key: str | None
    count: int
    matched: bool = True
    sub_reason: SubReason = SubReason.NONE


@dataclass(frozen=True, slots=True)
class HandshakeTotal:
    """One exact total from the kernel: handshake steps, or waits for one, since the start.

    Attributes:
        sub_reason: staged_wait: what is wrong with the session's key.
    """

    ifname: str
    netns: int
    code: HandshakeCode
    public_key: str | None
    count: int
    sub_reason: SubReason = SubReason.NONE


@dataclass(frozen=True, slots=True)
class InvariantTotal:
    """One exact total from the kernel: how often an invariant was looked at, since the start.

    Attributes:
        holds: Whether it held.
    """

    ifname: str
    netns: int
    invariant: Invariant
    holds: bool
    public_key: str | None
    count: int


@dataclass(frozen=True, slots=True)
class HandshakeTimes:
    """One bucket of the kernel's histogram of how long handshakes took, since the start.

    Attributes:
        role: SubReason.INITIATOR or SubReason.RESPONDER.
        bucket: As in `histogram.Histogram`, nanoseconds; `sum` and `max` are of what is in it.
    """

    ifname: str
    netns: int
    public_key: str
    role: SubReason
    bucket: int
    count: int
    sum: int
    max: int


@dataclass(frozen=True, slots=True)
class Losses:
    """What a run did not see or did not show. All counts since the start.

    Attributes:
        events: Records that found the ring buffer full.
        missed_probes: Program runs that the kernel skipped (recursion, kretprobe
            instances used up).
        undecodable: Records that are no event of this ABI.
        totals: Drops that found the totals map full: counted by reason only.
        unclassified: Packets freed in WireGuard at a place not in the catalogue.
        frames: Handshake exits seen without their entry.
        devices: Drops whose interface was not found: with IFACE they are not in the totals.
        handshake_times: Handshakes that are in no histogram: the map was full.
        rate_limited: Drops counted in the totals but not shown, by reason id.
    """

    events: int = 0
    missed_probes: int = 0
    undecodable: int = 0
    totals: int = 0
    unclassified: int = 0
    frames: int = 0
    devices: int = 0
    handshake_times: int = 0
    rate_limited: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counters:
    """What the programs counted beside the totals, since the start.

    Attributes:
        losses: By `enum wgt_loss`.
        limited: Drops counted but not shown, by reason.
        missed: Program runs that the kernel skipped.
        path_limited: As `limited`, of drops outside of WireGuard, by the kernel's reason.
    """

    losses: dict[Loss, int]
    limited: dict[Reason, int]
    missed: int
    path_limited: dict[int, int] = field(default_factory=dict)
