# SPDX-License-Identifier: GPL-2.0-only
"""bpf/events.h against its mirror, by the host's C compiler; tests/bpf/test_layout.py asks clang."""

from __future__ import annotations

import ctypes
import enum
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from wgtrace.events import wire
from wgtrace.events.invariants import Invariant
from wgtrace.events.latency import Stage
from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.loader.source import bpf_directory

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler: apt-get install gcc")

HEADER: Final = bpf_directory() / "events.h"
STRUCTS: Final[dict[str, type[ctypes.Structure]]] = {
    "wgt_event_header": wire.EventHeader,
    "wgt_flow": wire.FlowWire,
    "wgt_device": wire.DeviceWire,
    "wgt_peer": wire.PeerWire,
    "wgt_drop_event": wire.DropEventWire,
    "wgt_handshake_event": wire.HandshakeEventWire,
    "wgt_config_event": wire.ConfigEventWire,
    "wgt_path_event": wire.PathEventWire,
    "wgt_path_config": wire.PathConfigWire,
    "wgt_packet_event": wire.PacketEventWire,
    "wgt_invariant_event": wire.InvariantEventWire,
    "wgt_total_key": wire.TotalKeyWire,
    "wgt_handshake_time_key": wire.HandshakeTimeKeyWire,
    "wgt_handshake_time": wire.HandshakeTimeWire,
    "wgt_stream": wire.StreamWire,
    "wgt_config": wire.ConfigWire,
    "wgt_traced_key": wire.TracedKeyWire,
    "wgt_site_range": wire.SiteRangeWire,
    "wgt_sites": wire.SitesWire,
    "wgt_flow_term": wire.FlowTermWire,
    "wgt_filter": wire.FilterWire,
    "wgt_public_key": wire.PublicKeyWire,
    "wgt_latency_key": wire.LatencyKeyWire,
    "wgt_histogram": wire.HistogramWire,
    "wgt_slow_packet": wire.SlowPacketWire,
    "wgt_latency": wire.LatencyWire,
    "wgt_latency_config": wire.LatencyConfigWire,
    "wgt_session": wire.SessionWire,
    "wgt_queues": wire.QueuesWire,
    "wgt_mtu_event": wire.MtuEventWire,
    "wgt_size_trial": wire.SizeTrialWire,
    "wgt_sizes": wire.SizesWire,
    "wgt_endpoint_key": wire.EndpointKeyWire,
    "wgt_endpoint": wire.EndpointWire,
    "wgt_mtu_config": wire.MtuConfigWire,
}
ENUMS: Final[dict[str, tuple[str, type[enum.IntEnum]]]] = {
    "wgt_event_kind": ("WGT_EVENT_", wire.EventKind),
    "wgt_reason": ("WGT_", Reason),
    "wgt_sub_reason": ("WGT_SUB_", SubReason),
    "wgt_handshake_code": ("WGT_", HandshakeCode),
    "wgt_invariant": ("WGT_", Invariant),
    "wgt_loss": ("WGT_", wire.Loss),
    "wgt_site": ("WGT_SITE_", wire.Site),
    "wgt_hook": ("WGT_HOOK_", wire.Hook),
    "wgt_rule_found": ("WGT_RULE_", wire.RuleFound),
    "wgt_path_rule": ("WGT_PATH_", wire.PathRule),
    "wgt_layer": ("WGT_", wire.Layer),
    "wgt_way": ("WGT_", wire.PacketWay),
    "wgt_flow_end": ("WGT_", wire.FlowEnd),
    "wgt_term_kind": ("WGT_TERM_", wire.TermKind),
    "wgt_stage": ("WGT_STAGE_", Stage),
    "wgt_mtu_code": ("WGT_MTU_", wire.MtuCode),
    "wgt_mtu_of": ("WGT_MTU_OF_", wire.MtuOf),
}
# Sizes of arrays that stand in an enum or a #define, and what mirrors them.
SIZES: Final = {
    "WGT_REASONS": wire.REASONS,
    "WGT_LOSSES": wire.LOSSES,
    "WGT_INVARIANTS": len(Invariant) + 1,
    "WGT_STACK_LEN": wire.STACK_LEN,
    "WGT_MAX_SITES": wire.MAX_SITES,
    "WGT_MAX_TERMS": wire.MAX_TERMS,
    "WGT_STAGES": wire.STAGES,
    "WGT_BUCKETS": wire.BUCKETS,
    "WGT_SLOWEST": wire.SLOWEST,
    "WGT_PATH_REASONS": wire.PATH_REASONS,
    "WGT_PATH_SUBSYSTEM_0": wire.PATH_SUBSYSTEM_0,
    "WGT_QUIET_ENDS": wire.QUIET_ENDS,
    "WGT_SIZE_TRIALS": wire.SIZE_TRIALS,
    "WGT_FORWARD_ENDS": wire.FORWARD_ENDS,
    "WGT_MTU_CODES": wire.MTU_CODES,
}


