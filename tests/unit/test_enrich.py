# SPDX-License-Identifier: GPL-2.0-only
"""enrich: a drop joined with the configuration of its moment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from factories import (
    BERLIN,
    BOOT_NS,
    NOW,
    OFFSET_NS,
    OSLO,
    PARIS,
    STRANGER,
    device,
    drop,
    flow,
    outer,
    seen,
    snapshot,
)

from wgtrace.enrich import enrich
from wgtrace.events.reasons import CATALOGUE, Reason, SubReason
from wgtrace.events.types import Tai64n

DUPLICATE, TOO_OLD = SubReason.DUPLICATE, SubReason.TOO_OLD
PING = flow("10.9.4.7", "192.168.77.1", 1)
HOUR_NS = 3_600_000_000_000
WHY: list[tuple[Reason, str | None, dict[str, Any], str]] = [
    (Reason.SRC_NOT_ALLOWED, BERLIN, {"inner": PING}, "10.9.4.7 is in no peer's AllowedIPs"),
    (
        Reason.SRC_NOT_ALLOWED,
        BERLIN,
        {"inner": PING, "owner": PARIS},
        "10.9.4.7 is in the AllowedIPs of paris",
    ),
    (Reason.ALLOWEDIPS_NO_PEER, None, {"inner": PING}, "no peer has 192.168.77.1 in its AllowedIPs"),
    (Reason.NO_ENDPOINT, BERLIN, {}, "berlin has no endpoint yet and has not spoken"),
    (Reason.NO_ENDPOINT, OSLO, {}, "BAQEBAQE… has no endpoint yet and has not spoken"),
    (Reason.STAGED_QUEUE_OVERFLOW, BERLIN, {}, "no session with berlin: more than 128 packets wait"),
    (Reason.STAGED_PURGED_GIVEUP, BERLIN, {}, "berlin completed no handshake in 20 attempts"),
    (Reason.STAGED_PURGED_IFDOWN, BERLIN, {}, "wg0 went down while it waited for berlin"),
    (
        Reason.NO_ROUTE_TO_ENDPOINT,
        BERLIN,
        {"errno": 101},
        "no route to the endpoint 203.0.113.9:51820: Network is unreachable (ENETUNREACH)",
    ),
    (Reason.UDP_SOCK_NULL, PARIS, {}, "wg0 has no IPv6 socket to reach [2001:db8::3]:4500"),
    (Reason.INVALID_MAC1, None, {}, "made for another public key than wg0's"),
    (
        Reason.UNKNOWN_PEER_PUBKEY,
        None,
        {"unknown_public_key": STRANGER},
        "public key CQkJCQkJ… is no peer of wg0",
    ),
    (
        Reason.REPLAY_OR_OLD_COUNTER,
        BERLIN,
        {"sub_reason": DUPLICATE, "nonce": 17, "max_nonce": 23},
        "counter 17 seen before (highest 22)",
    ),
    (
        Reason.REPLAY_OR_OLD_COUNTER,
        BERLIN,
        {"sub_reason": TOO_OLD, "nonce": 17, "max_nonce": 9000},
        "counter 17 too old (highest 8999)",
    ),
    (
        Reason.KEYPAIR_EXPIRED,
        BERLIN,
        {"session_age_ns": 187_400_000_000},
        "session is 187 s old, 180 s is the end",
    ),
    (
        Reason.HANDSHAKE_INIT_REPLAY,
        BERLIN,
        {"timestamp": Tai64n(NOW - HOUR_NS), "latest_timestamp": Tai64n(NOW)},
        "sent at 2026-11-22 11:04:11.203, last accepted 2026-11-22 12:04:11.203",
    ),
    (
        Reason.UNKNOWN_RECEIVER_INDEX,
        None,
        {"receiver_index": 0x1234ABCD},
        "session index 0x1234abcd is not known here",
    ),
    (
        Reason.BAD_HEADER,
        None,
        {"sub_reason": SubReason.UNKNOWN_TYPE, "payload": b"\1\2\3", "payload_len": 3},
        "unknown: begins 01 02 03",
    ),
    (
        Reason.BAD_HEADER,
        None,
        {"sub_reason": SubReason.UDP_LEN_LIES},
        "its UDP length field does not fit the packet",
    ),
    (Reason.RATELIMITED, None, {"outer": outer()}, "more than 20 handshakes a second from 203.0.113.9"),
]


@pytest.mark.parametrize(("reason", "key", "more", "why"), WHY)
def test_why_names_the_facts(reason: Reason, key: str | None, more: dict[str, Any], why: str) -> None:
    """The sentence names the addresses, peers and numbers of this very packet."""
    assert seen(drop(reason, key, **more)).why == why


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_sentence_without_facts(reason: Reason) -> None:
    """A drop of which nothing is known still gets a sentence, with no full stop and no hole."""
    why = seen(drop(reason)).why

    assert why
    assert not why.endswith(".")
    assert "None" not in why


def test_reason_without_a_sentence_of_its_own_uses_the_catalogue() -> None:
    """Where the catalogue says all there is, its words are used."""
    assert seen(drop(Reason.BAD_PROTOCOL)).why == CATALOGUE[Reason.BAD_PROTOCOL].means


def test_name_time_and_namespace_are_filled_in() -> None:
    """The peer's name, wall-clock time and the namespace's name come from the snapshot."""
    got = enrich(drop(Reason.NO_ENDPOINT, BERLIN), snapshot(netns_name="hub"), OFFSET_NS)

    assert got.peer
    assert got.peer.name == "berlin"
    assert got.ts_unix_ns == BOOT_NS + OFFSET_NS
    assert got.netns_name == "hub"


def test_nothing_is_guessed_for_an_unknown_interface() -> None:
    """Without the interface in the snapshot the peer keeps its key and has no name."""
    got = seen(drop(Reason.NO_ENDPOINT, BERLIN, ifname="wg7"))

    assert got.peer
    assert got.peer.name is None
    assert got.why == "AgICAgIC… has no endpoint yet and has not spoken"


def test_a_peer_that_is_gone_keeps_the_name_of_its_event() -> None:
    """A name that the event already has is not lost when the peer is removed."""
    event = drop(Reason.NO_ENDPOINT, BERLIN)
    assert event.peer
    event = replace(event, peer=replace(event.peer, name="old"))

    assert seen(event, snapshot(device(peers=()))).why.startswith("old has no endpoint")


def test_bad_mac1_without_a_private_key_says_so() -> None:
    """An interface with no private key refuses every handshake: that is the reason given."""
    got = seen(drop(Reason.INVALID_MAC1), snapshot(device(public_key=None)))

    assert got.why == "wg0 has no private key"


def test_a_time_out_of_range_does_not_break_the_sentence() -> None:
    """A peer may send any 64-bit time."""
    times: dict[str, Any] = {"timestamp": Tai64n(2**63 * 10**9), "latest_timestamp": Tai64n(-(2**62) * 10**9)}

    assert "since 1970" in seen(drop(Reason.HANDSHAKE_INIT_REPLAY, BERLIN, **times)).why
