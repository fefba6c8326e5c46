# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.wireguard and links, on messages as the kernel writes them."""

from __future__ import annotations

import pickle
from base64 import b64encode
from ipaddress import ip_address, ip_network

import kernel_messages as wire
import pytest

from wgtrace.errors import StateError, UnsupportedError, UsageError
from wgtrace.events.types import Endpoint
from wgtrace.state import wireguard
from wgtrace.state.links import link
from wgtrace.state.netlink import DumpInterruptedError, Netlink, attributes, consistent
from wgtrace.state.netns import current
from wgtrace.state.types import Device
from wgtrace.state.wireguard import configured, devices

PRIVATE, PUBLIC, PRESHARED = (
    b"private-key-canary".ljust(32, b"!"),
    bytes(range(32)),
    b"preshared-canary".ljust(32, b"?"),
)
LINK = Device("wg0", 7, 4026531840)


def key(number: int) -> bytes:
    """A public key."""
    return number.to_bytes(32, "big")


def text(public_key: bytes) -> str:
    """A key as wg(8) prints it."""
    return b64encode(public_key).decode()


def test_a_device_and_its_peers() -> None:
    """Everything that wg(8) shows of a device comes out, IPv4 and IPv6, and peers by name."""
    first = wire.peer(key(1), ["10.9.0.2/32", "fd00::/64"], endpoint=("203.0.113.9", 4500), handshake=(17, 5))
    second = wire.peer(key(2), endpoint=("2001:db8::9", 51820), preshared_key=PRESHARED)

    device = configured(LINK, [wire.device(PRIVATE, PUBLIC, [first, second])], {text(key(1)): "berlin"})

    assert (device.public_key, device.listen_port, device.fwmark) == (text(PUBLIC), 51820, 0xCA6C)
    berlin, other = device.peers
    assert berlin.public_key == text(key(1))
    assert berlin.name == "berlin"
    assert berlin.endpoint == Endpoint(ip_address("203.0.113.9"), 4500)
    assert berlin.allowed_ips == (ip_network("10.9.0.2/32"), ip_network("fd00::/64"))
    assert berlin.latest_handshake_ns == 17_000_000_005
    assert (berlin.tx_bytes, berlin.rx_bytes) == (2**40 + 7, 2**33 + 1)
    assert (berlin.persistent_keepalive, berlin.has_preshared_key) == (25, False)
    assert (other.name, other.allowed_ips, other.has_preshared_key) == (None, (), True)
    assert other.endpoint == Endpoint(ip_address("2001:db8::9"), 51820)
    assert other.latest_handshake_ns == 0


def test_a_peer_that_goes_on_in_the_next_messages_is_one_peer() -> None:
    """AllowedIPs that did not fit are joined in order, and peers keep theirs."""
    many = [f"10.{n // 256}.{n % 256}.0/24" for n in range(600)]
    messages = [
        wire.device(PRIVATE, PUBLIC, [wire.peer(key(1), ["10.255.0.0/16"]), wire.peer(key(2), many[:200])]),
        wire.more([wire.peer_part(key(2), many[200:400])]),
        wire.more(
            [wire.peer_part(key(2), many[400:]), wire.peer(key(3), ["fd00::/8"], endpoint=("1.2.3.4", 5))]
        ),
        *(wire.more(wire.peer(key(n)) for n in range(start, start + 50)) for start in range(4, 204, 50)),
    ]

    device = configured(LINK, messages, {})

    assert [peer.public_key for peer in device.peers] == [text(key(n)) for n in range(1, 204)]
    assert device.peers[1].allowed_ips == tuple(map(ip_network, many))
    assert device.peers[1].persistent_keepalive == 25
    assert device.peers[2].allowed_ips == (ip_network("fd00::/8"),)


@pytest.mark.parametrize(
    "message", [wire.device(b"", b"", []), wire.device(bytes(32), bytes(32), [])], ids=["absent", "zero"]
)
def test_a_device_without_a_private_key_has_no_public_key(message: memoryview) -> None:
    """A key that is not set is None, not a key of zeros."""
    assert configured(LINK, [message], {}).public_key is None


