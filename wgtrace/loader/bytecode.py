# SPDX-License-Identifier: GPL-2.0-only
"""Compiled programs as plain data: what the compiler gives, the cache keeps, and the kernel takes.

The instruction format is in the kernel's Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

_INSTRUCTION = 8  # bytes
_LOAD_64 = 0x18  # BPF_LD | BPF_DW | BPF_IMM, two instructions long
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD in src_reg: the constant is a map's file descriptor


@dataclass(frozen=True, slots=True)
class MapShape:
    """What a map is made of.

    Attributes:
        kind: `enum bpf_map_type`.
        key_size: Bytes; value_size too.
        flags: `BPF_F_*`.
    """

    name: str
    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class Bytecode:
    """Maps and programs, of no process yet.

    Attributes:
        programs: Instructions by the name of the C function. Where one loads a
            map's file descriptor, the map's place in `maps` stands instead.
    """

    maps: tuple[MapShape, ...]
    programs: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """As JSON."""
        programs = {name: base64.b64encode(code).decode() for name, code in self.programs.items()}
        return json.dumps({"maps": [asdict(shape) for shape in self.maps], "programs": programs}).encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> Bytecode:
        """What `to_bytes` gave.

        Raises:
            ValueError: It is something else.
        """
        try:
            fields = json.loads(text)
            maps = tuple(MapShape(**shape) for shape in fields["maps"])
            programs = {name: base64.b64decode(code) for name, code in fields["programs"].items()}
        except (KeyError, TypeError, AttributeError) as exc:
            raise ValueError(f"no bytecode: {exc!r}") from exc
        return cls(maps, programs)


def with_maps(instructions: bytes, numbers: Mapping[int, int] | Sequence[int]) -> bytes:
    """The same instructions with each map's number replaced: a file descriptor by a place, or back.

    Args:
        numbers: The new number by the old one.

    Raises:
        LookupError: A map is loaded that is not in `numbers`.
    """
    code = bytearray(instructions)
    for at in range(0, len(code), _INSTRUCTION):
        if code[at] == _LOAD_64 and code[at + 1] >> 4 == _MAP_FD:
            number = numbers[int.from_bytes(code[at + 4 : at + 8], "little")]
            code[at + 4 : at + 8] = number.to_bytes(4, "little")
    return bytes(code)
