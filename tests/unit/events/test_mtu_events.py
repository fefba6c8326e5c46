# SPDX-License-Identifier: GPL-2.0-only
"""Records of `wgtrace mtu`, its totals and its sizes."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from factories import BERLIN, NETNS, endpoint
from hypothesis import given
from hypothesis import strategies as st
from mtu_data import mtu_key, mtu_record, sizes_value
from records import flow4, total_key

from wgtrace.errors import UndecodableRecordError
from wgtrace.events.decode import Decoder
from wgtrace.events.mtu import EVENT_IDS, MtuTotal, Sizes, endpoint_entry, mtu_total, sizes
from wgtrace.events.types import DeviceRef
from wgtrace.events.wire import EndpointKeyWire, EndpointWire, EventKind, Layer, MtuCode, MtuOf

DECODER = Decoder(lambda address: f"ip_expire+{address:#x}", {2: "NOT_SPECIFIED", 82: "FRAG_REASM_TIMEOUT"})


def test_every_field_of_a_record() -> None:
    """As the program wrote it; who told is of the datagram's family."""
    event = DECODER.mtu_event(
        mtu_record(
            MtuCode.TOO_BIG_RECEIVED,
            outer=flow4("198.51.100.1", "203.0.113.9", 17, 51820, 51820, 1480),
            origin=ip_address("192.0.2.1").packed,
            ifname=b"eth0",
            netns=7,
            mtu=1300,
            size=1480,
            of=MtuOf.ICMP,
        )
    )

    assert (event.ts_ns, event.id, event.device) == (
        *(23, "outer_frag_needed_received"),
        DeviceRef("wg0", NETNS, 7),
    )
    assert (event.mtu, event.mtu_of, event.size, event.origin) == (
        1300,
        MtuOf.ICMP,
        1480,
        ip_address("192.0.2.1"),
    )
    assert (event.ifname, event.netns, event.is_inner, event.outgoing) == ("eth0", 7, False, True)
    assert event.peer is not None
    assert (event.peer.public_key, event.flow, event.inner) == (BERLIN, event.outer, None)


@pytest.mark.parametrize(
    ("more", "id_"),
    [
        ({"location": 16}, "outer_reasm_timeout"),
        ({"kernel_reason": 82}, "outer_reasm_timeout"),
        ({}, "outer_fragment_lost"),
    ],
)
def test_fragments_by_their_fate(more: dict[str, int], id_: str) -> None:
    """By the kernel's reason, or where it has none by who freed them."""
    assert DECODER.mtu_event(mtu_record(MtuCode.FRAGMENT_LOST, **more)).id == id_


def test_a_fragment_that_reassembly_refuses() -> None:
    """It is dropped where fragments are put together."""
    decoder = Decoder(lambda _address: "ip_defrag+0x2", {})
    assert decoder.mtu_event(mtu_record(MtuCode.FRAGMENT_LOST, location=1)).id == "outer_reasm_dropped"


def test_every_code_has_an_id() -> None:
    """And all of them are listed."""
    for code in MtuCode:
        assert DECODER.mtu_event(mtu_record(code, layer=Layer.INNER)).id in EVENT_IDS


@given(data=st.binary(max_size=300))  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
def test_random_bytes_never_crash(data: bytes) -> None:
    """Whatever the bytes, there is what they say or the one error."""
    header = mtu_record(MtuCode.FRAGMENT_LOST)[:16]
    for read in (
        DECODER.mtu_event,
        lambda raw: DECODER.mtu_event(header + raw),
        sizes,
        lambda k: mtu_total(k, 1),
    ):
        try:
            read(data)
        except UndecodableRecordError:
            continue


def test_no_other_record_is_read() -> None:
    """One of another kind, or one that is cut."""
    whole = mtu_record(MtuCode.FRAGMENT_LOST)
    for wrong in (whole[:-1], whole[:12] + b"\x01\0" + whole[14:], b""):
        with pytest.raises(UndecodableRecordError):
            DECODER.mtu_event(wrong)


def test_totals() -> None:
    """With the peer, if there is one."""
    assert mtu_total(mtu_key(MtuCode.OUTER_FRAGMENTED), 23) == MtuTotal(
        "wg0", NETNS, MtuCode.OUTER_FRAGMENTED, True, BERLIN, 23
    )
    assert mtu_total(mtu_key(MtuCode.FRAGMENT_LOST, outgoing=0, peer_known=0), 7).public_key is None
    with pytest.raises(UndecodableRecordError):
        mtu_total(total_key(kind=EventKind.DROP, code=1), 1)


def test_sizes() -> None:
    """Of a peer; one that was only just made is none yet."""
    whole: dict[str, Any] = {"sent": 1420, "passed": 1028, "failed": 1400, "failures": 3, "received": 1300}
    times = {"first_failed_ns": 5, "failed_ns": 7, "heard_ns": 11}

    assert sizes(sizes_value(**whole, **times)) == Sizes(DeviceRef("wg0", NETNS, 7), BERLIN, **whole, **times)
    assert sizes(sizes_value(device={"ifindex": 0})) is None
    with pytest.raises(UndecodableRecordError):
        sizes(b"\0" * 7)


@pytest.mark.parametrize("at", ["203.0.113.9:51820", "[2001:db8::3]:4500"])
def test_an_endpoint_for_the_programs(at: str) -> None:
    """By address and namespace of the socket; it says which interface and peer that is."""
    where = endpoint(at)
    raw_key, raw_value = endpoint_entry(17, DeviceRef("wg0", NETNS, 7), BERLIN, where)
    key, value = EndpointKeyWire.from_buffer_copy(raw_key), EndpointWire.from_buffer_copy(raw_value)

    assert (key.netns, key.family) == (17, where.addr.version)
    assert bytes(key.addr).startswith(where.addr.packed)
    assert (bytes(value.device.ifname)[:4], value.device.netns, value.device.ifindex) == (b"wg0\0", NETNS, 7)
    assert (value.peer.known, value.peer.endpoint_port) == (1, where.port)
