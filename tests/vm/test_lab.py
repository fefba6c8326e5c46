# SPDX-License-Identifier: GPL-2.0-only
"""The lab itself, with real boots; few, because each takes a while where there is no KVM."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm

LAB = [sys.executable, "-m", "wgtrace", "lab"]


def _start(*arguments: str) -> subprocess.Popen[str]:
    command = [*LAB, "run", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_labs_at_once_bring_back_what_happened(tmp_path: Path) -> None:
    """Two guests at once: status, both streams apart and in time, mounted and copied files."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "greeting").write_text("from the host\n")
    script = """
        echo first; sleep 3; echo last; echo complaint >&2
        cat /mnt/host/mounted/greeting
        test "$(id -u)" = 0 && test -d /sys/kernel/tracing/events && test -e /sys/kernel/btf/wireguard
        test "$WGTRACE_LAB" = 1 && python3 -c 'import wgtrace' && command -v wgtrace
        mkdir "$WGTRACE_LAB_OUT/deep"; echo to the host >"$WGTRACE_LAB_OUT/deep/answer"
        exit 23
    """
    out = tmp_path / "out"
    with (
        _start("--mount", str(mounted), "--copy-out", str(out), "--", "sh", "-c", script) as one,
        _start("--", "sh", "-c", "kill -9 $$") as two,
    ):
        assert one.stdout
        first, when_first = one.stdout.readline(), time.monotonic()
        second, when_second = one.stdout.readline(), time.monotonic()
        rest, stderr = one.communicate()
        two.communicate()

    assert (first, second, when_second - when_first > 1.5) == ("first\n", "last\n", True)
    assert rest == "from the host\n/usr/local/bin/wgtrace\n"
    assert "complaint\n" in stderr
    assert (one.returncode, two.returncode) == (23, 128 + 9)
    assert (out / "deep/answer").read_text() == "to the host\n"


def test_panic_is_its_own_error() -> None:
    """A panic of the guest's kernel is said as such, with what the kernel said last, and exits 4."""
    with _start("--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60") as lab:
        _, stderr = lab.communicate()

    assert lab.returncode == 4
    assert "the guest's kernel panicked" in stderr
    assert "sysrq triggered crash" in stderr


def test_timeout_is_its_own_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A command that takes too long is said as such, exits 4, and its guest is gone."""
    with _start("--timeout", "2", "--", "sleep", "600") as lab:
        _, stderr = lab.communicate()
    children = subprocess.run(["pgrep", "-P", str(lab.pid)], capture_output=True, check=False)

    assert lab.returncode == 4
    assert "the command did not end within 2 s" in stderr
    assert children.stdout == b""
