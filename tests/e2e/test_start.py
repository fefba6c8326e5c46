# SPDX-License-Identifier: GPL-2.0-only
"""A later start takes what the first one compiled, and sees the same; a damaged cache does no harm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import send
from tracer import Tracer, bpf_objects, kprobe_events

from wgtrace.lab.topology import Network, two_hosts
from wgtrace.loader.source import bpf_directory

GARBAGE = [b"\x09\x00\x00\x00" + bytes(60)]
N = 23


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """Two hosts."""
    with two_hosts(ifname="start0") as network:
        yield network


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where these tests have their cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of these tests' own, empty for the first of them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home / "wgtrace" / "programs"


def _origin(tracer: Tracer) -> str:
    """What -v says about the programs."""
    (line,) = (line for line in tracer.stderr.splitlines() if line.startswith("programs "))
    return line


def _run(net: Network, tmp_path: Path) -> tuple[str, list[dict[str, object]], list[dict[str, object]]]:
    """Where the programs came from, what became of each probe, and each drop of 23 bad packets."""
    ready = tmp_path / f"ready{time.monotonic_ns()}"
    tracer = Tracer(["start0", "--netns", net.b.netns, "-v", "--count", str(N)], ready)
    send(net.a, net.b, GARBAGE * N)
    assert tracer.process.wait(timeout=60) == 0
    tracer.end()
    start, *lines = tracer.lines
    drops = [line for line in lines if line["type"] == "drop"]
    told = [{key: drop[key] for key in ("reason", "sub_reason", "where", "ifname")} for drop in drops]
    return _origin(tracer), start["probes"]["attached"], told


def test_the_second_start_does_not_compile(net: Network, cache: Path, tmp_path: Path) -> None:
    """The first one compiles and keeps it, the second takes it; both see 23 of 23, by the same probes."""
    before, kprobes = bpf_objects(), kprobe_events()
    first = _run(net, tmp_path)
    (kept,) = cache.iterdir()
    assert first[0] == f"programs compiled: {kept}: it is not there"
    written = kept.stat().st_ino

    second = _run(net, tmp_path)

    assert second[0] == f"programs compiled before: {kept}"
    assert second[1:] == first[1:]
    assert len(second[2]) == N
    assert kept.stat().st_ino == written
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid, cache.stat().st_mode & 0o777) == (
        0o600,
        0,
        0o700,
    )
    assert (bpf_objects(), kprobe_events()) == (before, kprobes)

    kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    assert _run(net, tmp_path) == (f"programs compiled: {kept}: it is damaged", *first[1:])
    assert kept.stat().st_ino != written


def test_another_text_is_compiled_anew(net: Network, cache: Path, tmp_path: Path) -> None:
    """A copy of wgtrace whose bpf/ differs in a comment has an entry of its own."""
    package = bpf_directory().parent
    shutil.copytree(package, tmp_path / "copy" / "wgtrace")
    with (tmp_path / "copy" / "wgtrace" / "bpf" / "drop.bpf.c").open("a") as file:
        file.write("/* another text */\n")
    before = {path.name for path in cache.glob("*")}
    done = subprocess.run(
        ["python3", "-m", "wgtrace", "drops", "start0", "--netns", net.b.netns, "-v", "--duration", "0"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "copy")},
        capture_output=True,
        text=True,
        check=True,
    )

    (new,) = {path.name for path in cache.iterdir()} - before
    assert f"programs compiled: {cache / new}: it is not there" in done.stderr.splitlines()


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


def _wait_for(condition: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # a callable
        assert time.monotonic() < deadline
        time.sleep(0.05)
