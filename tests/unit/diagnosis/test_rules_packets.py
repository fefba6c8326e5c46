# SPDX-License-Identifier: GPL-2.0-only
"""rules/packets: foreign packets and copies."""

from __future__ import annotations

from factories import BERLIN, NOW, PARIS, Scene, drop, missing_probe, outer

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import Reason, SubReason
from wgtrace.events.types import DropEvent, Tai64n
from wgtrace.state.types import Way


def foreign(saddr: str = "192.0.2.1", payload: str = "000100002112a442") -> DropEvent:
    """A packet that is no WireGuard message."""
    return drop(
        Reason.BAD_HEADER,
        sub_reason=SubReason.UNKNOWN_TYPE,
        payload=bytes.fromhex(payload),
        payload_len=40,
        outer=outer(saddr, 3478),
    )


def replay(sub: SubReason = SubReason.DUPLICATE) -> DropEvent:
    """A counter that came before."""
    return drop(Reason.REPLAY_OR_OLD_COUNTER, BERLIN, sub_reason=sub, nonce=17, max_nonce=23)


def test_a_scanner_is_told_and_is_no_error() -> None:
    """What it looks like and from where, as information."""
    finding = Scene().dropped(foreign()).only()

    assert (finding.slug, finding.count, finding.severity) == ("not-wireguard", 23, Severity.INFO)
    assert finding.cause == (
        "192.0.2.1 sends to port 51820 of wg0 what is no WireGuard message; it looks like STUN."
    )


def test_foreign_packets_from_a_peers_address_are_a_warning() -> None:
    """A peer that speaks something else is worth a look: obfuscation, or a damaged path."""
    finding = Scene().dropped(foreign("203.0.113.9", "01a1b2c3")).only()

    assert finding.severity is Severity.WARNING
    assert "where berlin is" in finding.cause


def test_an_unknown_protocol_is_not_guessed() -> None:
    """Bytes that fit nothing are shown as they are."""
    assert "unknown kind (begins 77 77)" in Scene().dropped(foreign(payload="7777")).only().cause


def test_not_wireguard_without_a_packet_is_less_sure() -> None:
    """Counted but not seen."""
    finding = Scene().dropped(foreign(), 23, shown=0).only()

    assert (finding.count, finding.confidence) == (23, Confidence.LIKELY)
    assert finding.not_visible


def test_a_good_header_for_an_unknown_session_is_wireguard() -> None:
    """Data for a session that is gone is not called foreign."""
    scene = Scene().dropped(drop(Reason.UNKNOWN_RECEIVER_INDEX, outer=outer()))

    assert "not-wireguard" not in scene.slugs


def test_duplicates_are_a_warning_with_their_count() -> None:
    """The peer, the count and a command that shows both copies."""
    finding = Scene().dropped(replay()).only()

    assert (finding.slug, finding.count, finding.severity) == ("duplicated-packets", 23, Severity.WARNING)
    assert "such as counter 17 when the highest was 22" in finding.evidence
    assert "tcpdump -ni any 'udp port 51820 and host 203.0.113.9'" in finding.fix


def test_too_old_alone_is_no_duplicate() -> None:
    """A packet from beyond the window came late; whether it is a copy nobody knows."""
    assert "duplicated-packets" not in Scene().dropped(replay(SubReason.TOO_OLD)).slugs


def test_a_network_that_copies_everything_is_one_finding() -> None:
    """A copied initiation has the time of its original: the same cause."""
    copy = drop(Reason.HANDSHAKE_INIT_REPLAY, BERLIN, timestamp=Tai64n(NOW), latest_timestamp=Tai64n(NOW))
    finding = Scene().dropped(replay()).dropped(copy, 1).only()

    assert "copies of a handshake initiation came too, once" in finding.evidence


def test_duplicates_without_a_packet_keep_their_count() -> None:
    """Counted but not seen: the number stands, the example is missing."""
    finding = Scene().dropped(replay(), 23, shown=0).only()

    assert finding.count == 23
    assert not any("such as counter" in text for text in finding.evidence)


