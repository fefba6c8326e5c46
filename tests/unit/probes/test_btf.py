# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.probes.btf, on BTF that the C compiler and libbpf make for the test."""

from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from wgtrace.errors import UnsupportedError
from wgtrace.probes import libbpf
from wgtrace.probes.btf import SYS_BTF, Btf

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler: apt-get install gcc")

KERNEL = r"""
typedef unsigned char u8;
enum colour { RED, GREEN = 5, ALSO_GREEN = 5 };
struct inner { u8 a; int b __attribute__((packed)); } __attribute__((packed));
union either { long number; struct inner inner; };
struct device { struct { int ifindex; union { int mtu; int size; }; }; union either either; };
struct tagged { u8 first; struct inner; struct device *dev; union either; };
typedef void (*btf_trace_kfree_skb)(void *, struct device *, void *, int);
typedef void (*btf_trace_unnamed)(void *, struct device *);
int __traceiter_kfree_skb(void *data, struct device *dev, void *location, int reason) { return 0; }
int xmit(struct device *dev, enum colour colour) { return dev->ifindex + colour; }
void nothing(void) {}
btf_trace_kfree_skb used_1;
btf_trace_unnamed used_2;
struct tagged used_3;
"""


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[str], Path]:
    """Compile C into an ELF file with a .BTF section."""

    def compile_c(source: str) -> Path:
        path = tmp_path / "kernel.o"
        command = ["cc", "-gbtf", "-fms-extensions", "-xc", "-c", "-o", str(path), "-"]
        subprocess.run(command, input=source, text=True, check=True)
        return path

    return compile_c


@pytest.fixture
def kernel(compiled: Callable[[str], Path]) -> Btf:
    """BTF of KERNEL."""
    return Btf(compiled(KERNEL))


class Builder:
    """Makes raw BTF, by libbpf: what a C compiler cannot be made to write."""

    def __init__(self, base: Btf | None = None) -> None:
        self._lib = libbpf.libbpf()
        for name in ("btf__new_empty_split", "btf__raw_data"):
            getattr(self._lib, name).restype = ctypes.c_void_p
        self._btf = ctypes.c_void_p(
            self._lib.btf__new_empty_split(ctypes.c_void_p(base._handle if base else None))
        )

    def struct(self, name: str, size: int, **fields: int) -> int:
        """Add a struct of 8-byte fields with these type ids."""
        added = int(self._lib.btf__add_struct(self._btf, name.encode(), size))
        for place, (field, type_id) in enumerate(fields.items()):
            self._lib.btf__add_field(self._btf, field.encode(), type_id, place * 64, 0)
        return added

    def integer(self, name: str) -> int:
        """Add an 8-byte integer."""
        return int(self._lib.btf__add_int(self._btf, name.encode(), 8, 0))

    def pointer(self, to: int) -> int:
        """Add a pointer type."""
        return int(self._lib.btf__add_ptr(self._btf, to))

    def enum(self, name: str, size: int, **values: int) -> int:
        """Add an enum of 4 or 8 bytes, signed if a value is."""
        signed = any(value < 0 for value in values.values())
        suffix, *options = ("64", ctypes.c_bool(signed)) if size == 8 else ("",)
        added = int(getattr(self._lib, f"btf__add_enum{suffix}")(self._btf, name.encode(), size, *options))
        for value, number in values.items():
            add = getattr(self._lib, f"btf__add_enum{suffix}_value")
            add(self._btf, value.encode(), ctypes.c_int64(number))
        return added

    def write(self, path: Path) -> Path:
        """Write it out, as the kernel does in /sys/kernel/btf."""
        size = ctypes.c_uint32()
        data = self._lib.btf__raw_data(self._btf, ctypes.byref(size))
        path.write_bytes(ctypes.string_at(data, size.value))
        self._lib.btf__free(self._btf)
        return path


def check_c(text: str) -> subprocess.CompletedProcess[str]:
    """Compile C, every warning being an error."""
    command = ["cc", "-std=gnu11", "-Wall", "-Werror", "-xc", "-fsyntax-only", "-"]
    return subprocess.run(command, input=text, text=True, capture_output=True)


