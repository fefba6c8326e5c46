# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace probes`: what can be seen on this kernel, and what cannot and why."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from wgtrace.diagnosis.words import count_of
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import put
from wgtrace.outputs.fields import rfc3339
from wgtrace.outputs.jsonl import SCHEMA
from wgtrace.outputs.summary import wrapped
from wgtrace.probes.types import Mechanism, ProbeStatus

_SECOND_BEST = (Mechanism.KPROBE, Mechanism.KRETPROBE)
"""They stand in for fentry, fexit or a tracepoint: then it is said why."""


def print_probes(console: Console, probes: Sequence[ProbeStatus]) -> None:
    """Write the table of probes; those that are missing come first, with what to do."""
    missing = [probe for probe in probes if probe.mechanism is None]
    present = [probe for probe in probes if probe.mechanism is not None]
    if missing:
        put(console, (f"{count_of(len(missing), 'probe')} of {len(probes)} cannot be attached:", "bold"))
    for probe in missing:
        put(console)
        put(console, (probe.name, "bold red"), (f"  {probe.target}", ""))
        for label, text in (
            ("because", probe.because),
            ("not visible", probe.without_it),
            ("do", probe.do or "nothing helps on this kernel"),
        ):
            for line in wrapped(f"  {label:<12} {clean(text)}", max(console.width, 40), " " * 15):
                put(console, (line, ""))
    if missing:
        put(console)
    names = max((len(probe.name) for probe in present), default=0)
    targets = max((len(probe.target) for probe in present), default=0)
    is_wide = console.width >= names + targets + 60
    head = f"{'PROBE':<{names}}  {'MECHANISM':<14}"
    put(console, (f"{head}  {'TARGET':<{targets}}  TELLS" if is_wide else f"{head}  TARGET", "dim"))
    if not is_wide:
        put(console, ("     TELLS", "dim"))
    for probe in present:
        mechanism = probe.mechanism.value.replace("_", " ") if probe.mechanism else ""
        row = f"{probe.name:<{names}}  {mechanism:<14}  {probe.target:<{targets}}"
        put(console, (f"{row}  {probe.tells}" if is_wide else row, ""))
        below = [] if is_wide else [probe.tells]
        if probe.mechanism in _SECOND_BEST:
            below.append(f"{mechanism}: {clean(probe.because)}")
        for text in below:
            for line in wrapped(f"     {text}", max(console.width, 40), " " * 5):
                put(console, (line, ""))


def probes_json(probes: Sequence[ProbeStatus], ts_unix_ns: int) -> str:
    """The probes as one JSON line of type `probes`, without its end of line."""
    return json.dumps(
        {
            "schema": SCHEMA,
            "type": "probes",
            "ts": rfc3339(ts_unix_ns),
            "probes": [
                {
                    "name": probe.name,
                    "target": probe.target,
                    "mechanism": probe.mechanism.value if probe.mechanism else None,
                    "because": clean(probe.because),
                    "tells": probe.tells,
                    "gives": list(probe.gives),
                    "without_it": probe.without_it,
                    "do": clean(probe.do),
                }
                for probe in probes
            ],
        },
        separators=(",", ":"),
    )
