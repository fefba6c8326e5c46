# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace top`: its figures are those of the traffic, also of what never came."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from noise import Impostor, ipv4
from scenes import drop_udp_to, received_bytes, udp, undrop, wait_until
from starve import roomy, spinning_on
from tracer import Tracer

from wgtrace.lab.topology import Host, Network, two_hosts

pytestmark = pytest.mark.soak  # a minute and more on an emulated machine

Line = dict[str, Any]
N = 23
REFUSED = 7
SENT = 2003
PEERS = 200
PORT = 7007
LAST = (1 << 32) - 1
FIGURES = ("received", "lost", "late", "duplicates", "too_old", "unread")


class Top(Tracer):
    """A running `wgtrace top --json`."""

    command = "top"


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Top]:
    """One for all of the tests; it must end well."""
    running = Top(["--all"], tmp_path_factory.mktemp("top") / "ready")
    yield running
    assert running.end() == 0, running.stderr


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


def _settled(tracer: Tracer, host: Host, public_key: str) -> Line:
    """The first row from now on that is as the one before it."""
    begin = len(_rows(tracer, host, public_key))

    def last() -> list[Line]:
        return [row["arrivals"] for row in _rows(tracer, host, public_key)[begin:][-2:]]

    wait_until(lambda: len(last()) == 2 and last()[0] == last()[1])
    return _rows(tracer, host, public_key)[-1]


def test_rates_drops_and_handshakes_are_those_of_the_traffic(top: Top, ifname: str) -> None:
    """23 packets, 7 refused and a handshake: bytes as wg(8) has them, drops and latency of the peer."""
    with two_hosts(ifname=ifname) as net:
        before = received_bytes(net.b, net.a.public_key)
        wait_until(lambda: bool(_rows(top, net.b, net.a.public_key)))
        net.connect()
        net.a.ip("address", "add", "192.168.50.1/32", "dev", ifname)
        net.a.send_udp(net.b.inner(), 9, N, bytes(1000))
        net.a.send_udp(net.b.inner(), 9, REFUSED, source="192.168.50.1")

        def row() -> Line:
            return (_rows(top, net.b, net.a.public_key) or [{"drops": {}, "rx_bytes": 0}])[-1]

        wait_until(lambda: row()["drops"] == {"src_not_allowed": REFUSED})
        wait_until(lambda: row()["rx_bytes"] == received_bytes(net.b, net.a.public_key))
        wait_until(lambda: row()["role"] == "responder")
        wait_until(lambda: _rows(top, net.a, net.b.public_key)[-1]["role"] == "initiator")
        rows = _rows(top, net.b, net.a.public_key)
        moved = sum(each["rx_bytes_per_s"] * each["interval_s"] for each in rows)
        assert abs(moved - (rows[-1]["rx_bytes"] - before)) <= 0.01 * moved + len(rows)
        assert rows[-1]["rx_bytes"] - before > N * 1000
        assert sum(each["new_drops"] for each in rows) == REFUSED
        assert all(_rows(top, h, p.public_key)[-1]["handshake_latency_ns"] > 0 for h, p in _ends(net))
        assert rows[-1]["arrivals"]["received"] >= N + REFUSED
        wait_until(lambda: row()["arrivals"]["lost"] == 0)


def _ends(net: Network) -> tuple[tuple[Host, Host], tuple[Host, Host]]:
    return (net.a, net.b), (net.b, net.a)


class Listener:
    """Takes numbered datagrams at a host until the last: those that came, in their order."""

    def __init__(self, host: Host) -> None:
        self._socket = roomy(host.socket(socket.AF_INET))
        self._socket.bind((host.inner(4), PORT))
        self._socket.settimeout(120)
        self.came: list[int] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with self._socket:
            while True:
                (number,) = struct.unpack("!I", self._socket.recv(64))
                if number == LAST:
                    return
                self.came.append(number)

    def end(self) -> None:
        """Wait for the last one."""
        self._thread.join(timeout=120)
        assert not self._thread.is_alive()

    @property
    def late(self) -> int:
        """How many came after one with a larger number, of the same session."""
        late = 0
        for session in (self.came[: self.middle], self.came[self.middle :]):
            largest = -1
            for number in session:
                late += number < largest
                largest = max(largest, number)
        return late

    @property
    def middle(self) -> int:
        """Where in `came` the second session begins: after the number that ends the first."""
        return self.came.index(2 * SENT) + 1


def _datagrams(host: Host) -> int:
    """UDP datagrams that this host has taken, WireGuard's among them."""
    with host.enter():
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    return int(values[names.index("InDatagrams")])


def _netem(host: Host, *what: str) -> None:
    host.run(["tc", "qdisc", "replace", "dev", "eth0", "root", "netem", "limit", "100000", *what])


