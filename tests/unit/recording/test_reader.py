# SPDX-License-Identifier: GPL-2.0-only
"""recording: what is missing or damaged is found and said, and the rest is read."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from factories import BERLIN
from records import record as record_of
from runs import KERNEL, of, record, replayed
from stand_ins import Host, Replay, drop, total_of

from wgtrace.diagnosis.words import count_of
from wgtrace.errors import RecordingError, UnsupportedError, UsageError, WgtraceError
from wgtrace.events.reasons import Reason
from wgtrace.events.wire import EventKind
from wgtrace.recording import facts as facts_module
from wgtrace.recording import recorder
from wgtrace.recording.format import BLOCK_HEADER, FILE_HEADER, Block, Flag, Kind, file_header, packed
from wgtrace.recording.plain import dumped
from wgtrace.recording.reader import Damage, opened
from wgtrace.recording.replay import Recording
from wgtrace.state.clock import Anchor

RECORDS = [drop(Reason.SRC_NOT_ALLOWED, BERLIN, nonce=number) for number in range(7)]
BROKEN_OFF = "the recording breaks off at "


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small recording: seven records, each in a block of its own."""
    monkeypatch.setattr(recorder, "FLUSH_S", 0.0)
    path = tmp_path / "whole.rec"
    sums = {total_of(Reason.SRC_NOT_ALLOWED, BERLIN): 7}
    record(lambda: (Replay([[record] for record in RECORDS], sums), Host()), path)
    return path


def read(path: Path) -> tuple[list[bytes], tuple[str, ...]]:
    """All records of a recording, and what of it is missing."""
    with contextlib.closing(Recording([path])) as recording:
        found: list[bytes] = []
        while (records := recording.records(0)) is not None:
            found += records
        recording.totals(), recording.counters(), recording.snapshot()
        return found, recording.gaps


def ends(path: Path) -> list[int]:
    """Where the blocks of a whole recording end."""
    with contextlib.closing(opened(path)) as file:
        at, found = FILE_HEADER.size, []
        data = path.read_bytes()
        for _block in file.blocks():
            at += BLOCK_HEADER.size + BLOCK_HEADER.unpack_from(data, at)[5]
            found.append(at)
    assert found[-1] == len(data)
    return found


def test_a_whole_recording_lacks_nothing(whole: Path) -> None:
    """All records, no gap, and the replay calls itself complete."""
    assert read(whole) == (RECORDS, ())
    assert replayed(whole)[-1]["complete"] is True


def test_cut_anywhere_it_reads_up_to_the_last_whole_block(whole: Path, tmp_path: Path) -> None:
    """Of every beginning of a recording all whole blocks are read, and it is said that it breaks off."""
    first, *later = ends(whole)
    cut = whole.rename(tmp_path / "cut.rec")
    for size in reversed(range(cut.stat().st_size)):
        os.truncate(cut, size)
        if size < first:
            with pytest.raises(UsageError):
                opened(cut)
            continue
        found, gaps = read(cut)
        blocks = 1 + sum(end <= size for end in later)
        # FACTS, ASKED, STATE, TOTALS, COUNTERS come before the records
        assert found == RECORDS[: max(0, blocks - 5)]
        assert any(gap.startswith(BROKEN_OFF) for gap in gaps)
        rest = size - max(end for end in (first, *later) if end <= size)
        said = [f"no whole block at the end of cut.rec: {count_of(rest, 'byte')}"] if rest else []
        assert [gap for gap in gaps if "no whole block" in gap] == said


def test_a_cut_recording_is_not_complete(whole: Path, tmp_path: Path) -> None:
    """The summary of what is left says what is missing."""
    cut = tmp_path / "cut.rec"
    cut.write_bytes(whole.read_bytes()[: ends(whole)[7]])

    told = replayed(cut)

    assert len(of(told, "drop")) == 3
    assert told[-1]["complete"] is False
    assert told[-1]["incomplete_because"][0].startswith(BROKEN_OFF)


def test_a_flipped_bit_anywhere_is_found(whole: Path) -> None:
    """Whichever byte changes: no record but true ones, and it is said, or the file is refused."""
    first = ends(whole)[0]
    data = whole.read_bytes()
    with whole.open("r+b", buffering=0) as file:
        for at, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << at % 8]), at)
            if at < first:
                with pytest.raises((UsageError, UnsupportedError)):
                    opened(whole)
            else:
                found, gaps = read(whole)
                assert len(found) >= len(RECORDS) - 1
                assert [record for record in RECORDS if record in found] == found
                assert gaps
            os.pwrite(file.fileno(), bytes([byte]), at)


