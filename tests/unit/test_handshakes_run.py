# SPDX-License-Identifier: GPL-2.0-only
"""HandshakesRun: records in, stories and the kernel's histograms out; the table and the JSON lines of it."""

from __future__ import annotations

import io
import json
from typing import Any

import jsonschema
import pytest
from factories import BERLIN, NETNS, PARIS, console, written
from records import fill, flow4, record
from stand_ins import Host, Replay, drop, raw, step, total_of

from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.events.wire import EventKind, HandshakeTimeKeyWire, HandshakeTimeWire
from wgtrace.handshakes import HandshakesRun
from wgtrace.outputs.jsonl import JsonLinesSink, json_schema
from wgtrace.outputs.story import StoryTableSink
from wgtrace.pipeline import Limits, Signals
from wgtrace.report import StorySink
from wgtrace.story import EVENTS, REASONS

SCHEMA: dict[str, Any] = dict(json_schema())
INITIATOR, RESPONDER = SubReason.INITIATOR, SubReason.RESPONDER
STORY = [
    step(HandshakeCode.REKEY_REQUESTED, BERLIN, sub_reason=SubReason.KEY_ABSENT, queue_len=1),
    step(HandshakeCode.INIT_SENT, BERLIN, sender_index=0xABCD),
    step(HandshakeCode.RETRY, BERLIN, attempt=1),
    step(HandshakeCode.INIT_SENT, BERLIN, sender_index=0xABCE),
    drop(Reason.RESP_UNKNOWN_INDEX, receiver_index=0xABCD, message_type=2),
    step(HandshakeCode.RESPONSE_ACCEPTED, BERLIN, receiver_index=0xABCE),
    step(HandshakeCode.SESSION_DERIVED, BERLIN, sub_reason=INITIATOR, sender_index=0xABCE),
    step(HandshakeCode.HANDSHAKE_COMPLETE, BERLIN, sub_reason=INITIATOR, latency_ns=105_000_000),
    drop(Reason.INVALID_MAC1, message_type=1),
    step(HandshakeCode.KEYS_CLEARED, PARIS, sub_reason=SubReason.INTERFACE_DOWN),
    drop(Reason.SRC_NOT_ALLOWED, BERLIN),
]
TOLD = [
    "rekey_requested",
    "init_sent",
    "retry",
    "init_sent",
    "response_late",
    "response_accepted",
    "session_derived",
    "handshake_complete",
    "init_refused",
    "keys_cleared",
]


def bucket(number: int, role: SubReason, *counts: int, public_key: str = BERLIN) -> tuple[bytes, list[bytes]]:
    """An entry of the map `handshake_times`, with each CPU's share; the longest is its highest value."""
    key = HandshakeTimeKeyWire()
    fill(
        key,
        {"ifname": b"wg0", "netns": NETNS, "role": role, "bucket": number, "public_key": raw(public_key)},
    )
    longest = (1 << number) - 1
    values = [bytes(HandshakeTimeWire(count, count * longest, longest if count else 0)) for count in counts]
    return bytes(key), values


def ran(source: Replay, *sinks: StorySink, count: int | None = None, **wanted: Any) -> HandshakesRun:
    """A run of these records, to its end."""
    run = HandshakesRun(source, Host(), sinks, Filter(reasons=REASONS, **wanted))
    run.start()
    with Signals() as signals:
        run.run(Limits(None, count), signals)
    return run


def lines_of(source: Replay, **more: Any) -> list[dict[str, Any]]:
    """The JSON lines of a run, each held against the schema."""
    out = io.StringIO()
    ran(source, JsonLinesSink(out), **more)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    for line in lines:
        jsonschema.validate(line, SCHEMA, cls=jsonschema.Draft202012Validator)
    return lines


def source(*records: bytes) -> Replay:
    """All of the story, and what the kernel counted of it."""
    return Replay(
        [list(records or STORY)],
        sums={
            total_of(HandshakeCode.INIT_SENT, BERLIN): 2,
            total_of(HandshakeCode.RETRY, BERLIN): 1,
            total_of(HandshakeCode.HANDSHAKE_COMPLETE, BERLIN, INITIATOR): 1,
            total_of(Reason.INVALID_MAC1): 1,
            total_of(Reason.SRC_NOT_ALLOWED, BERLIN): 1,
        },
        times=[bucket(17, INITIATOR, 1, 0), bucket(19, INITIATOR, 0, 2), bucket(8, RESPONDER, 23, 0)],
    )