def _rekey(net: Network) -> None:
    """A new session while the old one is there: b forgets nothing, a begins anew."""
    before = net.b.latest_handshakes()[net.a.public_key]
    wait_until(lambda: time.time() > before + 1.1)  # so that the next one has a time of its own
    net.a.ip("link", "set", net.a.ifname, "down")
    net.a.ip("link", "set", net.a.ifname, "up")
    net.a.ip("route", "replace", net.b.inner(4), "dev", net.a.ifname)
    net.a.send_udp(net.b.inner(4), 9)
    wait_until(lambda: net.b.latest_handshakes()[net.a.public_key] > before)


def _send_numbered(net: Network, begin: int, count: int) -> None:
    with roomy(net.a.socket(socket.AF_INET)) as out:
        for number in range(begin, begin + count):
            out.sendto(struct.pack("!I", number), (net.b.inner(4), PORT))
            if number % 50 == 0:
                time.sleep(0.002)  # no queue of the two hosts is to be full


@pytest.mark.parametrize("what", ["loss", "duplicate", "reorder"])
def test_what_netem_does_on_the_way_is_told_by_who_receives(top: Top, ifname: str, what: str) -> None:
    """Lost, late and doubled, exactly as the packets inside and the host's own counter say; over a rekey.

    And within the sampling error it is what netem was asked for; the other way nothing is wrong.
    """
    with two_hosts(ifname=ifname) as net:
        net.connect()
        wait_until(lambda: bool(_rows(top, net.b, net.a.public_key)))
        for percent in (1, 7, 23):
            how = ("delay", "20ms", "reorder", f"{percent}%") if what == "reorder" else (what, f"{percent}%")
            found, truth = _figures(top, net, how)
            print(what, percent, found, truth)
            assert {name: found[name] for name in truth} == truth
            if what != "reorder":  # there each that overtakes makes many late
                measured = found["lost" if what == "loss" else "duplicates"]
                share, n = percent / 100, 2 * SENT
                assert abs(measured / n - share) < 5 * math.sqrt(share * (1 - share) / n)
            for other in {"loss": ("late", "duplicates"), "duplicate": ("late",), "reorder": ("duplicates",)}[
                what
            ]:
                assert found[other] == 0
        back = _rows(top, net.a, net.b.public_key)[-1]["arrivals"]
        assert (back["lost"], back["late"], back["duplicates"]) == (0, 0, 0)


def _figures(top: Top, net: Network, how: tuple[str, ...]) -> tuple[dict[str, int], dict[str, int]]:
    """What is told of traffic that netem does something to, and what is true."""
    before = _settled(top, net.b, net.a.public_key)["arrivals"]
    taken, listener = _datagrams(net.b), Listener(net.b)
    for half in (0, 1):
        _netem(net.a, *how)
        _send_numbered(net, half * SENT, SENT)
        time.sleep(0.1)  # what netem holds back comes before what follows
        _netem(net.a)  # what ends a session is to arrive: who receives cannot know of a last one that is lost
        if half:
            _send_numbered(net, LAST, 1)
        else:
            _send_numbered(net, 2 * SENT, 1)
            _rekey(net)
    listener.end()

    row = _settled(top, net.b, net.a.public_key)
    found = {name: row["arrivals"][name] - before[name] for name in FIGURES}
    assert len(row["sessions"]) >= 2
    assert len(set(listener.came)) == len(listener.came)  # WireGuard hands up none twice
    messages = (
        _datagrams(net.b) - taken - (len(listener.came) + 1) - 1
    )  # that to the listener, the initiation
    truth = {
        "lost": 2 * SENT + 1 - len(listener.came),
        "late": listener.late,
        "duplicates": messages - found["received"],
        "unread": 0,
        "too_old": 0,
    }
    return found, truth