def test_definitions_compile_and_are_laid_out_as_in_the_kernel(kernel: Btf) -> None:
    """What is printed for a type brings all it needs, and gets each size and offset right."""
    text = kernel.c_definitions(["tagged", "device", "colour"])

    done = check_c(
        text
        + """
        _Static_assert(__builtin_offsetof(struct tagged, b) == 2, "");
        _Static_assert(__builtin_offsetof(struct tagged, dev) == 8, "");
        _Static_assert(__builtin_offsetof(struct tagged, number) == 16, "");
        int look(struct tagged *t) { return t->dev->mtu + t->inner.b + GREEN; }
        """
    )

    assert done.returncode == 0, done.stderr


def test_a_wrong_layout_does_not_compile(kernel: Btf) -> None:
    """A compiler that lays a named struct out otherwise than the kernel refuses it."""
    text = kernel.c_definitions(["device"])

    assert check_c(text).returncode == 0
    assert check_c(text.replace("int ifindex", "short ifindex[4]")).returncode != 0


def test_a_module_sees_the_kernels_types_and_its_own_first(kernel: Btf, tmp_path: Path) -> None:
    """A module's struct that repeats a name of the kernel's is the one meant, and is defined once."""
    builder = Builder(kernel)
    number = builder.integer("long")
    device = builder.struct("device", 24, ifindex=number, mtu=number, own=number)
    builder.struct("peer", 8, dev=builder.pointer(device))
    module = Btf(builder.write(tmp_path / "module"), kernel)

    text = module.c_definitions(["device", "peer", "tagged"])
    done = check_c(text + "long look(struct peer *p, struct tagged *t) { return p->dev->own + t->first; }\n")

    assert text.count("struct device {") == 1
    assert done.returncode == 0, done.stderr
    assert module.has_field("device", "own")
    assert module.has_field("tagged", "first")
    assert not kernel.has_field("device", "own")


def test_functions_and_their_parameters(kernel: Btf) -> None:
    """A function is known with its parameters' names and number; another is not."""
    assert kernel.has_function("xmit")
    assert kernel.parameters("xmit") == ("dev", "colour")
    assert kernel.parameter_count("xmit") == 2
    assert kernel.parameter_count("nothing") == 0
    assert kernel.parameter_count("no_such_function") is None
    assert not kernel.has_function("device")


def test_tracepoint_parameters(kernel: Btf) -> None:
    """A raw tracepoint's parameters come without the probe's data, named where BTF names them."""
    assert kernel.tracepoint_parameters("kfree_skb") == ("dev", "location", "reason")
    assert kernel.tracepoint_parameters("unnamed") == ("",)
    assert kernel.tracepoint_parameters("no_such_tracepoint") is None


def test_enum_names(kernel: Btf) -> None:
    """An enum's values are named, by the first of two names; no enum has no names."""
    assert kernel.enum_names("colour") == {0: "RED", 5: "GREEN"}
    assert kernel.enum_names("no_such_enum") == {}


@pytest.mark.parametrize("size", [4, 8])
def test_enums_of_either_size_and_sign(size: int, tmp_path: Path) -> None:
    """Negative and large values come out as the kernel's C has them, in enum and enum64."""
    highest = 2 ** (size * 8) - 1
    builder = Builder()
    builder.enum("signed", size, MINUS=-2, PLUS=3)
    builder.enum("unsigned", size, HIGHEST=highest)
    btf = Btf(builder.write(tmp_path / "raw"))

    assert btf.enum_names("signed") == {-2: "MINUS", 3: "PLUS"}
    assert btf.enum_names("unsigned") == {highest: "HIGHEST"}


@pytest.mark.parametrize("field", ["ifindex", "mtu", "size", "either"])
def test_fields_are_found_through_anonymous_members(kernel: Btf, field: str) -> None:
    """A field counts that C can name, however deep in anonymous structs and unions."""
    assert kernel.has_field("device", field)


