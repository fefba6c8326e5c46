# SPDX-License-Identifier: GPL-2.0-only
"""One cause, one finding: what is configured wrong is told from the side that can see it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from noise import Impostor, ipv4
from scenes import (
    add_impostor,
    drop_udp_to,
    new_key,
    received_bytes,
    send,
    udp,
    undrop,
    wait_until,
)
from tracer import Line, Report, Tracer

from wgtrace.lab.topology import (
    Host,
    Network,
    hub_and_spokes,
    router_with_nat,
    two_hosts,
    two_hosts_and_router,
)


def _at(report: Report, net: Network, host: str) -> list[str]:
    """The slugs found for one host's interface."""
    inode = int(net.hosts[host].run(["stat", "-L", "-c", "%i", net.hosts[host].netns_path]).stdout)
    return sorted(f["slug"] for f in report.findings if f["netns"] == inode)


def _cure(finding: Line, *beginnings: str, **blanks: str) -> None:
    """Run the commands of a finding's fix as printed, its blanks filled in; none may fail.

    Args:
        beginnings: What the commands wanted begin with after `ip netns exec NAME `; at least one for each.
    """
    for beginning in beginnings:
        commands = [text for text in finding["fix"] if text.split(" ", 4)[-1].startswith(beginning)]
        assert commands, f"no {beginning!r} in {finding['fix']}"
        for command in commands:
            for blank, value in blanks.items():
                command = command.replace(blank.replace("__", "/"), value)
            done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"


def _passes(host: Host, to: str) -> None:
    """A ping through the tunnel is answered, at the latest when a new session is there."""
    wait_until(lambda: host.run(["ping", "-n", "-c1", "-W2", to], check=False).returncode == 0)


def _unchanged(tracer: Tracer, before: Report, *ifnames: str) -> Report:
    """The report now, in which no drop came since."""
    now = tracer.report(*ifnames)
    assert now.totals == before.totals
    return now


def test_wrong_public_key(tracer: Tracer, ifname: str) -> None:
    """A has another public key for B than B's: B says wrong-key-for-us, A peer-unreachable."""
    with two_hosts(ifname=ifname, ports=(5001, 5002)) as net:
        wrong = subprocess.run(["wg", "pubkey"], input=new_key(), capture_output=True, text=True, check=True)
        net.a.wg("set", ifname, "peer", net.b.public_key, "remove")
        wanted = ["allowed-ips", "0.0.0.0/0", "endpoint", net.b.endpoint]
        net.a.wg("set", ifname, "peer", wrong.stdout.strip(), *wanted)
        net.a.send_udp(net.b.inner(), count=3)

        report = tracer.settled(lambda r: len(r.slugs) >= 2, ifname)
        assert _at(report, net, "b") == ["wrong-key-for-us"]
        assert _at(report, net, "a") == ["peer-unreachable"]
        assert net.b.public_key in str(report.finding("wrong-key-for-us")["fix"])
        assert set(report.totals) == {"invalid_mac1"}


def test_unknown_key(tracer: Tracer, ifname: str) -> None:
    """B does not have A's key: B prints it whole, and the command that adds it."""
    with two_hosts(ifname=ifname, outer=6, inner=4) as net:
        net.b.wg("set", ifname, "peer", net.a.public_key, "remove")
        net.a.send_udp(net.b.inner(), count=3)

        report = tracer.settled(lambda r: "unknown-peer" in r.slugs and "peer-unreachable" in r.slugs, ifname)
        assert _at(report, net, "b") == ["unknown-peer"]
        fix = "\n".join(report.finding("unknown-peer")["fix"])
        assert f"wg set {ifname} peer {net.a.public_key} allowed-ips" in fix


