# SPDX-License-Identifier: GPL-2.0-only
"""`lab repro`: what the guest says becomes a table; the guest's half runs a script and says how it went."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from wgtrace.errors import LabError, UsageError
from wgtrace.lab import debian, image, vm
from wgtrace.lab.repro import Runs, repro

ROOT = Path(__file__).parents[3]


class Guest:
    """Stands for the machine: says what a test wrote, and sees the job.

    Args:
        said: What the guest writes to standard output.
    """

    def __init__(self, *said: object, status: int = 0, evidence: bool = False) -> None:
        self.jobs: list[vm.Job] = []
        self._said = b"".join(json.dumps(line).encode() + b"\n" for line in said)
        self._status = status
        self._evidence = evidence

    def __call__(self, job: vm.Job, _say: image.Say, said: io.BytesIO) -> int:
        """Boot."""
        self.jobs.append(job)
        assert (job.mounts[0] / "script").read_text() == "exit 0\n"
        said.write(self._said)
        if self._evidence and job.copy_out:
            job.copy_out.mkdir(parents=True)
            (job.copy_out / "evidence.tar.gz").touch()
        return self._status


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A script."""
    path = tmp_path / "repro.sh"
    path.write_text("exit 0\n")
    return path


def runs(guest: Guest, script: Path, kernels: Sequence[str] = ("6.1",)) -> list[Runs]:
    """What became of it."""
    return list(repro(script, kernels, 7, script.parent / "out", print, 60, guest))


def test_failures_are_counted_and_the_first_is_kept(script: Path) -> None:
    """Of seven runs two failed; the first one's last line and its archive are told."""
    guest = Guest(
        {"release": "6.1.176"},
        *({"run": n, "status": int(n in (3, 5)), "last": f"the end of {n}"} for n in range(1, 8)),
        {"invariants": {"padding_zero": [2, 9]}},
        evidence=True,
    )
    (told,) = runs(guest, script)

    assert (told.kernel, told.release, len(told.statuses), told.failed) == ("6.1", "6.1.176", 7, 2)
    assert told.first_failure == "the end of 3"
    assert told.invariants == {"padding_zero": (2, 9)}
    assert told.evidence == script.parent / "out/6.1/evidence.tar.gz"
    assert (told.trouble, told.is_skipped) == ("", False)
    assert guest.jobs[0].argv[-1] == "7"


def test_each_kernel_is_booted_once(script: Path) -> None:
    """In the order asked for, with a directory of its own for what it leaves."""
    guest = Guest({"release": "x"})
    told = runs(guest, script, ("6.12", "6.1.176"))

    assert [job.kernel for job in guest.jobs] == [each.kernel for each in told] == ["6.12", "6.1.176"]
    assert [job.copy_out for job in guest.jobs] == [script.parent / "out" / k for k in ("6.12", "6.1.176")]


def test_a_script_that_cannot_run_there_is_no_failure(script: Path) -> None:
    """Status 4 is that of the kernel's own selftests for it."""
    (told,) = runs(Guest({"run": 1, "status": 4, "last": "SKIP"}), script)

    assert told.is_skipped
    assert told.failed == 0


def test_what_the_guest_cannot_do_is_told(script: Path) -> None:
    """Noise between the lines is none of ours; a guest that ends early says so."""
    (told,) = runs(
        Guest([1, 2], "noise", {"trouble": "not traced"}, {"run": 1, "status": 0, "last": ""}), script
    )
    assert (told.statuses, told.trouble) == ([0], "not traced")
    (told,) = runs(Guest({"run": 1, "status": 0, "last": ""}, status=137), script)
    assert told.trouble == "the runs ended with status 137"


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    """No machine is booted for it."""
    with pytest.raises(UsageError, match="there is no script"):
        list(repro(tmp_path / "gone", ["6.1"], 1, tmp_path, print, None, Guest()))


@pytest.mark.parametrize(
    ("name", "userland"),
    [("6.1.170", "6.1"), ("6.1.176-1", "6.1"), ("6.12.107", "6.12"), ("7.2.9", "latest")],
)
def test_a_version_of_a_kernel_can_be_named(name: str, userland: str) -> None:
    """It is booted with the userland of its series, or with the newest, and has an image of its own."""
    found, base = debian.kernel(name), debian.kernels()[userland]

    assert (found.name, found.release, found.bcc) == (name, base.release, base.bcc)
    assert debian.kernel_image(found).path != debian.kernel_image(base).path


@pytest.mark.parametrize("name", ["6.2", "6.1.x", "latest.3", "6.1.176; rm", "../6.1", "", "6.1.1-*"])
def test_a_kernel_that_is_none(name: str) -> None:
    """What there is is named."""
    with pytest.raises(UsageError, match="no kernel is called") as refused:
        debian.kernel(name)
    assert "6.12" in refused.value.do


