# SPDX-License-Identifier: GPL-2.0-only
"""Pseudonyms: others than before, the same each time, and the same questions of prefixes."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from factories import BERLIN, PARIS, device, endpoint, peer
from hypothesis import given
from hypothesis import strategies as st

from wgtrace.diagnosis.words import short_key
from wgtrace.evidence.pseudonyms import Pseudonyms, secret_of
from wgtrace.state.types import Claim, Namespace

SECRET = secret_of(b"a recording")
NETS = [
    ip_network(net)
    for net in ("10.9.0.0/24", "10.9.0.2/32", "75.5.0.0/16", "172.20.0.0/14", "fd09::/64", "2a01:4f8::/32")
]
DOCUMENTATION = [
    ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]


@given(st.sampled_from([net for net in NETS if net.version == 4]), st.ip_addresses(v=4), st.booleans())  # type: ignore[untyped-decorator]  # hypothesis is skipped
def test_an_address_is_in_a_network_exactly_if_it_was(
    net: object, address: IPv4Address, inside: bool
) -> None:
    """Whatever the address: in it stays in it, outside stays outside."""
    to = Pseudonyms(SECRET, NETS)
    if inside:  # else nearly no address would be
        address = net[int(address) % net.num_addresses]  # type: ignore[index,attr-defined]  # an IPv4Network

    assert (to.address(address) in to.network(net)) == (address in net)  # type: ignore[arg-type,operator]


@given(st.integers(0, 2**64 - 1))  # type: ignore[untyped-decorator]  # hypothesis is skipped
def test_an_ipv6_address_is_in_its_network(host: int) -> None:
    """So for a unique local network and for a public one."""
    to = Pseudonyms(SECRET, NETS)
    for net in NETS:
        if isinstance(net, IPv6Network):
            assert to.address(net[host % net.num_addresses]) in to.network(net)
            assert to.network(net).prefixlen == net.prefixlen


@given(st.sets(st.ip_addresses(v=4), min_size=2, max_size=50))  # type: ignore[untyped-decorator]  # hypothesis is skipped
def test_different_addresses_stay_different(addresses: set[IPv4Address]) -> None:
    """No two hosts become one."""
    to = Pseudonyms(SECRET, NETS)

    assert len({to.address(address) for address in addresses}) == len(addresses)


@pytest.mark.parametrize(
    ("block", "address"),
    [
        ("10.0.0.0/8", "10.9.0.2"),
        ("100.64.0.0/10", "100.99.1.2"),
        ("172.16.0.0/12", "172.31.9.9"),
        ("192.168.0.0/16", "192.168.1.77"),
        ("fc00::/7", "fd12:3456:789a::7"),
        ("fe80::/10", "fe80::21a:4aff:fe16:17f"),
    ],
)
def test_a_block_with_a_meaning_is_kept_and_the_rest_is_not(block: str, address: str) -> None:
    """Private stays private, and is another address."""
    there = Pseudonyms(SECRET).address(ip_address(address))

    assert there in ip_network(block)
    assert there != ip_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "224.0.0.251", "255.255.255.255", "::1", "::", "ff02::16"])
def test_what_is_nobodys_stays(address: str) -> None:
    """Loopback, multicast, broadcast, the unspecified address."""
    assert Pseudonyms(SECRET).address(ip_address(address)) == ip_address(address)


@pytest.mark.parametrize("address", ["75.5.1.2", "203.0.113.9", "8.8.8.8", "2a00:1450::7", "2001:db8::9"])
def test_a_public_host_becomes_one_for_documentation(address: str) -> None:
    """Nobody's address is said to be in a case that is not his."""
    there = Pseudonyms(SECRET).address(ip_address(address))

    assert any(there.version == net.version and there in net for net in DOCUMENTATION)


def test_there_are_addresses_for_many_public_hosts() -> None:
    """Beyond the 762 hosts of documentation there is the block for benchmarks; all are different."""
    to = Pseudonyms(SECRET)
    there = {to.address(IPv4Address(0x0B000000 + number * 257)) for number in range(3000)}

    assert len(there) == 3000
    assert all(any(a in net for net in (*DOCUMENTATION[:3], ip_network("198.18.0.0/15"))) for a in there)


