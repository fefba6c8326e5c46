# SPDX-License-Identifier: GPL-2.0-only
"""What cannot be undone in a guest, so it comes last: the module unloaded, and the kernel locked down."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from scenes import send, wait_until
from slow import SlowScenes
from tracer import Tracer, bpf_objects

from wgtrace.lab.topology import two_hosts

pytestmark = pytest.mark.soak

MODULES = Path("/proc/modules")
SECURITY = Path("/sys/kernel/security")
GARBAGE = b"\x09\x00\x00\x00" + bytes(60)


def _rmmod() -> subprocess.CompletedProcess[str]:
    return subprocess.run(["rmmod", "wireguard"], capture_output=True, text=True, check=False)


def _is_held() -> bool:
    """Whether somebody holds a reference to the module: the third column of lsmod(8)."""
    (line,) = (line for line in MODULES.read_text().splitlines() if line.startswith("wireguard "))
    return int(line.split()[2]) > 0


def test_the_module_unloaded_under_us(tracer: Tracer, slow_scenes: SlowScenes, tmp_path: Path) -> None:
    """fentry keeps the module busy while it lasts; under kprobes it goes, and the run says so and ends."""
    assert tracer.end() == 0, tracer.stderr
    wait_until(lambda: not _is_held())
    own = Tracer(["--all"], tmp_path / "ready")
    with two_hosts(ifname="module0") as net:
        send(net.a, net.b, [GARBAGE] * 7)
        wait_until(lambda: _counted(own) == 7)
        if _is_held():
            refused = _rmmod()
            assert refused.returncode != 0
            assert "in use" in refused.stderr
            send(net.a, net.b, [GARBAGE] * 4)
            wait_until(lambda: _counted(own) == 11)
            assert own.end() == 0
            assert _rmmod().returncode == 0
        else:
            assert _rmmod().returncode == 0
            assert own.process.wait(timeout=180) == 3
            assert "the wireguard module was unloaded" in own.stderr
            assert own.end() == 3
            assert [line["type"] for line in own.lines][-1] == "summary"
            assert "the wireguard module was unloaded" in own.lines[-1]["incomplete_because"]
            assert _sum(own.lines[-1]) == 7
    wait_until(lambda: bpf_objects() == [])
    subprocess.run(["modprobe", "wireguard"], check=True)
    with two_hosts(ifname="module1") as net:  # loaded again, at other addresses
        again = Tracer(["--netns", net.b.netns, "--count", "5"], tmp_path / "again")
        send(net.a, net.b, [GARBAGE] * 5)
        assert again.process.wait(timeout=180) == 0
        again.end()
        assert _sum(again.lines[-1]) == 5


def _sum(summary: dict[str, object]) -> int:
    totals = summary["totals"]
    assert isinstance(totals, list)
    return sum(total["count"] for total in totals if total["ifname"].startswith("module"))


def _counted(tracer: Tracer) -> int:
    return _sum(tracer.summary())


def test_a_kernel_locked_down(tracer: Tracer) -> None:
    """Under lockdown=confidentiality: exit status 3, what forbids it, what to do; nothing stays."""
    if not (SECURITY / "lockdown").exists():
        subprocess.run(["mount", "-t", "securityfs", "none", SECURITY], check=True)
    assert tracer.end() == 0
    before = bpf_objects()
    (SECURITY / "lockdown").write_text("confidentiality")
    with two_hosts(ifname="locked0") as net:
        for command in (["drops", "--netns", net.b.netns], ["probes"]):
            done = subprocess.run(
                ["wgtrace", *command], capture_output=True, text=True, check=False, env=dict(os.environ)
            )
            assert done.returncode == 3, done.stdout + done.stderr
            assert "lockdown=confidentiality" in done.stderr
            assert "Traceback" not in done.stderr
            assert done.stdout == ""
    assert bpf_objects() == before
