# SPDX-License-Identifier: GPL-2.0-only
"""What drops outside of WireGuard mean: the part of the kernel, and why in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from wgtrace.diagnosis.firewall import Blocked
from wgtrace.events.reasons import KernelReason
from wgtrace.events.types import PathEvent
from wgtrace.events.wire import Hook

CONNTRACK: Final = ("net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max")
"""How many entries connection tracking has in a namespace, and how many it may have."""
_TRACKED: Final = (Hook.PREROUTING, Hook.OUTPUT)
_FORWARDING: Final = "ip_inaddrerrors"
_RPFILTER: Final = "ip_rpfilter"
_MESSAGES: Final = {1: "initiation", 2: "response", 3: "cookie", 4: "datagram"}
_MEANS: Final = {
    "ip_rpfilter": "the way back to {saddr} does not lead by {at} (rp_filter)",
    "ip_innoroutes": "no route to {daddr}",
    "ip_outnoroutes": "no route to {daddr}",
    "ip_inhdr": "bad IP header, or its TTL is used up",
    "ip_csum": "wrong IP checksum",
    "udp_csum": "wrong UDP checksum",
    "no_socket": "nobody listens at port {dport}: the interface is down, or has another one",
    "pkt_too_big": "too big for the next link, and may not be fragmented",
    "qdisc_drop": "the queue of {at} is full, or drops on purpose",
    "qdisc_drop_generic": "the queue of {at} is full, or drops on purpose",
    "cpu_backlog": "a CPU's queue of received packets is full",
    "neigh_failed": "the next hop by {at} does not answer",
    "neigh_queuefull": "too many wait for the next hop by {at} to answer",
    "neigh_createfail": "no room for one more neighbour by {at}",
    "neigh_dead": "the next hop by {at} is being removed",
    "xfrm_policy": "an IPsec policy forbids it",
    "xdp": "an XDP program at {at} drops it",
    "tc_ingress": "a tc filter at {at} drops it",
    "tc_egress": "a tc filter at {at} drops it",
    "bpf_cgroup_egress": "a BPF program of its control group drops it",
    "dev_ready": "{at} is not ready",
    "full_ring": "the ring of {at} is full",
    "not_specified": "the kernel does not say why",
}


def settings_of(event: PathEvent, blocked: Blocked | None = None) -> tuple[str, ...]:
    """The settings that decide about a drop for this reason.

    Args:
        blocked: What of the firewall did it, as far as that is known.
    """
    flow = event.flow
    if blocked is not None:
        return () if blocked.chain or event.hook not in _TRACKED else CONNTRACK
    family = "ipv6" if flow and flow.family == 6 else "ipv4"
    kind = {_FORWARDING: "forwarding", _RPFILTER: "rp_filter"}.get(event.reason.id)
    if kind is None or not event.ifname:
        return ()
    return tuple(f"net/{family}/conf/{name}/{kind}" for name in ("all", event.ifname))


def is_table_full(sysctls: Mapping[str, str]) -> bool:
    """Whether connection tracking has no room for another entry, by the values of `CONNTRACK`."""
    count, most = (sysctls.get(name, "") for name in CONNTRACK)
    return count.isdigit() and most.isdigit() and int(count) >= int(most) > 0


def why(event: PathEvent, blocked: Blocked | None, sysctls: dict[str, str]) -> str:
    """One short sentence for this very packet, no full stop."""
    return f"{_what(event)}: {_because(event, blocked, sysctls)}"


def _what(event: PathEvent) -> str:
    """`inner packet in forward at eth0`, `handshake initiation in input`."""
    if event.is_inner:
        what = "inner packet"
    else:
        kind = _MESSAGES.get(event.message_type, "datagram")
        what = f"outer {kind}" if kind == "datagram" else f"handshake {kind}"
    hook = f" in {event.hook.name.lower()}" if event.hook is not Hook.NONE else ""
    return f"{what}{hook}{f' at {event.ifname}' if event.ifname else ''}"


def _because(event: PathEvent, blocked: Blocked | None, sysctls: dict[str, str]) -> str:
    if blocked is not None and is_table_full(sysctls):
        return "connection tracking's table is full"
    if blocked is not None:
        return str(blocked)
    if event.reason.id == _FORWARDING:
        if any(value == "0" for value in sysctls.values()):
            return "forwarding is off"
        return "not an address to accept or to forward"
    flow = event.flow
    text = _MEANS.get(event.reason.id)
    if text is None or flow is None:
        return f"dropped in {event.where.split('+')[0]}()" if event.where else event.reason.id
    return text.format(saddr=flow.saddr, daddr=flow.daddr, dport=flow.dport, at=event.ifname or "the device")


def layer_of(reason: KernelReason, hook: Hook, where: str = "") -> str:
    """Which part of the kernel dropped it: `ip`, `netfilter`, `udp`, `neighbour`, `qdisc` or `device`."""
    if hook is not Hook.NONE:
        return "netfilter"
    prefixes: Iterable[tuple[tuple[str, ...], str]] = (
        (("no_socket", "udp_", "socket_"), "udp"),
        (("neigh_",), "neighbour"),
        (("qdisc_", "tc_", "fq_", "cake_"), "qdisc"),
        (("ip_", "ipv6", "pkt_too_big", "frag_", "dup_frag", "xfrm_", "icmp_"), "ip"),
    )
    for begins, layer in prefixes:
        if reason.id.startswith(begins):
            return layer
    return "ip" if where.startswith(("ip_", "ip6_", "__ip", "icmp")) else "device"
