# SPDX-License-Identifier: GPL-2.0-only
"""Makes the very bytes that the programs hand over: ring-buffer records and keys of the totals."""

from __future__ import annotations

import ctypes
from ipaddress import ip_address
from typing import Any

from wgtrace.events.wire import RECORDS, EventKind, TotalKeyWire


def fill(wire: Any, values: dict[str, Any]) -> None:
    """Set fields by name; a nested dict is a struct, bytes begin an array."""
    for name, value in values.items():
        if isinstance(value, dict):
            fill(getattr(wire, name), value)
        elif isinstance(value, bytes):
            getattr(wire, name)[: len(value)] = list(value)
        else:
            setattr(wire, name, value)


def record(kind: EventKind, **values: Any) -> bytes:
    """A record of this kind, all zero but for its header and what is given."""
    wire = RECORDS[kind]()
    fill(wire, {"hdr": {"ts_ns": 23, "cpu": 1, "kind": kind, "len": ctypes.sizeof(wire)}, **values})
    return bytes(wire)


def flow4(saddr: str, daddr: str, *numbers: int) -> dict[str, Any]:
    """The fields of an IPv4 `struct wgt_flow`; `numbers` are proto, sport, dport, len."""
    addresses = {"saddr": ip_address(saddr).packed, "daddr": ip_address(daddr).packed, "family": 4}
    return {**addresses, **dict(zip(("proto", "sport", "dport", "len"), numbers, strict=True))}


def total_key(**values: Any) -> bytes:
    """A key of the map `totals`."""
    wire = TotalKeyWire()
    fill(wire, values)
    return bytes(wire)
