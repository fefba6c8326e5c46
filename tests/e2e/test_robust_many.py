# SPDX-License-Identifier: GPL-2.0-only
"""More than there is room for: 200 peers with traffic, 300 interfaces, a table of totals that is full."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from noise import Impostor, ipv4
from scenes import new_key, send, udp, wait_until
from tracer import Tracer

from wgtrace.events.decode import total
from wgtrace.events.reasons import Reason
from wgtrace.events.types import DropTotal
from wgtrace.events.wire import Loss
from wgtrace.lab.topology import Network, two_hosts
from wgtrace.loader import bcc_loader
from wgtrace.loader.bcc_loader import Settings

GARBAGE = b"\x09\x00\x00\x00" + bytes(60)
PEERS, EACH = 200, 3
TRAFFIC = 2003
SO_RCVBUFFORCE = 33
DEVICES = 300  # WGT_MAX_DEVICES is 256
ROOM, KINDS = 16, 23


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


@contextlib.contextmanager
def _crowd(net: Network) -> Iterator[int]:
    """Host b with 300 more interfaces; gives the port of the one that was made last."""
    links = "".join(f"link add crowd{n} type wireguard\n" for n in range(DEVICES))
    subprocess.run(["ip", "-n", net.b.netns, "-batch", "-"], input=links, text=True, check=True)
    last, port = f"crowd{DEVICES - 1}", 40321
    net.b.wg("set", last, "listen-port", str(port), "private-key", "/dev/stdin", stdin=new_key())
    net.b.ip("link", "set", last, "up")
    yield port


def test_three_hundred_interfaces(tracer: Tracer, ifname: str) -> None:
    """What belongs to no session, at an interface beyond those that can be searched: counted, and said."""
    with two_hosts(ifname=ifname) as net, _crowd(net) as port, udp(net.a, net.b.outer_addr) as sock:
        before = tracer.report("").totals
        for _ in range(23):
            sock.sendto(GARBAGE, (net.b.outer_addr, port))
        send(net.a, net.b, [GARBAGE] * 7)  # this interface is among the first 256

        report = tracer.settled(lambda r: r.totals.get("bad_header", 0) >= 7, ifname)
        assert report.totals == {"bad_header": 7}
        nowhere = tracer.settled(lambda r: r.totals.get("bad_header", 0) >= 23, "")
        assert nowhere.totals == {**before, "bad_header": before.get("bad_header", 0) + 23}
        assert nowhere.summary["lost"]["devices"] >= 23
        assert any("was not found" in why for why in nowhere.summary["incomplete_because"])


def test_a_table_of_totals_that_is_full(ifname: str, tmp_path: Path) -> None:
    """More kinds of drops than the table has room for: what did not fit is counted, none is lost."""
    tracer = bcc_loader.Tracer(Settings(None, totals=ROOM))
    try:
        with two_hosts(ifname=ifname) as net:
            keys = [Impostor(net.a.public_key).public_key for _ in range(KINDS)]
            peers = (f"[Peer]\nPublicKey = {k}\nAllowedIPs = 172.20.0.{n}/32\n" for n, k in enumerate(keys))
            net.a.wg("addconf", ifname, "/dev/stdin", stdin="".join(peers))
            net.a.ip("route", "add", "172.20.0.0/24", "dev", ifname)
            for number in range(KINDS):  # none of them has an endpoint
                for _ in range(3):
                    with contextlib.suppress(OSError):
                        net.a.send_udp(f"172.20.0.{number}")

            def counted() -> tuple[int, int]:
                ours = (total(key, count) for key, count in tracer.totals())
                sums = sum(t.count for t in ours if isinstance(t, DropTotal) and t.ifname == ifname)
                return sums, tracer.counters().losses[Loss.LOST_TOTALS]

            wait_until(lambda: sum(counted()) >= KINDS * 3)
            fit, lost = counted()
    finally:
        tracer.close()
    assert fit + lost == KINDS * 3
    assert 0 < lost <= (KINDS - 1) * 3
    assert Reason.NO_ENDPOINT.id == "no_endpoint"
