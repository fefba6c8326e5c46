# SPDX-License-Identifier: GPL-2.0-only
"""events.decode: bytes of the kernel become events and totals, or are refused."""

from __future__ import annotations

import base64
import contextlib
import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import flow4, record, total_key

from wgtrace.errors import UndecodableRecordError
from wgtrace.events.decode import Decoder, device_of, handshake_time, kind_of, total
from wgtrace.events.invariants import Invariant
from wgtrace.events.reasons import Direction, HandshakeCode, KernelReason, Reason, SubReason
from wgtrace.events.types import (
    ConfigEvent,
    DeviceRef,
    DropEvent,
    DropTotal,
    Endpoint,
    Flow,
    HandshakeEvent,
    HandshakeTimes,
    HandshakeTotal,
    InvariantEvent,
    InvariantTotal,
    NftPlace,
    Packet,
    PacketEvent,
    PathEvent,
    PathTotal,
    PeerRef,
    Tai64n,
)
from wgtrace.events.wire import (
    DropEventWire,
    EventKind,
    HandshakeTimeKeyWire,
    HandshakeTimeWire,
    Hook,
    Layer,
    PacketWay,
    TotalKeyWire,
)

KEY, OTHER = bytes(range(32)), bytes(range(100, 132))
HERE = ip_address("198.51.100.1")
REASON_OFFSET: int = getattr(DropEventWire, "reason").offset  # noqa: B009  # mypy takes it for the value
REASONS = {0: "NOT_DROPPED_YET", 2: "NOT_SPECIFIED", 77: "QUEUE_PURGE"}
DECODER = Decoder(lambda address: f"wg_xmit+{address:#x}", REASONS)


def text(key: bytes) -> str:
    """A key as wg(8) prints it."""
    return base64.b64encode(key).decode()


def drop(reason: int = Reason.SRC_NOT_ALLOWED, **values: Any) -> bytes:
    """A drop record."""
    return record(EventKind.DROP, reason=reason, **values)


def decoded(data: bytes) -> DropEvent:
    """The drop in a record."""
    event = DECODER.event(data)
    assert isinstance(event, DropEvent)
    return event


DEVICE = {"ifname": b"wg0", "netns": 4026531840, "ifindex": 7}
PEER = {
    "public_key": KEY,
    "endpoint_addr": ip_address("203.0.113.9").packed,
    "endpoint_port": 51820,
    "endpoint_family": 4,
    "known": 1,
}
FULL_DROP = drop(
    device=DEVICE,
    peer=PEER,
    inner=flow4("10.9.4.7", "10.9.0.1", 6, 52114, 443, 84),
    outer=flow4("203.0.113.9", "198.51.100.1", 17, 51820, 41641, 144),
    location=0x1C4,
    nonce=17,
    max_nonce=23,
    session_age_ns=187_000_000_000,
    kernel_reason=77,
    receiver_index=0x1234ABCD,
    sender_index=5,
    queue_len=129,
    err=-101,
    sub_reason=SubReason.OWNED_BY_OTHER_PEER,
    message_type=4,
    other_key=OTHER,
    timestamp=struct.pack(">QI", 4611686018427387914 + 1_795_349_051, 203_000_417),
    latest_timestamp=struct.pack(">QI", 4611686018427387914, 0),
    payload=b"\x16\x03\x01",
    payload_len=3,
)
FULL = {
    EventKind.DROP: FULL_DROP,
    EventKind.HANDSHAKE: record(
        EventKind.HANDSHAKE,
        device=DEVICE,
        peer=PEER,
        sender_index=5,
        receiver_index=6,
        attempt=2,
        code=HandshakeCode.REKEY_REQUESTED,
        message_ns=22,
        latency_ns=105_000_000,
        session_age_ns=121_000_000_000,
        inner=flow4("10.9.0.1", "10.9.0.2", 17, 4000, 53, 60),
        source=bytes([198, 51, 100, 1]),
        out_ifname=b"eth0",
        queue_len=3,
        sub_reason=SubReason.KEY_OLD,
    ),
    EventKind.PACKET: record(
        EventKind.PACKET,
        device=DEVICE,
        peer=PEER,
        outer=flow4("203.0.113.9", "198.51.100.1", 17, 51820, 41641, 144),
        nonce=17,
        receiver_index=6,
        len=116,
        way=PacketWay.ARRIVED,
    ),
    EventKind.CONFIG: record(EventKind.CONFIG, pid=4242, comm=b"wg"),
    EventKind.INVARIANT: record(
        EventKind.INVARIANT,
        device=DEVICE,
        peer=PEER,
        inner=flow4("10.9.0.1", "10.9.0.2", 17, 4000, 53, 41),
        found=3,
        stack=(0x1C4, 0x2A0, *[0] * 10),
        code=Invariant.PADDING_ZERO,
        len=7,
    ),
    EventKind.PATH: record(
        EventKind.PATH,
        device=DEVICE,
        peer=PEER,
        location=0x1C4,
        table_handle=5,
        rule_handle=12,
        table=b"filter",
        chain=b"in",
        ifname=b"eth0",
        netns=4026531840,
        kernel_reason=2,
        layer=2,
        hook=2,
        rule=1,
        table_family=1,
        message_type=4,
        matched=1,
    ),
}


