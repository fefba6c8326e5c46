# SPDX-License-Identifier: GPL-2.0-only
"""What the loader would make of the catalogue on another kernel, compiled here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wgtrace.loader import bcc_loader, kernel_tree, source
from wgtrace.loader.bcc_loader import RING_PAGES, Tracer
from wgtrace.loader.source import Program
from wgtrace.probes.btf import Btf
from wgtrace.probes.catalogue import CATALOGUE
from wgtrace.probes.types import Point


@dataclass(frozen=True)
class Kernel:
    """One of Debian's kernels, as far as it is known without booting it.

    Attributes:
        release: "6.1", "6.12" or "latest".
        vmlinux: The kernel's types.
        wireguard: The module's, on top of them.
        module: The file wireguard.ko.
    """

    release: str
    vmlinux: Btf
    wireguard: Btf
    module: Path


CFLAGS = [
    f"-DWGT_RING_PAGES={RING_PAGES}",
    "-DWGT_DEVICE_LIST=0xffffffffc0408000ULL",
    "-Wno-ignored-attributes",
    "-Wno-duplicate-decl-specifier",
]


def variants(kernel: Kernel, only_kprobes: bool) -> list[tuple[Program, str]]:
    """Each row's programs as `Tracer` chooses them on a kernel.

    Args:
        only_kprobes: As where every fentry was refused; else as where the kernel has it.
    """
    tracer = Tracer.__new__(Tracer)  # it would attach at once
    tracer._vmlinux, tracer._btf, tracer._symbols = kernel.vmlinux, kernel.wireguard, ()
    tracer._refused = {probe.name: "no fentry" for probe in CATALOGUE} if only_kprobes else {}
    return [variant for probe in CATALOGUE for variant in tracer._programs(probe)]


def functions_of(program: Program, kernel: Kernel) -> set[str]:
    """The C functions of a program: a tracepoint has two."""
    return {program.name, program.second.name} if is_raw_tracepoint(program, kernel) else {program.name}


def is_raw_tracepoint(program: Program, kernel: Kernel) -> bool:
    """Whether a program is one, and not the kprobe that stands in for it."""
    parameters = kernel.vmlinux.tracepoint_parameters(program.target)
    return program.probe.point is Point.TRACEPOINT and len(parameters or ()) >= len(program.probe.args)


@contextmanager
def compiled(text: str, definitions: str, snaplen: int | None = 0) -> Iterator[Any]:
    """BCC's object for a text, compiled against these types; nothing is attached.

    Args:
        snaplen: As in the loader's `Settings`.
    """
    flags = [*CFLAGS, *bcc_loader.capture_flags(snaplen)]
    with kernel_tree.installed(definitions):
        bpf = bcc_loader._import_bcc()(text=text.encode(), cflags=flags)
    try:
        yield bpf
    finally:
        bpf.cleanup()


def functions(bpf: Any) -> set[str]:
    """Names of the programs in a compiled text."""
    from bcc import lib

    count = lib.bpf_num_functions(bpf.module)
    return {lib.bpf_function_name(bpf.module, number).decode() for number in range(count)}


def whole_text(programs: list[tuple[Program, str]]) -> str:
    """All of bpf/ with these programs."""
    return source.joined(text for _program, text in programs)