def test_a_public_network_is_moved_to_where_nobody_is() -> None:
    """240.0.0.0/4 and 2001:db8::/32; one that is nearly everything stays."""
    to = Pseudonyms(SECRET, NETS)

    assert to.network(ip_network("75.5.0.0/16")).subnet_of(ip_network("240.0.0.0/4"))  # type: ignore[arg-type]
    assert to.network(ip_network("2a01:4f8::/32")) == DOCUMENTATION[3]
    for whole in ("0.0.0.0/0", "128.0.0.0/1", "::/0", "2000::/3"):
        assert to.network(ip_network(whole)) == ip_network(whole)


def test_keys() -> None:
    """A key becomes what looks like one and is none, in text and raw; short keys tell them apart."""
    to = Pseudonyms(SECRET)
    first, second = to.key(BERLIN), to.key(PARIS)

    assert to.key(BERLIN) == first != second
    assert base64.b64encode(base64.b64decode(first)).decode() == first
    assert len(base64.b64decode(first)) == 32
    assert to.raw_key(base64.b64decode(BERLIN)) == base64.b64decode(first)
    assert to.raw_key(bytes(32)) == bytes(32)
    assert short_key(first) != short_key(second)


def test_sentences() -> None:
    """Keys, addresses and names in a sentence; a time, a number and a part of a word are left alone."""
    to = Pseudonyms(SECRET, [ip_network("10.9.0.0/24")], ["berlin"])
    told = to.text(f"berlin ({BERLIN}) at 203.0.113.9:51820, [fd00::1]:9, 12:04:11, berliner, 6.12.117")

    assert told == (
        f"{to.name('berlin')} ({to.key(BERLIN)}) at {to.address(ip_address('203.0.113.9'))}:51820, "
        f"[{to.address(IPv6Address('fd00::1'))}]:9, 12:04:11, berliner, 6.12.117"
    )


def test_a_configuration() -> None:
    """Nothing of a device, its peers, a namespace or a file name is left but what is a number."""
    to = Pseudonyms(SECRET, [ip_network("10.9.0.0/24")], ["berlin"])
    given_device = device(peers=(peer(BERLIN, "berlin", "10.9.0.0/24", at="203.0.113.9:51820"),))
    there = to.of(given_device)

    assert (there.ifname, there.listen_port, there.mtu) == ("wg0", 51820, 1420)
    assert there.public_key == to.key(str(given_device.public_key))
    (one,) = there.peers
    assert (one.public_key, one.name) == (to.key(BERLIN), to.name("berlin"))
    assert one.allowed_ips == (to.network(ip_network("10.9.0.0/24")),)
    assert one.endpoint == endpoint(f"{to.address(ip_address('203.0.113.9'))}:51820")
    assert to.of(Namespace(7, "/run/netns/acme", "acme")) == Namespace(7, "/run/netns/netns-1", "netns-1")
    assert to.of(Claim("/etc/wireguard/acme.conf", BERLIN, ip_network("10.9.0.0/24"))).file == (
        "/etc/wireguard/file-1.conf"
    )


def test_the_same_recording_gives_the_same_pseudonyms() -> None:
    """And another one others: they tell nothing from one archive to the next."""
    address = ip_address("10.77.1.2")

    assert Pseudonyms(SECRET).address(address) == Pseudonyms(secret_of(b"a recording")).address(address)
    others = {Pseudonyms(secret_of(bytes([n]))).address(address) for n in range(20)}
    assert len(others) > 15


def test_every_bit_below_the_block_is_turned_by_some_secret() -> None:
    """None of them tells what it was."""
    address, turned = ip_address("10.170.0.255"), 0
    for number in range(99):
        turned |= int(address) ^ int(Pseudonyms(secret_of(bytes([number]))).address(address))

    assert turned == 0x00FFFFFF
