# SPDX-License-Identifier: GPL-2.0-only
"""tests/bench goes on working: a very short round on one kernel. How much anything costs is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm

ROOT = Path(__file__).parent.parent.parent


def test_a_short_round_measures_everything() -> None:
    """Each figure of the table is there, and every drop of the storm was counted."""
    short = ["--pairs", "1", "--runs", "1", "--trips", "23", "--drops", "23", "--storm", "206"]
    short += ["--no-others", "--json"]
    command = [sys.executable, "-m", "tests.bench", "--kernel", "6.12", *short]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    found = json.loads(done.stdout)
    on = found["kernels"]["6.12"]
    assert on["storm"]["counted"] == on["storm"]["sent"] == {"bad_header": 113, "allowedips_no_peer": 103}
    assert on["tools"]["wgtrace"]["good"][0] >= 1
    assert min(on["tools"]["wgtrace"]["untraced"]) > 10_000
    assert on["start"]["first"] > on["start"]["later"] > 0
    assert min(found["user_space"]["json"], found["user_space"]["table"]) > 0
