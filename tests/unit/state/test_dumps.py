# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.dumps, on pyroute2's messages decoded from bytes as the kernel writes them."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import socket
import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from types import FrameType, FunctionType, ModuleType
from typing import Any

import kernel_messages as wire
import pytest
from pyroute2.netlink import ctrlmsg
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.generic.wireguard import wgmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from wgtrace.errors import StateError
from wgtrace.events.types import Endpoint
from wgtrace.state import dumps
from wgtrace.state.types import Device

PRIVATE, PUBLIC, PRESHARED = (
    b"private-key-canary".ljust(32, b"!"),
    bytes(range(32)),
    b"preshared-canary".ljust(32, b"?"),
)
LINK = Device("wg0", 7, 4026531840)
FAMILY = 30


class Kernel:
    """Stands for both sockets of generic netlink: the family's number, then the dump.

    Args:
        dump: Messages; or what to raise when it is their turn.
    """

    def __init__(self, *dump: bytes | BaseException) -> None:
        self.dump = dump
        self.answer: Iterator[bytes | BaseException] = iter(())
        self.dumps_asked = 0
        self.buffer: memoryview | None = None

    def register_policy(self, kind: int, message_class: Callable[[bytes], Any]) -> None:
        """Only the family's number is asked for by pyroute2."""

    def nlm_request(self, _request: object, msg_type: int, msg_flags: int) -> Iterator[Any]:
        """The family's number."""
        number = wire.attribute(1, wire.u16(FAMILY))
        yield decoded(ctrlmsg, wire.generic(msg_type, number, flags=0))

    def send(self, request: bytes) -> None:
        """Take the request for the dump of interface 7."""
        length, kind, flags = struct.unpack_from("=IHH", request)
        assert (length, kind, flags, request[16:20]) == (len(request), FAMILY, 0x301, b"\0\1\0\0")
        assert request[20:] == wire.attribute(1, wire.u32(7))
        self.dumps_asked += 1
        self.answer = iter((*self.dump, wire.message(3, bytes(4))))

    def recv_into(self, buffer: memoryview) -> int:
        """Write the next message into the buffer."""
        self.buffer = buffer
        message = next(self.answer)
        if isinstance(message, BaseException):
            raise message
        buffer[: len(message)] = message
        return len(message)


def decoded(message_class: Callable[[bytes], Any], message: bytes) -> Any:
    """A message as pyroute2 hands it out."""
    result = message_class(message)
    result.decode()
    return result


def wgmsgs(*payloads: bytes) -> list[Any]:
    """Messages of a WireGuard dump."""
    return [decoded(wgmsg, wire.generic(FAMILY, payload)) for payload in payloads]


def key(number: int) -> bytes:
    """A public key."""
    return number.to_bytes(32, "big")


def text(public_key: bytes) -> str:
    """A key as wg(8) prints it."""
    return b64encode(public_key).decode()


def asked(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> Device:
    """What `wireguard` says of the link when this kernel answers."""
    monkeypatch.setattr(dumps, "GenericNetlinkSocket", lambda: contextlib.nullcontext(kernel))
    monkeypatch.setattr(socket, "socket", lambda *_: contextlib.nullcontext(kernel))
    return dumps.wireguard(LINK, {})


def spellings(secret: bytes) -> set[bytes]:
    """What a key looks like when it is printed or kept, in one way or another."""
    hexes = secret.hex(), secret.hex(":"), secret.hex().upper()
    return {secret, b64encode(secret), repr(secret)[2:-1].encode(), *(h.encode() for h in hexes)}


def kept_bytes(exc: BaseException) -> Iterator[bytes]:
    """Every string that an exception reaches: by its causes, and by the frames of their tracebacks."""
    todo: list[Any] = [exc]
    seen: dict[int, object] = {}
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type | ModuleType):
            continue
        seen[id(item)] = item
        if isinstance(item, bytes | bytearray | memoryview):
            yield bytes(item)
        elif isinstance(item, str):
            yield item.encode(errors="surrogateescape")
        elif isinstance(item, FunctionType):  # not its module's globals
            todo += [item.__closure__, item.__defaults__]
        elif isinstance(item, FrameType):
            ours = item.f_code.co_filename == __file__
            todo += () if ours else item.f_locals.values()
        elif not isinstance(item, Kernel):  # the kernel itself does know them
            todo += gc.get_referents(item)


