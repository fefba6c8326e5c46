# SPDX-License-Identifier: GPL-2.0-only
"""What happens to tunnels in the field, as `wgtrace handshakes` tells it: each scene's story and finding."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from noise import Impostor
from scenes import new_key, udp, wait_until
from stories import Side, agrees
from tracer import Line, Tracer

from wgtrace.lab.topology import (
    Host,
    Network,
    hub_and_spokes,
    router_with_nat,
    two_hosts,
    two_hosts_and_router,
)

pytestmark = pytest.mark.soak  # some minutes on an emulated machine

N = 23
PORT = 7007


def _public_key(private_key: str) -> str:
    done = subprocess.run(["wg", "pubkey"], input=private_key, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _keeps_alive(host: Host, peer: str, seconds: int = 1) -> None:
    host.wg("set", host.ifname, "peer", peer, "persistent-keepalive", str(seconds))


def _counted(host: Host) -> int:
    """How many datagrams the rule of `_count_initiations` has seen."""
    (count,) = re.findall(r"packets (\d+)", host.run(["nft", "list", "table", "inet", "counted"]).stdout)
    return int(count)


def _count_initiations(host: Host, to_port: int) -> None:
    """Have netfilter count the initiations that leave a host, before netem has its way with them."""
    chain = "add chain inet counted out { type filter hook output priority 0; }"
    rule = f"add rule inet counted out udp dport {to_port} udp length 156 counter"
    host.run(["nft", "-f", "-"], stdin=f"add table inet counted\n{chain}\n{rule}\n")


@contextlib.contextmanager
def _many_tunnels(net: Network, count: int) -> Iterator[list[str]]:
    """So many interfaces at host a, each a peer of b's one interface; gives their public keys."""
    keys = [new_key() for _ in range(count)]
    publics = [_public_key(key) for key in keys]
    peers = (f"[Peer]\nPublicKey = {key}\nAllowedIPs = 172.20.0.{n}/32\n" for n, key in enumerate(publics))
    net.b.wg("addconf", net.b.ifname, "/dev/stdin", stdin="".join(peers))
    for number, key in enumerate(keys):
        net.a.ip("link", "add", f"many{number}", "type", "wireguard")
        there = f"[Peer]\nPublicKey = {net.b.public_key}\nEndpoint = {net.b.endpoint}\n"
        config = f"[Interface]\nPrivateKey = {key.strip()}\n{there}PersistentKeepalive = 600\n"
        net.a.wg("setconf", f"many{number}", "/dev/stdin", stdin=config)
    for number in range(count):
        net.a.ip("link", "set", f"many{number}", "up")
    yield publics
    for number in range(count):
        net.a.ip("link", "del", f"many{number}")


