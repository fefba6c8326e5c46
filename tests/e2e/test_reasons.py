# SPDX-License-Identifier: GPL-2.0-only
"""The rest of the reasons: queues that are full, load, races, and messages that nobody sends by accident.

What was lost to a race or a full queue is not known beforehand. It is counted from
the other side: sent is what arrived and what is reported, to the packet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger import Ledger
from noise import Impostor, ipv4
from pyroute2 import WireGuard
from scenes import add_impostor, drop_udp_to, new_key, received_bytes, sent_bytes, udp, wait_until
from starve import roomy, starved_workers
from tracer import Report, Tracer

from wgtrace.lab.topology import Host, Network, two_hosts

N = 23
QUEUE, RING, HANDSHAKES = 1024, 1024, 4096  # MAX_QUEUED_PACKETS, MAX_QUEUED_INCOMING_HANDSHAKES
ROUNDS = 11  # of what needs luck; where there is none in all of them the table says so
INITIATION, KEEPALIVE = 148, 32  # bytes on the wire
UDP_SEGMENT, PACKET_VNET_HDR = 103, 15
VNET_NEEDS_CSUM, VNET_GSO_TCPV4 = 1, 1


def _to(host: Host) -> tuple[str, int]:
    return host.outer_addr, host.listen_port


def _set_up(host: Host, up: bool) -> None:
    """`ip link set up|down`, at once: without a process."""
    with host.socket(socket.AF_INET) as sock:
        name = host.ifname.encode()
        (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, 0x8913, struct.pack("16sH14x", name, 0)), 16)
        flags = flags | 1 if up else flags & ~1
        fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", name, flags))


def _drain(sock: socket.socket) -> list[bytes]:
    """What a socket has received."""
    sock.setblocking(False)
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(2048))
    return found


def _wait_for_data(sock: socket.socket, count: int) -> int:
    """How many data messages a socket gets until nothing more comes, `count` at best."""
    got = 0
    sock.settimeout(3)
    with contextlib.suppress(TimeoutError):
        while got < count:
            got += sock.recv(2048)[0] == 4
    return got


@contextlib.contextmanager
def _impostors(net: Network, count: int) -> Iterator[list[tuple[Impostor, socket.socket]]]:
    """Peers of b in a test's hands, each at a socket of its own at a."""
    with contextlib.ExitStack() as stack:
        found = []
        net.b.ip("route", "add", "172.20.0.0/16", "dev", net.b.ifname)
        for number in range(count):
            impostor = add_impostor(net.b, f"172.20.{number // 250}.{number % 250 + 2}/32")
            found.append((impostor, roomy(stack.enter_context(udp(net.a, net.b.outer_addr)))))
        yield found


def _wait_for_session(net: Network, peer: Impostor) -> None:
    """Until b has taken the initiation and the keepalive of `connect`."""
    wait_until(lambda: received_bytes(net.b, peer.public_key) >= INITIATION + KEEPALIVE)


def _remove(host: Host, public_key: str) -> None:
    """`wg set IFNAME peer KEY remove`, at once: without a process."""
    with host.enter(), WireGuard() as netlink:
        netlink.set(host.ifname, peer={"public_key": public_key, "remove": True})


