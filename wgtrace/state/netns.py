# SPDX-License-Identifier: GPL-2.0-only
"""Network namespaces: which there are, and work in one, ip-netns(8) and setns(2)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from wgtrace.errors import StateError, UnsupportedError, UsageError
from wgtrace.state.types import Namespace

_Result = TypeVar("_Result")

_RUN_NETNS = Path("/run/netns")
_PROC = Path("/proc")
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_setns = ctypes.CDLL(None, use_errno=True).setns  # os.setns came with Python 3.12


def current() -> Namespace:
    """The calling thread's network namespace."""
    inode = os.stat("/proc/thread-self/ns/net").st_ino
    return Namespace(inode, "/proc/self/ns/net", _names().get(inode))


def by_name_or_path(text: str) -> Namespace:
    """The network namespace that `ip netns` knows by this name, or that is at this path.

    Raises:
        UsageError: There is none, or the path is something else.
        UnsupportedError: It may not be opened.
    """
    path = text if "/" in text else str(_RUN_NETNS / text)
    try:
        with _opened(path) as file:
            if fcntl.ioctl(file, _NS_GET_NSTYPE) != _CLONE_NEWNET:
                raise UsageError(f"{text!r} is a namespace, but not a network namespace")
            inode = os.fstat(file).st_ino
    except PermissionError as exc:
        raise UnsupportedError(
            f"not permitted to open {text!r}", "this needs root", "run it by sudo"
        ) from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL in it
        if getattr(exc, "errno", None) == errno.ENOTTY:
            raise UsageError(f"{text!r} is not a network namespace", "it is some other file") from exc
        known = ", ".join(sorted(_names().values())) or "none"
        raise UsageError(f"there is no network namespace {text!r}", f"those with a name: {known}") from exc
    return Namespace(inode, path, _names().get(inode))


def all_namespaces() -> tuple[Namespace, ...]:
    """Every network namespace that has a name or a process, the current one first.

    One that lives only by a thread, a socket or a mount elsewhere is not found.
    """
    here = current()
    found = {here.inode: here}
    for inode, name in _names().items():
        found.setdefault(inode, Namespace(inode, str(_RUN_NETNS / name), name))
    for process in _PROC.iterdir():
        if process.name.isdigit():
            path = process / "ns/net"
            with contextlib.suppress(OSError):  # it is gone, or not ours to see
                inode = path.stat().st_ino
                found.setdefault(inode, Namespace(inode, str(path)))
    return tuple(found.values())


def inside(namespace: Namespace, work: Callable[[], _Result]) -> _Result:
    """What `work` gives, called in this network namespace.

    A thread of its own calls it, unless this one is there already. A process is where its
    first thread is, says proc(5), and so does `ip netns pids`, to kill those in there: we
    are to be nowhere but where we were started.

    Raises:
        StateError: It is gone, or its path leads to another one by now.
        UnsupportedError: Not permitted.
    """
    if os.stat("/proc/thread-self/ns/net").st_ino == namespace.inode:
        return work()
    done: Future[_Result] = Future()
    threading.Thread(target=_work_in, args=(namespace, work, done), daemon=True).start()
    return done.result()


def _work_in(namespace: Namespace, work: Callable[[], _Result], done: Future[_Result]) -> None:
    """A thread's whole life: it ends where it went."""
    try:
        _enter(namespace)
        done.set_result(work())
    except BaseException as exc:  # noqa: BLE001 - raised again where it is waited for
        done.set_exception(exc)


def _enter(namespace: Namespace) -> None:
    with contextlib.ExitStack() as files:
        try:
            there = files.enter_context(_opened(namespace.path))
        except OSError as exc:
            raise _gone(namespace) from exc
        if os.fstat(there).st_ino != namespace.inode:
            raise _gone(namespace)
        if _setns(there, _CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise UnsupportedError(
                f"cannot enter a network namespace: {reason}", "this needs root", "run it by sudo"
            )


def _gone(namespace: Namespace) -> StateError:
    return StateError(f"the network namespace {namespace.name or namespace.path} is gone")


def _names() -> dict[int, str]:
    """Names by inode, as `ip netns list` finds them."""
    names: dict[int, str] = {}
    with contextlib.suppress(OSError):  # there is no /run/netns before the first `ip netns add`
        for path in sorted(_RUN_NETNS.iterdir()):
            with contextlib.suppress(OSError):
                names.setdefault(path.stat().st_ino, path.name)
    return names


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield file
    finally:
        os.close(file)