def test_a_full_drop() -> None:
    """Every field of a drop arrives, in the types that the rest of wgtrace uses."""
    assert decoded(FULL_DROP) == DropEvent(
        ts_ns=23,
        device=DeviceRef("wg0", 4026531840, 7),
        reason=Reason.SRC_NOT_ALLOWED,
        sub_reason=SubReason.OWNED_BY_OTHER_PEER,
        peer=PeerRef(text(KEY), Endpoint(ip_address("203.0.113.9"), 51820)),
        inner=Flow(ip_address("10.9.4.7"), ip_address("10.9.0.1"), 6, 52114, 443, 84),
        outer=Flow(ip_address("203.0.113.9"), HERE, 17, 51820, 41641, 144),
        where="wg_xmit+0x1c4",
        kernel_reason="QUEUE_PURGE",
        nonce=17,
        max_nonce=23,
        session_age_ns=187_000_000_000,
        receiver_index=0x1234ABCD,
        sender_index=5,
        queue_len=129,
        errno=101,
        message_type=4,
        owner=text(OTHER),
        timestamp=Tai64n(1_795_349_051_203_000_417),
        latest_timestamp=Tai64n(0),
        payload=b"\x16\x03\x01",
        payload_len=3,
        matched=False,
    )


def test_an_empty_drop() -> None:
    """What is all zero is not known: None or empty, never an address or a key of zeros."""
    assert decoded(drop(Reason.BAD_HEADER)) == DropEvent(
        23, DeviceRef("", 0, 0), Reason.BAD_HEADER, matched=False
    )


@pytest.mark.parametrize(("layer", "is_inner"), [(Layer.INNER, True), (Layer.OUTER, False)])
def test_a_packet_follows_its_record(layer: Layer, is_inner: bool) -> None:
    """So many bytes behind the record as it says are the packet's; the room behind them is not."""
    bare = drop(packet_len=1400, captured_len=5, captured_layer=layer, matched=1)

    event = decoded(bare + b"\x45\x00\x05\x78\x01" + b"something old")

    assert event.packet == Packet(is_inner, 1400, b"\x45\x00\x05\x78\x01")
    assert event.matched


def test_a_packet_without_bytes() -> None:
    """Where no byte is known the length may be."""
    assert decoded(drop(packet_len=148)).packet == Packet(False, 148, b"")


def test_a_packet_that_is_cut_off_is_refused() -> None:
    """A record that says more bytes of a packet than there are is none."""
    with pytest.raises(UndecodableRecordError):
        decoded(drop(packet_len=1400, captured_len=5) + b"\x45\x00\x05\x78")