THERE = [
    debian.Package("linux-image-cloud-amd64", "6.1.176-1", "bookworm"),
    debian.Package("linux-image-6.1.0-47-cloud-amd64", "6.1.170-3", "bookworm"),
    debian.Package("linux-image-6.1.0-47-amd64", "6.1.170-3", "bookworm"),
    debian.Package("linux-image-6.1.0-50-cloud-amd64", "6.1.176-1", "bookworm"),
    debian.Package("linux-image-6.12.90+deb12-cloud-amd64", "6.12.90-3~bpo12+1", "bookworm-backports"),
    debian.Package("linux-image-6.12.90+deb13-cloud-amd64", "6.12.90-1", "trixie-security"),
    debian.Package("linux-image-6.12.90+deb13.1-cloud-amd64", "6.12.90-2", "trixie"),
    debian.Package("linux-image-6.12.73+deb12-cloud-amd64", "6.12.73-1~bpo12+1", "bookworm-backports"),
]


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("6.1.170", "linux-image-6.1.0-47-cloud-amd64"),
        ("6.1.176", "linux-image-6.1.0-50-cloud-amd64"),
        ("6.12.90", "linux-image-6.12.90+deb13.1-cloud-amd64"),
        ("6.12.90-1", "linux-image-6.12.90+deb13-cloud-amd64"),
        ("6.12.73", "linux-image-6.12.73+deb12-cloud-amd64"),
        ("6.12.73-1", "linux-image-6.12.73+deb12-cloud-amd64"),
    ],
)
def test_the_package_of_a_version(name: str, package: str) -> None:
    """Of the same flavour; the newest build, and rather that of the userland's own release."""
    assert debian.packages_of(debian.kernel(name), THERE).name == package


def test_a_version_that_debian_no_longer_has() -> None:
    """It is said which there are, in their order."""
    with pytest.raises(LabError, match=r"gives no kernel 6\.12\.7") as refused:
        debian.packages_of(debian.kernel("6.12.7"), THERE)
    assert refused.value.because == "of 6.12 it has: 6.12.73, 6.12.90"


LOOKS = json.dumps(
    {
        "invariants": [
            {"invariant": "padding_zero", "held": 7, "violated": 2},
            {"invariant": "padding_zero", "held": 1, "violated": 0},
            {"invariant": "tstamp_type", "held": 5, "violated": 0},
        ]
    }
)


def guest_half(tmp_path: Path, script: str, count: int) -> tuple[list[dict[str, object]], Path]:
    """Run the guest's half with a wgtrace that is a script: it records and keeps as the real one does."""
    bin_dir, out, work = tmp_path / "bin", tmp_path / "out", tmp_path / "work"
    bin_dir.mkdir()
    out.mkdir()
    (tmp_path / "script").write_text(script)
    (bin_dir / "wgtrace").write_text(
        "#!/bin/bash\n"
        'if [ "$1" = record ]; then trap "exit 0" TERM; touch "$5" "$7"; while :; do sleep 0.02; done\n'
        f"elif [ \"$1\" = replay ]; then echo '{LOOKS}'\n"
        'else cp "$5" "$4"; fi\n'
    )
    (bin_dir / "wgtrace").chmod(0o755)
    code = (
        "import sys; from pathlib import Path; from wgtrace.lab import repro_guest as g; "
        f"g.WORK = Path({str(work)!r}); sys.exit(g.main())"
    )
    env = {**os.environ, "PATH": f"{bin_dir}:{os.environ['PATH']}", "WGTRACE_LAB_OUT": str(out)}
    command = [sys.executable, "-c", code, str(tmp_path / "script"), str(count)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()], out


def test_the_guest_keeps_the_first_failure(tmp_path: Path) -> None:
    """The third and later runs fail: the third's output and its recording's archive are left behind."""
    count = f"n=$(cat {tmp_path}/n 2>/dev/null || echo 0); echo $((n + 1)) >{tmp_path}/n\n"
    told, out = guest_half(tmp_path, count + 'echo "run $n"; [ $n -lt 2 ]\n', 5)

    assert [line.get("status") for line in told] == [None, 0, 0, 1, 1, 1, None]
    # of the recording of the first three runs and of that of the others
    assert told[-1] == {"invariants": {"padding_zero": [4, 20], "tstamp_type": [0, 10]}}
    assert told[3]["last"] == "run 2"
    assert (out / "first-failure.txt").read_text() == "run 2\n"
    assert (out / "evidence.tar.gz").exists()


def test_the_guest_stops_where_it_cannot_run(tmp_path: Path) -> None:
    """One run is enough to know; nothing is kept."""
    told, out = guest_half(tmp_path, "echo SKIP; exit 4\n", 5)

    assert [line.get("status") for line in told] == [None, 4, None]
    assert list(out.iterdir()) == []
