# SPDX-License-Identifier: GPL-2.0-only
"""Scenes whose timers are minutes long: begun once, looked at when the other tests are done."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from noise import Impostor, ipv4
from scenes import add_impostor, drop_udp_to, udp

from wgtrace.lab.topology import Network, two_hosts

PACKETS = 23
GIVE_UP_S = 110  # 20 attempts, each 5 s and up to 1/3 s
EXPIRED_S = 182  # REJECT_AFTER_TIME is 180 s


@dataclass
class SlowScenes:
    """Two tunnels: one whose handshake is never answered, one whose session grows old.

    The old session is used when it has expired, whatever else goes on then: after 540 s
    the kernel forgets its keys, and nobody knows how long the other tests take.
    """

    began: float
    silent: Network
    aged: Network
    impostor: Impostor
    socket: socket.socket
    old_session_used: threading.Timer = field(init=False)

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
                scenes = cls(time.monotonic(), silent, aged, impostor, sock)
                scenes.old_session_used = threading.Timer(EXPIRED_S, scenes._use_old_session)
                scenes.old_session_used.start()
                try:
                    yield scenes
                finally:
                    scenes.old_session_used.cancel()
                    scenes.old_session_used.join()

    def wait_until(self, seconds: float) -> None:
        """Wait until so long after the beginning."""
        time.sleep(max(0.0, self.began + seconds - time.monotonic()))

    def _use_old_session(self) -> None:
        """Good packets of a session older than the receiver takes."""
        inner = ipv4("172.20.0.7", self.aged.b.inner())
        for _ in range(PACKETS):
            message = self.impostor.data(inner)
            self.socket.sendto(message, (self.aged.b.outer_addr, self.aged.b.listen_port))
