# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace mtu`: what is too big, where it dies, and the MTU that cures it."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from scenes import wait_until
from tracer import SETTLE_S, Line, Tracer

from wgtrace.lab.topology import Host, hub_and_spokes, two_hosts, two_hosts_and_router

pytestmark = pytest.mark.soak  # not seen to pass on every kernel yet

N = 23
_PMTUDISC_DO, _IP_MTU_DISCOVER = 2, 10


class Mtu(Tracer):
    """A running `wgtrace mtu --all --json`."""

    command, last_line = "mtu", "mtu_summary"

    def told(self, host: Host) -> Told:
        """What is known of a host now."""
        summary = self.summary()
        lines = list(self.lines)
        end = lines.index(summary)
        begin = max((at for at, line in enumerate(lines[:end]) if line["type"] == self.last_line), default=0)
        here = (host.ifname, int(host.run(["stat", "-L", "-c", "%i", host.netns_path]).stdout))

        def of(kind: str, first: int) -> list[Line]:
            found = (line for line in lines[first:end] if line["type"] == kind)
            return [line for line in found if (line["ifname"], line["netns"]) == here]

        counts: dict[str, int] = {}
        for total in summary["totals"]:
            if (total["ifname"], total["netns"]) == here:
                counts[total["event"]] = counts.get(total["event"], 0) + total["count"]
        return Told(of("mtu", 0), of("mtu_peer", begin), of("finding", begin), counts)

    def settled(self, host: Host, enough: Callable[[Told], bool]) -> Told:  # type: ignore[override]
        """What is known once `enough` holds, or what there is when patience ends."""
        deadline = time.monotonic() + SETTLE_S
        told = self.told(host)
        while not enough(told) and time.monotonic() < deadline:
            time.sleep(0.3)
            told = self.told(host)
        return told


class Told:
    """What was told of a host's interface: events, rows of peers, findings, and how often what happened."""

    def __init__(
        self, events: list[Line], rows: list[Line], findings: list[Line], counts: dict[str, int]
    ) -> None:
        self.events, self.rows, self.findings, self.counts = events, rows, findings, counts

    @property
    def slugs(self) -> list[tuple[str, str]]:
        """Slug and severity of each finding."""
        return sorted((finding["slug"], finding["severity"]) for finding in self.findings)

    @property
    def finding(self) -> Line:
        """The only one."""
        (only,) = self.findings
        return only

    @property
    def row(self) -> Line:
        """The only peer's."""
        (only,) = self.rows
        return only

    def of(self, event: str) -> list[Line]:
        """The events of this id."""
        return [line for line in self.events if line["event"] == event]


@pytest.fixture(scope="module")
def mtu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mtu]:
    """One for all of the tests; it must have seen all, and end well."""
    running = Mtu(["--all"], tmp_path_factory.mktemp("mtu") / "ready")
    yield running
    assert running.end() == 0, running.stderr
    assert running.lines[-1]["incomplete_because"] == []


def _ping(
    host: Host, to: str, payload: int, count: int = N, interval: str = "0.02", way: str = "dont"
) -> int:
    """How many pings of this payload were answered."""
    command = ["ping", "-n", "-q", "-M", way, "-s", str(payload), "-c", str(count), "-i", interval, "-W", "2"]
    said = host.run([*command, to], check=False).stdout
    (answered,) = re.findall(r"(\d+) (?:packets )?received", said)
    return int(answered)


def _cure(host: Host, finding: Line, begin: str) -> None:
    """Run the command of a fix as it is printed."""
    (command,) = (text for text in finding["fix"] if text.startswith(begin))
    with host.enter():
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"


def _link_mtu(host: Host, device: str, mtu: int) -> None:
    host.ip("link", "set", "dev", device, "mtu", str(mtu))


@pytest.mark.parametrize(("outer", "fits"), [(4, 1440), (6, 1420)])
def test_a_healthy_tunnel_has_no_finding(mtu: Mtu, ifname: str, outer: int, fits: int) -> None:
    """Its sizes are told: what was answered by echo is the largest that passed, and what came in."""
    with two_hosts(ifname=ifname, outer=outer) as net:
        net.connect()
        assert _ping(net.a, net.b.inner(), 1392, way="do") == N

        a, b = (
            mtu.settled(host, lambda told: told.row["largest_received"] == 1420) for host in (net.a, net.b)
        )
        assert (a.slugs, b.slugs, a.events, b.events) == ([], [], [], [])
        overhead = {4: 60, 6: 80}[outer]
        assert (a.row["largest_passed"], a.row["largest_sent"], a.row["overhead"]) == (1420, 1420, overhead)
        assert (a.row["link_mtu"], a.row["path_mtu"], a.row["fits"]) == (1500, 1500, fits)
        assert (a.row["oif"], a.row["smallest_failed"], b.row["largest_passed"]) == ("eth0", None, None)


