# SPDX-License-Identifier: GPL-2.0-only
"""Sent 23, seen 23: each reason provoked on the running kernel, and nothing else reported."""

from __future__ import annotations

import errno
import os
import struct
import subprocess

import pytest
from ledger import Ledger
from noise import Impostor, ipv4, ipv6, response_for_nobody
from scenes import (
    ETH_P_IP,
    add_impostor,
    drop_udp_to,
    new_key,
    received_bytes,
    send,
    send_frames,
    sniffing,
    udp,
    wait_until,
)
from tracer import Tracer

from wgtrace.lab.topology import Network, two_hosts

N = 23
REJECT_AFTER_MESSAGES = 2**64 - 1 - 8128 - 1  # messages.h


def _refused(net: Network, to: str, count: int, source: str = "") -> None:
    """Send datagrams that the kernel refuses with an error."""
    for _ in range(count):
        with pytest.raises(OSError, match=r"key not available|address required"):
            net.a.send_udp(to, source=source)


@pytest.mark.parametrize(("outer", "inner"), [(4, 4), (6, 4), (4, 6)])
def test_the_six_kinds(tracer: Tracer, ledger: Ledger, ifname: str, outer: int, inner: int) -> None:
    """Six kinds of drops, 23 each, over any families: right reason, peer, count, and no other drop."""
    ports = (41641, 7351, 9)
    with two_hosts(outer=outer, inner=inner, ifname=ifname, ports=ports) as net:
        net.connect()
        with sniffing(net.b) as sniffer:
            net.a.send_udp(net.b.inner(), payload=b"once")
            replayed = sniffer.messages(4, net.b.listen_port, 1) * N
        stray, foreign = ("192.168.50.1", "192.168.77.1") if inner == 4 else ("fd50::1", "fd77::1")
        net.a.ip("addr", "add", f"{stray}/{32 if inner == 4 else 128}", "dev", "lo")
        net.a.ip("route", "add", foreign, "dev", ifname)

        send(net.a, net.b, [b"\x09\x00\x00\x00" + os.urandom(60) for _ in range(N)])
        send(net.a, net.b, [b"\x01\x00\x00\x00" + os.urandom(144) for _ in range(N)])
        send(net.a, net.b, [b"\x04\x00\x00\x00" + os.urandom(60) for _ in range(N)])
        send(net.a, net.b, replayed)
        net.a.send_udp(net.b.inner(), count=N, source=stray)
        _refused(net, foreign, N)

        report = tracer.settled(lambda r: sum(r.totals.values()) >= 6 * N, ifname)
        expected = [
            "bad_header",
            "invalid_mac1",
            "unknown_receiver_index",
            "replay_or_old_counter",
            "src_not_allowed",
            "allowedips_no_peer",
        ]
        ledger.holds(report, dict.fromkeys(expected, N))
        assert {reason: len(report.of(reason)) for reason in expected} == dict.fromkeys(expected, N)
        for drop in report.of("src_not_allowed"):
            assert drop["peer"]["public_key"] == net.a.public_key
            assert drop["inner"]["saddr"] == stray
            assert drop["inner"]["daddr"] == net.b.inner()
            assert drop["outer"]["saddr"] == net.a.outer_addr
            assert drop["outer"]["dport"] == net.b.listen_port
        for drop in report.of("replay_or_old_counter"):
            assert drop["peer"]["public_key"] == net.a.public_key
            assert drop["sub_reason"] == "duplicate"
            assert drop["detail"]["nonce"] == struct.unpack_from("<Q", replayed[0], 8)[0]
        for drop in report.of("allowedips_no_peer"):
            assert (drop["direction"], drop["inner"]["daddr"]) == ("tx", foreign)
        for reason in ("bad_header", "invalid_mac1", "unknown_receiver_index"):
            for drop in report.of(reason):
                assert (drop["peer"], drop["outer"]["saddr"]) == (None, net.a.outer_addr)
        assert report.slugs == [
            "destination-not-allowed",
            "duplicated-packets",
            "not-wireguard",
            "source-not-allowed",
            "wrong-key-for-us",
        ]
        assert {f["slug"]: f["count"] for f in report.findings} == dict.fromkeys(report.slugs, N)
        for line in report.summary["reconciliation"]:
            assert line["moved"] == line["explained"], line


