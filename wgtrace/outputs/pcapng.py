# SPDX-License-Identifier: GPL-2.0-only
"""Drops as a pcapng file: each packet that there is, why it was dropped as its comment.

The format is draft-ietf-opsawg-pcapng: a Section Header Block, an Interface Description
Block for each device and direction when it is first needed, an Enhanced Packet Block for
each drop, Interface Statistics Blocks at the end. A block is written as a whole or not
at all, so that a file is readable however its run ended.
"""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wgtrace.errors import OutputError
from wgtrace.events.reasons import Direction
from wgtrace.events.types import DropEvent, Packet
from wgtrace.outputs.clean import clean
from wgtrace.report import RunStart, Seen, Summary

# Section 4: block types. Section 3.5 and the tables of each block: options.
_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_LENGTH_NOT_SAID: Final = 0xFFFF_FFFF_FFFF_FFFF
_END_OF_OPTIONS, _COMMENT = 0, 1
_SHB_HARDWARE, _SHB_OS, _SHB_USERAPPL = 2, 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL = 2, 3, 9
_EPB_FLAGS: Final = 2
_ISB_STARTTIME, _ISB_ENDTIME, _ISB_IFRECV, _ISB_IFDROP, _ISB_USRDELIV = 2, 3, 4, 5, 8
_INBOUND, _OUTBOUND = 1, 2
_NANOSECONDS: Final = 9
_DATA: Final = 4
LINKTYPE_RAW: Final = 101
"""Begins with an IPv4 or IPv6 header."""

_WHAT: Final = {
    Direction.TX: "packets that {ifname} dropped on their way into the tunnel",
    Direction.RX: "packets that {ifname} dropped on their way out of the tunnel, and datagrams to its port",
    Direction.HANDSHAKE: "handshake messages that {ifname} refused",
}

Options = Iterable[tuple[int, bytes]]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def block(kind: int, body: bytes, options: Options = ()) -> bytes:
    """One block: type, length, body and options padded to 32 bits, length again (section 3.1)."""
    written = [struct.pack("<HH", code, len(value)) + _padded(value) for code, value in options]
    if written:
        written.append(struct.pack("<HH", _END_OF_OPTIONS, 0))
    inside = _padded(body) + b"".join(written)
    length = struct.pack("<I", len(inside) + 12)
    return struct.pack("<I", kind) + length + inside + length


def _time(unix_ns: int) -> bytes:
    """Two halves, the high one first."""
    return struct.pack("<II", unix_ns >> 32, unix_ns & 0xFFFF_FFFF)


def _text(value: str) -> bytes:
    """An option's text, which is UTF-8 and at most 65,535 bytes."""
    return clean(value).encode()[:0xFFFF].decode(errors="ignore").encode()


