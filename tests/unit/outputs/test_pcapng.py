# SPDX-License-Identifier: GPL-2.0-only
"""pcapng: the blocks as draft-ietf-opsawg-pcapng has them, whole on every disk; tests/vm asks tshark."""

from __future__ import annotations

import os
import resource
import stat
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from factories import BERLIN, NETNS, NOW, drop, nobody, run_start, seen, summary, total
from hypothesis import given
from hypothesis import strategies as st

from wgtrace.errors import OutputError
from wgtrace.events.reasons import Reason
from wgtrace.events.types import DropEvent, Packet
from wgtrace.outputs.pcapng import PcapngSink, block, open_for_writing

INNER = Packet(True, 84, bytes.fromhex("45000054000040004006") + bytes(30))
SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6


@dataclass
class Block:
    """A block as it is read back."""

    kind: int
    body: bytes
    options: list[tuple[int, bytes]]

    def option(self, code: int) -> bytes:
        """The one option of this code."""
        (value,) = (value for number, value in self.options if number == code)
        return value


FIXED = {SECTION: 16, INTERFACE: 8, STATISTICS: 12}


def blocks(data: bytes) -> Iterator[Block]:
    """The blocks of a file: every length twice, every padding zero, every option list ended."""
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0
        assert 12 <= length <= len(data)
        assert struct.unpack_from("<I", data, length - 4) == (length,)
        body, data = data[8 : length - 4], data[length:]
        at = FIXED[kind] if kind in FIXED else 20 + -(-struct.unpack_from("<I", body, 12)[0] // 4) * 4
        rest, options = body[at:], []
        while rest:
            code, size = struct.unpack_from("<HH", rest)
            value, padding = rest[4 : 4 + size], rest[4 + size : 4 + -(-size // 4) * 4]
            assert (len(value), any(padding)) == (size, False)
            rest = rest[4 + -(-size // 4) * 4 :]
            if code == 0:
                assert rest == b""
                break
            options.append((code, value))
        else:
            assert not options
        yield Block(kind, body[:at], options)


def sink(path: Path, failures: list[bool] | None = None) -> PcapngSink:
    """A sink into a new file."""
    ended = failures if failures is not None else []
    return PcapngSink(open_for_writing(path), str(path), lambda: ended.append(True))


def with_packet(event: DropEvent, packet: Packet) -> DropEvent:
    """The event, with its packet."""
    return replace(event, packet=packet)


def test_a_whole_file(tmp_path: Path) -> None:
    """Section, then each interface before its first packet, packets as they came, statistics."""
    path = tmp_path / "a.pcapng"
    file = sink(path)
    file.start(run_start())
    datagram = Packet(False, 176, bytes.fromhex("450000b0") + bytes(41))
    file.drop(seen(with_packet(nobody(), INNER)))
    file.drop(seen(with_packet(drop(Reason.INVALID_MAC1), datagram)))
    file.drop(seen(with_packet(nobody(), INNER)))
    file.drop(seen(drop(Reason.NO_ROUTE_TO_ENDPOINT, BERLIN)))
    file.summary(summary(interim=True))
    file.summary(summary(total(Reason.SRC_NOT_ALLOWED, 23), total(Reason.INVALID_MAC1, 1)))
    file.close()

    found = list(blocks(path.read_bytes()))
    assert [b.kind for b in found] == [
        SECTION,
        *(INTERFACE, PACKET, INTERFACE, PACKET, PACKET, INTERFACE, PACKET),
        *[STATISTICS] * 3,
    ]
    assert struct.unpack("<IHHQ", found[0].body) == (0x1A2B3C4D, 1, 0, 2**64 - 1)
    assert found[0].option(4).startswith(b"wgtrace ")
    interfaces = [b for b in found if b.kind == INTERFACE]
    assert [b.option(2) for b in interfaces] == [b"wg0 rx", b"wg0 handshake", b"wg0 tx"]
    assert [struct.unpack("<HHI", b.body) for b in interfaces] == [(101, 0, 0)] * 3
    assert {b.option(9) for b in interfaces} == {b"\x09"}
    assert all(str(NETNS).encode() in b.option(3) for b in interfaces)
    packets = [b for b in found if b.kind == PACKET]
    heads = [struct.unpack_from("<IIIII", b.body) for b in packets]
    assert [(number, caplen, length) for number, _, _, caplen, length in heads] == [
        (0, 40, 84),
        (1, 45, 176),
        (0, 40, 84),
        (2, 0, 0),
    ]
    assert heads[0][1] << 32 | heads[0][2] == seen(nobody()).ts_unix_ns
    assert packets[0].body[20:60] == INNER.data
    assert packets[1].body[20:65] == datagram.data
    assert [struct.unpack("<I", b.option(2)) for b in packets] == [(1,), (1,), (1,), (2,)]
    comments = [b.option(1).decode() for b in packets]
    why = seen(nobody()).why
    assert comments[0] == f"src_not_allowed (owned_by_nobody), inner packet, peer berlin ({BERLIN}): {why}"
    assert comments[1].startswith("invalid_mac1, outer datagram, no peer known: ")
    assert comments[3].startswith(f"no_route_to_endpoint, packet not known, peer berlin ({BERLIN}): ")
    statistics = [[struct.unpack("<Q", b.option(code))[0] for code in (4, 5, 8)] for b in found[-3:]]
    assert statistics == [[23, 21, 2], [1, 0, 1], [1, 0, 1]]
    assert struct.unpack("<II", found[-1].option(3)) == (NOW >> 32, NOW & 0xFFFFFFFF)


@given(st.binary(max_size=70), st.lists(st.binary(min_size=1, max_size=9), max_size=3))  # type: ignore[untyped-decorator]
def test_every_length_is_padded(body: bytes, values: list[bytes]) -> None:
    """A block of any body and options is read back; all lengths are multiples of four."""
    head = struct.pack("<IIIII", 0, 0, 0, len(body), len(body))
    (found,) = blocks(block(PACKET, head + body, [(1, value) for value in values]))

    assert found.body[20 : 20 + len(body)] == body
    assert found.options == [(1, value) for value in values]


def test_text_from_outside_steers_no_terminal(tmp_path: Path) -> None:
    """An interface's name and a peer's are stripped of control characters, as on a terminal."""
    path = tmp_path / "a.pcapng"
    file = sink(path)
    event = nobody()
    assert event.peer
    named = replace(event.peer, name="ber\x1b[2Jlin\u202e")
    file.drop(seen(replace(event, peer=named, device=replace(event.device, ifname="wg\x1b]0;x\x07"))))
    file.close()

    text = b"".join(value for b in blocks(path.read_bytes()) for _code, value in b.options if len(value) > 4)
    assert b"\x1b" not in text
    assert b"\x07" not in text
    assert "\u202e".encode() not in text
    assert b"ber[2Jlin" in text


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    """A new file has mode 0600, whatever the umask."""
    before = os.umask(0)
    try:
        os.close(open_for_writing(tmp_path / "a"))
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    """An old file of anybody's is not written into: who holds it open, or a link to it, sees nothing."""
    path, link = tmp_path / "a", tmp_path / "b"
    path.write_text("old")
    path.chmod(0o666)
    link.hardlink_to(path)

    fd = open_for_writing(path)
    os.write(fd, b"new")
    os.close(fd)

    assert (path.read_text(), link.read_text()) == ("new", "old")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_not_followed(tmp_path: Path, exists: bool) -> None:
    """A symbolic link to a file, or to where one could be, is refused and stays as it is."""
    target, link = tmp_path / "target", tmp_path / "link"
    if exists:
        target.write_text("old")
    link.symlink_to(target)

    with pytest.raises(OutputError, match="cannot write") as refused:
        open_for_writing(link)

    assert "symbolic link" in refused.value.because
    assert target.exists() is exists
    assert not exists or target.read_text() == "old"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    """A named pipe stays one, and its reader gets the file."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    file = sink(path)
    file.start(run_start())
    file.close()
    reader.join()

    assert path.is_fifo()
    assert [b.kind for b in blocks(got[0])] == [SECTION]


@pytest.mark.parametrize("name", ["", "no/such/folder", "folder"])
def test_what_cannot_be_made(tmp_path: Path, name: str) -> None:
    """A folder, or a file in none, is an error that says why."""
    (tmp_path / "folder").mkdir()

    with pytest.raises(OutputError) as refused:
        open_for_writing(tmp_path / name)

    assert refused.value.because


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """The last block that does not fit is taken back, the run is ended once, and it is told what is left."""
    path = tmp_path / "a.pcapng"
    ended: list[bool] = []
    file = sink(path, ended)
    file.start(run_start())
    event = seen(with_packet(nobody(), INNER))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    try:
        for _ in range(23):
            file.drop(event)
        file.summary(summary(total(Reason.SRC_NOT_ALLOWED, 23)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    file.close()

    packets = [b for b in blocks(path.read_bytes()) if b.kind == PACKET]
    assert 0 < len(packets) < 23
    assert ended == [True]
    assert file.failed
    assert file.failed.what == f"cannot write more to {path}: File too large"
    assert f"the {len(packets)} drops written before" in file.failed.because


def test_a_device_that_is_full() -> None:
    """Where not even the head fits that is said, too."""
    ended: list[bool] = []
    file = sink(Path("/dev/full"), ended)
    file.start(run_start())
    file.close()

    assert ended == [True]
    assert file.failed
    assert file.failed.what == "cannot write more to /dev/full: No space left on device"


def test_a_reader_that_goes_away() -> None:
    """A closed pipe is no failure of ours: the command line ends quietly with it."""
    reading, writing = os.pipe()
    os.close(reading)
    file = PcapngSink(writing, "standard output", lambda: None)

    with pytest.raises(BrokenPipeError):
        file.start(run_start())
    assert file.failed is None
    file.close()
