# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.loader.bytecode: there and back, and which numbers in it are maps."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgtrace.loader.bytecode import Bytecode, MapShape, with_maps

LOAD_64 = 0x18


def instruction(opcode: int, constant: int, source: int = 0) -> bytes:
    """One of `struct bpf_insn`; the destination is r1."""
    return struct.pack("<BBhi", opcode, source << 4 | 1, 0, constant)


MAP_7 = instruction(LOAD_64, 7, source=1) + instruction(0, 0)
NUMBER_7 = instruction(LOAD_64, 7) + instruction(0, 0)
MOVE_7 = instruction(0xB7, 7)


def test_only_maps_are_replaced() -> None:
    """A constant of the same value stays what it is, in a long instruction and in a short one."""
    code = MOVE_7 + MAP_7 + NUMBER_7 + MAP_7

    changed = with_maps(code, {7: 300})

    map_300 = instruction(LOAD_64, 300, source=1) + instruction(0, 0)
    assert changed == MOVE_7 + map_300 + NUMBER_7 + map_300
    assert with_maps(changed, {300: 7}) == code


def test_a_map_that_is_not_known() -> None:
    """It is an error, and no program with another map in its place."""
    with pytest.raises(LookupError):
        with_maps(MAP_7, {6: 0})
    with pytest.raises(LookupError):
        with_maps(MAP_7, [1, 2, 3])


@given(  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
    st.dictionaries(st.text(), st.binary()), st.lists(st.integers(0, 1 << 32), min_size=5, max_size=5)
)
def test_there_and_back(programs: dict[str, bytes], numbers: list[int]) -> None:
    """What is written is read again, the same."""
    bytecode = Bytecode((MapShape("totals", *numbers),), programs)

    assert Bytecode.from_bytes(bytecode.to_bytes()) == bytecode


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b'{"maps": 1, "programs": {}}',
        b'{"maps": [{"a": 1}], "programs": {}}',
        b'{"maps": [], "programs": []}',
        b'{"maps": [], "programs": {"a": 1}}',
    ],
)
def test_something_else(text: bytes) -> None:
    """What is no bytecode is a ValueError, whatever it is."""
    with pytest.raises(ValueError):  # noqa: PT011 - JSON and UTF-8 have their own
        Bytecode.from_bytes(text)
