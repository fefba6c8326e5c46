# SPDX-License-Identifier: GPL-2.0-only
"""In the lab's guest: runs a script so many times under `wgtrace record`, and keeps the first failure.

It says what it did as JSON objects, a line each; `repro` on the host reads them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

SKIPPED: Final = 4
WORK = Path("/run/repro")
_START_S: Final = 900
_RUN_S: Final = 600


def main() -> int:
    """Run the script; 0: all runs were made, however they ended."""
    script, runs = sys.argv[1], int(sys.argv[2])
    out, work = Path(os.environ["WGTRACE_LAB_OUT"]), WORK
    work.mkdir(mode=0o700)
    _say(release=platform.release())
    recorder = _recorder(work / "1.rec")
    is_kept = False
    for run in range(1, runs + 1):
        status, said = _run(script)
        last = said.strip().splitlines()[-1] if said.strip() else ""
        _say(run=run, status=status, last=last)
        if status == SKIPPED:
            break
        if status and not is_kept:
            is_kept = True
            (out / "first-failure.txt").write_text(said)
            _end(recorder)
            _keep(work / "1.rec", script, out)
            recorder = _recorder(work / "2.rec") if run < runs else None
    _end(recorder)
    _say(invariants=_invariants(path for path in (work / "1.rec", work / "2.rec") if path.exists()))
    return 0


def _say(**told: object) -> None:
    print(json.dumps(told), flush=True)  # noqa: T201 - its one reader is a program


def _run(script: str) -> tuple[int, str]:
    """The exit status of a run and what it said; 124: it did not end."""
    try:
        done = subprocess.run(
            ["bash", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_RUN_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        return 124, (exc.stdout or b"").decode(errors="replace") + f"\nit did not end within {_RUN_S} s"
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return status, done.stdout.decode(errors="replace")


def _recorder(path: Path) -> subprocess.Popen[bytes] | None:
    """A running recorder, attached; None: it does not start, and that is said."""
    ready = path.with_suffix(".ready")
    command = [
        "wgtrace",
        "record",
        "--all",
        "-q",
        "-o",
        str(path),
        "--ready-file",
        str(ready),
        "--invariants",
    ]
    recorder = subprocess.Popen(command)
    deadline = time.monotonic() + _START_S
    while not ready.exists():
        if recorder.poll() is not None or time.monotonic() > deadline:
            recorder.kill()
            recorder.wait()
            _say(trouble="wgtrace record did not start: not traced")
            return None
        time.sleep(0.05)
    return recorder


def _end(recorder: subprocess.Popen[bytes] | None) -> None:
    if recorder:
        recorder.terminate()  # SIGINT may be ignored here, as in what a shell runs in the background
        recorder.wait()


def _invariants(recordings: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """How often each was violated, and looked at, in all runs."""
    found: dict[str, tuple[int, int]] = {}
    for recording in recordings:
        command = ["wgtrace", "replay", "--json", "-q", str(recording)]
        said = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout.splitlines()
        summary = json.loads(said[-1]) if said else {}
        for look in summary.get("invariants", ()):
            violated, count = found.get(look["invariant"], (0, 0))
            here = look["violated"]
            found[look["invariant"]] = violated + here, count + here + look["held"]
    return found


def _keep(recording: Path, script: str, out: Path) -> None:
    """The archive of the run that failed."""
    if not recording.exists():
        return
    command = ["wgtrace", "evidence", "-q", "-o", str(out / "evidence.tar.gz"), str(recording)]
    command += ["--repro", script]
    if subprocess.run(command, check=False).returncode:
        _say(trouble="wgtrace evidence failed")


if __name__ == "__main__":
    sys.exit(main())