def test_where_a_field_is(kernel: Btf) -> None:
    """In bytes from the begin of the struct that is asked, also where it is deep in anonymous members."""
    assert [kernel.offset_of("device", field) for field in ("ifindex", "mtu", "size", "either")] == [
        0,
        4,
        4,
        8,
    ]
    assert kernel.offset_of("device", "number") is None
    assert kernel.offset_of("no_such_struct", "ifindex") is None


def test_where_a_bitfield_is(compiled: Callable[[str], Path]) -> None:
    """The byte that it begins in, whatever the size of its neighbours."""
    text = "struct table { long handle; short family: 6, flags: 8; int use; } used;\n"

    found = Btf(compiled(text))
    assert [found.offset_of("table", field) for field in ("handle", "family", "flags", "use")] == [
        0,
        8,
        8,
        12,
    ]


def test_fields_that_are_not_there(kernel: Btf) -> None:
    """A field of a named member is not the struct's own, and an unknown struct has none."""
    assert not kernel.has_field("device", "number")
    assert not kernel.has_field("no_such_struct", "ifindex")


def test_an_unknown_type_is_named_in_the_error(kernel: Btf) -> None:
    """Asking for a type that this kernel lacks says which one."""
    assert kernel.has_type("u8")
    assert not kernel.has_type("no_such_type")
    with pytest.raises(UnsupportedError, match="no_such_type"):
        kernel.c_definitions(["device", "no_such_type"])


def test_a_kernel_without_btf_is_told_apart_from_a_module_not_loaded(
    compiled: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each of the reasons why types cannot be read has its own message and remedy."""
    btf, modules = tmp_path / "btf", tmp_path / "module"
    (modules / "loaded").mkdir(parents=True)
    (modules / "loaded/initstate").write_text("live\n")
    (modules / "builtin").mkdir()

    with pytest.raises(UnsupportedError, match="vmlinux") as no_btf:
        Btf.module("wireguard", directory=btf, modules=modules)
    assert "CONFIG_DEBUG_INFO_BTF" in no_btf.value.because

    btf.mkdir()
    compiled(KERNEL).rename(btf / "vmlinux")
    with pytest.raises(UnsupportedError, match="not loaded") as not_loaded:
        Btf.module("wireguard", directory=btf, modules=modules)
    assert not_loaded.value.do == "modprobe wireguard"
    with pytest.raises(UnsupportedError, match="does not describe its types"):
        Btf.module("loaded", directory=btf, modules=modules)
    assert Btf.module("builtin", directory=btf, modules=modules).has_function("xmit")


def test_what_is_no_btf_is_refused(tmp_path: Path) -> None:
    """A file without BTF, and no file, are an error that names the file."""
    path = tmp_path / "vmlinux"
    with pytest.raises(UnsupportedError, match="vmlinux"):
        Btf(path)
    path.write_bytes(b"\x9f\xeb no")
    with pytest.raises(UnsupportedError, match="vmlinux"):
        Btf.vmlinux(tmp_path)


def test_a_module_keeps_its_base(compiled: Callable[[str], Path], tmp_path: Path) -> None:
    """The kernel's types stay readable through a module when nobody else holds them."""
    kernel = Btf(compiled(KERNEL))
    builder = Builder(kernel)
    builder.integer("own")
    module = Btf(builder.write(tmp_path / "module"), kernel)
    del kernel
    gc.collect()

    assert module.enum_names("colour") == {0: "RED", 5: "GREEN"}


@pytest.mark.skipif(not (SYS_BTF / "vmlinux").exists(), reason="this kernel has no /sys/kernel/btf/vmlinux")
def test_the_running_kernel() -> None:
    """The running kernel's own BTF gives what every program of ours needs."""
    kernel = Btf.vmlinux()

    done = check_c(kernel.c_definitions(["sk_buff", "net", "iphdr"]))

    assert done.returncode == 0, done.stderr
    assert kernel.has_field("sk_buff", "network_header")
    assert "SKB_DROP_REASON_NOT_SPECIFIED" in kernel.enum_names("skb_drop_reason").values()
