# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace latency`: every packet in each stage, and a delay of known size where it was put."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from noise import ipv4
from scenes import add_impostor, received_bytes, wait_until
from starve import starved_workers
from tracer import SETTLE_S, Line, Tracer

from wgtrace.lab.topology import Host, two_hosts

pytestmark = pytest.mark.soak  # two minutes on an emulated machine

N = 23
DELAY_S = 1.5
SLOW_NS = 1 << 30  # a bucket begins here: what was delayed is in it or above
STAGES = {"tx": ["staged", "queue", "crypto", "order", "output"], "rx": ["queue", "crypto", "order"]}
TCP_BYTES = 200_000


class Latency(Tracer):
    """A running `wgtrace latency --all --json`."""

    command, last_line = "latency", "latency_summary"

    def histograms(self, host: Host, direction: str, peer: str) -> dict[str, Line]:
        """By stage, of the packets of a host to or from the peer with this key; {} if there are none."""
        summary = self.summary()
        lines = list(self.lines)
        end = lines.index(summary)
        begin = max((at for at, line in enumerate(lines[:end]) if line["type"] == self.last_line), default=0)
        found = {
            line["stage"]: line
            for line in lines[begin:end]
            if line["type"] == "histogram"
            and (line["ifname"], line["direction"]) == (host.ifname, direction)
            and line["peer"]["public_key"] == peer
        }
        assert not found or list(found) == [*STAGES[direction], "total"]
        for line in found.values():  # each packet counts once in each stage, and no time is lost
            assert sum(bucket[2] for bucket in line["buckets"]) == line["count"] == found["total"]["count"]
        if found:
            assert sum(found[stage]["sum"] for stage in STAGES[direction]) == found["total"]["sum"]
        return found

    def settled_at(self, count: int, host: Host, direction: str, peer: str) -> dict[str, Line]:
        """The histograms, once so many packets are through, and no more came."""
        deadline = time.monotonic() + SETTLE_S
        while self.count(host, direction, peer) < count and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(0.4)
        found = self.histograms(host, direction, peer)
        assert found["total"]["count"] == count
        return found

    def count(self, host: Host, direction: str, peer: str) -> int:
        """How many packets are through."""
        found = self.histograms(host, direction, peer)
        return int(found["total"]["count"]) if found else 0


@pytest.fixture(scope="module")
def latency(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Latency]:
    """One for all of the tests; it must have seen all, and end well."""
    running = Latency(["--all"], tmp_path_factory.mktemp("latency") / "ready")
    yield running
    assert running.end() == 0, running.stderr
    assert (running.lines[-1]["part"], running.lines[-1]["incomplete_because"]) == ("whole", [])


def _slow(line: Line) -> int:
    """How many packets were in a stage for longer than the machine itself makes them be."""
    return sum(count for low, _high, count in line["buckets"] if low >= SLOW_NS)


def _only_slow_in(stage: str, found: dict[str, Line], count: int) -> None:
    assert _slow(found[stage]) == _slow(found["total"]) == count
    assert {name for name in found if _slow(found[name])} == {stage, "total"}


def _spin(seconds: float) -> None:
    """Leave the CPU to nobody."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_each_packet_counts_once_in_each_stage(latency: Latency, ifname: str) -> None:
    """23 packets are 23 more in each stage, on both ends; an empty keepalive is none."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        ends = ((net.a, "tx", net.b.public_key), (net.b, "rx", net.a.public_key))
        before = [latency.count(*end) for end in ends]
        bytes_before = received_bytes(net.b, net.a.public_key)
        net.a.wg("set", net.a.ifname, "peer", net.b.public_key, "persistent-keepalive", "3600")
        wait_until(lambda: received_bytes(net.b, net.a.public_key) == bytes_before + 32)
        net.a.send_udp(net.b.inner(), count=N)

        for end, count in zip(ends, before, strict=True):
            latency.settled_at(count + N, *end)


