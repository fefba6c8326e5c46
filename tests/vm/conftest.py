# SPDX-License-Identifier: GPL-2.0-only
"""Boots need QEMU, reading what they leave needs tshark: else these tests skip."""

from __future__ import annotations

import shutil

import pytest

NEEDED = ("qemu-system-x86_64", "mmdebstrap", "mksquashfs", "tshark", "capinfos")


@pytest.fixture(autouse=True, scope="session")
def _virtual_machine() -> None:
    """Skip every test that boots where that cannot be."""
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing:
        pytest.skip(f"no virtual machine here: {', '.join(missing)} not found (make setup)")
