# SPDX-License-Identifier: GPL-2.0-only
"""All of bpf/ compiles against the types of each kernel, and passes the running kernel's verifier."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from programs import Kernel, compiled, functions, functions_of, is_raw_tracepoint, variants, whole_text

from wgtrace.events.wire import DropEventWire
from wgtrace.loader import source
from wgtrace.loader.plan import clock_of_time
from wgtrace.loader.tracer import _SITES
from wgtrace.probes.catalogue import CATALOGUE, PACKETS, WIREGUARD
from wgtrace.probes.invariants import INVARIANT_PROBES
from wgtrace.probes.story import HANDSHAKES, STORY, TOP
from wgtrace.probes.types import Probe

pytestmark = pytest.mark.bpf

_WITH_PACKET = ("handle_kfree_skb", "handle_consume_skb")  # their records may hold bytes of a packet


CATALOGUES = {
    "invariants": (*PACKETS, *INVARIANT_PROBES),
    "drops": CATALOGUE,
    "handshakes": HANDSHAKES,
    "top": TOP,
}
catalogues = pytest.mark.parametrize("catalogue", CATALOGUES.values(), ids=CATALOGUES)


@pytest.mark.usefixtures("bcc")
@catalogues
def test_every_program_compiles_and_passes_the_verifier(kernel: Kernel, catalogue: Sequence[Probe]) -> None:
    """Each row's kprobe or raw tracepoint, compiled for a kernel, is taken by the one that runs here."""
    from bcc import BPF

    programs = variants(kernel, only_kprobes=True, catalogue=catalogue)
    definitions = kernel.wireguard.c_definitions(source.KERNEL_TYPES) + clock_of_time(kernel.vmlinux)

    with compiled(whole_text(programs), definitions) as bpf:
        assert functions(bpf) == {
            name for program, _text in programs for name in functions_of(program, kernel)
        }
        refused = {}
        for program, _text in programs:
            kind = BPF.RAW_TRACEPOINT if is_raw_tracepoint(program, kernel) else BPF.KPROBE
            for name in functions_of(program, kernel):
                try:
                    bpf.load_func(name.encode(), kind)
                except Exception as exc:  # noqa: BLE001 - BCC raises bare Exception
                    refused[name] = str(exc)
        assert refused == {}


@pytest.mark.usefixtures("bcc")
@pytest.mark.parametrize("snaplen", [None, 9216])
def test_a_record_has_room_for_what_was_asked(kernel: Kernel, snaplen: int | None) -> None:
    """Without -w no program takes bytes of a packet; with the largest --snaplen the verifier takes all."""
    from bcc import BPF

    programs = [v for v in variants(kernel, only_kprobes=True) if v[0].probe.handler in _WITH_PACKET]
    definitions = kernel.wireguard.c_definitions(source.KERNEL_TYPES)

    with compiled(whole_text(programs), definitions, snaplen) as bpf:
        for program, _text in programs:
            kind = BPF.RAW_TRACEPOINT if is_raw_tracepoint(program, kernel) else BPF.KPROBE
            bpf.load_func(program.name.encode(), kind)
            code = bpf.dump_func(program.name.encode())
            words = [code[at : at + 8] for at in range(0, len(code), 8)]
            sizes = {int.from_bytes(w[4:], "little") for w in words if w[:2] == b"\xb7\x02"}  # r2 = size
            assert ctypes.sizeof(DropEventWire) + (snaplen or 0) in sizes


@pytest.mark.usefixtures("bcc")
@catalogues
def test_every_program_compiles_as_fentry(kernel: Kernel, catalogue: Sequence[Probe]) -> None:
    """Where BCC has fentry for modules, it is what is compiled, of each row that has both, and only that."""
    programs = variants(kernel, only_kprobes=False, catalogue=catalogue)
    definitions = kernel.wireguard.c_definitions(source.KERNEL_TYPES) + clock_of_time(kernel.vmlinux)
    both = {p.probe.name for p, _text in programs if p.fentry}
    has_macro = "#ifdef MODULE_KFUNC_PROBE\nint has_module_kfunc(void *ctx)\n{\n\treturn 0;\n}\n#endif\n"

    with compiled(whole_text(programs) + has_macro, definitions) as bpf:
        found = functions(bpf)

    has_fentry = "has_module_kfunc" in found
    compiled_for = [p for p, _text in programs if p.probe.name not in both or p.fentry is has_fentry]
    wanted = {name for program in compiled_for for name in functions_of(program, kernel)}
    assert both
    assert found - {"has_module_kfunc"} == wanted


@pytest.mark.usefixtures("bcc")
def test_fentry_compiles_whatever_bcc_this_is(kernel: Kernel) -> None:
    """The fentry and fexit texts are C for every BCC, also for one that would not attach them."""
    programs = variants(kernel, only_kprobes=False)
    definitions = kernel.wireguard.c_definitions(source.KERNEL_TYPES) + clock_of_time(kernel.vmlinux)
    texts = [
        source.program_text(program, kernel.wireguard.parameter_count(program.target) or 0)
        for program, _text in programs
        if program.fentry
    ]

    with compiled(source.joined(texts), definitions) as bpf:
        assert functions(bpf) == {program.name for program, _text in programs if program.fentry}


@pytest.mark.usefixtures("bcc")
def test_an_error_names_the_file_and_the_line(
    kernel: Kernel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A mistake in a file of bpf/ is reported by clang with that file's name."""
    for name in source.FILES:
        (tmp_path / name).write_text((source.bpf_directory() / name).read_text())
    with (tmp_path / "drop.bpf.c").open("a") as file:
        file.write("\nint broken(void) { return no_such_thing; }\n")

    with (
        pytest.raises(Exception, match="compile"),
        compiled(source.joined([], directory=tmp_path), kernel.wireguard.c_definitions(source.KERNEL_TYPES)),
    ):
        pass

    line = (tmp_path / "drop.bpf.c").read_text().count("\n")
    assert f"bpf/drop.bpf.c:{line}:" in capfd.readouterr().err


def test_every_function_is_in_the_module(kernel: Kernel) -> None:
    """WireGuard's functions that a row attaches to, or that free packets, are symbols of each kernel."""
    nm = subprocess.run(["nm", str(kernel.module)], capture_output=True, text=True, check=True).stdout
    text = {line.split()[-1] for line in nm.splitlines() if line.split()[-2] in "tT"}

    rows = [probe for probe in (*CATALOGUE, *PACKETS, *STORY) if probe.module == WIREGUARD]
    assert [probe.name for probe in rows if text.isdisjoint(probe.targets)] == []
    assert [function for function in _SITES if function not in text] == []


def test_every_tracepoint_is_in_the_kernel(kernel: Kernel) -> None:
    """The tracepoints that a row attaches to hand over what it asks for, or it has another way."""
    parameters = {
        target: kernel.vmlinux.tracepoint_parameters(target) for target in ("kfree_skb", "consume_skb")
    }

    assert (parameters["kfree_skb"] or ())[:3] == ("skb", "location", "reason")
    assert parameters["consume_skb"] in (("skb",), ("skb", "location"))


def test_where_an_skb_says_of_which_clock_its_time_is(kernel: Kernel) -> None:
    """One bit, or two since there are more clocks than two; without any, nothing could be looked at."""
    bits = {"6.1": 1}.get(kernel.release, 2)
    place = kernel.vmlinux.bits_of("sk_buff", "mono_delivery_time" if bits == 1 else "tstamp_type")

    assert place is not None
    assert place[1] == bits
    assert clock_of_time(kernel.vmlinux).split()[2::3] == [str(place[0]), str(bits)]