def test_what_is_damaged_is_said_with_its_time(whole: Path, tmp_path: Path) -> None:
    """How many bytes, how many blocks, and between which times."""
    data, bad = bytearray(whole.read_bytes()), tmp_path / "bad.rec"
    places = ends(whole)
    data[places[5] + 9] ^= 1
    bad.write_bytes(data)

    found, gaps = read(bad)

    assert found == RECORDS[:1] + RECORDS[2:]
    assert gaps[0] == f"damaged within bad.rec: {places[6] - places[5]} bytes"
    assert gaps[1].startswith("missing between ")
    assert gaps[1].endswith(" UTC: 1 block")
    assert len(gaps) == 2


def test_blocks_that_were_taken_out_are_missed(whole: Path, tmp_path: Path) -> None:
    """Three blocks taken out at their edges leave no damage, only numbers that do not follow."""
    data, bad = whole.read_bytes(), tmp_path / "bad.rec"
    places = ends(whole)
    bad.write_bytes(data[: places[5]] + data[places[8] :])

    found, gaps = read(bad)

    assert found == RECORDS[:1] + RECORDS[4:]
    assert [gap.endswith(" UTC: 3 blocks") for gap in gaps] == [True]


def test_any_rubbish_between_blocks_is_passed_over(whole: Path, tmp_path: Path) -> None:
    """Also if it holds the mark of a block, or a megabyte of it."""
    data, bad = whole.read_bytes(), tmp_path / "bad.rec"
    at = ends(whole)[6]
    for rubbish in (b"\x8dWGB", b"\x8dWGB" * 20, bytes((1 << 20) - 2), data[at : at + 40], b"\x8d"):
        bad.write_bytes(data[:at] + rubbish + data[at:])

        assert read(bad)[0] == RECORDS


def test_lengths_that_lie_are_not_believed(whole: Path, tmp_path: Path) -> None:
    """A block that says it inflates to more than it does, or to less, or is huge, is damaged."""
    data, bad = whole.read_bytes(), tmp_path / "bad.rec"
    good = packed(Block(Kind.RECORDS, 0, 1, bytes(5000)))
    for stored, size in ((None, 4999), (None, 5001), (None, 1 << 30), (1 << 30, 5000)):
        head = list(BLOCK_HEADER.unpack(good[: BLOCK_HEADER.size]))
        head[5], head[6] = stored or head[5], size
        raw = BLOCK_HEADER.pack(*head)[:-4]
        crc = struct.pack("<I", zlib.crc32(good[BLOCK_HEADER.size :], zlib.crc32(raw)))
        bad.write_bytes(data + raw + crc + good[BLOCK_HEADER.size :])

        with contextlib.closing(opened(bad)) as file:
            assert isinstance(list(file.blocks())[-1], Damage)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """With what made it and what to do; its blocks may be anything."""
    path = tmp_path / "newer.rec"
    path.write_bytes(file_header(2) + b"anything")

    with pytest.raises(UnsupportedError) as refused:
        opened(path)

    assert refused.value.what == f"{path} has format 2, and this wgtrace reads 1 to 1"
    assert refused.value.because == "a newer wgtrace made it"


def facts(**more: object) -> bytes:
    """The body of a first block, some of it other."""
    given = facts_module.Facts("r", 0, "9.9", "0.31.0", KERNEL, 0, Anchor(0, 0, 0, 0, 0))
    return dumped({**{name: getattr(given, name) for name in given.__slots__}, **more})


def write(path: Path, *bodies: tuple[Kind, bytes]) -> Path:
    """A recording of these blocks."""
    flags = (Flag.OPENING, *[Flag.NONE] * len(bodies))
    blocks = [Block(kind, n, n, body, flags[n]) for n, (kind, body) in enumerate(bodies)]
    path.write_bytes(file_header() + b"".join(map(packed, blocks)))
    return path