def test_preshared_key_on_one_side(tracer: Tracer, ifname: str) -> None:
    """Only A has a preshared key: A says preshared-key-mismatch for B, once, however many wait."""
    with two_hosts(ifname=ifname) as net:
        psk = new_key("genpsk")
        net.a.wg("set", ifname, "peer", net.b.public_key, "preshared-key", "/dev/stdin", stdin=psk)
        net.a.send_udp(net.b.inner(), count=129 + 7)

        report = tracer.settled(lambda r: r.totals.get("resp_decrypt_failed", 0) >= 2, ifname)
        assert _at(report, net, "a") == ["preshared-key-mismatch"]
        finding = report.finding("preshared-key-mismatch")
        assert finding["peer"]["public_key"] == net.b.public_key
        assert (finding["severity"], finding["confidence"]) == ("error", "certain")
        assert report.totals["staged_queue_overflow"] == 7


def test_clock_set_back(tracer: Tracer, ifname: str) -> None:
    """A peer whose clock goes back an hour is told apart from an unknown one, with both times."""
    with two_hosts(ifname=ifname) as net:
        impostor = add_impostor(net.b, "172.20.0.7/32")
        with udp(net.a, net.b.outer_addr) as sock:
            impostor.connect(sock, (net.b.outer_addr, net.b.listen_port))
            for _ in range(3):
                time.sleep(0.1)
                message = impostor.initiation(sent_at=time.time() - 3600)
                sock.sendto(message, (net.b.outer_addr, net.b.listen_port))

        report = tracer.settled(lambda r: r.totals.get("handshake_init_replay", 0) >= 3, ifname)
        assert report.totals == {"handshake_init_replay": 3}
        assert report.slugs == ["peer-clock-went-back"]
        finding = report.finding("peer-clock-went-back")
        assert finding["peer"]["public_key"] == impostor.public_key
        (drop, *_) = report.drops
        assert drop["detail"]["timestamp"] < drop["detail"]["latest_timestamp"]


def test_nothing_comes_back(tracer: Tracer, ifname: str) -> None:
    """Initiations leave and nothing comes back: peer-unreachable, and what waited is its evidence."""
    with two_hosts(ifname=ifname) as net:
        drop_udp_to(net.b, net.b.listen_port)
        net.a.send_udp(net.b.inner(), count=129 + 11)

        report = tracer.settled(lambda r: "peer-unreachable" in r.slugs, ifname)
        assert _at(report, net, "a") == ["peer-unreachable"]
        assert _at(report, net, "b") == ["outer-blocked-by-firewall"]
        assert report.finding("peer-unreachable")["peer"]["public_key"] == net.b.public_key
        assert report.totals == {"staged_queue_overflow": 11}


@pytest.mark.parametrize(("outer", "inner"), [(4, 4), (6, (4, 6))])
def test_healthy_under_load(tracer: Tracer, ifname: str, outer: int, inner: int) -> None:
    """TCP and UDP both ways through a healthy tunnel: not one drop, not one finding."""
    with two_hosts(outer=outer, inner=inner, ifname=ifname) as net:
        net.connect()
        address = net.b.inner()
        net.b.popen(["iperf3", "-s", "-p", "7777"], stdout=subprocess.DEVNULL)
        for attempt in range(50):
            if net.b.run(["ss", "-Hltn", "sport", "=", ":7777"]).stdout:
                break
            time.sleep(0.1 * (attempt + 1))
        # Little at once: what a busy host emulates must not overflow WireGuard's queues.
        tcp, datagrams = ["-b", "1M", "-l", "8K"], ["-u", "-b", "500K"]
        for kind in (tcp, [*tcp, "-R"], datagrams, [*datagrams, "-R"]):
            net.a.run(["iperf3", "-c", address, "-p", "7777", "-t", "2", *kind])

        report = tracer.report(ifname)
        assert (report.totals, report.slugs) == ({}, [])
        assert [r for r in report.summary["reconciliation"] if r["moved"]] == []