class Place(NamedTuple):
    """Where a field is: bytes, and whether it is a signed number."""

    offset: int
    size: int
    signed: bool


def _fields(mirror: type[ctypes.Structure]) -> dict[str, Place]:
    """The fields of a mirror, in order."""
    return {
        name: Place(getattr(mirror, name).offset, ctypes.sizeof(kind), kind is ctypes.c_int32)
        for name, kind, *_bits in mirror._fields_
    }


def _header() -> str:
    """The header without its comments."""
    return re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)


def _bodies(keyword: str) -> dict[str, str]:
    """Bodies of the structs or enums of the header by name."""
    return dict(re.findall(rf"^{keyword} (\w+) \{{\n(.*?)^\}};", _header(), re.MULTILINE | re.DOTALL))


def _declared(struct: str) -> dict[str, str]:
    """The fields that the header declares for a struct: type by name, in order."""
    lines = re.findall(r"^\t(.+?)\s*(\w+)(?:\[\w+\])?;\s*$", _bodies("struct")[struct], re.MULTILINE)
    return {name: kind for kind, name in lines}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the compiler says of every struct, field and constant that the mirror names."""
    wanted = {name: name for name in (*SIZES, "WGT_ABI")}
    for prefix, mirror in ENUMS.values():
        wanted |= {prefix + member.name: prefix + member.name for member in mirror}
    for struct, wire_class in STRUCTS.items():
        wanted[struct] = f"sizeof(struct {struct})"
        for field, kind, *_bits in wire_class._fields_:
            at = f"((struct {struct} *)0)->{field}"
            wanted[f"{struct}.{field} offset"] = f"__builtin_offsetof(struct {struct}, {field})"
            wanted[f"{struct}.{field} size"] = f"sizeof({at})"
            if issubclass(kind, ctypes._SimpleCData):
                wanted[f"{struct}.{field} signed"] = f"(__typeof__({at}))-1 < 0"
    prints = "".join(f'\tprintf("{name}\\t%lld\\n", (long long)({c}));\n' for name, c in wanted.items())
    directory: Path = tmp_path_factory.mktemp("abi")
    program = directory / "abi.c"
    program.write_text(
        f'#include <stdio.h>\n#include "{HEADER}"\nint main(void)\n{{\n{prints}\treturn 0;\n}}\n'
    )
    command = ["cc", "-std=gnu11", "-Wall", "-o", str(directory / "abi"), str(program)]
    subprocess.run(command, check=True)
    said = subprocess.run([directory / "abi"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split("\t") for line in said.splitlines())}


def test_the_header_compiles_alone_and_has_no_hidden_gap() -> None:
    """Any C compiler takes the header by itself, and finds nothing to pad."""
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Wpadded", "-Werror", "-fsyntax-only", "-xc"]

    done = subprocess.run([*command, "-include", HEADER, "/dev/null"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("struct", STRUCTS)
def test_every_field_is_where_the_mirror_has_it(struct: str, compiled: dict[str, int]) -> None:
    """Size of the struct, and offset, size and sign of each field, are those of the C compiler."""
    mirror = STRUCTS[struct]
    got = {
        field: Place(
            compiled[f"{struct}.{field} offset"],
            compiled[f"{struct}.{field} size"],
            bool(compiled.get(f"{struct}.{field} signed")),
        )
        for field, *_kind in mirror._fields_
    }

    assert got == _fields(mirror)
    assert compiled[struct] == ctypes.sizeof(mirror)


def test_every_struct_and_field_of_the_header_is_mirrored() -> None:
    """The mirror lacks no struct and no field, and has them in the header's order."""
    assert set(_bodies("struct")) == set(STRUCTS)
    for struct, mirror in STRUCTS.items():
        assert list(_declared(struct)) == list(_fields(mirror)), struct


