# SPDX-License-Identifier: GPL-2.0-only
"""How each row of the catalogue can be attached on a kernel, told by its BTF and its symbols."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wgtrace.loader import source
from wgtrace.loader.compiler import Source
from wgtrace.loader.source import Program
from wgtrace.probes.btf import Btf
from wgtrace.probes.catalogue import CATALOGUE, WIREGUARD
from wgtrace.probes.invariants import INVARIANTS_FILE
from wgtrace.probes.kernel import Symbol
from wgtrace.probes.types import Mechanism, Point, Probe

RING_PAGES = 512  # 2 MiB: 6,000 drops between two polls
MOST_DEVICES = 256
HEADERS_LEN = 128  # an IP and a TCP header with all their options, 60 bytes each

CFLAGS = (
    f"-DWGT_RING_PAGES={RING_PAGES}",
    # BCC optimises by itself, and nobody debugs the programs by line: together
    # these save a third of the time to compile.
    "-Xclang",
    "-disable-llvm-passes",
    "-g0",
    "-Wno-ignored-attributes",
    "-Wno-duplicate-decl-specifier",
)


def capture_flags(snaplen: int | None) -> tuple[str, str]:
    """Compiler flags for what a record holds of its packet: without -w no byte, and no code."""
    room = 0 if snaplen is None else snaplen or HEADERS_LEN
    return f"-DWGT_CAPTURE_LEN={room}", f"-DWGT_HEADERS_ONLY={int(not snaplen)}"


def clock_of_time(vmlinux: Btf) -> str:
    """C for where an skb says of which clock its time is: the bits, 0: it does not say."""
    # Since Linux kernel commit 4d25ca2d6801 ("net: Rename mono_delivery_time to tstamp_type for
    # scalabilty") (in v6.11) it is an enum. Before that, one bit, which says that it is monotonic.
    places = (vmlinux.bits_of("sk_buff", name) for name in ("tstamp_type", "mono_delivery_time"))
    at, bits = next((place for place in places if place), (0, 0))
    return f"#define WGT_TSTAMP_TYPE_BIT {at}\n#define WGT_TSTAMP_TYPE_BITS {bits}\n"


@dataclass(frozen=True)
class Plan:
    """The programs to compile for a kernel, and why these.

    Attributes:
        vmlinux: The kernel's types.
        wireguard: The module's, on top of them.
        symbols: The module's; empty if they are not known.
        snaplen: As in `Settings`, and devices too.
        refused: Why, by the name of each row whose fentry the kernel refused: it
            gets a second chance as a kprobe.
    """

    vmlinux: Btf
    wireguard: Btf
    symbols: Sequence[Symbol] = ()
    catalogue: Sequence[Probe] = CATALOGUE
    snaplen: int | None = None
    devices: int = MOST_DEVICES
    refused: Mapping[str, str] = field(default_factory=dict)

    def source(self) -> Source:
        """What the compiler is to make the programs of."""
        texts = [text for variants in self.variants.values() for _program, text in variants]
        flags = (*CFLAGS, f"-DWGT_MAX_DEVICES={self.devices}", *capture_flags(self.snaplen))
        concerns = {probe.file for probe in self.catalogue}
        types = self.wireguard.c_definitions(source.KERNEL_TYPES)
        if INVARIANTS_FILE in concerns:
            types += clock_of_time(self.vmlinux)
        return Source(source.joined(texts, concerns), flags, types)

    @functools.cached_property
    def variants(self) -> dict[str, list[tuple[Program, str]]]:
        """By the name of each row: programs that might be taken, the best first, and their text."""
        return {probe.name: self._variants(probe) for probe in self.catalogue}

    def _variants(self, probe: Probe) -> list[tuple[Program, str]]:
        target = self._target(probe)
        if probe.point is Point.TRACEPOINT:
            program = source.kprobe_program(probe, target)
            if self._is_tracepoint(probe):
                return [(program, source.program_text(program))]
            return [(program, source.consume_skb_kprobe_text(program))]
        kprobe = source.kprobe_program(probe, target)
        kprobe_text = source.program_text(kprobe)
        count = self.wireguard.parameter_count(target)
        # A BPF trampoline on x86-64 passes at most six arguments before Linux kernel
        # commit 473e3150e30a ("bpf, x86: allow function arguments up to 12 for
        # TRACING") (in v6.6); what has more is no hot path, so a kprobe does.
        fits = count is not None and count <= 6 and probe.module == WIREGUARD
        if not fits or probe.name in self.refused or not self._has_trampolines:
            return [(kprobe, kprobe_text)]
        fentry = source.fentry_program(probe, target)
        # BCC before 0.28 has no fentry for functions of modules, and no such macro.
        guarded = f"#ifdef MODULE_KFUNC_PROBE\n{source.program_text(fentry, count or 0)}"
        return [(fentry, guarded), (kprobe, f"#else\n{kprobe_text}#endif\n")]

    def mechanism(self, program: Program) -> Mechanism:
        """How a program is attached."""
        is_return = program.probe.point is Point.RETURN
        if program.probe.point is Point.TRACEPOINT and self._is_tracepoint(program.probe):
            return Mechanism.RAW_TRACEPOINT
        if program.fentry:
            return Mechanism.FEXIT if is_return else Mechanism.FENTRY
        return Mechanism.KRETPROBE if is_return else Mechanism.KPROBE

    def because(self, program: Program) -> str:
        """Why it is attached so, and not better."""
        probe = program.probe
        if probe.point is Point.TRACEPOINT:
            is_whole = self._is_tracepoint(probe)
            return "the kernel's own tracepoint" if is_whole else "skb:consume_skb tells no location here"
        if program.fentry:
            return "the module's BTF describes it"
        if probe.name in self.refused:
            return f"fentry was refused: {self.refused[probe.name]}"
        if probe.module == WIREGUARD and self.wireguard.has_function(program.target):
            return "this BCC has no fentry for functions of modules"
        return "no BTF prototype that fits a trampoline"

    def has_function(self, program: Program) -> bool:
        """Whether there is code to attach it to, as far as the symbols tell."""
        if program.fentry or program.probe.module != WIREGUARD or not self.symbols:
            return True
        return any(s.name == program.target and s.is_text for s in self.symbols)

    def _target(self, probe: Probe) -> str:
        """The first of a probe's targets that this kernel has, else the first."""
        names = {s.name for s in self.symbols}
        there = (t for t in probe.targets if t in names or self.wireguard.has_function(t))
        return next(there, probe.targets[0])

    def _is_tracepoint(self, probe: Probe) -> bool:
        """Whether the tracepoint hands over all that the probe asks for."""
        parameters = self.vmlinux.tracepoint_parameters(probe.targets[0])
        return parameters is None or len(parameters) >= len(probe.values)

    @functools.cached_property
    def _has_trampolines(self) -> bool:
        """Whether fentry can work: what BCC's support_kfunc() asks, without its walk through kallsyms."""
        return platform.machine() == "x86_64" and self.vmlinux.has_function("bpf_trampoline_link_prog")
