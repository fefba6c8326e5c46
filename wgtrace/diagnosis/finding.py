# SPDX-License-Identifier: GPL-2.0-only
"""A finding: one cause, said once, with its proof and what to do."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from wgtrace.events.types import PeerRef


class Severity(enum.Enum):
    """How much it matters to the operator."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Confidence(enum.Enum):
    """How sure the rule is; a missing fact lowers it."""

    CERTAIN = "certain"
    LIKELY = "likely"
    POSSIBLE = "possible"


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause.

    Attributes:
        slug: Stable kebab-case id, such as `source-not-allowed`.
        peer: Whom it is about, None if no configured peer.
        count: Packets that this cause ended, exact.
        cause: One sentence for the operator.
        evidence: Short facts, each with its source.
        fix: Commands or steps, to be read, never run by wgtrace.
        not_visible: What could not be seen here and would have made it surer.
    """

    slug: str
    severity: Severity
    confidence: Confidence
    ifname: str
    netns: int
    peer: PeerRef | None
    count: int
    cause: str
    evidence: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()
    not_visible: tuple[str, ...] = ()
