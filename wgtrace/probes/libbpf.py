# SPDX-License-Identifier: GPL-2.0-only
"""libbpf's functions and the kernel's BTF structures, as ctypes sees them.

The format is in the kernel's Documentation/bpf/btf.rst and linux/btf.h, the
library's functions in its btf.h. Both libbpf 1.1 and 1.5 have what is used.
"""

from __future__ import annotations

import ctypes
import enum
import functools

from wgtrace.errors import UnsupportedError

# Name, type of the result, types of the arguments.
Prototypes = tuple[tuple[str, object, tuple[object, ...]], ...]


class Kind(enum.IntEnum):
    """`BTF_KIND_*` of linux/btf.h."""

    PTR = 2
    STRUCT = 4
    UNION = 5
    ENUM = 6
    TYPEDEF = 8
    FUNC = 12
    FUNC_PROTO = 13
    ENUM64 = 19


class BtfType(ctypes.Structure):
    """`struct btf_type`; `size_or_type` is the union of size and type."""

    name_off: int
    info: int
    size_or_type: int
    _fields_ = [
        ("name_off", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("size_or_type", ctypes.c_uint32),
    ]

    @property
    def kind(self) -> int:
        """One of `Kind`, or another that is not used here."""
        return self.info >> 24 & 0x1F

    @property
    def vlen(self) -> int:
        """Number of the entries that follow in memory."""
        return self.info & 0xFFFF

    @property
    def flag(self) -> bool:
        """`kind_flag`: an enum is signed."""
        return bool(self.info >> 31)


class BtfMember(ctypes.Structure):
    """`struct btf_member`."""

    name_off: int
    type: int
    _fields_ = [("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32)]


class BtfParam(ctypes.Structure):
    """`struct btf_param`."""

    name_off: int
    type: int
    _fields_ = [("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32)]


class BtfEnum(ctypes.Structure):
    """`struct btf_enum`."""

    name_off: int
    unsigned: int
    _fields_ = [("name_off", ctypes.c_uint32), ("unsigned", ctypes.c_uint32)]

    @property
    def signed(self) -> int:
        """The value, if the enum is a signed one."""
        return ctypes.c_int32(self.unsigned).value


class BtfEnum64(ctypes.Structure):
    """`struct btf_enum64`."""

    name_off: int
    val_lo32: int
    val_hi32: int
    _fields_ = [("name_off", ctypes.c_uint32), ("val_lo32", ctypes.c_uint32), ("val_hi32", ctypes.c_uint32)]

    @property
    def unsigned(self) -> int:
        """The value, if the enum is an unsigned one."""
        return self.val_hi32 << 32 | self.val_lo32

    @property
    def signed(self) -> int:
        """The value, if the enum is a signed one."""
        return ctypes.c_int64(self.unsigned).value


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library's memory streams, open_memstream(3)."""
    lib = ctypes.CDLL(None, use_errno=True)
    lib.open_memstream.restype = ctypes.c_void_p
    lib.fclose.argtypes = [ctypes.c_void_p]
    lib.free.argtypes = [ctypes.c_void_p]
    return lib


@functools.cache
def libbpf() -> ctypes.CDLL:
    """libbpf with the prototypes of the functions used here, silenced."""
    try:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as exc:
        raise UnsupportedError("libbpf.so.1 cannot be loaded", str(exc), "apt-get install libbpf1") from exc
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
    prototypes: Prototypes = (
        ("btf__parse_split", pointer, (text, pointer)),
        ("btf__free", None, (pointer,)),
        ("btf__type_cnt", number, (pointer,)),
        ("btf__find_by_name_kind", ctypes.c_int32, (pointer, text, number)),
        ("btf__type_by_id", pointer, (pointer, number)),
        ("btf__name_by_offset", text, (pointer, number)),
        ("btf_dump__new", pointer, (pointer, pointer, pointer, pointer)),
        ("btf_dump__dump_type", ctypes.c_int, (pointer, number)),
        ("btf_dump__free", None, (pointer,)),
        ("libbpf_set_print", pointer, (pointer,)),
    )
    declare(lib, prototypes)
    lib.libbpf_set_print(None)
    return lib


def declare(lib: ctypes.CDLL, prototypes: Prototypes) -> None:
    """Tell ctypes what some functions of a library take and give."""
    for name, result, arguments in prototypes:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