def test_a_full_handshake() -> None:
    """Every field of a handshake step arrives."""
    assert DECODER.event(FULL[EventKind.HANDSHAKE]) == HandshakeEvent(
        ts_ns=23,
        device=DeviceRef("wg0", 4026531840, 7),
        code=HandshakeCode.REKEY_REQUESTED,
        peer=PeerRef(text(KEY), Endpoint(ip_address("203.0.113.9"), 51820)),
        sender_index=5,
        receiver_index=6,
        attempt=2,
        message_ns=22,
        latency_ns=105_000_000,
        session_age_ns=121_000_000_000,
        inner=Flow(ip_address("10.9.0.1"), ip_address("10.9.0.2"), 17, 4000, 53, 60),
        source=HERE,
        out_ifname="eth0",
        queue_len=3,
        sub_reason=SubReason.KEY_OLD,
    )


def test_a_data_message() -> None:
    """Of a data message it is told which way it went, its counter, its length and where it came from."""
    assert DECODER.event(FULL[EventKind.PACKET]) == PacketEvent(
        ts_ns=23,
        device=DeviceRef("wg0", 4026531840, 7),
        way=PacketWay.ARRIVED,
        receiver_index=6,
        nonce=17,
        length=116,
        peer=PeerRef(text(KEY), Endpoint(ip_address("203.0.113.9"), 51820)),
        outer=Flow(ip_address("203.0.113.9"), HERE, 17, 51820, 41641, 144),
    )


def test_a_violated_invariant() -> None:
    """What was found in place of what, the packet, and the functions that led there, without the rest."""
    assert DECODER.event(FULL[EventKind.INVARIANT]) == InvariantEvent(
        ts_ns=23,
        device=DeviceRef("wg0", 4026531840, 7),
        invariant=Invariant.PADDING_ZERO,
        peer=PeerRef(text(KEY), Endpoint(ip_address("203.0.113.9"), 51820)),
        expected=0,
        found=3,
        inner=Flow(ip_address("10.9.0.1"), ip_address("10.9.0.2"), 17, 4000, 53, 41),
        length=7,
        stack=(DECODER.describe(0x1C4), DECODER.describe(0x2A0)),
    )


@pytest.mark.parametrize("holds", [True, False])
def test_a_total_of_an_invariant(holds: bool) -> None:
    """How often it held and how often not are two totals."""
    key = total_key(
        ifname=b"wg0", netns=7, kind=EventKind.INVARIANT, code=3, matched=holds, peer_known=1, public_key=KEY
    )
    assert total(key, 23) == InvariantTotal("wg0", 7, Invariant.TSTAMP_TYPE, holds, text(KEY), 23)


def test_a_source_address_has_the_family_of_the_endpoint() -> None:
    """16 bytes for an IPv6 endpoint; without an endpoint it cannot be told."""
    v6 = {"endpoint_family": 6, "endpoint_addr": ip_address("2001:db8::3").packed, "known": 1}
    given = {"code": HandshakeCode.ROUTE_FOUND, "source": ip_address("2001:db8::1").packed}
    for peer, source in ((v6, ip_address("2001:db8::1")), ({"known": 1}, None)):
        event = DECODER.event(record(EventKind.HANDSHAKE, peer=peer, **given))
        assert isinstance(event, HandshakeEvent)
        assert event.source == source


def test_times_of_handshakes_are_summed_over_the_cpus() -> None:
    """Counts and sums are added, and the longest is the longest of all; a short key is refused."""
    key = HandshakeTimeKeyWire(netns=7, role=SubReason.RESPONDER, bucket=27)
    key.ifname[:3], key.public_key[:] = list(b"wg0"), list(KEY)
    values = [bytes(HandshakeTimeWire(2, 210, 110)), bytes(HandshakeTimeWire(1, 120, 120))]

    assert handshake_time(bytes(key), values) == HandshakeTimes(
        "wg0", 7, text(KEY), SubReason.RESPONDER, 27, 3, 330, 120
    )
    with pytest.raises(UndecodableRecordError):
        handshake_time(bytes(key)[:-1], values)


