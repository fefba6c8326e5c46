# SPDX-License-Identifier: GPL-2.0-only
"""Names for peers, from comments in wg-quick(8)'s files and from a file of the user's."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from wgtrace.errors import UsageError

WG_QUICK_DIR = Path("/etc/wireguard")
_MAX_NAME = 64
_MAX_BYTES = 1 << 24

_SECRET_LINE = re.compile(rb"^[^\n]*(?:private|preshared)[ \t_-]*key[^\n]*", re.IGNORECASE | re.MULTILINE)
PUBLIC_KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
SECTION = re.compile(r"\s*\[\s*(\w+)\s*\]")
_NAME = re.compile(r"\s*#+\s*(?:friendly[_ -]?)?name\s*[=:]\s*(.*)", re.IGNORECASE)
_PUBLIC_KEY_LINE = re.compile(r"\s*PublicKey\s*=\s*(\S+)\s*(?:#.*)?", re.IGNORECASE)


def peer_names(
    conf_dir: Path = WG_QUICK_DIR,
    names_file: Path | None = None,
    report: Callable[[str], object] = lambda _: None,
) -> dict[str, str]:
    """Names of peers by public key (base64).

    In `*.conf` of `conf_dir` a peer's name is a comment `# Name = ...` or
    `# friendly_name = ...` in its [Peer] section or right above it. What
    `names_file` says goes before that.

    Args:
        names_file: Lines `NAME PUBLIC_KEY` or `PUBLIC_KEY NAME`, and comments.
        report: Gets one sentence for each file that cannot be read.

    Raises:
        UsageError: `names_file` cannot be read, or a line of it is not like that.
    """
    names: dict[str, str] = {}
    try:
        files = sorted(path for path in conf_dir.iterdir() if path.suffix == ".conf")
    except FileNotFoundError:
        files = []
    except OSError as exc:
        report(f"{conf_dir} cannot be read ({exc.strerror}), so its names of peers are not known")
        files = []
    for path in files:
        try:
            for key, name in _conf_names(lines(path)):
                names.setdefault(key, name)
        except OSError as exc:
            report(f"{path} cannot be read ({exc.strerror}), so its names of peers are not known")
    return names | (_listed_names(names_file) if names_file else {})


def _conf_names(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Public key and name of each peer that has both, from the lines of one file."""
    in_peer, key, name, above = False, "", "", ""

    def peer() -> Iterator[tuple[str, str]]:
        if in_peer and key and name:
            yield key, name

    for line in lines:
        if comment := _NAME.fullmatch(line):
            above = clean(comment[1])
        elif section := SECTION.match(line):
            yield from peer()
            in_peer, key, name, above = section[1].lower() == "peer", "", above, ""
        elif not line.lstrip().startswith("#"):
            # The comment was not right above a section: it belongs to the one it is in.
            name, above = name or above, ""
            if found := _PUBLIC_KEY_LINE.fullmatch(line):
                key = found[1] if PUBLIC_KEY.fullmatch(found[1]) else ""
    name = name or above
    yield from peer()


def _listed_names(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    try:
        for number, line in enumerate(lines(path), start=1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            first, last = (bool(PUBLIC_KEY.fullmatch(words[at])) for at in (0, -1))
            key, rest = (words[0], words[1:]) if first else (words[-1], words[:-1])
            name = clean(" ".join(rest))
            if first == last or not name:
                # The line is not shown: it may hold a key that is not public.
                raise UsageError(
                    f"{path}:{number}: this is not NAME PUBLIC_KEY", "a public key is 44 characters"
                )
            names[key] = name
    except OSError as exc:
        raise UsageError(f"cannot read the names in {path}", exc.strerror or "") from exc
    return names


def lines(path: Path) -> Iterator[str]:
    """The lines of a file; one with a private or preshared key comes empty of it.

    It is overwritten in the only buffer that it was read into: the process has no copy of it.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(min(os.fstat(file.fileno()).st_size, _MAX_BYTES))
        view, read = memoryview(buffer), 0
        while read < len(buffer) and (more := file.readinto(view[read:])):
            read += more
    for found in _SECRET_LINE.finditer(buffer):
        start, end = found.span()
        view[start:end] = b"(hidden)".ljust(end - start)
    for line in bytes(view[:read]).decode(errors="replace").split("\n"):
        yield line.rstrip("\r")


def clean(text: str) -> str:
    """Text from outside as a name: no control characters, one line, at most 64 characters."""
    return "".join(c for c in text if c.isprintable()).strip()[:_MAX_NAME]
