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
from wgtrace.state.netns import all_namespaces, by_name_or_path, current, inside
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


def test_the_process_stays_where_it_is(other_path: str) -> None:
    """What is done in a namespace is done there, by a thread; `ip netns pids` never finds us there."""
    home, there = inode(), by_name_or_path(other_path)

    def looked() -> tuple[int, int, set[str]]:
        return inode(), os.stat("/proc/self/ns/net").st_ino, interfaces()

    here, process, seen = inside(there, looked)
    assert (here, process) == (there.inode, home)
    assert seen <= {"lo"}
    assert inode() == home != there.inode


def test_what_fails_inside_is_raised_here(other_path: str) -> None:
    """An exception comes through, and we are where we were."""
    home = inode()

    def fail() -> None:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        inside(by_name_or_path(other_path), fail)
    assert inode() == home


def test_one_inside_another(other_path: str) -> None:
    """From within a namespace its own can be worked in, and the one we came from."""
    home, there = current(), by_name_or_path(other_path)

    def nested() -> tuple[int, int]:
        return inside(there, inode), inside(Namespace(home.inode, f"/proc/{os.getpid()}/ns/net"), inode)

    assert inside(there, nested) == (there.inode, home.inode)


def test_to_enter_the_current_one_takes_no_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is there already does not call setns."""
    monkeypatch.setattr(netns, "_setns", lambda *_: pytest.fail("setns was called"))

    assert inside(current(), inode) == inode()


def test_a_namespace_that_is_gone(other: subprocess.Popen[str], other_path: str) -> None:
    """One whose last process ended is an error, and so is a path that leads to another by now."""
    gone = by_name_or_path(other_path)
    other.kill()
    other.wait()

    for namespace in (gone, Namespace(gone.inode, current().path)):
        with pytest.raises(StateError, match="is gone"):
            inside(namespace, inode)
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

    with pytest.raises(UnsupportedError) as error:
        inside(there, inode)
    assert "root" in error.value.because