def test_a_device_and_its_peers() -> None:
    """Everything that wg(8) shows of a device comes out, IPv4 and IPv6, and peers by name."""
    first = wire.peer(key(1), ["10.9.0.2/32", "fd00::/64"], endpoint=("203.0.113.9", 4500), handshake=(17, 5))
    second = wire.peer(key(2), endpoint=("2001:db8::9", 51820), preshared_key=PRESHARED)

    device = dumps.configured(
        LINK, wgmsgs(wire.device(PRIVATE, PUBLIC, [first, second])), {text(key(1)): "berlin"}
    )

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
    """AllowedIPs that did not fit are joined in order, and peers and the device keep theirs."""
    many = [f"10.{n // 256}.{n % 256}.0/24" for n in range(600)]
    messages = wgmsgs(
        wire.device(PRIVATE, PUBLIC, [wire.peer(key(1), ["10.255.0.0/16"]), wire.peer(key(2), many[:200])]),
        wire.more([wire.peer_part(key(2), many[200:400])]),
        wire.more(
            [wire.peer_part(key(2), many[400:]), wire.peer(key(3), ["fd00::/8"], endpoint=("1.2.3.4", 5))]
        ),
        *(wire.more(wire.peer(key(n)) for n in range(start, start + 50)) for start in range(4, 204, 50)),
    )

    device = dumps.configured(LINK, messages, {})

    assert (device.public_key, device.listen_port, device.fwmark) == (text(PUBLIC), 51820, 0xCA6C)
    assert [peer.public_key for peer in device.peers] == [text(key(n)) for n in range(1, 204)]
    assert device.peers[1].allowed_ips == tuple(map(ip_network, many))
    assert device.peers[1].persistent_keepalive == 25
    assert device.peers[2].allowed_ips == (ip_network("fd00::/8"),)


@pytest.mark.parametrize(
    "payload", [wire.device(b"", b"", []), wire.device(bytes(32), bytes(32), [])], ids=["absent", "zero"]
)
def test_a_device_without_a_private_key_has_no_public_key(payload: bytes) -> None:
    """A key that is not set is None, not a key of zeros."""
    assert dumps.configured(LINK, wgmsgs(payload), {}).public_key is None