def test_full_queues_on_the_way_out(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """1024 packets of a peer and 1024 of an interface may wait: the next are lost, counted by peer."""
    with two_hosts(ifname=ifname) as net:
        with (
            _impostors(net, 1) as ((silent, sock),),
            roomy(net.a.socket(socket.AF_INET)) as there,
            roomy(net.b.socket(socket.AF_INET)) as out,
        ):
            there.bind((net.a.inner(), 7))
            silent.connect(sock, _to(net.b))
            net.connect()
            _drain(sock)
            with starved_workers():
                for _ in range(QUEUE + N):
                    out.sendto(b"x", (net.a.inner(), 7))
                for _ in range(7 * N):
                    out.sendto(b"x", ("172.20.0.2", 7))
            got = _wait_for_data(sock, 7 * N)
            there.settimeout(3)
            arrived = 0
            with contextlib.suppress(TimeoutError):
                while arrived < QUEUE:
                    arrived += len(there.recv(64))

            lost = 8 * N + QUEUE - arrived - got
            report = tracer.settled(lambda r: sum(r.totals.values()) >= lost, ifname)
        assert lost > 7 * N
        ledger.holds(report, {"tx_queue_full": N, "encrypt_queue_full": lost - N})
        assert report.count("tx_queue_full", net.a.public_key) == N
        assert report.count("encrypt_queue_full", net.a.public_key) == QUEUE - arrived
        assert report.count("encrypt_queue_full", silent.public_key) == 7 * N - got
        assert {d["detail"]["queue_len"] for d in report.of("tx_queue_full")} == {QUEUE}
        assert {d["detail"]["queue_len"] for d in report.of("encrypt_queue_full")} == {RING}
        assert {d["inner"]["daddr"] for d in report.drops} == {net.a.inner(), "172.20.0.2"}


def test_full_queues_on_the_way_in(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """The same on receive: rx_queue_full of one peer, decrypt_queue_full of the next one."""
    with two_hosts(ifname=ifname) as net, _impostors(net, 2) as peers:
        for impostor, sock in peers:
            impostor.connect(sock, _to(net.b))
        for impostor, _sock in peers:
            _wait_for_session(net, impostor)
        counts = (QUEUE + N, 7 * N)
        messages = [[peer.data(b"") for _ in range(n)] for (peer, _s), n in zip(peers, counts, strict=True)]
        with starved_workers():
            for (_peer, sock), burst in zip(peers, messages, strict=True):
                for message in burst:
                    sock.sendto(message, _to(net.b))
        report = tracer.settled(lambda r: sum(r.totals.values()) >= 8 * N - 16, ifname)
        began = INITIATION + KEEPALIVE  # what brought up the session
        arrived = [(received_bytes(net.b, peer.public_key) - began) // KEEPALIVE for peer, _sock in peers]
        lost = sum(counts) - sum(arrived)
        late, many = (report.totals[reason] for reason in ("rx_queue_full", "decrypt_queue_full"))
        assert N - 2 <= late <= N  # a worker may have one in its hands already
        ledger.holds(report, {"rx_queue_full": lost - many, "decrypt_queue_full": lost - late})
        for (peer, _sock), sent, there in zip(peers, counts, arrived, strict=True):
            count = report.count("rx_queue_full", peer.public_key)
            assert count + report.count("decrypt_queue_full", peer.public_key) == sent - there
        assert {d["detail"]["queue_len"] for d in report.of("rx_queue_full")} == {QUEUE}
        assert {d["detail"]["queue_len"] for d in report.of("decrypt_queue_full")} == {RING}
        assert all(d["detail"]["receiver_index"] for d in report.drops)


def test_initiations_that_are_not_authentic(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """What of an initiation is wrong is told apart: each part of it, and a peer whose key is no key."""
    with two_hosts(ifname=ifname) as net, _impostors(net, 1) as ((known, sock),):
        zeros = "A" * 43 + "="
        net.b.wg("set", ifname, "peer", zeros, "allowed-ips", "172.21.0.1/32")
        parts = {"ephemeral": 23, "static": 19, "timestamp": 17, "low order": 13}
        for part, count in parts.items():
            for _ in range(count):
                sock.sendto(known.initiation(spoilt=part), _to(net.b))

        report = tracer.settled(lambda r: sum(r.totals.values()) >= sum(parts.values()), ifname)
        sent = {
            "init_dh_failed": 23,
            "init_static_decrypt_failed": 19,
            "init_timestamp_decrypt_failed": 17,
            "init_precomputed_zero": 13,
        }
        ledger.holds(report, sent)
        assert report.count("init_timestamp_decrypt_failed", known.public_key) == 17
        assert report.count("init_precomputed_zero", zeros) == 13


def test_two_initiations_at_once(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Initiations less than 20 ms apart, each newer than the last: handshake_flood."""
    with two_hosts(ifname=ifname) as net, _impostors(net, 1) as ((known, sock),):
        sent, report, now = 0, tracer.report(ifname), 1_700_000_000
        for _ in range(ROUNDS):
            with starved_workers():
                for _ in range(7):
                    now += 60
                    sock.sendto(known.initiation(now), _to(net.b))
                    sent += 1
            report = _all_seen(tracer, sent, ("init_accepted",), ifname)
            if report.totals.get("handshake_flood"):
                break
        others = report.totals.get("handshake_init_replay", 0)  # overtaken, on another CPU
        flooded = sent - others - report.steps["init_accepted"]
        ledger.holds(report, _some("handshake_flood", flooded) | _some("handshake_init_replay", others))


def _some(reason: str, count: int) -> dict[str, int]:
    return {reason: count} if count else {}


def _all_seen(tracer: Tracer, sent: int, steps: tuple[str, ...], ifname: str) -> Report:
    """The report when drops and steps together are as many as was sent."""
    return tracer.settled(
        lambda r: sum(r.totals.values()) + sum(r.steps.get(step, 0) for step in steps) >= sent, ifname
    )


@pytest.mark.soak
def test_under_load(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """4096 handshakes may wait; from 512 on each is answered with a cookie, which lets 20 a second in."""
    with two_hosts(ifname=ifname) as net, _impostors(net, 1) as ((known, sock),):
        forged = known.initiation(spoilt="static")
        with starved_workers():
            for _ in range(HANDSHAKES + N):
                sock.sendto(forged, _to(net.b))
        first = tracer.settled(lambda r: sum(r.totals.values()) >= HANDSHAKES + N, ifname)
        replies = [message for message in _drain(sock) if message[0] == 3]
        late = first.totals.get("init_static_decrypt_failed", 0)  # a second after the queue was short again
        full = first.totals["handshake_queue_full"]
        assert N <= full < N + 16  # the ring holds up to 15 less
        assert len(replies) == HANDSHAKES + N - full - late
        sent = {"cookie_under_load": HANDSHAKES + N - full - late, "handshake_queue_full": full}
        ledger.holds(first, sent | _some("init_static_decrypt_failed", late))
        assert {d["detail"]["queue_len"] for d in first.of("handshake_queue_full")} <= set(
            range(HANDSHAKES - 15, HANDSHAKES + 1)
        )

        good = known.with_cookie(known.initiation(), replies[0], forged)
        with starved_workers():
            for _ in range(61):
                sock.sendto(good, _to(net.b))
            for _ in range(600):  # behind them: it is the length of the queue that is load
                sock.sendto(forged, _to(net.b))
        report = _all_seen(tracer, HANDSHAKES + N + 661, ("init_accepted",), ifname)
    counts, accepted = dict(report.totals), report.steps["init_accepted"]
    assert 1 <= accepted <= 2  # a worker on each CPU may look at the same one at once, and take it
    again = 61 - accepted - counts.get("handshake_init_replay", 0) - counts.get("handshake_flood", 0)
    ledger.add("ratelimited", again, counts["ratelimited"])
    assert sum(counts.values()) == HANDSHAKES + N + 661 - accepted


def test_answers_that_are_wrong(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Responses and cookies to an initiation of the kernel: each way to be wrong, and the right ones."""
    with two_hosts(ifname=ifname) as net, _impostors(net, 1) as ((other, sock),):
        initiation = _initiation_to(net, other, sock)
        for _ in range(23):
            sock.sendto(other.response(initiation, spoilt=True), _to(net.b))
        for _ in range(19):
            sock.sendto(other.response(initiation, preshared=os.urandom(32)), _to(net.b))
        for number in range(17):
            sock.sendto(struct.pack("<II", 3, number) + os.urandom(56), _to(net.b))
        for _ in range(13):
            sock.sendto(initiation[:0] + struct.pack("<I", 3) + initiation[4:8] + os.urandom(56), _to(net.b))
        for _ in range(1 + 11):
            sock.sendto(other.cookie_reply(initiation), _to(net.b))
        sent = {
            "resp_dh_failed": 23,
            "resp_decrypt_failed": 19,
            "cookie_unknown_index": 17,
            "cookie_decrypt_failed": 13,
            "cookie_unsolicited": 11,
        }
        report = tracer.settled(lambda r: sum(r.totals.values()) >= sum(sent.values()), ifname)
        ledger.holds(report, sent)
        assert report.steps["cookie_received"] == 1
        for reason in set(sent) - {"cookie_unknown_index"}:
            assert report.count(reason, other.public_key) == sent[reason]
        assert {d["detail"]["receiver_index"] for d in report.of("cookie_unknown_index")} == set(range(17))


def _initiation_to(net: Network, peer: Impostor, sock: socket.socket) -> bytes:
    """Have b want to speak to a peer in the test's hands: its initiation."""
    sock.connect(_to(net.b))
    endpoint = "{}:{}".format(*sock.getsockname())
    net.b.wg("set", net.b.ifname, "peer", peer.public_key, "endpoint", endpoint)
    net.b.send_udp("172.20.0.2")
    sock.settimeout(60)
    while (message := sock.recv(2048))[0] != 1:
        pass
    return message


def test_one_response_many_times(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Two CPUs at the same response: one takes it, for the other it is resp_superseded or too late."""
    sent, found = 0, {}
    for number in range(ROUNDS):
        name = f"{ifname}{number}"
        with two_hosts(ifname=name) as net, _impostors(net, 1) as ((other, sock),):
            response = other.response(_initiation_to(net, other, sock))
            with starved_workers():
                for _ in range(7):
                    sock.sendto(response, _to(net.b))
            sent += 7
            report = _all_seen(tracer, 7, ("response_accepted",), name)
            assert report.steps["response_accepted"] == 1
            assert sum(report.totals.values()) == 6
            found = report.totals
            if found.get("resp_superseded"):
                break
    assert set(found) <= {"resp_superseded", "resp_bad_state", "resp_unknown_index"}
    for reason, count in found.items():
        ledger.add(reason, 6 - sum(n for r, n in found.items() if r != reason), count)


def test_the_interface_goes_down_over_handshakes(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """41 initiations wait when the interface goes down: taken, not answered, thrown away; none is missing."""
    sent = dict.fromkeys(("response_not_sent", "handshake_purged_ifdown"), 0)
    with two_hosts(ifname=ifname) as net, _impostors(net, 41) as peers:
        before = tracer.report(ifname)
        now, count, report = 1_700_000_000, 0, before
        for _ in range(ROUNDS):
            now += 60
            messages = [(peer.initiation(now), sock) for peer, sock in peers]
            with starved_workers():
                for message, sock in messages:
                    sock.sendto(message, _to(net.b))
                count += len(messages)
            _set_up(net.b, False)
            _set_up(net.b, True)
            report = _all_seen(tracer, count, ("init_accepted",), ifname)
            if all(report.totals.get(reason) for reason in sent):
                break
    # A response that is made finds no socket any more: its initiation was accepted.
    found = {r: n for r, n in report.totals.items() if r != "udp_sock_null"}
    assert set(found) <= set(sent)
    for reason, other in (tuple(sent), tuple(sent)[::-1]):
        not_accepted = count - report.steps["init_accepted"]
        ledger.add(reason, not_accepted - found.get(other, 0), found.get(reason, 0))


def test_a_socket_that_is_closed(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Datagrams that arrive while the interface goes down: each is bad_header, the socket's, or nobody's."""
    with two_hosts(ifname=ifname) as net, udp(net.a, net.b.outer_addr) as sock:
        sending, count = threading.Event(), [0]
        sending.set()

        def flood() -> None:
            while sending.is_set():
                sock.sendto(b"\x09\x00\x00\x00", _to(net.b))
                count[0] += 1

        nobody = _no_ports(net.b)
        report = tracer.report(ifname)
        for _ in range(ROUNDS):
            sending.set()
            thread = threading.Thread(target=flood)
            thread.start()
            before = count[0]
            wait_until(lambda known=before: count[0] > known + 7)  # type: ignore[misc]
            _set_up(net.b, False)
            before = count[0]
            wait_until(lambda known=before: count[0] > known + 7)  # type: ignore[misc]
            _set_up(net.b, True)
            sending.clear()
            thread.join()
            lost = count[0] - (_no_ports(net.b) - nobody)
            report = tracer.settled(lambda r, n=lost: sum(r.totals.values()) >= n, ifname)  # type: ignore[misc]
            if report.totals.get("sock_user_data_null"):
                break
    assert set(report.totals) <= {"bad_header", "sock_user_data_null"}
    closing = lost - report.totals["bad_header"]
    ledger.add("sock_user_data_null", closing, report.totals.get("sock_user_data_null", 0))
    ledger.add("bad_header", lost - closing, report.totals["bad_header"])


def _no_ports(host: Host) -> int:
    """Datagrams that found no socket."""
    with host.enter():
        names, values = Path("/proc/thread-self/net/snmp").read_text().split("Udp: ")[1:3]
    return int(values.split()[names.split().index("NoPorts")])


def test_a_peer_removed_under_traffic(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Old messages of a peer while it is removed: replays, peer_dead_rx, of no session; none is missing."""
    with two_hosts(ifname=ifname) as net, udp(net.a, net.b.outer_addr) as sock:
        peer, count = Impostor(net.b.public_key), [0]
        sending = threading.Event()
        report = tracer.report(ifname)
        for _ in range(ROUNDS):
            net.b.wg("set", ifname, "peer", peer.public_key, "allowed-ips", "172.20.0.2/32")
            peer.connect(sock, _to(net.b))
            _wait_for_session(net, peer)
            old = peer.data(b"", counter=0)

            def flood(message: bytes = old) -> None:
                while sending.is_set():
                    sock.sendto(message, _to(net.b))
                    count[0] += 1

            sending.set()
            thread = threading.Thread(target=flood)
            thread.start()
            before = count[0]
            wait_until(lambda known=before: count[0] > known + 7)  # type: ignore[misc]
            _remove(net.b, peer.public_key)
            sending.clear()
            thread.join()
            report = tracer.settled(lambda r: sum(r.totals.values()) >= count[0], ifname)
            if report.totals.get("peer_dead_rx"):
                break
    gone = {"replay_or_old_counter", "unknown_receiver_index", "peer_dead_rx"}
    assert set(report.totals) <= gone
    for reason in report.totals:
        others = sum(n for r, n in report.totals.items() if r != reason)
        ledger.add(reason, count[0] - others, report.totals[reason])
    assert report.count("peer_dead_rx", peer.public_key) == report.totals.get("peer_dead_rx", 0)


def test_in_too_many_pieces(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """A good message that arrives in 30 fragments is more than the kernel decrypts: decrypt_nomem."""
    with two_hosts(ifname=ifname) as net, _impostors(net, 1) as ((peer, sock),):
        peer.connect(sock, _to(net.b))
        _wait_for_session(net, peer)
        net.a.ip("link", "set", "eth0", "mtu", "68")
        for _ in range(N):
            sock.sendto(peer.data(ipv4("172.20.0.2", net.b.inner(), bytes(1400))), _to(net.b))

        report = tracer.settled(lambda r: sum(r.totals.values()) >= N, ifname)
    ledger.holds(report, {"decrypt_nomem": N})
    assert {d["peer"]["public_key"] for d in report.drops} == {peer.public_key}
    assert [d["detail"]["nonce"] for d in report.drops] == list(range(1, N + 1))


@pytest.mark.soak
def test_handshakes_that_are_not_sent(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """No endpoint to send to, no key to make one with, and one sent just now; what waits says why."""
    with two_hosts(ifname=ifname) as net:
        drop_udp_to(net.b, net.b.listen_port)
        nowhere = Impostor(net.a.public_key).public_key
        net.a.wg("set", ifname, "peer", nowhere, "persistent-keepalive", "60")
        report = tracer.settled(lambda r: bool(r.totals), ifname)
        tries = 1 + report.steps_of(nowhere).get("retry", 0)  # each 5 s another
        ledger.holds(report, {"endpoint_af_invalid": tries})
        assert {d["detail"]["errno"] for d in report.drops} == {errno.EAFNOSUPPORT}
        assert report.count("endpoint_af_invalid", nowhere) == tries

        net.a.send_udp(net.b.inner())
        # Before the first is sent, by a worker, others are neither sent nor held back.
        wait_until(lambda: sent_bytes(net.a, net.b.public_key) >= INITIATION)
        net.a.send_udp(net.b.inner(), count=N - 1)
        report = tracer.settled(lambda r: r.steps.get("staged_wait:key_absent", 0) >= N + 1, ifname)
        steps = report.steps_of(net.b.public_key)
        assert steps["staged_wait:key_absent"] == N
        # Those of a retry nobody asked for; the others were asked for, once by each packet.
        assert steps["init_suppressed_5s"] == N - (steps["init_sent"] - steps.get("retry", 0))

        net.a.wg("set", ifname, "peer", nowhere, "remove")
        net.a.wg("set", ifname, "private-key", "/dev/null")
        lonely = Impostor(net.b.public_key).public_key
        net.a.wg("set", ifname, "peer", lonely, "endpoint", net.b.endpoint, "persistent-keepalive", "60")
        report = tracer.settled(lambda r: "init_create_failed" in r.totals, ifname)
    assert report.count("init_create_failed", lonely) == 1
    ledger.add("init_create_failed", 1, report.count("init_create_failed", lonely))


def test_a_key_that_is_no_longer_valid(tracer: Tracer, ifname: str) -> None:
    """A new private key ends the sessions: what waits for the next handshake says so."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        drop_udp_to(net.b, net.b.listen_port)
        net.a.wg("set", ifname, "private-key", "/dev/stdin", stdin=new_key())
        net.a.send_udp(net.b.inner(), count=N)
        report = tracer.settled(lambda r: r.steps.get("staged_wait:key_invalidated", 0) >= N, ifname)
    assert report.steps["staged_wait:key_invalidated"] == N
    assert report.totals == {}
