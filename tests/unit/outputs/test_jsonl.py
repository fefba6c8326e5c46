# SPDX-License-Identifier: GPL-2.0-only
"""jsonl: JSON lines, held against the schema that ships with the package."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from factories import (
    BERLIN,
    NETNS,
    NOW,
    PARIS,
    STRANGER,
    Scene,
    attached_probe,
    drop,
    flow,
    missing_probe,
    nobody,
    outer,
    run_start,
    seen,
    summary,
    total,
)

from wgtrace.diagnosis.explain import SLUGS
from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.invariants import Invariant
from wgtrace.events.reasons import Direction, HandshakeCode, Reason, SubReason
from wgtrace.events.types import HandshakeTotal, InvariantTotal, Losses, PeerRef, Tai64n
from wgtrace.events.wire import Hook
from wgtrace.outputs.fields import DETAIL, OUTSIDE
from wgtrace.outputs.jsonl import JsonLinesSink, json_schema
from wgtrace.outputs.probes import probes_json
from wgtrace.probes.types import Mechanism
from wgtrace.report import CounterLine, SeenDrop

SCHEMA: dict[str, Any] = dict(json_schema())
FULL: dict[str, Any] = {
    "inner": flow("10.9.4.7", "10.9.0.1", 6, 52114, 443),
    "outer": outer(),
    "where": "wg_packet_rx_poll+0x1c4",
    "kernel_reason": "NOT_SPECIFIED",
    "nonce": 17,
    "max_nonce": 23,
    "session_age_ns": 187_000_000_000,
    "receiver_index": 0x1234ABCD,
    "sender_index": 5,
    "queue_len": 128,
    "errno": 101,
    "message_type": 1,
    "owner": PARIS,
    "unknown_public_key": STRANGER,
    "timestamp": Tai64n(NOW),
    "latest_timestamp": Tai64n(NOW),
    "payload": bytes(range(16)),
    "payload_len": 40,
}


def lines_of(*parts: Any) -> list[dict[str, Any]]:
    """What the sink writes for these parts, each line checked against the schema."""
    out = io.StringIO()
    sink = JsonLinesSink(out)
    for part in parts:
        if isinstance(part, SeenDrop):
            sink.drop(part)
        elif hasattr(part, "totals"):
            sink.summary(part)
        else:
            sink.start(part)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    for line in lines:
        jsonschema.validate(line, SCHEMA, cls=jsonschema.Draft202012Validator)
    return lines


def test_schema_is_a_schema() -> None:
    """The file that ships is itself valid."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("reason", [r.id for r in Reason]),
        ("sub_reason", [s.id for s in SubReason]),
        ("step", [c.id for c in HandshakeCode]),
        ("direction", [d.value for d in Direction]),
        ("slug", list(SLUGS)),
        ("invariant", [i.id for i in Invariant]),
    ],
)
def test_schema_agrees_with_the_code(name: str, ids: list[str | None]) -> None:
    """Each id of the code is in the schema, and none besides."""
    assert SCHEMA["$defs"][name]["enum"] == ids


def test_schema_agrees_on_the_smaller_enums() -> None:
    """Severities, confidences, mechanisms and the keys of `detail`."""
    finding = SCHEMA["$defs"]["finding"]["properties"]

    assert finding["severity"]["enum"] == [s.value for s in Severity]
    assert finding["confidence"]["enum"] == [c.value for c in Confidence]
    assert SCHEMA["$defs"]["attached"]["properties"]["mechanism"]["enum"] == [m.value for m in Mechanism]
    assert list(SCHEMA["$defs"]["detail"]["properties"]) == [*DETAIL, *OUTSIDE]
    assert SCHEMA["$defs"]["hook"]["enum"] == [*(h.name.lower() for h in Hook if h), None]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_makes_a_valid_line(reason: Reason) -> None:
    """With every fact known, and with none."""
    full, bare = lines_of(seen(drop(reason, BERLIN, **FULL)), seen(drop(reason)))

    assert full["reason"] == bare["reason"] == reason.id
    assert bare["peer"] is bare["inner"] is bare["outer"] is None


