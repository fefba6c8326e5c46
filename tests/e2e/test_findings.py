# SPDX-License-Identifier: GPL-2.0-only
"""One cause, one finding: what is configured wrong is told from the side that can see it."""

from __future__ import annotations

import subprocess
import time

import pytest
from noise import ipv4
from scenes import add_impostor, drop_udp_to, new_key, send, udp
from tracer import Report, Tracer

from wgtrace.lab.topology import Network, hub_and_spokes, router_with_nat, two_hosts


def _at(report: Report, net: Network, host: str) -> list[str]:
    """The slugs found for one host's interface."""
    inode = int(net.hosts[host].run(["stat", "-L", "-c", "%i", net.hosts[host].netns_path]).stdout)
    return sorted(f["slug"] for f in report.findings if f["netns"] == inode)


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
        assert report.slugs == ["peer-unreachable"]
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
        for kind in (["-b", "3M"], ["-b", "3M", "-R"], ["-u", "-b", "2M"], ["-u", "-b", "2M", "-R"]):
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