def test_a_full_config_event() -> None:
    """Who configured an interface arrives."""
    assert DECODER.event(FULL[EventKind.CONFIG]) == ConfigEvent(23, 4242, "wg")


def test_ipv6_addresses() -> None:
    """Addresses of family 6 take all 16 bytes."""
    inner = {"saddr": ip_address("fd00::9").packed, "daddr": ip_address("fd00::1").packed, "family": 6}
    peer = {**PEER, "endpoint_addr": ip_address("2001:db8::3").packed, "endpoint_family": 6}

    event = decoded(drop(inner={**inner, "proto": 17, "sport": 53}, peer=peer))

    assert event.inner == Flow(ip_address("fd00::9"), ip_address("fd00::1"), 17, 53, 0, 0)
    assert event.peer == PeerRef(text(KEY), Endpoint(ip_address("2001:db8::3"), 51820))


def test_a_peer_without_endpoint() -> None:
    """A peer of which no endpoint is known has none."""
    assert decoded(drop(peer={"public_key": KEY, "known": 1})).peer == PeerRef(text(KEY))


@pytest.mark.parametrize(
    ("reason", "owner", "unknown"),
    [
        (Reason.SRC_NOT_ALLOWED, text(OTHER), None),
        (Reason.UNKNOWN_PEER_PUBKEY, None, text(OTHER)),
        (Reason.BAD_HEADER, None, None),
    ],
)
def test_the_other_key_means_what_the_reason_says(
    reason: Reason, owner: str | None, unknown: str | None
) -> None:
    """The second key of a record is the source's owner, or who knocked, and nothing elsewhere."""
    event = decoded(drop(reason, other_key=OTHER))

    assert (event.owner, event.unknown_public_key) == (owner, unknown)


@pytest.mark.parametrize(
    ("number", "name"), [(0, None), (2, None), (77, "QUEUE_PURGE"), (4_000_000_000, None)]
)
def test_kernel_reasons(number: int, name: str | None) -> None:
    """The running kernel's reason is named; none, NOT_SPECIFIED and one without a name are no reason."""
    assert decoded(drop(kernel_reason=number)).kernel_reason == name


def test_a_long_payload_is_cut_and_its_length_is_kept() -> None:
    """At most the first 16 bytes of a datagram are there; its whole length still is."""
    event = decoded(drop(Reason.BAD_HEADER, payload=b"abcdefghijklmnop", payload_len=1400))

    assert (event.payload, event.payload_len) == (b"abcdefghijklmnop", 1400)


def test_names_that_are_no_text() -> None:
    """A name of 15 bytes is whole, and what is no UTF-8 does not break the event."""
    assert decoded(drop(device={"ifname": b"wg-a-long-name0"})).device.ifname == "wg-a-long-name0"
    assert decoded(drop(device={"ifname": b"\xff\xfewg\0junk"})).device.ifname == "\ufffd\ufffdwg"


def test_without_help_the_place_is_an_address() -> None:
    """A decoder that is told no symbols still tells the place."""
    event = Decoder().event(FULL_DROP)

    assert isinstance(event, DropEvent)
    assert (event.where, event.kernel_reason) == ("0x1c4", None)


@pytest.mark.parametrize("kind", sorted(FULL))
def test_every_prefix_is_refused(kind: EventKind) -> None:
    """A record cut anywhere is refused, never read beyond its end."""
    whole = FULL[kind]

    for length in range(len(whole)):
        with pytest.raises(UndecodableRecordError):
            DECODER.event(whole[:length])


