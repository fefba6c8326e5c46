# SPDX-License-Identifier: GPL-2.0-only
"""Interfaces renamed, made anew and moved under three wgtraces at once, which all stay exact."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from scenes import new_key, send, wait_until
from tracer import Tracer

from wgtrace.lab.topology import Network, two_hosts

pytestmark = pytest.mark.userland

NAME, NEW_NAME, ELSEWHERE = "harbour0", "quay0", f"wgt-{os.getpid()}-elsewhere"
GARBAGE = b"\x09\x00\x00\x00" + bytes(60)
NOBODY = "192.0.2.77"

Totals = dict[tuple[str, str], int]
"""Packets by interface and reason."""


@dataclass
class Traced:
    """Host b of a network under three wgtraces: its interface named, its namespace, and all of them."""

    net: Network
    tracers: dict[str, Tracer]
    inodes: set[int] = field(default_factory=set)

    def send(self, garbage: int, refused: int, ifname: str, netns: str) -> None:
        """Drops on the way in, which no counter has, and on the way out, which tx_errors has."""
        send(self.net.a, self.net.b, [GARBAGE] * garbage)
        subprocess.run(["ip", "-n", netns, "route", "replace", NOBODY, "dev", ifname], check=True)
        sender = f"import socket; s = socket.socket(2, 2); s.sendto(b'', ('{NOBODY}', 9))"
        for _ in range(refused):
            subprocess.run(["ip", "netns", "exec", netns, "python3", "-c", sender], stderr=subprocess.DEVNULL)

    def settled(self, which: str, least: int) -> Totals:
        """What one wgtrace has counted here, once it is enough; the counters must bear it out."""
        found: list[Totals] = []

        def is_enough() -> bool:
            summary = self.tracers[which].summary()
            totals: Totals = {}
            for total in summary["totals"]:
                if total["netns"] in self.inodes and total["ifname"] in (NAME, NEW_NAME):
                    key = (total["ifname"], total["reason"])
                    totals[key] = totals.get(key, 0) + total["count"]
            if sum(totals.values()) < least:
                return False
            for line in summary["reconciliation"]:
                is_ours = line["netns"] in self.inodes and line["ifname"] in (NAME, NEW_NAME)
                assert not is_ours or line["moved"] == line["explained"], line
            found.append(totals)
            return True

        wait_until(is_enough)
        return found[-1]


@pytest.fixture(scope="module")
def traced(tracer: Tracer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    """Three wgtraces at once at one interface; it is theirs for this module."""
    ready = tmp_path_factory.mktemp("three")
    with two_hosts(ifname=NAME) as net, ThreadPoolExecutor() as pool:
        arguments = {"named": [NAME, "--netns", net.b.netns], "namespace": ["--netns", net.b.netns]}
        begun = {which: pool.submit(Tracer, words, ready / which) for which, words in arguments.items()}
        tracers = {which: running.result() for which, running in begun.items()}
        yield Traced(net, {**tracers, "all": tracer}, {os.stat(net.b.netns_path).st_ino})
        for running in tracers.values():
            assert running.end() == 0, running.stderr


def test_renamed(traced: Traced) -> None:
    """A renamed interface goes on being traced, whichever way it was asked for; all is under its new name."""
    net = traced.net
    traced.send(7, 5, NAME, net.b.netns)
    net.b.ip("link", "set", NAME, "down")
    net.b.ip("link", "set", NAME, "name", NEW_NAME)
    net.b.ip("link", "set", NEW_NAME, "up")
    traced.send(11, 3, NEW_NAME, net.b.netns)

    expected = {(NEW_NAME, "bad_header"): 18, (NEW_NAME, "allowedips_no_peer"): 8}
    assert {which: traced.settled(which, 26) for which in traced.tracers} == dict.fromkeys(
        traced.tracers, expected
    )
    assert f"wgtrace: {NAME} is now {NEW_NAME}\n" in traced.tracers["named"].stderr
    assert f"wgtrace: {NAME} is now {NEW_NAME}\n" in traced.tracers["namespace"].stderr
    assert f"is now {NEW_NAME} in netns {net.b.netns}\n" in traced.tracers["all"].stderr


def test_deleted_and_made_anew(traced: Traced) -> None:
    """One that is made with the old name is traced too, and what was counted stays with whose it is."""
    net = traced.net
    net.b.ip("link", "del", NEW_NAME)
    for which in ("named", "namespace"):
        traced.settled(which, 26)
        assert f"wgtrace: {NEW_NAME} is gone\n" in traced.tracers[which].stderr
    net.b.ip("link", "add", NAME, "type", "wireguard")
    listen = ["listen-port", str(net.b.listen_port)]
    net.b.wg("set", NAME, *listen, "private-key", "/dev/stdin", stdin=new_key())
    net.b.ip("link", "set", NAME, "up")
    traced.send(13, 2, NAME, net.b.netns)

    expected = {
        (NEW_NAME, "bad_header"): 18,
        (NEW_NAME, "allowedips_no_peer"): 8,
        (NAME, "bad_header"): 13,
        (NAME, "allowedips_no_peer"): 2,
    }
    assert {which: traced.settled(which, 41) for which in traced.tracers} == dict.fromkeys(
        traced.tracers, expected
    )


def test_moved_to_another_namespace(traced: Traced) -> None:
    """--all goes on with it; who asked for it where it was is told where it is, and that it is not seen."""
    net = traced.net
    subprocess.run(["ip", "netns", "add", ELSEWHERE], check=True)
    try:
        traced.inodes.add(Path("/run/netns", ELSEWHERE).stat().st_ino)
        net.b.ip("link", "set", NAME, "netns", ELSEWHERE)
        subprocess.run(["ip", "-n", ELSEWHERE, "link", "set", NAME, "up"], check=True)
        traced.send(17, 3, NAME, ELSEWHERE)

        assert traced.settled("all", 61) == {
            (NEW_NAME, "bad_header"): 18,
            (NEW_NAME, "allowedips_no_peer"): 8,
            (NAME, "bad_header"): 30,
            (NAME, "allowedips_no_peer"): 5,
        }
        for which in ("named", "namespace"):
            summary = traced.tracers[which].summary()
            assert sum(total["count"] for total in summary["totals"]) == 41
            (told,) = summary["incomplete_because"]
            assert f"wgtrace drops --netns {ELSEWHERE} {NAME}" in told
            assert told in traced.tracers[which].stderr
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["ip", "netns", "del", ELSEWHERE], check=True)
