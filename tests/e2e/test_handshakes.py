# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace handshakes`: the stories of real handshakes, and the kernel's histograms of them.

Both ends are traced and told apart by their network namespace.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from datetime import datetime

import pytest
from scenes import drop_udp_to, new_key, undrop, wait_until
from stories import Side, agrees
from tracer import Line, Tracer

from wgtrace.lab.topology import Host, Network, two_hosts

pytestmark = pytest.mark.soak  # two minutes on an emulated machine

N = 23
PORT = 7007

INITIATOR = ["rekey_requested", "init_sent", "response_accepted", "session_derived", "handshake_complete"]
RESPONDER = ["init_accepted", "session_derived", "response_sent", "handshake_complete"]


def _again(host: Host, peer: Host) -> None:
    """Remove the peer and add it again: the session is gone, and a handshake is due."""
    settings = ["endpoint", peer.endpoint, "allowed-ips", ",".join(peer.inner_addrs)]
    host.wg("set", host.ifname, "peer", peer.public_key, "remove", "peer", peer.public_key, *settings)


def _arrives(net: Network) -> Callable[[], None]:
    """Something that sends a datagram from a to b through the tunnel, and waits until it is there."""
    family = socket.AF_INET6 if ":" in net.b.inner() else socket.AF_INET
    listener = net.b.socket(family)
    listener.settimeout(60)
    listener.bind((net.b.inner(), PORT))

    def send() -> None:
        net.a.send_udp(net.b.inner(), PORT)
        listener.recv(2048)

    return send


