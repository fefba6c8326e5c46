# SPDX-License-Identifier: GPL-2.0-only
"""What sizes mean: the MTU that fits, and one finding for each cause."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from factories import BERLIN, device, flow, outer, peer

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.diagnosis.mtu import Facts, Seen, findings
from wgtrace.events.mtu import MtuEvent, Sizes
from wgtrace.events.types import DeviceRef, PeerRef
from wgtrace.events.wire import MtuCode, MtuOf
from wgtrace.state.types import Way

WG0 = DeviceRef("wg0", 4026531840, 3)
N = 23


def event(code: MtuCode, **more: Any) -> MtuEvent:
    """Of wg0, about a datagram to berlin."""
    given: dict[str, Any] = {"device": WG0, "is_inner": False, "outgoing": True, "ifname": "eth0", **more}
    return MtuEvent(1, code, peer=PeerRef(BERLIN), **given)


def facts(*events: MtuEvent, at: str = "203.0.113.9:51820", net: str = "10.9.0.2/32", **more: Any) -> Facts:
    """What is known once each of these events came 23 times."""
    berlin = peer(BERLIN, "berlin", net, at=at, latest_handshake_ns=more.pop("shaken_ns", 0))
    counts: dict[tuple[MtuCode, bool], int] = {}
    seen: dict[tuple[MtuCode, bool], Seen] = {}
    for each in events:
        kind = each.code, each.outgoing
        counts[kind] = counts.get(kind, 0) + N
        for _ in range(N):
            seen.setdefault(kind, Seen(each)).add(each)
    way = more.pop("way", Way(ip_address(at.rsplit(":", 1)[0].strip("[]")), oif="eth0", link_mtu=1500))
    return Facts(device(mtu=1420, peers=(berlin,)), berlin, way, counts=counts, seen=seen, **more)


FRAGMENTED = event(
    MtuCode.OUTER_FRAGMENTED, size=1480, mtu=1300, mtu_of=MtuOf.DEVICE, outer=outer(length=1480)
)
PADDED = event(
    MtuCode.PADDING_BEYOND_MTU,
    size=1413,
    mtu=1500,
    mtu_of=MtuOf.ROUTE,
    is_inner=True,
    inner=flow("10.9.0.1", "10.9.0.2"),
)
TOLD = event(
    MtuCode.TOO_BIG_SENT,
    size=1500,
    mtu=1420,
    is_inner=True,
    ifname="wg0",
    inner=flow("172.16.0.7", "10.9.0.2"),
)


@pytest.mark.parametrize(
    ("at", "way", "fits"),
    [
        ("203.0.113.9:51820", {"link_mtu": 1500}, 1440),
        ("[2001:db8::9]:51820", {"link_mtu": 1500}, 1420),
        ("203.0.113.9:51820", {"link_mtu": 1492}, 1432),
        ("203.0.113.9:51820", {"link_mtu": 1500, "mtu": 1300}, 1240),
        ("203.0.113.9:51820", {"link_mtu": 0}, 0),
        ("203.0.113.9:51820", {"link_mtu": 1500, "errno": 101}, 0),
    ],
)
def test_the_mtu_that_fits(at: str, way: dict[str, Any], fits: int) -> None:
    """The path MTU without what encryption adds, by the endpoint's family; 0 where no path is known."""
    known = facts(at=at, way=Way(ip_address(at.rsplit(":", 1)[0].strip("[]")), oif="eth0", **way))
    assert (known.fits, findings(known)) == (fits, [])


def test_what_is_fragmented_and_arrives_is_a_warning() -> None:
    """With the MTU of who is too narrow, and the one to set."""
    (found,) = findings(facts(FRAGMENTED))

    assert (found.slug, found.severity, found.count) == ("outer-fragmented", Severity.WARNING, N)
    assert "that is the MTU of eth0" in found.cause
    assert found.fix[0] == "ip link set dev wg0 mtu 1240"
    assert not any("nft" in text for text in found.fix)


def test_who_forwards_is_told_to_clamp() -> None:
    """TCP of others is to fit too."""
    (found,) = findings(facts(FRAGMENTED, forwards=True))
    assert found.fix[-1].endswith("tcp option maxseg size set rt mtu'")


def test_padding_is_the_cause_of_what_only_padding_made_too_big() -> None:
    """What is larger than the interface's own MTU makes is by the route: one finding."""
    of_padding = event(MtuCode.OUTER_FRAGMENTED, size=1504, mtu=1500, mtu_of=MtuOf.DEVICE)
    (found,) = findings(facts(PADDED, of_padding, at="[2001:db8::9]:51820"))
    assert (found.slug, found.severity, found.count) == ("padding-exceeds-mtu", Severity.WARNING, N)

    both = findings(facts(PADDED, of_padding, FRAGMENTED, at="[2001:db8::9]:51820"))
    assert [each.slug for each in both] == ["padding-exceeds-mtu", "outer-fragmented"]


def test_padding_that_still_fits_is_no_trouble() -> None:
    """Nothing had to be fragmented: worth a word only."""
    (found,) = findings(facts(PADDED))
    assert (found.slug, found.severity) == ("padding-exceeds-mtu", Severity.INFO)