def test_healthy_hub_and_nat(tracer: Tracer, ifname: str) -> None:
    """Healthy tunnels over a hub and behind NAT, keepalives included, give no drop and no finding."""
    with hub_and_spokes(ifname=ifname) as net:
        net.connect()
        net.spokes[0].run(["ping", "-n", "-q", "-c", "5", "-i", "0.2", net.spokes[1].inner()])
        report = tracer.report(ifname)
        assert (report.totals, report.slugs) == ({}, [])
    with router_with_nat(ifname=ifname) as net:
        net.a.wg("set", ifname, "peer", net.b.public_key, "persistent-keepalive", "1")
        net.connect()
        time.sleep(3)
        report = tracer.report(ifname)
        assert (report.totals, report.slugs) == ({}, [])


def test_three_peers_and_changes_while_tracing(tracer: Tracer, ifname: str) -> None:
    """Three peers on one interface: each drop names its own; AllowedIPs moved while tracing count."""
    with two_hosts(ifname=ifname) as net:
        peers = [add_impostor(net.b, f"172.20.{n}.0/24") for n in (1, 2, 3)]
        to = (net.b.outer_addr, net.b.listen_port)
        socks = [udp(net.a, net.b.outer_addr) for _ in peers]
        for peer, sock in zip(peers, socks, strict=True):
            peer.connect(sock, to)
        for number, (peer, sock) in enumerate(zip(peers, socks, strict=True), 1):
            for _ in range((7, 11, 13)[number - 1]):
                sock.sendto(peer.data(ipv4(f"172.29.{number}.9", net.b.inner())), to)
        report = tracer.settled(lambda r: r.totals.get("src_not_allowed", 0) >= 31, ifname)
        by_peer = {t["peer"]["public_key"]: t["count"] for t in report.summary["totals"]}
        assert by_peer == dict(zip([p.public_key for p in peers], (7, 11, 13), strict=True))
        assert report.slugs == ["source-not-allowed"] * 3

        # what was nobody's becomes the third peer's, while the tracer runs
        net.b.wg("set", ifname, "peer", peers[2].public_key, "allowed-ips", "172.29.1.0/24")
        for _ in range(5):
            socks[0].sendto(peers[0].data(ipv4("172.29.1.9", net.b.inner())), to)
        report = tracer.settled(lambda r: sum(r.totals.values()) >= 36, ifname)
        owners = [d["detail"].get("owner") for d in report.drops[-5:]]
        assert owners == [peers[2].public_key] * 5
        assert report.finding("source-owned-by-other-peer")["count"] == 5
        assert f"AllowedIPs of {peers[2].public_key[:8]}" in report.drops[-1]["why"]

        # a peer that goes and one that comes are told by their own keys
        net.b.wg("set", ifname, "peer", peers[1].public_key, "remove")
        socks[1].sendto(peers[1].initiation(), to)
        report = tracer.settled(lambda r: "unknown_peer_pubkey" in r.totals, ifname)
        assert report.of("unknown_peer_pubkey")[0]["detail"]["unknown_public_key"] == peers[1].public_key
        for sock in socks:
            sock.close()


def test_garbage_is_not_an_error(tracer: Tracer, ifname: str) -> None:
    """A scanner on the port is said as what it looks like, and is no error."""
    with two_hosts(ifname=ifname) as net:
        stun = bytes.fromhex("000100002112a442") + bytes(12)
        net.b.wg("set", ifname, "peer", net.a.public_key, "remove")
        send(net.a, net.b, [stun] * 23)

        report = tracer.settled(lambda r: r.totals.get("bad_header", 0) >= 23, ifname)
        finding = report.finding("not-wireguard")
        assert (finding["count"], finding["severity"]) == (23, "info")
        assert "STUN" in finding["cause"]