def test_every_step_is_a_line() -> None:
    """In order; a packet that is no handshake's is none, and its total is not there either."""
    lines = lines_of(source())

    steps = [line for line in lines if line["type"] == "handshake"]
    assert [line["event"] for line in steps] == TOLD
    assert lines[0]["type"] == "start"
    assert lines[-1]["type"] == "summary"
    assert [t["reason"] for t in lines[-1]["totals"]] == ["invalid_mac1"]
    assert {h["step"]: h["count"] for h in lines[-1]["handshakes"]} == {
        "init_sent": 2,
        "retry": 1,
        "handshake_complete": 1,
    }


def test_an_icmp_error_is_a_line_and_a_finding() -> None:
    """As the programs tell it: of no peer, which is found by its endpoint."""
    error = record(
        EventKind.HANDSHAKE,
        code=HandshakeCode.ICMP_ERROR,
        device={"ifname": b"wg0", "netns": NETNS},
        inner=flow4("198.51.100.1", "203.0.113.9", 17, 51820, 51820, 176),
        source=bytes([203, 0, 113, 9]),
        icmp_type=3,
        icmp_code=3,
        message_type=1,
    )
    lines = lines_of(source(step(HandshakeCode.INIT_SENT, BERLIN, sender_index=1), error))

    told = next(line for line in lines if line.get("event") == "icmp_error")
    assert told["icmp"] == {"type": 3, "code": 3, "from": "203.0.113.9"}
    assert told["peer"]["public_key"] == BERLIN
    assert "peer-port-closed" in [line["slug"] for line in lines if line["type"] == "finding"]


def test_histograms_are_those_of_the_kernel() -> None:
    """For each role its buckets, summed over the CPUs, and the longest one."""
    found = [line for line in lines_of(source()) if line["type"] == "histogram"]

    assert [(line["stage"], line["count"], line["buckets"]) for line in found] == [
        ("initiator", 3, [[65536, 131071, 1], [131072, 262143, 0], [262144, 524287, 2]]),
        ("responder", 23, [[128, 255, 23]]),
    ]
    assert found[0]["max"] == 524287
    assert found[0]["peer"]["name"] == "berlin"
    assert found[0]["sum"] == 131071 + 2 * 524287
    assert 65536 <= found[0]["p50"] <= found[0]["p90"] <= found[0]["p99"] <= found[0]["max"]


def test_only_the_peers_that_were_asked_for() -> None:
    """Neither steps nor histograms nor sums of others; a late answer is of its peer."""
    lines = lines_of(source(), peers=frozenset({BERLIN}))

    events = [line["event"] for line in lines if line["type"] == "handshake"]
    assert events == [event for event in TOLD if event not in ("init_refused", "keys_cleared")]
    assert lines_of(source(), peers=frozenset({PARIS}))[-2]["type"] == "handshake"


def test_it_ends_after_so_many_steps() -> None:
    """--count counts what was shown."""
    lines = lines_of(source(), count=3)

    assert [line["event"] for line in lines if line["type"] == "handshake"] == TOLD[:3]


def test_a_full_table_of_times_is_said() -> None:
    """The histogram lacks some, so the run is not complete."""
    given = source()
    given.counted.losses[7] = 7  # type: ignore[index]  # as IntEnum

    lines = lines_of(given)
    assert lines[-1]["lost"]["handshake_times"] == 7
    assert "7 handshakes not in the histograms" in lines[-1]["incomplete_because"][0]


def test_every_event_of_the_schema_is_of_the_code() -> None:
    """And the other way round."""
    assert set(SCHEMA["$defs"]["handshake"]["properties"]["event"]["enum"]) == set(EVENTS)


