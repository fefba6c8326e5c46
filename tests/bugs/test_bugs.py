# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of real kernels: there on a kernel of before the fix, gone on one of after it, and seen so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BUGS = Path(__file__).parent
LAB = [sys.executable, "-m", "wgtrace", "lab"]
BEFORE, AFTER, RUNS = "6.1.170", "6.1", 2
_ROW = re.compile(r"^(\S+) +(\S+) +(\d+) +(\d+)  (.*)$", re.MULTILINE)
_LOOKS = re.compile(r"^ +(\w+): violated (\d+) of (\d+) times$", re.MULTILINE)


def _table(said: str) -> dict[str, tuple[int, int, dict[str, tuple[int, int]]]]:
    """By kernel: runs, how many failed, and the invariants."""
    rows = list(_ROW.finditer(said))
    ends = [row.start() for row in rows[1:]] + [len(said)]
    found = {}
    for row, end in zip(rows, ends, strict=True):
        looks = {name: (int(v), int(n)) for name, v, n in _LOOKS.findall(said[row.end() : end])}
        found[row[1]] = int(row[3]), int(row[4]), looks
    return found


@pytest.mark.parametrize(
    ("script", "invariant", "append"),
    [("padding.sh", "padding_zero", "init_on_alloc=0"), ("pacing.sh", "tstamp_type", "")],
)
def test_a_bug_is_there_before_its_fix_and_gone_after(
    script: str, invariant: str, append: str, tmp_path: Path
) -> None:
    """Script and invariant agree on both kernels; what is kept of the first failure tells it."""
    command = [*LAB, "repro", str(BUGS / script), "--runs", str(RUNS), "--append", append]
    command += ["--kernel", BEFORE, "--kernel", AFTER, "--copy-out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1, done.stdout + done.stderr
    table = _table(done.stdout)
    assert [(kernel, runs, failed) for kernel, (runs, failed, _) in table.items()] == [
        (BEFORE, RUNS, RUNS),
        (AFTER, RUNS, 0),
    ]
    before, after = table[BEFORE][2][invariant], table[AFTER][2][invariant]
    assert before[0] > 0
    assert after[0] == 0
    assert after[1] > 0

    archive = tmp_path / "out" / BEFORE / "evidence.tar.gz"
    subprocess.run(["tar", "-xzf", archive, "-C", tmp_path], check=True)
    case = tmp_path / "evidence"
    checked = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=case, check=False)
    assert checked.returncode == 0
    replay = [sys.executable, "-m", "wgtrace", "replay", "--json", "-q", str(case / "recording.rec")]
    said = subprocess.run(replay, capture_output=True, text=True, check=True).stdout.splitlines()
    findings = [line for line in map(json.loads, said) if line["type"] == "finding"]
    assert "known-kernel-bug" in {finding["slug"] for finding in findings}
    violated = sum(look["violated"] for look in json.loads(said[-1])["invariants"])
    assert f"**{violated}**" in (case / "report.md").read_text()
    assert (case / "repro.sh").read_bytes() == (BUGS / script).read_bytes()
