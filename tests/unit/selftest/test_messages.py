# SPDX-License-Identifier: GPL-2.0-only
"""Messages that selftest makes or changes; that a kernel takes them is shown in the lab."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest

from wgtrace.selftest import messages

KEY = base64.b64encode(bytes(range(32))).decode()


def has_right_mac1(message: bytes) -> bool:
    """Whether the first MAC is that of wireguard.com/protocol, 5.4.4."""
    key = hashlib.blake2s(b"mac1----" + bytes(range(32))).digest()
    return message[-32:-16] == hashlib.blake2s(message[:-32], digest_size=16, key=key).digest()


def test_lengths_types_and_first_macs() -> None:
    """What is made has the length of its type, and a right first MAC where there is one."""
    made = (messages.initiation(KEY), messages.response(KEY), messages.cookie(), messages.data_for_nobody())

    assert [len(message) for message in made] == [148, 92, 64, 32]
    assert [message[0] for message in made] == [1, 2, 3, 4]
    assert [has_right_mac1(message) for message in made] == [True, True, False, False]


def test_no_two_are_the_same() -> None:
    """Each message has its own index and noise."""
    assert len({messages.initiation(KEY) for _ in range(23)}) == 23
    assert len({messages.response(KEY) for _ in range(23)}) == 23
    assert len({messages.cookie() for _ in range(23)}) == 23


def test_an_initiation_with_its_time_changed() -> None:
    """Only the encrypted time and the first MAC differ, and that MAC is right again."""
    good = messages.initiation(KEY)
    broken = messages.with_timestamp_broken(good, KEY)

    assert [at for at in range(116) if good[at] != broken[at]] == [88]
    assert has_right_mac1(broken)


def test_fields_are_where_the_protocol_has_them() -> None:
    """Indices and counters are read at their offsets, little endian."""
    message = bytes(range(32))

    assert messages.sender_index(message) == 0x07060504
    assert messages.receiver_index(message) == 0x0B0A0908
    assert messages.counter(message) == 0x0F0E0D0C0B0A0908
    assert messages.cookie(0x04030201)[4:8] == b"\x01\x02\x03\x04"


@pytest.mark.parametrize("length", [1, 32, 1420])
def test_one_bit_is_changed(length: int) -> None:
    """A changed message differs from the good one in one bit."""
    good = os.urandom(length)
    changed = messages.changed(good)

    assert (int.from_bytes(good, "big") ^ int.from_bytes(changed, "big")).bit_count() == 1
