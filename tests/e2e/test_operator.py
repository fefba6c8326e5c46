# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace run the ways an operator runs it, and ended the ways an operator ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import send
from tracer import START_S, Tracer, bpf_objects, kprobe_events

from wgtrace.lab.topology import Network, two_hosts

GARBAGE = [b"\x09\x00\x00\x00" + bytes(60)]


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """Two hosts, with names, ports and families that no document has."""
    with two_hosts(ifname="vpn-blue", outer=6, inner=(4, 6), ports=(33001, 33002)) as network:
        network.connect()
        yield network


def _wait_for(condition: object, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # a callable
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.userland
def test_inside_ip_netns_exec(net: Network, tmp_path: Path) -> None:
    """Where ip-netns hides tracefs all attaches, --count ends it, names come from /etc/wireguard."""
    conf = Path("/etc/wireguard/vpn-blue.conf")
    conf.parent.mkdir(exist_ok=True)
    conf.write_text(
        f"[Interface]\nPrivateKey = CANARY\n[Peer]\n# Name = oslo\nPublicKey = {net.a.public_key}\n"
    )
    before = bpf_objects()
    prefix = ["ip", "netns", "exec", net.b.netns]
    tracer = Tracer(["vpn-blue", "--count", "23"], tmp_path / "ready", prefix)
    net.a.ip("addr", "add", "192.168.50.5/32", "dev", "lo")
    net.a.send_udp(net.b.inner(4), count=7, source="192.168.50.5")
    send(net.a, net.b, GARBAGE * 29)

    assert tracer.process.wait(timeout=180) == 0
    tracer.end()
    start, *rest = tracer.lines
    assert start["type"] == "start"
    assert start["probes"]["missing"] == []
    assert [d["ifname"] for d in start["devices"]] == ["vpn-blue"]
    assert sum(line["type"] == "drop" for line in rest) == 23
    named = {line["peer"]["name"] for line in rest if line["type"] == "drop" and line["peer"]}
    assert named == {"oslo"}
    assert "CANARY" not in json.dumps(tracer.lines)
    assert rest[-1]["type"] == "summary"
    assert tracer.stderr == ""
    _wait_for(lambda: bpf_objects() == before)


@pytest.mark.userland
def test_another_namespace_and_the_table(net: Network, tmp_path: Path) -> None:
    """--netns NAME looks there; names come from --names; the table has rows, total, cause and fix."""
    names = tmp_path / "names"
    names.write_text(f"{net.a.public_key} berlin\n")
    stray = "fd50::23"
    net.a.ip("addr", "add", f"{stray}/128", "dev", "lo")
    ready = tmp_path / "ready"
    command = ["wgtrace", "drops", "vpn-blue", "--netns", net.b.netns, "--names", str(names)]
    with subprocess.Popen(
        [*command, "--ready-file", str(ready), "--exit-code"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    ) as wgtrace:
        _wait_for(ready.exists, START_S)
        net.a.send_udp(net.b.inner(6), count=7, source=stray)
        time.sleep(2)
        wgtrace.send_signal(signal.SIGTERM)
        output, _ = wgtrace.communicate(timeout=180)

    assert wgtrace.returncode == 1  # --exit-code, and a finding of severity error
    assert output.startswith("vpn-blue: 1 peer, port 33002. ")
    rows = [line for line in output.splitlines() if "berlin" in line and stray in line and "udp" in line]
    assert len([row for row in rows if "src_not_allowed" in row]) == 7
    assert "7 packets dropped in" in output
    assert "Nothing lost." in output
    assert "source-not-allowed   berlin" in output
    assert f"wg set vpn-blue peer {net.a.public_key} allowed-ips" in output
    assert "\x1b" not in output


@pytest.mark.userland
def test_a_reader_that_goes_away(net: Network) -> None:
    """A closed pipe ends the run quietly, and nothing stays in the kernel."""
    before, kprobes = bpf_objects(), kprobe_events()
    wgtrace = subprocess.Popen(
        ["wgtrace", "drops", "vpn-blue", "--netns", net.b.netns, "-j"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wgtrace.stdout
    assert wgtrace.stderr
    assert json.loads(wgtrace.stdout.readline())["type"] == "start"
    wgtrace.stdout.close()
    send(net.a, net.b, GARBAGE * 3)

    assert wgtrace.wait(timeout=180) == 0
    assert wgtrace.stderr.read() == ""
    wgtrace.stderr.close()
    _wait_for(lambda: bpf_objects() == before)
    assert kprobe_events() == kprobes


@pytest.mark.userland
def test_killed(net: Network, tmp_path: Path) -> None:
    """After kill -9 no program, map, link or kprobe is left."""
    before, kprobes = bpf_objects(), kprobe_events()
    tracer = Tracer(["vpn-blue", "--netns", net.b.netns], tmp_path / "ready")
    assert bpf_objects() != before
    tracer.process.kill()
    tracer.process.wait()

    _wait_for(lambda: bpf_objects() == before)
    assert kprobe_events() == kprobes


def test_probes(net: Network) -> None:
    """`wgtrace probes` attaches every probe of the catalogue here and says how."""
    done = subprocess.run(["wgtrace", "probes", "--json"], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    probes = json.loads(line)["probes"]
    assert len(probes) >= 25
    known = {"fentry", "fexit", "kprobe", "kretprobe", "raw_tracepoint"}
    assert {probe["mechanism"] for probe in probes} <= known


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["eth99"], 2, "no interface"),
        (["lo"], 2, "not a WireGuard"),
        (["--netns", "nowhere"], 2, "no network namespace 'nowhere'"),
        ([], 2, "no WireGuard interface here"),
        (["--all", "--peer", "nobody"], 2, "no peer 'nobody'"),
    ],
)
def test_what_does_not_exist(net: Network, arguments: list[str], status: int, said: str) -> None:
    """What is asked for and is not there: what, why and what to do, at once, with exit status 2."""
    done = subprocess.run(["wgtrace", "drops", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.once
def test_not_root(net: Network) -> None:
    """Without root: exit status 3, and how to get it."""
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "wgtrace", "drops", "--all"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "root" in done.stderr
    assert "sudo" in done.stderr
