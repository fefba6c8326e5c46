# SPDX-License-Identifier: GPL-2.0-only
"""What holds on every sound kernel, and what it means where it does not."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import Final


class Invariant(enum.IntEnum):
    """`enum wgt_invariant`: what --invariants looks at."""

    RESPONSE_INDEX = 1
    PADDING_ZERO = 2
    TSTAMP_TYPE = 3

    @cached_property
    def id(self) -> str:
        """The name that users see, for example `padding_zero`."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class InvariantRow:
    """What is to be said of one.

    Attributes:
        holds: What is so on a sound kernel.
        costs: What comes of it where it is not so.
        commit: That mended it, and its title.
        of_peer: Whether the peer's kernel is at fault, not this one.
    """

    holds: str
    costs: str
    commit: str
    title: str
    of_peer: bool = False


INVARIANTS: Final = {
    Invariant.RESPONSE_INDEX: InvariantRow(
        "a response is taken by the handshake whose index it names",
        "took a response for an older initiation than its last one: the session is up under an index that "
        "the peer never learned, and all that it sends is lost until the next handshake",
        "d0305f8d9002",
        "wireguard: noise: reject response consumption after intermediate initiation",
    ),
    Invariant.PADDING_ZERO: InvariantRow(
        "what fills a message up to 16 bytes is zero",
        "fills packets up with bytes of its kernel's memory and sends them along",
        "f75e3eb08fe3",
        "wireguard: send: append trailer after expanding head",
        of_peer=True,
    ),
    Invariant.TSTAMP_TYPE: InvariantRow(
        "the time at which a packet is to leave still says of which clock it is",
        "forgets of which clock the time is at which a packet is to leave: pacing (fq, EDT) behind another "
        "namespace does not happen",
        "65ab9de4bdd4",
        "wireguard: queueing: preserve tstamp_type when encapsulating packet",
    ),
}
"""A row for each."""