def open_for_writing(path: Path) -> int:
    """A descriptor for a new file that only its owner may read.

    A file of that name is replaced, not written into: it may be somebody else's, or open
    elsewhere. A device or pipe is written to as it is, also through a link (/dev/fd/63).

    Raises:
        OutputError: It cannot be made.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            if not path.is_symlink() and path.is_file():
                path.unlink()
            elif path.exists() and not path.is_file():
                return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
            elif path.is_symlink():
                raise OutputError(
                    f"cannot write {path}",
                    "it is a symbolic link",
                    "name the file itself, or - for standard output",
                )
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise OutputError(f"cannot write {path}", exc.strerror or str(exc)) from exc


@dataclass(slots=True)
class _Interface:
    """An Interface Description Block that was written, by its number."""

    number: int
    written: int = 0


class PcapngSink:
    """Writes a run as a pcapng file.

    Args:
        fd: Where to; closed by `close`.
        name: How the user calls it.
        on_failure: Called once if nothing more can be written, to end the run.
    """

    def __init__(self, fd: int, name: str, on_failure: Callable[[], None]) -> None:
        self._fd = fd
        self._name = name
        self._on_failure = on_failure
        self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._whole = 0
        self._interfaces: dict[tuple[str, int, Direction], _Interface] = {}
        self._started_unix_ns = 0
        self.failed: OutputError | None = None

    def start(self, start: RunStart) -> None:
        """Write the Section Header Block."""
        self._started_unix_ns = start.ts_unix_ns
        body = struct.pack("<IHHQ", _BYTE_ORDER_MAGIC, 1, 0, _LENGTH_NOT_SAID)
        options = [
            (_SHB_HARDWARE, _text(platform.machine())),
            (_SHB_OS, _text(f"Linux {start.kernel}")),
            (_SHB_USERAPPL, _text(f"wgtrace {start.version}")),
        ]
        self._write(block(_SECTION, body, options))

    def drop(self, drop: Seen) -> None:
        """Write the Enhanced Packet Block of a drop."""
        event = drop.event
        packet = event.packet or Packet(False, 0, b"")
        interface = self._interface(drop)
        data = packet.data
        body = struct.pack("<I", interface.number) + _time(drop.ts_unix_ns)
        body += struct.pack("<II", len(data), max(len(data), packet.length)) + _padded(data)
        is_out = event.reason.direction is Direction.TX
        options = [
            (_COMMENT, _text(comment(drop))),
            (_EPB_FLAGS, struct.pack("<I", _OUTBOUND if is_out else _INBOUND)),
        ]
        if self._write(block(_PACKET, body, options)):
            interface.written += 1

    def rest(self) -> None:
        """Nothing: each block is written at once."""

    def summary(self, summary: Summary) -> None:
        """Write the Interface Statistics Blocks; nothing at an interim count."""
        if summary.interim:
            return
        counts: dict[tuple[str, int, Direction], int] = {}
        for total in summary.totals:
            key = (total.ifname, total.netns, total.reason.direction)
            counts[key] = counts.get(key, 0) + total.count
        for key, interface in self._interfaces.items():
            dropped = max(counts.get(key, 0), interface.written)
            options = [
                (_ISB_STARTTIME, _time(self._started_unix_ns)),
                (_ISB_ENDTIME, _time(summary.ts_unix_ns)),
                (_ISB_IFRECV, struct.pack("<Q", dropped)),
                (_ISB_IFDROP, struct.pack("<Q", dropped - interface.written)),
                (_ISB_USRDELIV, struct.pack("<Q", interface.written)),
            ]
            body = struct.pack("<I", interface.number) + _time(summary.ts_unix_ns)
            self._write(block(_STATISTICS, body, options))

    def close(self) -> None:
        """Close the file; some file systems tell only here that it did not fit."""
        try:
            os.close(self._fd)
        except OSError as exc:
            self._fail(exc)

    def _interface(self, drop: Seen) -> _Interface:
        device, direction = drop.event.device, drop.event.reason.direction
        key = (device.ifname, device.netns, direction)
        known = self._interfaces.get(key)
        if known:
            return known
        # A drop that no interface could be told for is in the file all the same.
        ifname = device.ifname or "?"
        space = f" in netns {drop.netns_name or device.netns}" if device.netns else ""
        options = [
            (_IF_NAME, _text(f"{ifname} {direction.value}")),
            (_IF_DESCRIPTION, _text(_WHAT[direction].format(ifname=ifname) + space)),
            (_IF_TSRESOL, bytes([_NANOSECONDS])),
        ]
        if self._write(block(_INTERFACE, struct.pack("<HHI", LINKTYPE_RAW, 0, 0), options)):
            self._interfaces[key] = _Interface(len(self._interfaces))
        return self._interfaces.get(key, _Interface(0))

    def _write(self, whole: bytes) -> bool:
        """Write a block, or leave no part of it behind."""
        if self.failed:
            return False
        rest = memoryview(whole)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BrokenPipeError:
            raise  # the reader has what it wanted
        except OSError as exc:
            self._fail(exc)
            if self._is_regular:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._whole)
            return False
        self._whole += len(whole)
        return True

    def _fail(self, exc: OSError) -> None:
        if self.failed is None:
            packets = sum(interface.written for interface in self._interfaces.values())
            self.failed = OutputError(
                f"cannot write more to {self._name}: {exc.strerror or exc}",
                f"the {packets:,} drops written before that are whole and can be read",
                "write to a file system with more room, or ask for less: --count, --reason, --flow",
            )
            self._on_failure()


def comment(drop: Seen) -> str:
    """`src_not_allowed (owned_by_nobody), inner packet, peer berlin (KEY): 10.9.4.7 is in ...`"""
    event = drop.event
    sub_reason = f" ({event.sub_reason.id})" if event.sub_reason.id else ""
    peer = "no peer known"
    if drop.peer:
        key = drop.peer.public_key
        peer = f"peer {drop.peer.name} ({key})" if drop.peer.name else f"peer {key}"
    what = "packet not known"
    if event.packet and event.packet.data:
        what = "inner packet" if event.packet.is_inner else "outer datagram"
        if not event.packet.is_inner and isinstance(event, DropEvent) and event.message_type == _DATA:
            what += f" (counter {event.nonce})"
    return f"{event.reason.id}{sub_reason}, {what}, {peer}: {drop.why}"
