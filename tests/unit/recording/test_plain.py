# SPDX-License-Identifier: GPL-2.0-only
"""recording: dataclasses to JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from factories import BERLIN, attached_probe, device, missing_probe, peer, snapshot

from wgtrace.probes.types import ProbeStatus
from wgtrace.recording.plain import dumped, loaded
from wgtrace.state.types import Snapshot


def test_a_configuration_comes_back_as_it_was() -> None:
    """Addresses and networks of both families, names, counters, and what is None."""
    v6 = peer(BERLIN, None, "fd00::/64", "10.0.0.0/8", at="[2001:db8::3]:4500", has_preshared_key=True)
    state = replace(
        snapshot(device(), device("wg1", 7, public_key=None, peers=(v6,), counters={"rx_errors": 2**63})),
        unreadable=("blue: the network namespace blue is gone",),
    )

    assert loaded(Snapshot, dumped(state)) == state


def test_a_probe_comes_back_as_it_was() -> None:
    """Attached or not, with its mechanism as an enum."""
    for probe in (attached_probe(1), missing_probe("x", "y")):
        assert loaded(ProbeStatus, dumped(probe)) == probe


@dataclass(frozen=True, slots=True)
class Later:
    """What a later wgtrace may make of a class: one field gone, one new with a default."""

    number: int
    by_number: dict[int, str] = field(default_factory=dict)
    ratio: float = 0.5


def test_what_is_missing_has_its_default_and_what_is_unknown_is_left_alone() -> None:
    """An older or a newer recording is read as far as it is understood."""
    assert loaded(Later, b'{"number":7,"gone":{"a":1}}') == Later(7)
    assert loaded(Later, b'{"number":7,"by_number":{"3":"x"},"ratio":1.5}') == Later(7, {3: "x"}, 1.5)


@pytest.mark.parametrize(
    "given",
    [{}, [], 7, {"number": "7"}, {"number": True}, {"number": 1, "by_number": {"x": "y"}}, {"number": None}],
    ids=str,
)
def test_what_is_of_another_kind_is_an_error(given: Any) -> None:
    """No value is bent to fit."""
    with pytest.raises(ValueError, match=r"."):
        loaded(Later, json.dumps(given).encode())
