# SPDX-License-Identifier: GPL-2.0-only
"""The lab's images: built from Debian packages once, cached, shared read-only by every lab.

A lab needs two images: the userland of a Debian release, and a kernel with its modules. An
image is a directory of the cache, named after a hash of its recipe and renamed into place when
it is whole, so a half-built or outdated one is never used. Whoever uses an image holds a shared
lock on its directory; it is removed only by who gets the exclusive one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from wgtrace.errors import LabError

#: Raise it when an image comes out different from the same packages.
_RECIPE_VERSION = 1

#: The host's tools, and the Debian package that brings each.
BUILD_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "cpio": "cpio",
    "depmod": "kmod",
}

Say = Callable[[str], None]


def cache_dir() -> Path:
    """Return the directory that everything the lab keeps lives in; it exists."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "wgtrace"
    path.mkdir(parents=True, exist_ok=True)
    return path


@dataclasses.dataclass(frozen=True)
class Image:
    """What an image is made of, and how.

    Args:
        name: Names its directory, together with the recipe's hash.
        recipe: All that decides what comes out; must be plain data.
        build: Fills the empty directory it is given.
        cache_bytes: Free space that the finished image needs.
        scratch_bytes: Free space that the build needs on top, while it runs.
    """

    name: str
    recipe: Sequence[object]
    build: Callable[[Path], None]
    cache_bytes: int
    scratch_bytes: int

    @property
    def path(self) -> Path:
        """Where the finished image is, or will be."""
        text = json.dumps([_RECIPE_VERSION, *self.recipe], sort_keys=True)
        return cache_dir() / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@contextlib.contextmanager
def held(image: Image, say: Say, rebuild: bool = False) -> Iterator[Path]:
    """Give the image's directory, built if need be; nobody removes it meanwhile."""
    with _locked(image.name, say):
        if rebuild or not image.path.exists():
            _build(image, say)
        in_use = os.open(image.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(in_use, fcntl.LOCK_SH)
    try:
        yield image.path
    finally:
        os.close(in_use)


def remove_unused(pattern: str, keep: Path | None = None) -> None:
    """Remove the cache's directories of that pattern that nobody holds."""
    for path in cache_dir().glob(pattern):
        if path == keep:
            continue
        with contextlib.suppress(OSError):  # in use, or another lab was quicker
            holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(holder)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory of this run; one left by a killed run goes with the next."""
    with _locked("run", lambda _: None):
        remove_unused("run-*")
        path = Path(tempfile.mkdtemp(prefix="run-", dir=cache_dir()))
        in_use = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(in_use, fcntl.LOCK_SH)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(in_use)


def size_bytes(path: Path) -> int:
    """Return what a finished image takes on the disk."""
    return sum(file.stat().st_blocks * 512 for file in path.iterdir())


@contextlib.contextmanager
def _locked(name: str, say: Say) -> Iterator[None]:
    """Let one process at a time look for, build or replace what has this name."""
    with open(cache_dir() / f".{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another lab that is building {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing is not enough if the build forked


def _remove_when_unused(path: Path, say: Say) -> None:
    """Remove an image that is to be replaced, after the last lab that uses it."""
    holder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for the labs that use the old {path.name}")
            fcntl.flock(holder, fcntl.LOCK_EX)
        shutil.rmtree(path)
    finally:
        os.close(holder)


def _build(image: Image, say: Say) -> None:
    """Build into a temporary name and rename; the caller holds the image's lock."""
    require(BUILD_TOOLS)
    for leftover in cache_dir().glob(f".{image.name}-build-*"):
        shutil.rmtree(leftover)
    _check_space(image)
    say(f"building {image.name} from Debian packages, once; about a minute")
    target = Path(tempfile.mkdtemp(prefix=f".{image.name}-build-", dir=cache_dir()))
    try:
        image.build(target)
        if image.path.exists():
            _remove_when_unused(image.path, say)
        target.rename(image.path)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    remove_unused(f"{image.name}-*", keep=image.path)
    say(f"{image.name} is built: {size_bytes(image.path) >> 20} MB in {image.path}")


@contextlib.contextmanager
def squashed(output: Path, options: Sequence[str]) -> Iterator[IO[bytes]]:
    """Make a read-only file system of the tar archive that the caller writes."""
    command = ["mksquashfs", "-", str(output), "-tar", "-quiet", "-no-progress", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stderr
        # If it died its status says so below; a broken pipe would only hide that.
        with contextlib.suppress(BrokenPipeError), process.stdin:
            yield process.stdin
        complaint = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise LabError(f"mksquashfs failed with status {process.returncode}", because=complaint)


def as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Give a member of a tar archive to root, whoever builds it."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def require(tools: dict[str, str]) -> None:
    """Refuse to go on without these programs, and say what installs them."""
    missing = sorted({package for tool, package in tools.items() if not shutil.which(tool)})
    if missing:
        raise LabError(
            f"the lab needs programs that are not here: {', '.join(missing)}",
            do=f"sudo apt-get install {' '.join(missing)}",
        )


def _check_space(image: Image) -> None:
    """Refuse to start a build that would fill the disk."""
    needs: dict[int, tuple[Path, int]] = {}
    for path, size in ((cache_dir(), image.cache_bytes), (scratch_dir(), image.scratch_bytes)):
        device = path.stat().st_dev
        needs[device] = (path, size + needs.get(device, (path, 0))[1])
    for path, need in needs.values():
        free = shutil.disk_usage(path).free
        if free < need:
            raise LabError(
                f"too little disk space to build {image.name}: "
                f"{need >> 20} MB are needed and {free >> 20} MB are free in {path}",
                do="free some space, or set XDG_CACHE_HOME to a directory on another disk",
            )


def scratch_dir() -> Path:
    """Where mmdebstrap unpacks: never /tmp, which may be memory."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")
