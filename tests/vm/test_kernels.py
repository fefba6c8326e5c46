# SPDX-License-Identifier: GPL-2.0-only
"""The end-to-end tests of tests/e2e, inside the lab, on every kernel of the matrix."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from wgtrace.lab import debian

pytestmark = pytest.mark.vm

E2E = Path(__file__).parent.parent / "e2e"
LEAST = 30  # so many there are: a run that collects nothing is no success


@pytest.mark.parametrize("kernel", list(debian.kernels()))
def test_end_to_end(kernel: str, tmp_path: Path) -> None:
    """Every end-to-end test passes on this kernel, none is skipped."""
    command = [sys.executable, "-m", "wgtrace", "lab", "run", "--kernel", kernel, "--timeout", "1500"]
    pytest_in_guest = "python3 -m pytest -p no:cacheprovider --durations=5 /mnt/host/e2e"
    guest = f"{pytest_in_guest} --junitxml=$WGTRACE_LAB_OUT/e2e.xml"
    arguments = ["--mount", str(E2E), "--copy-out", str(tmp_path), "--", "sh", "-c", guest]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    (suite,) = ElementTree.parse(tmp_path / "e2e.xml").getroot().iter("testsuite")
    assert int(suite.attrib["tests"]) >= LEAST, output
    assert (suite.attrib["failures"], suite.attrib["errors"], suite.attrib["skipped"]) == ("0", "0", "0")
    print(done.stdout)
