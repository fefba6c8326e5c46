# SPDX-License-Identifier: GPL-2.0-only
"""A run that is recorded is told again as it was told live; nothing of it is secret."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from scenes import new_key, send, wait_until
from tracer import START_S, Line, Report, Tracer

from wgtrace.lab.topology import Host, Network, two_hosts
from wgtrace.recording.format import Block
from wgtrace.recording.reader import opened

pytestmark = pytest.mark.soak

N, M = 23, 7
GARBAGE = b"\x09\x00\x00\x00" + bytes(60)
CANARY = base64.b64encode(b"a canary of 32 bytes that sings!").decode()


@contextlib.contextmanager
def recording(*arguments: str, ready: Path) -> Iterator[subprocess.Popen[str]]:
    """A running `wgtrace record`; `ready` exists once it is attached."""
    command = ["wgtrace", "record", "--ready-file", str(ready), *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CANARY": CANARY},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def attached(process: subprocess.Popen[str], ready: Path) -> None:
    """Wait until it records."""
    deadline = time.monotonic() + START_S
    while not ready.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def replay(*arguments: str | Path) -> list[Line]:
    """The JSON lines of a replay."""
    command = ["wgtrace", "replay", "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def told(lines: Sequence[Line], ifname: str) -> Report:
    """What a replay says of an interface."""
    summary = dict(lines[-1])
    for part in ("totals", "reconciliation"):
        summary[part] = [line for line in summary[part] if line["ifname"] == ifname]
    ours = [line for line in lines[1:-1] if line["ifname"] == ifname]
    drops = [line for line in ours if line["type"] == "drop"]
    return Report(
        [drop for drop in drops if drop["layer"] == "wireguard"],
        [drop for drop in drops if drop["layer"] != "wireguard"],
        [line for line in ours if line["type"] == "finding"],
        summary,
    )


def comparable(report: Report) -> dict[str, object]:
    """All of a report but its times: each tracer's programs read the clock for themselves."""
    return {
        "drops": [{**drop, "ts": None} for drop in (*report.drops, *report.lost)],
        "findings": [{**finding, "ts": None} for finding in report.findings],
        "totals": sorted(map(str, report.summary["totals"])),
        "reconciliation": sorted(map(str, report.summary["reconciliation"])),
    }


def seconds(lines: Sequence[Line]) -> list[float]:
    """The times of drops, in seconds of the day."""
    clocks = [line["ts"][11:-1].split(":") for line in lines]
    return [int(h) * 3600 + int(m) * 60 + float(s) for h, m, s in clocks]


def secrets_of(*hosts: Host) -> list[bytes]:
    """Every private and preshared key of these hosts, in base64, hex and raw."""
    keys = [CANARY]
    for host in hosts:
        keys.append(host.wg("show", host.ifname, "private-key").strip())
        keys += [line.split()[1] for line in host.wg("show", host.ifname, "preshared-keys").splitlines()]
    raw = [base64.b64decode(key) for key in keys if key != "(none)"]
    return [form for key in raw for form in (key, key.hex().encode(), base64.b64encode(key))]


def content(path: Path) -> bytes:
    """A recording as it stands, and as it is when it is inflated."""
    with contextlib.closing(opened(path)) as file:
        bodies = [block.body for block in file.blocks() if isinstance(block, Block)]
    return b"\n".join([path.read_bytes(), *bodies])


def scene(net: Network, stray: str) -> None:
    """Drops before and after a change of the configuration, which tells another owner of the source."""
    psk = new_key("genpsk")
    for host, other in ((net.a, net.b), (net.b, net.a)):
        host.wg("set", host.ifname, "peer", other.public_key, "preshared-key", "/dev/stdin", stdin=psk)
    net.connect()
    net.a.ip("addr", "add", f"{stray}/32", "dev", "lo")
    net.a.send_udp(net.b.inner(), count=N, source=stray)
    net.b.wg("set", net.b.ifname, "peer", new_key().strip(), "allowed-ips", f"{stray}/32")
    net.a.send_udp(net.b.inner(), count=M, source=stray)
    send(net.a, net.b, [GARBAGE] * N)


def test_a_replay_tells_what_was_told_live(tracer: Tracer, ifname: str, tmp_path: Path) -> None:
    """Live and replayed: the same drops, findings, totals, counters; cut off, what there was; no secret."""
    path, ready = tmp_path / "wg.rec", tmp_path / "ready"
    small, disk_ready = tmp_path / "small", tmp_path / "disk-ready"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k,mode=0700", "small", str(small)], check=True)
    with (
        recording("--all", "-o", str(path), ready=ready) as process,
        recording("--all", "-q", "-o", str(small / "wg.rec"), ready=disk_ready) as starved,
    ):
        attached(process, ready)
        attached(starved, disk_ready)
        with two_hosts(ifname=ifname) as net:
            scene(net, "192.168.50.7")
            tracer.settled(lambda r: sum(r.totals.values()) >= 2 * N + M, ifname)
            secrets = secrets_of(net.a, net.b)
            killed = tmp_path / "killed.rec"
            wait_until(lambda: len(told(replay(_copied(path, killed)), ifname).drops) == 2 * N + M)
            process.send_signal(signal.SIGINT)
            said, errors = process.communicate(timeout=180)
            live = tracer.report(ifname)

            _fill_the_disk(net, starved)
        starved_errors = starved.communicate(timeout=180)[1]
        left = replay(small / "wg.rec")
    subprocess.run(["umount", str(small)], check=True)

    assert (process.returncode, errors) == (0, "")
    assert said.splitlines()[-1].endswith(f" kept in {path}.")
    lines = replay(path)
    again = told(lines, ifname)
    assert again.totals == {"src_not_allowed": N + M, "bad_header": N}
    assert comparable(again) == comparable(live)
    assert all(abs(a - b) < 1 for a, b in zip(seconds(again.drops), seconds(live.drops), strict=True))
    owners = [drop["sub_reason"] for drop in again.of("src_not_allowed")]
    assert owners == ["owned_by_nobody"] * N + ["owned_by_other_peer"] * M
    # A guest that emulates its CPUs may interrupt a program within itself: the kernel skips that run.
    because = lines[-1]["incomplete_because"]
    assert all(text.startswith("the kernel skipped ") for text in because), because
    assert all("+0x" in drop["where"] for drop in again.of("src_not_allowed"))

    cut = replay(killed)
    assert cut[-1]["complete"] is False
    assert "the recording breaks off at " in str(cut[-1]["incomplete_because"])

    assert len(secrets) == 3 * (1 + 2 + 2)
    assert path.stat().st_mode & 0o777 == 0o600
    held = content(path) + content(killed)
    assert net.a.public_key.encode() in held
    assert [secret for secret in secrets if secret in held] == []

    assert starved.returncode == 4
    assert "No space left on device" in starved_errors
    assert len(told(left, ifname).drops) > 0
    assert "the recording breaks off at " in str(left[-1]["incomplete_because"])


def _copied(path: Path, copy: Path) -> Path:
    """What a recording is at this moment: all that would be left if it were killed now."""
    shutil.copy(path, copy)
    return copy


def _fill_the_disk(net: Network, starved: subprocess.Popen[str]) -> None:
    """Have so much happen that 24 KiB are not enough."""
    deadline = time.monotonic() + 60
    while starved.poll() is None:
        assert time.monotonic() < deadline
        send(net.a, net.b, [b"\x09\x00\x00\x00" + os.urandom(60) for _ in range(N)])
        time.sleep(0.05)