def test_a_drop_line_is_as_the_contract_has_it() -> None:
    """Every key and its nesting, for one drop."""
    (line,) = lines_of(seen(nobody()))

    assert line == {
        "schema": 1,
        "type": "drop",
        "ts": "2026-11-22T12:04:11.203000417Z",
        "netns": NETNS,
        "ifname": "wg0",
        "direction": "rx",
        "reason": "src_not_allowed",
        "sub_reason": "owned_by_nobody",
        "layer": "wireguard",
        "packet": None,
        "where": "wg_packet_rx_poll+0x1c4",
        "kernel_reason": None,
        "peer": {"public_key": BERLIN, "endpoint": "203.0.113.9:51820", "name": "berlin"},
        "inner": {
            "family": 4,
            "saddr": "10.9.7.7",
            "daddr": "10.9.0.1",
            "proto": 6,
            "sport": 52114,
            "dport": 443,
            "len": 84,
        },
        "outer": {
            "family": 4,
            "saddr": "203.0.113.9",
            "daddr": "198.51.100.1",
            "proto": 17,
            "sport": 51820,
            "dport": 51820,
            "len": 148,
        },
        "why": "10.9.7.7 is in no peer's AllowedIPs",
        "detail": {"owner": None},
    }


def test_start_line_tells_attached_from_missing() -> None:
    """A missing probe carries its reason, what is lost, and what to do."""
    (line,) = lines_of(run_start((attached_probe(1), missing_probe("src_not_allowed"))))

    assert line["probes"]["attached"] == [
        {"name": "probe-1", "target": "wg_xmit", "mechanism": "fexit", "because": "in BTF"}
    ]
    assert line["probes"]["missing"] == [
        {
            "name": "a-probe",
            "target": "wg_function",
            "mechanism": None,
            "because": "no such function in this kernel",
            "without_it": "the thing that happens",
            "do": "load the module: modprobe wireguard",
            "gives": ["src_not_allowed"],
        }
    ]


def test_findings_come_before_the_summary() -> None:
    """The summary is the last line, so that a reader knows when all is said."""
    scene = Scene().dropped(nobody()).dropped(drop(Reason.NO_ENDPOINT, BERLIN), 5)
    lines = lines_of(summary(*scene.totals, findings=scene.findings))

    assert [line["type"] for line in lines] == ["finding", "finding", "summary"]
    assert lines[0]["slug"] == "source-not-allowed"
    assert lines[0]["count"] == 23


def test_every_slug_makes_a_valid_line() -> None:
    """The schema takes each finding that the rules can give."""
    finding = Scene().dropped(nobody()).only()
    lines = lines_of(summary(findings=tuple(replace(finding, slug=slug) for slug in SLUGS)))

    assert [line.get("slug") for line in lines[:-1]] == list(SLUGS)


def test_without_rows_there_are_no_drop_lines() -> None:
    """A quiet run writes start, findings and summary only."""
    out = io.StringIO()
    sink = JsonLinesSink(out, rows=False)
    sink.start(run_start())
    sink.drop(seen(nobody()))
    sink.summary(summary(findings=Scene().dropped(nobody()).findings))

    assert [json.loads(line)["type"] for line in out.getvalue().splitlines()] == [
        "start",
        "finding",
        "summary",
    ]


def test_summary_line_is_as_the_contract_has_it() -> None:
    """Totals, losses, completeness and the counters."""
    losses = Losses(events=1, rate_limited={"invalid_mac1": 12})
    counters = (CounterLine("wg0", NETNS, "rx_errors", 23, 23),)
    drops = total(Reason.SRC_NOT_ALLOWED, 23, BERLIN, SubReason.OWNED_BY_NOBODY)
    waits = HandshakeTotal("wg0", NETNS, HandshakeCode.STAGED_WAIT, BERLIN, 7, SubReason.KEY_ABSENT)
    looks = [
        InvariantTotal("wg0", NETNS, Invariant.PADDING_ZERO, holds, BERLIN, count)
        for holds, count in ((True, 23), (False, 7))
    ]
    (line,) = lines_of(
        summary(
            drops,
            total(Reason.INVALID_MAC1, 5),
            complete=False,
            handshakes=(waits,),
            invariants=tuple(looks),
            incomplete_because=("1 record was lost",),
            losses=losses,
            reconciliation=counters,
            interim=True,
        )
    )

    assert line == {
        "schema": 1,
        "type": "summary",
        "ts": "2026-11-22T12:04:11.203000417Z",
        "duration_s": 31.0,
        "interim": True,
        "totals": [
            {
                "ifname": "wg0",
                "netns": NETNS,
                "direction": "rx",
                "reason": "src_not_allowed",
                "sub_reason": "owned_by_nobody",
                "layer": "wireguard",
                "packet": None,
                "hook": None,
                "peer": {"public_key": BERLIN, "name": "berlin"},
                "count": 23,
            },
            {
                "ifname": "wg0",
                "netns": NETNS,
                "direction": "handshake",
                "reason": "invalid_mac1",
                "sub_reason": None,
                "layer": "wireguard",
                "packet": None,
                "hook": None,
                "peer": None,
                "count": 5,
            },
        ],
        "handshakes": [
            {
                "ifname": "wg0",
                "netns": NETNS,
                "step": "staged_wait",
                "sub_reason": "key_absent",
                "peer": {"public_key": BERLIN, "name": "berlin"},
                "count": 7,
            }
        ],
        "invariants": [
            {
                "ifname": "wg0",
                "netns": NETNS,
                "invariant": "padding_zero",
                "peer": {"public_key": BERLIN, "name": "berlin"},
                "held": 23,
                "violated": 7,
            }
        ],
        "lost": {
            "events": 1,
            "missed_probes": 0,
            "undecodable": 0,
            "totals": 0,
            "unclassified": 0,
            "frames": 0,
            "devices": 0,
            "handshake_times": 0,
            "rate_limited": {"invalid_mac1": 12},
        },
        "complete": False,
        "incomplete_because": ["1 record was lost"],
        "reconciliation": [
            {"ifname": "wg0", "netns": NETNS, "counter": "rx_errors", "moved": 23, "explained": 23}
        ],
    }


