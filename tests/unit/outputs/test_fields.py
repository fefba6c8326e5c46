# SPDX-License-Identifier: GPL-2.0-only
"""fields: each field of a drop, as text and as JSON."""

from __future__ import annotations

import pytest
from factories import BERLIN, NOW, drop, flow, outer, seen

from wgtrace.events.reasons import Reason
from wgtrace.events.types import Flow
from wgtrace.outputs.fields import DETAIL, DETAIL_KEYS, FIELDS, detail_json, flow_text, rfc3339

FLOWS = [
    (flow("10.9.4.7", "10.9.0.1", 6, 52114, 443), "10.9.4.7:52114 > 10.9.0.1:443 tcp"),
    (flow("fd00::1", "fd00::2", 17, 51820, 443), "[fd00::1]:51820 > [fd00::2]:443 udp"),
    (flow("10.9.4.7", "10.9.0.1", 1, 77), "10.9.4.7 > 10.9.0.1 icmp"),
    (flow("fd00::1", "fd00::2", 58), "fd00::1 > fd00::2 icmpv6"),
    (flow("10.9.4.7", "10.9.0.1", 47), "10.9.4.7 > 10.9.0.1 47"),
]


@pytest.mark.parametrize(("inner", "text"), FLOWS)
def test_flow_reads_as_tools_of_the_field_write_it(inner: Flow, text: str) -> None:
    """Both families, with ports where the protocol has them."""
    assert flow_text(seen(drop(Reason.SRC_NOT_ALLOWED, inner=inner))) == text


def test_outer_flow_shows_the_far_end() -> None:
    """Where only the outer packet is known, what matters is the other side of it."""
    sent = flow("198.51.100.1", "203.0.113.9", 17, 51820, 4500)

    assert flow_text(seen(drop(Reason.INVALID_MAC1, outer=outer()))) == "from 203.0.113.9:51820"
    assert flow_text(seen(drop(Reason.NO_ROUTE_TO_ENDPOINT, outer=sent))) == "to 203.0.113.9:4500"
    assert flow_text(seen(drop(Reason.NO_ENDPOINT))) == "?"


def test_rfc3339_keeps_every_nanosecond() -> None:
    """UTC, nine digits, Z; and no time of a peer breaks it."""
    assert rfc3339(NOW) == "2026-11-22T12:04:11.203000417Z"
    assert rfc3339(2**63 * 10**9).endswith("Z")


def test_json_names_are_unique() -> None:
    """No field overwrites another in a JSON line."""
    names = [field.json for field in FIELDS if field.value]

    assert len(names) == len(set(names))
    assert all(names)


def test_detail_keys_are_all_known_and_used() -> None:
    """Each key of `detail` has a getter, and each getter a reason."""
    assert {key for keys in DETAIL_KEYS.values() for key in keys} == set(DETAIL)


def test_detail_holds_only_what_applies() -> None:
    """A counter of zero is a fact where counters apply, and absent elsewhere."""
    assert detail_json(drop(Reason.REPLAY_OR_OLD_COUNTER, BERLIN)) == {"nonce": 0, "max_nonce": 0}
    assert detail_json(drop(Reason.SRC_NOT_ALLOWED, BERLIN, nonce=5)) == {"owner": None}
    assert detail_json(drop(Reason.BAD_PROTOCOL)) == {}