def test_no_route_to_the_endpoint(tracer: Tracer, ifname: str) -> None:
    """The way out is taken away in three manners: each is named, and its command brings it back."""
    with two_hosts_and_router(ifname=ifname, ports=(4711, 4712), inner_nets={4: "10.66.7.0/24"}) as net:
        net.connect()
        gateway = net.a.ip("route", "show", "default").split()[2]

        def refused(count: int, said: str) -> tuple[Report, Line]:
            before = _data_unsent(tracer.report(ifname))
            net.a.send_udp(net.b.inner(), count=count)
            report = tracer.settled(lambda r: _data_unsent(r) >= before + count, ifname)
            assert _data_unsent(report) == before + count
            # B, which A does not answer either, may find out after 15 s: not what is looked at.
            assert _at(report, net, "a") == ["no-route-to-endpoint"]
            finding = report.finding("no-route-to-endpoint")
            assert finding["peer"]["public_key"] == net.b.public_key
            assert finding["count"] == report.totals["no_route_to_endpoint"]
            assert (finding["severity"], finding["confidence"]) == ("error", "certain")
            assert said in finding["cause"], finding["cause"]
            return report, finding

        net.a.ip("route", "del", "default")
        report, finding = refused(23, "no default route")
        _cure(finding, "ip route add default", GATEWAY=gateway, DEVICE="eth0")
        _passes(net.a, net.b.inner())
        assert "by now" in _unchanged(tracer, report, ifname).finding("no-route-to-endpoint")["fix"][0]

        wider = net.b.outer_addr.rsplit(".", 1)[0] + ".0/25"
        net.a.ip("route", "add", "prohibit", wider)
        report, finding = refused(7, f"the prohibit route {wider} of table main")
        _cure(finding, "ip route del prohibit")
        _passes(net.a, net.b.inner())
        _unchanged(tracer, report, ifname)

        net.a.wg("set", ifname, "fwmark", "0x77")
        net.a.ip("route", "add", "default", "via", gateway, "table", "88")
        net.a.ip("rule", "add", "priority", "32780", "not", "fwmark", "0x77", "lookup", "88")
        net.a.ip("route", "del", "default")
        report, finding = refused(11, "fwmark 0x77")
        _cure(finding, "ip rule add fwmark 0x77 lookup 88")
        _passes(net.a, net.b.inner())
        _unchanged(tracer, report, ifname)


def _data_unsent(report: Report) -> int:
    """Data packets that found no route; after 15 s of them handshakes find none either."""
    return sum(drop["detail"].get("message_type") == 4 for drop in report.of("no_route_to_endpoint"))


def test_no_ipv6_address(tracer: Tracer, ifname: str) -> None:
    """An IPv6 endpoint and a host that lost its IPv6 address: said so, and the address is the cure."""
    with two_hosts(ifname=ifname, outer=6, inner=4, ports=(4721, 4722)) as net:
        net.connect()
        net.a.ip("-6", "addr", "flush", "dev", "eth0", "scope", "global")
        net.a.send_udp(net.b.inner(), count=13)
        report = tracer.settled(lambda r: _data_unsent(r) >= 13, ifname)
        assert (_data_unsent(report), _at(report, net, "a")) == (13, ["no-route-to-endpoint"])
        finding = report.finding("no-route-to-endpoint")
        assert "no IPv6 address" in finding["cause"]
        blanks = {"ADDRESS__PREFIX": f"{net.a.outer_addr}/64 nodad", "DEVICE": "eth0"}
        _cure(finding, "ip -6 address add", **blanks)
        _passes(net.a, net.b.inner())
        _unchanged(tracer, report, ifname)


def test_the_endpoint_is_routed_into_the_tunnel(tracer: Tracer, ifname: str) -> None:
    """Handshakes go round in a circle: said at once, not as a peer that does not answer."""
    with two_hosts_and_router(ifname=ifname, ports=(4731, 4732)) as net:
        net.a.wg("set", ifname, "peer", net.b.public_key, "allowed-ips", "0.0.0.0/0")
        net.a.ip("route", "add", f"{net.b.outer_addr}/32", "dev", ifname)
        net.a.send_udp(net.b.inner(), count=3)
        report = tracer.settled(lambda r: bool(r.slugs), ifname)
        assert report.slugs == ["routing-loop"]
        assert net.b.outer_addr in report.finding("routing-loop")["cause"]
        _cure(report.finding("routing-loop"), "ip route replace")
        _passes(net.a, net.b.inner())


