# SPDX-License-Identifier: GPL-2.0-only
"""Records, totals and counters as the bodies of blocks, and back."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping

from wgtrace.events.reasons import Reason
from wgtrace.events.types import Counters
from wgtrace.events.wire import Loss
from wgtrace.recording.plain import dumped

_LENGTH = struct.Struct("<I")
_COUNT = struct.Struct("<Q")


def records_body(records: Iterable[bytes]) -> bytes:
    """Records, each after its length."""
    return b"".join(part for record in records for part in (_LENGTH.pack(len(record)), record))


def records(body: bytes) -> list[bytes]:
    """The records of a body.

    Raises:
        ValueError: It is none of records.
    """
    return [body[begin:end] for begin, end in _spans(body, 0)]


def totals_body(totals: Mapping[bytes, int]) -> bytes:
    """Entries of the map `totals`."""
    return b"".join(_LENGTH.pack(len(key)) + key + _COUNT.pack(count) for key, count in totals.items())


def totals(body: bytes) -> dict[bytes, int]:
    """The entries of a body.

    Raises:
        ValueError: It is none of totals.
    """
    return {body[begin:end]: _COUNT.unpack_from(body, end)[0] for begin, end in _spans(body, _COUNT.size)}


def _spans(body: bytes, behind: int) -> Iterator[tuple[int, int]]:
    """Where the parts are that stand after their length, each with so many bytes behind it."""
    at = 0
    while at < len(body):
        begin = at + _LENGTH.size
        if begin > len(body):
            raise ValueError("a length is cut")
        end = begin + _LENGTH.unpack_from(body, at)[0]
        at = end + behind
        if at > len(body):
            raise ValueError("a part is longer than the block")
        yield begin, end


def counters_body(counters: Counters) -> bytes:
    """Losses and limits by their numbers in bpf/events.h."""
    return dumped(
        {
            "losses": {int(loss): count for loss, count in counters.losses.items()},
            "limited": {int(reason): count for reason, count in counters.limited.items()},
            "missed": counters.missed,
            "path_limited": dict(counters.path_limited),
        }
    )


def counters(body: bytes) -> tuple[Counters, int]:
    """Losses and limits, and how many are counted by causes and reasons that this wgtrace does not know.

    Raises:
        ValueError: They are none.
    """
    read = json.loads(body)
    try:
        losses = {int(number): int(count) for number, count in read["losses"].items()}
        limited = {int(number): int(count) for number, count in read["limited"].items()}
        missed = int(read["missed"])
        path_limited = {int(number): int(count) for number, count in read.get("path_limited", {}).items()}
    except (AttributeError, KeyError, TypeError) as exc:
        raise ValueError(f"counters without {exc}") from exc
    known_losses, known_reasons = set(map(int, Loss)), set(map(int, Reason))
    unknown = sum(count for number, count in losses.items() if number not in known_losses)
    unknown += sum(count for number, count in limited.items() if number not in known_reasons)
    return (
        Counters(
            {loss: losses.get(loss, 0) for loss in Loss},
            {Reason(number): count for number, count in limited.items() if number in known_reasons},
            missed,
            path_limited,
        ),
        unknown,
    )


def blind(body: bytes) -> str:
    """Why nothing could be seen any more when a run ended; "": it was ended.

    Raises:
        ValueError: It is no end of a run.
    """
    read = json.loads(body)
    if not isinstance(read, dict):
        raise ValueError("it is no object")
    return str(read.get("blind", ""))
