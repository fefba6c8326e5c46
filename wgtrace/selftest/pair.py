# SPDX-License-Identifier: GPL-2.0-only
"""Two hosts with a tunnel between them that goes through our hands: every message is held here.

Each host's peer has the endpoint of a UDP socket of ours, that lives at the other host. So the
kernel makes the messages, with all their cryptography, and a scene delivers them, or not, or
twice, or changed.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence

from wgtrace.lab.topology import Host, two_hosts
from wgtrace.selftest import messages

IFNAME = "selftest"
_PAUSE_S = 0.02
_LONGEST_S, _SHORTEST_S = 10.0, 0.5  # for one thing, as long as there is patience, and then
_SEGMENTS = 64  # UDP_MAX_SEGMENTS of linux/udp.h, before it was raised
_UDP_SEGMENT = 103  # linux/udp.h
_ETH_P_IP = 0x0800


class SceneError(Exception):
    """A scene could not be staged on this host."""


class StoppedError(Exception):
    """Somebody wants the run to end."""


class Patience:
    """Waits for things to happen, and loses patience the more of them never do.

    Args:
        is_stopped: Asked in every wait; then that raises `StoppedError`.
        all_s: How long a run may wait in vain altogether, in seconds.
    """

    def __init__(self, is_stopped: Callable[[], bool], all_s: float = 30) -> None:
        self._is_stopped = is_stopped
        self._left_s = all_s

    def until(self, holds: Callable[[], bool]) -> bool:
        """Wait for something to become true; gives whether it did."""
        began = time.monotonic()
        limit_s = min(_LONGEST_S, max(_SHORTEST_S, self._left_s))
        while not holds():
            self.check()
            if time.monotonic() - began > limit_s:
                self._left_s -= limit_s
                return False
            time.sleep(_PAUSE_S)
        return True

    def check(self) -> None:
        """Raise `StoppedError` if the run is to end."""
        if self._is_stopped():
            raise StoppedError


class Relay:
    """What stands between the two hosts: for each, the socket that is its peer's endpoint."""

    def __init__(self, a: Host, b: Host, patience: Patience) -> None:
        self._patience = patience
        self._sockets: dict[str, socket.socket] = {}
        for host, far in ((a, b), (b, a)):
            sock = far.socket(socket.AF_INET)
            sock.bind((far.outer_addr, 0))
            self._sockets[host.name] = sock

    def close(self) -> None:
        """Close both sockets."""
        for sock in self._sockets.values():
            sock.close()

    def endpoint_for(self, host: Host) -> str:
        """What the peer of this host is to have as its endpoint."""
        address, port = self._sockets[host.name].getsockname()
        return f"{address}:{port}"

    def deliver(self, to: Host, what: Sequence[bytes]) -> None:
        """Send datagrams to the WireGuard port of a host, from its peer's endpoint."""
        for message in what:
            self._sockets[to.name].sendto(message, (to.outer_addr, to.listen_port))

    def held(self, sender: Host, kind: int, count: int = 1) -> list[bytes]:
        """The next messages of a kind that a host sent, keepalives left out; none goes any further.

        Raises:
            SceneError: They do not come.
            StoppedError: The run is to end.
        """
        found: list[bytes] = []

        def are_there() -> bool:
            while len(found) < count and (message := self._received(sender)):
                if message[:4] == struct.pack("<I", kind) and len(message) != messages.KEEPALIVE_LEN:
                    found.append(message)
            return len(found) == count

        if not self._patience.until(are_there):
            raise SceneError(f"host {sender.name} sent {len(found)} of {count} messages of type {kind}")
        return found

    def forget(self, sender: Host) -> None:
        """Throw away what a host sent until now."""
        while self._received(sender):
            pass

    def _received(self, sender: Host) -> bytes:
        """A message that a host sent, b"" if there is none now: WireGuard's are never empty."""
        try:
            return self._sockets[sender.name].recv(65535, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""


class Pair:
    """Host a, which sends, and host b, which receives; made and removed by `pair()`."""

    def __init__(self, a: Host, b: Host, relay: Relay, patience: Patience) -> None:
        self.a, self.b, self.relay = a, b, relay
        self._patience = patience

    def peers_anew(self) -> None:
        """Forget sessions, handshakes and waiting packets on both sides."""
        for host, peer in ((self.a, self.b), (self.b, self.a)):
            self._peer_anew(host, peer)

    def initiation(self) -> bytes:
        """A fresh initiation of a, for b, that b has not seen."""
        self._peer_anew(self.a, self.b)
        self.relay.forget(self.a)
        self.send()
        return self.relay.held(self.a, messages.INITIATION)[0]

    def connect(self) -> None:
        """Bring up a new session, in which nothing was sent but the packet that asked for it."""
        self._peer_anew(self.b, self.a)
        first = self.initiation()
        self.relay.forget(self.b)
        self.relay.deliver(self.b, [first])
        self.relay.deliver(self.a, self.relay.held(self.b, messages.RESPONSE))
        self.relay.deliver(self.b, self.relay.held(self.a, messages.DATA))

    def send(self, count: int = 1, source: str = "") -> None:
        """Have a send packets into the tunnel, to b."""
        self.a.send_udp(self.b.inner(), count=count, source=source)

    def data(self, count: int = 1, source: str = "") -> list[bytes]:
        """Data messages of a, for b."""
        self.send(count, source)
        return self.relay.held(self.a, messages.DATA, count)

    def use_up_counters(self, count: int) -> None:
        """Have a use up so many counters of its session, in few calls; the messages are lost."""
        with self.a.socket(socket.AF_INET) as sock:
            sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 8)
            for _ in range(0, count, _SEGMENTS):
                sock.sendto(bytes(8 * _SEGMENTS), (self.b.inner(), 9))

    def frames(self, frames: Sequence[bytes]) -> None:
        """Push IPv4 packets, or what is marked so, into a's tunnel from below the IP layer."""
        with self.a.socket(socket.AF_PACKET) as sock:
            for frame in frames:
                with contextlib.suppress(OSError):  # what WireGuard's refusal looks like from here
                    sock.sendto(frame, (IFNAME, _ETH_P_IP))

    @contextlib.contextmanager
    def route(self, to: str, *more: str) -> Iterator[None]:
        """A route of host a, into the tunnel unless `more` says where."""
        route = [to] if more else [to, "dev", IFNAME]
        self.a.ip("route", "add", *more, *route)
        try:
            yield
        finally:
            self.a.ip("route", "del", *more, *route)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for something to become true, or raise `SceneError`."""
        if not self._patience.until(holds):
            raise SceneError(f"{what}: waited in vain")

    def _peer_anew(self, host: Host, peer: Host) -> None:
        key = peer.public_key
        settings = ["endpoint", self.relay.endpoint_for(host), "allowed-ips", peer.allowed_ips]
        host.wg("set", IFNAME, "peer", key, "remove", "peer", key, *settings)


def new_public_key() -> str:
    """A key that nobody has the private key of."""
    return base64.b64encode(os.urandom(32)).decode()


@contextlib.contextmanager
def pair(patience: Patience) -> Iterator[Pair]:
    """Make the two hosts; they go when the context ends."""
    with two_hosts(ifname=IFNAME) as net, contextlib.closing(Relay(net.a, net.b, patience)) as relay:
        yield Pair(net.a, net.b, relay, patience)