@pytest.mark.parametrize(("other_end", "mtu"), [(1300, 1240), (0, 1220)])
def test_a_link_with_two_mtus(other_end: int, mtu: int) -> None:
    """Datagrams die at the other end, unsaid: its MTU decides, or what IPv6 asks of every link."""
    lost = event(MtuCode.DATAGRAM_LOST, size=1468, where="__dev_forward_skb2+0x1e0")
    (found,) = findings(facts(lost, other_end_mtu=other_end))

    assert (found.slug, found.severity, found.confidence) == (
        *("mtu-black-hole", Severity.ERROR),
        Confidence.CERTAIN,
    )
    assert (found.count, found.fix[0]) == (N, f"ip link set dev wg0 mtu {mtu}")


def test_own_fragments_that_are_dropped_are_not_said_twice() -> None:
    """They are the black hole; that there are any is its evidence."""
    lost = event(MtuCode.FRAGMENT_LOST, size=196, where="nf_hook_slow+0xd2", kernel_reason="NETFILTER_DROP")
    (found,) = findings(facts(FRAGMENTED, lost))

    assert (found.slug, found.count) == ("mtu-black-hole", N)
    assert "nf_hook_slow" in found.cause
    assert any("fragmented by this host" in text for text in found.evidence)


@pytest.mark.parametrize(
    ("more", "confidence", "what"),
    [
        ({"kernel_reason": "FRAG_REASM_TIMEOUT", "where": "ip_expire+1"}, Confidence.LIKELY, "on the way"),
        ({"where": "ip_expire+0x1"}, Confidence.LIKELY, "on the way"),
        ({"kernel_reason": "NETFILTER_DROP", "where": "nft_do_chain+1"}, Confidence.CERTAIN, "nft_do_chain"),
    ],
)
def test_fragments_that_do_not_all_arrive(more: dict[str, str], confidence: Confidence, what: str) -> None:
    """The peer's side has to send smaller ones; who drops them is said where it is this host."""
    (found,) = findings(facts(event(MtuCode.FRAGMENT_LOST, size=1300, outgoing=False, **more)))

    assert (found.slug, found.confidence) == ("mtu-black-hole", confidence)
    assert what in found.cause
    assert found.fix[0] == "on berlin's host: ip link set dev <its interface> mtu 1240"


def test_what_a_router_says_in_vain() -> None:
    """This host drops the message: the MTU in it is the one that fits."""
    message = event(MtuCode.TOO_BIG_LOST, mtu=1300, where="nft_do_chain+1", origin=ip_address("2001:db8::1"))
    (found,) = findings(facts(message, at="[2001:db8::9]:51820"))

    assert (found.slug, found.severity) == ("mtu-black-hole", Severity.ERROR)
    assert "ip link set dev wg0 mtu 1220" in found.fix


def _tried(**more: int) -> Sizes:
    given = {
        "sent": 1420,
        "passed": 1028,
        "failed": 1400,
        "failures": 3,
        "first_failed_ns": 50,
        "heard_ns": 90,
    }
    return Sizes(WG0, BERLIN, **{**given, **more})


def test_larger_ones_without_an_answer() -> None:
    """Smaller ones were answered since: a black hole, and what surely passes."""
    (found,) = findings(facts(sizes=_tried()))

    assert (found.slug, found.severity, found.confidence, found.count) == (
        *("mtu-black-hole", Severity.ERROR),
        *(Confidence.LIKELY, 3),
    )
    assert found.fix[0] == "ip link set dev wg0 mtu 1220"
    assert found.not_visible


def test_ipv6_in_the_tunnel_asks_for_1280() -> None:
    """Below that it would not work at all."""
    (found,) = findings(facts(sizes=_tried(), net="fd09::2/128"))
    assert found.fix[0] == "ip link set dev wg0 mtu 1280"


@pytest.mark.parametrize(
    "sizes",
    [
        _tried(failures=2),
        _tried(heard_ns=49),
        _tried(passed=1400),
        _tried(failed=0, failures=0),
    ],
    ids=["only two", "nobody answers anything", "it passed after all", "none"],
)
def test_what_is_no_black_hole(sizes: Sizes) -> None:
    """A few that were lost, a peer that is away, or a size that passed later, say nothing about sizes."""
    assert findings(facts(sizes=sizes)) == []


def test_a_handshake_since_shows_that_small_ones_pass() -> None:
    """It is as good as an answer."""
    (found,) = findings(
        facts(sizes=_tried(heard_ns=0, passed=0), shaken_ns=1_000_060, clock_offset_ns=1_000_000)
    )
    assert "handshakes pass" in found.cause


def test_senders_that_are_told_are_no_error() -> None:
    """Path MTU discovery does its work."""
    (found,) = findings(facts(TOLD))
    assert (found.slug, found.severity, found.count) == ("inner-too-big", Severity.INFO, N)


def test_senders_that_cannot_hear() -> None:
    """The message about it is dropped here: that is the error."""
    unheard = event(
        MtuCode.TOO_BIG_LOST,
        mtu=1420,
        is_inner=True,
        where="nft_do_chain+1",
        inner=flow("172.16.0.7", "10.9.0.2"),
    )
    (found,) = findings(facts(TOLD, unheard))

    assert (found.slug, found.severity) == ("inner-too-big", Severity.ERROR)
    assert "let out ICMP frag-needed (type 3, code 4)" in found.fix


def test_senders_that_go_on() -> None:
    """Who sends what is too big for two seconds more was not reached."""
    known = facts(TOLD)
    for times in known.seen[MtuCode.TOO_BIG_SENT, True].flows.values():
        times[1] = times[0] + 2_000_000_000
    (found,) = findings(known)

    assert (found.severity, found.confidence) == (Severity.WARNING, Confidence.LIKELY)