@pytest.mark.parametrize("width", [80, 200])
def test_the_table(width: int) -> None:
    """Sentences under each other, sums for each peer, histograms; no line is wider than the terminal."""
    out = console(width)
    ran(source(), StoryTableSink(out))

    text = written(out)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert "TIME          PEER       WHAT" in lines
    assert [line for line in lines if line.endswith("session up, it took 105 ms")]
    assert "response came too late" in text
    if width == 80:
        assert "  berlin: 2 initiations sent (1 retry), 1 session up" in lines
        assert "  not known from whom: invalid_mac1 1" in lines
        assert "1 handshake completed in 0.0 s, 1 message refused or not sent. Nothing lost." in lines
        assert "  berlin: 3 handshakes, from the initiation to the session" in lines
        at = lines.index("  berlin: 3 handshakes, from the initiation to the session")
        assert lines[at + 1].split() == ["nsecs", ":", "count", "distribution"]
        assert lines[at + 2 : at + 5] == [
            f"     65536 -> 131071     : 1        |{'*' * 20:<40}|",
            f"    131072 -> 262143     : 0        |{'':<40}|",
            f"    262144 -> 524287     : 2        |{'*' * 40}|",
        ]
        assert lines[at + 5].startswith("  p50 ")
        assert lines[at + 5].endswith(", max 524us")


def test_quiet_has_only_the_end() -> None:
    """-q: no step, but sums and histograms."""
    out = console(80)
    ran(source(), StoryTableSink(out, rows=False))

    assert "initiation sent to" not in written(out)
    assert "23 handshakes" in written(out)


def test_a_hostile_name_moves_no_cursor() -> None:
    """Names come from files: what steers a terminal is taken out of them."""
    out = console(80)
    route = step(
        HandshakeCode.ROUTE_FOUND,
        BERLIN,
        peer={
            "public_key": raw(BERLIN),
            "known": 1,
            "endpoint_family": 4,
            "endpoint_addr": b"\x01\x02\x03\x04",
        },
        source=b"\x0a\0\0\x01",
        out_ifname=b"\x1b[2Jeth0",
    )
    ran(Replay([[route, step(HandshakeCode.INIT_SENT, BERLIN)]]), StoryTableSink(out))

    assert "\x1b" not in written(out)
    assert "eth0" in written(out)


class Clock(Host):
    """A host whose time passes by half a second with each look at it."""

    now_s = 0.0

    def elapsed_s(self) -> float:
        """Seconds since the start."""
        self.now_s += 0.5
        return self.now_s


def intervals(sink: StorySink) -> None:
    """A run with an interval of a second, in which the kernel counts on."""
    counting = source()

    def more() -> None:
        counting.times = [
            bucket(17, INITIATOR, 1, 0),
            bucket(19, INITIATOR, 0, 7),
            bucket(8, RESPONDER, 23, 0),
        ]

    counting.polls += [[], [], [], [more], [], [], []]
    run = HandshakesRun(counting, Clock(), [sink], Filter(reasons=REASONS), interval_s=1.0)
    run.start()
    with Signals() as signals:
        run.run(Limits(), signals)


def test_times_of_each_interval() -> None:
    """Only what is new in it, and a line only where something is."""
    out = io.StringIO()
    intervals(JsonLinesSink(out))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    for line in lines:
        jsonschema.validate(line, SCHEMA, cls=jsonschema.Draft202012Validator)
    found = [line for line in lines if line["type"] == "histogram"]

    told = [(line["part"], line["stage"], line["count"]) for line in found]
    assert told == [
        ("interval", "initiator", 3),
        ("interval", "responder", 23),
        ("interval", "initiator", 5),
        ("whole", "initiator", 8),
        ("whole", "responder", 23),
    ]


def test_a_heat_map_over_time() -> None:
    """A scale, then a line for each interval and role; no steps between them."""
    out = console(100)
    intervals(StoryTableSink(out, rows=False, heat_map=True))
    lines = written(out).splitlines()

    at = next(number for number, line in enumerate(lines) if line.startswith("TIME"))
    assert [line.split()[1] for line in lines[at + 1 : at + 4]] == ["initiator", "responder", "initiator"]
    assert all(line.count("|") == 2 for line in lines[at + 1 : at + 4])
    assert lines[at + 2].endswith("|       23  max 255ns")


def test_intervals_without_a_map_are_lines_with_percentiles() -> None:
    """Beside the steps."""
    out = console(100)
    intervals(StoryTableSink(out))

    assert "initiator   3 handshakes: p50" in written(out)
    assert "handshake wanted" in written(out)