def test_handshakes_over_a_bad_line(stories: Tracer, ifname: str) -> None:
    """Of 23 peers, with 30 % of all messages lost each way: each story is whole, each retry counted once."""
    with two_hosts(ifname=ifname) as net:
        net.a.run(["ping", "-n", "-c1", net.b.outer_addr])  # ARP is not to be lost
        _count_initiations(net.a, net.b.listen_port)
        for host in (net.a, net.b):
            host.run(["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "loss", "30%"])
        with _many_tunnels(net, N) as publics:
            sides = [Side(stories, net.a, f"many{number}") for number in range(N)]
            for side in sides:
                wait_until(side.has(1, "handshake_complete"))
            for host in (net.a, net.b):
                host.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
            for number in range(N):  # some that confirmed a session were lost
                net.a.wg("set", f"many{number}", "peer", net.b.public_key, "persistent-keepalive", "off")
                _keeps_alive(Host("a", net.a.netns, f"many{number}"), net.b.public_key)
            there = Side(stories, net.b)

            def confirmed() -> set[str]:
                return {step["peer"]["public_key"] for step in there.steps("handshake_complete")}

            wait_until(lambda: confirmed() == set(publics))
            retries = 0
            for number, side in enumerate(sides):
                *before, done = side.steps("retry", "init_sent", "handshake_complete")
                tries = [step["event"] for step in before]
                assert done["event"] == "handshake_complete"
                assert tries == ["init_sent", *["retry", "init_sent"] * (len(tries) // 2)]
                again = [step["attempt"] for step in side.steps("retry")]
                assert again == [*range(1, len(again) + 1)]
                retries += len(again)
                (histogram,) = side.histograms()
                assert (histogram["count"], histogram["sum"]) == (1, done["latency_ns"])
                assert done["latency_ns"] < 5_000_000_000  # of the one that was answered
                host = Host("a", net.a.netns, f"many{number}")
                agrees(host, net.b, done)
            assert retries > 0
            sent = sum(len(side.steps("init_sent")) for side in sides)
            assert sent == N + retries == _counted(net.a)


def _socket_at(host: Host) -> socket.socket:
    listener = host.socket(socket.AF_INET6 if ":" in host.inner() else socket.AF_INET)
    listener.settimeout(180)
    listener.bind((host.inner(), PORT))
    return listener


def _found(side: Side, slug: str) -> Line:
    """The one finding of a side, once there is one."""
    wait_until(lambda: bool(side.findings()))
    assert side.findings() == [slug]
    return side.finding(slug)


def test_a_responder_that_was_restarted(stories: Tracer, ifname: str) -> None:
    """Its session is gone: who sends notices after 15 s, asks for another, and gets it at once."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        a, b = Side(stories, net.a), Side(stories, net.b)
        wait_until(a.has(1, "handshake_complete"))
        before = len(a.steps())
        net.b.ip("link", "set", net.b.ifname, "down")
        net.b.ip("link", "set", net.b.ifname, "up")
        net.a.send_udp(net.b.inner(), PORT)
        wait_until(a.has(2, "handshake_complete"))

        told = [step for step in a.steps()[before:] if step["event"] != "route_found"]
        assert [step["event"] for step in told] == [
            *("no_answer_15s", "rekey_requested", "init_sent", "response_accepted"),
            *("session_derived", "handshake_complete"),
        ]
        assert told[1]["cause"] == "no_answer"
        (cleared,) = b.steps("keys_cleared")
        assert cleared["cause"] == "interface_down"
        agrees(net.a, net.b, told[-1])


def test_nothing_listens_there(stories: Tracer, ifname: str) -> None:
    """A closed port, by IPv4 and IPv6, and a router that refuses: who says so, and the one finding."""
    with (
        two_hosts(ifname=ifname) as closed,
        two_hosts(ifname="six0", outer=6, inner=6) as six,
        two_hosts_and_router(ifname="refused0") as refused,
    ):
        rules = "add table inet no\nadd chain inet no f { type filter hook forward priority 0; }\n"
        rules += "add rule inet no f udp dport 2222 reject with icmpx admin-prohibited\n"
        refused.router.run(["nft", "-f", "-"], stdin=rules)
        for net in (closed, six):
            net.b.ip("link", "set", net.b.ifname, "down")
        expected = [
            (closed, 3, 3, "port closed"),
            (six, 1, 4, "port closed"),
            (refused, 3, 13, "prohibited by a firewall"),
        ]
        for net, *_ in expected:
            net.a.send_udp(net.b.inner(), PORT)
        for net, kind, code, words in expected:
            side = Side(stories, net.a)
            wait_until(side.has(1, "icmp_error"))
            step = side.steps("icmp_error")[0]
            assert (step["icmp"]["type"], step["icmp"]["code"]) == (kind, code)
            assert step["peer"]["public_key"] == net.b.public_key
            assert words in step["what"]
            assert (step["inner"]["dport"], step["inner"]["sport"]) == (
                net.b.listen_port,
                net.a.listen_port,
            )
            assert "the initiation to" in step["what"]
            finding = _found(side, "peer-port-closed")
            assert words in finding["cause"]
            if net is not refused:
                assert step["icmp"]["from"] == net.b.outer_addr
        closed.b.ip("link", "set", closed.b.ifname, "up")  # and it is over when it is answered
        side = Side(stories, closed.a)
        wait_until(side.has(1, "handshake_complete"))
        assert side.findings() == []


def test_who_answers_moves_too(stories: Tracer, ifname: str) -> None:
    """B's address changes; a notices with the first packet from there: said once, as roaming."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        side = Side(stories, net.a)
        wait_until(side.has(1, "handshake_complete"))
        before, old = net.b.endpoint, net.b.outer_addr
        new = f"{old.rpartition('.')[0]}.88"
        net.b.ip("address", "del", f"{old}/24", "dev", "eth0")
        net.b.ip("address", "add", f"{new}/24", "dev", "eth0")
        with _socket_at(net.a) as listener:
            net.b.send_udp(net.a.inner(), PORT)
            listener.recv(64)
        net.a.send_udp(net.b.inner(), PORT)
        wait_until(side.has(1, "endpoint_changed"))
        (moved,) = side.steps("endpoint_changed")
        assert (moved["before"], moved["cause"]) == (before, "roamed")
        assert moved["peer"]["endpoint"] == before.replace(old, new)
        finding = _found(side, "endpoint-changed")
        assert finding["peer"]["public_key"] == net.b.public_key


def _nat_to(router: Host, port: int) -> None:
    """Have the router give what it masquerades this source port, and forget what it gave before."""
    rule = f"oifname eth1 meta l4proto udp masquerade to :{port}"
    rules = f"flush chain inet nat post\nadd rule inet nat post {rule}\n"
    router.run(["nft", "-f", "-"], stdin=rules)


def test_a_nat_gives_another_port(stories: Tracer, ifname: str) -> None:
    """The router's entry runs out while it is silent, and the next has another port: told as a NAT's."""
    with router_with_nat(udp_timeout=1, ifname=ifname) as net:
        _nat_to(net.router, 40001)
        net.connect()
        side = Side(stories, net.b)
        wait_until(side.has(1, "handshake_complete"))
        here = net.b.wg("show", ifname, "endpoints").split()[1]
        assert here.endswith(":40001")
        _nat_to(net.router, 40002)
        with _socket_at(net.b) as listener:
            listener.settimeout(1.5)

            def came_from_there() -> bool:
                """One packet after a pause in which the entry runs out; however late timers are."""
                time.sleep(2.5)
                net.a.send_udp(net.b.inner(), PORT)
                with contextlib.suppress(TimeoutError):
                    listener.recv(64)
                return net.b.wg("show", ifname, "endpoints").split()[1].endswith(":40002")

            wait_until(came_from_there)
        net.b.send_udp(net.a.inner(), PORT)
        wait_until(side.has(1, "endpoint_changed"))
        (moved,) = side.steps("endpoint_changed")
        assert (moved["before"], moved["cause"]) == (here, "roamed")
        assert "a NAT gave it another" in moved["what"]
        assert "a NAT on its way gave it another port" in _found(side, "endpoint-changed")["cause"]


def test_two_hosts_have_one_key(stories: Tracer, ifname: str) -> None:
    """Both keep alive, each takes the session from the other: duplicate-key, and not a peer that travels."""
    with hub_and_spokes(ifname=ifname) as net:
        key = new_key()
        public = _public_key(key)
        first, second = net.spokes
        net.hub.wg(
            *("set", ifname, "peer", first.public_key, "remove", "peer", second.public_key, "remove"),
            *("peer", public, "allowed-ips", "0.0.0.0/0"),
        )
        for spoke in (first, second):
            spoke.wg("set", ifname, "private-key", "/dev/stdin", stdin=key)
            _keeps_alive(spoke, net.hub.public_key)
        side = Side(stories, net.hub)
        wait_until(lambda: "duplicate-key" in side.findings())
        assert [slug for slug in side.findings() if slug in ("duplicate-key", "endpoint-changed")] == [
            "duplicate-key"
        ]
        cause = side.finding("duplicate-key")["cause"]
        assert first.outer_addr in cause
        assert second.outer_addr in cause
        assert side.finding("duplicate-key")["peer"]["public_key"] == public


def test_a_cookie_exchange(stories: Tracer, ifname: str) -> None:
    """Under a flood b answers with a cookie, a sends it back, and has its session; one finding."""
    with two_hosts(ifname=ifname, outer_nets={4: "10.47.{}.0/24"}) as net:
        net.a.ip("address", "add", "10.47.0.77/24", "dev", "eth0")
        message = Impostor(net.b.public_key).initiation()
        is_over = threading.Event()

        def flood() -> None:
            with udp(net.a, net.b.outer_addr) as sock:
                sock.bind(("10.47.0.77", 0))
                while not is_over.is_set():
                    for _ in range(701):
                        sock.sendto(message, (net.b.outer_addr, net.b.listen_port))
                    time.sleep(0.3)  # the queue is not to be full, or nobody gets in

        flooding = threading.Thread(target=flood)
        a, b = Side(stories, net.a), Side(stories, net.b)
        flooding.start()
        try:
            wait_until(b.has(1, "cookie_sent"))
            _keeps_alive(net.a, net.b.public_key)
            wait_until(a.has(1, "cookie_received"))
            wait_until(a.has(1, "handshake_complete"))
        finally:
            is_over.set()
            flooding.join()
        events = a.events()
        assert events.index("cookie_received") < events.index("handshake_complete")
        assert b.findings() == ["handshake-flood"]


def test_sessions_grow_old(stories: Tracer) -> None:
    """A rekey after 120 s, in the last minute, and after 180 s, when the session is over: each says why."""
    with (
        two_hosts(ifname="old0") as old,
        two_hosts(ifname="minute0") as minute,
        two_hosts(ifname="over0") as over,
    ):
        began = {}
        for net in (old, minute, over):
            net.connect()
            began[net.a.netns] = time.monotonic()
        sides = {net.a.netns: Side(stories, net.a) for net in (old, minute, over)}

        def later(net: Network, seconds: float) -> Callable[[], bool]:
            return lambda: time.monotonic() >= began[net.a.netns] + seconds

        def asked(net: Network) -> Line:
            side = sides[net.a.netns]
            wait_until(side.has(2, "handshake_complete"))
            return side.steps("rekey_requested")[1]

        wait_until(later(old, 121), 300)
        old.a.send_udp(old.b.inner(), PORT)
        request = asked(old)
        assert (request["cause"], 120e9 <= request["session_age_ns"] < 165e9) == ("key_old", True)
        wait_until(later(minute, 166), 300)
        minute.b.send_udp(minute.a.inner(), PORT)  # to who began it, who sends nothing
        request = asked(minute)
        assert (request["cause"], 165e9 <= request["session_age_ns"] < 180e9) == ("last_minute", True)
        wait_until(later(over, 181), 300)
        over.a.send_udp(over.b.inner(), PORT)
        request = asked(over)
        assert (request["cause"], request["session_age_ns"] >= 180e9) == ("keypair_expired", True)
        assert (request["queue_len"], request["inner"]["dport"]) == (1, PORT)
        for net in (old, minute, over):
            assert sides[net.a.netns].findings() == []
            agrees(net.a, net.b, sides[net.a.netns].steps("handshake_complete")[-1])
