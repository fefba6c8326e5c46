# SPDX-License-Identifier: GPL-2.0-only
"""Makes the very bytes that the programs of `wgtrace mtu` hand over."""

from __future__ import annotations

import base64
import ctypes
from typing import Any

from factories import BERLIN, NETNS
from records import fill, total_key

from wgtrace.events.wire import EventKind, Layer, MtuCode, MtuEventWire, SizesWire

WG0: dict[str, Any] = {"ifname": b"wg0", "netns": NETNS, "ifindex": 7}


def whose(public_key: str = BERLIN) -> dict[str, Any]:
    """The fields of a `struct wgt_peer`."""
    return {"public_key": base64.b64decode(public_key), "known": 1}


def mtu_record(code: MtuCode, **more: Any) -> bytes:
    """A `struct wgt_mtu_event` of wg0 and berlin, about a datagram on its way out."""
    wire = MtuEventWire()
    header = {"ts_ns": 23, "kind": EventKind.MTU, "len": ctypes.sizeof(wire)}
    given = {"device": WG0, "peer": whose(), "layer": Layer.OUTER, "outgoing": 1, **more}
    fill(wire, {"hdr": header, "code": code, **given})
    return bytes(wire)


def mtu_key(code: MtuCode, **more: Any) -> bytes:
    """A key of the map `totals`."""
    key = base64.b64decode(BERLIN)
    given = {"ifname": b"wg0", "netns": NETNS, "peer_known": 1, "public_key": key, "outgoing": 1, **more}
    return total_key(kind=EventKind.MTU, code=code, **given)


def sizes_value(**more: Any) -> bytes:
    """A value of the map `sizes`."""
    wire = SizesWire()
    fill(wire, {"device": WG0, "public_key": base64.b64decode(BERLIN), **more})
    return bytes(wire)
