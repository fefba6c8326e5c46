# SPDX-License-Identifier: GPL-2.0-only
"""What several tests do to a network."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

from noise import Impostor

from wgtrace.lab.topology import Host

ETH_P_ALL, ETH_P_IP = 3, 0x0800
SO_RCVBUF = 1 << 22


def udp(host: Host, to: str) -> socket.socket:
    """A UDP socket at `host` that can send to the address `to`."""
    return host.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)


def send(host: Host, to: Host, messages: list[bytes]) -> None:
    """Send datagrams to the WireGuard port of another host."""
    with udp(host, to.outer_addr) as sock:
        for message in messages:
            sock.sendto(message, (to.outer_addr, to.listen_port))


class Sniffer:
    """Takes the UDP payloads that pass a host's device, WireGuard messages among them."""

    def __init__(self, host: Host, device: str = "eth0") -> None:
        with host.enter():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SO_RCVBUF)
            self._socket.bind((device, ETH_P_ALL))
        self._socket.settimeout(60)

    def messages(self, kind: int, port: int, count: int) -> list[bytes]:
        """The next `count` messages of a kind that go to a port."""
        found: list[bytes] = []
        while len(found) < count:
            packet = self._socket.recv(65535)
            header = (packet[0] & 0xF) * 4 if packet[0] >> 4 == 4 else 40
            dport, length = struct.unpack_from(">HH", packet, header + 2)
            payload = packet[header + 8 : header + length]
            if dport == port and payload[:4] == struct.pack("<I", kind):
                found.append(payload)
        return found

    def close(self) -> None:
        """Stop."""
        self._socket.close()


@contextlib.contextmanager
def sniffing(host: Host, device: str = "eth0") -> Iterator[Sniffer]:
    """A sniffer that is closed afterwards."""
    sniffer = Sniffer(host, device)
    try:
        yield sniffer
    finally:
        sniffer.close()


def add_impostor(host: Host, allowed_ips: str, private: bytes | None = None) -> Impostor:
    """A peer of `host` that the test speaks for."""
    impostor = Impostor(host.public_key, private)
    host.wg("set", host.ifname, "peer", impostor.public_key, "allowed-ips", allowed_ips)
    return impostor


def drop_udp_to(host: Host, port: int) -> None:
    """Have `host` lose, in its own firewall, what arrives for a UDP port."""
    rules = (
        "add table inet test\n"
        "add chain inet test in { type filter hook input priority filter; }\n"
        f"add rule inet test in udp dport {port} drop\n"
    )
    host.run(["nft", "-f", "-"], stdin=rules)


def undrop(host: Host) -> None:
    """Undo `drop_udp_to`."""
    host.run(["nft", "delete", "table", "inet", "test"])


def send_frames(host: Host, ifname: str, ethertype: int, frames: list[bytes]) -> None:
    """Push packets into an interface from below the IP layer."""
    with host.enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    with sock:
        for frame in frames:
            with contextlib.suppress(OSError):
                sock.sendto(frame, (ifname, ethertype))


def received_bytes(host: Host, public_key: str) -> int:
    """Bytes that `host` has accepted from a peer."""
    return _transferred(host, public_key)[0]


def sent_bytes(host: Host, public_key: str) -> int:
    """Bytes that `host` has sent to a peer, handshakes too."""
    return _transferred(host, public_key)[1]


def _transferred(host: Host, public_key: str) -> tuple[int, int]:
    lines = host.wg("show", host.ifname, "transfer").splitlines()
    return next((int(came), int(went)) for key, came, went in map(str.split, lines) if key == public_key)


def wait_until(holds: Callable[[], bool], limit_s: float = 180) -> None:
    """Wait for something to become true; AssertionError if it never does."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s"
        time.sleep(0.02)


def new_key(*kind: str) -> str:
    """`wg genkey` or `wg genpsk`."""
    return subprocess.run(["wg", *(kind or ("genkey",))], capture_output=True, text=True, check=True).stdout