def test_a_flood(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """4999 datagrams at full speed: the total is exact, and what was not shown is counted."""
    count = 4999
    with two_hosts(ifname=ifname) as net:
        send(net.a, net.b, [b"\x09\x00\x00\x00" + bytes(60)] * count)

        report = tracer.settled(lambda r: r.totals.get("bad_header", 0) >= count, ifname)
        lost = report.summary["lost"]
        ledger.holds(report, {"bad_header": count})
        shown = len(report.drops)
        assert shown + lost["rate_limited"].get("bad_header", 0) + lost["events"] == count
        assert report.finding("not-wireguard")["count"] == count
        assert report.summary["complete"] is (shown == count)


def test_a_peer_without_endpoint(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """23 packets to a peer that has no endpoint yet: no_endpoint, with the peer."""
    with two_hosts(ifname=ifname) as net:
        net.a.wg("set", ifname, "peer", net.b.public_key, "remove")
        net.a.wg("set", ifname, "peer", net.b.public_key, "allowed-ips", net.b.allowed_ips)
        _refused(net, net.b.inner(), N)

        report = tracer.settled(lambda r: r.totals.get("no_endpoint", 0) >= N, ifname)
        ledger.holds(report, {"no_endpoint": N})
        assert {drop["peer"]["public_key"] for drop in report.drops} == {net.b.public_key}
        assert report.slugs == ["no-endpoint"]


def test_not_ip_at_all(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """23 frames marked IPv4 that are none: bad_protocol, on the way out."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        send_frames(net.a, ifname, ETH_P_IP, [b"\xff" * 60] * N)

        report = tracer.settled(lambda r: r.totals.get("bad_protocol", 0) >= N, ifname)
        ledger.holds(report, {"bad_protocol": N})


def test_datagrams_that_are_no_messages(tracer: Tracer, ifname: str) -> None:
    """What is wrong with a datagram is told: too short, unknown type, wrong length for its type."""
    with two_hosts(ifname=ifname) as net:
        send(net.a, net.b, [b"\x01\x00"] * 7)
        send(net.a, net.b, [b"\x01\x00\x00\x00" + bytes(143)] * 11)
        send(net.a, net.b, [b"\x04\x00\x00\x00" + bytes(27)] * 13)
        send(net.a, net.b, [b"\x02\x01\x00\x00" + bytes(88)] * 17)
        send(net.a, net.b, [b""] * 3)

        report = tracer.settled(lambda r: r.totals.get("bad_header", 0) >= 51, ifname)
        counts = {t["sub_reason"]: t["count"] for t in report.summary["totals"]}
        assert counts == {"too_short": 10, "wrong_length_for_type": 24, "unknown_type": 17}
        assert report.slugs == ["not-wireguard"]


def test_what_a_peer_may_not_put_inside(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Authentic messages with a bad inside: header, size, source of nobody and of another peer."""
    with two_hosts(ifname=ifname) as net:
        impostor = add_impostor(net.b, "172.20.0.7/32,fd20::7/128")
        owner = add_impostor(net.b, "172.20.0.9/32,172.21.0.0/16")
        to = (net.b.outer_addr, net.b.listen_port)
        with udp(net.a, net.b.outer_addr) as sock:
            impostor.connect(sock, to)
            inside = (
                [b"\xf0" + bytes(40)] * 7
                + [b"\x45" + bytes(8)] * 3
                + [ipv4("172.20.0.7", net.b.inner(), bytes(16), total_len=19)] * 11
                + [ipv4("172.20.0.7", net.b.inner(), bytes(16), total_len=2000)] * 2
                + [ipv6("fd20::7", "fd20::1", bytes(16), payload_len=900)] * 5
                + [ipv4("172.20.0.8", net.b.inner())] * 13
                + [ipv4("172.20.0.9", net.b.inner())] * 17
                + [ipv4("172.21.44.5", net.b.inner())] * 2
            )
            for packet in inside:
                sock.sendto(impostor.data(packet), to)

            report = tracer.settled(lambda r: sum(r.totals.values()) >= len(inside), ifname)
        ledger.holds(report, {"bad_inner_header": 10, "bad_inner_size": 18, "src_not_allowed": 32})
        assert {d["peer"]["public_key"] for d in report.drops} == {impostor.public_key}
        owners = [d["detail"].get("owner") for d in report.of("src_not_allowed")]
        assert (owners.count(None), owners.count(owner.public_key)) == (13, 19)
        assert {f["slug"]: f["count"] for f in report.findings} == {
            "source-not-allowed": 13,
            "source-owned-by-other-peer": 19,
        }
        assert {r["counter"]: (r["moved"], r["explained"]) for r in report.summary["reconciliation"]} == {
            "rx_errors": (60, 60),
            "rx_length_errors": (18, 18),
            "rx_frame_errors": (42, 42),
        }


def test_counters_of_a_session(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Seen before, too old and used up counters, and messages changed on the way, are told apart."""
    with two_hosts(ifname=ifname) as net:
        impostor = add_impostor(net.b, "172.20.0.7/32")
        to = (net.b.outer_addr, net.b.listen_port)
        inner = ipv4("172.20.0.7", net.b.inner())
        with udp(net.a, net.b.outer_addr) as sock:
            impostor.connect(sock, to)
            sock.sendto(impostor.data(inner, counter=20_000), to)
            for _ in range(7):
                sock.sendto(impostor.data(inner, counter=20_000), to)
            for counter in range(100, 111):
                sock.sendto(impostor.data(inner, counter=counter), to)
            for counter in range(20_100, 20_113):
                message = bytearray(impostor.data(inner, counter=counter))
                message[-1] ^= 1
                sock.sendto(bytes(message), to)

            report = tracer.settled(lambda r: sum(r.totals.values()) >= 31, ifname)
        subs = {
            (t["reason"], t["sub_reason"]): t["count"]
            for t in report.summary["totals"]
            if t["layer"] == "wireguard"
        }
        # What was in the only good one has no checksum: that is told of IP, and of nobody else.
        assert report.outside == {("ip_csum", "inner", None): 1}
        assert subs == {
            ("replay_or_old_counter", "duplicate"): 7,
            ("replay_or_old_counter", "too_old"): 11,
            ("decrypt_failed", None): 13,
        }
        ledger.holds(report, {"replay_or_old_counter": 18, "decrypt_failed": 13})
        assert {d["peer"]["public_key"] for d in report.drops} == {impostor.public_key}


def test_a_session_used_up(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Counters beyond the limit, and a session at its limit, are told apart from replays."""
    with two_hosts(ifname=ifname) as net:
        impostor = add_impostor(net.b, "172.20.0.7/32")
        to = (net.b.outer_addr, net.b.listen_port)
        with udp(net.a, net.b.outer_addr) as sock:
            impostor.connect(sock, to)
            for beyond in range(11):
                sock.sendto(impostor.data(b"", counter=REJECT_AFTER_MESSAGES + beyond), to)
            report = tracer.settled(lambda r: sum(r.totals.values()) >= 11, ifname)
            before = received_bytes(net.b, impostor.public_key)
            sock.sendto(impostor.data(b"", counter=REJECT_AFTER_MESSAGES - 1), to)
            # Only once that one is through does decrypt_packet() refuse the next; before, it is too old.
            wait_until(lambda: received_bytes(net.b, impostor.public_key) > before)
            for counter in range(7):
                sock.sendto(impostor.data(b"", counter=10 + counter), to)
            report = tracer.settled(lambda r: sum(r.totals.values()) >= 18, ifname)
        subs = {(t["reason"], t["sub_reason"]): t["count"] for t in report.summary["totals"]}
        assert subs == {("replay_or_old_counter", "exhausted"): 11, ("nonce_limit_rx", None): 7}
        ledger.holds(report, {"replay_or_old_counter": 11, "nonce_limit_rx": 7})


def test_no_private_key(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """An interface that lost its private key says so to 23 initiations."""
    with two_hosts(ifname=ifname) as net:
        impostor = add_impostor(net.b, "172.20.0.7/32")
        net.b.wg("set", ifname, "private-key", "/dev/null")
        send(net.a, net.b, [impostor.initiation() for _ in range(N)])

        report = tracer.settled(lambda r: r.totals.get("no_private_key", 0) >= N, ifname)
        ledger.holds(report, {"no_private_key": N})


def test_the_birth_namespace_is_gone(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """An interface whose namespace of birth was deleted has no socket: udp_sock_null, its errno."""
    with two_hosts(ifname=ifname) as net:
        born = f"born-{ifname}"
        subprocess.run(["ip", "netns", "add", born], check=True)
        subprocess.run(["ip", "-n", born, "link", "add", f"{ifname}b", "type", "wireguard"], check=True)
        subprocess.run(["ip", "-n", born, "link", "set", f"{ifname}b", "netns", net.a.netns], check=True)
        net.a.wg("set", f"{ifname}b", "private-key", "/dev/stdin", stdin=new_key())
        net.a.ip("link", "set", f"{ifname}b", "up")
        subprocess.run(["ip", "netns", "del", born], check=True)
        peer = ["peer", net.b.public_key, "endpoint", net.b.endpoint, "persistent-keepalive", "600"]
        net.a.wg("set", f"{ifname}b", *peer)

        report = tracer.settled(lambda r: r.totals.get("udp_sock_null", 0) >= 1, f"{ifname}b")
        # the keepalive wants a handshake, which is tried again after five seconds
        ledger.holds(report, {"udp_sock_null": 1 + report.steps.get("retry", 0)})
        assert {d["detail"]["errno"] for d in report.drops} == {errno.ENONET}
        assert {d["peer"]["public_key"] for d in report.drops} == {net.b.public_key}


def test_who_knocks(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Unknown keys, initiations sent again and answers to nobody: 23 each, the key printed whole."""
    with two_hosts(ifname=ifname) as net:
        to = (net.b.outer_addr, net.b.listen_port)
        stranger = Impostor(net.b.public_key)
        known = add_impostor(net.b, "172.20.0.7/32")
        with udp(net.a, net.b.outer_addr) as sock:
            for _ in range(N):
                sock.sendto(stranger.initiation(), to)
            first = known.initiation()
            sock.settimeout(60)
            sock.sendto(first, to)
            assert sock.recv(2048)[0] == 2
            for _ in range(N):
                sock.sendto(first, to)
            for index in range(N):
                sock.sendto(response_for_nobody(net.b.public_key, index), to)

            report = tracer.settled(lambda r: sum(r.totals.values()) >= 3 * N, ifname)
        ledger.holds(
            report,
            {
                "unknown_peer_pubkey": N,
                "handshake_init_replay": N,
                "resp_unknown_index": N,
            },
        )
        unknown = {d["detail"]["unknown_public_key"] for d in report.of("unknown_peer_pubkey")}
        assert unknown == {stranger.public_key}
        replays = report.of("handshake_init_replay")
        assert {d["peer"]["public_key"] for d in replays} == {known.public_key}
        assert all(d["detail"]["timestamp"] == d["detail"]["latest_timestamp"] for d in replays)
        assert report.finding("unknown-peer")["count"] == N
        assert stranger.public_key in report.finding("unknown-peer")["cause"] + str(
            report.finding("unknown-peer")["fix"]
        )


def test_packets_that_wait_for_nothing(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Without an answer 129 packets wait and the oldest go; removing the peer loses the rest."""
    with two_hosts(ifname=ifname) as net:
        drop_udp_to(net.b, net.b.listen_port)
        net.a.send_udp(net.b.inner(), count=129 + N)

        report = tracer.settled(lambda r: r.totals.get("staged_queue_overflow", 0) >= N, ifname)
        assert report.totals == {"staged_queue_overflow": N}
        assert {d["peer"]["public_key"] for d in report.drops} == {net.b.public_key}
        assert {d["inner"]["daddr"] for d in report.drops} == {net.b.inner()}

        net.a.wg("set", ifname, "peer", net.b.public_key, "remove")
        report = tracer.settled(lambda r: len(r.totals) > 1, ifname)
        ledger.holds(report, {"staged_queue_overflow": N, "staged_purged_peer_removed": 129})
        purged = report.of("staged_purged_peer_removed")
        assert {d["peer"]["public_key"] for d in purged} == {net.b.public_key}
        assert {r["counter"]: (r["moved"], r["explained"]) for r in report.summary["reconciliation"]} == {
            "tx_dropped": (129 + N, 129 + N)
        }


def test_the_interface_goes_down(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """Packets that wait when the interface goes down: staged_purged_ifdown, 23 of 23."""
    with two_hosts(ifname=ifname) as net:
        drop_udp_to(net.b, net.b.listen_port)
        net.a.send_udp(net.b.inner(), count=N)
        net.a.ip("link", "set", ifname, "down")

        report = tracer.settled(lambda r: r.totals.get("staged_purged_ifdown", 0) >= N, ifname)
        ledger.holds(report, {"staged_purged_ifdown": N})
        assert {d["peer"]["public_key"] for d in report.drops} == {net.b.public_key}


def test_no_route_to_the_endpoint(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """A route that goes away under a session: 23 data packets, each no_route_to_endpoint, its peer."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        net.a.ip("addr", "flush", "dev", "eth0")
        net.a.send_udp(net.b.inner(), count=N)

        report = tracer.settled(lambda r: r.totals.get("no_route_to_endpoint", 0) >= N, ifname)
        data = [d for d in report.of("no_route_to_endpoint") if d["detail"]["message_type"] == 4]
        assert set(report.totals) == {"no_route_to_endpoint"}
        assert len(data) == N
        ledger.add("no_route_to_endpoint", N, len(data))
        assert {d["peer"]["public_key"] for d in report.drops} == {net.b.public_key}


def test_no_route_for_a_handshake(tracer: Tracer, ledger: Ledger, ifname: str) -> None:
    """A handshake that finds no route tells the errno."""
    with two_hosts(ifname=ifname) as net:
        net.a.wg("set", ifname, "peer", net.b.public_key, "endpoint", "203.0.113.5:9")
        net.a.send_udp(net.b.inner())

        report = tracer.settled(lambda r: bool(r.totals), ifname)
        ledger.holds(report, {"no_route_to_endpoint": 1 + report.steps.get("retry", 0)})
        assert {d["detail"]["errno"] for d in report.drops} == {errno.ENETUNREACH}
        assert {d["peer"]["public_key"] for d in report.drops} == {net.b.public_key}