def test_a_session_that_was_lost(tracer: Tracer, ifname: str) -> None:
    """B forgets A: the data of A's old session is told as that, and B's ping makes a new one."""
    with two_hosts(ifname=ifname, ports=(4741, 4742), inner_nets={4: "10.4.4.0/28"}) as net:
        net.connect()
        tracer.report(ifname)  # it has seen the configuration
        net.b.wg("set", ifname, "peer", net.a.public_key, "remove")
        net.b.wg("set", ifname, "peer", net.a.public_key, "allowed-ips", net.a.allowed_ips)
        net.a.send_udp(net.b.inner(), count=11)
        report = tracer.settled(lambda r: r.totals.get("unknown_receiver_index", 0) >= 11, ifname)
        assert report.totals == {"unknown_receiver_index": 11}
        assert report.slugs == ["peer-lost-session"]
        finding = report.finding("peer-lost-session")
        assert (finding["count"], finding["confidence"]) == (11, "certain")
        assert finding["peer"]["public_key"] == net.a.public_key
        _cure(finding, "wg set", "ping")
        _passes(net.a, net.b.inner())
        healed = _unchanged(tracer, report, ifname).finding("peer-lost-session")
        assert (healed["severity"], healed["fix"][0]) == ("info", "nothing: it has healed")


def test_packets_that_come_much_too_late(tracer: Tracer, ifname: str) -> None:
    """Counters that 8128 others have overtaken are no duplicates."""
    with two_hosts(ifname=ifname, ports=(4751, 4752)) as net:
        impostor, to = add_impostor(net.b, "172.21.0.7/32"), (net.b.outer_addr, net.b.listen_port)
        with udp(net.a, net.b.outer_addr) as sock:
            impostor.connect(sock, to)
            inner = ipv4("172.21.0.7", net.b.inner())
            sock.sendto(impostor.data(inner, counter=9001), to)
            for counter in range(1, 1 + 23):
                sock.sendto(impostor.data(inner, counter=counter), to)
        report = tracer.settled(lambda r: r.totals.get("replay_or_old_counter", 0) >= 23, ifname)
        assert report.totals == {"replay_or_old_counter": 23}
        assert report.slugs == ["reordered-beyond-window"]
        assert report.finding("reordered-beyond-window")["count"] == 23


def test_data_that_is_changed_on_the_way(tracer: Tracer, ifname: str) -> None:
    """A box that rewrites 8 bytes of each data message: payload-corrupted, until it is gone."""
    with two_hosts(ifname=ifname, ports=(4761, 4762)) as net:
        net.connect()
        rules = (
            "add table inet box\n"
            "add chain inet box out { type filter hook output priority mangle; }\n"
            "add rule inet box out udp dport 4762 @th,64,32 0x04000000 @th,192,64 set 0\n"
        )
        net.a.run(["nft", "-f", "-"], stdin=rules)
        net.a.send_udp(net.b.inner(), count=23)

        def damaged(report: Report) -> int:
            # without the empty one that confirms a new handshake, 15 s later
            return sum(drop["outer"]["len"] > 60 for drop in report.of("decrypt_failed"))

        report = tracer.settled(lambda r: damaged(r) >= 23, ifname)
        assert (damaged(report), report.slugs) == (23, ["payload-corrupted"])
        finding = report.finding("payload-corrupted")
        assert finding["count"] == report.totals["decrypt_failed"]
        assert finding["peer"]["public_key"] == net.a.public_key
        _cure(finding, "ethtool -K eth0", "nft list ruleset")
        net.a.run(["nft", "delete", "table", "inet", "box"])
        _passes(net.a, net.b.inner())


