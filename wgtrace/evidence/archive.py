# SPDX-License-Identifier: GPL-2.0-only
"""The archive: the same bytes for the same content, and no key in it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from wgtrace.errors import UnsupportedError, UsageError
from wgtrace.recording.format import Block
from wgtrace.recording.reader import opened
from wgtrace.state.secrets import found_in, held

CHECKSUMS: Final = "SHA256SUMS"
_EXECUTABLE: Final = ".sh"


def packed(root: str, files: Mapping[str, bytes], mtime: int) -> bytes:
    """A tar.gz of these files below a directory, with checksums: sorted, of uid 0, of one time.

    Args:
        mtime: Of all files, seconds since 1970.
    """
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    everything = {**files, CHECKSUMS: sums.encode()}
    tar_file = io.BytesIO()
    with tarfile.open(fileobj=tar_file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(everything):
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size, member.mtime = len(everything[name]), mtime
            member.mode = 0o700 if PurePosixPath(name).suffix == _EXECUTABLE else 0o600
            member.uname = member.gname = "root"
            tar.addfile(member, io.BytesIO(everything[name]))
    out = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0) as compressed:
        compressed.write(tar_file.getvalue())
    return out.getvalue()


def check(files: Mapping[str, bytes], public: Collection[bytes], recordings: Collection[Path]) -> None:
    """Search all of it for every private and preshared key that this host holds.

    Args:
        public: Keys, raw, that are known to be public.
        recordings: Files of which the blocks are searched too, as they are compressed.

    Raises:
        UnsupportedError: One is in there, or the keys may not be read.
    """
    with held(public) as keys:
        contents = {**files, **{path.name: _inflated(path) for path in recordings}}
        where = sorted(name for name, data in contents.items() if found_in(data, keys))
    if where:
        raise UnsupportedError(
            f"a private or preshared key of this host is in {', '.join(where)}: nothing was written",
            "what is to be handed out was searched for them",
            "this is a bug of wgtrace, or the key was sent as a packet or used as a public key: replace it",
        )


def _inflated(path: Path) -> bytes:
    with contextlib.closing(opened(path)) as file:
        return b"\n".join(block.body for block in file.blocks() if isinstance(block, Block))


def write(path: Path, data: bytes) -> None:
    """Write a new file of mode 0600, whole or not at all.

    Raises:
        UsageError: It exists, or cannot be made there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError as exc:
        raise UsageError(
            f"{path} exists", "wgtrace overwrites nothing", "remove it, or give another name"
        ) from exc
    except (OSError, ValueError) as exc:
        raise UsageError(f"cannot make the file {path}", getattr(exc, "strerror", None) or str(exc)) from exc
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink(missing_ok=True)
        raise
