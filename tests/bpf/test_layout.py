# SPDX-License-Identifier: GPL-2.0-only
"""The event ABI as clang lays it out for BPF, read back through the leaf of a map, against the mirror."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
from programs import Kernel, compiled

from wgtrace.events import wire
from wgtrace.loader import source

pytestmark = pytest.mark.bpf

STRUCTS: dict[str, type[ctypes.Structure]] = {
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
}


def layout(kind: Any, at: int = 0, name: str = "") -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every number in a ctypes type, however deep."""
    if hasattr(kind, "_fields_"):
        for field, inner, *_bits in kind._fields_:
            yield from layout(inner, at + getattr(kind, field).offset, f"{name}.{field}")
    elif hasattr(kind, "_length_"):
        for number in range(kind._length_):
            yield from layout(kind._type_, at + number * ctypes.sizeof(kind._type_), f"{name}[{number}]")
    else:
        yield name, at, ctypes.sizeof(kind)


@pytest.mark.usefixtures("bcc")
def test_clang_lays_every_struct_out_as_the_mirror(kernel: Kernel) -> None:
    """Every field of every struct of events.h is where the mirror has it, for the BPF target too."""
    maps = "".join(f"BPF_ARRAY({name}s, struct {name}, 1);\n" for name in STRUCTS)
    text = source.joined([]).split('#line 1 "bpf/common.bpf.h"')[0] + maps

    with compiled(text, kernel.wireguard.c_definitions(["pt_regs"])) as bpf:
        clangs = {name: bpf[f"{name}s".encode()].Leaf for name in STRUCTS}

    for name, mirror in STRUCTS.items():
        assert list(layout(clangs[name])) == list(layout(mirror)), name
        assert ctypes.sizeof(clangs[name]) == ctypes.sizeof(mirror), name


@pytest.mark.usefixtures("bcc")
def test_code_reads_the_field_that_it_names(kernel: Kernel) -> None:
    """The code that clang makes goes to a field's very offset, also behind padding of wg_device.

    Clang 14 once took `long: 64;` twice in code and once in offsetof(), so that no
    assert at compile time could see it.
    """
    fields = ("encrypt_queue", "sock4", "creating_net", "index_hashtable", "device_list", "incoming_port")
    programs = [
        f"u64 told_{f}(struct pt_regs *ctx) {{ return __builtin_offsetof(struct wg_device, {f}); }}\n"
        f"u64 used_{f}(struct pt_regs *ctx)\n{{\n"
        f"\tstruct wg_device *wg = (void *)PT_REGS_PARM1(ctx);\n\n\treturn (u64)&wg->{f};\n}}\n"
        for f in fields
    ]
    text = "#include <uapi/linux/ptrace.h>\n" + "".join(programs)
    with compiled(text, kernel.wireguard.c_definitions(source.KERNEL_TYPES)) as bpf:
        code = {f: (bpf.dump_func(f"told_{f}".encode()), bpf.dump_func(f"used_{f}".encode())) for f in fields}

    def immediates(instructions: bytes, opcode: int) -> list[int]:
        """The constants of all instructions of one kind (8 bytes each, the last 4 the constant)."""
        words = [instructions[at : at + 8] for at in range(0, len(instructions), 8)]
        return [int.from_bytes(word[4:], "little") for word in words if word[0] == opcode]

    told = {f: immediates(first, 0xB7)[0] for f, (first, _second) in code.items()}  # mov
    used = {f: immediates(second, 0x07)[0] for f, (_first, second) in code.items()}  # add
    assert used == told