def test_tcp_tells_what_passed(mtu: Mtu, ifname: str) -> None:
    """What TCP acknowledged passed: full segments out, and as large ones came in at the other end."""
    with two_hosts(ifname=ifname, inner=6) as net:
        net.connect()
        with net.b.socket(socket.AF_INET6, socket.SOCK_STREAM) as listening:
            listening.bind((net.b.inner(), 5000))
            listening.listen()
            with net.a.socket(socket.AF_INET6, socket.SOCK_STREAM) as out:
                out.connect((net.b.inner(), 5000))
                there, _address = listening.accept()
                with there:
                    out.sendall(bytes(100_000))
                    left = 100_000
                    while left:
                        left -= len(there.recv(left))

        a = mtu.settled(net.a, lambda told: told.row["largest_passed"] == 1420)
        assert (a.row["largest_passed"], a.row["smallest_failed"], a.slugs) == (1420, None, [])
        assert mtu.told(net.b).row["largest_received"] == 1420


def test_the_other_end_of_the_link_takes_less(mtu: Mtu, ifname: str) -> None:
    """A's device takes 1300 bytes, B's sends 1500: what B sends dies unsaid, what A sends is fragmented."""
    with two_hosts(ifname=ifname) as net:
        net.connect()
        _link_mtu(net.a, "eth0", 1300)
        assert _ping(net.a, net.b.inner(), 1372) == 0

        b = mtu.settled(net.b, lambda told: told.counts.get("datagram_lost") == N)
        assert (b.slugs, b.counts) == ([("mtu-black-hole", "error")], {"datagram_lost": N})
        assert (b.finding["confidence"], b.finding["count"]) == ("certain", N)
        assert b.finding["peer"]["public_key"] == net.a.public_key
        assert {line["size"] for line in b.of("outer_dev_mtu_drop")} == {1468}
        a = mtu.told(net.a)
        assert (a.slugs, a.counts) == ([("outer-fragmented", "warning")], {"outer_fragmented": N})
        assert (a.finding["count"], a.row["path_mtu"], a.row["fits"]) == (N, 1300, 1240)

        _cure(net.b, b.finding, f"ip link set dev {ifname} ")
        _cure(net.a, a.finding, f"ip link set dev {ifname} ")
        assert _ping(net.a, net.b.inner(), 1372) == N
        assert mtu.told(net.b).counts == {"datagram_lost": N, "inner_fragmented": N}


def test_fragments_that_arrive_are_no_error(mtu: Mtu, ifname: str) -> None:
    """Both ends take 1300 bytes: datagrams are fragmented and put together again; a smaller MTU ends that."""
    with two_hosts(ifname=ifname, ports=(7171, 7272)) as net:
        net.connect()
        _link_mtu(net.a, "eth0", 1300)
        _link_mtu(net.b, "eth0", 1300)
        assert _ping(net.a, net.b.inner(), 1392) == N

        for host, other in ((net.a, net.b), (net.b, net.a)):
            told = mtu.settled(host, lambda told: told.counts.get("outer_fragmented") == N)
            assert (told.slugs, told.counts) == ([("outer-fragmented", "warning")], {"outer_fragmented": N})
            assert (told.finding["count"], told.finding["peer"]["public_key"]) == (N, other.public_key)
            for line in told.of("outer_fragmented_tx"):
                assert (line["size"], line["mtu"], line["mtu_of"]) == (1480, 1300, "device")
                assert (line["outer"]["dport"], line["at"]["ifname"]) == (other.listen_port, "eth0")
            _cure(host, told.finding, f"ip link set dev {ifname} ")
        assert _ping(net.a, net.b.inner(), 1212) == N
        assert mtu.told(net.a).counts == {"outer_fragmented": N}


