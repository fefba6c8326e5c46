# SPDX-License-Identifier: GPL-2.0-only
"""Which kernel this is, exactly enough to find its source and its symbols again."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_NT_GNU_BUILD_ID = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """A running kernel and its WireGuard; what cannot be read is "" or 0.

    Attributes:
        release: `uname -r`; version: `uname -v`; machine: `uname -m`.
        taint: /proc/sys/kernel/tainted, see tainted-kernels.rst.
        boot_id: Another for each boot.
        build_id: The kernel's GNU build id, hex.
        module_srcversion: modinfo(8)'s srcversion of WireGuard's module.
        module_taint: Its letters in /sys/module/wireguard/taint.
        module_build_id: Its GNU build id, hex.
        module_btf: SHA-256 of its BTF, hex.
    """

    release: str
    version: str
    machine: str
    taint: int = 0
    boot_id: str = ""
    build_id: str = ""
    module_srcversion: str = ""
    module_taint: str = ""
    module_build_id: str = ""
    module_btf: str = ""


def identity(module: str, root: Path = Path("/")) -> Identity:
    """The running kernel and this module of it.

    Args:
        root: Where proc/ and sys/ are.
    """
    uname, there = os.uname(), root / "sys/module" / module
    btf = _bytes(root / "sys/kernel/btf" / module)
    return Identity(
        release=uname.release,
        version=uname.version,
        machine=uname.machine,
        taint=int(_text(root / "proc/sys/kernel/tainted") or 0),
        boot_id=_text(root / "proc/sys/kernel/random/boot_id"),
        build_id=_build_id(_bytes(root / "sys/kernel/notes")),
        module_srcversion=_text(there / "srcversion"),
        module_taint=_text(there / "taint"),
        module_build_id=_build_id(_bytes(there / "notes/.note.gnu.build-id")),
        module_btf=hashlib.sha256(btf).hexdigest() if btf else "",
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _text(path: Path) -> str:
    return _bytes(path).decode(errors="replace").strip()


def _build_id(notes: bytes) -> str:
    """The GNU build id among ELF notes, elf(5)."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("=III", notes, at)
        name = at + 12
        begin = name + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
            return notes[begin : begin + size].hex()
        at = begin + (size + 3 & ~3)
    return ""
