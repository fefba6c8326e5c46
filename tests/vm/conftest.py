# SPDX-License-Identifier: GPL-2.0-only
"""Boots need QEMU, reading what they leave needs tshark: else these tests skip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from wgtrace.lab import debian

NEEDED = ("qemu-system-x86_64", "mmdebstrap", "mksquashfs", "tshark", "capinfos")
E2E = Path(__file__).parent.parent / "e2e"
KERNELS = debian.kernels()

Run = subprocess.CompletedProcess[str]


@pytest.fixture(autouse=True, scope="session")
def _virtual_machine() -> None:
    """Skip every test that boots where that cannot be."""
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing:
        pytest.skip(f"no virtual machine here: {', '.join(missing)} not found (make setup)")


def _marks(kernel: str) -> str:
    """What no kernel changes is tested on the first one of each Debian release, or of all."""
    release = KERNELS[kernel].release
    if next(iter(KERNELS)) == kernel:
        return "not soak"
    is_first = next(name for name, each in KERNELS.items() if each.release == release) == kernel
    return "not soak and not once" if is_first else "not soak and not once and not userland"


def _run(kernel: str, out: Path) -> Run:
    command = [sys.executable, "-m", "wgtrace", "lab", "run", "--kernel", kernel, "--timeout", "5000"]
    marks = f"-m '{_marks(kernel)}'"
    pytest_in_guest = f"python3 -m pytest -p no:cacheprovider {marks} --durations=9 /mnt/host/e2e"
    guest = f"{pytest_in_guest} --junitxml=$WGTRACE_LAB_OUT/e2e.xml"
    arguments = ["--mount", str(E2E), "--copy-out", str(out), "--", "sh", "-c", guest]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True, scope="session")
def runs(
    _virtual_machine: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, tuple[Path, Future[Run]]]]:
    """The end-to-end tests on each kernel that is asked for.

    They begin with the first test of this folder, one for each CPU (an emulated one keeps
    most of a CPU busy), those first that take longest; the other tests go on beside them.
    """
    names = [item.name for item in request.session.items if item.path.name == "test_kernels.py"]
    wanted = [kernel for kernel in KERNELS if any(f"[{kernel}]" in name for name in names)]
    wanted.sort(key=lambda kernel: len(_marks(kernel)))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        outs = {kernel: tmp_path_factory.mktemp(f"e2e-{kernel}") for kernel in wanted}
        yield {kernel: (out, pool.submit(_run, kernel, out)) for kernel, out in outs.items()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for those runs comes last."""
    items.sort(key=lambda item: item.path.name == "test_kernels.py")
