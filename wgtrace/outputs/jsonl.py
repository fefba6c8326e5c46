# SPDX-License-Identifier: GPL-2.0-only
"""JSON lines: one object a line, schema 1 (schema.json beside this file)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from json.encoder import encode_basestring_ascii
from typing import Final, TextIO, cast

from wgtrace.diagnosis.finding import Finding
from wgtrace.diagnosis.outside import layer_of
from wgtrace.events.session import Arrivals
from wgtrace.events.types import DropTotal, HandshakeTotal, InvariantTotal, PathTotal, address_text
from wgtrace.outputs.clean import clean
from wgtrace.outputs.fields import (
    FIELDS,
    Field,
    Json,
    Write,
    flow_json,
    hook_name,
    packet_name,
    peer_json,
    rfc3339,
    writer,
)
from wgtrace.probes.types import ProbeStatus
from wgtrace.report import HandshakeHistogram, RunStart, Seen, SeenStep, Summary, TopFrame

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

    def drop(self, drop: Seen) -> None:
        """Write a `drop` line."""
        if not self._has_rows:
            return
        self._out.write(f'{{"schema":{SCHEMA},"type":"drop"{self._row(drop)}}}\n')

    def rest(self) -> None:
        """Have the lines that are written be seen."""
        self._out.flush()

    def step(self, step: SeenStep) -> None:
        """Write a `handshake` line."""
        if self._has_rows:
            self._write("handshake", step.ts_unix_ns, step_json(step))

    def interval(self, ts_unix_ns: int, histograms: tuple[HandshakeHistogram, ...]) -> None:
        """Write a line for each `histogram`."""
        for histogram in histograms:
            self._write("histogram", ts_unix_ns, histogram_json(histogram, "interval"))

    is_over = False

    def frame(self, frame: TopFrame) -> None:
        """Write a `top` line."""
        self._write("top", frame.ts_unix_ns, frame_json(frame))

    def summary(self, summary: Summary) -> None:
        """Write a line for each `finding` and each `histogram`, then the `summary` line."""
        for finding in summary.findings:
            self._write("finding", summary.ts_unix_ns, finding_json(finding))
        part = "interim" if summary.interim else "whole"
        for histogram in summary.histograms:
            self._write("histogram", summary.ts_unix_ns, histogram_json(histogram, part))
        self._write("summary", summary.ts_unix_ns, summary_json(summary))

    def _write(self, kind: str, ts_unix_ns: int, body: Json) -> None:
        self._write_line({"schema": SCHEMA, "type": kind, "ts": rfc3339(ts_unix_ns), **body})

    def _write_line(self, line: Json) -> None:
        self._out.write(_ENCODE(line) + "\n")
        self._out.flush()


def _member(field: Field) -> Write:
    """Writes `,"inner":{...}`; json would take twice as long for these few numbers and words."""
    start, value = f',"{field.json}":', field.value or (lambda _drop: None)

    def write(drop: Seen) -> str:
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


def step_json(step: SeenStep) -> Json:
    """The body of a `handshake` line."""
    return {
        "netns": step.netns,
        "ifname": clean(step.ifname),
        "event": step.event,
        "peer": peer_json(step.peer),
        "origin": str(step.origin) if step.origin else None,
        "cause": step.cause,
        "reason": step.reason.id if step.reason else None,
        "role": step.role,
        "attempt": step.attempt,
        "sender_index": step.sender_index or None,
        "receiver_index": step.receiver_index or None,
        "latency_ns": step.latency_ns or None,
        "session_age_ns": step.session_age_ns or None,
        "before": str(step.before) if step.before else None,
        "source": str(step.source) if step.source else None,
        "out_ifname": clean(step.out_ifname) or None,
        "inner": flow_json(step.inner),
        "queue_len": step.queue_len,
        "icmp": {"type": step.icmp[0], "code": step.icmp[1], "from": address_text(step.icmp[2])}
        if step.icmp
        else None,
        "what": clean(step.what),
    }


def frame_json(frame: TopFrame) -> Json:
    """The body of a `top` line."""
    return {
        "interval_s": round(frame.interval_s, 3),
        "duration_s": round(frame.duration_s, 3),
        "peers": [
            {
                "netns": row.netns,
                "ifname": clean(row.ifname),
                "peer": peer_json(row.peer),
                "rx_bytes_per_s": round(row.rx_rate, 1),
                "tx_bytes_per_s": round(row.tx_rate, 1),
                "rx_bytes": row.rx_bytes,
                "tx_bytes": row.tx_bytes,
                "drops": {reason.id: count for reason, count in row.drops},
                "new_drops": row.new_drops,
                "latest_handshake": rfc3339(row.handshake_ns) if row.handshake_ns else None,
                "handshake_latency_ns": row.latency_ns or None,
                "role": row.role,
                "waiting": {
                    "staged": row.queues.staged,
                    "outgoing": row.queues.outgoing,
                    "incoming": row.queues.incoming,
                }
                if row.queues
                else None,
                "latency": {
                    direction.value: {
                        "count": histogram.count,
                        "max": histogram.max,
                        **{f"p{percent}": histogram.percentile(percent) for percent in (50, 90, 99)},
                    }
                    for direction, histogram in row.latency.items()
                },
                "arrivals": _arrivals_json(row.arrivals) if row.arrivals else None,
                "sessions": [
                    {
                        "index": session.index,
                        "age_s": round(max(frame.boot_ns - session.born_ns, 0) / 1e9, 1),
                        "role": "initiator" if session.is_initiator else "responder",
                        "is_whole": session.is_whole,
                        **_arrivals_json(session.arrivals),
                    }
                    for session in row.sessions
                ],
            }
            for row in frame.rows
        ],
    }


def _arrivals_json(arrivals: Arrivals) -> Json:
    return {
        "received": arrivals.received,
        "lost": arrivals.lost,
        "late": arrivals.late,
        "duplicates": arrivals.duplicates,
        "too_old": arrivals.too_old,
        "unread": arrivals.unread,
    }


def histogram_json(of: HandshakeHistogram, part: str) -> Json:
    """The body of a `histogram` line."""
    histogram = of.histogram
    return {
        "name": "handshake",
        "unit": "ns",
        "part": part,
        "netns": of.netns,
        "ifname": clean(of.ifname),
        "peer": _named(of.peer.public_key, {of.peer.public_key: of.peer.name} if of.peer.name else {}),
        "cpu": None,
        "direction": "handshake",
        "stage": of.role,
        "buckets": [list(bucket) for bucket in histogram.buckets()],
        "count": histogram.count,
        "sum": histogram.sum,
        "max": histogram.max,
        **{f"p{percent}": histogram.percentile(percent) for percent in (50, 90, 99)},
    }


def summary_json(summary: Summary) -> Json:
    """The body of a `summary` line."""
    losses = summary.losses
    return {
        "duration_s": round(summary.duration_s, 3),
        "interim": summary.interim,
        "totals": [_total_json(total, summary.peer_names or {}) for total in summary.totals],
        "handshakes": [_handshake_json(total, summary.peer_names or {}) for total in summary.handshakes],
        "invariants": _invariants_json(summary.invariants, summary.peer_names or {}),
        "lost": {
            "events": losses.events,
            "missed_probes": losses.missed_probes,
            "undecodable": losses.undecodable,
            "totals": losses.totals,
            "unclassified": losses.unclassified,
            "frames": losses.frames,
            "devices": losses.devices,
            "handshake_times": losses.handshake_times,
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


def _total_json(total: DropTotal | PathTotal, names: dict[str, str]) -> Json:
    return {
        "ifname": clean(total.ifname),
        "netns": total.netns,
        "direction": total.reason.direction.value,
        "reason": total.reason.id,
        "sub_reason": total.sub_reason.id,
        "layer": layer_of(total.reason, total.hook) if isinstance(total, PathTotal) else "wireguard",
        "packet": packet_name(total.is_inner) if isinstance(total, PathTotal) else None,
        "hook": hook_name(total.hook) if isinstance(total, PathTotal) else None,
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


def _invariants_json(totals: Iterable[InvariantTotal], names: dict[str, str]) -> list[Json]:
    looks: dict[tuple[str, int, str, str | None], dict[bool, int]] = {}
    for total in totals:
        key = (total.ifname, total.netns, total.invariant.id, total.public_key)
        looks.setdefault(key, {})[total.holds] = total.count
    return [
        {
            "ifname": clean(ifname),
            "netns": netns,
            "invariant": invariant,
            "peer": _named(key, names),
            "held": counts.get(True, 0),
            "violated": counts.get(False, 0),
        }
        for (ifname, netns, invariant, key), counts in looks.items()
    ]


def _named(key: str | None, names: dict[str, str]) -> Json | None:
    return {"public_key": key, "name": clean(names[key]) if key in names else None} if key else None
