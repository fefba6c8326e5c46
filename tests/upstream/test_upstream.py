# SPDX-License-Identifier: GPL-2.0-only
"""WireGuard's own netns.sh, as it is, passes under `wgtrace drops --all`, and every counter adds up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from upstream import netns_sh

from wgtrace.lab import debian

HERE = Path(__file__).parent
KERNELS = list(debian.kernels())


@pytest.mark.parametrize("kernel", KERNELS)
def test_netns_sh(kernel: str) -> None:
    """It passes; each step of each interface's error and drop counters is explained by a total."""
    mounts = (netns_sh(kernel), HERE, HERE.parent / "e2e")
    command = [sys.executable, "-m", "wgtrace", "lab", "run", "--kernel", kernel, "--timeout", "2400"]
    command += [word for mount in mounts for word in ("--mount", str(mount))]
    inside = f"python3 /mnt/host/upstream/guest_upstream.py /mnt/host/{mounts[0].name}/netns.sh /mnt/host/e2e"
    done = subprocess.run([*command, "--", *inside.split()], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "netns.sh ended with 0" in done.stdout
    print(done.stdout[done.stdout.index("netns.sh ended with 0") :])
