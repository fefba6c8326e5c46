# SPDX-License-Identifier: GPL-2.0-only
"""The probe catalogue against the C that it names and the ids that it promises."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import pytest

from wgtrace.events.invariants import Invariant
from wgtrace.events.mtu import EVENT_IDS
from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.events.wire import PacketWay
from wgtrace.loader.source import FILES, bpf_directory
from wgtrace.probes.catalogue import CATALOGUE, PACKETS, PATH
from wgtrace.probes.invariants import INVARIANT_PROBES
from wgtrace.probes.latency import LATENCY
from wgtrace.probes.mtu import MTU
from wgtrace.probes.story import EVERYTHING, HANDSHAKES, TOP
from wgtrace.probes.types import Point, Probe


def _program_text() -> str:
    """What of bpf/ runs, without the ABI and without comments."""
    names = [name for name in FILES if name != "events.h"]
    text = "\n".join((bpf_directory() / name).read_text() for name in names)
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


TEXT: Final = _program_text()
# The C parameters of each handler.
HANDLERS: Final = {
    name: [] if parameters.strip() == "void" else parameters.split(",")
    for name, parameters in re.findall(
        r"^static __always_inline int (handle_\w+)\(([^)]*)\)\n\{", TEXT, re.MULTILINE
    )
}


#: Each row of all catalogues once: those that several have are the very same.
ROWS: Final = tuple(
    dict.fromkeys((*CATALOGUE, *HANDSHAKES, *TOP, *LATENCY, *MTU, *PACKETS, *INVARIANT_PROBES))
)


def _by_name(probe: Probe) -> str:
    return probe.name


@pytest.mark.parametrize("probe", ROWS, ids=_by_name)
def test_a_row_fits_its_handler(probe: Probe) -> None:
    """The handler takes as many arguments as the row hands over; a tracepoint's also which program it is."""
    which = 1 if probe.point is Point.TRACEPOINT else 0

    assert probe.handler in HANDLERS
    assert len(probe.args) + which == len(HANDLERS[probe.handler])


@pytest.mark.parametrize("probe", ROWS, ids=_by_name)
def test_a_row_is_whole(probe: Probe) -> None:
    """A row has a stable name, a target, and says what it sees."""
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", probe.name)
    assert probe.targets
    assert probe.tells
    assert not probe.tells.endswith(".")
    assert not probe.without_it.endswith(".")


@pytest.mark.parametrize("probe", [row for row in ROWS if row not in LATENCY], ids=_by_name)
def test_a_row_gives_known_ids(probe: Probe) -> None:
    """What a row gives are ids of reasons or of handshake steps, each once."""
    known = {reason.id for reason in Reason} | {code.id for code in HandshakeCode} | {PATH}
    known |= {"sessions", "queues"} | {f"packet_{way.name.lower()}" for way in PacketWay}
    known |= {i.id for i in Invariant} | {*EVENT_IDS, "sizes in", "sizes out"}

    assert set(probe.gives) <= known
    assert len(set(probe.gives)) == len(probe.gives)


@pytest.mark.parametrize(
    "catalogue",
    [EVERYTHING, CATALOGUE, (*CATALOGUE, *PACKETS), HANDSHAKES, TOP, LATENCY, MTU],
    ids=["probes", "drops", "sample", "handshakes", "top", "latency", "mtu"],
)
def test_rows_are_unique(catalogue: Sequence[Probe]) -> None:
    """Neither a name nor an attach point comes twice: programs are called after them."""
    functions = [probe for probe in catalogue if probe.point is not Point.TRACEPOINT]
    points = Counter((target, probe.point) for probe in functions for target in probe.targets)

    assert max(Counter(probe.name for probe in catalogue).values()) == 1
    assert max(points.values()) == 1


def test_every_handler_is_attached_somewhere() -> None:
    """No handler of bpf/ is left over without a row."""
    attached = {probe.handler for probe in ROWS}
    assert set(HANDLERS) == attached


def test_every_reason_is_given() -> None:
    """Each reason and each step of a handshake is given by some row."""
    by_drops = {id_ for probe in CATALOGUE for id_ in probe.gives}
    by_handshakes = {id_ for probe in HANDSHAKES for id_ in probe.gives}

    assert {reason.id for reason in Reason} <= by_drops
    assert {code.id for code in HandshakeCode} <= by_handshakes | {HandshakeCode.UNREACHABLE.id}
    of_drops = {code for code in HandshakeCode if code < 12} | {HandshakeCode.UNREACHABLE}
    assert {code.id for code in of_drops} <= by_drops


def test_drops_pays_nothing_for_the_story() -> None:
    """What only handshakes tells is in no row of drops, and no row of handshakes looks at packets."""
    assert {probe.file for probe in CATALOGUE} == {"drop.bpf.c", "handshake.bpf.c", "path.bpf.c"}
    assert {probe.file for probe in HANDSHAKES} == {"handshake.bpf.c", "story.bpf.c"}
    assert not [probe for probe in HANDSHAKES if probe.point is Point.TRACEPOINT]


def test_every_reason_is_set_by_a_program() -> None:
    """Each reason, sub-reason and step stands in the C."""
    names = [f"WGT_{member.name}" for member in (*Reason, *HandshakeCode)]
    names += [f"WGT_SUB_{sub.name}" for sub in SubReason]

    assert [name for name in names if not re.search(rf"\b{name}\b", TEXT)] == []


def test_pairs_are_whole() -> None:
    """A row that only closes what another opened stands beside it: an entry without an exit leaks."""
    entries = {probe.targets for probe in CATALOGUE if probe.point is Point.ENTRY}
    closing = [probe for probe in CATALOGUE if probe.point is Point.RETURN and not probe.without_it]

    assert closing
    assert all(probe.targets in entries for probe in closing)
