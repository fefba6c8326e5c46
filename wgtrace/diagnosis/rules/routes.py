# SPDX-License-Identifier: GPL-2.0-only
"""Packets of WireGuard's own that find no way to the peer, or the wrong one."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence
from wgtrace.diagnosis.rules.build import STAGED, finding, host, times, waiting
from wgtrace.diagnosis.words import listing, quoted
from wgtrace.events.reasons import HandshakeCode, Reason
from wgtrace.state.types import Route, Way

_MAIN = 254
_REFUSALS = {errno.EACCES: "prohibit", errno.EHOSTUNREACH: "unreachable", errno.EINVAL: "blackhole"}


@dataclass(frozen=True, slots=True)
class _Why:
    """Why there is no route.

    Attributes:
        because: Ends the sentence that begins `has no route to the endpoint ...: `.
    """

    because: str
    fix: tuple[str, ...]
    confidence: Confidence = Confidence.CERTAIN


def no_route_to_endpoint(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """WireGuard's packets to a peer cannot leave this host: no route, or no address of the family."""
    refused = evidence.total(Reason.NO_ROUTE_TO_ENDPOINT, peer=key)
    no_socket = evidence.total(Reason.UDP_SOCK_NULL, peer=key)
    now = evidence.ways.get(key)
    if no_socket and now and not now.has_family:  # else the socket is missing for another reason
        refused += no_socket
    if not refused:
        return None
    label, peer = evidence.label(key), evidence.peer(key)
    way = evidence.refused.get(key)
    is_back = now is not None and not now.errno
    endpoint = str(peer.endpoint) if peer and peer.endpoint else f"of {label}"
    why = _why(evidence, key, way) if way else _not_seen(evidence, key, now)
    fix = why.fix
    if is_back and now and way:
        fix = (f"nothing: there is a route by now, by {leads(now)}",)
    seen = evidence.seen(Reason.NO_ROUTE_TO_ENDPOINT, peer=key)
    numbers = [s.last.event.errno for s in seen if s.last.event.errno]
    answers = listing([_errno(number) for number in dict.fromkeys(numbers)])
    asked = now or way
    where = _where(asked, evidence) if asked else ""
    facts = [
        f"the kernel refused to send to {endpoint}, {times(refused)}" + (f": {answers}" if answers else ""),
        *([f"ip route get {question(way)}{where} said {_errno(way.errno)}"] if way else []),
        *([f"ip route get {question(now)}{where} says {leads(now)} now"] if is_back and now else []),
        *waiting(evidence, key),
    ]
    return finding(
        evidence,
        "no-route-to-endpoint",
        Severity.WARNING if is_back and way else Severity.ERROR,
        why.confidence if peer else Confidence.LIKELY,
        refused + evidence.total(*STAGED, peer=key),
        f"This host {'had' if is_back else 'has'} no route to {label}'s endpoint {endpoint}: {why.because}."
        if peer and peer.endpoint
        else f"This host has no route to the endpoint of {label}: {why.because}.",
        peer=key,
        seen=facts,
        fix=fix,
        needs=(Reason.NO_ROUTE_TO_ENDPOINT.id,),
        not_visible=() if way else ("the routes of the moment when it was refused",),
    )


