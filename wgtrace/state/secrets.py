# SPDX-License-Identifier: GPL-2.0-only
"""The keys that must not get out: read for a moment, to search for them in what is about to be handed out.

No other module of wgtrace reads a private or preshared key. They are never printed,
stored or handed on, and are overwritten when the search is over.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from wgtrace.errors import StateError, UnsupportedError
from wgtrace.state.names import WG_QUICK_DIR
from wgtrace.state.netns import all_namespaces, inside
from wgtrace.state.types import Namespace

_KEY = re.compile(rb"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_HEX_KEY = re.compile(rb"(?<![0-9A-Fa-f])[0-9A-Fa-f]{64}(?![0-9A-Fa-f])")
_MAX_FILE = 1 << 24
_PIECE = 8
_MANY_PIECES = 2000
_MANY_WAYS = 4
"""A key with fewer different bytes in a piece is found as a whole only: the piece may be anything."""


@contextlib.contextmanager
def held(
    public: Collection[bytes] = (),
    conf_dir: Path = WG_QUICK_DIR,
    environment: Mapping[str, str] | None = None,
) -> Iterator[list[bytearray]]:
    """The private and preshared keys that this host holds, for as long as the context lasts.

    Those of every WireGuard interface in every namespace that can be found, by netlink; all
    that looks like a key in wg-quick(8)'s directory and in the environment.

    Args:
        public: Keys, raw, that are known to be public: what is written in files may be those.

    Raises:
        UnsupportedError: There are interfaces or files whose keys may not be read.
        StateError: An interface changes faster than it can be read.
    """
    found: list[bytearray] = []
    try:
        for namespace in all_namespaces():
            found += _of_interfaces(namespace)
        written = [*_of_files(conf_dir), *_keys_in(_environment(environment))]
        known = set(public)
        found += [key for key in written if bytes(key) not in known and any(key)]
        yield found
    finally:
        for key in found:
            key[:] = bytes(len(key))


def found_in(data: bytes, keys: Iterable[bytearray]) -> bool:
    """Whether one of these keys, or half of one, is in there: raw, in base64 or in hexadecimal."""
    by_length: dict[int, set[bytes]] = {}
    for piece in (piece for key in keys for piece in _pieces(key)):
        by_length.setdefault(len(piece), set()).add(piece)
    for length, pieces in by_length.items():
        if len(pieces) > _MANY_PIECES:  # of hundreds of peers: one look at each place instead of many at all
            if not pieces.isdisjoint(data[at : at + length] for at in range(len(data) - length + 1)):
                return True
        elif any(piece in data for piece in pieces):
            return True
    return False


def _pieces(key: bytearray) -> Iterator[bytes]:
    """Pieces of which any 16 bytes in a row of a key have one, however they are spelled."""
    texts = (
        (bytes(key), _PIECE),
        (base64.b64encode(key), _PIECE),
        (key.hex().encode(), 2 * _PIECE),
        (key.hex().upper().encode(), 2 * _PIECE),
    )
    for text, size in texts:
        if len(set(text)) < 2 * _MANY_WAYS:
            yield text
            continue
        for at in range(0, len(text) - size + 1, size):
            piece = text[at : at + size]
            if len(set(piece)) >= _MANY_WAYS:
                yield piece


def _of_interfaces(namespace: Namespace) -> list[bytearray]:
    try:
        return inside(namespace, lambda: _here(namespace))
    except UnsupportedError:  # nobody but root may look into another namespace, and its keys are root's
        if namespace.inode == os.stat("/proc/thread-self/ns/net").st_ino or os.geteuid() == 0:
            raise
    except StateError:
        if _is_there(namespace):
            raise
    return []


def _is_there(namespace: Namespace) -> bool:
    """Whether it still exists: else its keys are gone with it."""
    try:
        return os.stat(namespace.path).st_ino == namespace.inode
    except OSError:
        return False


def _here(namespace: Namespace) -> list[bytearray]:
    """The keys of the interfaces of the calling thread's namespace."""
    from wgtrace.state import dumps  # late, it is slow

    keys: list[bytearray] = []
    for link, _ in dumps.links(namespace.inode, "wireguard"):
        try:
            keys += dumps.secret_keys(link.ifindex)
        except PermissionError as exc:
            raise UnsupportedError(
                f"not permitted to read the keys of {link.ifname}",
                "what is handed out is searched for them first",
                "run it by sudo, or on a host without WireGuard",
            ) from exc
        except OSError as exc:
            if exc.errno not in (errno.ENODEV, errno.EOPNOTSUPP, errno.ENOENT):
                raise
    return keys


def _of_files(directory: Path) -> Iterator[bytearray]:
    """All that looks like a key in this directory's files, but what stands behind PublicKey."""
    try:
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
    except PermissionError as exc:
        raise UnsupportedError(
            f"not permitted to read {directory}",
            "what is handed out is searched for its keys first",
            "run it by sudo",
        ) from exc
    except OSError:
        return
    for path in paths:
        with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
            content = bytearray(min(os.fstat(file.fileno()).st_size, _MAX_FILE))
            file.readinto(content)
            public = re.compile(rb"^\s*PublicKey\s*=[^\n]*", re.IGNORECASE | re.MULTILINE)
            yield from _keys_in(public.sub(b"", content))
            content[:] = bytes(len(content))


def _environment(environment: Mapping[str, str] | None) -> bytes:
    return "\n".join((os.environ if environment is None else environment).values()).encode(errors="replace")


def _keys_in(text: bytes | bytearray) -> Iterator[bytearray]:
    yield from (bytearray(base64.b64decode(found)) for found in _KEY.findall(text))
    yield from (bytearray.fromhex(found.decode()) for found in _HEX_KEY.findall(text))
