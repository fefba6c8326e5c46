# SPDX-License-Identifier: GPL-2.0-only
"""-w and the kernel's filters: two runs beside each other watch the same drops.

What the first one writes is left for the host, where tests/vm reads it with tshark.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import struct
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from noise import Impostor, ipv4
from scenes import send, sniffing, udp
from tracer import Line, Tracer

from wgtrace.lab.topology import Network, two_hosts

N = 23
FLOOD = 4999
STRAY, STRAY_NET, OTHER_STRAY = "192.168.50.1", "192.168.50.0/24", "192.168.51.1"
SECRET = b"PAYLOAD-THAT-MUST-NOT-LEAK"
PRIVATE = bytes(range(1, 33))


@dataclass
class Runs:
    """The runs: all packets into a file, and what the filters ask for."""

    writer: Tracer
    filtered: Tracer
    file: Path


@pytest.fixture(scope="module")
def packets_out() -> Path:
    """Where the host finds what is left for it."""
    return Path(os.environ["WGTRACE_LAB_OUT"]) if "WGTRACE_LAB_OUT" in os.environ else Path("/tmp")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, packets_out: Path) -> Iterator[Runs]:
    """Both, beside each other: only the writer's programs are not in the cache yet."""
    folder = tmp_path_factory.mktemp("packets")
    file = packets_out / "drops.pcapng"
    # A whole key is taken before there is such a peer.
    key = Impostor(base64.b64encode(bytes(32)).decode(), PRIVATE).public_key
    asked = ["--peer", key, "--reason", "src_not_allowed", "--direction", "rx"]
    flow = f"inner src net {STRAY_NET} and udp dst port 443"
    arguments: list[Sequence[str]] = [
        ["--all", "-w", str(file)],
        ["--all", *asked, "--flow", flow],
    ]
    with ThreadPoolExecutor() as pool:
        begun = [pool.submit(Tracer, each, folder / f"ready{n}") for n, each in enumerate(arguments)]
    writer, filtered = (each.result() for each in begun)
    yield Runs(writer, filtered, file)
    for tracer in (writer, filtered):
        tracer.end()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file on a disk of 16 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], check=True)
    yield disk / "drops.pcapng"
    subprocess.run(["umount", str(disk)], check=True)


def inner_udp(saddr: str, daddr: str, dport: int) -> bytes:
    """A UDP packet that says something."""
    datagram = struct.pack(">HHHH", 40000, dport, 8 + len(SECRET), 0) + SECRET
    packet = bytearray(ipv4(saddr, daddr, datagram))
    packet[9] = 17
    return bytes(packet)


def drop_23_of_each(net: Network) -> None:
    """Packets going out, decrypted, and refused as datagrams and as handshakes: 23 each."""
    net.connect()
    net.a.ip("route", "add", "192.168.77.1", "dev", net.a.ifname)
    with sniffing(net.b) as sniffer:
        net.a.send_udp(net.b.inner(), payload=SECRET)
        replayed = sniffer.messages(4, net.b.listen_port, 1) * N
    send(net.a, net.b, replayed)
    send(net.a, net.b, [b"\x09\x00\x00\x00" + SECRET] * N)
    send(net.a, net.b, [b"\x01\x00\x00\x00" + os.urandom(144) for _ in range(N)])
    send(net.a, net.b, [b"\x04\x00\x00\x00" + os.urandom(60) for _ in range(N)])
    for _ in range(N):
        with pytest.raises(OSError, match="key not available"):
            net.a.send_udp("192.168.77.1", payload=SECRET)


