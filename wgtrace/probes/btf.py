# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel's type information (BTF) says: C definitions, prototypes, enum names.

libbpf reads and prints it; libbcc already needs that library, so nothing else is
to be installed.
"""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from wgtrace.errors import UnsupportedError
from wgtrace.probes.libbpf import BtfEnum, BtfEnum64, BtfMember, BtfParam, BtfType, Kind, libbpf, libc

SYS_BTF = Path("/sys/kernel/btf")
SYS_MODULE = Path("/sys/module")

_Entry = TypeVar("_Entry", bound=ctypes.Structure)
_RECORDS = (Kind.STRUCT, Kind.UNION)
_ENUMS = (Kind.ENUM, Kind.ENUM64)
_DEFINABLE = (*_RECORDS, *_ENUMS, Kind.TYPEDEF)
_PADDING = re.compile(r"^(\t+)long: 64;\n((?:\1long: 64;\n)*)", re.MULTILINE)
_UNNAMED = re.compile(r"^(\t+)((?:struct|union) \w+);$", re.MULTILINE)
_DEFINITION = re.compile(r"^((?:struct|union) \w+) \{\n(.*?)^\}([^\n]*);$", re.MULTILINE | re.DOTALL)


class Btf:
    """Type information of the kernel, or of one of its modules on top of the kernel's.

    libbpf's object is freed together with this one, and a module keeps its base.

    Args:
        path: Raw BTF as in /sys/kernel/btf, or an ELF file with a .BTF section.
        base: The kernel's, if `path` is a module's.

    Raises:
        UnsupportedError: No such file, no right to read it, or no BTF in it.
    """

    def __init__(self, path: Path, base: Btf | None = None) -> None:
        self._lib = libbpf()
        self._base = base
        self._path = path
        self._handle: int = self._lib.btf__parse_split(bytes(path), base._handle if base else None)
        if not self._handle:
            raise UnsupportedError(
                f"cannot read the kernel's types from {path}", os.strerror(ctypes.get_errno())
            )
        weakref.finalize(self, self._lib.btf__free, self._handle)
        # What a module has of its own is found here first: it may define a name anew.
        first, end = (self._lib.btf__type_cnt(b._handle) for b in (base or self, self))
        own = ((type_id, self._type(type_id)) for type_id in range(first, end))
        self._own = {(self._name(found.name_off), found.kind): type_id for type_id, found in own}

    @classmethod
    def vmlinux(cls, directory: Path = SYS_BTF) -> Btf:
        """The running kernel's types.

        Args:
            directory: Holds the file `vmlinux`.

        Raises:
            UnsupportedError: The kernel was built without BTF.
        """
        path = directory / "vmlinux"
        if not path.exists():
            raise UnsupportedError(
                f"this kernel does not describe its types: there is no {path}",
                "it was built without CONFIG_DEBUG_INFO_BTF",
                "boot a kernel that has it, such as any of Debian's since 11",
            )
        return cls(path)

    @classmethod
    def module(
        cls, name: str, base: Btf | None = None, directory: Path = SYS_BTF, modules: Path = SYS_MODULE
    ) -> Btf:
        """A module's types with the kernel's under them; the kernel's alone if it is built in.

        Args:
            base: What `vmlinux()` gave, if that is open already.
            directory: Holds the files `vmlinux` and `name`.
            modules: /sys/module.

        Raises:
            UnsupportedError: The module is not loaded, or it or the kernel has no BTF.
        """
        base = base or cls.vmlinux(directory)
        path, loaded = directory / name, modules / name
        if path.exists():
            return cls(path, base)
        # Only what was loaded from a file has a state; see Documentation/ABI/stable/sysfs-module.
        if (loaded / "initstate").exists():
            raise UnsupportedError(
                f"the module {name} does not describe its types: there is no {path}",
                "the kernel was built without CONFIG_DEBUG_INFO_BTF_MODULES, or the module elsewhere",
                "boot a kernel of the distribution, and use its own module",
            )
        if not loaded.exists():
            raise UnsupportedError(f"the kernel module {name} is not loaded", "", f"modprobe {name}")
        return base

    def has_type(self, name: str) -> bool:
        """Whether there is a struct, union, enum or typedef of this name."""
        return self._find(name, _DEFINABLE) is not None

    def c_definitions(self, names: Sequence[str]) -> str:
        """C definitions of these types and of all that they need, each once.

        At the end are checks, for the compiler, that each named struct has the
        size that it has in the kernel.

        Args:
            names: Structs, unions, enums and typedefs.

        Raises:
            UnsupportedError: This kernel has no type of such a name.
        """
        found = {name: self._find(name, _DEFINABLE) for name in names}
        for name in (name for name, type_id in found.items() if type_id is None):
            raise UnsupportedError(f"this kernel has no type {name}", f"it is not in {self._path}")
        ids = [type_id for type_id in found.values() if type_id]
        return _standard_c(self._dump(ids)) + "".join(map(self._size_check, ids))

    def has_function(self, name: str) -> bool:
        """Whether there is a function of this name."""
        return self._find(name, (Kind.FUNC,)) is not None

    def function_id(self, name: str) -> int | None:
        """Number of a function's type, as the kernel counts them; None if there is no such function."""
        return self._find(name, (Kind.FUNC,))

    def parameters(self, name: str) -> tuple[str, ...] | None:
        """Names of a function's parameters, None if there is no such function."""
        found = self._find(name, (Kind.FUNC,))
        return None if found is None else self._prototype(self._type(found).size_or_type)

    def parameter_count(self, name: str) -> int | None:
        """Number of a function's parameters, None if there is no such function.

        An fexit program finds the return value in the slot after them.
        """
        parameters = self.parameters(name)
        return None if parameters is None else len(parameters)

    def tracepoint_parameters(self, name: str) -> tuple[str, ...] | None:
        """Names of what a raw tracepoint hands over, None if there is no such tracepoint.

        A name is "" where this kernel's BTF has none; their number is right in any case.

        Args:
            name: Without its group: `consume_skb` for skb:consume_skb.
        """
        found = self._find(f"btf_trace_{name}", (Kind.TYPEDEF,))
        if found is None:
            return None
        pointer = self._type(self._type(found).size_or_type)
        # The first is the data of the probe that is called. The type has no names,
        # the function that calls the probes does (linux/tracepoint.h).
        unnamed = self._prototype(pointer.size_or_type)[1:]
        named = (self.parameters(f"__traceiter_{name}") or ())[1:]
        return named if len(named) == len(unnamed) else unnamed

    def enum_names(self, name: str) -> dict[int, str]:
        """Names of an enum's values, the first of several; {} if there is no such enum."""
        found = self._find(name, _ENUMS)
        if found is None:
            return {}
        enum, names = self._type(found), dict[int, str]()
        entries = self._trailing(found, BtfEnum64 if enum.kind == Kind.ENUM64 else BtfEnum)
        for entry in entries:
            names.setdefault(entry.signed if enum.flag else entry.unsigned, self._name(entry.name_off))
        return names

    def has_field(self, struct: str, field: str) -> bool:
        """Whether a struct or union has this field, also through anonymous members."""
        found = self._find(struct, _RECORDS)
        return found is not None and self._has_field(found, field)

    def offset_of(self, struct: str, field: str) -> int | None:
        """Bytes from a struct's begin to this field, also through anonymous members; None: there is none.

        Of a bitfield, to the byte that it begins in.
        """
        found = self.bits_of(struct, field)
        return None if found is None else found[0] // 8

    def bits_of(self, struct: str, field: str) -> tuple[int, int] | None:
        """Bits from a struct's begin to this field, and its own if it is a bitfield, else 0."""
        found = self._find(struct, _RECORDS)
        return None if found is None else self._bits_of(found, field)

    def _bits_of(self, type_id: int, field: str) -> tuple[int, int] | None:
        # Where the type says so (kind_flag), the upper byte is the size of a bitfield.
        mask = 0xFFFFFF if self._type(type_id).flag else 0xFFFFFFFF
        for member in self._trailing(type_id, BtfMember):
            name, offset = self._name(member.name_off), int(member.offset)
            at, bits = offset & mask, (offset & ~mask) >> 24
            if name == field:
                return at, bits
            if not name and (inside := self._bits_of(member.type, field)):
                return at + inside[0], inside[1]
        return None

    def _has_field(self, type_id: int, field: str) -> bool:
        for member in self._trailing(type_id, BtfMember):
            name = self._name(member.name_off)
            if name == field:
                return True
            if not name and self._has_field(member.type, field):
                return True
        return False

    def _find(self, name: str, kinds: Iterable[int]) -> int | None:
        """Id of a type, a module's own before the kernel's."""
        for kind in kinds:
            if own := self._own.get((name, kind)):
                return own
        for kind in kinds:
            found: int = self._lib.btf__find_by_name_kind(self._handle, name.encode(), kind)
            if found > 0:
                return found
        return None

    def _type(self, type_id: int) -> BtfType:
        return BtfType.from_address(self._lib.btf__type_by_id(self._handle, type_id))

    def _name(self, offset: int) -> str:
        name: bytes = self._lib.btf__name_by_offset(self._handle, offset)
        return name.decode()

    def _trailing(self, type_id: int, entry: type[_Entry]) -> ctypes.Array[_Entry]:
        """The entries that follow a `struct btf_type` in memory, `vlen` of them."""
        address = self._lib.btf__type_by_id(self._handle, type_id)
        return (entry * BtfType.from_address(address).vlen).from_address(address + ctypes.sizeof(BtfType))

    def _prototype(self, type_id: int) -> tuple[str, ...]:
        return tuple(self._name(parameter.name_off) for parameter in self._trailing(type_id, BtfParam))

    def _dump(self, ids: Iterable[int]) -> str:
        streams, text, size = libc(), ctypes.c_void_p(), ctypes.c_size_t()
        stream = streams.open_memstream(ctypes.byref(text), ctypes.byref(size))
        # vfprintf(3) has the very signature of btf_dump_printf_fn_t, its stream being the context.
        dump = self._lib.btf_dump__new(self._handle, streams.vfprintf, stream, None)
        failed = [type_id for type_id in ids if self._lib.btf_dump__dump_type(dump, type_id) < 0]
        self._lib.btf_dump__free(dump)
        streams.fclose(stream)
        definitions = ctypes.string_at(text.value or 0, size.value).decode()
        streams.free(text)
        if failed:
            raise UnsupportedError(f"libbpf cannot print all types of {self._path}", "its BTF is damaged")
        return definitions

    def _size_check(self, type_id: int) -> str:
        found = self._type(type_id)
        if found.kind not in _RECORDS:
            return ""
        keyword, name = Kind(found.kind).name.lower(), self._name(found.name_off)
        size = found.size_or_type
        return f'_Static_assert(sizeof({keyword} {name}) == {size}, "{name} is laid out as in the kernel");\n'


def _standard_c(definitions: str) -> str:
    """Write out members such as `struct ns_tree;`, which only -fms-extensions would give a place.

    Since "Kbuild: enable -fms-extensions" (in v6.19) the kernel has members with
    a tag and no name. A compiler without that flag warns, and leaves them out.
    """
    bodies = {tag: (members, attributes) for tag, members, attributes in _DEFINITION.findall(definitions)}

    def write_out(member: re.Match[str]) -> str:
        indent, tag = member.groups()
        members, attributes = bodies.get(tag, ("", ""))  # an empty struct stands in one line
        return f"{indent}{tag.split()[0]} {{\n{_UNNAMED.sub(write_out, members)}{indent}}}{attributes};"

    # Clang 14 gives a struct with such padding one layout for offsetof() and another,
    # with the padding twice, for the code that it makes.
    def spell_out(padding: re.Match[str]) -> str:
        words = 1 + padding[2].count(";")
        return f"{padding[1]}long __padding_{padding.start()}[{words}];\n"

    return _PADDING.sub(spell_out, _UNNAMED.sub(write_out, definitions))
