# SPDX-License-Identifier: GPL-2.0-only
"""The archive: the same bytes each time, of nobody, with checksums; and refused if a key is in it."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from wgtrace.errors import UnsupportedError, UsageError
from wgtrace.evidence.archive import CHECKSUMS, check, packed, write
from wgtrace.evidence.bundle import bundle

RECORDING = Path(__file__).parents[1] / "recording/data/format-1.rec"
FILES = {"report.md": b"# it\n", "a/b.txt": b"b", "repro.sh": b"#!/bin/bash\n"}
CANARY = base64.b64encode(b"a canary of 32 bytes that sings!").decode()


def contents(data: bytes) -> dict[str, tarfile.TarInfo]:
    """The members of an archive by name, in their order."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def file(data: bytes, name: str) -> bytes:
    """A file of an archive."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = tar.extractfile(name)
        assert found
        return found.read()


def test_an_archive_says_nothing_of_who_made_it_when() -> None:
    """Sorted, of root, of one time, readable by its owner only; the same bytes in any order of the files."""
    data = packed("case", FILES, mtime=23)

    assert data == packed("case", dict(reversed(FILES.items())), mtime=23)
    members = contents(data)
    assert list(members) == [f"case/{name}" for name in sorted([*FILES, CHECKSUMS])]
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members.values()} == {(0, 0, "root", 23)}
    assert {name: m.mode for name, m in members.items() if m.mode != 0o600} == {"case/repro.sh": 0o700}


def test_checksums() -> None:
    """As sha256sum(1) wants them, of every other file."""
    sums = file(packed("case", FILES, 0), f"case/{CHECKSUMS}").decode().splitlines()

    assert sums == [f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}" for name in sorted(FILES)]


def test_a_file_is_new_and_nobody_elses(tmp_path: Path) -> None:
    """Mode 0600; nothing is overwritten, no link followed."""
    path = tmp_path / "case.tar.gz"
    write(path, b"data")

    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="exists"):
        write(path, b"other")
    assert path.read_bytes() == b"data"
    link = tmp_path / "link.tar.gz"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError):
        write(link, b"data")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "spelling",
    [
        base64.b64decode(CANARY),
        CANARY.encode(),
        base64.b64decode(CANARY).hex().encode(),
        b"x" + CANARY[8:30].encode(),
    ],
    ids=["raw", "base64", "hex", "half"],
)
def test_a_key_of_this_host_is_found(spelling: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any file, in any spelling; the key itself is in no message."""
    monkeypatch.setenv("WG_PRIVATE_KEY", CANARY)
    check(FILES, (), ())
    with pytest.raises(UnsupportedError, match=r"a/b\.txt: nothing was written") as refused:
        check({**FILES, "a/b.txt": b"..." + spelling + b"..."}, (), ())

    error = refused.value
    assert CANARY[:8] not in f"{error.what}{error.because}{error.do}"


def test_a_key_inside_a_compressed_block_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording is searched as it is when it is read; the hash of the module's BTF stands for a key."""
    found = file(bundle([RECORDING], redact=False).data, "wgtrace-evidence/facts.json").decode()
    canary = found.split('"module_btf":"')[1][:64]
    assert canary.encode() not in RECORDING.read_bytes()
    monkeypatch.setenv("KEY", canary)

    with pytest.raises(UnsupportedError, match="format-1"):
        check({}, (), [RECORDING])


def test_a_whole_archive() -> None:
    """What is promised is in it, the same bytes twice; every file that the report names is there."""
    first = bundle([RECORDING], root="case")
    members = contents(first.data)

    assert first.data == bundle([RECORDING], root="case").data
    assert {name.removeprefix("case/") for name in members} == {
        "SHA256SUMS",
        "drops.txt",
        "events.jsonl",
        "facts.json",
        "recording.rec",
        "report.md",
        "repro.sh",
        "state-after.json",
        "state-before.json",
        "timeline.txt",
    }
    assert len(members) == first.files
    assert first.title.startswith("wireguard: source-not-allowed: peer-1 sends from ")


def test_an_archive_as_it_is() -> None:
    """Without pseudonyms the recording is the very file, and the report says whose keys they are."""
    data = bundle([RECORDING], redact=False, root="case").data

    assert file(data, "case/recording.rec") == RECORDING.read_bytes()
    assert b"in this archive are the real ones" in file(data, "case/report.md")
    assert b"in this archive are the real ones" not in file(
        bundle([RECORDING], root="case").data, "case/report.md"
    )