def test_records_of_another_abi_are_refused(tmp_path: Path) -> None:
    """Their fields would be read at the wrong places."""
    path = write(tmp_path / "abi.rec", (Kind.FACTS, facts(abi=2)))

    with pytest.raises(UnsupportedError, match=r"of another kind") as refused:
        opened(path)

    assert (refused.value.because, refused.value.do) == (
        "ABI 2, little-endian",
        "replay it with wgtrace 9.9 on x86_64",
    )


def test_what_a_newer_wgtrace_adds_is_left_alone(tmp_path: Path) -> None:
    """Keys and kinds of blocks that are unknown here disturb nothing."""
    records = struct.pack("<I", len(RECORDS[0])) + RECORDS[0]
    path = write(
        tmp_path / "more.rec",
        (Kind.FACTS, facts(flavour="sweet")),
        (99, b"anything"),  # type: ignore[arg-type]  # of no kind yet
        (Kind.RECORDS, records),
        (Kind.END, b'{"because":"stopped","more":1}'),
    )

    assert read(path) == ([RECORDS[0]], ())


def test_records_that_grew_are_filled_with_zeros(tmp_path: Path) -> None:
    """A record from before a field was appended has it as not known; one that is cut is no record."""
    sizes = {**facts_module.sizes(), 2: 112}
    handshake = bytes(record_of(EventKind.HANDSHAKE, attempt=7))
    old, cut = handshake[:112], handshake[:111]
    body = b"".join(struct.pack("<I", len(record)) + record for record in (old, cut))
    path = write(tmp_path / "old.rec", (Kind.FACTS, facts(sizes=sizes)), (Kind.RECORDS, body))

    assert read(path)[0] == [old + bytes(len(handshake) - 112), cut]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.FACTS, b"{}"),
        (Kind.FACTS, b"[" * 9999),
        (Kind.STATE, b"\xff"),
        (Kind.STATE, b'{"taken_ns":"noon"}'),
        (Kind.STATE, b'{"taken_ns":1,"devices":[{"ifname":"wg0"}]}'),
        (Kind.TOTALS, b"\xff\0\0\0"),
        (Kind.TOTALS, b"\0\0"),
        (Kind.RECORDS, b"\x04\0\0\0abc"),
        (Kind.COUNTERS, b"[]"),
        (Kind.COUNTERS, b'{"losses":{"x":1},"limited":{},"missed":0}'),
    ],
    ids=range(10),
)
def test_a_whole_block_of_nonsense_is_an_error_that_says_so(kind: Kind, body: bytes, tmp_path: Path) -> None:
    """What no damage explains a newer wgtrace may have made; it is no traceback."""
    before = [] if kind is Kind.FACTS else [(Kind.FACTS, facts())]
    path = write(tmp_path / "odd.rec", *before, (kind, body))

    with pytest.raises(RecordingError, match=r"is whole, and not understood"):
        read(path)


def test_losses_of_unknown_kinds_are_not_swallowed(tmp_path: Path) -> None:
    """A newer wgtrace may count what this one has no name for: then the result is not complete."""
    body = b'{"losses":{"77":5,"0":2},"limited":{"95":3},"missed":0}'
    path = write(tmp_path / "more.rec", (Kind.FACTS, facts()), (Kind.COUNTERS, body), (Kind.END, b"{}"))

    assert read(path)[1] == ("8 losses of kinds that this wgtrace does not know",)


def raises(path: Path) -> WgtraceError:
    """The error with which a file is refused."""
    with pytest.raises(WgtraceError) as refused:
        opened(path)
    return refused.value


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    """Each with its own words, and the exit status of wrong usage."""
    made: Sequence[tuple[str, bytes, str]] = (
        ("empty", b"", "is empty"),
        ("pcap", b"\xd4\xc3\xb2\xa1" + bytes(40), "is not a recording"),
        ("short", file_header()[:11], "is cut within its first 16 bytes"),
        ("first", file_header() + b"\x8d", "has no whole first block"),
    )
    for name, content, said in made:
        (tmp_path / name).write_bytes(content)
        error = raises(tmp_path / name)
        assert said in error.what
        assert error.exit_code == 2

    os.mkfifo(tmp_path / "fifo")
    assert "is not a regular file" in raises(tmp_path / "fifo").what
    assert raises(tmp_path).because == "Is a directory"
    assert raises(tmp_path / "gone").because == "No such file or directory"
