# SPDX-License-Identifier: GPL-2.0-only
"""What the guest says to the host over its one virtio-serial port.

A frame is one byte of kind, four bytes of length (network order) and that many bytes.
Both ends of the wire are this file: `guest` packs, `vm` parses.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

_HEADER = struct.Struct("!BI")

#: The guest never sends more in one frame; a longer one means that the stream is torn.
MAX_PAYLOAD = 64 * 1024


class FrameKind(enum.IntEnum):
    """What a frame carries."""

    READY = 1  # the command is about to start
    HEARTBEAT = 2  # nothing; says that the guest is alive
    STDOUT = 3  # the command's output, as it came
    STDERR = 4
    OUT = 5  # a piece of the tar archive of $WGTRACE_LAB_OUT
    EXIT = 6  # the exit status in decimal; the last frame


class TornStreamError(Exception):
    """The bytes are no frames."""


def pack(kind: FrameKind, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return _HEADER.pack(kind, len(payload)) + payload


class FrameParser:
    """Turns bytes, however they were split on the way, back into frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[FrameKind, bytes]]:
        """Yield every frame that `data` completes."""
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(self._pending)
            if length > MAX_PAYLOAD or kind not in FrameKind.__members__.values():
                raise TornStreamError(f"frame of kind {kind} and {length} bytes")
            end = _HEADER.size + length
            if len(self._pending) < end:
                return
            payload = bytes(self._pending[_HEADER.size : end])
            del self._pending[:end]
            yield FrameKind(kind), payload
