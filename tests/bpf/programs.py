# SPDX-License-Identifier: GPL-2.0-only
"""What the loader would make of the catalogue on another kernel, compiled here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wgtrace.loader import compiler, kernel_tree, source
from wgtrace.loader.plan import CFLAGS, Plan, capture_flags
from wgtrace.loader.source import Program
from wgtrace.probes.btf import Btf
from wgtrace.probes.catalogue import CATALOGUE
from wgtrace.probes.types import Point, Probe


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


def variants(
    kernel: Kernel, only_kprobes: bool, catalogue: Sequence[Probe] = CATALOGUE
) -> list[tuple[Program, str]]:
    """Each row's programs as they are chosen on a kernel.

    Args:
        only_kprobes: As where every fentry was refused; else as where the kernel has it.
    """
    refused = {probe.name: "no fentry" for probe in catalogue} if only_kprobes else {}
    plan = Plan(kernel.vmlinux, kernel.wireguard, (), catalogue, refused=refused)
    return [variant for variants in plan.variants.values() for variant in variants]


def functions_of(program: Program, kernel: Kernel) -> set[str]:
    """The C functions of a program: a tracepoint has two."""
    return {program.name, program.second.name} if is_raw_tracepoint(program, kernel) else {program.name}


def is_raw_tracepoint(program: Program, kernel: Kernel) -> bool:
    """Whether a program is one, and not the kprobe that stands in for it."""
    parameters = kernel.vmlinux.tracepoint_parameters(program.target)
    return program.probe.point is Point.TRACEPOINT and len(parameters or ()) >= len(program.probe.values)


@contextmanager
def compiled(text: str, definitions: str, snaplen: int | None = 0) -> Iterator[Any]:
    """BCC's object for a text, compiled against these types; nothing is attached.

    Args:
        snaplen: As in the loader's `Settings`.
    """
    flags = [*CFLAGS, *capture_flags(snaplen)]
    with kernel_tree.installed(definitions):
        bpf = compiler.module_type()(text=text.encode(), cflags=flags)
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
    """These programs, and what of bpf/ they need."""
    concerns = {program.probe.file for program, _text in programs}
    return source.joined((text for _program, text in programs), concerns)
