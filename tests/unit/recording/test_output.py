# SPDX-License-Identifier: GPL-2.0-only
"""recording: where a recording may be written, rotation, and a disk that is full."""

from __future__ import annotations

import contextlib
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from factories import BERLIN, OFFSET_NS
from runs import of, record, replayed
from stand_ins import Host, Replay, Step, drop, total_of

from wgtrace.errors import OutputError, UsageError
from wgtrace.events.reasons import Reason
from wgtrace.events.wire import DropEventWire
from wgtrace.recording import recorder
from wgtrace.recording.format import Kind, file_header
from wgtrace.recording.output import Output
from wgtrace.recording.reader import opened
from wgtrace.recording.replay import Recording

SUM = total_of(Reason.SRC_NOT_ALLOWED, BERLIN)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each poll's records are written at once."""
    monkeypatch.setattr(recorder, "FLUSH_S", 0.0)


def numbered_drop(number: int) -> bytes:
    """A drop that is told apart by its counter."""
    return drop(Reason.SRC_NOT_ALLOWED, BERLIN, nonce=number)


def numbered(count: int) -> Callable[[], tuple[Replay, Host]]:
    """A run of so many drops, one each poll; the totals follow."""

    def script() -> tuple[Replay, Host]:
        sums = {SUM: 0}

        def one_more() -> None:
            sums[SUM] += 1

        polls: list[list[Step]] = [
            [one_more, drop(Reason.SRC_NOT_ALLOWED, BERLIN, nonce=n + 1)] for n in range(count)
        ]
        return Replay(polls, sums), Host()

    return script


def nonces(*paths: Path) -> list[int]:
    """The counters of all drops in these files."""
    with contextlib.closing(Recording(paths)) as recording:
        found = []
        while (records := recording.records(0)) is not None:
            found += [DropEventWire.from_buffer_copy(record).nonce for record in records]
    return found


def test_a_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    """Of a run of many files the last three are kept, each is full, and together they lack nothing."""
    path = tmp_path / "wg.rec"
    record(numbered(397), path, max_bytes=4096, keep=3)
    files = [path, path.with_name("wg.rec.1"), path.with_name("wg.rec.2")]

    assert sorted(tmp_path.iterdir()) == files
    assert all(4096 <= file.stat().st_size < 2 * 4096 for file in files[1:])
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    together = nonces(*files)
    assert together == list(range(398 - len(together), 398))
    assert 23 < len(together) < 397
    assert replayed(*files)[-1]["complete"] is True


def test_each_file_of_a_rotation_can_be_read_alone(tmp_path: Path) -> None:
    """Rows, totals and configuration of a part of the run, and of nothing that was before."""
    path = tmp_path / "wg.rec"
    record(numbered(397), path, max_bytes=4096, keep=3)

    for file in (path, path.with_name("wg.rec.1"), path.with_name("wg.rec.2")):
        told, shown = replayed(file), len(nonces(file))
        assert len(of(told, "drop")) == shown
        assert [total["count"] for total in told[-1]["totals"]] == ([shown] if shown else [])
        assert of(told, "start")[0]["devices"][0]["ifname"] == "wg0"
        assert told[-1]["complete"] is True


def test_each_file_of_a_rotation_has_the_clocks_of_its_beginning(tmp_path: Path) -> None:
    """The wall clock may be set during weeks: a later file tells its times by what it was then."""
    path = tmp_path / "wg.rec"
    record(numbered(97), path, max_bytes=2048, keep=99)

    found = []
    for file in (path, *(path.with_name(f"wg.rec.{at}") for at in range(1, 99))):
        with contextlib.suppress(UsageError), contextlib.closing(opened(file)) as one:
            found.append(one.facts)
    first, *later = sorted(found, key=lambda facts: facts.file)

    assert [facts.file for facts in later] == list(range(1, len(found)))
    assert len(later) > 3
    assert first.clock_offset_ns == OFFSET_NS
    assert [facts.clock_offset_ns for facts in later] == [
        facts.clock.realtime_ns - facts.clock.boottime_ns for facts in later
    ]


def test_a_whole_rotation_is_told_as_one_run(tmp_path: Path) -> None:
    """However many files, and in whatever order they are named."""
    path = tmp_path / "wg.rec"
    record(numbered(197), path, max_bytes=4096, keep=99)
    record(numbered(197), tmp_path / "one.rec")
    files = sorted(tmp_path.glob("wg.rec*"))

    assert len(files) > 2
    assert replayed(*files) == replayed(tmp_path / "one.rec")


def test_a_file_that_is_missing_in_between_is_missed(tmp_path: Path) -> None:
    """Its blocks are not there, and that is said; so is a rotation that was not given to its end."""
    path = tmp_path / "wg.rec"
    record(numbered(197), path, max_bytes=4096, keep=99)
    files = sorted(tmp_path.glob("wg.rec*"))

    because = replayed(files[0], *files[2:])[-1]["incomplete_because"]

    assert len(because) == 1
    assert because[0].startswith("missing between ")


