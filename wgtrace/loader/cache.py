# SPDX-License-Identifier: GPL-2.0-only
"""Compiled programs, kept for the next start, where only root can have put them.

What is in the cache runs in the kernel, so nothing in it is believed that another
user could have written, or that is not whole. Whatever is wrong with it, the
programs are compiled anew: no error comes from here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_ENTRIES = 8  # the newest that are kept: a kernel or two, and what each of them refused
_CHECKSUM = 32  # bytes, before the rest


class UnusableError(Exception):
    """Why there is nothing to be had from the cache, or nothing to be put into it."""


def default_directory() -> Path:
    """$XDG_CACHE_HOME/wgtrace/programs; by default, for root, /var/cache/wgtrace/programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "wgtrace" / "programs"


def load(key: str, directory: Path) -> bytes:
    """What was stored under a key.

    Args:
        key: A file name.

    Raises:
        UnusableError: Nothing was, or it is not to be trusted.
    """
    with _opened(directory) as place, _errors():
        file = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        with open(file, "rb") as opened:
            _check(os.fstat(file), stat.S_ISREG)
            checksum, content = opened.read(_CHECKSUM), opened.read()
        if checksum != _checksum(key, content):
            raise UnusableError("it is damaged")
        os.utime(key, dir_fd=place)  # the oldest one goes first
        return content


def store(key: str, content: bytes, directory: Path) -> None:
    """Keep `content` under a key: whole, or not at all.

    Raises:
        UnusableError: It cannot be kept.
    """
    with _errors():
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _opened(directory) as place, _errors():
        half_done = f"{key}.{os.urandom(4).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(half_done, flags, 0o600, dir_fd=place)
        try:
            with open(file, "wb") as opened:
                opened.write(_checksum(key, content) + content)
            os.rename(half_done, key, src_dir_fd=place, dst_dir_fd=place)
        except OSError:
            os.unlink(half_done, dir_fd=place)
            raise
        _forget_old(place)


def _forget_old(place: int) -> None:
    """Remove all but the newest files, also those that were never finished."""
    ages = []
    for name in os.listdir(place):
        with contextlib.suppress(FileNotFoundError):  # another process is at it, too
            ages.append((os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime_ns, name))
    for _age, name in sorted(ages)[:-_ENTRIES]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=place)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    with _errors():
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(os.fstat(place), stat.S_ISDIR)
        yield place
    finally:
        os.close(place)


def _check(status: os.stat_result, is_kind: object) -> None:
    if not is_kind(status.st_mode):  # type: ignore[operator]  # stat.S_ISREG or S_ISDIR
        raise UnusableError("it is another kind of file")
    if status.st_uid != os.geteuid():
        raise UnusableError(f"it belongs to user {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnusableError("others may write to it")


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as exc:
        raise UnusableError("it is not there") from exc
    except OSError as exc:
        raise UnusableError(exc.strerror or str(exc)) from exc
