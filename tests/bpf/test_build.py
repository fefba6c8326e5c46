# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.loader.build: BCC compiles once, in a process of its own, and what it gave is kept."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from programs import Kernel, functions_of

from wgtrace.errors import CompileError
from wgtrace.loader import compiler, kernel_tree, plan, source
from wgtrace.loader.build import Build
from wgtrace.loader.bytecode import Bytecode, with_maps
from wgtrace.loader.compiler import Compilation, Source
from wgtrace.loader.maps import Map
from wgtrace.loader.plan import Plan
from wgtrace.loader.programs import load
from wgtrace.probes.catalogue import CATALOGUE

pytestmark = [pytest.mark.bpf, pytest.mark.usefixtures("bcc")]

DEFINITIONS = "struct pt_regs { unsigned long ax; };\n"
TEXT = """\
#include <uapi/linux/ptrace.h>
BPF_TABLE("percpu_hash", u32, u64, counts, 23);
int on_it(struct pt_regs *ctx)
{
	u32 key = 1;
	u64 *count = counts.lookup(&key);

	return count != NULL;
}
"""


def a_plan(kernel: Kernel) -> Plan:
    """The catalogue on that kernel, as kprobes."""
    refused = {probe.name: "no fentry" for probe in CATALOGUE}
    return Plan(kernel.vmlinux, kernel.wireguard, refused=refused)


def compiled(text: str, definitions: str = DEFINITIONS) -> Bytecode:
    """What BCC makes of a text."""
    flags = (*plan.CFLAGS, *plan.capture_flags(None))
    return Compilation(Source(text, flags, definitions)).bytecode()


def test_the_second_build_takes_what_the_first_compiled(kernel: Kernel, tmp_path: Path) -> None:
    """Compiled once, the same then, and no compiler is started for it."""
    first = Build(a_plan(kernel), tmp_path)
    bytecode = first.bytecode()
    assert first.origin.startswith("compiled: ")
    (kept,) = tmp_path.iterdir()

    second = Build(a_plan(kernel), tmp_path)
    assert second._compilation is None
    assert second.bytecode() == bytecode
    assert second.origin == f"compiled before: {kept}"
    programs = [p for variants in first.plan.variants.values() for p, _text in variants]
    assert set(bytecode.programs) == {name for p in programs for name in functions_of(p, kernel)}


def test_what_is_damaged_is_compiled_anew(kernel: Kernel, tmp_path: Path) -> None:
    """And is in the cache again then."""
    bytecode = Build(a_plan(kernel), tmp_path).bytecode()
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])

    second = Build(a_plan(kernel), tmp_path)
    assert second.bytecode() == bytecode
    assert second.origin == f"compiled: {kept}: it is damaged"
    assert Build(a_plan(kernel), tmp_path).origin == f"compiled before: {kept}"


def test_without_a_place_to_keep_it(tmp_path: Path) -> None:
    """A cache that cannot be written to costs the next start a compile, and nothing else."""
    (tmp_path / "file").write_text("")
    build = Build.__new__(Build)
    build._directory, build._key, build.origin = tmp_path / "file" / "programs", "key", "compiled"
    build._compilation, build._bytecode = Compilation(Source(TEXT, (), DEFINITIONS)), None

    assert set(build.bytecode().programs) == {"on_it"}
    assert "not kept for the next start" in build.origin


