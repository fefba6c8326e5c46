# SPDX-License-Identifier: GPL-2.0-only
"""What two ends prove together, and neither of them alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.words import count_of, listing, utc
from wgtrace.events.types import PeerRef
from wgtrace.merge.tunnel import Message, Tunnel, Way

SLUGS: Final = (
    "handshake-filtered-in-path",
    "response-lost",
    "handshake-refused-there",
    "large-packets-lost",
    "one-way-loss",
    "path-loss",
    "nat-in-path",
)
_MUCH: Final = 0.01
"""A part of the data that is worth a finding, where the loss is certain."""
_ENOUGH: Final = 5
"""Messages lost, and messages that arrived, before a size is said to be what divides them."""


def findings(tunnel: Tunnel) -> list[Finding]:
    """The causes, the surest first."""
    found = []
    for way in tunnel.ways:
        found += [*_handshakes(way), *_large(way), *_nat(way)]
    found += _loss(tunnel)
    order = {slug: number for number, slug in enumerate(SLUGS)}
    return sorted(found, key=lambda finding: order[finding.slug])


def place(way: Way) -> str:
    """`berlin > hub`."""
    return f"{way.source.name} > {way.target.name}"


def _finding(
    way: Way,
    slug: str,
    severity: Severity,
    count: int,
    cause: str,
    evidence: tuple[str, ...],
    fix: tuple[str, ...],
) -> Finding:
    # A record that is missing at the target may be the very one that would say otherwise.
    sure = not way.target.lost and not way.target.gaps
    assert way.there.public_key
    return Finding(
        slug=slug,
        severity=severity,
        confidence=Confidence.CERTAIN if sure else Confidence.LIKELY,
        ifname=way.device.ifname,
        netns=way.device.netns,
        peer=PeerRef(way.there.public_key, name=_name(way)),
        count=count,
        cause=cause,
        evidence=evidence,
        fix=fix,
        not_visible=() if sure else (f"{way.target.name} may lack records: {_missing(way)}",),
    )


def _name(way: Way) -> str | None:
    peer = way.device.peer(way.there.public_key or "")
    return peer.name if peer else None


def _missing(way: Way) -> str:
    lost = [f"{count_of(way.target.lost, 'record')} lost"] if way.target.lost else []
    return "; ".join([*lost, *way.target.gaps])


def _between(way: Way, messages: list[Message]) -> str:
    first, last = (utc(m.left_ns + way.source.facts.clock_offset_ns) for m in (messages[0], messages[-1]))
    return f"from {first} to {last[11:]} UTC" if len(messages) > 1 else f"at {first} UTC"


def _handshakes(way: Way) -> Iterator[Finding]:
    lost = [m for m in way.initiations if m.arrived_ns is None]
    if lost and not any(m.arrived_ns is not None for m in way.initiations[way.initiations.index(lost[-1]) :]):
        # The last of them: what was lost before, and answered after, is loss.
        run = _last_run(way.initiations)
        yield _finding(
            way,
            "handshake-filtered-in-path",
            Severity.ERROR,
            len(run),
            f"{way.source.name} asks for a session, and what it sends does not reach WireGuard at "
            f"{way.target.name}: it is lost in a firewall of either host, or between them.",
            (
                f"{way.source.name} sent {count_of(len(run), 'initiation')} {_between(way, run)}",
                f"{way.target.name} recorded all that time and saw none of them",
            ),
            (
                f"on {way.target.name}: let UDP port {way.there.listen_port} in; then look at the path",
                f"tcpdump -ni any udp port {way.there.listen_port}  # on {way.target.name}: does it come?",
            ),
        )
    answers = [m for m in way.responses if m.arrived_ns is None]
    if answers and answers[-1] is way.responses[-1]:
        run = _last_run(way.responses)
        yield _finding(
            way,
            "response-lost",
            Severity.ERROR,
            len(run),
            f"{way.target.name}'s initiations reach {way.source.name}, which answers, and the answer does "
            f"not reach WireGuard at {way.target.name}: the way back is closed.",
            (
                f"{way.source.name} sent {count_of(len(run), 'response')} {_between(way, run)}",
                f"{way.target.name} recorded all that time and saw none of them",
            ),
            (
                f"on {way.target.name}: let in what answers from UDP port {way.device.listen_port} of "
                f"{way.source.name}; where there is NAT, its entry must outlive the pause",
            ),
        )
    refused = [m for m in (*way.initiations, *way.responses) if m.refused]
    if refused:
        reasons = list(dict.fromkeys(m.refused.id for m in refused if m.refused))
        yield _finding(
            way,
            "handshake-refused-there",
            Severity.ERROR,
            len(refused),
            f"{way.source.name}'s handshake messages reach {way.target.name}, which refuses them: "
            f"{listing(reasons)}. The way between is not the cause.",
            (f"{count_of(len(refused), 'message')} refused {_between(way, refused)}",),
            (f"wgtrace replay on {way.target.name}'s recording says what to change",),
        )


def _last_run(messages: list[Message]) -> list[Message]:
    """The messages that did not arrive since one did."""
    run: list[Message] = []
    for message in messages:
        run = [] if message.arrived_ns is not None else [*run, message]
    return run


def _large(way: Way) -> Iterator[Finding]:
    lost, arrived = way.lost, [m for m in way.data if m.arrived_ns is not None]
    if len(lost) < _ENOUGH or len(arrived) < _ENOUGH:
        return
    smallest, largest = min(m.length for m in lost), max(m.length for m in arrived)
    if smallest > largest:
        yield _finding(
            way,
            "large-packets-lost",
            Severity.ERROR,
            len(lost),
            f"From {way.source.name} to {way.target.name} messages of up to {largest} bytes arrive and "
            f"those from {smallest} bytes on do not: something between drops them, or their fragments.",
            (f"{len(arrived)} of up to {largest} bytes came, none of {len(lost)} from {smallest} bytes on",),
            (f"ip link set {way.device.ifname} mtu {_mtu_for(largest)}  # on {way.source.name}",),
        )


def _mtu_for(length: int) -> int:
    """The MTU of which the largest message has so many bytes: 16 of header, 16 of tag."""
    return max(1280, (length - 32) // 16 * 16)


def _loss(tunnel: Tunnel) -> Iterator[Finding]:
    for way, other in (tunnel.ways, tunnel.ways[::-1]):
        loss, back = way.loss, other.loss
        if not loss or loss[1] < _MUCH or any(f.slug == "large-packets-lost" for f in _large(way)):
            continue
        one_way = back is not None and back[2] < loss[1]
        told = f"{way.source.name} > {way.target.name} {percent(loss)}"
        if back is not None:
            told += f", {other.source.name} > {other.target.name} {percent(back)}"
        direction = "and much less the other way" if one_way else "by firewall, queue or path"
        yield _finding(
            way,
            "one-way-loss" if one_way else "path-loss",
            Severity.WARNING,
            len(way.lost),
            f"From {way.source.name} to {way.target.name} {100 * loss[0]:.1f} % of the data is lost between "
            f"the two WireGuards, {direction}.",
            (told, f"lost {_between(way, way.lost)}"),
            ("look for a full queue, a policer or a bad link on that way: each direction has its own",),
        )


def percent(loss: tuple[float, float, float]) -> str:
    """`6.7 %`, or `6.7 % (5.1 to 8.9 %)`."""
    share, least, most = (f"{100 * part:.1f}" for part in loss)
    return f"{share} %" if least == most else f"{share} % ({least} to {most} %)"


def _nat(way: Way) -> Iterator[Finding]:
    if not way.came_from:
        return
    seen = way.came_from.most_common(1)[0][0]
    own = way.own.most_common(1)[0][0] if way.own else None
    port = own.port if own else way.device.listen_port
    if seen.port == port and (own is None or own.addr == seen.addr):
        return
    is_here = str(own) if own else f"port {port}"
    yield _finding(
        way,
        "nat-in-path",
        Severity.INFO,
        0,
        f"{way.source.name} sends from {is_here}, and {way.target.name} sees {seen}: an address translation "
        "is between them.",
        (f"{count_of(len(way.came_from), 'address')} seen at {way.target.name}",),
        (
            f"if {way.target.name} is to be first to speak after a pause: on {way.source.name}, "
            "persistent-keepalive 25 for it",
        ),
    )
