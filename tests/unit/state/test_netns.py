# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.netns, with namespaces of this host; those that make one need root."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wgtrace.errors import StateError, UnsupportedError, UsageError
from wgtrace.state import netns
from wgtrace.state.netns import all_namespaces, by_name_or_path, current, entered
from wgtrace.state.types import Namespace


def inode() -> int:
    """Of the namespace that this thread is in."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def interfaces() -> set[str]:
    """Names of the interfaces that this thread sees."""
    return {name for _, name in socket.if_nameindex()}


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process in a network namespace of its own."""
    try:
        done = subprocess.run(["unshare", "--net", "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs unshare: apt-get install util-linux")
    if done.returncode:
        pytest.skip("to make a network namespace takes root")
    command = ["unshare", "--net", "sh", "-c", "echo in; read end"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def other_path(other: subprocess.Popen[str]) -> str:
    """Path of that namespace."""
    return f"/proc/{other.pid}/ns/net"


def test_the_current_namespace() -> None:
    """The current namespace is known by the inode that lsns shows, and is the first of all."""
    assert current().inode == inode()
    assert all_namespaces()[0] == current()


def test_all_namespaces_are_listed_once(other_path: str) -> None:
    """A namespace that only a process keeps is found, and none comes twice."""
    found = all_namespaces()

    assert os.stat(other_path).st_ino in {namespace.inode for namespace in found}
    assert len(found) == len({namespace.inode for namespace in found})


def test_entered_and_back(other_path: str) -> None:
    """Inside, the thread is in the other namespace, and after an exception it is back."""
    home, there = inode(), by_name_or_path(other_path)

    def fail_inside() -> None:
        with entered(there):
            assert inode() == there.inode
            assert interfaces() <= {"lo"}
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert inode() == home != there.inode


def test_the_current_one_can_be_entered_from_another(other_path: str) -> None:
    """Namespaces nest, and the way back is kept for each."""
    home, there = current(), by_name_or_path(other_path)

    with entered(home):
        with entered(there):
            assert inode() == there.inode
        assert inode() == home.inode


def test_to_enter_the_current_one_takes_no_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is there already does not call setns."""
    monkeypatch.setattr(netns, "_setns", lambda *_: pytest.fail("setns was called"))

    with entered(current()):
        pass


def test_a_namespace_that_is_gone(other: subprocess.Popen[str], other_path: str) -> None:
    """One whose last process ended is an error, and so is a path that leads to another by now."""
    gone = by_name_or_path(other_path)
    other.kill()
    other.wait()

    for namespace in (gone, Namespace(gone.inode, current().path)):
        with pytest.raises(StateError, match="is gone"), entered(namespace):
            pass
    assert inode() == current().inode


def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A namespace has the name that ip-netns gave it, whichever way it was found."""
    (tmp_path / "blue").symlink_to("/proc/self/ns/net")
    monkeypatch.setattr(netns, "_RUN_NETNS", tmp_path)

    assert by_name_or_path("blue").inode == inode()
    assert by_name_or_path("blue").name == "blue"
    assert by_name_or_path("/proc/self/ns/net").name == "blue"
    assert current().name == "blue"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no-such-name", "no-such-name"),
        ("/no/such/path", "/no/such/path"),
        ("nul\0inside", "nul"),
        ("/etc/passwd", "not a network namespace"),
        ("/proc/self/ns/uts", "not a network namespace"),
        ("/", "not a network namespace"),
    ],
)
def test_what_is_no_namespace_is_said(text: str, says: str) -> None:
    """A name or path that is no network namespace is a usage error that says which."""
    with pytest.raises(UsageError) as error:
        by_name_or_path(text)
    assert says in error.value.what


def test_known_names_are_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who mistypes a name gets those that there are."""
    (tmp_path / "blue").symlink_to("/proc/self/ns/net")
    monkeypatch.setattr(netns, "_RUN_NETNS", tmp_path)

    with pytest.raises(UsageError) as error:
        by_name_or_path("bleu")
    assert "blue" in error.value.because


def test_a_refused_setns_is_said(other_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without privilege, the error says what it takes."""

    def refuse(*_: object) -> int:
        ctypes.set_errno(1)
        return -1

    there = by_name_or_path(other_path)
    monkeypatch.setattr(netns, "_setns", refuse)

    with pytest.raises(UnsupportedError) as error, entered(there):
        pass
    assert "root" in error.value.because
