# SPDX-License-Identifier: GPL-2.0-only
"""probes: which kernel this is."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

from wgtrace.probes.identity import identity


def note(kind: int, name: bytes, body: bytes) -> bytes:
    """An ELF note, padded as elf(5) says."""
    padded = [part.ljust(len(part) + 3 & ~3, b"\0") for part in (name, body)]
    return struct.pack("=III", len(name), len(body), kind) + b"".join(padded)


def test_what_the_kernel_tells_is_read(tmp_path: Path) -> None:
    """Taint, boot, build ids among other notes, the module's srcversion and BTF."""
    files = {
        "proc/sys/kernel/tainted": b"4609\n",
        "proc/sys/kernel/random/boot_id": b"0d1f-boot\n",
        "sys/kernel/notes": note(6, b"Xen\0", b"12345") + note(3, b"GNU\0", bytes(range(20))),
        "sys/kernel/btf/wireguard": b"btf",
        "sys/module/wireguard/srcversion": b"ABCDEF\n",
        "sys/module/wireguard/taint": b"OE\n",
        "sys/module/wireguard/notes/.note.gnu.build-id": note(3, b"GNU\0", b"\xab\xcd"),
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    found = identity("wireguard", tmp_path)

    assert found.release == os.uname().release
    assert (found.taint, found.boot_id) == (4609, "0d1f-boot")
    assert found.build_id == bytes(range(20)).hex()
    assert (found.module_srcversion, found.module_taint, found.module_build_id) == ("ABCDEF", "OE", "abcd")
    assert found.module_btf == hashlib.sha256(b"btf").hexdigest()


def test_what_is_not_there_is_empty(tmp_path: Path) -> None:
    """A kernel without the module, without notes or with notes that are cut is still described."""
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/notes").write_bytes(note(3, b"GNU\0", b"\xab\xcd")[:13])

    found = identity("wireguard", tmp_path)

    assert (found.taint, found.boot_id, found.build_id, found.module_btf) == (0, "", "", "")
