# SPDX-License-Identifier: GPL-2.0-only
"""The file format of recordings, version 1. This text is normative; all numbers are little-endian.

A recording is a file header and then blocks, appended one after the other and never
changed. What was written stays readable however the writer ends; what is missing or
damaged is found.

File header, 16 bytes: `MAGIC` (8), version (u16), 0 (u16), CRC-32 of these 12 bytes (u32).
The version is raised when a reader of the former one could no longer read it rightly;
a reader refuses what is newer than itself, and reads everything that is older.

Block: a header of 32 bytes and the stored bytes that follow it.

    offset  size
         0     4  MARK: where to go on reading after a damaged part
         4     1  kind: `Kind`
         5     1  flags: `Flag`
         6     2  0
         8     4  number: counted through all files of a run; one that is missing shows
        12     4  length of the stored bytes
        16     4  length of the body, which is the stored bytes inflated (Flag.ZLIB) or themselves
        20     8  CLOCK_BOOTTIME in nanoseconds at which it was written
        28     4  CRC-32 (zlib's) of the 28 bytes before and the stored bytes

Bodies. JSON is UTF-8, an object; keys may be added, unknown ones are left alone, and so
are blocks of an unknown kind.

    FACTS     JSON, `facts.Facts`: what does not change during a run
    STATE     JSON, `state.types.Snapshot`
    RECORDS   ring-buffer records as the programs wrote them (bpf/events.h), each after
              its length (u32), in the order in which the kernel handed them over
    TOTALS    entries of the map `totals` that have changed since the last such block of
              this file: length of the key (u32), key, packets since the start (u64)
    COUNTERS  JSON: {"losses": {LOSS: N}, "limited": {REASON: N}, "missed": N}, by the
              numbers of bpf/events.h, since the start
    CLOCK     JSON, `state.clock.Anchor`: the clocks of one moment
    ASKED     JSON, `facts.Asked`: what else rules ask the host for, as it was then
    END       JSON: {"because": "stopped" | "full" | "next file" | "blind", "blind": TEXT}; TEXT
              says why nothing could be seen any more

A file opens with FACTS, ASKED, STATE, TOTALS (whole), COUNTERS, each with Flag.OPENING, so each
file of a rotation can be read alone. STATE then comes

- right behind RECORDS that hold nothing but records of changes of the configuration
  (Flag.CHANGED), and before any record that comes after them;
- before the first record of an interface that the last STATE does not have;
- now and then and before END, followed by the TOTALS and COUNTERS of the same moment, and
  between ASKED.
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"\x89WGT\r\n\x1a\n"
VERSION: Final = 1
MARK: Final = b"\x8dWGB"
MAX_BODY: Final = 1 << 28
"""No block is longer, stored or inflated: what says so is damaged."""

FILE_HEADER: Final = struct.Struct("<8sHHI")
BLOCK_HEADER: Final = struct.Struct("<4sBBHIIIQI")
_CHECKED: Final = BLOCK_HEADER.size - 4
_LEVEL: Final = 3  # tests/bench/recording.py: a tenth larger than the best, in a twentieth of its time


class Kind(enum.IntEnum):
    """What a block holds; only appended, never reused."""

    FACTS = 1
    STATE = 2
    RECORDS = 3
    TOTALS = 4
    COUNTERS = 5
    CLOCK = 6
    END = 7
    ASKED = 8


class Flag(enum.IntFlag):
    """How a block is to be read."""

    NONE = 0
    ZLIB = 1
    OPENING = 2
    CHANGED = 4


@dataclass(frozen=True, slots=True)
class Block:
    """One block.

    Attributes:
        kind: A `Kind`, or a number that a later wgtrace gave a meaning.
        number: Of this block in its run.
        ts_ns: CLOCK_BOOTTIME at which it was written.
    """

    kind: int
    number: int
    ts_ns: int
    body: bytes
    flags: Flag = Flag.NONE


def file_header(version: int = VERSION) -> bytes:
    """The first bytes of a recording."""
    head = FILE_HEADER.pack(MAGIC, version, 0, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def packed(block: Block) -> bytes:
    """A block as it stands in a file."""
    flags, stored = block.flags & ~Flag.ZLIB, block.body
    if (deflated := zlib.compress(block.body, _LEVEL)) and len(deflated) < len(block.body):
        flags, stored = flags | Flag.ZLIB, deflated
    head = BLOCK_HEADER.pack(
        MARK, block.kind, flags, 0, block.number, len(stored), len(block.body), block.ts_ns, 0
    )[:_CHECKED]
    return head + struct.pack("<I", zlib.crc32(stored, zlib.crc32(head))) + stored


def stored_length(header: bytes) -> int | None:
    """How many bytes follow this block header; None if it is none."""
    if len(header) < BLOCK_HEADER.size or not header.startswith(MARK):
        return None
    stored, body = BLOCK_HEADER.unpack(header)[5:7]
    return int(stored) if max(stored, body) <= MAX_BODY else None


def unpacked(header: bytes, stored: bytes) -> Block | None:
    """The block that a header of the right length and mark begins; None if it is damaged."""
    _, kind, flags, _, number, length, size, ts_ns, crc = BLOCK_HEADER.unpack(header)
    if len(stored) != length or zlib.crc32(stored, zlib.crc32(header[:_CHECKED])) != crc:
        return None
    body = stored
    if flags & Flag.ZLIB:
        try:
            body = zlib.decompressobj().decompress(stored, size + 1)  # no more than it says
        except zlib.error:
            return None
    return Block(kind, number, ts_ns, body, Flag(flags)) if len(body) == size else None