@pytest.mark.parametrize("name", ENUMS)
def test_every_constant_has_the_mirrors_value(name: str, compiled: dict[str, int]) -> None:
    """Each member of the mirror is a constant of the header with the same value."""
    prefix, mirror = ENUMS[name]

    assert {m.name: compiled[prefix + m.name] for m in mirror} == {m.name: m.value for m in mirror}


def test_every_constant_of_the_header_is_mirrored() -> None:
    """The mirror lacks no enum and no constant but the sizes of arrays, in the header's order."""
    bodies = _bodies("enum")
    assert set(bodies) == set(ENUMS)
    for name, (prefix, mirror) in ENUMS.items():
        constants = re.findall(r"^\t(\w+) =", bodies[name], re.MULTILINE)
        assert [c for c in constants if c not in SIZES] == [prefix + m.name for m in mirror], name


def test_sizes_of_arrays_and_the_number_of_the_abi(compiled: dict[str, int]) -> None:
    """The arrays that both sides index have one size, with room for every constant; the ABI has a number."""
    assert {name: compiled[name] for name in SIZES} == SIZES
    assert max(Reason) < wire.REASONS
    assert max(wire.Loss) < wire.LOSSES
    assert compiled["WGT_ABI"] == wire.ABI


@pytest.mark.parametrize("struct", STRUCTS)
def test_structs_keep_the_rules_of_the_abi(struct: str) -> None:
    """Only sized types, every gap named, a multiple of 8 bytes: bpf/README.md's rules."""
    allowed = {"__u8", "__u16", "__u32", "__u64", "__s32", "__s64", *(f"struct {name}" for name in STRUCTS)}
    places = list(_fields(STRUCTS[struct]).values())
    ends = [0, *(place.offset + place.size for place in places)]

    assert set(_declared(struct).values()) <= allowed
    assert [place.offset for place in places] == ends[:-1]
    assert ends[-1] == ctypes.sizeof(STRUCTS[struct])
    assert ends[-1] % 8 == 0


@pytest.mark.parametrize("struct", ["wgt_drop_event", "wgt_handshake_event", "wgt_config_event"])
def test_records_begin_with_the_header(struct: str) -> None:
    """The kind and length of a record are found before its kind is known."""
    assert STRUCTS[struct]._fields_[0][:2] == ("hdr", wire.EventHeader)


def test_the_quick_way_reads_what_ctypes_reads() -> None:
    """A record unpacked by struct has the fields that ctypes finds in the same bytes."""
    for name, structure in STRUCTS.items():
        raw = bytes(number % 251 for number in range(ctypes.sizeof(structure)))
        quick, slow = wire.unpacker(structure)(raw), structure.from_buffer_copy(raw)
        for field, _kind in ((each[0], each[1]) for each in structure._fields_):
            value = getattr(slow, field)
            expected = value if isinstance(value, int) else bytes(value)
            assert getattr(quick, field) == expected, f"{name}.{field}"
