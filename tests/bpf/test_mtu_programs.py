# SPDX-License-Identifier: GPL-2.0-only
"""The programs of `wgtrace mtu`, which have a text of their own."""

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
from wgtrace.probes.catalogue import CATALOGUE, WIREGUARD
from wgtrace.probes.mtu import MTU

pytestmark = pytest.mark.bpf


@pytest.mark.usefixtures("bcc")
def test_the_running_kernel_takes_every_program(kernel: Kernel, tmp_path: Path) -> None:
    """Compiled for each kernel as kprobes, each passes the verifier of the one that runs here."""
    refused = {probe.name: "no fentry" for probe in MTU}
    made = Plan(kernel.vmlinux, kernel.wireguard, catalogue=MTU, refused=refused)
    bytecode = Build(made, tmp_path).bytecode()
    assert len(bytecode.programs) == len(MTU) + 1  # the tracepoint has two
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
    """Its maps are not made either; and `drops` has none of these."""
    own = Build(Plan(kernel.vmlinux, kernel.wireguard, catalogue=MTU), tmp_path).bytecode()
    drops = Build(Plan(kernel.vmlinux, kernel.wireguard), tmp_path).bytecode()
    names, others = ({shape.name for shape in each.maps} for each in (own, drops))

    assert {"sizes", "endpoints", "too_bigs"} <= names - others
    assert {"verdicts", "receiving"} <= others - names


def test_the_functions_of_wireguard_are_in_the_module(kernel: Kernel) -> None:
    """None is inlined or renamed on any of the kernels."""
    nm = subprocess.run(["nm", str(kernel.module)], capture_output=True, text=True, check=True).stdout
    text = {line.split()[-1] for line in nm.splitlines() if line.split()[-2] in "tT"}

    assert [p.name for p in MTU if p.module == WIREGUARD and text.isdisjoint(p.targets)] == []


def test_the_learned_mtu_is_behind_the_gateway(kernel: Kernel) -> None:
    """`rt_pmtu` is a bit field, which has no address: the program counts from what is before it."""
    gateway = kernel.vmlinux.offset_of("rtable", "rt_gw6")
    definitions = kernel.vmlinux.c_definitions(("rtable",))
    body = definitions.split("struct rtable {")[1].split("};\n\n")[0]

    assert gateway is not None
    assert [line.strip() for line in body.splitlines() if "rt_mtu_locked" in line or "rt_pmtu" in line] == [
        "u32 rt_mtu_locked: 1;",
        "u32 rt_pmtu: 31;",
    ]
    assert body.index("rt_gw6") < body.index("rt_mtu_locked")


def test_its_rows_are_its_own() -> None:
    """No name is used twice."""
    names = [probe.name for probe in (*MTU, *CATALOGUE)]
    assert len({probe.name for probe in MTU}) == len(MTU)
    assert {"size-kfree-skb"} <= set(names)