@pytest.mark.parametrize("outer", [4, 6])
def test_fragments_that_the_firewall_drops(mtu: Mtu, ifname: str, outer: int) -> None:
    """B drops fragments: 23 of them there, and 23 first ones that wait in vain; A is told to send none."""
    with two_hosts(ifname=ifname, outer=outer) as net:
        net.connect()
        _link_mtu(net.a, "eth0", 1300)
        _link_mtu(net.b, "eth0", 1300)
        net.b.sysctl({4: "net.ipv4.ipfrag_time", 6: "net.ipv6.ip6frag_time"}[outer], 1)
        fragments = {4: "ip frag-off & 0x1fff != 0", 6: "frag frag-off != 0"}[outer]
        chain = "chain pre { type filter hook prerouting priority -300; policy accept; "
        net.b.run(["nft", "-f", "-"], stdin=f"table inet frags {{\n{chain}{fragments} drop; }}\n}}\n")
        assert _ping(net.a, net.b.inner(), 1372) == 0

        b = mtu.settled(net.b, lambda told: told.counts.get("fragment_lost") == 2 * N)
        assert (b.slugs, b.counts) == ([("mtu-black-hole", "error")], {"fragment_lost": 2 * N})
        assert (len(b.of("outer_fragment_lost")), len(b.of("outer_reasm_timeout"))) == (N, N)
        assert (b.finding["confidence"], b.finding["peer"]["public_key"]) == ("certain", net.a.public_key)
        a = mtu.told(net.a)
        assert (a.counts, a.row["path_mtu"]) == ({"outer_fragmented": N}, 1300)
        _cure(net.a, a.finding, f"ip link set dev {ifname} ")
        assert _ping(net.a, net.b.inner(), 1000) == N


def test_padding_beyond_the_mtu(mtu: Mtu, ifname: str) -> None:
    """A route with a larger MTU than the interface lets padding make datagrams too big; the fix ends it."""
    with two_hosts(ifname=ifname, outer=6) as net:
        net.connect()
        net.a.ip("route", "add", f"{net.b.inner()}/32", "dev", ifname, "mtu", "1500")
        assert _ping(net.a, net.b.inner(), 1385) == N

        a = mtu.settled(net.a, lambda told: told.counts.get("padding_beyond_mtu") == N)
        assert a.slugs == [("padding-exceeds-mtu", "warning")]
        assert a.counts == {"padding_beyond_mtu": N, "outer_fragmented": N}
        assert a.finding["count"] == N
        assert {line["size"] for line in a.of("outer_fragmented_tx")} == {1504}
        assert mtu.told(net.b).slugs == []
        net.a.ip("route", "change", f"{net.b.inner()}/32", "dev", ifname, "mtu", "1420")
        assert _ping(net.a, net.b.inner(), 1385) == N
        assert mtu.told(net.a).counts == a.counts


def test_a_router_asks_for_smaller_datagrams(mtu: Mtu, ifname: str) -> None:
    """IPv6: the router's message makes the kernel fragment; its MTU and the one to set are told."""
    with two_hosts_and_router(ifname=ifname, outer=6) as net:
        net.connect()
        _link_mtu(net.router, "eth1", 1300)
        _link_mtu(net.b, "eth0", 1300)
        _ping(net.a, net.b.inner(), 1372, count=3, interval="1")

        def enough(told: Told) -> bool:
            return bool(told.of("outer_frag_needed_received") and told.of("outer_fragmented_tx"))

        a = mtu.settled(net.a, enough)
        asked = a.of("outer_frag_needed_received")[0]
        assert (asked["mtu"], asked["mtu_of"], asked["peer"]["public_key"]) == (
            1300,
            "icmp",
            net.b.public_key,
        )
        assert f"{asked['origin']}/" in net.router.ip("-6", "addr")
        assert a.of("path_mtu_changed")[0]["mtu"] == 1300
        assert a.of("outer_fragmented_tx")[0]["mtu_of"] == "icmp"
        assert (a.slugs, a.row["path_mtu"], a.row["fits"]) == ([("outer-fragmented", "warning")], 1300, 1220)


def test_what_the_router_says_is_dropped(mtu: Mtu, ifname: str) -> None:
    """IPv6: this host's firewall drops the router's message: a black hole, and what would cure it."""
    with two_hosts_and_router(ifname=ifname, outer=6, ports=(8181, 8282)) as net:
        net.connect()
        _link_mtu(net.router, "eth1", 1300)
        _link_mtu(net.b, "eth0", 1300)
        chain = (
            "chain i { type filter hook input priority 0; policy accept; icmpv6 type packet-too-big drop; }"
        )
        net.a.run(["nft", "-f", "-"], stdin=f"table inet deaf {{\n{chain}\n}}\n")
        assert _ping(net.a, net.b.inner(), 1372, count=3, interval="1") == 0

        a = mtu.settled(net.a, lambda told: "too_big_lost" in told.counts)
        assert (a.slugs, a.finding["confidence"]) == ([("mtu-black-hole", "error")], "certain")
        assert {(line["mtu"], line["packet"]) for line in a.of("too_big_lost")} == {(1300, "outer")}
        _cure(net.a, a.finding, f"ip link set dev {ifname} ")
        assert _ping(net.a, net.b.inner(), 1100) == N