def test_no_secret_leaves(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is returned or printed holds a private or preshared key in any spelling."""
    message = wire.generic(
        FAMILY,
        wire.device(PRIVATE, PUBLIC, [wire.peer(key(1), ["10.0.0.0/8"], preshared_key=PRESHARED)]),
    )

    kernel = Kernel(message)

    device = asked(monkeypatch, kernel)

    assert device.peers[0].has_preshared_key
    assert kernel.buffer is not None
    assert not any(kernel.buffer)
    everything = repr(device).encode() + pickle.dumps(device) + "".join(capfd.readouterr()).encode()
    for secret in (PRIVATE, PRESHARED):
        assert secret in message
        assert not [spelling for spelling in spellings(secret) if spelling in everything]


def test_secrets_are_overwritten_before_anything_is_decoded() -> None:
    """Private and preshared keys are gone from the very buffer; all else in it stays as it was."""
    peers = [wire.peer(key(1), ["10.0.0.0/8"], preshared_key=PRESHARED), wire.peer(key(2))]
    message = bytearray(wire.generic(FAMILY, wire.device(PRIVATE, PUBLIC, peers)))
    expected = bytes(message).replace(PRIVATE, bytes(32)).replace(PRESHARED, b"\x01" * 32)

    dumps.without_secrets(memoryview(message))

    assert PRIVATE not in message
    assert message == expected


def with_context(exc: BaseException, context: BaseException) -> BaseException:
    """An error that came while another was handled."""
    exc.__context__ = context
    return exc


def dump_with_family(number: int) -> bytes:
    """A device's dump with an AllowedIPs entry of that address family; pyroute2 fails at an unknown one."""
    entry = wire.attribute(1, wire.u16(number)) + wire.attribute(2, bytes(4)) + wire.attribute(3, b"\x20")
    peer = wire.attribute(1, key(1)) + wire.attribute(2, PRESHARED) + wire.nest(9, [entry])
    return wire.generic(FAMILY, wire.device(PRIVATE, PUBLIC, [wire.peer(key(2)), peer]))


@pytest.mark.parametrize(
    ("dump", "raised"),
    [
        ([dump_with_family(socket.AF_PACKET)], StateError),
        ([dump_with_family(socket.AF_INET), NetlinkError(19)], OSError),
        ([dump_with_family(socket.AF_INET), OSError(105, "No buffer space available")], OSError),
        ([dump_with_family(socket.AF_INET), NetlinkDumpInterrupted()], StateError),
        ([dump_with_family(socket.AF_INET), KeyboardInterrupt()], KeyboardInterrupt),
        (
            [dump_with_family(socket.AF_INET), with_context(KeyboardInterrupt(), KeyError(PRIVATE))],
            KeyboardInterrupt,
        ),
    ],
    ids=["undecodable", "refused", "socket", "interrupted", "ctrl-c", "ctrl-c-in-decoder"],
)
def test_no_secret_leaves_with_an_error(
    dump: list[bytes | BaseException], raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle of a dump has no key in its text, causes, or frames."""
    with pytest.raises(raised) as caught:
        asked(monkeypatch, Kernel(*dump))

    kept = list(kept_bytes(caught.value))
    assert b"wg0" in kept  # the search does look into frames
    for secret in (PRIVATE, PRESHARED):
        assert any(secret in part for part in dump if isinstance(part, bytes))
        assert not [part for part in kept if any(spelling in part for spelling in spellings(secret))]


def test_what_is_not_understood_says_where() -> None:
    """An error of pyroute2's decoder is one of ours, with its kind and line and nothing else of it."""
    with pytest.raises(StateError, match="not understood") as caught:
        dumps.told(lambda: decoded(wgmsg, b"short"))
    assert ".py:" in caught.value.because


def test_pyroute2_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What pyroute2 logs, whole messages at that, reaches no handler, even where all is logged."""
    caplog.set_level(logging.DEBUG)

    logging.getLogger("pyroute2.netlink.core").critical("message %s", PRIVATE)

    assert not caplog.records


@pytest.mark.parametrize("flag_on", [0, 1], ids=["first", "last"])
def test_an_interrupted_dump_is_asked_for_again(flag_on: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump whose messages say that something changed meanwhile is never used, and not asked for ever."""
    payloads = [wire.device(PRIVATE, PUBLIC, [wire.peer(key(1))]), wire.more([wire.peer(key(2))])]
    flags = [wire.MULTI, wire.MULTI]
    flags[flag_on] |= wire.DUMP_INTERRUPTED
    kernel = Kernel(*(wire.generic(FAMILY, payload, flag) for payload, flag in zip(payloads, flags)))  # noqa: B905

    with pytest.raises(StateError, match="changes faster"):
        asked(monkeypatch, kernel)
    assert kernel.dumps_asked == 10


@pytest.mark.parametrize("interruption", [NetlinkDumpInterrupted(), InterruptedError(4, "Interrupted")])
def test_a_dump_is_read_once_it_is_whole(interruption: Exception) -> None:
    """After two interrupted tries the third counts."""
    tries = []

    def read() -> str:
        tries.append("a try")
        if len(tries) < 3:
            raise interruption
        return "whole"

    assert dumps.told(read) == "whole"


def test_a_link_with_its_counters() -> None:
    """A link's name, index, state, MTU and 64-bit counters come out by the kernel's names."""
    device, kind = dumps.link(decoded(ifinfmsg, wire.link(b"wg0", 7, "wireguard")), 42)

    assert (device.ifname, device.ifindex, device.netns, device.mtu) == ("wg0", 7, 42, 1420)
    assert kind == "wireguard"
    assert device.is_up
    assert device.counters["rx_packets"] == 100
    assert device.counters["rx_errors"] == 104
    assert device.counters["rx_frame_errors"] == 113
    assert device.counters["tx_aborted_errors"] == 116


@pytest.mark.parametrize(("carrier", "has_carrier"), [(None, True), (1, True), (0, False)])
def test_a_link_without_carrier(carrier: int | None, *, has_carrier: bool) -> None:
    """Only a link that the kernel says has none has none."""
    message = wire.link(b"wg0", 7, "wireguard", carrier=carrier)

    assert dumps.link(decoded(ifinfmsg, message), 42)[0].has_carrier is has_carrier


def test_a_link_that_is_down_and_of_no_kind() -> None:
    """Such a link has an empty kind; a name that is no UTF-8 is made one."""
    device, kind = dumps.link(decoded(ifinfmsg, wire.link(b"eth\xff", 2, "", flags=0, counters=24)), 42)

    assert (device.ifname, device.is_up, kind) == ("eth\ufffd", False, "")


def test_links_of_this_host() -> None:
    """The loopback interface is there, with index 1 and without a kind; no other kind has its name."""
    found = {device.ifname: (device.ifindex, kind) for device, kind in dumps.links(netns=1)}

    assert found["lo"] == (1, "")
    for kind in ("bridge", "no-such-kind"):  # the kernel does not filter by the latter
        assert "lo" not in {device.ifname for device, _ in dumps.links(netns=1, kind=kind)}


def test_a_kernel_that_does_not_know_the_family(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """That is no error, and nothing is printed or logged about it."""
    monkeypatch.setattr(dumps, "WG_GENL_NAME", "no-such-family")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    assert not dumps.has_wireguard()
    assert not logging.getLogger().handlers
    assert "".join(capfd.readouterr()) == ""


def test_a_family_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that every kernel has is found."""
    monkeypatch.setattr(dumps, "WG_GENL_NAME", "nlctrl")

    assert dumps.has_wireguard()


def test_no_file_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading again and again, with and without an answer, leaves no file open."""
    monkeypatch.setattr(dumps, "WG_GENL_NAME", "no-such-family")
    dumps.links(netns=1)
    before = sorted(os.listdir("/proc/self/fd"))

    for _ in range(23):
        dumps.links(netns=1)
        dumps.has_wireguard()
        with pytest.raises(OSError, match="No such file"):
            dumps.wireguard(LINK, {})

    assert sorted(os.listdir("/proc/self/fd")) == before