def test_two_hundred_peers_each_have_their_own_figures(top: Top, ifname: str) -> None:
    """Each sends 23, of which some are lost, late or doubled on purpose: the figures of each are exact."""
    with two_hosts(ifname=ifname) as net, udp(net.a, net.b.outer_addr) as sock:
        impostors = [Impostor(net.b.public_key) for _ in range(PEERS)]
        sections = (
            f"[Peer]\nPublicKey = {peer.public_key}\nAllowedIPs = 172.20.0.{number}/32\n"
            for number, peer in enumerate(impostors)
        )
        net.b.wg("addconf", ifname, "/dev/stdin", stdin="".join(sections))
        to = (net.b.outer_addr, net.b.listen_port)
        for peer in impostors:
            peer.connect(sock, to)
        expected: dict[str, dict[str, int]] = {}
        for number, peer in enumerate(impostors):
            lost, late, doubled = number % 5, number % 3, number % 7
            first = list(range(1, 1 + N - late))
            counters = [*first, N + 1 + lost, *range(N + 1 - late, N + 1)]  # `late` of them are overtaken
            for counter in [*counters, *counters[:doubled]]:
                sock.sendto(peer.data(ipv4(f"172.20.0.{number}", net.b.inner()), counter=counter), to)
            time.sleep(0.01)  # no queue of b is to be full
            expected[peer.public_key] = {
                "received": 1 + N + 1,  # the first confirms the session
                "lost": lost,
                "late": late,
                "duplicates": doubled,
                "too_old": 0,
                "unread": 0,
            }

        def rows() -> dict[str, Line]:
            line = next(line for line in reversed(list(top.lines)) if line["type"] == "top")
            netns = Path(net.b.netns_path).stat().st_ino
            return {r["peer"]["public_key"]: r for r in line["peers"] if r["netns"] == netns and r["peer"]}

        wait_until(lambda: sum(r["arrivals"]["received"] for r in rows().values()) >= PEERS * (N + 2), 60)
        _settled(top, net.b, impostors[-1].public_key)
        found = {key: rows()[key]["arrivals"] for key in expected}
        assert [(found[key], expected[key]) for key in expected if found[key] != expected[key]] == []
        assert all(len(row["sessions"]) == 1 for key, row in rows().items() if key in expected)


def test_data_for_a_session_that_was_lost_is_a_finding(top: Top, ifname: str) -> None:
    """B forgets A, whose data nobody can read: peer-lost-session, once."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        wait_until(lambda: bool(_rows(top, net.b, net.a.public_key)))
        net.b.wg("set", ifname, "peer", net.a.public_key, "remove")
        net.b.wg("set", ifname, "peer", net.a.public_key, "allowed-ips", net.a.allowed_ips)
        net.a.send_udp(net.b.inner(), count=11)
        wait_until(lambda: top.report(ifname).totals.get("unknown_receiver_index", 0) >= 11)
        assert top.report(ifname).slugs == ["peer-lost-session"]


def test_what_waits_for_a_session_is_told(top: Top, ifname: str) -> None:
    """7 packets for a peer that does not answer, until it does."""
    with two_hosts(ifname=ifname) as net:
        drop_udp_to(net.b, net.b.listen_port)
        net.a.send_udp(net.b.inner(), count=REFUSED)

        def waiting() -> int:
            rows = _rows(top, net.a, net.b.public_key)
            return int(rows[-1]["waiting"]["staged"]) if rows and rows[-1]["waiting"] else -1

        wait_until(lambda: waiting() == REFUSED)
        undrop(net.b)
        wait_until(lambda: waiting() == 0)


def test_latency_is_told_beside(ifname: str, tmp_path: Path) -> None:
    """With --latency each of 23 packets counts once, out at a and in at b."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        top = Top(["--all", "--latency"], tmp_path / "ready")
        try:
            net.a.send_udp(net.b.inner(), count=N)

            def counted(host: Host, peer: Host, way: str) -> int:
                rows = _rows(top, host, peer.public_key)
                return sum(row["latency"][way]["count"] for row in rows if way in row["latency"])

            wait_until(lambda: counted(net.a, net.b, "tx") >= N and counted(net.b, net.a, "rx") >= N)
            _settled(top, net.b, net.a.public_key)
            assert (counted(net.a, net.b, "tx"), counted(net.b, net.a, "rx")) == (N, N)
        finally:
            assert top.end() == 0, top.stderr


@contextlib.contextmanager
def _nobody_polls(host: Host) -> Iterator[None]:
    """What hands packets of an interface up are threads now, on a CPU that a real-time task has."""
    turn_on = f"echo 1 > /sys/class/net/{host.ifname}/threaded"  # by ip-netns(8): /sys is of a namespace
    subprocess.run(["ip", "netns", "exec", host.netns, "sh", "-c", turn_on], check=True)
    names = [path for path in Path("/proc").glob("[0-9]*/comm") if _is_napi(path, host.ifname)]
    assert names
    for path in names:
        os.sched_setaffinity(int(path.parent.name), {0})
    with spinning_on(0):
        yield


def _is_napi(path: Path, ifname: str) -> bool:
    with contextlib.suppress(OSError):
        return path.read_text().startswith(f"napi/{ifname}-"[:15])
    return False


def test_a_receive_queue_that_nothing_comes_out_of(top: Top, ifname: str) -> None:
    """The one finding is receive-stalled: not that the CPUs do not keep up."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        wait_until(lambda: bool(_rows(top, net.b, net.a.public_key)))
        with _nobody_polls(net.b):

            def is_told() -> bool:
                net.a.send_udp(net.b.inner(), 9, 401)
                return "receive-stalled" in top.report(ifname).slugs

            wait_until(is_told, 60)
        slugs = [f["slug"] for f in top.report(ifname).findings if f["peer"]]
        assert slugs == ["receive-stalled"]
