# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.loader.source: a program for each mechanism, and one text out of bpf/."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from wgtrace.loader import source
from wgtrace.loader.source import (
    FILES,
    Program,
    bpf_directory,
    consume_skb_kprobe_text,
    fentry_program,
    joined,
    kprobe_program,
    program_text,
)
from wgtrace.probes.catalogue import CATALOGUE
from wgtrace.probes.latency import LATENCY
from wgtrace.probes.types import CONTEXT, REMEMBER, Point, Probe


def row(point: Point, *args: str, module: str = "wireguard") -> Probe:
    """A row of the catalogue."""
    name = "kfree-skb" if "u32 reason" in args or CONTEXT in args else "consume-skb"
    return Probe(name, ("wg_xmit",), module, point, "drop.bpf.c", "handle_it", args, (), "tells", "without")


SKB, DEV = "struct sk_buff *skb", "struct net_device *dev"
KPROBE = kprobe_program(row(Point.ENTRY, SKB, "u8 *key", "u64 length"), "wg_xmit")
KRETPROBE = kprobe_program(row(Point.RETURN, "s32"), "wg_xmit")
FENTRY = fentry_program(row(Point.ENTRY, SKB, DEV), "wg_xmit")
FEXIT = fentry_program(row(Point.RETURN, "struct wg_peer *"), "wg_xmit")
TRACEPOINT = kprobe_program(row(Point.TRACEPOINT, SKB, "u64 location", "u32 reason", module=""), "kfree_skb")
CONSUME = kprobe_program(row(Point.TRACEPOINT, SKB, "u64 location", module=""), "consume_skb")


@pytest.mark.parametrize(
    ("program", "text"),
    [
        (
            KPROBE,
            "int on_wg_xmit(struct pt_regs *ctx)\n{\n\treturn handle_it((struct sk_buff *)"
            "(PT_REGS_PARM1(ctx)), (u8 *)(PT_REGS_PARM2(ctx)), (u64)(PT_REGS_PARM3(ctx)));\n}\n",
        ),
        (
            KRETPROBE,
            "int return_wg_xmit(struct pt_regs *ctx)\n{\n\treturn handle_it((s32)(PT_REGS_RC(ctx)));\n}\n",
        ),
        (
            FENTRY,
            "int kfunc__wireguard__wg_xmit(unsigned long long *ctx)\n{\n\treturn handle_it("
            "(struct sk_buff *)(ctx[0]), (struct net_device *)(ctx[1]));\n}\n",
        ),
        (
            TRACEPOINT,
            "int on_kfree_skb(unsigned long long *ctx)\n{\n\treturn handle_it("
            "(struct sk_buff *)(ctx[0]), (u64)(ctx[1]), (u32)(ctx[2]), false);\n}\n"
            "int on_kfree_skb_again(unsigned long long *ctx)\n{\n\treturn handle_it("
            "(struct sk_buff *)(ctx[0]), (u64)(ctx[1]), (u32)(ctx[2]), true);\n}\n",
        ),
        (
            kprobe_program(row(Point.TRACEPOINT, SKB, "u64 location", CONTEXT, module=""), "kfree_skb"),
            "int on_kfree_skb(unsigned long long *ctx)\n{\n\treturn handle_it("
            "(struct sk_buff *)(ctx[0]), (u64)(ctx[1]), (void *)(ctx), false);\n}\n"
            "int on_kfree_skb_again(unsigned long long *ctx)\n{\n\treturn handle_it("
            "(struct sk_buff *)(ctx[0]), (u64)(ctx[1]), (void *)(ctx), true);\n}\n",
        ),
    ],
)
def test_programs(program: Program, text: str) -> None:
    """Each mechanism finds the arguments where it has them, and hands them to the handler in its types."""
    assert program_text(program) == text


@pytest.mark.parametrize("parameters", [0, 2, 6])
def test_fexit_finds_the_return_value_behind_the_parameters(parameters: int) -> None:
    """An fexit program reads the slot after the function's parameters, however few it asks for."""
    assert program_text(FEXIT, parameters) == (
        "int kretfunc__wireguard__wg_xmit(unsigned long long *ctx)\n{\n"
        f"\treturn handle_it((struct wg_peer *)(ctx[{parameters}]));\n}}\n"
    )


def test_a_return_may_ask_for_arguments_too() -> None:
    """An fexit hands them over; a kretprobe does not have them, and gives 0."""
    probe = row(Point.RETURN, SKB, "u64")

    assert "\treturn handle_it((struct sk_buff *)(ctx[0]), (u64)(ctx[2]));\n" in program_text(
        fentry_program(probe, "encrypt_packet"), 2
    )
    assert "\treturn handle_it((struct sk_buff *)(0), (u64)(PT_REGS_RC(ctx)));\n" in program_text(
        kprobe_program(probe, "encrypt_packet")
    )


