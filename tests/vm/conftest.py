# SPDX-License-Identifier: GPL-2.0-only
"""Boots need QEMU, reading what they leave needs tshark: else these tests skip, or fail in CI."""

from __future__ import annotations

import os
import shutil

import pytest

NEEDED = ("qemu-system-x86_64", "mmdebstrap", "mksquashfs", "tshark", "capinfos")


@pytest.fixture(autouse=True, scope="session")
def _virtual_machine() -> None:
    """Skip every test that boots where that cannot be, unless it must be possible here."""
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if not missing:
        return
    reason = f"no virtual machine here: {', '.join(missing)} not found (make setup)"
    if "vm" in os.environ.get("WGTRACE_REQUIRE", "").split(","):
        pytest.fail(f"{reason}; WGTRACE_REQUIRE wants it")
    pytest.skip(reason)
