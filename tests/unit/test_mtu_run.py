# SPDX-License-Identifier: GPL-2.0-only
"""MtuRun: events as they come, whose they are, and the report in the end."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

import jsonschema
import pytest
from factories import BERLIN, NETNS, PARIS, console, device, peer, snapshot, written
from mtu_data import mtu_key, mtu_record, sizes_value
from rich.cells import cell_len
from stand_ins import Host, Replay

from wgtrace.events.types import IPAddress
from wgtrace.events.wire import Layer, MtuCode, MtuConfigWire, MtuOf
from wgtrace.mtu import MtuRun
from wgtrace.outputs.jsonl import json_schema
from wgtrace.outputs.mtu import MtuJsonSink, MtuTableSink
from wgtrace.pipeline import HostFacts, Limits, Signals
from wgtrace.probes.kernel import TextRange
from wgtrace.report import MtuReport, MtuSink, RunStart, SeenMtu
from wgtrace.state.types import Device, Namespace, Snapshot, Way

FRAGMENTED = mtu_record(
    MtuCode.OUTER_FRAGMENTED, size=1480, mtu=1300, of=MtuOf.DEVICE, ifname=b"eth0", netns=NETNS
)
REFUSED: dict[str, Any] = {"device": {"ifname": b"\0\0\0", "netns": 0, "ifindex": 0}, "peer": {"known": 0}}


@dataclass
class Kernel(Replay):
    """An attached `Tracer` with the maps of `wgtrace mtu`."""

    maps: dict[str, dict[bytes, bytes]] = field(default_factory=dict)

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """A map."""
        return list(self.maps.get(name, {}).items())

    def write(self, name: str, key: bytes, value: bytes | None) -> None:
        """An entry."""
        if value is None:
            del self.maps[name][key]
        else:
            self.maps.setdefault(name, {})[key] = value

    def records(self, timeout_s: float) -> list[bytes]:
        """As of `Replay`."""
        return super().records(timeout_s) or []


@dataclass
class Kept:
    """A sink that keeps what it gets."""

    events: list[SeenMtu] = field(default_factory=list)
    reports: list[MtuReport] = field(default_factory=list)

    def start(self, start: RunStart) -> None:
        """All probes are attached."""

    def event(self, seen: SeenMtu) -> None:
        """Keep it."""
        self.events.append(seen)

    def report(self, report: MtuReport) -> None:
        """Keep it."""
        self.reports.append(report)


def way(_device: Device, addr: IPAddress, _namespaces: Iterable[Namespace]) -> Way:
    """All leave by eth0, from a socket in another namespace."""
    return Way(addr, oif="eth0", link_mtu=1500, netns=99)


def narrowed(before: Way, _namespaces: Iterable[Namespace]) -> Way:
    """The way to paris got another link meanwhile."""
    return replace(before, link_mtu=1492) if before.endpoint.version == 6 else before


def no_sysctls(_namespace: Namespace, _names: Collection[str]) -> dict[str, str]:
    """It does not forward."""
    return {}


def ran(
    kernel: Kernel,
    *more: MtuSink,
    state: Snapshot | None = None,
    peers: Collection[str] = (),
    sysctls: Callable[[Namespace, Collection[str]], dict[str, str]] = no_sysctls,
) -> Kept:
    """What a run told that lasts until the kernel has nothing more."""
    kept = Kept()
    with Signals() as signals:
        facts = HostFacts(way=way, sysctls=sysctls, way_again=narrowed)
        host = Host(state or snapshot())
        run = MtuRun(kernel, host, [kept, *more], facts, peers, [TextRange("f", 16, 32)])
        run.start()
        run.run(Limits(), signals)
    return kept


def test_events_totals_and_a_row_for_each_peer() -> None:
    """An event has its peer's name; the totals are the kernel's, and who was not heard of has a row too."""
    kernel = Kernel([[FRAGMENTED] * 3], {mtu_key(MtuCode.OUTER_FRAGMENTED): 3})
    kernel.maps["sizes"] = {bytes(8): sizes_value(sent=1420, passed=1300, failed=1200, received=1100)}
    kept = ran(kernel)

    assert [seen.event.peer and seen.event.peer.name for seen in kept.events] == ["berlin"] * 3
    assert kept.events[0].what == "datagram of 1480 fragmented: MTU 1300 (eth0's)"
    (report,) = kept.reports
    assert [(total.code, total.count) for total in report.totals] == [(MtuCode.OUTER_FRAGMENTED, 3)]
    rows = {row.peer.name: row for row in report.rows}
    assert set(rows) == {"berlin", "paris", None}
    berlin = rows["berlin"]
    assert (berlin.sent, berlin.passed, berlin.failed, berlin.received) == (1420, 1300, 0, 1100)
    assert (berlin.path_mtu, berlin.fits, rows["paris"].fits, rows[None].fits) == (1300, 1240, 1412, 0)
    assert ([f.slug for f in report.findings], report.incomplete_because) == (["outer-fragmented"], ())


def test_what_is_only_counted_is_said() -> None:
    """More happened than was shown: the count is right, and the run says so."""
    (report,) = ran(Kernel([[FRAGMENTED]], {mtu_key(MtuCode.OUTER_FRAGMENTED): 24})).reports
    assert report.findings[0].count == 24
    assert report.incomplete_because == ("23 events only counted: too many a second",)


def test_the_programs_are_told_where_peers_are() -> None:
    """By the namespace of the socket; and where packets die that are handed to another device."""
    kernel = Kernel([])
    ran(kernel)

    assert len(kernel.maps["endpoints"]) == 2
    assert {key[16:20] for key in kernel.maps["endpoints"]} == {(99).to_bytes(4, "little")}
    config = MtuConfigWire.from_buffer_copy(kernel.maps["mtu_config"][bytes(4)])
    assert list(config.forward) == [16, 32, 0, 0, 0, 0, 0, 0]


def refused(to: str, mtu: int = 1420) -> bytes:
    """A program of wg0's namespace sent too much to this address."""
    inner = {"daddr": ip_address(to).packed, "family": 4}
    return mtu_record(MtuCode.SENDER_REFUSED, **REFUSED, inner=inner, mtu=mtu, netns=NETNS, layer=Layer.INNER)