def test_no_secret_leaves(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing that is returned or printed holds a private or preshared key in any spelling."""
    message = wire.device(PRIVATE, PUBLIC, [wire.peer(key(1), ["10.0.0.0/8"], preshared_key=PRESHARED)])

    device = configured(LINK, [message], {})

    everything = repr(device).encode() + pickle.dumps(device) + "".join(capsys.readouterr()).encode()
    for secret in (PRIVATE, PRESHARED):
        assert secret in bytes(message)
        assert secret not in everything
        assert b64encode(secret) not in everything
        assert secret.hex().encode() not in everything
        assert repr(secret)[2:-1].encode() not in everything


def test_a_link_with_its_counters() -> None:
    """A link's name, index, state, MTU and 64-bit counters come out by the kernel's names."""
    device, kind = link(wire.link("wg0", 7, "wireguard"), 42)

    assert (device.ifname, device.ifindex, device.netns, device.mtu, kind) == (
        "wg0",
        7,
        42,
        1420,
        "wireguard",
    )
    assert device.is_up
    assert device.counters["rx_packets"] == 100
    assert device.counters["rx_errors"] == 104
    assert device.counters["rx_otherhost_dropped"] == 124


def test_a_link_of_an_older_kernel() -> None:
    """Counters that a kernel does not have are absent, and a link may be down and of no kind."""
    device, kind = link(wire.link("eth0", 2, "", flags=0, counters=23), 42)

    assert (device.is_up, kind) == (False, "")
    assert "tx_compressed" in device.counters
    assert "rx_nohandler" not in device.counters


@pytest.mark.parametrize("length", range(0, 60, 3))
def test_a_cut_message_does_not_read_on(length: int) -> None:
    """Attributes end where the message ends, wherever that is."""
    message = wire.device(PRIVATE, PUBLIC, [])

    whole, cut = list(attributes(message)), list(attributes(message[:length]))
    assert cut == whole[: len(cut)]
    assert sum(4 + len(value) for _, value in cut) <= length


def test_an_interrupted_dump_is_asked_for_again() -> None:
    """What changed while it was dumped is read anew, and not for ever."""
    tries = []

    def read() -> str:
        tries.append("a try")
        if len(tries) < 3:
            raise DumpInterruptedError
        return "whole"

    def never() -> str:
        raise DumpInterruptedError

    assert consistent(read) == "whole"
    with pytest.raises(StateError, match="changes faster"):
        consistent(never)


def test_what_is_not_wireguard_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """No such interface, one of another kind, and one of WireGuard outside the kernel are told apart."""
    links = [
        link(wire.link(*row), 1) for row in (("wg0", 7, "wireguard"), ("br0", 8, "bridge"), ("wg1", 9, "tun"))
    ]
    monkeypatch.setattr(
        wireguard, "links", lambda _route, _netns, kind="": [x for x in links if kind in ("", x[1])]
    )
    monkeypatch.setattr(wireguard, "_family", lambda _generic: 30)

    for name, what in (
        ("wg9", "there is no interface wg9"),
        ("br0", "kind is bridge"),
        ("wg1", "wireguard-go"),
    ):
        with pytest.raises(UsageError) as error:
            devices(current(), {}, only=["wg0", name])
        told = f"{error.value.what} {error.value.because} {error.value.do}"
        assert what in told
        assert "WireGuard interfaces here: wg0" in told


def test_a_kernel_without_wireguard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not know WireGuard, a wanted interface is missing for that reason."""
    monkeypatch.setattr(Netlink, "family", lambda _self, _name: None)

    with pytest.raises(UnsupportedError) as error:
        devices(current(), {}, only=["wg-none-such"])
    assert error.value.do == "modprobe wireguard"


def test_a_namespace_without_wireguard_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No interface is asked for and there is none: that is no error, with WireGuard or without."""
    monkeypatch.setattr(wireguard, "links", lambda *_args, **_kwargs: [])

    assert devices(current(), {}) == ()
