# SPDX-License-Identifier: GPL-2.0-only
"""Interfaces that are down, or have lost the namespace that their sockets were in."""

from __future__ import annotations

from collections.abc import Container

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence
from wgtrace.diagnosis.rules.build import finding, times
from wgtrace.diagnosis.words import count_of, listing, quoted
from wgtrace.events.reasons import Reason

_CLOSED = (Reason.UDP_SOCK_NULL, Reason.SOCK_USER_DATA_NULL)


def birth_namespace_gone(evidence: InterfaceEvidence) -> Finding | None:
    """The namespace that the interface was made in was deleted, and its UDP sockets with it."""
    device, ifname = evidence.device, evidence.ifname
    if device is None or device.has_carrier or evidence.is_gone:
        return None
    unsent = evidence.total(Reason.UDP_SOCK_NULL)
    purged = evidence.total(Reason.STAGED_PURGED_IFDOWN)
    name = quoted(ifname)
    return finding(
        evidence,
        "birth-namespace-gone",
        Severity.ERROR,
        Confidence.CERTAIN,
        evidence.total(*_CLOSED, Reason.STAGED_PURGED_IFDOWN),
        f"The network namespace that {ifname} was made in is deleted; WireGuard's UDP sockets were there, so "
        f"{ifname} can send and receive nothing, for good.",
        seen=[
            f"{ifname} has no carrier, which WireGuard takes away only then",
            *([f"no UDP socket to send by (ENONET), {times(unsent)}"] if unsent else []),
            *([f"{count_of(purged, 'packet')} waited when it was set down"] if purged else []),
        ],
        fix=[
            "make it anew; keep its settings in FILE, which will hold its private key:",
            evidence.command(f"sh -c {quoted(f'umask 077; wg showconf {name} > FILE')}"),
            evidence.command(f"ip link del {name}"),
            "here, if the peers can be reached from here; else in a namespace that stays, and move it here:",
            evidence.command(f"ip link add {name} type wireguard"),
            evidence.command(f"wg setconf {name} FILE"),
            "then its addresses and routes, as they were:",
            evidence.command(f"ip address add ADDRESS/PREFIX dev {name}"),
            evidence.command(f"ip link set {name} up"),
        ],
        needs=(Reason.UDP_SOCK_NULL.id,),
        not_visible=(f"what is sent into {ifname}: without a carrier the kernel drops it before WireGuard",),
    )


def interface_down(evidence: InterfaceEvidence, explained: Container[str]) -> Finding | None:
    """The interface went down with packets on their way.

    Args:
        explained: Public keys of peers whose waiting packets have another cause.
    """
    device, ifname = evidence.device, evidence.ifname
    if device and not device.has_carrier:
        return None
    waited = {
        key: n
        for key in evidence.peer_keys()
        if key not in explained and (n := evidence.total(Reason.STAGED_PURGED_IFDOWN, peer=key))
    }
    unsent = {
        key: n
        for key in evidence.peer_keys()
        if key not in explained and (n := evidence.total(Reason.UDP_SOCK_NULL, peer=key))
    }
    refused = evidence.total(Reason.SOCK_USER_DATA_NULL)
    count = sum(waited.values()) + sum(unsent.values()) + refused
    if not count:
        return None
    name = quoted(ifname)
    lost = f"{count_of(count, 'packet')} {'was' if count == 1 else 'were'} lost by it"
    if evidence.is_gone:
        severity, cause = Severity.WARNING, f"{ifname} was deleted while it had work; {lost}."
        fix = ["nothing, if that was meant; else bring it back:", evidence.command(f"wg-quick up {name}")]
    elif device and not device.is_up:
        severity, cause = Severity.ERROR, f"{ifname} is down; {lost}."
        fix = [
            evidence.command(f"ip link set {name} up"),
            "then its routes, which went with it: see ip route",
        ]
    else:
        severity, cause = Severity.INFO, f"{ifname} was down for a while; {lost}."
        fix = ["nothing: it is up again"]
    if device is None:
        severity, cause = Severity.WARNING, f"{ifname} went down; {lost}."
        fix = ["bring it up, if it is still down:", evidence.command(f"ip link set {name} up")]
    keys = list(dict.fromkeys([*waited, *unsent]))
    return finding(
        evidence,
        "interface-down",
        severity,
        Confidence.CERTAIN if device else Confidence.LIKELY,
        count,
        cause,
        seen=[
            *(
                f"{count_of(n, 'packet')} for {evidence.label(key)} waited (staged_purged_ifdown)"
                for key, n in waited.items()
            ),
            *([f"no UDP socket to send by, {times(sum(unsent.values()))}"] if unsent else []),
            *([f"its UDP socket was being closed, {times(refused)}"] if refused else []),
            *([f"peers: {listing([evidence.label(key) for key in keys])}"] if len(keys) > 1 else []),
        ],
        fix=fix,
        needs=(Reason.STAGED_PURGED_IFDOWN.id, *(reason.id for reason in _CLOSED)),
    )
