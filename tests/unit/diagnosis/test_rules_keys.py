# SPDX-License-Identifier: GPL-2.0-only
"""rules/keys: keys that do not fit."""

from __future__ import annotations

from factories import BERLIN, OURS, PARIS, STRANGER, Scene, device, drop, key, outer, peer, snapshot

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import HandshakeCode, Reason
from wgtrace.events.types import DropEvent
from wgtrace.state.types import Snapshot


def bad_mac1(saddr: str = "192.0.2.7", sport: int = 4500) -> DropEvent:
    """A handshake for another key."""
    return drop(Reason.INVALID_MAC1, outer=outer(saddr, sport), message_type=1)


def knock(unknown: str | None = STRANGER, saddr: str = "192.0.2.7") -> DropEvent:
    """A handshake with a key that is not configured."""
    return drop(Reason.UNKNOWN_PEER_PUBKEY, outer=outer(saddr, 4500), unknown_public_key=unknown)


def bad_response() -> DropEvent:
    """A response that does not authenticate."""
    return drop(Reason.RESP_DECRYPT_FAILED, BERLIN, outer=outer())


def test_wrong_key_for_us_says_from_where_and_our_key() -> None:
    """The sender's address, the count, and the key that it should have."""
    finding = Scene().dropped(bad_mac1()).only()

    assert (finding.slug, finding.count, finding.peer) == ("wrong-key-for-us", 23, None)
    assert finding.cause == "192.0.2.7 has another public key for wg0 than the one it has now."
    assert any(OURS in text for text in finding.fix)
    assert "wg show wg0 public-key" in finding.fix
    assert "from 192.0.2.7:4500" in finding.evidence
    assert finding.confidence is Confidence.CERTAIN


def test_wrong_key_for_us_from_a_peers_address_names_the_peer() -> None:
    """The address of a configured peer is told by its name."""
    assert "203.0.113.9 (where berlin is) has" in Scene().dropped(bad_mac1("203.0.113.9")).only().cause


def test_no_private_key_is_the_cause_when_there_is_none() -> None:
    """An interface without a private key does not blame the sender."""
    finding = Scene(snapshot(device(public_key=None))).dropped(bad_mac1()).only()

    assert "wg0 has no private key" in finding.cause
    assert finding.fix[0] == "wg set wg0 private-key FILE"


def test_wrong_key_for_us_is_less_sure_without_the_configuration() -> None:
    """Whether there is a private key at all is then not known."""
    finding = Scene(Snapshot(0)).dropped(bad_mac1()).only()

    assert finding.confidence is Confidence.LIKELY
    assert finding.not_visible


def test_unknown_key_is_not_a_wrong_key_for_us() -> None:
    """A handshake that knows our key and is of no peer is `unknown-peer` alone."""
    assert Scene().dropped(knock()).slugs == ["unknown-peer"]


def test_unknown_peer_gives_the_whole_key() -> None:
    """The key is printed whole, with the command that adds it."""
    finding = Scene().dropped(knock()).only()

    assert finding.slug == "unknown-peer"
    assert finding.cause == (
        f"Public key {STRANGER} asks for a session from 192.0.2.7:4500, and is no peer of wg0."
    )
    assert any(f"wg set wg0 peer {STRANGER} allowed-ips ADDRESS/32" in text for text in finding.fix)


def test_unknown_peer_at_a_peers_endpoint_may_be_its_new_key() -> None:
    """The configured peer of that address is named, and how to replace its key."""
    finding = Scene().dropped(knock(saddr="2001:db8::3")).only()

    assert "where paris is" in finding.cause
    assert (
        f"wg set wg0 peer {PARIS} remove peer {STRANGER} "
        "allowed-ips 10.9.0.3/32,10.9.4.0/24 endpoint [2001:db8::3]:4500"
    ) in finding.fix


def test_each_unknown_key_is_a_cause_of_its_own() -> None:
    """Two strangers are two findings, and a flood of them is cut."""
    scene = Scene()
    for number in range(20, 40):
        scene.dropped(knock(key(number)), number)

    counts = [finding.count for finding in scene.findings]

    assert counts == [39, 38, 37, 36, 35]


def test_unknown_peer_without_the_key_is_less_sure() -> None:
    """Counted but not seen: the key is not visible."""
    finding = Scene().dropped(knock(), 23, shown=0).only()

    assert (finding.count, finding.confidence) == (23, Confidence.LIKELY)
    assert finding.not_visible


def test_preshared_key_mismatch_is_certain_on_the_initiator() -> None:
    """A response that fails to authenticate while everything else fits is the preshared key."""
    finding = Scene().dropped(bad_response(), 3).stepped(HandshakeCode.INIT_SENT, BERLIN, 3).only()

    assert (finding.slug, finding.count) == ("preshared-key-mismatch", 3)
    assert (finding.severity, finding.confidence) == (Severity.ERROR, Confidence.CERTAIN)
    assert "this side has none" in finding.cause
    assert f"wg set wg0 peer {BERLIN} preshared-key FILE" in finding.fix[0]


def test_preshared_key_of_this_side_may_be_removed() -> None:
    """A side that has one is told how to have none."""
    state = snapshot(device(peers=(peer(BERLIN, "berlin", has_preshared_key=True),)))
    finding = Scene(state).dropped(bad_response()).only()

    assert "this side has one" in finding.cause
    assert f"wg set wg0 peer {BERLIN} preshared-key /dev/null" in finding.fix


def test_preshared_key_mismatch_is_less_sure_when_a_handshake_completed() -> None:
    """A peer with which a handshake completed had the right key at some time."""
    scene = Scene().dropped(bad_response(), 1).stepped(HandshakeCode.RESPONSE_ACCEPTED, BERLIN)

    assert scene.only().confidence is Confidence.LIKELY


def test_late_response_is_not_a_preshared_key() -> None:
    """A response to a forgotten initiation says nothing about keys."""
    assert Scene().dropped(drop(Reason.RESP_UNKNOWN_INDEX, outer=outer())).slugs == []


def test_responder_side_of_a_mismatch_says_nothing() -> None:
    """Initiations accepted and answered without end do not prove a preshared key."""
    scene = Scene().stepped(HandshakeCode.INIT_ACCEPTED, BERLIN, 5)

    assert scene.stepped(HandshakeCode.RESPONSE_SENT, BERLIN, 5).slugs == []


def test_waiting_packets_are_evidence_of_the_preshared_key() -> None:
    """Packets lost for want of a session belong to the cause of that, in one finding."""
    scene = Scene().dropped(bad_response(), 3).dropped(drop(Reason.STAGED_QUEUE_OVERFLOW, BERLIN), 271)

    assert any("271 packets" in text for text in scene.only().evidence)


def test_a_changed_key_explains_the_peers_silence_too() -> None:
    """A peer with a new key refuses our initiations: one cause, one finding."""
    scene = Scene().dropped(knock(saddr="2001:db8::3"), 3).stepped(HandshakeCode.INIT_SENT, PARIS, 4)

    assert "4 initiations of this side to paris had no answer" in scene.only().evidence