def test_programs_that_send_too_much_at_once(mtu: Mtu, ifname: str) -> None:
    """EMSGSIZE is told to the program itself, and is no error."""
    with two_hosts(ifname=ifname, inner=(4, 6)) as net:
        net.connect()
        with net.a.socket(socket.AF_INET) as sock:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
            for _ in range(N):
                with contextlib.suppress(OSError):
                    sock.sendto(bytes(1400), (net.b.inner(4), 9))

        a = mtu.settled(net.a, lambda told: told.counts.get("sender_refused") == N)
        assert (a.slugs, a.counts) == ([("inner-too-big", "info")], {"sender_refused": N})
        assert (a.finding["count"], a.finding["peer"]["public_key"]) == (N, net.b.public_key)


@pytest.mark.parametrize("inner", [4, 6])
def test_a_hub_whose_mtu_is_smaller(mtu: Mtu, ifname: str, inner: int) -> None:
    """The hub tells the spoke, which sends smaller packets then: no error. Where it drops that, it is one."""
    with hub_and_spokes(ifname=ifname, inner=inner) as net:
        net.connect()
        (one, two), hub = net.spokes, net.hub
        _link_mtu(hub, ifname, 1380)
        payload = 1420 - {4: 28, 6: 48}[inner]
        _ping(one, two.inner(), payload, count=3, interval="0.5", way="do")

        told = mtu.settled(hub, lambda told: "too_big_sent" in told.counts)
        assert told.slugs == [("inner-too-big", "info")]
        assert told.finding["peer"]["public_key"] == two.public_key
        assert {line["mtu"] for line in told.of(f"inner_too_big_v{inner}")} == {1380}
        heard = mtu.settled(one, lambda told: "path_mtu_changed" in told.counts)
        assert heard.of("path_mtu_changed")[0]["mtu"] == 1380

        match = {4: "icmp type destination-unreachable", 6: "icmpv6 type packet-too-big"}[inner]
        chain = f"chain o {{ type filter hook output priority 0; policy accept; {match} drop; }}"
        hub.run(["nft", "-f", "-"], stdin=f"table inet mute {{\n{chain}\n}}\n")
        one.ip(f"-{inner}", "route", "flush", "cache")
        before = told.counts["too_big_sent"]
        assert _ping(one, two.inner(), payload, count=7, interval="0.2", way="do") == 0
        told = mtu.settled(hub, lambda told: "too_big_lost" in told.counts)
        assert told.counts["too_big_sent"] == before + 7
        assert told.slugs == [("inner-too-big", "error")]


def test_a_middlebox_that_says_nothing(mtu: Mtu, ifname: str) -> None:
    """A router drops what is larger than 1300 and tells nobody: what has no answer tells; the fix cures."""
    with two_hosts_and_router(ifname=ifname) as net:
        net.connect()
        chain = "chain f { type filter hook forward priority 0; policy accept; meta length > 1300 drop; }"
        net.router.run(["nft", "-f", "-"], stdin=f"table inet black {{\n{chain}\n}}\n")
        assert _ping(net.a, net.b.inner(), 1000, count=3) == 3

        def has_found() -> bool:
            assert _ping(net.a, net.b.inner(), 1372, count=2, interval="1.1") == 0
            assert _ping(net.a, net.b.inner(), 56, count=1) == 1
            return bool(mtu.told(net.a).findings)

        wait_until(has_found)
        a = mtu.told(net.a)
        assert (a.slugs, a.finding["confidence"]) == ([("mtu-black-hole", "error")], "likely")
        assert (a.row["largest_passed"], a.row["smallest_failed"]) == (1028, 1400)
        assert mtu.told(net.b).slugs == []
        _cure(net.a, a.finding, f"ip link set dev {ifname} ")
        _cure(net.b, a.finding, f"ip link set dev {ifname} ")
        assert _ping(net.a, net.b.inner(), 1372) == N
