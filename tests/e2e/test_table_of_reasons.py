# SPDX-License-Identifier: GPL-2.0-only
"""Every reason there is: provoked on this kernel, as many reported as sent, or why it was not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ledger import NOT_PROVOKED, Ledger

from wgtrace.events.reasons import Reason


def test_the_table(ledger: Ledger, request: pytest.FixtureRequest) -> None:
    """Each reason was provoked in this session with equal counts, or the list says why it cannot be."""
    table = ledger.table()
    Path(os.environ["WGTRACE_LAB_OUT"], "reasons.txt").write_text(table)

    provoked = {reason for reason, row in ledger.rows.items() if row.sent}
    missing = [r.id for r in Reason if r not in provoked and r not in NOT_PROVOKED]
    assert not missing, table
    assert [r.id for r, row in ledger.rows.items() if row.sent != row.reported] == []
