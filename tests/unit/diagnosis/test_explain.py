# SPDX-License-Identifier: GPL-2.0-only
"""explain: one cause, one finding; nothing where nothing is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from factories import BERLIN, PARIS, PEERS, Scene, device, drop, flow, nobody, outer, peer, snapshot
from hypothesis import given
from hypothesis import strategies as st

from wgtrace.diagnosis.explain import SLUGS
from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.report import CounterLine


def test_a_healthy_tunnel_gives_nothing() -> None:
    """Handshakes in both directions, re-keys and keepalives are no finding."""
    scene = Scene(counters=(CounterLine("wg0", 0, "rx_errors", 0, 0),))
    for code in (
        HandshakeCode.INIT_SENT,
        HandshakeCode.RESPONSE_ACCEPTED,
        HandshakeCode.INIT_ACCEPTED,
        HandshakeCode.RESPONSE_SENT,
        HandshakeCode.HANDSHAKE_COMPLETE,
    ):
        scene.stepped(code, BERLIN, 5).stepped(code, PARIS, 5)

    assert scene.findings == ()


def test_errors_come_first_then_the_greater_count() -> None:
    """A thousand scans do not hide one broken peer."""
    scene = Scene()
    scene.dropped(drop(Reason.BAD_HEADER, payload=b"\x77", payload_len=1, outer=outer("192.0.2.1")), 1009)
    scene.dropped(nobody("10.9.7.7", PARIS), 3).dropped(nobody(), 5)

    assert [(f.slug, f.count) for f in scene.findings] == [
        ("source-not-allowed", 5),
        ("source-not-allowed", 3),
        ("not-wireguard", 1009),
    ]


def test_waiting_packets_alone_are_no_finding() -> None:
    """Why there is no session is what counts; that packets waited proves nothing by itself."""
    assert Scene().dropped(drop(Reason.STAGED_QUEUE_OVERFLOW, BERLIN), 271).slugs == []


def test_a_hostile_interface_name_cannot_escape_its_command() -> None:
    """An interface name is quoted for the shell."""
    scene = Scene(snapshot(device("wg0;reboot")))
    event = replace(nobody(), device=replace(nobody().device, ifname="wg0;reboot"))

    assert "wg set 'wg0;reboot' peer" in scene.dropped(event).only().fix[0]


def test_one_cause_is_one_finding_for_each_peer() -> None:
    """Many sources of one peer are one finding; two peers are two."""
    scene = Scene()
    for last in range(1, 30):
        scene.dropped(nobody(f"10.8.0.{last}"), 1).dropped(nobody(f"10.7.0.{last}", PARIS), 1)

    assert [(f.slug, f.count) for f in scene.findings] == [("source-not-allowed", 29)] * 2


@given(  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
    drops=st.lists(
        st.tuples(
            st.sampled_from(Reason),
            st.sampled_from(SubReason),
            st.sampled_from([None, BERLIN, PARIS]),
            st.booleans(),
            st.integers(0, 3),
        ),
        max_size=30,
    ),
    steps=st.lists(st.tuples(st.sampled_from(HandshakeCode), st.sampled_from([BERLIN, PARIS])), max_size=10),
    is_configured=st.booleans(),
)
def test_no_evidence_breaks_the_rules(
    drops: list[tuple[Reason, SubReason, str | None, bool, int]],
    steps: list[tuple[HandshakeCode, str]],
    is_configured: bool,
) -> None:
    """Whatever was seen, every finding is whole: a known slug, a sentence, a fix, no hole."""
    scene = Scene(snapshot() if is_configured else snapshot(device("wg9", peers=(*PEERS, peer("x")))))
    for reason, sub, key, has_flows, shown in drops:
        flows: dict[str, Any] = {"inner": flow("10.9.9.9", "10.1.1.1"), "outer": outer()} if has_flows else {}
        scene.dropped(drop(reason, key, sub_reason=sub, **flows), 3, shown)
    for code, key in steps:
        scene.stepped(code, key)

    findings = scene.findings

    assert len({(f.slug, f.peer) for f in findings}) == len(findings)
    for finding in findings:
        assert finding.slug in SLUGS
        assert finding.cause.endswith(".")
        assert finding.fix
        assert "None" not in " ".join((finding.cause, *finding.fix, *finding.evidence))
