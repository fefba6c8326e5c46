# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that lacks a function: the probe is said to be missing, and the rest works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from scenes import send

from wgtrace.events.decode import Decoder, total
from wgtrace.events.reasons import Reason
from wgtrace.events.types import DropEvent, DropTotal
from wgtrace.lab.topology import two_hosts
from wgtrace.loader import programs
from wgtrace.loader.build import Build, running_kernel
from wgtrace.loader.bytecode import with_maps
from wgtrace.loader.maps import Map
from wgtrace.loader.programs import RefusedError
from wgtrace.loader.tracer import Settings, Tracer
from wgtrace.probes.catalogue import CATALOGUE, WIREGUARD
from wgtrace.probes.types import Mechanism


@pytest.mark.userland
def test_a_probe_that_cannot_be_attached(ifname: str) -> None:
    """Two functions that no kernel has: said, with what is not visible; 23 of 23 are seen otherwise."""
    # The same as in test_selftest.py, where they are in the cache then.
    catalogue = tuple(
        replace(p, targets=("wg_no_such_function",)) if "purge" in p.name else p
        for p in CATALOGUE
        if p.point.value == "tracepoint" or "purge" in p.name
    )
    tracer = Tracer(Settings(None), catalogue)
    try:
        with two_hosts(ifname=ifname) as net:
            send(net.a, net.b, [b"\x09\x00\x00\x00" + bytes(60)] * 23)
            decoder = Decoder(tracer.describe, tracer.kernel_reasons)
            records: list[bytes] = []
            for _ in range(50):
                records += tracer.records(0.2)
                if len(records) >= 23:
                    break
            events = [decoder.event(record) for record in records]
            totals = [total(key, count) for key, count in tracer.totals()]
    finally:
        tracer.close()

    missing = {p.name: p.because for p in tracer.probes if p.mechanism is None}
    assert set(missing) == {"wg-packet-purge-staged-packets", "wg-packet-purge-staged-packets-return"}
    assert all("no function wg_no_such_function" in because for because in missing.values())
    drops = [e for e in events if isinstance(e, DropEvent) and e.device.ifname == ifname]
    assert [e.reason for e in drops] == [Reason.BAD_HEADER] * 23
    counts = [t.count for t in totals if isinstance(t, DropTotal) and t.ifname == ifname]
    assert counts == [23]


@pytest.fixture
def full() -> Iterator[bool]:
    """A function takes no more fentry programs (BPF_MAX_TRAMP_LINKS); False: it never took one here."""
    plan = running_kernel(ROWS)
    bytecode = Build(plan).bytecode()
    program, _text = plan.variants[ROWS[1].name][0]
    if program.name not in bytecode.programs:
        yield False
        return
    fds = [Map(shape).fd for shape in bytecode.maps]
    code = with_maps(bytecode.programs[program.name], fds)
    fds.append(programs.module_btf(WIREGUARD))
    function = (plan.wireguard.function_id(program.target) or 0, fds[-1])
    try:
        for _ in range(64):
            fds.append(programs.load(program.name, code, Mechanism.FENTRY, *function))
            fds.append(programs.attach(fds[-1], Mechanism.FENTRY, program.target))
        raise AssertionError("the function takes any number of programs")
    except RefusedError:
        yield True
    finally:
        for fd in fds:
            os.close(fd)


ROWS = tuple(p for p in CATALOGUE if p.name in ("kfree-skb", "wg-noise-handshake-consume-initiation"))


@pytest.mark.userland
def test_a_fentry_that_is_refused(full: bool) -> None:
    """The kernel takes no fentry on a function: a kprobe stands in, and why is said."""
    tracer = Tracer(Settings(None), ROWS)
    tracer.close()

    tracepoint, probe = tracer.probes
    assert (tracepoint.mechanism, probe.mechanism) == (Mechanism.RAW_TRACEPOINT, Mechanism.KPROBE)
    if full:
        assert probe.because == "fentry was refused: Argument list too long"
    else:
        assert probe.because == "this BCC has no fentry for functions of modules"
