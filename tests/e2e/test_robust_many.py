# SPDX-License-Identifier: GPL-2.0-only
"""Many: 200 peers with traffic, more interfaces than are searched, a table of totals that is full."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from noise import Impostor, ipv4
from scenes import send, udp, wait_until
from tracer import Tracer

from wgtrace.events.decode import total
from wgtrace.events.reasons import Reason
from wgtrace.events.types import DropTotal
from wgtrace.events.wire import Loss
from wgtrace.lab.topology import two_hosts
from wgtrace.loader.tracer import Settings
from wgtrace.loader.tracer import Tracer as Attached
from wgtrace.probes.catalogue import CATALOGUE
from wgtrace.probes.types import Point

GARBAGE = b"\x09\x00\x00\x00" + bytes(60)
PEERS, EACH = 200, 3
TRAFFIC = 2003
SO_RCVBUFFORCE = 33
FEW, ROOM, KINDS = 3, 16, 23


def test_two_hundred_peers(tracer: Tracer, ifname: str) -> None:
    """200 peers with sessions on one interface each lose 3 packets, among good ones: 3 of each, and 600."""
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
        for turn in range(EACH):
            for number, peer in enumerate(impostors):
                sock.sendto(peer.data(ipv4(f"172.20.0.{number}", net.b.inner())), to)
                sock.sendto(peer.data(ipv4(f"172.21.{turn}.{number}", net.b.inner())), to)

        report = tracer.settled(lambda r: sum(r.totals.values()) >= PEERS * EACH, ifname)
        assert report.totals == {"src_not_allowed": PEERS * EACH}
        by_peer = {t["peer"]["public_key"]: t["count"] for t in report.summary["totals"]}
        assert by_peer == {peer.public_key: EACH for peer in impostors}
        moved = {r["counter"]: (r["moved"], r["explained"]) for r in report.summary["reconciliation"]}
        assert moved == dict.fromkeys(("rx_errors", "rx_frame_errors"), (PEERS * EACH, PEERS * EACH))


def test_a_peer_removed_while_its_traffic_goes(tracer: Tracer, ifname: str) -> None:
    """Each of its packets came out of the tunnel or is a drop, also those on their way at that moment."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        receiver = net.b.socket(socket.AF_INET)
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 26)
        receiver.bind((net.b.inner(), 9))
        receiver.setblocking(False)
        half, began = threading.Event(), threading.Event()

        def send_packets() -> None:
            with net.a.socket(socket.AF_INET) as sender:
                for number in range(TRAFFIC):
                    sender.sendto(b"wgtrace", (net.b.inner(), 9))
                    if number == TRAFFIC // 4:
                        began.set()
                    if number == TRAFFIC // 2:
                        half.wait(60)  # the removal falls into the first or the second half

        sending = threading.Thread(target=send_packets)
        sending.start()
        began.wait(60)
        net.b.wg("set", ifname, "peer", net.a.public_key, "remove")
        half.set()
        sending.join()

        received = 0

        def sums() -> int:
            nonlocal received
            with contextlib.suppress(BlockingIOError):
                while receiver.recv(64):
                    received += 1
            ours = [t for t in tracer.report(ifname).summary["totals"] if t["direction"] == "rx"]
            return received + int(sum(t["count"] for t in ours))

        with receiver:
            wait_until(lambda: sums() >= TRAFFIC)
            assert sums() == TRAFFIC
        assert TRAFFIC // 4 <= received < TRAFFIC
        assert "unknown_receiver_index" in tracer.report(ifname).totals


@pytest.fixture(scope="module")
def cramped() -> Iterator[Attached]:
    """Programs with room for few: what happens to them in a test happens to others on a crowded host.

    They need their own compilation, and the tests nothing but tracepoints.
    """
    rows = tuple(p for p in CATALOGUE if p.point is Point.TRACEPOINT)
    tracer = Attached(Settings(None, totals=ROOM, devices=FEW), rows)
    yield tracer
    tracer.close()


def _counted(tracer: Attached, ifname: str) -> dict[Reason, int]:
    """Totals of an interface by reason."""
    sums: dict[Reason, int] = {}
    for found in (total(key, count) for key, count in tracer.totals()):
        if isinstance(found, DropTotal) and found.ifname == ifname:
            sums[found.reason] = sums.get(found.reason, 0) + found.count
    return sums


@pytest.mark.once
def test_more_interfaces_than_are_searched(cramped: Attached, ifname: str) -> None:
    """What belongs to no session, at an interface beyond those: counted without it, and said to be so."""
    with contextlib.ExitStack() as networks:
        net = networks.enter_context(two_hosts(ifname=ifname))
        for _ in range(FEW):  # the newest is the first in the kernel's list
            networks.enter_context(two_hosts(ifname="crowd0"))
        before = _counted(cramped, "").get(Reason.BAD_HEADER, 0)
        lost = cramped.counters().losses[Loss.LOST_DEVICES]
        send(net.a, net.b, [GARBAGE] * 23)

        wait_until(lambda: _counted(cramped, "").get(Reason.BAD_HEADER, 0) - before >= 23)
        assert _counted(cramped, "")[Reason.BAD_HEADER] - before == 23
        assert cramped.counters().losses[Loss.LOST_DEVICES] - lost == 23
        assert _counted(cramped, ifname) == {}


@pytest.mark.once
def test_a_table_of_totals_that_is_full(cramped: Attached, ifname: str) -> None:
    """More kinds of drops than the table has room for: what did not fit is counted, none is lost."""
    with two_hosts(ifname=ifname) as net:
        keys = [Impostor(net.a.public_key).public_key for _ in range(KINDS)]
        peers = (f"[Peer]\nPublicKey = {k}\nAllowedIPs = 172.20.0.{n}/32\n" for n, k in enumerate(keys))
        net.a.wg("addconf", ifname, "/dev/stdin", stdin="".join(peers))
        net.a.ip("route", "add", "172.20.0.0/24", "dev", ifname)
        before = cramped.counters().losses[Loss.LOST_TOTALS]
        for number in range(KINDS):  # none of them has an endpoint
            for _ in range(3):
                with contextlib.suppress(OSError):
                    net.a.send_udp(f"172.20.0.{number}")

        def lost() -> int:
            return cramped.counters().losses[Loss.LOST_TOTALS] - before

        def fit() -> int:
            return _counted(cramped, ifname).get(Reason.NO_ENDPOINT, 0)

        wait_until(lambda: fit() + lost() >= KINDS * 3)
        assert fit() + lost() == KINDS * 3
        assert lost() >= (KINDS - ROOM) * 3