def test_a_flood_of_handshakes(tracer: Tracer, ifname: str) -> None:
    """Thousands of initiations with a strange key are a flood, not an unknown peer; blocking it helps."""
    with two_hosts(ifname=ifname, ports=(4771, 4772), outer_nets={4: "10.44.{}.0/24"}) as net:
        net.connect()
        net.a.ip("addr", "add", "10.44.0.77/24", "dev", "eth0")
        message = Impostor(net.b.public_key).initiation()
        to = (net.b.outer_addr, net.b.listen_port)
        with udp(net.a, net.b.outer_addr) as sock:
            sock.bind(("10.44.0.77", 0))
            for _ in range(4001):
                sock.sendto(message, to)
            report = tracer.settled(lambda r: sum(r.totals.values()) >= 4001, ifname)
            assert sum(report.totals.values()) == 4001
            assert report.totals["cookie_under_load"] > 0
            assert report.slugs == ["handshake-flood"]
            finding = report.finding("handshake-flood")
            assert (finding["count"], finding["peer"]) == (4001, None)
            assert "from 10.44.0.77:" in finding["cause"]
            (block,) = (text for text in finding["fix"] if "saddr" in text)
            subprocess.run(block, shell=True, check=True)
            for _ in range(1009):
                sock.sendto(message, to)
        _passes(net.a, net.b.inner())
        _unchanged(tracer, report, ifname)
        _cure(finding, "nft delete table")


def test_the_interface_goes_down(tracer: Tracer, ifname: str) -> None:
    """Packets that wait when the interface goes down are lost by that; up again, it works."""
    with two_hosts(ifname=ifname, ports=(4781, 4782)) as net:
        drop_udp_to(net.b, net.b.listen_port)
        net.a.send_udp(net.b.inner(), count=17)
        net.a.ip("link", "set", ifname, "down")
        report = tracer.settled(lambda r: r.totals.get("staged_purged_ifdown", 0) >= 17, ifname)
        assert report.totals == {"staged_purged_ifdown": 17}
        assert _at(report, net, "a") == ["interface-down"]
        finding = report.finding("interface-down")
        assert (finding["count"], finding["severity"], finding["confidence"]) == (17, "error", "certain")
        undrop(net.b)
        _cure(finding, "ip link set")
        _passes(net.a, net.b.inner())
        assert _unchanged(tracer, report, ifname).finding("interface-down")["severity"] == "info"


def test_down_with_nothing_waiting_is_no_finding(tracer: Tracer, ifname: str) -> None:
    """An interface that is set down, up and away in peace is nobody's trouble."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        for state in ("down", "up", "down"):
            net.a.ip("link", "set", ifname, state)
        net.b.ip("link", "del", ifname)
        report = tracer.report(ifname)
        assert (report.totals, report.slugs) == ({}, [])


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[str]:
    """A namespace that may be deleted before its time."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_the_namespace_it_was_made_in_goes(tracer: Tracer, ifname: str, tmp_path: Path) -> None:
    """A tunnel moved to A dies with the namespace that it came from; made anew in A, it lives."""
    moved = f"{ifname}m"
    with two_hosts(ifname=ifname, ports=(4791, 4792)) as net, _namespace(f"{net.a.netns}-birth") as birth:
        lines = (
            f"link add up0 type veth peer name up0 netns {net.b.netns}\n"
            "addr add 10.77.0.1/24 dev up0\nlink set up0 up\n"
            f"link add {moved} type wireguard\nlink set {moved} netns {net.a.netns}\n"
        )
        subprocess.run(["ip", "-n", birth, "-batch", "-"], input=lines, text=True, check=True)
        net.b.ip("addr", "add", "10.77.0.2/32", "dev", "lo")  # outlives the wire
        net.b.ip("link", "set", "up0", "up")
        net.b.ip("route", "add", "10.77.0.1/32", "dev", "up0", "src", "10.77.0.2")
        net.a.ip("route", "add", "10.77.0.2/32", "via", net.b.outer_addr)
        key = new_key()
        public = subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True, check=True)
        wanted = ["allowed-ips", net.b.allowed_ips, "endpoint", "10.77.0.2:4792"]
        net.a.wg("set", moved, "private-key", "/dev/stdin", "peer", net.b.public_key, *wanted, stdin=key)
        net.b.wg("set", ifname, "peer", public.stdout.strip(), "allowed-ips", "192.168.9.77/32")
        net.a.ip("link", "del", ifname)
        net.a.ip("addr", "add", "192.168.9.77/24", "dev", moved)
        net.a.ip("link", "set", moved, "up")
        _passes(net.a, net.b.inner())

        subprocess.run(["ip", "netns", "del", birth], check=True)
        wait_until(lambda: "NO-CARRIER" in net.a.ip("link", "show", moved))
        report = tracer.settled(lambda r: bool(r.slugs), moved)
        assert set(report.totals) <= {"udp_sock_null"}  # of WireGuard's own timers: nothing else gets in
        assert report.slugs == ["birth-namespace-gone"]
        finding = report.finding("birth-namespace-gone")
        assert finding["count"] == report.totals.get("udp_sock_null", 0)
        assert (finding["severity"], finding["confidence"]) == ("error", "certain")
        blanks = {"FILE": str(tmp_path / "kept"), "ADDRESS__PREFIX": "192.168.9.77/24"}
        for beginning in ("sh -c", "ip link del", "ip link add", "wg setconf", "ip address", "ip link set"):
            _cure(finding, beginning, **blanks)
        _passes(net.a, net.b.inner())
        assert set(tracer.report(moved).totals) <= {"udp_sock_null"}


