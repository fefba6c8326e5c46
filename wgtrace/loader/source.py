# SPDX-License-Identifier: GPL-2.0-only
"""One C text out of bpf/: the files joined, and a program for each probe.

Map calls in an `#include`d file compile under BCC and then fail to load, so the
files are joined with `#line` marks. A program is three lines that hand its
arguments to a handler; they are written here because which one is right (kprobe,
fentry) is only known on the user's kernel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from wgtrace.probes.invariants import INVARIANTS_FILE
from wgtrace.probes.types import CONTEXT, REMEMBER, Point, Probe

HEADERS = ("events.h", "common.bpf.h", "filter.bpf.h", "skb.bpf.h", "wireguard.bpf.h")
# The files with handlers, which a row of a catalogue names, and what each needs before it.
CONCERNS = {
    "session.bpf.c": (
        *("session.bpf.h", "freed.bpf.h", "drop_tx.bpf.h", "drop_rx.bpf.h", "drop.bpf.c"),
        *("handshake.bpf.c", "story.bpf.c", "session.bpf.c"),
    ),
    "drop.bpf.c": ("freed.bpf.h", "drop_tx.bpf.h", "drop_rx.bpf.h", "drop.bpf.c"),
    "path.bpf.c": ("freed.bpf.h", "path.bpf.c"),
    "handshake.bpf.c": ("handshake.bpf.c",),
    INVARIANTS_FILE: (INVARIANTS_FILE,),
    "latency.bpf.c": ("latency.bpf.c",),
    "mtu.bpf.c": ("freed.bpf.h", "mtu.bpf.c"),
    "packet.bpf.c": ("packet.bpf.c",),
    "story.bpf.c": ("story.bpf.c",),
}
FILES = tuple(dict.fromkeys((*HEADERS, *(name for names in CONCERNS.values() for name in names))))

# Every kernel type that the programs name, with what it contains.
KERNEL_TYPES = (
    "pt_regs",
    "sk_buff",
    "skb_shared_info",
    "net_device",
    "net",
    "iphdr",
    "ipv6hdr",
    "udphdr",
    "task_struct",
    "kthread",
    "worker",
    "wg_device",
    "wg_peer",
    "noise_keypair",
    "packet_cb",
    "allowedips_node",
    "index_hashtable",
    "net_generic",
    "dst_entry",
    "rtable",
    "rt6_info",
    "nf_hook_state",
    "flowi4",
    "flowi6",
    "sock_common",
)

_PRELUDE = """\
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
"""


def bpf_directory() -> Path:
    """Where bpf/ is: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "bpf"
    return inside if inside.is_dir() else package.parent / "bpf"


@dataclass(frozen=True, slots=True)
class Program:
    """A BPF program for one probe.

    Attributes:
        name: The C function.
        fentry: True if its name makes BCC load it as fentry or fexit.
    """

    probe: Probe
    target: str
    name: str
    fentry: bool

    @property
    def second(self) -> Program:
        """The other of a tracepoint's two programs."""
        return replace(self, name=f"{self.name}_again")


def kprobe_program(probe: Probe, target: str) -> Program:
    """The kprobe or kretprobe for `probe`, or the program of a raw tracepoint."""
    what = probe.name.replace("-", "_") if probe.point is Point.TRACEPOINT else target
    name = f"{'return' if probe.point is Point.RETURN else 'on'}_{what}{_apart(probe, what)}"
    return Program(probe, target, name, False)


def fentry_program(probe: Probe, target: str) -> Program:
    """The fentry or fexit for `probe`; BCC reads the attach point out of the name."""
    kind = "kretfunc" if probe.point is Point.RETURN else "kfunc"
    name = f"{kind}__{probe.module or 'vmlinux'}__{target}{_apart(probe, target)}"
    return Program(probe, target, name, True)


def _apart(probe: Probe, target: str) -> str:
    """What sets a program apart: the functions of the invariants have rows in other catalogues too."""
    return f"__{probe.name.replace('-', '_')}" if probe.file == INVARIANTS_FILE else ""


