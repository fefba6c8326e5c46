# SPDX-License-Identifier: GPL-2.0-only
"""What WireGuard does after minutes."""

from __future__ import annotations

from ledger import Ledger
from slow import GIVE_UP_S, PACKETS, SlowScenes
from tracer import Tracer


def test_giving_up(tracer: Tracer, ledger: Ledger, slow_scenes: SlowScenes) -> None:
    """After 20 attempts what waited is thrown away: staged_purged_giveup, one peer-unreachable."""
    slow_scenes.wait_until(GIVE_UP_S)

    report = tracer.settled(lambda r: bool(r.totals), "silent0")
    ledger.holds(report, {"staged_purged_giveup": PACKETS})
    assert {d["peer"]["public_key"] for d in report.drops} == {slow_scenes.silent.b.public_key}
    assert report.slugs == ["outer-blocked-by-firewall", "peer-unreachable"]
    assert report.finding("peer-unreachable")["count"] == PACKETS


def test_an_expired_session(tracer: Tracer, ledger: Ledger, slow_scenes: SlowScenes) -> None:
    """Good packets of a session older than 180 s: keypair_expired, with its peer and age."""
    slow_scenes.old_session_used.join()

    report = tracer.settled(lambda r: r.totals.get("keypair_expired", 0) >= PACKETS, "aged0")
    ledger.holds(report, {"keypair_expired": PACKETS})
    assert {d["peer"]["public_key"] for d in report.drops} == {slow_scenes.impostor.public_key}
    assert all(d["detail"]["session_age_ns"] >= 180e9 for d in report.drops)
