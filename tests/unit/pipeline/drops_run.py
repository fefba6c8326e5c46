# SPDX-License-Identifier: GPL-2.0-only
"""A whole run of `wgtrace drops` over a replay, and what it said."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from factories import (
    BERLIN,
    PARIS,
    console,
    device,
    peer,
    written,
)
from stand_ins import Host, Replay

from wgtrace.diagnosis.finding import Finding
from wgtrace.events.flow_filter import Filter
from wgtrace.outputs.jsonl import JsonLinesSink
from wgtrace.outputs.table import TableSink
from wgtrace.pipeline import DropsRun, HostFacts, Limits, Signals
from wgtrace.report import Sink
from wgtrace.state.types import Device


@dataclass
class Told:
    """What a run said on its sinks."""

    lines: list[dict[str, Any]]
    table: str
    findings: tuple[Finding, ...]
    host: Host

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a type."""
        return [line for line in self.lines if line["type"] == kind]

    @property
    def reasons(self) -> list[str]:
        """Reasons of the drops shown, in their order."""
        return [line["reason"] for line in self.of("drop")]

    @property
    def summary(self) -> dict[str, Any]:
        """The last line, which is the summary."""
        assert self.lines[-1]["type"] == "summary"
        return self.lines[-1]

    @property
    def slugs(self) -> list[str]:
        """The findings, by name."""
        return sorted(finding.slug for finding in self.findings)

    @property
    def reconciliation(self) -> dict[str, tuple[int, int]]:
        """By counter: how far it moved, and how much of that is explained."""
        return {r["counter"]: (r["moved"], r["explained"]) for r in self.summary["reconciliation"]}


def run(
    tracer: Replay,
    host: Host | None = None,
    wanted: Filter | None = None,
    limits: Limits | None = None,
    before_start: Callable[[], None] = lambda: None,
    facts: HostFacts | None = None,
) -> Told:
    """A whole run, to the end of the replay or its limits."""
    host, out, screen = host or Host(), io.StringIO(), console(200)
    sinks: list[Sink] = [JsonLinesSink(out), TableSink(screen)]
    with Signals() as signals:
        whole = DropsRun(tracer, host, sinks, wanted or Filter(), facts=facts)
        before_start()
        whole.start()
        findings = whole.run(limits or Limits(), signals)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    return Told(lines, written(screen), findings, host)


def wg0(name: str | None = "berlin", **counters: int) -> Device:
    """The interface wg0, berlin being called by another name or none."""
    return device(peers=(peer(BERLIN, name, "10.9.0.2/32"), peer(PARIS, "paris")), counters=counters)
