# SPDX-License-Identifier: GPL-2.0-only
"""A script run on several kernels, again and again, under tracing: how often it fails on each.

This half is on the host; `repro_guest` runs in each guest and says how each run went.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from wgtrace.errors import UsageError
from wgtrace.lab import image, vm

SKIPPED: Final = 4
"""The exit status of a script that cannot run there, as of the kernel's own selftests."""
_SCRIPT: Final = "script"


@dataclass
class Runs:
    """What became of the script on one kernel.

    Attributes:
        kernel: The name that was asked for; release: `uname -r` there.
        statuses: Exit status of each run.
        first_failure: The last line of the first run that failed.
        evidence: The archive of it, None: there is none.
        trouble: Why there are not all of the runs, "" if there are.
        invariants: By id, how often each was violated, and how often it was looked at.
    """

    kernel: str
    release: str = ""
    statuses: list[int] = field(default_factory=list)
    first_failure: str = ""
    evidence: Path | None = None
    trouble: str = ""
    invariants: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(status not in (0, SKIPPED) for status in self.statuses)

    @property
    def is_skipped(self) -> bool:
        """Whether it cannot run there."""
        return SKIPPED in self.statuses


Boot = Callable[[vm.Job, image.Say, io.BytesIO], int]


def _boot(job: vm.Job, say: image.Say, said: io.BytesIO) -> int:
    return vm.run(job, say, stdout=said)


def repro(
    script: Path,
    kernels: Sequence[str],
    runs: int,
    out: Path,
    say: image.Say,
    timeout: float | None,
    boot: Boot = _boot,
    append: str = "",
) -> Iterator[Runs]:
    """Run a script on each of these kernels.

    Args:
        out: Where a directory for each kernel is made, with what its guest left.
        timeout: Seconds that all runs on a kernel may take.
        boot: Runs a job in a guest.
        append: Added to the kernels' command lines.

    Raises:
        UsageError: There is no such script or kernel.
        LabError: A guest did not boot, or died.
    """
    if not script.is_file():
        raise UsageError(f"there is no script {script}")
    with tempfile.TemporaryDirectory(prefix="wgtrace-") as directory:
        mount = Path(directory, "repro")
        mount.mkdir()
        shutil.copyfile(script, mount / _SCRIPT)
        for kernel in kernels:
            there = out / kernel
            argv = ("python3", "-m", "wgtrace.lab.repro_guest", f"/mnt/host/repro/{_SCRIPT}", str(runs))
            said = io.BytesIO()
            status = boot(vm.Job(kernel, argv, timeout, [mount], there, append=append), say, said)
            told = _told(kernel, said.getvalue())
            archive = there / "evidence.tar.gz"
            told.evidence = archive if archive.exists() else None
            if status and not told.trouble:
                told.trouble = f"the runs ended with status {status}"
            yield told


def _told(kernel: str, said: bytes) -> Runs:
    """What the guest said, a JSON object a line."""
    runs = Runs(kernel)
    for line in said.decode(errors="replace").splitlines():
        try:
            told: Any = json.loads(line)
        except ValueError:
            continue
        if not isinstance(told, dict):
            continue
        runs.release = told.get("release", runs.release)
        runs.trouble = told.get("trouble", runs.trouble)
        for name, (violated, count) in told.get("invariants", {}).items():
            runs.invariants[str(name)] = int(violated), int(count)
        if "status" in told:
            runs.statuses.append(int(told["status"]))
            if runs.failed == 1 and not runs.first_failure:
                runs.first_failure = str(told.get("last", ""))
    return runs