@pytest.mark.parametrize("kind", sorted(FULL))
def test_a_longer_record_of_a_later_version_is_read(kind: EventKind) -> None:
    """Fields are only appended: what follows the ones known here is skipped."""
    whole = bytearray(FULL[kind] + bytes(8))
    struct.pack_into("<H", whole, 14, len(whole))

    assert DECODER.event(bytes(whole)) == DECODER.event(FULL[kind])


@pytest.mark.parametrize("kind", sorted(FULL))
def test_a_length_beyond_the_record_is_refused(kind: EventKind) -> None:
    """A header that says more than there is was not written by these programs."""
    whole = bytearray(FULL[kind])
    struct.pack_into("<H", whole, 14, len(whole) + 1)

    with pytest.raises(UndecodableRecordError):
        DECODER.event(bytes(whole))


@pytest.mark.parametrize("unknown", [0, 5, 65_535])
def test_an_unknown_kind_is_refused(unknown: int) -> None:
    """A kind that this version does not know is counted, not guessed."""
    whole = bytearray(FULL_DROP)
    struct.pack_into("<H", whole, 12, unknown)

    with pytest.raises(UndecodableRecordError, match="no event"):
        DECODER.event(bytes(whole))


@pytest.mark.parametrize(
    "data",
    [
        drop(0),
        drop(19),
        drop(96),
        drop(Reason.BAD_HEADER, sub_reason=7),
        record(EventKind.HANDSHAKE, code=0),
        record(EventKind.HANDSHAKE, code=20),
        record(EventKind.HANDSHAKE, code=1, sub_reason=8),
    ],
)
def test_unknown_codes_are_refused(data: bytes) -> None:
    """A reason, sub-reason or step that this version does not know is counted, not guessed."""
    with pytest.raises(UndecodableRecordError):
        DECODER.event(data)


def _never_crashes(decode: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(UndecodableRecordError):
        decode(data)


@given(data=st.binary(max_size=400))  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
def test_random_bytes_never_crash(data: bytes) -> None:
    """Whatever the bytes, there is an event or the one error."""
    _never_crashes(DECODER.event, data)
    _never_crashes(lambda key: total(key, 1), data)


@given(data=st.data())  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
def test_random_bytes_behind_a_good_header_never_crash(data: st.DataObject) -> None:
    """Whatever a record of the right kind and length holds, there is an event or the one error."""
    kind = data.draw(st.sampled_from(sorted(FULL)))
    whole = bytearray(FULL[kind])
    body = data.draw(st.binary(min_size=len(whole) - 16, max_size=len(whole) - 16))
    if kind is EventKind.DROP and data.draw(st.booleans()):
        reason = REASON_OFFSET - 16  # else hardly one would be a reason
        body = body[:reason] + struct.pack("<HB", Reason.BAD_HEADER, 0) + body[reason + 3 :]
    whole[16:] = body

    _never_crashes(DECODER.event, bytes(whole))


def key_of(**values: Any) -> bytes:
    """A key of the map `totals`, of wg0."""
    return total_key(ifname=b"wg0", netns=7, **values)


def test_totals_of_drops() -> None:
    """A drop's total has its interface, reason and peer; without a peer it has no key."""
    kinds: dict[str, Any] = {"kind": EventKind.DROP, "code": Reason.BAD_HEADER, "sub_reason": 4}
    with_peer = key_of(**kinds, peer_known=1, public_key=KEY)

    assert total(with_peer, 23) == DropTotal(
        "wg0", 7, Reason.BAD_HEADER, SubReason.UNKNOWN_TYPE, text(KEY), 23, matched=False
    )
    assert total(key_of(**kinds, matched=1), 23) == DropTotal(
        "wg0", 7, Reason.BAD_HEADER, SubReason.UNKNOWN_TYPE, None, 23
    )


def test_totals_of_handshakes() -> None:
    """A handshake's total has its step and peer."""
    key = key_of(kind=EventKind.HANDSHAKE, code=HandshakeCode.INIT_SENT, peer_known=1, public_key=KEY)

    assert total(key, 7) == HandshakeTotal("wg0", 7, HandshakeCode.INIT_SENT, text(KEY), 7)


def test_totals_of_waits() -> None:
    """A wait for a handshake says what is wrong with the key."""
    code, sub = HandshakeCode.STAGED_WAIT, SubReason.KEY_ABSENT
    key = key_of(kind=EventKind.HANDSHAKE, code=code, sub_reason=sub, peer_known=1, public_key=KEY)

    assert total(key, 7) == HandshakeTotal("wg0", 7, code, text(KEY), 7, sub)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        key_of(kind=EventKind.DROP, code=Reason.BAD_HEADER)[:-1],
        key_of(kind=9, code=Reason.BAD_HEADER),
        key_of(kind=EventKind.DROP, code=20),
        key_of(kind=EventKind.DROP, code=Reason.BAD_HEADER, sub_reason=7),
        key_of(kind=EventKind.HANDSHAKE, code=20),
        key_of(kind=EventKind.CONFIG, code=HandshakeCode.INIT_SENT),
    ],
)
def test_keys_that_are_no_totals_are_refused(key: bytes) -> None:
    """A short key, an unknown kind or code is refused; so is a kind of which there are no totals."""
    with pytest.raises(UndecodableRecordError):
        total(key, 1)


