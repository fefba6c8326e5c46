# SPDX-License-Identifier: GPL-2.0-only
"""A test that cannot run skips and says what is missing; where WGTRACE_REQUIRE is set that is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """One place for every skip, by a mark, a fixture or a call: CI cannot be green by skipping."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("WGTRACE_REQUIRE"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"{reason}; WGTRACE_REQUIRE wants it"
