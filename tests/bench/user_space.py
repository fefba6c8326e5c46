# SPDX-License-Identifier: GPL-2.0-only
"""Drops a second that user space can take: decode, join, remember, write; by the CPU time of this process.

Records as the programs write them, of five reasons, go through a whole run of `wgtrace drops` to /dev/null:
of 250 flows that repeat, and as a scan has them, each of a flow of its own.
"""

from __future__ import annotations

import base64
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit")]

from factories import BERLIN, NETNS, PARIS  # noqa: E402
from records import flow4, record  # noqa: E402
from rich.console import Console  # noqa: E402
from stand_ins import Host, Replay, Step  # noqa: E402

from wgtrace.events.flow_filter import Filter  # noqa: E402
from wgtrace.events.reasons import Reason, SubReason  # noqa: E402
from wgtrace.events.wire import EventKind  # noqa: E402
from wgtrace.outputs.jsonl import JsonLinesSink  # noqa: E402
from wgtrace.outputs.table import TableSink  # noqa: E402
from wgtrace.pipeline import DropsRun, Limits, Signals  # noqa: E402
from wgtrace.report import Sink  # noqa: E402

RECORDS = 20_000
BATCH = 100  # that the buffer has at once
FLOWS = 250
RUNS = 5
DEVICE = {"ifname": b"wg0", "netns": NETNS, "ifindex": 7}


def _peer(key: str) -> dict[str, object]:
    return {
        "known": 1,
        "public_key": base64.b64decode(key),
        "endpoint_addr": bytes([203, 0, 113, 9]),
        "endpoint_port": 51820,
        "endpoint_family": 4,
    }


def _record(number: int, flows: int) -> bytes:
    of = number % flows
    outer = flow4(f"203.0.{113 + of // 250}.{of % 250}", "198.51.100.1", 17, 1024 + of, 51820, 160)
    inner = flow4(f"10.9.{4 + of // 250}.{of % 250}", "10.9.0.1", 6, 40_000 + of % 250, 443, 60)
    kinds: list[tuple[Reason, dict[str, Any]]] = [
        (
            Reason.BAD_HEADER,
            {
                "sub_reason": SubReason.UNKNOWN_TYPE,
                "outer": outer,
                "payload": b"\x09" * 16,
                "payload_len": 100,
            },
        ),
        (
            Reason.SRC_NOT_ALLOWED,
            {"sub_reason": SubReason.OWNED_BY_NOBODY, "outer": outer, "inner": inner, "peer": _peer(BERLIN)},
        ),
        (
            Reason.REPLAY_OR_OLD_COUNTER,
            {
                "sub_reason": SubReason.DUPLICATE,
                "outer": outer,
                "nonce": number,
                "max_nonce": number + 7,
                "peer": _peer(PARIS),
            },
        ),
        (Reason.ALLOWEDIPS_NO_PEER, {"inner": inner}),
        (Reason.INVALID_MAC1, {"outer": outer, "message_type": 1, "sender_index": number}),
    ]
    reason, values = kinds[number % 5]
    header: dict[str, Any] = {
        "device": DEVICE,
        "location": 0xFFFFFFFFC0401234 + number % 5 * 64,
        "kernel_reason": 2,
        "matched": 1,
    }
    return record(EventKind.DROP, reason=reason, **header, **values)


def rate(sink: Sink, records: list[bytes]) -> float:
    """Records a second of CPU time, through a whole run."""
    batches: list[list[Step]] = [list(records[at : at + BATCH]) for at in range(0, len(records), BATCH)]
    run = DropsRun(Replay(batches, ends=True), Host(), [sink], Filter())
    with Signals() as signals:
        before = time.process_time()
        run.run(Limits(), signals)
        return len(records) / (time.process_time() - before)


def main() -> None:
    """Measure, and print it as JSON."""
    repeated = [_record(number, FLOWS) for number in range(RECORDS)]
    scan = [_record(number, RECORDS) for number in range(RECORDS)]
    with open("/dev/null", "w", encoding="utf-8") as out:
        json_lines = JsonLinesSink(out)
        table = TableSink(Console(file=out, width=200, force_terminal=True))
        measured: dict[str, tuple[Sink, list[bytes]]] = {
            "json": (json_lines, repeated),
            "json_scan": (json_lines, scan),
            "table": (table, repeated),
        }
        for sink, records in measured.values():
            rate(sink, records[:BATCH])
        rates = {name: [rate(*each) for _ in range(RUNS)] for name, each in measured.items()}
    print(json.dumps({name: statistics.median(each) for name, each in rates.items()}))


if __name__ == "__main__":
    main()
