# SPDX-License-Identifier: GPL-2.0-only
"""What the rules share: making a finding, and the commands that fix it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence, Sighting
from wgtrace.diagnosis.words import count_of, listing
from wgtrace.events.reasons import Reason
from wgtrace.events.types import Endpoint, IPAddress
from wgtrace.state.types import IPNetwork, Peer

STAGED = (
    Reason.STAGED_QUEUE_OVERFLOW,
    Reason.STAGED_PURGED_GIVEUP,
    Reason.STAGED_PURGED_IFDOWN,
    Reason.STAGED_PURGED_PEER_REMOVED,
)


def finding(
    evidence: InterfaceEvidence,
    slug: str,
    severity: Severity,
    confidence: Confidence,
    count: int,
    cause: str,
    *,
    peer: str | None = None,
    seen: Iterable[str] = (),
    fix: Iterable[str] = (),
    needs: Iterable[str] = (),
    not_visible: Iterable[str] = (),
) -> Finding:
    """Put a finding together.

    Args:
        peer: Public key of the peer it is about.
        needs: Reason and event ids whose absence would weaken it: a missing
            probe for one of them becomes a `not_visible`.
    """
    blind = [*not_visible, *evidence.missing(*needs)]
    if evidence.device is None:
        blind.append(f"the configuration of {evidence.ifname}: it could not be read")
    return Finding(
        slug=slug,
        severity=severity,
        confidence=confidence,
        ifname=evidence.ifname,
        netns=evidence.netns,
        peer=evidence.ref(peer) if peer else None,
        count=count,
        cause=cause,
        evidence=tuple(seen),
        fix=tuple(fix),
        not_visible=tuple(dict.fromkeys(blind)),
    )


def times(count: int) -> str:
    """`once`, `23 times`."""
    return "once" if count == 1 else f"{count} times"


def unseen(count: int, sightings: list[Sighting]) -> list[str]:
    """Says how many of the packets were counted without their details."""
    missing = count - sum(s.count for s in sightings)
    return [f"{missing} of these {count} were counted, not looked at one by one"] if missing > 0 else []


def host(addr: IPAddress) -> IPNetwork:
    """The /32 or /128 that holds just this address."""
    return ip_network(addr)


def allowed(peer: Peer | None) -> str:
    """A peer's AllowedIPs in words."""
    nets = [str(net) for net in peer.allowed_ips] if peer else []
    if not nets:
        return "none"
    return ", ".join(nets[:6]) + (f" and {len(nets) - 6} more" if len(nets) > 6 else " only")


def allow(evidence: InterfaceEvidence, key: str, added: Iterable[IPAddress | IPNetwork]) -> str:
    """The command that adds addresses to a peer: `wg set` replaces the list, so the whole of it."""
    peer = evidence.peer(key)
    nets = [*(peer.allowed_ips if peer else ()), *(ip_network(addr) for addr in added)]
    whole = ",".join(dict.fromkeys(str(net) for net in nets))
    if peer is None:
        whole = f"PRESENT-ALLOWED-IPS,{whole or 'ADDRESS/32'}"
    return evidence.wg_set(f"peer {key} allowed-ips {whole or 'ADDRESS/32'}")


def settings(peer: Peer | None) -> str:
    """The arguments of `wg set` that give a peer all that it has; FILE for its preshared key."""
    if peer is None:
        return "allowed-ips PRESENT-ALLOWED-IPS"
    words = ["preshared-key FILE"] if peer.has_preshared_key else []
    if peer.allowed_ips:
        words.append(f"allowed-ips {','.join(str(net) for net in peer.allowed_ips)}")
    if peer.endpoint:
        words.append(f"endpoint {peer.endpoint}")
    if peer.persistent_keepalive:
        words.append(f"persistent-keepalive {peer.persistent_keepalive}")
    return " ".join(words)


def preshared_note(peer: Peer | None) -> list[str]:
    """Says what FILE in `settings` is."""
    return ["FILE holds the peer's preshared key"] if peer and peer.has_preshared_key else []


def places(seen: Iterable[Sighting]) -> str:
    """Where packets came from: `203.0.113.7:51820 and [fd00::1]:4500`."""
    flows = (s.last.event.outer for s in seen)
    return listing(list(dict.fromkeys(str(Endpoint(o.saddr, o.sport)) for o in flows if o)))


def waiting(evidence: InterfaceEvidence, key: str) -> list[str]:
    """Packets to this peer that were lost waiting for the session that never came."""
    return [
        f"{count_of(count, 'packet')} for {evidence.label(key)} waited for a session in vain ({reason.id})"
        for reason in STAGED
        if (count := evidence.total(reason, peer=key))
    ]
