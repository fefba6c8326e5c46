# SPDX-License-Identifier: GPL-2.0-only
"""Reads the blocks of a recording, and finds what is missing or damaged. Trusts no byte."""

from __future__ import annotations

import os
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from wgtrace.errors import RecordingError, UnsupportedError, UsageError
from wgtrace.events.wire import ABI
from wgtrace.recording import format as layout
from wgtrace.recording.facts import Facts
from wgtrace.recording.format import BLOCK_HEADER, FILE_HEADER, MAGIC, MARK, Block, Kind
from wgtrace.recording.plain import loaded

_T = TypeVar("_T")

_CHUNK = 1 << 20
_OLDEST = 1  # what is read: from this version of the format to layout.VERSION


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no block.

    Attributes:
        size: How many.
        is_end: No block comes after them.
    """

    size: int
    is_end: bool


@dataclass(frozen=True, slots=True)
class File:
    """An open recording.

    Attributes:
        facts: Its first block.
    """

    path: Path
    facts: Facts
    _file: BinaryIO

    def blocks(self) -> Iterator[Block | Damage]:
        """All that can be read, the first block too, and what cannot, in the order of the file."""
        at, size = FILE_HEADER.size, os.fstat(self._file.fileno()).st_size
        while at < size:
            block, after = _block(self._file, at)
            if block is None:
                after = _next_block(self._file, at + 1, size)
                yield Damage(after - at, is_end=after == size)
            else:
                yield block
            at = after

    def understood(self, read: Callable[[bytes], _T], block: Block) -> _T:
        """What `read` makes of a block.

        Raises:
            RecordingError: It is whole, and yet not what this wgtrace expects.
        """
        return _understood(self.path, read, block)

    def close(self) -> None:
        """No more blocks."""
        self._file.close()


def opened(path: Path) -> File:
    """A recording, ready to be read.

    Raises:
        UsageError: There is none at `path`, or its beginning is missing or damaged.
        UnsupportedError: It may not be read here, or a newer wgtrace made it.
    """
    file = _file(path)
    try:
        _check_header(path, file.read(FILE_HEADER.size))
        block, _after = _block(file, FILE_HEADER.size)
        if block is None or block.kind != Kind.FACTS:
            raise UsageError(
                f"{path} has no whole first block, and without it nothing can be told",
                "it was cut there, or damaged",
            )
        facts = _understood(path, lambda body: loaded(Facts, body), block)
        if (facts.abi, facts.byteorder) != (ABI, sys.byteorder):
            raise UnsupportedError(
                f"the records in {path} are of another kind than this wgtrace reads here",
                f"ABI {facts.abi}, {facts.byteorder}-endian",
                f"replay it with wgtrace {facts.version} on {facts.kernel.machine}",
            )
    except BaseException:
        file.close()
        raise
    return File(path, facts, file)


def _file(path: Path) -> BinaryIO:
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except PermissionError as exc:
        raise UnsupportedError(
            f"not permitted to read {path}", "recordings are made for root only", f"sudo chown you {path}"
        ) from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        raise UsageError(f"cannot read {path}", getattr(exc, "strerror", None) or str(exc)) from exc
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UsageError(f"{path} is not a regular file")
    return file


def _check_header(path: Path, head: bytes) -> None:
    if not head:
        raise UsageError(f"{path} is empty", "nothing was recorded, or it was cut")
    if not MAGIC.startswith(head[: len(MAGIC)]):
        raise UsageError(f"{path} is not a recording", "wgtrace record makes them")
    if len(head) < FILE_HEADER.size:
        raise UsageError(f"{path} is cut within its first {FILE_HEADER.size} bytes", "nothing is left of it")
    _magic, version, _zero, crc = FILE_HEADER.unpack(head)
    if zlib.crc32(head[:-4]) != crc:
        raise UsageError(f"the first {FILE_HEADER.size} bytes of {path} are damaged")
    if not _OLDEST <= version <= layout.VERSION:
        raise UnsupportedError(
            f"{path} has format {version}, and this wgtrace reads {_OLDEST} to {layout.VERSION}",
            "a newer wgtrace made it",
            "replay it with that one",
        )


def _block(file: BinaryIO, at: int) -> tuple[Block | None, int]:
    """The block at this place, or None if there is no whole one, and where it ends."""
    file.seek(at)
    header = file.read(BLOCK_HEADER.size)
    length = layout.stored_length(header)
    if length is None:
        return None, at
    stored = file.read(length)
    return layout.unpacked(header, stored), at + len(header) + len(stored)


def _next_block(file: BinaryIO, at: int, size: int) -> int:
    """Where the first whole block after `at` begins, `size` if there is none."""
    while at < size:
        file.seek(at)
        chunk = file.read(_CHUNK)
        found = chunk.find(MARK)
        if found < 0:
            if at + len(chunk) >= size:
                break
            at += len(chunk) - len(MARK) + 1
            continue
        at += found
        if _block(file, at)[0] is not None:
            return at
        at += 1
    return size


def _understood(path: Path, read: Callable[[bytes], _T], block: Block) -> _T:
    try:
        return read(block.body)
    except (ValueError, struct.error, RecursionError) as exc:
        raise RecordingError(
            f"block {block.number} of {path} is whole, and not understood", str(exc), "a newer wgtrace may"
        ) from exc
