# SPDX-License-Identifier: GPL-2.0-only
"""Runs netns.sh as it is under `wgtrace drops --all`; holds each step of every counter against the totals.

Inside the lab: `guest_upstream.py NETNS_SH E2E_DIRECTORY`. An observer beside it hears of
each interface that is deleted, with the counters that it ended with (rtnetlink(7)).
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from wgtrace.errors import WgtraceError
from wgtrace.events.reasons import CATALOGUE, Reason
from wgtrace.interfaces import COUNTERS

RUN_NETNS = Path("/run/netns")
RTMGRP_LINK, RTM_DELLINK = 1, 17
SO_RCVBUFFORCE = 33
LIMIT_S = float(os.environ.get("NETNS_SH_SECONDS", "1500"))


class Observer:
    """Sums up the counters of WireGuard's interfaces as each is deleted, in every namespace of netns.sh."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.deleted = 0
        self._sockets: dict[str, socket.socket] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._is_over.is_set():
            for name in sorted(os.listdir(RUN_NETNS)) if RUN_NETNS.exists() else ():
                if name.startswith("wg-test-") and name not in self._sockets:
                    with contextlib.suppress(OSError, WgtraceError):  # its file is there, it is not yet
                        self._sockets[name] = _listening(RUN_NETNS / name)
            self._read()
            time.sleep(0.02)
        self._read()

    def _read(self) -> None:
        for sock in self._sockets.values():
            with contextlib.suppress(BlockingIOError):
                while True:
                    data = sock.recv(1 << 16)
                    if data[4:6] == RTM_DELLINK.to_bytes(2, sys.byteorder) and b"wireguard" in data:
                        self._count(data)

    def _count(self, data: bytes) -> None:
        message = ifinfmsg(data)
        message.decode()
        if message.get_attr("IFLA_NEW_IFINDEX") is None:  # else it goes on in another namespace
            self.deleted += 1
            counters = message.get_attr("IFLA_STATS64")
            self.sums.update({name: counters[name] for name in COUNTERS})

    def end(self) -> None:
        """Take what there still is to hear."""
        self._is_over.set()
        self._thread.join()


def _listening(path: Path) -> socket.socket:
    """A socket of that namespace that hears of its interfaces."""
    from wgtrace.state.netns import by_name_or_path, inside

    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    sock = inside(by_name_or_path(str(path)), lambda: socket.socket(socket.AF_NETLINK, kind, 0))
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
    sock.bind((0, RTMGRP_LINK))
    return sock


def main() -> int:
    """Exit status 0: netns.sh passed, and there is no unexplained difference."""
    netns_sh, e2e = sys.argv[1:]
    sys.path.insert(0, e2e)
    from tracer import Tracer

    # The first WireGuard socket that is made and the last one that goes patch the kernel's
    # text (sk_set_memalloc()), which QEMU's emulation of several CPUs does not always survive.
    for command in ("add keep0 type wireguard", "set keep0 up"):
        subprocess.run(["ip", "link", *command.split()], check=True)
    with tempfile.TemporaryDirectory() as directory:
        observer, tracer = Observer(), Tracer(["--all", "--quiet"], Path(directory, "ready"))
        began = time.monotonic()
        passed = subprocess.run(["bash", netns_sh], timeout=LIMIT_S, check=False).returncode
        print(f"netns.sh ended with {passed} after {time.monotonic() - began:.0f} s", flush=True)
        observer.end()
        ended = tracer.end()
    print(f"wgtrace ended with {ended}; it said: {tracer.stderr or 'nothing'}", flush=True)
    summary = tracer.lines[-1]
    explained: Counter[str] = Counter()
    for total in summary["totals"]:
        print(total["ifname"], total["netns"], total["reason"], total["sub_reason"], total["count"])
        for counter in CATALOGUE[Reason[total["reason"].upper()]].counter:
            explained[counter] += total["count"]
    print(f"{observer.deleted} interfaces deleted; incomplete: {summary['incomplete_because']}")
    for counter in COUNTERS:
        print(f"{counter}: moved by {observer.sums[counter]}, explained {explained[counter]}")
    is_borne_out = all(observer.sums[counter] == explained[counter] for counter in COUNTERS)
    return 0 if (passed, ended, is_borne_out) == (0, 0, True) and observer.deleted else 1


if __name__ == "__main__":
    sys.exit(main())
