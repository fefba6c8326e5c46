# SPDX-License-Identifier: GPL-2.0-only
"""pipeline: what the rules ask of the host."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from drops_run import run
from factories import (
    BERLIN,
    PARIS,
    device,
    peer,
    snapshot,
)
from stand_ins import BAD, CONFIG, Host, Replay, drop, step, total_of

from wgtrace.events.reasons import HandshakeCode, Reason
from wgtrace.pipeline import HostFacts
from wgtrace.state.types import Claim, Device, Load, Way

pytestmark = pytest.mark.usefixtures("in_utc")


UNSENT = drop(Reason.NO_ROUTE_TO_ENDPOINT, BERLIN, errno=101)


def test_the_way_is_asked_while_there_is_none() -> None:
    """At once when packets find no route, and again for the summary: what it was stays known."""
    answers = [Way(ip_address("203.0.113.9"), errno=13), Way(ip_address("203.0.113.9"), oif="eth0")]
    asked: list[tuple[str, str]] = []

    def way(of: Device, endpoint: object, _namespaces: object) -> Way:
        asked.append((of.ifname, str(endpoint)))
        return answers.pop(0)

    tracer = Replay([[UNSENT], [UNSENT]], {total_of(Reason.NO_ROUTE_TO_ENDPOINT, BERLIN): 2})
    told = run(tracer, facts=HostFacts(way=way))

    assert asked == [("wg0", "203.0.113.9")] * 2
    assert told.slugs == ["no-route-to-endpoint"]
    assert "EACCES" in str(told.findings[0].evidence)
    assert told.findings[0].fix == ("nothing: there is a route by now, by dev eth0",)


def test_a_healthy_run_asks_for_no_way() -> None:
    """Routes are not read for peers without trouble."""

    def way(*_: object) -> Way:
        raise AssertionError("asked")

    assert run(
        Replay([[BAD], [step(HandshakeCode.RESPONSE_ACCEPTED, BERLIN)]]), facts=HostFacts(way=way)
    ).findings


def test_who_moved_a_prefix_is_said() -> None:
    """The process that configured something between two snapshots."""
    host = Host(snapshot(device(peers=(peer(BERLIN, "berlin", "10.9.4.0/24"), peer(PARIS, "paris")))))
    moved = host.set(device(peers=(peer(BERLIN, "berlin"), peer(PARIS, "paris", "10.9.4.0/24"))))
    told = run(Replay([[BAD], [moved, CONFIG, BAD]]), host)

    assert "by wg (pid 4242)" in next(f.cause for f in told.findings if f.slug == "allowed-ips-moved")


def test_claims_and_load_reach_the_rules() -> None:
    """Read for the summary, the load also at the start."""
    loads = iter((Load((10,), (5,), (100,)), Load((100,), (50,), (200,))))
    net = ip_network("10.9.4.0/24")
    claims = tuple(Claim("/etc/wireguard/wg0.conf", key, net) for key in (BERLIN, PARIS))
    host = Host(snapshot(device(peers=(peer(BERLIN, "berlin"), peer(PARIS, "paris", "10.9.4.0/24")))))
    tracer = Replay([[]], {total_of(Reason.RX_QUEUE_FULL, BERLIN): 7})
    told = run(tracer, host, facts=HostFacts(claims=lambda: claims, load=lambda: next(loads)))

    assert told.slugs == ["allowed-ips-moved", "queue-full"]
    full = next(f for f in told.findings if f.slug == "queue-full")
    assert "was busy 90% of this run, 45% with receiving (softirq)" in str(full.evidence)
