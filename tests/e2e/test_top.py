# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace top`: its figures are those of the traffic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scenes import received_bytes, wait_until
from tracer import Tracer

from wgtrace.lab.topology import Host, two_hosts

pytestmark = pytest.mark.soak  # a minute and more on an emulated machine

Line = dict[str, Any]
N = 23
REFUSED = 7


class Top(Tracer):
    """A running `wgtrace top --json`."""

    command = "top"


def _rows(tracer: Tracer, host: Host, public_key: str) -> list[Line]:
    """What each line until now says of a peer of a host, with the line's interval."""
    netns = Path(host.netns_path).stat().st_ino
    return [
        {**row, "interval_s": line["interval_s"]}
        for line in list(tracer.lines)
        if line["type"] == "top"
        for row in line["peers"]
        if (row["netns"], row["ifname"]) == (netns, host.ifname)
        and row["peer"]
        and row["peer"]["public_key"] == public_key
    ]


def test_rates_drops_and_handshakes_are_those_of_the_traffic(ifname: str, tmp_path: Path) -> None:
    """23 packets, 7 refused and a handshake: bytes as wg(8) has them, drops and latency of the peer."""
    with two_hosts(ifname=ifname) as net:
        before = received_bytes(net.b, net.a.public_key)
        top = Top(["--all"], tmp_path / "ready")
        try:
            net.connect()
            net.a.ip("address", "add", "192.168.50.1/32", "dev", ifname)
            net.a.send_udp(net.b.inner(), 9, N, bytes(1000))
            net.a.send_udp(net.b.inner(), 9, REFUSED, source="192.168.50.1")

            def row() -> Line:
                return (_rows(top, net.b, net.a.public_key) or [{"drops": {}, "rx_bytes": 0}])[-1]

            wait_until(lambda: row()["drops"] == {"src_not_allowed": REFUSED})
            wait_until(lambda: row()["rx_bytes"] == received_bytes(net.b, net.a.public_key))
            rows = _rows(top, net.b, net.a.public_key)
            moved = sum(each["rx_bytes_per_s"] * each["interval_s"] for each in rows)
            assert abs(moved - (rows[-1]["rx_bytes"] - before)) <= 0.01 * moved + len(rows)
            assert rows[-1]["rx_bytes"] - before > N * 1000
            assert sum(each["new_drops"] for each in rows) == REFUSED
            assert rows[-1]["role"] == "responder"
            assert _rows(top, net.a, net.b.public_key)[-1]["role"] == "initiator"
            assert all(_rows(top, h, p.public_key)[-1]["handshake_latency_ns"] > 0 for h, p in _ends(net))
        finally:
            assert top.end() == 0, top.stderr


def _ends(net: Any) -> tuple[tuple[Host, Host], tuple[Host, Host]]:
    return (net.a, net.b), (net.b, net.a)
