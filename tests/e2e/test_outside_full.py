# SPDX-License-Identifier: GPL-2.0-only
"""Packets of a tunnel that no rule drops: damaged ones, and those that conntrack has no room for."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import wait_until
from tracer import Line, Report, Tracer

from wgtrace.lab.topology import Host, two_hosts

pytestmark = pytest.mark.soak  # not seen to pass on every kernel yet

N = 23
_MOST = Path("/proc/sys/net/netfilter/nf_conntrack_max")


def _sum(data: bytes) -> int:
    total = sum(int(word) for word in struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _datagram(a: Host, b: Host, off_by: int) -> bytes:
    """An IPv4 packet from one listen port to the other, its UDP checksum wrong by so much."""
    source, to = socket.inet_aton(a.outer_addr), socket.inet_aton(b.outer_addr)
    payload = struct.pack("<IIQ", 4, 7, 0) + bytes(32)
    length = 8 + len(payload)
    udp = struct.pack("!HHHH", a.listen_port, b.listen_port, length, 0) + payload
    right = _sum(source + to + struct.pack("!BBH", 0, 17, length) + udp)
    udp = udp[:6] + struct.pack("!H", (right + off_by) & 0xFFFF or 0xFFFF) + udp[8:]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0, 64, 17, 0, source, to)
    return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + udp


def test_datagrams_with_a_wrong_checksum(tracer: Tracer, ifname: str) -> None:
    """23 of them die before WireGuard: one finding, of the peer that they come from."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        macs: list[str] = [
            h.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip() for h in (net.b, net.a)
        ]
        ethernet = bytes.fromhex("".join(macs).replace(":", "") + "0800")
        with net.a.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for _ in range(N):
                raw.send(ethernet + _datagram(net.a, net.b, 7))

        report = tracer.settled(lambda r: len(r.lost) >= N, ifname)
        lost = [d for d in report.lost if d["reason"] == "udp_csum"]
        assert (len(lost), len(report.lost), report.slugs) == (N, N, ["checksum-error"])
        found = report.finding("checksum-error")
        assert (found["count"], found["peer"]["public_key"]) == (N, net.a.public_key)
        assert report.drops == []


@contextlib.contextmanager
def _most_entries(host: Host, count: int) -> Iterator[None]:
    before = _MOST.read_text()
    _MOST.write_text(str(count))
    host.run(
        ["sysctl", "-w", f"net.netfilter.nf_conntrack_max={count}"], check=False
    )  # its own, if it has one
    try:
        yield
    finally:
        _MOST.write_text(before)


def _entries(host: Host) -> int:
    return int(host.run(["sysctl", "-n", "net.netfilter.nf_conntrack_count"]).stdout)


def test_no_room_in_connection_tracking(tracer: Tracer, ifname: str) -> None:
    """All entries are TCP sessions that nothing evicts: 23 inner packets that begin a flow find no room."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        a, b = net.a, net.b
        chain = "chain pre { type filter hook prerouting priority 0; ct state established accept; }"
        b.run(["nft", "-f", "-"], stdin=f"table inet tracks {{\n{chain}\n}}\n")
        net.connect()  # its own flow has an entry
        with contextlib.ExitStack() as sessions:
            listening = sessions.enter_context(b.socket(socket.AF_INET, socket.SOCK_STREAM))
            listening.bind(("127.0.0.1", 5000))
            listening.listen()
            for _ in range(7):
                out = sessions.enter_context(b.socket(socket.AF_INET, socket.SOCK_STREAM))
                out.connect(("127.0.0.1", 5000))
                sessions.enter_context(listening.accept()[0])
            wait_until(lambda: _entries(b) >= 8)
            sock = sessions.enter_context(a.socket(socket.AF_INET))
            sock.bind((a.inner(), 4000))
            with _most_entries(b, _entries(b)):
                for _ in range(N):
                    sock.sendto(b"wgtrace", (b.inner(), 9))
                report = tracer.settled(lambda r: len(r.lost) >= N, ifname)

        assert (len(report.lost), report.slugs) == (N, ["conntrack-table-full"])
        found = report.finding("conntrack-table-full")
        assert (found["count"], found["peer"]["public_key"]) == (N, a.public_key)


def _of(report: Report, host: Host) -> list[Line]:
    """The findings of a host."""
    inode = int(host.run(["stat", "-L", "-c", "%i", host.netns_path]).stdout)
    return [finding for finding in report.findings if finding["netns"] == inode]


@pytest.mark.parametrize("outer", [4, 6])
def test_a_port_that_nobody_listens_at(tracer: Tracer, ifname: str, outer: int) -> None:
    """B's interface is down: its host says so by ICMP, and A names who."""
    with two_hosts(ifname=ifname, outer=outer) as net:
        net.b.ip("link", "set", ifname, "down")
        net.a.send_udp(net.b.inner(), count=N)
        report = tracer.settled(lambda r: "peer-port-closed" in r.slugs, ifname)

        (found,) = _of(report, net.a)
        assert (found["slug"], found["confidence"]) == ("peer-port-closed", "certain")
        assert found["peer"]["public_key"] == net.b.public_key
        assert any(f"the last from {net.b.outer_addr}" in text for text in found["evidence"])
