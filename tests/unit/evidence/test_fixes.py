# SPDX-License-Identifier: GPL-2.0-only
"""Known fixes: which release of which series has which."""

from __future__ import annotations

import pytest

from wgtrace.evidence.fixes import FIXES, Has, Version, has, version_of

BY_COMMIT = {fix.commit: fix for fix in FIXES}
THREADED = "revert of db9ae3b6b43c"


@pytest.mark.parametrize(
    ("commit", "kernel", "expected"),
    [
        ("d0305f8d9002", (6, 1, 190), Has.NO),
        ("d0305f8d9002", (6, 1, 192), Has.YES),
        ("d0305f8d9002", (6, 12, 107), Has.NO),
        ("d0305f8d9002", (6, 12, 117), Has.YES),
        ("d0305f8d9002", (7, 3, 0), Has.YES),
        ("d0305f8d9002", (7, 2, 10), Has.NO),
        ("d0305f8d9002", (6, 6, 99), Has.UNKNOWN),
        ("d0305f8d9002", (5, 4, 1), Has.YES),  # without the bug
        ("f75e3eb08fe3", (6, 1, 170), Has.NO),
        ("f75e3eb08fe3", (6, 1, 176), Has.YES),
        ("f75e3eb08fe3", (7, 1, 0), Has.YES),
        ("60a25ef8dacb", (6, 1, 192), Has.NO),
        ("60a25ef8dacb", (6, 12, 115), Has.YES),
        ("5bd8de20770c", (6, 12, 117), Has.NO),
        ("5bd8de20770c", (6, 18, 1), Has.YES),
        (THREADED, (6, 1, 141), Has.YES),
        (THREADED, (6, 1, 142), Has.NO),
        (THREADED, (6, 1, 164), Has.YES),
        (THREADED, (7, 2, 13), Has.NO),
        (THREADED, (6, 15, 3), Has.YES),
    ],
)
def test_who_has_it(commit: str, kernel: Version, expected: Has) -> None:
    """In a stable series by its patch level, else by the release; where nobody said so, it is not known."""
    assert has(BY_COMMIT[commit], kernel) is expected


@pytest.mark.parametrize(
    ("release", "version", "expected"),
    [
        ("6.12.117+deb13-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-12)", (6, 12, 117)),
        ("6.1.0-44-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.170-3 (2026-09-01)", (6, 1, 170)),
        ("7.3.0-rc7", "#2 SMP", (7, 3, 0)),
        ("7.3-rc7", "#2 SMP", (7, 3, 0)),
        ("next", "", None),
    ],
)
def test_which_version_it_is(release: str, version: str, expected: Version | None) -> None:
    """Debian's `uname -r` may be an ABI number; its `uname -v` has the package's version."""
    assert version_of(release, version) == expected
