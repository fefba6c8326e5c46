# SPDX-License-Identifier: GPL-2.0-only
"""A few real failures on a real tunnel, under `wgtrace drops wg0`: runs inside the guest.

Two hosts, `office` and `berlin`. wgtrace runs on the office's side only, as an
operator there would run it; what is broken is said before its rows appear.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from wgtrace.lab.topology import Host, Network, two_hosts

_START_S = 300  # BCC compiles slowly where there is no KVM


def main() -> int:
    """Stage everything; the exit status is that of `wgtrace drops`."""
    with two_hosts(ports=(51820, 51820)) as net, tempfile.TemporaryDirectory() as directory:
        berlin, office = net.a, net.b
        net.connect()
        names, ready = Path(directory, "names"), Path(directory, "ready")
        names.write_text(f"berlin {berlin.public_key}\n")
        _say("A tunnel between the hosts `office` and `berlin` is up and healthy. On `office`:")
        click.echo("# wgtrace drops wg0\n")
        wgtrace = office.popen(
            ["wgtrace", "drops", "wg0", "--names", str(names), "--ready-file", str(ready)],
            env=dict(os.environ),
        )
        if not _is_ready(ready, wgtrace):
            return wgtrace.wait()
        for said in _failures(net, berlin, office):
            time.sleep(1)  # so that the rows of the last one are out
            _say(said)
        time.sleep(1)
        _say("The operator presses Ctrl-C:")
        wgtrace.send_signal(signal.SIGINT)
        return wgtrace.wait()


def _is_ready(ready: Path, wgtrace: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + _START_S
    while not ready.exists() and wgtrace.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return ready.exists()


def _failures(net: Network, berlin: Host, office: Host) -> Iterator[str]:
    """Say what will be broken, then break it."""
    yield "A machine in berlin's LAN sends 7 packets through the tunnel. Nobody told office of that LAN:"
    berlin.ip("addr", "add", "10.20.30.40/32", "dev", "lo")
    berlin.send_udp(office.inner(), port=443, count=7, source="10.20.30.40")

    yield "Office has a route for 10.77.0.0/16 into wg0, which is in no peer's AllowedIPs. 5 pings:"
    office.ip("route", "add", "10.77.0.0/16", "dev", "wg0")
    office.run(["ping", "-q", "-c5", "-i0.2", "-W1", "10.77.0.1"], check=False)

    yield "A network that duplicates packets: 3 pings from berlin, each message arrives twice:"
    berlin.run(["tc", "qdisc", "add", "dev", "eth0", "root", "netem", "duplicate", "100%"])
    berlin.run(["ping", "-q", "-c3", "-i0.2", "-W1", office.inner()], check=False)
    berlin.run(["tc", "qdisc", "del", "dev", "eth0", "root"])

    yield "A laptop whose key was never added at office tries to connect:"
    _knock(berlin, "wg1", office.public_key, office)

    yield "A phone that has a wrong public key for office tries to connect:"
    _knock(berlin, "wg2", _public_key(_new_key()), office)

    yield "Something that is not WireGuard sends 11 datagrams to the port:"
    berlin.send_udp(office.outer_addr, office.listen_port, 11, bytes.fromhex("000100002112a442") + bytes(12))


def _knock(host: Host, ifname: str, public_key: str, to: Host) -> None:
    """One more interface with a new key, that sends one packet to `to`."""
    host.ip("link", "add", ifname, "type", "wireguard")
    peer = ["peer", public_key, "allowed-ips", "10.99.0.0/24", "endpoint", to.endpoint]
    host.wg("set", ifname, "private-key", "/dev/stdin", *peer, stdin=_new_key())
    host.ip("link", "set", ifname, "up")
    host.ip("route", "replace", "10.99.0.0/24", "dev", ifname)
    host.send_udp("10.99.0.1")


def _new_key() -> str:
    return subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout


def _public_key(private: str) -> str:
    made = subprocess.run(["wg", "pubkey"], input=private, capture_output=True, text=True, check=True)
    return made.stdout.strip()


def _say(text: str) -> None:
    click.echo(click.style(f"\n--- {text}", bold=True))


if __name__ == "__main__":
    sys.exit(main())
