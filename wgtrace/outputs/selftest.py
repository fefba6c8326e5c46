# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace selftest`: each reason, how many were sent and seen, and what follows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from rich.console import Console

from wgtrace.diagnosis.words import count_of
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import put
from wgtrace.outputs.fields import Json, rfc3339
from wgtrace.outputs.jsonl import SCHEMA
from wgtrace.outputs.summary import wrapped
from wgtrace.report import SelftestReport, SelftestRow, Verdict

_WORDS: Final = {
    Verdict.SEEN: "seen",
    Verdict.NOT_SEEN: "NOT SEEN on this kernel",
    Verdict.MISCOUNTED: "NOT ALL SEEN",
    Verdict.NOT_STAGED: "NOT PROVOKED",
    Verdict.NOT_PROVOKED: "not provoked",
}
_STYLES: Final = {Verdict.SEEN: "", Verdict.NOT_PROVOKED: "dim"}


def print_selftest(console: Console, report: SelftestReport) -> None:
    """Write the table and, below it, what it proves."""
    width = max(len(_reason(row)) for row in report.rows)
    put(console, (f"{'REASON':<{width}}  SENT  SEEN  VERDICT", "dim"))
    for row in report.rows:
        counts = "   -     -" if row.verdict is Verdict.NOT_PROVOKED else f"{row.sent:>4}  {row.seen:>4}"
        said = ": ".join(filter(None, (_WORDS[row.verdict], clean(row.because))))
        indent = " " * (width + 2 + len(counts) + 2)
        lines = [*wrapped(indent + said, max(console.width, len(indent) + 24), indent)]
        head = f"{_reason(row):<{width}}  {counts}  "
        for line in (head + lines[0][len(indent) :], *lines[1:]):
            put(console, (line, _STYLES.get(row.verdict, "bold red")))
    put(console)
    for line in wrapped(_conclusion(report), max(console.width, 40), "  "):
        put(console, (line, "" if report.has_passed else "bold red"))


def selftest_json(report: SelftestReport) -> Iterator[str]:
    """The run as JSON lines without their ends: `selftest` for each row, then `selftest_summary`."""
    for row in report.rows:
        yield _line(
            "selftest",
            report,
            {
                "direction": row.reason.direction.value,
                "reason": row.reason.id,
                "sub_reason": row.sub_reason.id,
                "how": row.how or None,
                "sent": row.sent,
                "seen": row.seen,
                "verdict": row.verdict.value,
                "because": clean(row.because) or None,
            },
        )
    yield _line(
        "selftest_summary",
        report,
        {
            "version": report.version,
            "kernel": clean(report.kernel),
            "bcc": report.bcc,
            "duration_s": round(report.duration_s, 3),
            "provoked": len(report.provoked),
            "seen": sum(row.verdict is Verdict.SEEN for row in report.rows),
            "passed": report.has_passed,
        },
    )


def _reason(row: SelftestRow) -> str:
    return " ".join(filter(None, (row.reason.id, row.sub_reason.id)))


def _conclusion(report: SelftestReport) -> str:
    provoked = report.provoked
    wrong = sum(row.verdict is not Verdict.SEEN for row in provoked)
    where = f"Linux {clean(report.kernel)}, BCC {report.bcc}, {report.duration_s:.0f} s"
    if report.has_passed:
        reasons = count_of(len({row.reason for row in provoked}), "reason")
        said = f"{reasons} provoked, {sum(row.sent for row in provoked):,} packets: every one was seen"
    else:
        said = f"{wrong} of {len(provoked)} rows are not as they should be"
    return f"{said} ({where})."


def _line(kind: str, report: SelftestReport, body: Json) -> str:
    line: Json = {"schema": SCHEMA, "type": kind, "ts": rfc3339(report.ts_unix_ns), **body}
    return json.dumps(line, separators=(",", ":"))
