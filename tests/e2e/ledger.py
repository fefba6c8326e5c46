# SPDX-License-Identifier: GPL-2.0-only
"""What was provoked and what was reported of it, for every reason there is."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field

from tracer import Report

from wgtrace.events.reasons import Reason

NO_MEMORY = (
    "needs an allocation of the kernel to fail at that very place: Debian's kernels have no fault injection"
)
NO_LUCK = "needs a race, which was not won in as many rounds as a test may take"
SOAK = "provoked by `pytest -m soak`, which is no part of this run"
# Why a reason is not provoked. What is provoked now and then, by a race, may be in both.
NOT_PROVOKED = {
    Reason.COOKIE_UNDER_LOAD: SOAK,
    Reason.RATELIMITED: SOAK,
    Reason.HANDSHAKE_QUEUE_FULL: SOAK,
    Reason.ENDPOINT_AF_INVALID: SOAK,
    Reason.INIT_CREATE_FAILED: SOAK,
    Reason.HANDSHAKE_FLOOD: NO_LUCK,
    Reason.RESP_SUPERSEDED: NO_LUCK,
    Reason.RESPONSE_NOT_SENT: NO_LUCK,
    Reason.HANDSHAKE_PURGED_IFDOWN: NO_LUCK,
    Reason.SOCK_USER_DATA_NULL: NO_LUCK,
    Reason.PEER_DEAD_RX: NO_LUCK,
    Reason.SKB_CLONE_NOMEM: NO_MEMORY,
    Reason.HANDSHAKE_TX_NOMEM: NO_MEMORY,
    Reason.KEEPALIVE_NOMEM: NO_MEMORY,
    Reason.INNER_TRIM_FAILED: NO_MEMORY,
    Reason.ENCRYPT_FAILED: NO_MEMORY,
    Reason.GSO_SEGMENT_FAILED: "the kernel cuts or refuses such a super-packet before WireGuard sees it",
    Reason.PEER_DEAD_TX: "needs the peer to go when its packet has a key, and before it has a queue",
    Reason.ENDPOINT_FROM_SKB_FAILED: "cannot be: prepare_skb_header() has refused what is not IP long before",
    Reason.KEYPAIR_INVALID: (
        "cannot be: only decrypt_packet() marks a receiving key, and only one that is expired or used up"
    ),
    Reason.RNG_NOT_READY: "only in the first moments of a boot, before there is any interface",
    Reason.HANDSHAKE_QUEUE_CONTENDED: (
        "needs a second CPU to hold the queue's lock, some 50 ns long, while 2048 wait"
    ),
    Reason.RESP_BAD_STATE: (
        "needs a second response between two statements: when one was taken and its session is not begun"
    ),
    Reason.SESSION_NOT_STARTED: (
        "needs the peer to go between two statements: when its response was taken and its session begins"
    ),
}


@dataclass
class Row:
    """One reason."""

    sent: int = 0
    reported: int = 0


@dataclass
class Ledger:
    """Sent and reported, by reason."""

    rows: dict[Reason, Row] = field(default_factory=dict)

    def add(self, reason: str, sent: int, reported: int) -> None:
        """Take down one provocation."""
        row = self.rows.setdefault(Reason[reason.upper()], Row())
        row.sent += sent
        row.reported += reported
        assert reported == sent, f"{reason}: {sent} sent, {reported} reported"

    def holds(self, report: Report, sent: dict[str, int]) -> None:
        """These packets were lost for these reasons, and nothing else was reported."""
        for reason in sorted({*sent, *report.totals}):
            self.add(reason, sent.get(reason, 0), report.totals.get(reason, 0))

    def table(self) -> str:
        """Every reason: its id, this kernel, sent, reported; or why it was not provoked."""
        lines = [f"{'reason':32} {'kernel':28} {'sent':>6} {'reported':>8}"]
        for reason in Reason:
            row = self.rows.get(reason)
            if row and row.sent:
                lines.append(f"{reason.id:32} {platform.release():28} {row.sent:6} {row.reported:8}")
            else:
                lines.append(
                    f"{reason.id:32} {platform.release():28} not provoked: {NOT_PROVOKED.get(reason, '?')}"
                )
        return "\n".join(lines) + "\n"
