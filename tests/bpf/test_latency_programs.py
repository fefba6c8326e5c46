# SPDX-License-Identifier: GPL-2.0-only
"""The programs of `wgtrace latency`, which have a text of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from programs import Kernel

from wgtrace.loader.build import Build
from wgtrace.loader.bytecode import with_maps
from wgtrace.loader.maps import Map
from wgtrace.loader.plan import Plan
from wgtrace.loader.programs import load
from wgtrace.probes.catalogue import CATALOGUE
from wgtrace.probes.latency import LATENCY
from wgtrace.probes.types import Mechanism

pytestmark = pytest.mark.bpf


def plan(kernel: Kernel, only_kprobes: bool) -> Plan:
    """How the rows are attached to that kernel."""
    refused = {probe.name: "no fentry" for probe in LATENCY} if only_kprobes else {}
    return Plan(kernel.vmlinux, kernel.wireguard, catalogue=LATENCY, refused=refused)


@pytest.mark.usefixtures("bcc")
def test_the_running_kernel_takes_every_program(kernel: Kernel, tmp_path: Path) -> None:
    """Compiled for each kernel as kprobes, each passes the verifier of the one that runs here."""
    made = plan(kernel, only_kprobes=True)
    bytecode = Build(made, tmp_path).bytecode()
    assert len(bytecode.programs) == len(LATENCY)
    maps = [Map(shape) for shape in bytecode.maps]
    fds = [each.fd for each in maps]
    try:
        for ((program, _text),) in made.variants.values():
            code = with_maps(bytecode.programs[program.name], fds)
            fds.append(load(program.name, code, made.mechanism(program)))
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.usefixtures("bcc")
def test_no_program_of_drops_is_compiled_along(kernel: Kernel, tmp_path: Path) -> None:
    """Its maps are not made either; and `drops` has none of latency's."""
    latency = Build(plan(kernel, only_kprobes=True), tmp_path).bytecode()
    drops = Build(Plan(kernel.vmlinux, kernel.wireguard), tmp_path).bytecode()
    names, others = ({shape.name for shape in each.maps} for each in (latency, drops))

    assert {"packets", "latencies"} <= names - others
    assert {"taken", "receiving"} <= others - names


@pytest.mark.usefixtures("bcc")
def test_every_row_has_fentry_and_its_text_compiles(kernel: Kernel, tmp_path: Path) -> None:
    """All are functions of the module that its BTF describes; a kprobe stands in where BCC has no fentry."""
    made = plan(kernel, only_kprobes=False)
    first = [variants[0][0] for variants in made.variants.values()]
    bytecode = Build(made, tmp_path).bytecode()

    assert {made.mechanism(program) for program in first} == {Mechanism.FENTRY, Mechanism.FEXIT}
    assert len(bytecode.programs) == len(LATENCY)


def test_every_function_is_in_the_module(kernel: Kernel) -> None:
    """None is inlined or renamed on any of the kernels: each stage can be seen."""
    nm = subprocess.run(["nm", str(kernel.module)], capture_output=True, text=True, check=True).stdout
    text = {line.split()[-1] for line in nm.splitlines() if line.split()[-2] in "tT"}

    assert [probe.name for probe in LATENCY if text.isdisjoint(probe.targets)] == []


def test_what_knows_packets_first_is_attached_last() -> None:
    """So that whatever is known passes all the other probes; and no file is that of `drops`."""
    assert LATENCY[-1].handler == "handle_enqueue"
    assert {probe.file for probe in LATENCY}.isdisjoint(probe.file for probe in CATALOGUE)