@pytest.mark.parametrize(("make", "text"), [(kprobe_program, "true"), (fentry_program, "false")])
def test_an_entry_is_told_to_remember(make: Callable[[Probe, str], Program], text: str) -> None:
    """Where its return is a kretprobe, which will not know the arguments."""
    program = make(row(Point.ENTRY, SKB, REMEMBER), "encrypt_packet")

    assert f", (bool)({text}));\n" in program_text(program)


@pytest.mark.parametrize("make", [kprobe_program, fentry_program])
@pytest.mark.parametrize("point", [Point.ENTRY, Point.RETURN])
def test_a_handler_without_arguments_gets_none(make: Callable[[Probe, str], Program], point: Point) -> None:
    """A row that asks for nothing calls its handler with nothing."""
    program = make(row(point), "wg_xmit")

    assert "\treturn handle_it();\n" in program_text(program, 3)


def test_consume_skb_without_a_location() -> None:
    """On a kernel whose tracepoint tells no location, the function's caller is read, and NULL let go."""
    text = consume_skb_kprobe_text(CONSUME)

    assert text.startswith("int on_consume_skb(struct pt_regs *ctx)\n{\n")
    assert "PT_REGS_SP(ctx)" in text
    assert "ctx->regs[30]" in text
    assert text.index("if (!PT_REGS_PARM1(ctx))") < text.index("handle_it(")
    assert "handle_it((struct sk_buff *)PT_REGS_PARM1(ctx), caller, true)" in text


def test_programs_are_named_apart() -> None:
    """Entry and return of a function, as kprobe and as fentry, have four names that BCC attaches right."""
    programs = (KPROBE, KRETPROBE, FENTRY, FEXIT)

    assert [(p.name, p.fentry) for p in programs] == [
        ("on_wg_xmit", False),
        ("return_wg_xmit", False),
        ("kfunc__wireguard__wg_xmit", True),
        ("kretfunc__wireguard__wg_xmit", True),
    ]


def test_the_joined_text_marks_its_files() -> None:
    """Each file begins behind a #line mark of its name, in order, and the programs come last."""
    text = joined(["int on_wg_xmit(void) { return 0; }\n"])

    marks = re.findall(r'^#line 1 "(.*)"$', text, re.MULTILINE)
    assert marks == [*(f"bpf/{name}" for name in FILES), "programs"]
    assert text.rindex("int on_wg_xmit(void)") > text.rindex('#line 1 "programs"')


def test_the_joined_text_includes_nothing_of_ours() -> None:
    """A map call in an included file fails at load: only the kernel's types and, elsewhere, an ABI type."""
    text = joined([])

    assert "#pragma once" not in text
    assert re.findall(r"^\s*#\s*include\s+(.*)$", text, re.MULTILINE) == [
        "<uapi/linux/ptrace.h>",
        "<linux/types.h>",
    ]
    assert "#ifndef __KERNEL__\n#include <linux/types.h>\n#endif" in text


def test_lines_keep_their_numbers(tmp_path: Path) -> None:
    """A compiler's message names the line that the file has."""
    for name in FILES:
        (tmp_path / name).write_text("/* first */\n#pragma once\nint third;\n")

    text = joined([], directory=tmp_path)

    for part in text.split("#line 1 ")[1:-1]:
        mark, *lines = part.split("\n")
        assert lines.index("int third;") == 2, mark


def test_every_file_of_bpf_is_joined() -> None:
    """No file of bpf/ is left out by mistake."""
    there = {path.name for path in bpf_directory().iterdir() if path.suffix in (".c", ".h")}

    assert there == set(FILES)


def test_bpf_is_found_in_a_checkout_and_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bpf/ beside the package is found; the one inside an installed package is preferred."""
    assert (bpf_directory() / "events.h").is_file()

    module = tmp_path / "wgtrace/loader/source.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(source, "__file__", str(module))
    assert bpf_directory() == tmp_path / "bpf"
    (tmp_path / "wgtrace/bpf").mkdir()
    assert bpf_directory() == tmp_path / "wgtrace/bpf"


@pytest.mark.parametrize("probe", [*CATALOGUE, *LATENCY], ids=lambda probe: probe.name)
def test_types_of_the_catalogue_lose_their_names(probe: Probe) -> None:
    """A cast has the type and not the argument's name, for every row there is."""
    text = program_text(kprobe_program(probe, probe.targets[0]))

    for cast in re.findall(r"\(([^()]*)\)\((?:PT_REGS|ctx)", text):
        assert re.fullmatch(r"(struct \w+ \*|void \*|u8 \*|[us](8|16|32|64))", cast), cast