def _delay(host: Host, *netem: str) -> None:
    host.run(["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "limit", "1000", "delay", *netem])


def _buckets(steps: list[Line]) -> list[list[int]]:
    """The histogram that these handshakes make."""
    counts = Counter(line["latency_ns"].bit_length() for line in steps)
    return [[1 << b - 1, (1 << b) - 1, counts[b]] for b in range(min(counts), max(counts) + 1)]


@pytest.mark.parametrize("delay_ms", [0, 50, 300])
def test_each_handshake_is_told_and_measured(stories: Tracer, ifname: str, delay_ms: int) -> None:
    """23 handshakes: each one's story whole at both ends, and the kernel's histograms are of just these."""
    with two_hosts(ifname=ifname) as net:
        for host in (net.a, net.b) if delay_ms else ():
            _delay(host, f"{delay_ms}ms")
        a, b, arrives = Side(stories, net.a), Side(stories, net.b), _arrives(net)
        for _ in range(N):
            _again(net.a, net.b)
            arrives()
        wait_until(a.has(N, "handshake_complete"))
        wait_until(b.has(N, "handshake_complete"))

        between = ["keys_cleared"]  # of the session before, with its peer
        assert a.events() == [*INITIATOR, *(between + INITIATOR) * (N - 1)]
        assert b.events() == RESPONDER * N
        assert {line["cause"] for line in a.steps("rekey_requested")} == {"key_absent"}
        assert {line["cause"] for line in a.steps("keys_cleared")} == {"peer_removed"}
        assert {line["inner"]["dport"] for line in a.steps("rekey_requested")} == {PORT}
        for side, host, peer, role in ((a, net.a, net.b, "initiator"), (b, net.b, net.a, "responder")):
            steps = side.steps("handshake_complete")
            assert {line["role"] for line in steps} == {role}
            assert all(line["latency_ns"] >= 2 * delay_ms * 1_000_000 for line in steps)
            assert all(line["peer"]["public_key"] == peer.public_key for line in steps)
            (histogram,) = side.histograms()
            assert (histogram["stage"], histogram["count"]) == (role, N)
            assert histogram["buckets"] == _buckets(steps)
            assert histogram["buckets"][0][0] >= 1 << (2 * delay_ms * 1_000_000).bit_length() >> 1
            times = [line["latency_ns"] for line in steps]
            assert (histogram["max"], histogram["sum"]) == (max(times), sum(times))
            assert histogram["p50"] <= histogram["p90"] <= histogram["p99"] <= histogram["max"]
            agrees(host, peer, steps[-1])
        for line in a.steps("init_sent"):
            assert (line["source"], line["out_ifname"]) == (net.a.outer_addr, "eth0")
        indices = [line["sender_index"] for line in a.steps("init_sent")]
        assert [line["sender_index"] for line in b.steps("init_accepted")] == indices
        assert [line["receiver_index"] for line in a.steps("response_accepted")] == indices


def test_what_goes_wrong(stories: Tracer) -> None:
    """Initiations or responses lost, or late; an unknown peer, a wrong preshared key, a peer that moves."""
    with (
        two_hosts(ifname="lost0") as lost,
        two_hosts(ifname="deaf0") as deaf,
        two_hosts(ifname="late0") as late,
        two_hosts(ifname="unknown0") as unknown,
        two_hosts(ifname="psk0") as psk,
        two_hosts(ifname="moves0") as moves,
    ):
        drop_udp_to(lost.b, lost.b.listen_port)
        drop_udp_to(deaf.a, deaf.a.listen_port)
        late.a.run(["ping", "-n", "-c1", late.b.outer_addr])  # ARP is not to be late too
        _delay(late.b, "7s")
        unknown.b.wg("set", "unknown0", "peer", unknown.a.public_key, "remove")
        psk.a.wg(
            *("set", "psk0", "peer", psk.b.public_key, "preshared-key", "/dev/stdin"), stdin=new_key("genpsk")
        )
        for net in (lost, deaf, late, unknown, psk):
            net.a.send_udp(net.b.inner(), PORT)

        _moves(stories, moves)

        refuser = Side(stories, unknown.b)
        wait_until(refuser.has(1, "init_refused"))
        refused = refuser.steps("init_refused")[0]
        assert (refused["reason"], refused["peer"]) == ("unknown_peer_pubkey", None)
        assert refused["origin"] == unknown.a.endpoint

        other = Side(stories, psk.a)
        wait_until(other.has(1, "response_refused"))
        assert other.events()[:3] == ["rekey_requested", "init_sent", "response_refused"]
        assert other.steps("response_refused")[0]["reason"] == "resp_decrypt_failed"

        retrier, answered = Side(stories, lost.a), Side(stories, late.a)
        wait_until(retrier.has(2, "retry"))
        wait_until(retrier.has(3, "init_sent"))
        undrop(lost.b)
        wait_until(answered.has(1, "response_late"))
        late.b.run(["tc", "qdisc", "del", "dev", "eth0", "root"])

        first = answered.steps("init_sent")[0]
        told = answered.steps("response_late")[0]
        assert told["reason"] == "resp_unknown_index"
        assert told["peer"]["public_key"] == late.b.public_key
        assert told["receiver_index"] == first["sender_index"]
        assert told["latency_ns"] >= 7_000_000_000
        assert answered.events()[:5] == [
            "rekey_requested",
            "init_sent",
            "retry",
            "init_sent",
            "response_late",
        ]

        unheard = Side(stories, deaf.b)
        wait_until(unheard.has(3, "response_sent"))
        assert unheard.findings() == ["response-lost"]
        assert "handshake_complete" not in unheard.events()

        wait_until(Side(stories, psk.b).has(3, "response_sent"))
        assert other.findings() == ["preshared-key-mismatch"]
        assert Side(stories, psk.b).findings() == []

        wait_until(retrier.has(1, "handshake_complete"))
        retries = len(retrier.steps("retry"))
        sent = retrier.steps("init_sent")
        assert [line["attempt"] for line in retrier.steps("retry")] == [*range(1, retries + 1)]
        assert [line["attempt"] for line in sent] == [*range(retries + 1)]
        assert len({line["sender_index"] for line in sent}) == retries + 1
        done = retrier.steps("handshake_complete")
        assert [line["role"] for line in done] == ["initiator"]
        assert done[0]["latency_ns"] < 5_000_000_000 < 10_000_000_000 <= _apart_ns(sent[0], done[0])
        agrees(lost.a, lost.b, done[-1])


def _moves(stories: Tracer, net: Network) -> None:
    """A peer that moves, another private key, the interface down."""
    side = Side(stories, net.b)
    arrives = _arrives(net)
    arrives()
    before = net.a.endpoint
    old = net.a.outer_addr
    new = f"{old.rpartition('.')[0]}.77"
    net.a.ip("address", "del", f"{old}/24", "dev", "eth0")
    net.a.ip("address", "add", f"{new}/24", "dev", "eth0")
    net.connect()  # b answers to where a is now
    wait_until(side.has(1, "endpoint_changed"))
    (moved,) = side.steps("endpoint_changed")
    assert moved["before"] == before
    assert moved["cause"] in ("roamed", None)  # None: something was configured just then
    assert moved["peer"]["endpoint"] == before.replace(old, new)

    net.b.wg("set", net.b.ifname, "private-key", "/dev/stdin", stdin=new_key())
    wait_until(side.has(1, "keys_expired"))
    net.b.ip("link", "set", net.b.ifname, "down")
    wait_until(side.has(1, "keys_cleared"))
    assert [line["cause"] for line in side.steps("keys_cleared")] == ["interface_down"]


def _apart_ns(first: Line, last: Line) -> int:
    def ns(line: Line) -> int:
        seconds = int(datetime.fromisoformat(line["ts"][:19] + "+00:00").timestamp())
        return seconds * 1_000_000_000 + int(line["ts"][20:29])

    return ns(last) - ns(first)
