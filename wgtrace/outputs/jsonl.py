# SPDX-License-Identifier: GPL-2.0-only
"""JSON lines: one object a line, schema 1 (schema.json beside this file)."""

from __future__ import annotations

import json
from importlib import resources
from json.encoder import encode_basestring_ascii
from typing import Final, TextIO, cast

from wgtrace.diagnosis.finding import Finding
from wgtrace.events.types import DropTotal, HandshakeTotal
from wgtrace.outputs.clean import clean
from wgtrace.outputs.fields import FIELDS, Field, Json, Write, peer_json, rfc3339, writer
from wgtrace.probes.types import ProbeStatus
from wgtrace.report import RunStart, SeenDrop, Summary

SCHEMA: Final = 1

# Everything outside ASCII is escaped: safe on any terminal and in any locale. One encoder
# for all lines: json.dumps() would make one for each. A line has no cycles to look for.
_ENCODE: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def json_schema() -> Json:
    """The JSON Schema of a line."""
    text = resources.files("wgtrace.outputs").joinpath("schema.json").read_text(encoding="utf-8")
    return cast("Json", json.loads(text))


class JsonLinesSink:
    """Writes each part of a run as a line.

    Args:
        out: Gets the lines and nothing else.
        rows: Whether to write a line for each drop, or only start, findings and summary.
    """

    def __init__(self, out: TextIO, rows: bool = True) -> None:
        self._out = out
        self._has_rows = rows
        self._row = writer([field for field in FIELDS if field.value], _member)

    def start(self, start: RunStart) -> None:
        """Write the `start` line."""
        attached = [p for p in start.probes if p.mechanism is not None]
        missing = [p for p in start.probes if p.mechanism is None]
        self._write(
            "start",
            start.ts_unix_ns,
            {
                "version": start.version,
                "kernel": clean(start.kernel),
                "bcc": start.bcc,
                "devices": [
                    {
                        "netns": device.netns,
                        "ifname": clean(device.ifname),
                        "public_key": device.public_key,
                        "listen_port": device.listen_port,
                        "peers": len(device.peers),
                    }
                    for device in start.devices
                ],
                "probes": {
                    "attached": [probe_json(p) for p in attached],
                    "missing": [probe_json(p) for p in missing],
                },
            },
        )

    def drop(self, drop: SeenDrop) -> None:
        """Write a `drop` line."""
        if not self._has_rows:
            return
        self._out.write(f'{{"schema":{SCHEMA},"type":"drop"{self._row(drop)}}}\n')

    def rest(self) -> None:
        """Have the lines that are written be seen."""
        self._out.flush()

    def summary(self, summary: Summary) -> None:
        """Write a `finding` line for each finding, then the `summary` line."""
        for finding in summary.findings:
            self._write("finding", summary.ts_unix_ns, finding_json(finding))
        self._write("summary", summary.ts_unix_ns, summary_json(summary))

    def _write(self, kind: str, ts_unix_ns: int, body: Json) -> None:
        self._write_line({"schema": SCHEMA, "type": kind, "ts": rfc3339(ts_unix_ns), **body})

    def _write_line(self, line: Json) -> None:
        self._out.write(_ENCODE(line) + "\n")
        self._out.flush()


def _member(field: Field) -> Write:
    """Writes `,"inner":{...}`; json would take twice as long for these few numbers and words."""
    start, value = f',"{field.json}":', field.value or (lambda _drop: None)

    def write(drop: SeenDrop) -> str:
        of = value(drop)
        if isinstance(of, str):
            return start + encode_basestring_ascii(of)
        if not isinstance(of, dict):
            return start + _ENCODE(of)
        members = [f'"{key}":{each if type(each) is int else _ENCODE(each)}' for key, each in of.items()]
        return f"{start}{{{','.join(members)}}}"

    return write


def probe_json(probe: ProbeStatus) -> Json:
    """A probe; what is lost and what to do only where it is not attached."""
    body: Json = {
        "name": probe.name,
        "target": probe.target,
        "mechanism": probe.mechanism.value if probe.mechanism else None,
        "because": clean(probe.because),
    }
    if probe.mechanism is None:
        body |= {"without_it": probe.without_it, "do": clean(probe.do), "gives": list(probe.gives)}
    return body


def finding_json(finding: Finding) -> Json:
    """The body of a `finding` line."""
    return {
        "netns": finding.netns,
        "ifname": clean(finding.ifname),
        "slug": finding.slug,
        "severity": finding.severity.value,
        "confidence": finding.confidence.value,
        "peer": peer_json(finding.peer),
        "count": finding.count,
        "cause": clean(finding.cause),
        "evidence": [clean(text) for text in finding.evidence],
        "fix": [clean(text) for text in finding.fix],
        "not_visible": [clean(text) for text in finding.not_visible],
    }


def summary_json(summary: Summary) -> Json:
    """The body of a `summary` line."""
    losses = summary.losses
    return {
        "duration_s": round(summary.duration_s, 3),
        "interim": summary.interim,
        "totals": [_total_json(total, summary.peer_names or {}) for total in summary.totals],
        "handshakes": [_handshake_json(total, summary.peer_names or {}) for total in summary.handshakes],
        "lost": {
            "events": losses.events,
            "missed_probes": losses.missed_probes,
            "undecodable": losses.undecodable,
            "totals": losses.totals,
            "unclassified": losses.unclassified,
            "frames": losses.frames,
            "devices": losses.devices,
            "rate_limited": dict(losses.rate_limited),
        },
        "complete": summary.complete,
        "incomplete_because": [clean(text) for text in summary.incomplete_because],
        "reconciliation": [
            {
                "ifname": clean(line.ifname),
                "netns": line.netns,
                "counter": line.counter,
                "moved": line.moved,
                "explained": line.explained,
            }
            for line in summary.reconciliation
        ],
    }


def _total_json(total: DropTotal, names: dict[str, str]) -> Json:
    return {
        "ifname": clean(total.ifname),
        "netns": total.netns,
        "direction": total.reason.direction.value,
        "reason": total.reason.id,
        "sub_reason": total.sub_reason.id,
        "peer": _named(total.public_key, names),
        "count": total.count,
    }


def _handshake_json(total: HandshakeTotal, names: dict[str, str]) -> Json:
    return {
        "ifname": clean(total.ifname),
        "netns": total.netns,
        "step": total.code.id,
        "sub_reason": total.sub_reason.id,
        "peer": _named(total.public_key, names),
        "count": total.count,
    }


def _named(key: str | None, names: dict[str, str]) -> Json | None:
    return {"public_key": key, "name": clean(names[key]) if key in names else None} if key else None
