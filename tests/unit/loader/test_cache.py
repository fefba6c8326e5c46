# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.loader.cache: what comes back is what was stored by this user, or nothing."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
from pathlib import Path
from typing import NoReturn

import pytest

from wgtrace.loader import cache
from wgtrace.loader.cache import UnusableError, load, store

KEY, CONTENT = "0123abcd", b"bytecode" * 1000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A cache with one entry."""
    place = tmp_path / "wgtrace" / "programs"
    store(KEY, CONTENT, place)
    return place


def mode(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_stored_comes_back(directory: Path) -> None:
    """The very bytes, from a file that only its owner may read, and nothing beside it."""
    assert load(KEY, directory) == CONTENT
    assert [path.name for path in directory.iterdir()] == [KEY]
    assert (mode(directory), mode(directory / KEY)) == (0o700, 0o600)


def test_permissions_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    """A umask that hides nothing opens nothing."""
    before = os.umask(0)
    try:
        store(KEY, CONTENT, tmp_path / "programs")
    finally:
        os.umask(before)

    assert (mode(tmp_path / "programs"), mode(tmp_path / "programs" / KEY)) == (0o700, 0o600)


def test_another_key(directory: Path) -> None:
    """Nothing was stored under it."""
    with pytest.raises(UnusableError, match="not there"):
        load("4567", directory)


def test_no_directory(tmp_path: Path) -> None:
    """The first start of all."""
    with pytest.raises(UnusableError, match="not there"):
        load(KEY, tmp_path / "none")


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, len(CONTENT) + 31])
def test_a_truncated_file(directory: Path, length: int) -> None:
    """A file that a full disk or a crash cut off is not taken, wherever it was cut."""
    path = directory / KEY
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(UnusableError, match="damaged"):
        load(KEY, directory)


@pytest.mark.parametrize("at", [0, 31, 32, 4000, -1])
def test_a_changed_byte(directory: Path, at: int) -> None:
    """One bit is enough, in the checksum or in the content."""
    path = directory / KEY
    changed = bytearray(path.read_bytes())
    changed[at] ^= 1
    path.write_bytes(changed)

    with pytest.raises(UnusableError, match="damaged"):
        load(KEY, directory)


def test_the_file_of_another_key(directory: Path) -> None:
    """A whole file under the name of another one is not taken for it."""
    (directory / KEY).rename(directory / "4567")

    with pytest.raises(UnusableError, match="damaged"):
        load("4567", directory)


@pytest.mark.parametrize("who", [0o020, 0o002])
@pytest.mark.parametrize("name", ["", KEY])
def test_others_may_write(directory: Path, name: str, who: int) -> None:
    """Neither a file nor a directory that group or others may write to is believed, or written to."""
    (directory / name).chmod(mode(directory / name) | who)

    with pytest.raises(UnusableError, match="others may write"):
        load(KEY, directory)
    if not name:
        with pytest.raises(UnusableError, match="others may write"):
            store("4567", CONTENT, directory)


def test_a_foreign_owner(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to another user is neither read nor written."""
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with pytest.raises(UnusableError, match=f"belongs to user {owner}"):
        load(KEY, directory)
    with pytest.raises(UnusableError, match=f"belongs to user {owner}"):
        store(KEY, b"other", directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user(directory: Path) -> None:
    """In a directory of ours, too."""
    os.chown(directory / KEY, 1, 1)

    with pytest.raises(UnusableError, match="belongs to user 1"):
        load(KEY, directory)


def test_a_symbolic_link_to_a_file(directory: Path) -> None:
    """It is not followed, whatever it leads to."""
    (directory / KEY).rename(directory / "elsewhere")
    (directory / KEY).symlink_to("elsewhere")

    with pytest.raises(UnusableError):
        load(KEY, directory)


def test_a_symbolic_link_to_the_directory(directory: Path) -> None:
    """It is not followed, neither to read nor to write."""
    link = directory.parent / "link"
    link.symlink_to(directory)

    with pytest.raises(UnusableError):
        load(KEY, link)
    with pytest.raises(UnusableError):
        store("4567", CONTENT, link)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_no_regular_file(directory: Path, make: object) -> None:
    """A directory or a pipe in its place is not waited for."""
    (directory / KEY).unlink()
    make(directory / KEY)  # type: ignore[operator]  # os.mkdir or os.mkfifo

    with pytest.raises(UnusableError, match=r"another kind of file|Is a directory"):
        load(KEY, directory)


def test_a_damaged_file_is_replaced(directory: Path) -> None:
    """The next one that is stored under the key is whole again."""
    (directory / KEY).write_bytes(b"")
    store(KEY, CONTENT, directory)

    assert load(KEY, directory) == CONTENT


def test_no_place_to_write(tmp_path: Path) -> None:
    """Where the directory cannot be made, it is said."""
    (tmp_path / "file").write_text("")

    with pytest.raises(UnusableError, match=r"Not a directory|File exists"):
        store(KEY, CONTENT, tmp_path / "file" / "programs")


def test_a_full_disk(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half-done is left, and what was there stays."""

    def full(*_arguments: object, **_keywords: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(UnusableError, match="No space left"):
        store(KEY, b"other", directory)

    assert [path.name for path in directory.iterdir()] == [KEY]
    assert load(KEY, directory) == CONTENT


def test_only_the_newest_are_kept(directory: Path) -> None:
    """Eight entries; one that was used is newer than one that was not, and half-done files go too."""
    (directory / "half-done.1").write_bytes(b"")
    for number in range(7):
        os.utime(directory / KEY, ns=(number, number))
        os.utime(directory / "half-done.1", ns=(1, 1))
        store(f"{number}", CONTENT, directory)
        assert load(KEY, directory) == CONTENT

    assert {path.name for path in directory.iterdir()} == {KEY, *"0123456"}
    store("7", CONTENT, directory)
    assert {path.name for path in directory.iterdir()} == {KEY, *"1234567"}


def _store_often(directory: Path, number: int) -> None:
    for _ in range(50):
        store(KEY, bytes([number]) * 100_000, directory)


def test_two_processes_at_once(directory: Path) -> None:
    """Whoever reads while two write finds one or the other, whole, each time."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_store_often, args=(directory, number)) for number in (1, 2)]
    store(KEY, bytes([1]) * 100_000, directory)
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        content = load(KEY, directory)
        assert content in (bytes([1]) * 100_000, bytes([2]) * 100_000)
    for writer in writers:
        writer.join()

    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [path.name for path in directory.iterdir()] == [KEY]


@pytest.mark.parametrize(("home", "wanted"), [("", "/var/cache"), ("/x/y", "/x/y")])
def test_where(monkeypatch: pytest.MonkeyPatch, home: str, wanted: str) -> None:
    """$XDG_CACHE_HOME where it is set, as by who wants it elsewhere."""
    monkeypatch.setenv("XDG_CACHE_HOME", home)

    assert cache.default_directory() == Path(wanted) / "wgtrace" / "programs"
