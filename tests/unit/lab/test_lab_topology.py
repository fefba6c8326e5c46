# SPDX-License-Identifier: GPL-2.0-only
"""Whose namespaces are left over; that they go is shown in the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wgtrace.lab import topology

PID_NAMESPACE = os.stat("/proc/self/ns/pid").st_ino


@pytest.fixture
def deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder of namespaces, and those that were deleted from it."""
    names: list[str] = []
    monkeypatch.setattr(topology, "_NETNS", tmp_path)
    monkeypatch.setattr(topology, "_delete", names.extend)
    return names


def _named(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).touch()


def _dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_those_of_the_dead_go(tmp_path: Path, deleted: list[str]) -> None:
    """Namespaces of a process that ended, or of one whose PID another has by now, are left over."""
    dead = [f"wgt-{PID_NAMESPACE}-{pid}-7-0-{name}" for pid in (_dead_pid(), os.getpid()) for name in "ab"]
    _named(tmp_path, *dead)

    assert topology.remove_leftovers() == sorted(dead)
    assert deleted == sorted(dead)


def test_those_of_the_living_stay(tmp_path: Path, deleted: list[str]) -> None:
    """Our own, those of another process that runs, of a container, and everybody else's stay."""
    parent = topology._start_time(os.getppid())
    _named(
        tmp_path,
        f"{topology._owner()}-0-a",
        f"wgt-{PID_NAMESPACE}-{os.getppid()}-{parent}-3-router",
        f"wgt-{PID_NAMESPACE + 1}-{_dead_pid()}-7-0-a",
        "wgt-blue",
        "wgt-1-2-0-a",
        "blue",
    )

    assert topology.remove_leftovers() == []
    assert deleted == []


def test_nothing_to_remove(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where no namespace was ever named there is no folder, and nothing is run."""
    monkeypatch.setattr(topology, "_NETNS", tmp_path / "none")
    monkeypatch.setenv("PATH", "")

    assert topology.remove_leftovers() == []


def test_a_zombie_is_dead() -> None:
    """A process that was killed and that nobody waited for is not alive."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process.stdin
    try:
        assert topology._start_time(process.pid) > 0
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert topology._start_time(process.pid) == 0
    finally:
        process.stdin.close()
        process.wait()
