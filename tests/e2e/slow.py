# SPDX-License-Identifier: GPL-2.0-only
"""Scenes whose timers are minutes long: begun once, looked at when the other tests are done."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from noise import Impostor, ipv4
from scenes import add_impostor, drop_udp_to, udp

from wgtrace.lab.topology import Network, two_hosts

PACKETS = 23
GIVE_UP_S = 110  # 20 attempts, each 5 s and up to 1/3 s
EXPIRED_S = 182  # REJECT_AFTER_TIME is 180 s


@dataclass
class SlowScenes:
    """Two tunnels: one whose handshake is never answered, one whose session grows old."""

    began: float
    silent: Network
    aged: Network
    impostor: Impostor
    socket: socket.socket

    @classmethod
    @contextlib.contextmanager
    def begun(cls) -> Iterator[SlowScenes]:
        """Begin both; they go when the context ends."""
        with two_hosts(ifname="silent0") as silent, two_hosts(ifname="aged0") as aged:
            drop_udp_to(silent.b, silent.b.listen_port)
            silent.a.send_udp(silent.b.inner(), count=PACKETS)
            impostor = add_impostor(aged.b, "172.20.0.7/32")
            with udp(aged.a, aged.b.outer_addr) as sock:
                impostor.connect(sock, (aged.b.outer_addr, aged.b.listen_port))
                yield cls(time.monotonic(), silent, aged, impostor, sock)

    def wait_until(self, seconds: float) -> None:
        """Wait until so long after the beginning."""
        time.sleep(max(0.0, self.began + seconds - time.monotonic()))

    def send_on_the_old_session(self) -> None:
        """Good packets of a session older than the receiver takes."""
        inner = ipv4("172.20.0.7", self.aged.b.inner())
        for _ in range(PACKETS):
            message = self.impostor.data(inner)
            self.socket.sendto(message, (self.aged.b.outer_addr, self.aged.b.listen_port))
