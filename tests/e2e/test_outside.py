# SPDX-License-Identifier: GPL-2.0-only
"""Packets of a tunnel that die outside of WireGuard: which, where, by what rule, and what cures it."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from dataclasses import dataclass

import pytest
from tracer import Line, Report, Tracer

from wgtrace.lab.topology import Host, two_hosts, two_hosts_and_router

N = 23
_BEHIND = "172.30.0.0/16"  # what host b forwards to
_AWAY = "172.31.7.1"  # an address of host a that host b has another way to


@dataclass(frozen=True)
class Place:
    """Where packets are made to die.

    Attributes:
        host: Whose firewall it is.
        rule: What of its rule tells it from the others.
        hook: Where netfilter is said to drop it.
        packet: Which packet dies.
        direction: As seen from the host's tunnel.
        port: Of the inner packets that are sent to it.
        size: Their payload, bytes: datagrams are told apart by it.
    """

    host: str
    rule: str
    hook: str
    packet: str
    direction: str
    port: int
    size: int = 32


def _send(host: Host, to: str, port: int, size: int = 32, source: str = "", count: int = N) -> None:
    """Send datagrams; what the firewall refuses the sender to his face is sent all the same."""
    with host.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as sock:
        if source:
            sock.bind((source, 0))
        for _ in range(count):
            with contextlib.suppress(PermissionError):
                sock.sendto(bytes(size), (to, port))


def _ruleset(host: Host) -> str:
    return host.run(["nft", "-a", "list", "ruleset"]).stdout


def _load(host: Host, rules: str) -> str:
    """Load rules; gives the whole ruleset."""
    host.run(["nft", "-f", "-"], stdin=rules)
    return _ruleset(host)


def _handle(ruleset: str, rule: str) -> int:
    (found,) = re.findall(rf"^\s*(?=.*{re.escape(rule)}).* # handle (\d+)$", ruleset, re.MULTILINE)
    return int(found)


def _netns(host: Host) -> int:
    return int(host.run(["stat", "-L", "-c", "%i", host.netns_path]).stdout)


def _drops(report: Report, host: Host, place: Place) -> list[Line]:
    """The drops told of a host that are of this place."""
    return [
        d
        for d in report.lost
        if d["netns"] == _netns(host)
        and (d["packet"], d["direction"]) == (place.packet, place.direction)
        and d["detail"].get("hook") == place.hook
        and (place.rule in ((d["detail"]["rule"] or {}).get("text") or ""))
    ]


def _cure(finding: Line, program: str) -> None:
    """Run the command of a fix as printed."""
    (command,) = (text for text in finding["fix"] if re.match(rf"(ip netns exec \S+ )?{program} ", text))
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"


@pytest.mark.soak  # minutes on an emulated machine
def test_every_place_of_the_firewall(tracer: Tracer, ifname: str) -> None:
    """23 packets die in each of eleven places: each is told with its rule, handle and peer, and no other."""
    with two_hosts(ifname=ifname, ports=(5151, 5252)) as net:
        a, b = net.a, net.b
        a.wg("set", ifname, "peer", b.public_key, "allowed-ips", f"{b.allowed_ips},{_BEHIND}")
        a.ip("route", "add", _BEHIND, "dev", ifname)
        b.ip("link", "add", "lan0", "type", "dummy")
        b.ip("link", "set", "lan0", "up")
        b.ip("route", "add", _BEHIND, "dev", "lan0")
        b.sysctl("net.ipv4.ip_forward", 1)
        net.connect()
        at_a = f"""
            table inet one {{
              chain out {{ type filter hook output priority 0; policy accept;
                oifname "{ifname}" udp dport 1001 drop
                udp sport 5151 udp length 540-560 drop
              }}
            }}
            table ip two {{
              chain post {{ type filter hook postrouting priority 0; policy accept;
                udp dport 9 accept
                udp dport 1002 drop
              }}
            }}
        """
        at_b = f"""
            table inet one {{
              set ports {{ type inet_service; elements = {{ 1004, 1044 }}; }}
              chain deep {{ udp dport 1003 drop; }}
              chain deeper {{ meta mark 7 accept; udp dport 5252 udp length 900-960 drop; }}
              chain pre {{ type filter hook prerouting priority -300; policy accept;
                iifname "{ifname}" jump deep
                udp dport 5252 goto deeper
              }}
              chain in {{ type filter hook input priority 0; policy accept;
                udp dport @ports drop
                udp dport 1006 reject
                udp dport 5252 udp length 720-740 drop
              }}
              chain through {{ type filter hook forward priority 0; policy accept;
                iifname "{ifname}" oifname "lan0" udp dport 1005 drop
              }}
            }}
        """
        before = {"a": _load(a, at_a), "b": _load(b, at_b)}
        places = [
            Place("a", "dport 1001", "output", "inner", "tx", 1001),
            Place("a", "dport 1002", "postrouting", "inner", "tx", 1002),
            Place("b", "dport 1003", "prerouting", "inner", "rx", 1003),
            Place("b", "@ports", "input", "inner", "rx", 1004),
            Place("b", "dport 1005", "forward", "inner", "rx", 1005),
            Place("b", "dport 1006", "input", "inner", "rx", 1006),
            Place("a", "length 540-560", "output", "outer", "tx", 9, 480),
            Place("b", "length 720-740", "input", "outer", "rx", 9, 660),
            Place("b", "length 900-960", "prerouting", "outer", "rx", 9, 860),
        ]
        tracer.summary()  # it has seen that nf_tables is there
        assert tracer.lines[0]["probes"]["missing"] == []
        for place in places:
            _send(a, "172.30.0.1" if place.port == 1005 else b.inner(), place.port, place.size)

        report = tracer.settled(lambda r: sum(r.outside.values()) >= N * len(places), ifname)
        assert report.totals == {}
        assert sum(report.outside.values()) == N * len(places), report.outside
        for place in places:
            host, other = (a, b) if place.host == "a" else (b, a)
            drops = _drops(report, host, place)
            assert len(drops) == N, (place, len(drops))
            rule = drops[0]["detail"]["rule"]
            assert {d["detail"]["rule"]["handle"] for d in drops} == {_handle(before[place.host], place.rule)}
            assert {d["peer"]["public_key"] for d in drops} == {other.public_key}
            assert rule["exact"]
            assert drops[0]["reason"] == "netfilter_drop"
            if place.packet == "inner":
                assert {d["inner"]["dport"] for d in drops} == {place.port}
            else:
                assert {d["detail"]["message_type"] for d in drops} == {4}
                assert {d["outer"]["dport"] for d in drops} == {b.listen_port}
        assert {"a": _ruleset(a), "b": _ruleset(b)} == before
        assert sorted(set(report.slugs)) == ["inner-blocked-by-firewall", "outer-blocked-by-firewall"]
        assert [f["count"] for f in report.findings] == [N] * len(places)

        # the policy of a chain, which is no rule; and a verdict map, whose rule the kernel does not name
        _load(
            b,
            """
            flush ruleset
            table inet pol {
              chain through { type filter hook forward priority 0; policy drop;
                udp dport 7 accept
              }
              chain in { type filter hook input priority 0; policy accept;
                udp dport vmap { 1007 : drop, 1008 : accept }
              }
            }
            """,
        )
        _send(a, "172.30.0.1", 1011)
        _send(a, b.inner(), 1007)
        whole = N * (len(places) + 2)
        report = tracer.settled(lambda r: sum(r.outside.values()) >= whole, ifname)
        assert sum(report.outside.values()) == whole, report.outside
        late = [d for d in report.lost if (d["inner"] or {}).get("dport") == 1011]
        rule = late[-1]["detail"]["rule"]
        assert (rule["family"], rule["table"], rule["chain"]) == ("inet", "pol", "through")
        assert (len(late), rule["handle"], rule["exact"]) == (N, None, True)
        mapped = [d for d in report.lost if (d["inner"] or {}).get("dport") == 1007]
        rule = mapped[-1]["detail"]["rule"]
        assert (len(mapped), rule["chain"], rule["exact"]) == (N, "in", False)
        assert "vmap" in rule["text"]

        (policy,) = (f for f in report.findings if "policy" in f["cause"])
        assert (policy["slug"], policy["count"]) == ("inner-blocked-by-firewall", N)
        _cure(policy, "nft")
        _send(a, "172.30.0.1", 1011)
        b.run(["nft", "flush", "ruleset"])

        # no rule of the firewall: forwarding is off, and the way back leads elsewhere
        b.sysctl("net.ipv4.ip_forward", 0)
        _send(a, "172.30.0.1", 1012)
        a.ip("addr", "add", f"{_AWAY}/32", "dev", ifname)
        b.wg("set", ifname, "peer", a.public_key, "allowed-ips", f"{a.allowed_ips},{_AWAY}/32")
        b.ip("route", "add", f"{_AWAY}/32", "dev", "lan0")
        b.sysctl(f"net.ipv4.conf.{ifname}.rp_filter", 1)
        _send(a, b.inner(), 1013, source=_AWAY)
        whole += 2 * N
        report = tracer.settled(lambda r: sum(r.outside.values()) >= whole, ifname)
        assert report.outside["ip_inaddrerrors", "inner", None] == N
        assert report.outside["ip_rpfilter", "inner", None] == N
        assert sum(report.outside.values()) == whole, report.outside
        off, filtered = report.finding("forwarding-disabled"), report.finding("rp-filter-drop")
        assert (off["count"], filtered["count"]) == (N, N)
        assert (off["confidence"], filtered["confidence"]) == ("certain", "certain")
        _cure(off, "sysctl")
        _cure(filtered, "ip")
        _send(a, "172.30.0.1", 1012)
        _send(a, b.inner(), 1013, source=_AWAY)
        a.run(["ping", "-n", "-c1", "-W5", b.inner()])
        report = tracer.report(ifname)
        assert sum(report.outside.values()) == whole, report.outside


def test_the_other_family_and_iptables(tracer: Tracer, ifname: str) -> None:
    """IPv6 inside and out; iptables' rules; a blocked port is the finding, and not that nobody answers."""
    with two_hosts(ifname=ifname, outer=6, inner=6, ports=(5353, 5353)) as net:
        a, b = net.a, net.b
        b.run(["ip6tables", "-A", "INPUT", "-p", "udp", "--dport", "5353", "-j", "DROP"])
        a.run(["ip6tables", "-A", "OUTPUT", "-o", ifname, "-p", "udp", "--dport", "1021", "-j", "DROP"])
        tracer.summary()
        _send(a, b.inner(), 1021)
        a.send_udp(b.inner(), count=1)

        def is_there(r: Report) -> bool:
            return r.outside.get(("netfilter_drop", "outer", "input"), 0) >= 2

        report = tracer.settled(is_there, ifname)
        assert report.outside["netfilter_drop", "inner", "output"] == N
        assert set(report.outside) == {
            ("netfilter_drop", "inner", "output"),
            ("netfilter_drop", "outer", "input"),
        }
        at_b = [f for f in report.findings if f["netns"] == _netns(b)]
        assert [f["slug"] for f in at_b] == ["outer-blocked-by-firewall"]
        assert at_b[0]["peer"]["public_key"] == a.public_key
        assert {d["detail"]["message_type"] for d in report.lost if d["packet"] == "outer"} == {1}
        _cure(at_b[0], "ip6tables")
        net.connect()


def test_a_router_with_other_traffic(tracer: Tracer, ifname: str) -> None:
    """What a router with a tunnel of its own drops of another tunnel's datagrams is not its tunnel's."""
    with two_hosts_and_router(ifname=ifname, ports=(5454, 5454)) as net:
        router = net.router
        router.ip("link", "add", ifname, "type", "wireguard")
        router.wg(
            "set", ifname, "listen-port", "5454", "peer", net.a.public_key, "allowed-ips", "192.168.99.0/24"
        )
        router.ip("link", "set", ifname, "up")
        net.connect()
        _load(
            router,
            """
            table inet fw {
              chain pre { type filter hook prerouting priority -300; policy accept;
                udp dport 5454 udp length 540-560 drop
              }
              chain through { type filter hook forward priority 0; policy drop;
                udp length < 500 accept
                ip protocol icmp accept
              }
            }
            """,
        )
        tracer.summary()
        _send(net.a, net.b.inner(), 9, 480)
        _send(net.a, net.b.inner(), 9, 660)
        net.connect()
        report = tracer.report(ifname)
        assert (report.outside, report.slugs) == ({}, [])