def test_each_segment_of_a_super_packet_counts(latency: Latency, ifname: str) -> None:
    """What is sent as a few super-packets by TCP is received as many packets: as many as were counted."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        with net.b.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.bind((net.b.inner(), 5000))
            listening.listen()
            with net.a.socket(socket.AF_INET, socket.SOCK_STREAM) as out:
                out.connect((net.b.inner(), 5000))
                there, _address = listening.accept()
                with there:
                    out.sendall(bytes(TCP_BYTES))
                    left = TCP_BYTES
                    while left:
                        left -= len(there.recv(left))
        counts: list[int] = []
        wait_until(lambda: _are_still(latency, net.a, net.b, counts))
        sent, received, answered, seen = counts[-4:]

        assert (sent, answered) == (received, seen)
        assert sent > TCP_BYTES // 1400


def _are_still(latency: Latency, a: Host, b: Host, counts: list[int]) -> bool:
    """Whether the counts of both ends are what they were; they are added to `counts`."""
    counts += [latency.count(a, "tx", b.public_key), latency.count(b, "rx", a.public_key)]
    counts += [latency.count(b, "tx", a.public_key), latency.count(a, "rx", b.public_key)]
    return counts[-4:] == counts[-8:-4]


def test_who_waits_for_a_key_does_not_wait_for_a_worker(latency: Latency, ifname: str) -> None:
    """The handshake takes a second and a half: so long packets are staged, and nowhere else.

    Nor is the way to the other end, which takes as long, a stage of this one.
    """
    with two_hosts(ifname=ifname) as net:
        net.a.run(["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", f"{DELAY_S}s"])
        net.a.send_udp(net.b.inner(), count=N)

        found = latency.settled_at(N, net.a, "tx", net.b.public_key)
        _only_slow_in("staged", found, N)
        assert found["staged"]["sum"] >= N * DELAY_S * 1e9
        arrived = latency.settled_at(N, net.b, "rx", net.a.public_key)
        assert not any(_slow(line) for line in arrived.values())


def test_who_waits_for_a_worker_is_in_the_queue(latency: Latency, ifname: str) -> None:
    """The CPUs are taken from the crypto workers: packets wait in the queue, out and in, and nowhere else."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        impostor = add_impostor(net.b, "172.20.0.1/32")
        with net.a.socket(socket.AF_INET) as outside, net.a.socket(socket.AF_INET) as inside:
            outside.settimeout(SETTLE_S)
            impostor.connect(outside, (net.b.outer_addr, net.b.listen_port))
            wait_until(lambda: bool(net.b.latest_handshakes()[impostor.public_key]))
            before = latency.count(net.a, "tx", net.b.public_key)
            messages = [impostor.data(ipv4("172.20.0.1", net.b.inner())) for _ in range(7)]
            with starved_workers():
                for message in messages:
                    outside.sendto(message, (net.b.outer_addr, net.b.listen_port))
                    inside.sendto(b"wgtrace", (net.b.inner(), 9))
                _spin(DELAY_S)

            found = latency.settled_at(before + 7, net.a, "tx", net.b.public_key)
            _only_slow_in("queue", found, 7)
            _only_slow_in("queue", latency.settled_at(7, net.b, "rx", impostor.public_key), 7)


def test_the_slowest_packets_are_told_with_their_stages(latency: Latency, ifname: str) -> None:
    """What waited for a key longest is among the slowest, and its stages are its total."""
    with two_hosts(ifname=ifname) as net:
        net.a.run(["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "3s"])
        net.a.send_udp(net.b.inner(), count=1)
        latency.settled_at(1, net.a, "tx", net.b.public_key)

    def of_this(line: Line) -> bool:
        return bool(line["type"] == "slow_packet" and line["ifname"] == ifname)

    slow = next(line for line in reversed(latency.lines) if of_this(line))
    assert slow["stages"]["staged"] >= 3e9
    assert sum(slow["stages"].values()) == slow["total"]
