# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace evidence` on the command line: what it writes, says, and refuses."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECORDING = Path(__file__).parents[1] / "recording/data/format-1.rec"
CANARY = base64.b64encode(b"a canary of 32 bytes that sings!").decode()


def evidence(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    command = [sys.executable, "-m", "wgtrace", "evidence", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60, check=False
    )


def test_of_a_recording(tmp_path: Path) -> None:
    """The archive is there, of mode 0600; two lines say what it is about; with -q none do."""
    path = tmp_path / "case.tar.gz"
    done = evidence("-o", path, RECORDING, CANARY=CANARY)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("wireguard: source-not-allowed: peer-1 sends from")
    assert done.stdout.splitlines()[1].endswith(
        f"{path}; keys, addresses and names are pseudonyms. Start with report.md."
    )
    assert path.stat().st_mode & 0o777 == 0o600
    subprocess.run(["tar", "-xzf", path, "-C", tmp_path], check=True)
    held = b"".join(found.read_bytes() for found in (tmp_path / "case").iterdir())
    assert CANARY.encode() not in held
    checked = subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "case", check=False)
    assert checked.returncode == 0
    assert evidence("-q", "-o", tmp_path / "again.tgz", RECORDING).stdout == ""
    assert (tmp_path / "again.tgz").exists()


def test_a_script_that_was_run_is_the_repro(tmp_path: Path) -> None:
    """It is in the archive as it is, and the report says what it is; one with a key in it is refused."""
    script, path = tmp_path / "mine.sh", tmp_path / "case.tar.gz"
    script.write_text("echo mine\n")
    assert evidence("-o", path, RECORDING, "--repro", script).returncode == 0
    subprocess.run(["tar", "-xzf", path, "-C", tmp_path], check=True)

    assert (tmp_path / "case/repro.sh").read_text() == "echo mine\n"
    assert "It is what was run when this was recorded." in (tmp_path / "case/report.md").read_text()
    script.write_text(f"echo {CANARY}\n")
    done = evidence("-o", tmp_path / "no.tar.gz", RECORDING, "--repro", script, CANARY=CANARY)
    assert (done.returncode, (tmp_path / "no.tar.gz").exists()) == (3, False)


def test_the_recording_in_it_is_one(tmp_path: Path) -> None:
    """A stranger can replay it: it tells of as many drops."""
    path = tmp_path / "case.tar.gz"
    evidence("-o", path, RECORDING)
    subprocess.run(["tar", "-xzf", path, "-C", tmp_path], check=True)
    command = [sys.executable, "-m", "wgtrace", "replay", "-q", str(tmp_path / "case/recording.rec")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "53 packets dropped in " in done.stdout


def test_a_key_of_this_host_is_not_let_out(tmp_path: Path) -> None:
    """Nothing is written, status 3, and the message does not hold it either."""
    path = tmp_path / "case.tar.gz"
    hidden = "26ceb89db02472ddf8aadff58d06667bae5d59f6a7fb396aa34b603e8b61db1e"  # of the module's BTF
    done = evidence("-o", path, RECORDING, WG_KEY=hidden)

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: a private or preshared key of this host is in facts.json, ")
    assert hidden[:8] not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["-o", "{}/a.zip", RECORDING], 2, "is to be a tar.gz"),
        (["-o", "{}/a.tar.gz"], 2, "of which recording?"),
        (["-o", "{}/a.tar.gz", "wg0"], 2, "there is no recording wg0"),
        (["-o", "{}/a.tar.gz", "--all", RECORDING], 2, "are for a run now"),
        (["-o", "{}/a.tar.gz", Path(__file__)], 2, "is not a recording"),
        (["-o", "{}/no/a.tar.gz", RECORDING], 2, "cannot make the file"),
        (["-o", "{}/there.tar.gz", RECORDING], 2, "exists"),
    ],
)
def test_what_cannot_be_done(arguments: list[str | Path], status: int, said: str, tmp_path: Path) -> None:
    """Said in a sentence, and nothing is left behind."""
    (tmp_path / "there.tar.gz").touch()
    done = evidence(*(str(word).replace("{}", str(tmp_path)) for word in arguments))

    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.tar.gz"]
