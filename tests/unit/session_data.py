# SPDX-License-Identifier: GPL-2.0-only
"""Entries of the map `sessions`, as the programs make them."""

from __future__ import annotations

import base64
import sys
from typing import Any

from factories import NETNS
from records import fill

from wgtrace.events.wire import QueuesWire, SessionWire


def session_entry(
    public_key: str, number: int = 1, ifname: str = "wg0", **fields: Any
) -> tuple[bytes, bytes]:
    """Key and value of a peer's session."""
    wire = SessionWire()
    where = {"ifname": b"wg0", "netns": NETNS, "ifindex": 7}
    fill(wire, {"device": where, "public_key": base64.b64decode(public_key), **fields})
    return number.to_bytes(8, sys.byteorder), bytes(wire)


def queues_entry(public_key: str, ts_ns: int, *counts: int) -> tuple[bytes, bytes]:
    """Key and value of what waits of a peer of wg0: staged, outgoing, incoming."""
    wire = QueuesWire()
    where = {"ifname": b"wg0", "netns": NETNS, "ifindex": 7}
    numbers = dict(zip(("staged", "outgoing", "incoming"), counts, strict=True))
    fill(wire, {"device": where, "public_key": base64.b64decode(public_key), "ts_ns": ts_ns, **numbers})
    return public_key.encode()[:8], bytes(wire)
