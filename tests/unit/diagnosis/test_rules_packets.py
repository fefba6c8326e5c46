# SPDX-License-Identifier: GPL-2.0-only
"""rules/packets: foreign packets and copies."""

from __future__ import annotations

from factories import BERLIN, NOW, Scene, drop, outer

from wgtrace.diagnosis.finding import Confidence, Severity
from wgtrace.events.reasons import Reason, SubReason
from wgtrace.events.types import DropEvent, Tai64n


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
    assert Scene().dropped(drop(Reason.UNKNOWN_RECEIVER_INDEX, outer=outer())).slugs == []


def test_duplicates_are_a_warning_with_their_count() -> None:
    """The peer, the count and a command that shows both copies."""
    finding = Scene().dropped(replay()).only()

    assert (finding.slug, finding.count, finding.severity) == ("duplicated-packets", 23, Severity.WARNING)
    assert "such as counter 17 when the highest was 22" in finding.evidence
    assert "tcpdump -ni any 'udp port 51820 and host 203.0.113.9'" in finding.fix


def test_too_old_alone_is_no_duplicate() -> None:
    """A packet from beyond the window came late; whether it is a copy nobody knows."""
    assert Scene().dropped(replay(SubReason.TOO_OLD)).slugs == []


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