def test_every_input_of_the_compiler_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, flags, types, BCC and the files that stand for headers: any of them makes another key."""
    first = Source(TEXT, plan.CFLAGS, DEFINITIONS)
    keys = {
        first.key(),
        replace(first, text=TEXT + " ").key(),
        replace(first, cflags=(*plan.CFLAGS, "-DX")).key(),
        replace(first, definitions=DEFINITIONS.replace("ax", "bx")).key(),
    }
    monkeypatch.setitem(kernel_tree.FILES, "linux/log2.h", "#define X 1\n")
    keys.add(first.key())
    monkeypatch.setattr(compiler, "bcc_version", lambda: "0.99")
    keys.add(first.key())

    assert len(keys) == 6
    assert first.key() == Source(TEXT, plan.CFLAGS, DEFINITIONS).key()


def test_a_map_is_as_bcc_made_it() -> None:
    """Kind, sizes and entries come from the kernel, and the program names the map by its place."""
    bytecode = compiled(TEXT)

    (shape,) = bytecode.maps
    assert (shape.name, shape.kind, shape.key_size, shape.value_size, shape.max_entries) == (
        "counts",
        5,  # BPF_MAP_TYPE_PERCPU_HASH
        4,
        8,
        23,
    )
    assert with_maps(bytecode.programs["on_it"], [0]) == bytecode.programs["on_it"]
    with pytest.raises(LookupError):
        with_maps(bytecode.programs["on_it"], [])


def test_the_running_kernel_takes_it(kernel: Kernel, tmp_path: Path) -> None:
    """Maps and programs, out of the cache, pass the verifier of the kernel that runs here."""
    made = a_plan(kernel)
    Build(made, tmp_path).bytecode()
    bytecode = Build(made, tmp_path).bytecode()
    maps = [Map(shape) for shape in bytecode.maps]
    fds = [each.fd for each in maps]
    try:
        for variants in made.variants.values():
            ((program, _text),) = variants
            for name in functions_of(program, kernel):
                code = with_maps(bytecode.programs[name], fds)
                fds.append(load(name, code, made.mechanism(program)))
    finally:
        for fd in fds:
            os.close(fd)


def test_a_map_that_counts_for_each_cpu() -> None:
    """What is written is read, once for each CPU; a key that is not there has no values."""
    (shape,) = compiled(TEXT).maps
    counts = Map(shape)
    try:
        assert (list(counts.keys()), counts.values(bytes(4))) == ([], [])
        cpus = os.cpu_count() or 1
        possible = Path("/sys/devices/system/cpu/possible").read_text().strip()
        values = counts.values(bytes(4))
        counts.update(b"\x07\0\0\0", bytes(8) * 4096)
        values = counts.values(b"\x07\0\0\0")
        assert len(values) >= cpus, possible
        assert set(values) == {bytes(8)}
        assert list(counts.keys()) == [b"\x07\0\0\0"]
    finally:
        os.close(counts.fd)


def test_an_error_is_clangs_first(kernel: Kernel) -> None:
    """What does not compile is said with the file and the line."""
    text = source.joined(["int broken(void) { return no_such_thing; }\n"], ("drop.bpf.c",))

    with pytest.raises(CompileError) as raised:
        compiled(text, kernel.wireguard.c_definitions(source.KERNEL_TYPES))

    assert "programs:2:" in raised.value.because
    assert "no_such_thing" in raised.value.because


def test_nothing_is_left_of_a_compilation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, neither where it succeeds nor where it fails, nor where nobody waits for it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    compiled(TEXT)
    with pytest.raises(CompileError):
        compiled("int broken(")
    abandoned = Compilation(Source(TEXT, (), DEFINITIONS))
    process: subprocess.Popen[bytes] = abandoned._process
    abandoned._abandoned()
    process.wait(timeout=60)

    assert list(tmp_path.iterdir()) == []


def test_this_process_does_not_load_bcc() -> None:
    """LLVM stays out of the process that runs for days."""
    code = (
        "import sys\n"
        "from wgtrace import cli, pipeline\n"
        "from wgtrace.loader import tracer\n"
        "from wgtrace.loader.compiler import Compilation, Source\n"
        f"assert Compilation(Source({TEXT!r}, (), {DEFINITIONS!r})).bytecode().maps\n"
        "assert 'bcc' not in sys.modules\n"
        "assert 'LLVM' not in open('/proc/self/maps').read()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