def test_whose_packet_a_program_was_refused() -> None:
    """By AllowedIPs, in the namespace of the program; what is no tunnel's is nobody's business."""
    kernel = Kernel(
        [[refused("10.9.0.2"), refused("10.9.0.3"), refused("192.0.2.1"), refused("10.9.0.2", 1500)]]
    )
    kept = ran(kernel)

    assert [seen.event.peer and seen.event.peer.public_key for seen in kept.events] == [BERLIN, PARIS]
    assert kept.events[0].what == "packet of a program here does not fit into 1420: EMSGSIZE (to 10.9.0.2)"
    assert [(f.slug, f.severity.value) for f in kept.reports[0].findings] == [("inner-too-big", "info")] * 2


def test_only_the_peers_that_are_asked_for() -> None:
    """No row, no total and no endpoint of another."""
    kernel = Kernel([[refused("10.9.0.3")]], {mtu_key(MtuCode.OUTER_FRAGMENTED): 3})
    kept = ran(kernel, peers=[PARIS])

    assert [seen.event.code for seen in kept.events] == [MtuCode.SENDER_REFUSED]
    assert [row.peer.public_key for row in kept.reports[0].rows] == [PARIS]
    assert [total.public_key for total in kept.reports[0].totals] == [PARIS]
    assert len(kernel.maps["endpoints"]) == 1


def test_a_host_that_forwards() -> None:
    """What it forwards is to fit too."""
    kept = ran(
        Kernel([[FRAGMENTED]], {mtu_key(MtuCode.OUTER_FRAGMENTED): 1}),
        sysctls=lambda _space, names: dict.fromkeys(names, "1"),
    )
    assert any("maxseg" in text for text in kept.reports[0].findings[0].fix)


def test_bytes_that_are_no_record_are_counted() -> None:
    """And nothing ends."""
    (report,) = ran(Kernel([[b"\x17" * 300]], {b"\x17": 1})).reports
    assert report.incomplete_because == ("2 records could not be read",)


@pytest.mark.parametrize("code", MtuCode)
def test_every_line_is_valid(code: MtuCode) -> None:
    """Each event, row, finding and the summary hold to the schema."""
    out = io.StringIO()
    inner = {"saddr": ip_address("172.16.0.7").packed, "daddr": ip_address("10.9.0.2").packed, "family": 4}
    record = mtu_record(code, inner=inner, mtu=1300, size=1480, location=23, ifname=b"eth0")
    ran(Kernel([[record] * 3], {mtu_key(code): 3}), MtuJsonSink(out))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]

    for line in lines:
        jsonschema.validate(line, json_schema())
    kinds = [line["type"] for line in lines if line["type"] not in ("start", "finding")]
    assert kinds[-4:] == ["mtu_peer"] * 3 + ["mtu_summary"]


def test_the_table_fits_80_columns() -> None:
    """With one interface; a line too long is broken."""
    to = console(80)
    berlin = peer(BERLIN, "a-peer-with-a-long-name", "10.9.0.2/32", at="203.0.113.9:51820")
    state = snapshot(device(peers=(berlin,)))
    ran(Kernel([[FRAGMENTED] * 3], {mtu_key(MtuCode.OUTER_FRAGMENTED): 3}), MtuTableSink(to), state=state)
    lines = written(to).splitlines()

    assert max(map(cell_len, lines)) <= 80
    titles = next(at for at, line in enumerate(lines) if line.startswith("PEER "))
    assert lines[titles].split()[:4] == ["PEER", "BY", "MTU", "LINK"]
    assert lines[titles + 1].split() == [
        *("a-peer-w…", "eth0", "1420", "1500", "-", "1300", "60", "-", "-", "-", "1240"),
    ]
    assert "outer-fragmented" in "".join(lines)