def test_hostile_text_stays_on_one_line_of_ascii() -> None:
    """No name can end a line or reach a terminal as an escape sequence."""
    event = nobody()
    assert event.peer
    event = replace(event, peer=replace(event.peer, name='a\x1b[2J\n{"type":"drop"}\u202e\ud800'))
    out = io.StringIO()
    JsonLinesSink(out).drop(seen(event))
    text = out.getvalue()

    assert text.count("\n") == 1
    assert text.isascii()
    assert "\\u001b" not in text
    assert json.loads(text)["peer"]["name"] == 'a[2J{"type":"drop"}'


def test_probes_line_is_valid() -> None:
    """`wgtrace probes --json` holds every probe, attached or not."""
    line = json.loads(probes_json((attached_probe(1), missing_probe("x")), NOW))
    jsonschema.validate(line, SCHEMA, cls=jsonschema.Draft202012Validator)

    assert [probe["mechanism"] for probe in line["probes"]] == ["fexit", None]


def test_schema_refuses_what_is_not_in_the_contract() -> None:
    """An unknown key, an unknown reason and a missing key are all refused."""
    (line,) = lines_of(seen(nobody()))
    without_peer = {key: value for key, value in line.items() if key != "peer"}

    for bad in ({**line, "more": 1}, {**line, "reason": "magic"}, without_peer, {**line, "type": "x"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_a_closed_pipe_is_told_to_the_caller() -> None:
    """The sink does not hide that nobody reads any more."""

    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    sink = JsonLinesSink(Closed())
    sink.drop(seen(nobody()))

    with pytest.raises(BrokenPipeError):
        sink.rest()


def test_lines_are_seen_when_there_are_no_more_drops_for_now() -> None:
    """A reader gets whole lines at each rest, however few they are."""
    raw = io.BytesIO()
    sink = JsonLinesSink(io.TextIOWrapper(raw, encoding="ascii"))
    for _ in range(3):
        sink.drop(seen(nobody()))
        sink.rest()
        last = raw.getvalue().splitlines()[-1]

        assert json.loads(last)["reason"] == "src_not_allowed"
    assert len(raw.getvalue().splitlines()) == 3


def test_what_is_kept_of_one_drop_is_not_said_of_another() -> None:
    """Of 9973 drops, each of a flow, peer and name of its own that are gone by the next, none is mistaken."""
    out = io.StringIO()
    sink = JsonLinesSink(out)
    for number in range(9973):
        inner = flow(f"10.{number >> 8}.{number & 255}.7", "10.9.0.1", 6, number, 443)
        event = drop(Reason.SRC_NOT_ALLOWED, inner=inner)
        sink.drop(seen(replace(event, peer=PeerRef(f"key {number}", None, f"peer {number}"))))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]

    assert [line["inner"]["sport"] for line in lines] == list(range(9973))
    assert [line["inner"]["saddr"] for line in lines] == [f"10.{n >> 8}.{n & 255}.7" for n in range(9973)]
    assert [line["peer"]["name"] for line in lines] == [f"peer {n}" for n in range(9973)]