def test_a_prefix_that_changes_hands(tracer: Tracer, ifname: str) -> None:
    """One peer's prefix is given to another: who lost it to whom, by which process; given back, it works."""
    conf = Path("/etc/wireguard", f"{ifname}.conf")
    conf.parent.mkdir(exist_ok=True)
    with two_hosts(ifname=ifname, ports=(4801, 4802)) as net, udp(net.a, net.b.outer_addr) as sock:
        loser, winner = (add_impostor(net.b, f"172.23.{n}.0/24") for n in (1, 2))
        to = (net.b.outer_addr, net.b.listen_port)
        loser.connect(sock, to)
        tracer.report(ifname)
        net.b.wg("set", ifname, "peer", winner.public_key, "allowed-ips", "172.23.1.0/24,172.23.2.0/24")
        for _ in range(13):
            sock.sendto(loser.data(ipv4("172.23.1.9", net.b.inner())), to)
        report = tracer.settled(lambda r: r.totals.get("src_not_allowed", 0) >= 13, ifname)
        assert report.totals == {"src_not_allowed": 13}
        assert report.slugs == ["allowed-ips-moved"]
        finding = report.finding("allowed-ips-moved")
        assert (finding["count"], finding["severity"], finding["confidence"]) == (13, "error", "certain")
        assert finding["peer"]["public_key"] == loser.public_key
        assert "172.23.1.0/24" in finding["cause"]
        assert "by wg (pid " in finding["cause"]

        sections = "".join(
            f"[Peer]\nPublicKey = {peer.public_key}\nAllowedIPs = {nets}\n"
            for peer, nets in ((loser, "172.23.1.0/24"), (winner, "172.23.2.0/24, 172.23.1.0/24"))
        )
        conf.write_text(sections)
        try:
            both = tracer.report(ifname).finding("allowed-ips-moved")
        finally:
            conf.unlink()
        assert f"{conf.name} gives it to both" in str(both["evidence"])

        _cure(finding, "wg set")
        before = received_bytes(net.b, loser.public_key)
        sock.sendto(loser.data(ipv4("172.23.1.9", net.b.inner())), to)
        wait_until(lambda: received_bytes(net.b, loser.public_key) > before)
        again = _unchanged(tracer, report, ifname).finding("allowed-ips-moved")
        assert "by now" in again["fix"][0]
