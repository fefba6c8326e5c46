# SPDX-License-Identifier: GPL-2.0-only
"""The end-to-end tests of tests/e2e, inside the lab, on every kernel of the matrix."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import pytest

from wgtrace.lab import debian

pytestmark = pytest.mark.vm

E2E = Path(__file__).parent.parent / "e2e"
KERNELS = list(debian.kernels())
LEAST = 40  # so many there are: a run that collects nothing is no success
AT_ONCE = 2  # a guest waits for timers half of its time

Run = subprocess.CompletedProcess[str]


def _run(kernel: str, out: Path) -> Run:
    command = [sys.executable, "-m", "wgtrace", "lab", "run", "--kernel", kernel, "--timeout", "2400"]
    pytest_in_guest = "python3 -m pytest -p no:cacheprovider --durations=5 /mnt/host/e2e"
    guest = f"{pytest_in_guest} --junitxml=$WGTRACE_LAB_OUT/e2e.xml"
    arguments = ["--mount", str(E2E), "--copy-out", str(out), "--", "sh", "-c", guest]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, tuple[Path, Future[Run]]]]:
    """A run on each kernel that is tested, begun at once."""
    wanted = [k for k in KERNELS if any(f"[{k}]" in item.name for item in request.session.items)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outs = {kernel: tmp_path_factory.mktemp(f"e2e-{kernel}") for kernel in wanted}
        yield {kernel: (out, pool.submit(_run, kernel, out)) for kernel, out in outs.items()}


@pytest.mark.parametrize("kernel", KERNELS)
def test_end_to_end(kernel: str, runs: dict[str, tuple[Path, Future[Run]]]) -> None:
    """Every end-to-end test passes on this kernel, none is skipped."""
    out, run = runs[kernel]
    done = run.result()

    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    (suite,) = ElementTree.parse(out / "e2e.xml").getroot().iter("testsuite")
    assert int(suite.attrib["tests"]) >= LEAST, output
    assert (suite.attrib["failures"], suite.attrib["errors"], suite.attrib["skipped"]) == ("0", "0", "0")
    print(done.stdout)