def drop_23_among_61(net: Network) -> str:
    """What the filter asks for, among drops that are like it in all but one thing. Gives the peer's key."""
    impostor = Impostor(net.b.public_key, PRIVATE)
    net.b.wg("set", net.b.ifname, "peer", impostor.public_key, "allowed-ips", "172.20.0.7/32")
    to = (net.b.outer_addr, net.b.listen_port)
    wanted = inner_udp(STRAY, net.b.inner(), 443)
    other_port = inner_udp(STRAY, net.b.inner(), 80)
    other_source = inner_udp(OTHER_STRAY, net.b.inner(), 443)
    with udp(net.a, net.b.outer_addr) as sock:
        impostor.connect(sock, to)
        for packet in [other_port] * 13 + [wanted] * N + [other_source] * 17:
            sock.sendto(impostor.data(packet), to)
    net.a.ip("addr", "add", f"{STRAY}/32", "dev", "lo")
    net.a.send_udp(net.b.inner(), port=443, count=31, source=STRAY)  # another peer's
    return impostor.public_key


def _is_of(finding: Line, key: str) -> bool:
    return bool(finding["peer"]) and finding["peer"]["public_key"] == key


def test_packets_and_filters(runs: Runs, ifname: str, packets_out: Path) -> None:
    """All drops are in the file, headers only; the filters find 23 of them, a flood of others hides none."""
    with two_hosts(ifname=ifname, ports=(41641, 7351)) as net:
        drop_23_of_each(net)
        runs.writer.settled(lambda r: sum(r.totals.values()) >= 5 * N, ifname)
        send(net.a, net.b, [b"\x09\x00\x00\x00" + SECRET] * FLOOD)
        key = drop_23_among_61(net)
        everything = runs.writer.settled(lambda r: r.totals.get("src_not_allowed", 0) >= N + 61, ifname)
        asked = runs.filtered.settled(lambda r: r.totals.get("src_not_allowed", 0) >= N, ifname)

    assert everything.totals == {
        "replay_or_old_counter": N,
        "bad_header": N + FLOOD,
        "invalid_mac1": N,
        "unknown_receiver_index": N,
        "allowedips_no_peer": N,
        "src_not_allowed": N + 61,
    }
    assert asked.totals == {"src_not_allowed": N}
    assert len(asked.drops) == N
    for drop in asked.drops:
        assert drop["peer"]["public_key"] == key
        assert (drop["inner"]["saddr"], drop["inner"]["dport"]) == (STRAY, 443)
    assert asked.summary["lost"]["rate_limited"] == {}
    assert asked.summary["complete"] is True
    # The finding about the peer that was asked for is the same as without a filter. Its socket is
    # closed by now: an answer to it may come back, and is a finding of its own.
    (finding,) = [f for f in asked.findings if f["slug"] != "peer-port-closed"]
    (same,) = [f for f in everything.findings if f["slug"] == finding["slug"] and _is_of(f, key)]
    assert finding["count"] == N + 13 + 17
    assert {k: v for k, v in finding.items() if k != "ts"} == {k: v for k, v in same.items() if k != "ts"}
    for line in asked.summary["reconciliation"]:
        assert line["moved"] == line["explained"], line

    assert runs.writer.end() == 0, runs.writer.stderr
    assert stat.S_IMODE(runs.file.stat().st_mode) == 0o600
    assert SECRET not in runs.file.read_bytes()
    runs.file.with_suffix(".json").write_text(json.dumps(runs.writer.lines))


@pytest.mark.once
def test_a_full_disk(small: Path, ifname: str, tmp_path: Path) -> None:
    """A run whose file fills the disk ends by itself, with its summary and status 4; the file is whole."""
    full = Tracer(["--all", "-w", str(small), "--snaplen", "1400"], tmp_path / "ready")
    with two_hosts(ifname=ifname) as net:
        send(net.a, net.b, [b"\x09\x00\x00\x00" + SECRET] * 499)
        assert full.process.wait(timeout=180) == 4
    full.end()
    assert full.lines[-1]["type"] == "summary"
    assert f"cannot write more to {small}: No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    data, packets = small.read_bytes(), 0
    assert data.count(SECRET) >= N  # --snaplen: content too
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert struct.unpack_from("<I", data, length - 4) == (length,)
        packets, data = packets + (kind == 6), data[length:]
    assert f"the {packets} drops written before that are whole" in full.stderr
    assert packets > N
