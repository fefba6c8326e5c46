# SPDX-License-Identifier: GPL-2.0-only
"""Entries of the map `sessions`."""

from __future__ import annotations

from typing import Any

import pytest
from factories import BERLIN, BOOT_NS, NETNS
from session_data import queues_entry, session_entry

from wgtrace.errors import UndecodableRecordError
from wgtrace.events.session import Arrivals, Queues, queues, session, summed


def arrivals(**fields: Any) -> Arrivals:
    """What is told of a session with these numbers."""
    return session(*session_entry(BERLIN, **fields)).arrivals


def test_what_is_missing_was_lost() -> None:
    """The largest counter says how many were sent; those that did not come were lost."""
    found = arrivals(next=1000, received=977, late=5, duplicates=7, too_old=2)

    assert found == Arrivals(977, 23, 5, 7, 2)
    assert found.loss == 0.023


def test_a_session_that_was_there_before() -> None:
    """What came before the first that was seen is neither received nor lost."""
    assert arrivals(first=500, next=600, received=93).lost == 7
    assert not session(*session_entry(BERLIN, first=500)).is_whole
    assert session(*session_entry(BERLIN)).is_whole


def test_what_found_a_queue_full_was_not_lost_on_the_way() -> None:
    """It came. And more of it than is missing, as when it is forged, makes no loss below 0."""
    assert arrivals(next=100, received=70, unread=23) == Arrivals(70, 7, 0, 0, 0, 23)
    assert arrivals(next=100, received=70, unread=77).lost == 0


def test_numbers_that_are_read_while_they_change() -> None:
    """Received already, and the largest counter not yet."""
    assert arrivals(next=100, received=101).lost == 0


def test_whose_it_is() -> None:
    """Peer, interface, age, and who began it."""
    found = session(*session_entry(BERLIN, 7, born_ns=BOOT_NS, index=0xABCD, is_initiator=1))

    assert (found.public_key, found.ifname, found.netns) == (BERLIN, "wg0", NETNS)
    assert (found.number, found.born_ns, found.index, found.is_initiator) == (7, BOOT_NS, 0xABCD, True)


def test_sums() -> None:
    """Of several sessions; of none, nothing, and no loss."""
    assert summed([Arrivals(1, 2, 3, 4, 5, 6), Arrivals(10, 20, 30, 40, 50, 60)]) == (
        Arrivals(11, 22, 33, 44, 55, 66)
    )
    assert summed([]).loss == 0


def test_other_bytes_are_refused() -> None:
    """A key or a value of another size is of another ABI."""
    key, value = session_entry(BERLIN)
    for wrong in ((key[1:], value), (key, value + b"\0")):
        with pytest.raises(UndecodableRecordError):
            session(*wrong)
    with pytest.raises(UndecodableRecordError):
        queues(queues_entry(BERLIN, 7, 1, 2, 3)[1][1:])


def test_what_waits() -> None:
    """Each queue of a peer."""
    found = queues(queues_entry(BERLIN, 7, 23, 11, 5)[1])

    assert found == Queues("wg0", NETNS, BERLIN, 7, 23, 11, 5)
