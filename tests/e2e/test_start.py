# SPDX-License-Identifier: GPL-2.0-only
"""A later start takes what the first one compiled, and sees the same; a first one may be killed."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import send
from tracer import Line, Tracer, bpf_objects, kprobe_events

from wgtrace.lab.topology import Network, two_hosts

pytestmark = pytest.mark.userland

GARBAGE = [b"\x09\x00\x00\x00" + bytes(60)]
N = 23


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """Two hosts."""
    with two_hosts(ifname="start0") as network:
        yield network


def _origin(tracer: Tracer) -> str:
    """What -v says about the programs."""
    (line,) = (line for line in tracer.stderr.splitlines() if line.startswith("programs "))
    return line


def _told(drops: list[Line]) -> list[Line]:
    """What a drop is, without when it was."""
    return [{key: drop[key] for key in ("reason", "sub_reason", "where", "ifname")} for drop in drops]


def test_a_later_start_does_not_compile(tracer: Tracer, net: Network, tmp_path: Path) -> None:
    """The session's first start compiled and kept it, a later one takes it; both see 23 of 23, alike."""
    found = re.fullmatch(r"programs compiled: (\S+): it is not there", _origin(tracer))
    assert found, _origin(tracer)
    kept, before, kprobes = Path(found[1]), bpf_objects(), kprobe_events()
    written = kept.stat().st_ino
    later = Tracer(["start0", "--netns", net.b.netns, "-v", "--count", str(N)], tmp_path / "ready")
    send(net.a, net.b, GARBAGE * N)
    assert later.process.wait(timeout=180) == 0
    later.end()

    assert _origin(later) == f"programs compiled before: {kept}"
    assert later.lines[0]["probes"] == tracer.lines[0]["probes"]
    first = tracer.settled(lambda r: r.totals.get("bad_header", 0) >= N, "start0")
    drops = [line for line in later.lines if line["type"] == "drop"]
    assert _told(drops) == _told(first.drops)
    assert len(drops) == N
    directory = kept.parent.stat()
    assert kept.stat().st_ino == written
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid, directory.st_mode & 0o777) == (0o600, 0, 0o700)
    assert (bpf_objects(), kprobe_events()) == (before, kprobes)


@pytest.mark.once
def test_killed_while_it_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of a first start that was killed: no BPF object, no file, no half of an entry."""
    scratch, cache = tmp_path / "scratch", tmp_path / "cache"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    before, kprobes = bpf_objects(), kprobe_events()
    wgtrace = subprocess.Popen(["wgtrace", "drops", "--all"], stdout=subprocess.DEVNULL)
    _wait_for(lambda: any(scratch.iterdir()))  # the compiler's
    wgtrace.send_signal(signal.SIGKILL)
    wgtrace.wait()

    _wait_for(lambda: not any(scratch.iterdir()))
    _wait_for(lambda: bpf_objects() == before)
    assert kprobe_events() == kprobes
    assert not cache.exists()


def _wait_for(condition: object, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # a callable
        assert time.monotonic() < deadline
        time.sleep(0.05)
