# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace replay` from outside, on a recording that a real run left: format 1, Linux 6.12."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest

from wgtrace.events.wire import RECORDS, EventKind
from wgtrace.outputs.jsonl import json_schema
from wgtrace.recording.format import file_header

FIXTURE: Final = Path(__file__).parent / "data" / "format-1.rec"
N, M = 23, 7  # as tests/e2e/test_recording.py made it

# What a host that is not Linux, or has no BCC, does not have.
ANYWHERE: Final = """\
import os, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("bcc", "pyroute2") or name.startswith("wgtrace.loader"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Blocked())
from wgtrace import cli, handshakes, pipeline
from wgtrace.commands import replay as command
from wgtrace.recording import replay
from wgtrace.outputs import console, jsonl, story, table
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
cli.main()
"""


@pytest.fixture
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording where every user can read it."""
    path = tmp_path_factory.getbasetemp() / "format-1.rec"
    for directory in path.parents:
        if directory.stat().st_uid == os.geteuid() and directory not in (Path("/"), Path("/tmp")):
            directory.chmod(0o755)
    shutil.copy(FIXTURE, path)
    path.chmod(0o644)
    return path


def replay(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as nobody, where neither BCC nor pyroute2 can be imported."""
    command = [sys.executable, "-c", ANYWHERE, "replay", *map(str, arguments)]
    env = {**os.environ, "TZ": "UTC", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


def lines(*arguments: str | Path) -> list[dict[str, Any]]:
    """The JSON lines of a replay that ran."""
    done = replay("--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def reasons(told: Sequence[dict[str, Any]]) -> list[str]:
    """The reasons of all drops, in order."""
    return [line["reason"] for line in told if line["type"] == "drop"]


def test_format_1_is_read(readable: Path) -> None:
    """A recording of the first format tells its run, now and always, without root, BCC and pyroute2."""
    told = lines(readable)

    assert told[0]["kernel"].startswith("6.12.")
    assert reasons(told) == ["src_not_allowed"] * (N + M) + ["bad_header"] * N
    owners = [line["sub_reason"] for line in told if line.get("reason") == "src_not_allowed"]
    assert owners == ["owned_by_nobody"] * N + ["owned_by_other_peer"] * M
    assert {line["where"].split("+")[0] for line in told if line["type"] == "drop"} == {
        "wg_packet_rx_poll",
        "wg_receive",
    }
    assert sorted(total["count"] for total in told[-1]["totals"]) == [M, N, N]
    assert [line["moved"] - line["explained"] for line in told[-1]["reconciliation"]] == [0, 0]
    assert told[-1]["complete"] is True
    for line in told:
        jsonschema.validate(line, dict(json_schema()))


def test_times_are_those_of_the_recording(readable: Path) -> None:
    """Not those of the replay: from start to summary it is one run of some seconds."""
    told = lines(readable)
    times = [line["ts"] for line in told]

    assert told[0]["ts"] < min(times[1:])
    assert max(times[:-1]) <= told[-1]["ts"]
    assert 0 < told[-1]["duration_s"] < 600


def test_the_table(readable: Path) -> None:
    """The banner says of when and where it is; then rows, totals and findings as live."""
    done = replay(readable)

    assert done.returncode == 0
    first = done.stdout.splitlines()[0]
    assert "all attached. Recorded on 20" in first
    assert "Linux 6.12." in first
    assert "Ctrl-C" not in done.stdout
    assert sum(" src_not_allowed " in line and " > " in line for line in done.stdout.splitlines()) == N + M
    assert f"{2 * N + M} packets dropped in " in done.stdout
    assert "\nsource-not-allowed" in done.stdout
    assert "\nnot-wireguard" in done.stdout


def test_filters(readable: Path) -> None:
    """--reason, --direction, --peer and -q choose as they do live."""
    peer = next(line["peer"]["public_key"] for line in lines(readable) if line.get("peer"))

    assert reasons(lines(readable, "--reason", "bad_header")) == ["bad_header"] * N
    assert reasons(lines(readable, "--direction", "tx")) == []
    assert reasons(lines(readable, "--peer", peer[:12])) == ["src_not_allowed"] * (N + M)
    assert [line["type"] for line in lines(readable, "-q")][0::4] == ["start", "summary"]


def test_the_view_of_handshakes(readable: Path) -> None:
    """Their messages and the session, in JSON and in words; filters of packets are not for it."""
    told = lines(readable, "--view", "handshakes")
    for line in told:
        jsonschema.validate(line, dict(json_schema()))
    steps = [line["event"] for line in told if line["type"] == "handshake"]
    assert steps == ["response_sent", "init_accepted", "handshake_complete"]
    assert replay(readable, "--view", "handshakes").stdout.count("1 initiation accepted; 1 session up") == 1
    wrong = replay(readable, "--view", "handshakes", "--reason", "bad_header")
    assert (wrong.returncode, "are of packets" in wrong.stderr) == (2, True)


def test_the_exit_code_is_for_scripts(readable: Path) -> None:
    """With --exit-code an error among the findings is status 1."""
    assert replay(readable, "-q", "--exit-code").returncode == 1


def test_a_peer_that_never_was_is_wrong_usage(readable: Path) -> None:
    """Those that were are named."""
    done = replay(readable, "--peer", "nobody")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no peer 'nobody' on the recording\n  the peers are: ")


def test_what_cannot_be_replayed(readable: Path, tmp_path: Path) -> None:
    """Each error is one of three lines, with the exit status that the help promises."""
    data = readable.read_bytes()
    for name, content, mode in (
        ("empty", b"", 0o644),
        ("text", b"interface: wg0\n", 0o644),
        ("cut", data[:99], 0o644),
        ("newer", file_header(2) + data[16:], 0o644),
        ("mine", data, 0o600),
    ):
        path = readable.with_name(name)
        path.write_bytes(content)
        path.chmod(mode)
    for name, status, said in (
        ("empty", 2, "is empty"),
        ("text", 2, "is not a recording"),
        ("cut", 2, "has no whole first block"),
        ("gone", 2, "cannot read"),
        (".", 2, "cannot read"),
        ("newer", 3, "has format 2, and this wgtrace reads 1 to 1"),
        ("mine", 3, "not permitted to read"),
    ):
        done = replay(readable.with_name(name) if name != "." else readable.parent)
        assert (done.returncode, done.stdout) == (status, ""), name
        assert done.stderr.startswith("error: "), done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_it_quietly(readable: Path) -> None:
    """As everywhere: a closed pipe is no error."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-c", ANYWHERE, "replay", "--json", str(readable)]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (0, "")


def test_each_kind_of_record_is_known_to_the_recorder() -> None:
    """A kind added to the ABI is added to the sizes by which old records are read; `mtu` keeps none."""
    assert set(RECORDS) == set(EventKind) - {EventKind.MTU}


def test_the_handshakes_of_a_recording(readable: Path) -> None:
    """Each step that it has is told, and sums of these; what it does not have is not said to be none."""
    done = replay("--view", "handshakes", readable)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines if line[2:3] == ":"] == [
        "response sent to 10.0.0.1:1111",
        "initiation accepted",
        "session up",
    ]
    assert "  berlin: 1 initiation accepted; 1 session up" in lines
    told = [
        json.loads(line) for line in replay("--json", "--view", "handshakes", readable).stdout.splitlines()
    ]
    assert [line["event"] for line in told if line["type"] == "handshake"][-1] == "handshake_complete"