def _c_type(argument: str) -> str:
    """`struct sk_buff *skb` -> `struct sk_buff *`."""
    text = argument.strip()
    return (
        text
        if text.endswith("*") or " " not in text
        else text[: max(text.rfind(" "), text.rfind("*")) + 1].strip()
    )


def _call(probe: Probe, values: Iterable[str]) -> str:
    args = ", ".join(f"({_c_type(arg)})({value})" for arg, value in zip(probe.args, values, strict=False))
    return f"return {probe.handler}({args});"


def program_text(program: Program, parameters: int = 0) -> str:
    """The C function of `program`.

    Args:
        parameters: How many parameters the kernel function has: fexit finds the
            return value behind them.
    """
    probe = program.probe
    if probe.point is Point.TRACEPOINT:
        # Two programs: is_taken() in bpf/drop.bpf.c says why.
        return _tracepoint_text(program, False) + _tracepoint_text(program.second, True)
    context = "unsigned long long *ctx" if program.fentry else "struct pt_regs *ctx"
    if program.fentry:
        values = [f"ctx[{i}]" for i in range(len(probe.values))]
    else:
        values = [f"PT_REGS_PARM{i + 1}(ctx)" for i in range(len(probe.values))]
    if probe.point is Point.RETURN and probe.args:
        values = values[:-1] if program.fentry else ["0"] * (len(probe.values) - 1)
        values.append(f"ctx[{parameters}]" if program.fentry else "PT_REGS_RC(ctx)")
    if REMEMBER in probe.args:
        values.append(str(not program.fentry).lower())
    if CONTEXT in probe.args:
        values.append("ctx")
    return f"int {program.name}({context})\n{{\n\t{_call(probe, values)}\n}}\n"


def _tracepoint_text(program: Program, is_second: bool) -> str:
    args = program.probe.args
    values = ["ctx" if arg == CONTEXT else f"ctx[{i}]" for i, arg in enumerate(args)]
    arguments = [f"({_c_type(arg)})({value})" for arg, value in zip(args, values, strict=True)]
    call = f"{program.probe.handler}({', '.join(arguments)}, {str(is_second).lower()})"
    return f"int {program.name}(unsigned long long *ctx)\n{{\n\treturn {call};\n}}\n"


def consume_skb_kprobe_text(program: Program) -> str:
    """The program on the function consume_skb(), where its tracepoint tells no location.

    There is one only, which takes what no other took: the kernel skips every kprobe's
    program while one runs on this CPU (trace_call_bpf()), so a second would not help.
    The caller is the return address: at entry it is on top of the stack (x86-64)
    or in the link register (arm64).
    """
    return (
        f"int {program.name}(struct pt_regs *ctx)\n{{\n"
        "\tu64 caller = 0;\n\n"
        "#ifdef bpf_target_arm64\n"
        "\tcaller = ctx->regs[30];\n"
        "#else\n"
        "\tbpf_probe_read_kernel(&caller, sizeof(caller), (void *)PT_REGS_SP(ctx));\n"
        "#endif\n"
        "\tif (!PT_REGS_PARM1(ctx))\n\t\treturn 0;\n"
        f"\treturn {program.probe.handler}((struct sk_buff *)PT_REGS_PARM1(ctx), caller, true);\n}}\n"
    )


def joined(
    programs: Iterable[str], concerns: Collection[str] = tuple(CONCERNS), directory: Path | None = None
) -> str:
    """The whole text: kernel types, our headers, what the concerns need, the programs."""
    root = directory or bpf_directory()
    parts = ["#include <uapi/linux/ptrace.h>\n", _PRELUDE]
    needed = [name for concern, names in CONCERNS.items() if concern in concerns for name in names]
    for name in dict.fromkeys((*HEADERS, *needed)):
        text = (root / name).read_text().replace("#pragma once\n", "\n")
        parts.append(f'#line 1 "bpf/{name}"\n{text}')
    parts.append('#line 1 "programs"\n')
    parts.extend(programs)
    return "\n".join(parts)
