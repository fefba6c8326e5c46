# SPDX-License-Identifier: GPL-2.0-only
"""Drops outside of WireGuard and violated invariants, under pseudonyms: told, and nobody's."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from factories import BERLIN, NETNS, device, peer, snapshot
from records import flow4, record, total_key
from runs import FACTS, of, replayed
from runs import record as recorded
from stand_ins import Host, Replay, raw

from wgtrace.events.invariants import Invariant
from wgtrace.events.wire import EventKind, Hook, Layer, RuleFound
from wgtrace.evidence.bundle import bundle
from wgtrace.evidence.pseudonyms import Pseudonyms
from wgtrace.evidence.redact import redacted
from wgtrace.evidence.seen import seen
from wgtrace.recording.format import Block
from wgtrace.recording.reader import opened
from wgtrace.state.types import Firewall, Namespace, NftChain

N, M = 23, 7
TUNNEL, OFFICE = "acme-vpn", "office-lan"
DROPS = (
    'iifname "office-lan" oifname { "acme-vpn", "eth0" } ip saddr 10.66.7.0/24 ip daddr @vips '
    'ether saddr 52:54:00:ca:fe:01 log prefix "bob said no" counter packets 3 bytes 9 drop '
    'comment "block bob"'
)
RULES = Firewall(
    (
        NftChain("inet", "acme-fw", 5, "from-bob", rules={12: DROPS}),
        NftChain("inet", "acme-fw", 5, "forward", "forward", "0", "accept", {9: "jump from-bob"}),
        NftChain("ip", "wg-quick-acme-vpn", 6, "preraw", "prerouting", "-300", "accept"),
    )
)
CANARIES = (
    *(b"acme", b"office-lan", b"bob", b"vips", b"52:54:00", b"10.66.7.", b"berlin"),
    *(ip_address(a).packed for a in ("10.66.7.9", "10.9.0.2", "203.0.113.9")),
    raw(BERLIN),
)
SPACE = Namespace(NETNS, "/proc/self/ns/net")
BERLINS = {
    "public_key": raw(BERLIN),
    "known": 1,
    "endpoint_addr": ip_address("203.0.113.9").packed,
    "endpoint_port": 51820,
    "endpoint_family": 4,
}
AT = {"ifname": TUNNEL.encode(), "netns": NETNS, "ifindex": 7}


def _run() -> tuple[Replay, Host]:
    """A rule drops, twice; a response is taken by the wrong handshake."""
    blocked = record(
        EventKind.PATH, device=AT, peer=BERLINS, inner=flow4("10.66.7.9", "10.9.0.2", 6, 5000, 443, 84),
        location=0xFFFFFFFF81ABC123, table_handle=5, rule_handle=12, table=b"acme-fw", chain=b"from-bob",
        ifname=OFFICE.encode(), netns=NETNS, kernel_reason=8, layer=Layer.INNER, outgoing=1,
        hook=Hook.FORWARD, rule=RuleFound.EXACT, table_family=1, matched=1,
    )  # fmt: skip
    wrong = record(
        EventKind.INVARIANT, device=AT, peer=BERLINS, code=Invariant.RESPONSE_INDEX, expected=0xA, found=0xB,
        stack=(0xFFFFFFFF81ABC123, 0xFFFFFFFF81ABD777, *[0] * 10),
    )  # fmt: skip
    of_tunnel = {"ifname": TUNNEL.encode(), "netns": NETNS, "peer_known": 1, "public_key": raw(BERLIN)}
    path = {"kind": EventKind.PATH, "code": 8, "layer": Layer.INNER, "outgoing": 1, "hook": Hook.FORWARD}
    looks = {"kind": EventKind.INVARIANT, "code": Invariant.RESPONSE_INDEX}
    sums = {
        total_key(**of_tunnel, **path, rule=RuleFound.EXACT, sub_reason=4, matched=1): N,
        total_key(**of_tunnel, **looks, matched=0): 1,
        total_key(**of_tunnel, **looks, matched=1): M,
    }
    peers = (peer(BERLIN, "berlin", "10.9.0.2/32", at="203.0.113.9:51820"),)
    host = Host(snapshot(device(TUNNEL, peers=peers)))
    polls: list[list[Any]] = [[blocked] * N, [wrong]]
    return Replay(polls, sums, kernel_reasons={2: "NOT_SPECIFIED", 8: "NETFILTER_DROP"}), host


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """It, recorded."""
    path = tmp_path / "wg.rec"
    recorded(_run, path, facts=replace(FACTS, claims=tuple, firewall=lambda _space: RULES))
    return path


@pytest.fixture
def there(recording: Path, tmp_path: Path) -> Path:
    """The same under pseudonyms."""
    path = tmp_path / "redacted.rec"
    result = redacted([recording])
    (content,) = result.files
    assert result.left_out == ()
    path.write_bytes(content)
    return path


def _held(path: Path) -> bytes:
    with contextlib.closing(opened(path)) as file:
        return b"\n".join([path.read_bytes(), *(b.body for b in file.blocks() if isinstance(b, Block))])


def test_nothing_of_anybody_is_left(recording: Path, there: Path) -> None:
    """Not in rules, sets, comments, log prefixes, names of interfaces, chains and tables, MACs, addresses."""
    assert [canary for canary in CANARIES if canary not in _held(recording)] == []
    assert [canary for canary in CANARIES if canary in _held(there)] == []


def test_the_rule_is_still_that_rule(there: Path) -> None:
    """Handle, grammar and what everybody has are as they were; one name is one pseudonym everywhere."""
    drops = of(replayed(there), "drop")
    rule, detail = drops[0]["detail"]["rule"], drops[0]["detail"]

    assert len(drops) == N
    assert (rule["handle"], rule["exact"], rule["family"]) == (12, True, "inet")
    assert (rule["table"], rule["chain"], drops[0]["ifname"]) == ("table-1", "chain-1", "if-1")
    office = detail["device"]
    assert office.startswith("if-")
    assert rule["text"].startswith(f'iifname "{office}" oifname {{ "if-1", "eth0" }} ip saddr 10.')
    net = rule["text"].split("ip saddr ")[1].split()[0]
    assert ip_address(drops[0]["inner"]["saddr"]) in ip_network(net)
    assert "ip daddr @set-1 ether saddr 02:00:5e:00:00:01 log prefix" in rule["text"]
    assert rule["text"].endswith('drop comment "comment-1"')
    assert drops[0]["reason"] == "netfilter_drop"


def test_places_of_the_kernel_keep_their_names(recording: Path, there: Path) -> None:
    """Where the kernel lay is the host's secret; which function it was is not."""
    assert bytes.fromhex("ffffffff81abc123")[::-1] in _held(recording)
    assert bytes.fromhex("ffffffff81abc123")[::-1] not in _held(there)
    names = {drop["where"] for drop in of(replayed(there), "drop")}

    assert names == {"wg_packet_rx_poll+0xffffffff81abc123"}  # as the stand-in calls it
    (what, stack) = seen([there]).violations[Invariant.RESPONSE_INDEX]
    assert what == "a response for 0000000a was taken by the handshake 0000000b"
    assert stack == (*names, "wg_packet_rx_poll+0xffffffff81abd777")