def late(public_key: str = BERLIN) -> DropEvent:
    """A counter that 8128 others have overtaken."""
    sub = SubReason.TOO_OLD
    return drop(Reason.REPLAY_OR_OLD_COUNTER, public_key, sub_reason=sub, nonce=17, max_nonce=9002)


def test_packets_that_come_much_too_late() -> None:
    """The peer, the count, an example, and that copies would look the same."""
    finding = Scene().dropped(late()).only()

    assert (finding.slug, finding.count, finding.confidence) == (
        "reordered-beyond-window",
        23,
        Confidence.LIKELY,
    )
    assert any("such as counter 17 when the highest was 9001" in text for text in finding.evidence)
    assert finding.not_visible


def test_late_packets_among_as_many_copies_are_copies() -> None:
    """A path that duplicates, slowly: one cause. Few copies among many late ones: two."""
    many = Scene().dropped(replay(), 23).dropped(late(), 23)
    assert [(f.slug, f.count) for f in many.findings] == [("duplicated-packets", 23)]
    assert "23 more came too late to be told from copies" in many.only().evidence

    few = Scene().dropped(replay(), 3).dropped(late(), 23)
    assert {(f.slug, f.count) for f in few.findings} == {
        ("duplicated-packets", 3),
        ("reordered-beyond-window", 23),
    }


def test_late_packets_of_two_peers_are_two_findings() -> None:
    """And without an example the count stands."""
    scene = Scene().dropped(late(), 5).dropped(late(PARIS), 3, shown=0)

    assert [(f.slug, f.count) for f in scene.findings] == [
        ("reordered-beyond-window", 5),
        ("reordered-beyond-window", 3),
    ]


def changed(saddr: str = "203.0.113.9", public_key: str = BERLIN) -> DropEvent:
    """Data that does not authenticate."""
    return drop(Reason.DECRYPT_FAILED, public_key, outer=outer(saddr))


def test_data_that_was_changed() -> None:
    """Whose, and the command for the device that leads there."""
    scene = Scene().dropped(changed()).asked(BERLIN, Way(outer().saddr, oif="enp3s0"))
    finding = scene.only()

    assert (finding.slug, finding.count, finding.severity, finding.confidence) == (
        "payload-corrupted",
        23,
        Severity.ERROR,
        Confidence.CERTAIN,
    )
    assert "ethtool -K enp3s0 rx off tx off gro off gso off tso off" in finding.fix
    assert any("ethtool -K DEVICE" in text for text in Scene().dropped(changed()).only().fix)


def test_handshakes_of_a_peer_whose_data_is_changed_have_the_same_cause() -> None:
    """They fail their first check too, and its key is right: no wrong key. Another sender's is."""
    scene = Scene().dropped(changed()).dropped(drop(Reason.INVALID_MAC1, outer=outer()), 7)
    assert [(f.slug, f.count) for f in scene.findings] == [("payload-corrupted", 30)]

    scene.dropped(drop(Reason.INVALID_MAC1, outer=outer("192.0.2.1")), 5)
    assert {(f.slug, f.count) for f in scene.findings} == {("payload-corrupted", 30), ("wrong-key-for-us", 5)}


def test_changed_data_from_elsewhere_may_be_forged() -> None:
    """It names a session, which anybody on the way can read."""
    finding = Scene().dropped(changed("192.0.2.66")).only()

    assert finding.confidence is Confidence.LIKELY
    assert "192.0.2.66 is not where berlin is: it may be forged" in finding.evidence


def test_changed_data_that_was_not_looked_at() -> None:
    """The number stands."""
    finding = Scene().dropped(changed(), 23, shown=0).only()

    assert (finding.count, finding.confidence) == (23, Confidence.LIKELY)
    assert finding.not_visible


def test_a_probe_that_is_missing_is_named_in_each() -> None:
    """Both come from what is seen on receive."""
    scene = Scene().dropped(late()).dropped(changed())
    scene.probes = (missing_probe("replay_or_old_counter", "decrypt_failed"),)

    assert [f.not_visible[-1] for f in scene.findings] == ["the thing that happens"] * 2
