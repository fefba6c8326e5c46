# SPDX-License-Identifier: GPL-2.0-only
"""A probe of the catalogue, and what became of it on this kernel."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

CONTEXT: Final = "void *ctx"
"""Argument of a handler, the last: the program's own context."""
REMEMBER: Final = "bool remember"
"""Argument of an entry's handler, the last: whether the return, a kretprobe, will not tell the arguments."""


class Mechanism(enum.Enum):
    """How a program is attached."""

    FENTRY = "fentry"
    FEXIT = "fexit"
    KPROBE = "kprobe"
    KRETPROBE = "kretprobe"
    RAW_TRACEPOINT = "raw_tracepoint"


class Point(enum.Enum):
    """Where a program runs."""

    ENTRY = "entry"
    RETURN = "return"
    TRACEPOINT = "tracepoint"


@dataclass(frozen=True, slots=True)
class Probe:
    """One attach point.

    Attributes:
        name: Stable kebab-case id.
        target: Kernel function or tracepoint; `targets` in order of preference.
        module: Kernel module it lives in; "" for the kernel itself.
        file: The file of bpf/ with the handler.
        handler: The C function that does the work.
        args: C types and names of the arguments that the handler takes, in the
            order of the kernel function; RETURN: the return value's type, and before
            it arguments, which an fexit hands over and a kretprobe gives as 0.
        gives: Reason ids and event ids that need it.
        tells: What it sees, for `wgtrace probes`.
        without_it: What is not visible without it.
        is_late: Its module may be loaded long after the start, and is not needed
            before: then it is attached.
    """

    name: str
    targets: tuple[str, ...]
    module: str
    point: Point
    file: str
    handler: str
    args: tuple[str, ...]
    gives: tuple[str, ...]
    tells: str
    without_it: str
    is_late: bool = False

    @property
    def values(self) -> tuple[str, ...]:
        """The arguments that the kernel hands over."""
        return tuple(arg for arg in self.args if arg not in (CONTEXT, REMEMBER))


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """What became of a probe.

    Attributes:
        target: The function or tracepoint that was chosen.
        mechanism: None: not attached.
        because: Why this mechanism, or why none.
        do: What to install or load, "" if nothing helps.
    """

    name: str
    target: str
    mechanism: Mechanism | None
    because: str
    tells: str
    gives: tuple[str, ...]
    without_it: str
    do: str = ""