def routing_loop(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """The way to the peer's endpoint leads into the tunnel itself."""
    way, peer, device = evidence.ways.get(key), evidence.peer(key), evidence.device
    sent = evidence.steps(HandshakeCode.INIT_SENT, peer=key)
    if not is_loop(evidence, key) or not way or not peer or not peer.endpoint or not device:
        return None
    label = evidence.label(key)
    lost = [s for s in evidence.seen(Reason.ALLOWEDIPS_NO_PEER) if evidence.is_own(s)]
    holder = device.owner_of(way.endpoint)
    swallows = f", and the AllowedIPs of {evidence.label(holder.public_key)} hold it" if holder else ""
    outside = [route for route in way.defaults if route.oif != evidence.ifname]
    target = host(way.endpoint)
    fix = [
        evidence.command(f"ip {_six(way)}route replace {target} {_via(route)}{_table(way.table)}")
        for route in outside[:1]
    ] or [
        evidence.command(
            f"ip {_six(way)}route replace {target} via GATEWAY dev DEVICE{_table(way.table)}"
            "  # the way out without the tunnel"
        )
    ]
    return finding(
        evidence,
        "routing-loop",
        Severity.ERROR,
        Confidence.CERTAIN,
        evidence.total(*STAGED, peer=key) + sum(s.count for s in lost),
        f"The way to {label}'s endpoint {peer.endpoint} leads into {evidence.ifname} itself{swallows}: "
        "handshakes go round in a circle and never leave this host.",
        peer=key,
        seen=[
            f"ip route get {question(way)} says {leads(way)}",
            f"initiations sent: {sent}, none answered",
            *waiting(evidence, key),
        ],
        fix=[*fix, "or use wg-quick(8), whose fwmark keeps WireGuard's own packets out of the tunnel"],
        needs=(HandshakeCode.INIT_SENT.id,),
    )


def is_loop(evidence: InterfaceEvidence, key: str) -> bool:
    """Whether handshakes to the peer go into the interface itself, and are not answered."""
    way, attempts = evidence.ways.get(key), evidence.attempts.get(key)
    return bool(
        way
        and attempts
        and attempts.count
        and way.oif == evidence.ifname
        and way.netns in (0, evidence.netns)
    )


def _why(evidence: InterfaceEvidence, key: str, way: Way) -> _Why:
    """The cause nearest to the root."""
    six = _six(way)
    if not way.has_family:
        return _Why(
            "this kernel has IPv6 switched off",
            (evidence.wg_set(f"peer {key} endpoint IPV4-ADDRESS:PORT"), "or boot without ipv6.disable=1"),
        )
    if way.endpoint.version == 6 and not way.has_address:
        return _Why(
            "it has no IPv6 address",
            (
                _here(evidence, way, "ip -6 address add ADDRESS/PREFIX dev DEVICE"),
                _here(evidence, way, "ip -6 route add default via GATEWAY dev DEVICE"),
                "or reach it by IPv4, if it has such an address:",
                evidence.wg_set(f"peer {key} endpoint IPV4-ADDRESS:PORT"),
            ),
        )
    without = way.unmarked
    if without and not without.errno and without.oif != evidence.ifname:
        return _Why(
            f"packets with {evidence.ifname}'s fwmark {way.mark:#x} have none, packets without it have one "
            f"(table {_name(without.table)}): {_diversion(way)}",
            (_here(evidence, way, f"ip {six}rule add fwmark {way.mark:#x} lookup {_name(without.table)}"),),
        )
    if way.errno in _REFUSALS:
        return _refused(evidence, way, _REFUSALS[way.errno])
    unused = _unasked_default(evidence, way)
    if unused:
        rule = f"ip {six}rule add fwmark {way.mark:#x} lookup {_name(unused.table)}"
        return _Why(
            f"the default route of table {_name(unused.table)} would lead out, but no rule sends packets "
            f"with {evidence.ifname}'s fwmark {way.mark:#x} there",
            (_here(evidence, way, rule),),
            Confidence.LIKELY,
        )
    into = without is not None and without.oif == evidence.ifname
    return _Why(
        "it has no default route, and none to that address"
        + (f"; the one into {evidence.ifname} is not for WireGuard's own packets" if into else ""),
        (
            _here(evidence, way, f"ip {six}route add default via GATEWAY dev DEVICE"),
            "or bring up the interface that had it (its DHCP client gives the route back)",
            "see what there is:",
            _here(evidence, way, f"ip {six}route show table all type unicast"),
        ),
        Confidence.CERTAIN if way.errno == errno.ENETUNREACH else Confidence.LIKELY,
    )


def _not_seen(evidence: InterfaceEvidence, key: str, now: Way | None) -> _Why:
    """The kernel refused, and when it was asked it did not, or could not be asked."""
    peer = evidence.peer(key)
    addr = peer.endpoint.addr if peer and peer.endpoint else None
    mark = f" mark {evidence.device.fwmark:#x}" if evidence.device and evidence.device.fwmark else ""
    look = evidence.command(
        f"ip {'-6 ' if addr and addr.version == 6 else ''}route get {addr or 'ENDPOINT'}{mark}"
    )
    if now and not now.errno:
        because = "it was there again when wgtrace asked"
        if not now.netns:
            because = (
                f"where {evidence.ifname} is there is one, so it may have been made in another namespace"
            )
            return _Why(
                because, ("see which namespace has its UDP socket: ss -ulnp", look), Confidence.POSSIBLE
            )
        return _Why(because, ("see whether it stays, or what takes it away:", look), Confidence.LIKELY)
    return _Why("the kernel refused to send", (look, "and add the route that is missing"), Confidence.LIKELY)


def _refused(evidence: InterfaceEvidence, way: Way, kind: str) -> _Why:
    """A prohibit, unreachable or blackhole route, or such a rule."""
    six = _six(way)
    route = max(
        (r for r in way.refusing if r.kind == kind), key=lambda route: route.net.prefixlen, default=None
    )
    if route:
        table = _table(route.table)
        return _Why(
            f"the {kind} route {route.net} of table {_name(route.table)} forbids it",
            (_here(evidence, way, f"ip {six}route del {kind} {route.net}{table}"),),
        )
    rule = next((rule for rule in way.rules if rule.action == kind and rule.takes(way.mark)), None)
    if rule:
        return _Why(
            f"rule {rule.priority} says {kind}",
            (_here(evidence, way, f"ip {six}rule del priority {rule.priority}"),),
        )
    return _Why(
        f"a {kind} route or rule forbids it",
        ("see which:", _here(evidence, way, f"ip {six}route show table all type {kind}"), f"ip {six}rule"),
        Confidence.LIKELY,
    )


def _unasked_default(evidence: InterfaceEvidence, way: Way) -> Route | None:
    """A default route out of the tunnel in a table that no rule sends a marked packet to."""
    asked = {rule.table for rule in way.rules if rule.action == "lookup" and rule.takes(way.mark)}
    outside = (r for r in way.defaults if r.oif != evidence.ifname and r.table not in asked)
    return next(outside, None) if way.mark else None


def _diversion(way: Way) -> str:
    """Which rule tells marked packets from others."""
    for rule in way.rules:
        if rule.mask and not rule.takes(way.mark) and rule.takes(0) and rule.action == "lookup":
            return f"rule {rule.priority} sends only those without to table {_name(rule.table)}"
    return "a rule for the mark is missing"


def _here(evidence: InterfaceEvidence, way: Way, text: str) -> str:
    """The command where the UDP socket is, which may be another namespace than the interface's."""
    if way.netns in (0, evidence.netns):
        return evidence.command(text)
    return f"ip netns exec {quoted(way.netns_name)} {text}" if way.netns_name else text


def _where(way: Way, evidence: InterfaceEvidence) -> str:
    if way.netns in (0, evidence.netns):
        return ""
    return f" in namespace {way.netns_name or way.netns}, where {evidence.ifname} was made,"


def question(way: Way) -> str:
    """What `ip route get` is asked: `203.0.113.9 mark 0xca6c`."""
    return f"{way.endpoint}{f' mark {way.mark:#x}' if way.mark else ''}"


def leads(way: Way) -> str:
    """Its answer: `via 198.51.100.1 dev eth0`."""
    gateway = f"via {way.gateway} " if way.gateway else ""
    return f"{gateway}dev {way.oif}"


def _via(route: Route) -> str:
    gateway = f"via {route.gateway} " if route.gateway else ""
    return f"{gateway}dev {quoted(route.oif)}"


def _six(way: Way) -> str:
    return "-6 " if way.endpoint.version == 6 else ""


def _table(number: int) -> str:
    return f" table {number}" if number not in (0, _MAIN) else ""


def _name(number: int) -> str:
    return {253: "default", 254: "main", 255: "local"}.get(number, str(number))


def _errno(number: int) -> str:
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