def test_several_runs_are_not_mixed(tmp_path: Path) -> None:
    """Two runs, or a file twice, are wrong usage."""
    for name in ("a", "b"):
        record(numbered(1), tmp_path / name)

    with pytest.raises(UsageError, match=r"of several runs"):
        Recording([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UsageError, match=r"given twice"):
        Recording([tmp_path / "a", tmp_path / "a"])


def test_without_rotation_a_full_file_ends_the_run(tmp_path: Path) -> None:
    """It ends well, with what it has, and says why."""
    path = tmp_path / "wg.rec"
    record(numbered(97), path, max_bytes=4096)

    found = nonces(path)
    with contextlib.closing(opened(path)) as file:
        last = list(file.blocks())[-1]
    assert found == list(range(1, len(found) + 1))
    assert 5 < len(found) < 97
    assert getattr(last, "kind", 0) == Kind.END
    assert getattr(last, "body", b"") == b'{"because":"full","blind":""}'
    assert replayed(path)[-1]["complete"] is True


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Neither a file, nor what a link points to, nor a directory."""
    there, link = tmp_path / "there", tmp_path / "link"
    there.write_bytes(b"mine")
    link.symlink_to(tmp_path / "elsewhere")

    for path, keep in ((there, None), (there, 3), (link, None), (link, 3), (tmp_path, 3)):
        with pytest.raises(UsageError, match=r"exists"):
            Output(path, 4096 if keep else None, keep)

    assert there.read_bytes() == b"mine"
    assert sorted(tmp_path.iterdir()) == [link, there]


def test_where_no_file_can_be_made(tmp_path: Path) -> None:
    """It is said at once, and why."""
    with pytest.raises(UsageError) as refused:
        Output(tmp_path / "no" / "such" / "directory")

    assert refused.value.because == "No such file or directory"


def test_an_earlier_recording_is_the_first_to_be_kept(tmp_path: Path) -> None:
    """A flight recorder that is started again goes on with the rotation, and loses nothing."""
    path = tmp_path / "wg.rec"
    record(numbered(2), path, max_bytes=1 << 20, keep=2)
    record(numbered(3), path, max_bytes=1 << 20, keep=2)

    assert nonces(path.with_name("wg.rec.1")) == [1, 2]
    assert nonces(path) == [1, 2, 3]

    record(numbered(5), path, max_bytes=1 << 20, keep=1)

    assert nonces(path) == [1, 2, 3, 4, 5]


def test_a_run_that_never_began_leaves_no_file(tmp_path: Path) -> None:
    """If the probes cannot be attached the empty file is taken away again."""
    path = tmp_path / "wg.rec"
    output = Output(path)
    assert path.read_bytes() == file_header()

    output.close()
    output.close()

    assert not path.exists()


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """No file may get more than 5000 bytes: to the writer what a full disk is.

    Only while the writer writes: pytest's own output may be a file, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_run_and_keeps_what_was_written(tmp_path: Path) -> None:
    """The error says what is kept; the file ends with a whole block, and its replay that it breaks off."""
    path = tmp_path / "wg.rec"

    with pytest.raises(OutputError) as failed, small_disk():
        record(numbered(97), path)

    assert failed.value.exit_code == 4
    assert failed.value.what == f"cannot write on to {path}: File too large"
    assert failed.value.do.endswith(f"wgtrace replay {path}")
    told, found = replayed(path), nonces(path)
    assert path.stat().st_size <= 5000
    assert found == list(range(1, len(found) + 1))
    assert len(found) > 5
    assert [text[:28] for text in told[-1]["incomplete_because"]] == ["the recording breaks off at "]


KILLED = """\
import os, signal, sys
sys.path[:0] = sys.argv[1].split(":")
from pathlib import Path
from runs import record
from stand_ins import Host, Replay
from test_output import numbered_drop, recorder
recorder.FLUSH_S = 0.0
polls = [[numbered_drop(n + 1)] for n in range(23)]
polls.append([lambda: os.kill(os.getpid(), signal.SIGKILL)])
record(lambda: (Replay(polls), Host()), Path(sys.argv[2]))
"""


def test_after_kill_9_all_that_was_written_is_there(tmp_path: Path) -> None:
    """What had come before the last poll is read; the rest is said to be missing."""
    path, here = tmp_path / "wg.rec", Path(__file__).parent

    done = subprocess.run(
        [sys.executable, "-c", KILLED, f"{here}:{here.parent}:{here.parents[2]}", str(path)], check=False
    )

    assert done.returncode == -9
    assert nonces(path) == list(range(1, 24))
    assert replayed(path)[-1]["complete"] is False
