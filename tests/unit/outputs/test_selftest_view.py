# SPDX-License-Identifier: GPL-2.0-only
"""The table and the JSON lines of `wgtrace selftest`."""

from __future__ import annotations

import io
import json

import jsonschema
import pytest
from rich.console import Console

from wgtrace.events.reasons import Reason, SubReason
from wgtrace.outputs.jsonl import json_schema
from wgtrace.outputs.selftest import print_selftest, selftest_json
from wgtrace.report import SelftestReport, SelftestRow, Verdict

SEEN = SelftestRow(Reason.BAD_HEADER, SubReason.TOO_SHORT, Verdict.SEEN, "2 bytes", 23, 23)
NOT_SEEN = SelftestRow(
    Reason.STAGED_PURGED_IFDOWN,
    SubReason.NONE,
    Verdict.NOT_SEEN,
    "down",
    23,
    0,
    "no probe on wg_x: gone\x1b[2J",
)
MISCOUNTED = SelftestRow(Reason.DECRYPT_FAILED, SubReason.NONE, Verdict.MISCOUNTED, "a bit", 23, 22)
NOT_STAGED = SelftestRow(
    Reason.UDP_SOCK_NULL, SubReason.NONE, Verdict.NOT_STAGED, "orphan", because="no unshare"
)
NOT_PROVOKED = SelftestRow(
    Reason.KEYPAIR_EXPIRED, SubReason.NONE, Verdict.NOT_PROVOKED, because="needs 180 s"
)


def report(*rows: SelftestRow) -> SelftestReport:
    """A run with these rows."""
    return SelftestReport(1_795_000_000_000_000_007, "0.1.0", "6.12.117-amd64", "0.31.0", 12.34, rows)


def table(*rows: SelftestRow, width: int = 100) -> list[str]:
    """The lines of the table."""
    out = io.StringIO()
    print_selftest(Console(file=out, width=width, highlight=False, markup=False), report(*rows))
    return out.getvalue().splitlines()


def test_the_table_of_a_kernel_where_all_is_seen() -> None:
    """Counts side by side, why the rest was not provoked, and what it proves."""
    assert table(SEEN, NOT_PROVOKED) == [
        "REASON                SENT  SEEN  VERDICT",
        "bad_header too_short    23    23  seen",
        "keypair_expired          -     -  not provoked: needs 180 s",
        "",
        "1 reason provoked, 23 packets: every one was seen (Linux 6.12.117-amd64, BCC 0.31.0, 12 s).",
    ]


def test_the_table_of_a_kernel_where_it_is_not() -> None:
    """What is not seen, not all seen or could not be tried says so, and why; control characters are gone."""
    assert table(SEEN, NOT_SEEN, MISCOUNTED, NOT_STAGED) == [
        "REASON                SENT  SEEN  VERDICT",
        "bad_header too_short    23    23  seen",
        "staged_purged_ifdown    23     0  NOT SEEN on this kernel: no probe on wg_x: gone[2J",
        "decrypt_failed          23    22  NOT ALL SEEN",
        "udp_sock_null            0     0  NOT PROVOKED: no unshare",
        "",
        "3 of 4 rows are not as they should be (Linux 6.12.117-amd64, BCC 0.31.0, 12 s).",
    ]


def test_a_narrow_terminal() -> None:
    """A long reason goes on below its column."""
    lines = table(NOT_SEEN, width=60)

    assert all(len(line) <= 60 for line in lines)
    assert lines[2].startswith(" " * 34)


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ((SEEN,), True),
        ((SEEN, NOT_PROVOKED), True),
        ((SEEN, NOT_SEEN), False),
        ((SEEN, MISCOUNTED), False),
        ((SEEN, NOT_STAGED), False),
        ((NOT_PROVOKED,), False),
        ((), False),
    ],
)
def test_what_passes(rows: tuple[SelftestRow, ...], passed: bool) -> None:
    """Only a run that provoked something, and saw all of it, has passed."""
    assert report(*rows).has_passed is passed


def test_json_lines_fit_the_schema() -> None:
    """A line for each row and a summary; each is as schema.json says."""
    rows = (SEEN, NOT_SEEN, MISCOUNTED, NOT_STAGED, NOT_PROVOKED)
    lines = [json.loads(line) for line in selftest_json(report(*rows))]

    for line in lines:
        jsonschema.validate(line, json_schema())
    assert [line["type"] for line in lines] == ["selftest"] * 5 + ["selftest_summary"]
    assert [line["verdict"] for line in lines[:-1]] == [verdict.value for verdict in Verdict]  # all there are
    assert [lines[0][name] for name in ("reason", "sub_reason", "sent", "seen", "how", "because")] == [
        *("bad_header", "too_short", 23, 23, "2 bytes", None)
    ]
    assert (lines[-1]["provoked"], lines[-1]["seen"], lines[-1]["passed"]) == (4, 1, False)
