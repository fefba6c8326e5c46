# SPDX-License-Identifier: GPL-2.0-only
"""The frames between guest and host."""

from __future__ import annotations

import random

import pytest

from wgtrace.lab.wire import MAX_PAYLOAD, FrameKind, FrameParser, TornStreamError, pack

FRAMES = [
    (FrameKind.READY, b""),
    (FrameKind.STDOUT, b"hello\n"),
    (FrameKind.STDERR, bytes(range(256)) * 3),
    (FrameKind.HEARTBEAT, b""),
    (FrameKind.OUT, b"x" * MAX_PAYLOAD),
    (FrameKind.EXIT, b"23"),
]
STREAM = b"".join(pack(kind, payload) for kind, payload in FRAMES)


def _parse(pieces: list[bytes]) -> list[tuple[FrameKind, bytes]]:
    parser = FrameParser()
    return [frame for piece in pieces for frame in parser.feed(piece)]


def test_any_single_split_gives_the_same_frames() -> None:
    """Wherever the bytes are cut in two, the frames come out the same."""
    near_the_headers = [*range(900), *range(len(STREAM) - 20, len(STREAM))]

    assert all(_parse([STREAM[:cut], STREAM[cut:]]) == FRAMES for cut in near_the_headers)


@pytest.mark.parametrize("seed", range(20))
def test_many_splits_give_the_same_frames(seed: int) -> None:
    """Cut into many pieces, some of one byte, the frames come out the same."""
    choose = random.Random(seed)
    cuts = sorted(choose.sample(range(len(STREAM)), choose.randint(1, 200)))
    pieces = [STREAM[a:b] for a, b in zip([0, *cuts], [*cuts, len(STREAM)], strict=True)]

    assert _parse(pieces) == FRAMES


@pytest.mark.parametrize("torn", [b"\xff\0\0\0\0", b"\x03\xff\xff\xff\xff"])
def test_nonsense_is_refused(torn: bytes) -> None:
    """An unknown kind or an impossible length is an error, not a wait for bytes that never come."""
    with pytest.raises(TornStreamError):
        _parse([STREAM, torn])