@pytest.mark.parametrize("kind", sorted(FULL))
def test_kind_and_interface_are_read_without_decoding(kind: EventKind) -> None:
    """As decoding has them; a record that is cut has no interface, one too short no kind."""
    layer = {"layer": Layer.INNER} if kind is EventKind.PATH else {}
    fields = {} if kind is EventKind.CONFIG else {**layer, "device": {"ifname": b"wg7", "netns": 4026531840}}
    data = record(kind, **fields)

    assert kind_of(data) == kind
    assert device_of(data) == (None if kind is EventKind.CONFIG else ("wg7", 4026531840))
    assert device_of(data[:39]) is None
    assert (kind_of(data[:15]), device_of(b"")) == (0, None)


def test_a_drop_outside_of_wireguard() -> None:
    """Which packet, which way, where, by which rule; the reason is the kernel's own."""
    event = DECODER.event(FULL[EventKind.PATH])

    assert isinstance(event, PathEvent)
    assert event.reason == KernelReason(DECODER.kernel_reasons[2].lower(), Direction.RX)
    assert event.reason.id == event.kernel_reason.lower()
    assert (event.is_inner, event.hook, event.ifname, event.message_type) == (False, Hook.INPUT, "eth0", 4)
    assert event.nft == NftPlace(1, "filter", 5, "in", 12)


def test_without_a_rule_none_is_named() -> None:
    """What the kernel left in the fields of a rule is not told if there is none."""
    whole = record(EventKind.PATH, layer=1, outgoing=1, table=b"filter", rule_handle=12)
    event = DECODER.event(whole)

    assert isinstance(event, PathEvent)
    assert (event.nft, event.reason.direction, event.is_inner) == (None, Direction.TX, True)


def test_a_layer_that_there_is_not_is_refused() -> None:
    """Neither the inner packet nor the datagram: these programs did not write it."""
    with pytest.raises(UndecodableRecordError):
        DECODER.event(record(EventKind.PATH, layer=3))


def test_a_reason_of_a_subsystem_has_both_halves() -> None:
    """A total's key has no room for 32 bits in one place."""
    wire = TotalKeyWire(kind=EventKind.PATH, code=2, subsystem=3, layer=2, outgoing=1, sub_reason=6)
    named = {3 << 16 | 2: "QDISC_DROP_OVERLIMIT"}
    found = total(bytes(wire), 23, named)

    assert isinstance(found, PathTotal)
    assert (found.reason, found.count) == (KernelReason("qdisc_drop_overlimit", Direction.TX), 23)
    assert (found.is_inner, found.family, found.public_key) == (False, 6, None)