def test_the_report_has_it(recording: Path) -> None:
    """What was dropped where, which invariant did not hold, how often of how many, and the stack."""
    text = _report(recording)

    assert f"0 packets dropped by WireGuard and {N} of its tunnels elsewhere in the kernel" in text
    assert f"| {N} | `netfilter_drop` | netfilter |" in text
    assert f"| `response_index` | **1** | {M + 1} |" in text
    assert "| `padding_zero` | - | 0 |" in text
    assert "a response for 0000000a was taken by the handshake 0000000b" in text
    assert f"lacks it | violated 1 of {M + 1} times |" in text or "has it | violated 1 of" in text
    assert "dropped outside of WireGuard, netfilter_drop" in text
    assert [canary for canary in CANARIES if canary in text.encode()] == []


def test_names_that_everybody_has_stay() -> None:
    """`wg0` and `enp3s0` say nothing of anybody; a name that is made of a MAC does."""
    to = Pseudonyms(b"secret")

    for name in ("wg0", "eth1", "lo", "enp3s0", "enp0s31f6", "docker0", "eth0.100"):
        assert to.ifname(name) == name
    assert to.ifname("enx525400cafe01") == "if-1"
    assert to.ifname("wg-berlin") == "if-2"
    assert (to.table("filter"), to.table("wg-quick-wg0")) == ("filter", "wg-quick-wg0")
    assert to.table("wg-quick-wg-berlin") == "wg-quick-if-2"
    assert (to.chain("INPUT"), to.chain("bob-in")) == ("INPUT", "chain-1")
    assert to.rule("jump INPUT") == "jump INPUT"
    assert to.rule('xt match "conntrack" goto bob-in') == 'xt match "conntrack" goto chain-1'


def _report(path: Path) -> str:
    import gzip
    import io
    import tarfile

    data = gzip.decompress(bundle([path]).data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = tar.extractfile("wgtrace-evidence/report.md")
        assert found
        return found.read().decode()
