# SPDX-License-Identifier: GPL-2.0-only
"""The file, or the files in rotation, that a recording is written to."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from wgtrace.errors import OutputError, UsageError
from wgtrace.recording.format import MAGIC, Block, Flag, Kind, file_header, packed
from wgtrace.state.clock import boottime_ns


class Output:
    """Appends blocks to a new file.

    Args:
        path: Must not exist yet. With `keep` it may be an earlier recording,
            which is the first to be kept.
        max_bytes: A file is full once it has so many; None: never.
        keep: How many files to keep: `path`, `path`.1, ... the older the higher;
            None: one, and its end is the end.

    Raises:
        UsageError: The file cannot be made there.
    """

    def __init__(self, path: Path, max_bytes: int | None = None, keep: int | None = None) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self.files = 0
        self.written_bytes = 0
        self._number = 0
        self._fd = -1
        self._size = 0
        if keep and _is_recording(path):
            self._make_way()
        self._open()

    @property
    def is_full(self) -> bool:
        """Whether it is time for the next file, or for the end."""
        return self._max_bytes is not None and self._size >= self._max_bytes

    @property
    def rotates(self) -> bool:
        """Whether there can be a next file."""
        return self._keep is not None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of this run that are still there, the newest first."""
        return tuple(self._rotated(at) for at in range(min(self.files, self._keep or 1)))

    def write(self, kind: Kind, body: bytes, flags: Flag = Flag.NONE) -> None:
        """Append a block.

        Raises:
            OutputError: The disk is full, or broken. What was written stays readable.
        """
        self._append(packed(Block(kind, self._number, boottime_ns(), body, flags)))
        self._number += 1

    def next_file(self) -> None:
        """Close this file, give it and the older ones their next names, and begin a new one."""
        self.close()
        self._make_way()
        self._open()

    def close(self) -> None:
        """End the file; one in which nothing was written is taken away."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        if self._size == len(file_header()):
            self.path.unlink(missing_ok=True)
        try:
            os.close(fd)
        except OSError as exc:  # some file systems tell only now
            raise self._failed(exc) from exc

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND | os.O_CLOEXEC
        try:
            self._fd = os.open(self.path, flags, 0o600)
        except FileExistsError as exc:
            raise UsageError(
                f"{self.path} exists", "wgtrace overwrites nothing", "remove it, or give another name"
            ) from exc
        except (OSError, ValueError) as exc:
            raise UsageError(
                f"cannot make the file {self.path}", getattr(exc, "strerror", None) or str(exc)
            ) from exc
        self._size = 0
        self.files += 1
        self._append(file_header())

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)  # a part of a block helps nobody
            raise self._failed(exc) from exc
        self._size += len(data)
        self.written_bytes += len(data)

    def _failed(self, exc: OSError) -> OutputError:
        return OutputError(
            f"cannot write on to {self.path}: {exc.strerror}",
            f"what was recorded until now is kept, {self._size:,} bytes of it in this file",
            f"make room, and see what there is: wgtrace replay {self.path}",
        )

    def _rotated(self, at: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{at}") if at else self.path

    def _make_way(self) -> None:
        """Rename the files that are there; the oldest goes."""
        assert self._keep
        try:
            if self._keep == 1:
                self.path.unlink()
            for at in reversed(range(self._keep - 1)):
                with contextlib.suppress(FileNotFoundError):
                    self._rotated(at).rename(self._rotated(at + 1))
        except OSError as exc:
            raise OutputError(f"cannot rename {self.path}", exc.strerror or "") from exc


def _is_recording(path: Path) -> bool:
    """Whether an earlier run left this file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode) and os.read(fd, len(MAGIC)) == MAGIC
    finally:
        os.close(fd)
