# SPDX-License-Identifier: GPL-2.0-only
"""Dumps over netlink(7), with nothing copied that the caller does not take.

A WireGuard dump carries private keys. Messages are therefore shown to the caller
in the very buffers that the kernel filled, and these are wiped when the caller is
through: what it does not copy is gone. (pyroute2 keeps messages whole, and importing
it costs a third of a second and 23 MB; this needs neither.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from wgtrace.errors import StateError

NETLINK_GENERIC = 16

_Result = TypeVar("_Result")

_NLMSG_ERROR, _NLMSG_DONE, _NLMSG_MIN_TYPE = 2, 3, 16
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: len, type
_GENERIC = struct.Struct("=BBH")  # struct genlmsghdr: cmd, version, reserved
_ERRNO = struct.Struct("=i")
_BUFFER_SIZE = 1 << 16  # the kernel fills at most 32 KiB at a time
_TIMEOUT_SECONDS = 10
_MOST_TRIES = 10

_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2


class DumpInterruptedError(OSError):
    """What is dumped changed meanwhile: the dump is to be asked for again."""


def attribute(kind: int, value: bytes) -> bytes:
    """One `struct nlattr` with its padding."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and contents of each attribute in `data`, up to one that does not fit."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if not _ATTRIBUTE.size <= length <= len(data) - offset:
            return
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + 3 & ~3


def number(data: memoryview) -> int:
    """An unsigned integer of any size in the host's byte order; nothing is 0."""
    return int.from_bytes(data, sys.byteorder)


class Netlink:
    """A netlink socket of the calling thread's network namespace.

    Args:
        protocol: `socket.NETLINK_ROUTE` or `NETLINK_GENERIC`.

    Raises:
        OSError: The kernel has no such protocol.
    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def dump(self, message_type: int, payload: bytes) -> Iterator[memoryview]:
        """Ask for a dump, and give its messages without their headers, valid as long as this runs.

        Raises:
            DumpInterruptedError: What it told is not consistent.
            OSError: The kernel's answer: ENODEV, EPERM, ...
        """
        return self._ask(message_type, _NLM_F_DUMP, payload)

    def generic_dump(self, family: int, command: int, payload: bytes) -> Iterator[memoryview]:
        """As `dump`, of a generic netlink family; messages come without `struct genlmsghdr` too."""
        for message in self.dump(family, _GENERIC.pack(command, 1, 0) + payload):
            yield message[_GENERIC.size :]

    def family(self, name: str) -> int | None:
        """Number of a generic netlink family, None if this kernel has none of that name.

        The kernel tries to load the module that would register it.
        """
        name_attribute = attribute(_CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
        request = _GENERIC.pack(_CTRL_CMD_GETFAMILY, 1, 0) + name_attribute
        try:
            for message in self._ask(_GENL_ID_CTRL, 0, request):
                found = dict(attributes(message[_GENERIC.size :]))
                return number(found[_CTRL_ATTR_FAMILY_ID])
        except FileNotFoundError:
            pass
        return None

    def _ask(self, message_type: int, flags: int, payload: bytes) -> Iterator[memoryview]:
        self._sequence += 1
        length = _HEADER.size + len(payload)
        header = _HEADER.pack(length, message_type, _NLM_F_REQUEST | flags, self._sequence, 0)
        self._socket.sendto(header + payload, (0, 0))
        buffers: list[bytearray] = []
        try:
            yield from self._answer(buffers, is_dump=flags == _NLM_F_DUMP)
        finally:
            for buffer in buffers:
                buffer[:] = bytes(len(buffer))

    def _answer(self, buffers: list[bytearray], is_dump: bool) -> list[memoryview]:
        """All of the kernel's answer to the last request: at once, so that little can change meanwhile."""
        answer: list[memoryview] = []
        interrupted = False
        while True:
            buffers.append(self._receive())
            for kind, flags, message in self._split(memoryview(buffers[-1])):
                interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    (error,) = _ERRNO.unpack_from(message) if len(message) >= _ERRNO.size else (0,)
                    if error:
                        raise OSError(-error, os.strerror(-error))
                    if interrupted:
                        raise DumpInterruptedError(errno.EINTR, "the dump was interrupted by a change")
                    return answer
                if kind >= _NLMSG_MIN_TYPE:
                    answer.append(message)
            if answer and not is_dump:
                return answer

    def _receive(self) -> bytearray:
        """What the kernel sends at a time."""
        buffer = bytearray(_BUFFER_SIZE)
        while True:
            size, _, flags, (sender, _groups) = self._socket.recvmsg_into([buffer])
            if flags & socket.MSG_TRUNC:
                raise OSError(errno.EMSGSIZE, "a netlink message is larger than its buffer")
            if sender == 0:  # another process may send to this socket too
                del buffer[size:]
                return buffer

    def _split(self, data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        """Type, flags and contents of each message that answers the last request."""
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if not _HEADER.size <= length <= len(data) - offset:
                return
            if sequence == self._sequence:
                yield kind, flags, data[offset + _HEADER.size : offset + length]
            offset += length + 3 & ~3


def consistent(read: Callable[[], _Result]) -> _Result:
    """What `read` gives once a dump in it was not interrupted by a change.

    Raises:
        StateError: Every try was.
    """
    for _ in range(_MOST_TRIES):
        with contextlib.suppress(DumpInterruptedError):
            return read()
    raise StateError("the configuration changes faster than it can be read", f"{_MOST_TRIES} tries failed")


@contextlib.contextmanager
def state_errors(what: str) -> Iterator[None]:
    """Turn an OSError into a `StateError` that says what could not be read."""
    try:
        yield
    except OSError as exc:
        raise StateError(f"cannot read {what}", exc.strerror or str(exc)) from exc
