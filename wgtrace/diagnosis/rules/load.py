# SPDX-License-Identifier: GPL-2.0-only
"""More than this host can do: floods of handshakes, and full queues."""

from __future__ import annotations

from wgtrace.diagnosis.finding import Confidence, Finding, Severity
from wgtrace.diagnosis.interface import InterfaceEvidence
from wgtrace.diagnosis.rules.build import finding, times
from wgtrace.diagnosis.rules.explained import UNDER_LOAD, flooders, in_flood, is_flood
from wgtrace.diagnosis.words import count_of, listing, quoted, utc
from wgtrace.events.reasons import Reason
from wgtrace.events.types import IPAddress

_SAID = {
    Reason.COOKIE_UNDER_LOAD: "answered with a cookie",
    Reason.RATELIMITED: "above 20 a second from one address",
    Reason.HANDSHAKE_QUEUE_FULL: "found the queue of 4096 full",
    Reason.HANDSHAKE_QUEUE_CONTENDED: "found the queue more than half full and busy",
    Reason.HANDSHAKE_FLOOD: "less than 20 ms after the one before",
}
_REFUSED = (Reason.INVALID_MAC1, Reason.UNKNOWN_PEER_PUBKEY, Reason.HANDSHAKE_INIT_REPLAY)
_SPOOFED = 8
"""Source addresses from which on blocking them one by one is no remedy."""
_TX = {
    Reason.TX_QUEUE_FULL: "the queue of 1024 packets to be sent to {peer} was full",
    Reason.ENCRYPT_QUEUE_FULL: "the queue of 1024 packets to be encrypted was full",
}
_RX = {
    Reason.RX_QUEUE_FULL: "the queue of 1024 packets received from {peer} was full",
    Reason.DECRYPT_QUEUE_FULL: "the queue of 1024 packets to be decrypted was full",
}


def handshake_flood(evidence: InterfaceEvidence) -> Finding | None:
    """More handshakes arrive than can be checked."""
    if not is_flood(evidence):
        return None
    own = evidence.total(*UNDER_LOAD, Reason.HANDSHAKE_FLOOD)
    swept = {reason: sum(s.count for s in in_flood(evidence, evidence.seen(reason))) for reason in _REFUSED}
    sources = flooders(evidence) or evidence.sources(in_flood(evidence, evidence.seen(*_REFUSED)))
    peers = [key for key in evidence.peer_keys() if evidence.total(Reason.HANDSHAKE_FLOOD, peer=key)]
    key = peers[0] if len(peers) == 1 and not evidence.total(*UNDER_LOAD) else None
    where = listing(sources) if sources else "places not known"
    facts = [
        f"{evidence.total(reason)} {said}" for reason, said in _SAID.items() if evidence.total(reason)
    ] + [f"{n} of them refused by {reason.id}" for reason, n in swept.items() if n]
    is_load = evidence.total(*UNDER_LOAD) > 0
    name = evidence.label(key) if key else ""
    cause = (
        f"More handshakes arrive at {evidence.ifname} than it can check, from {where}: it is under load, "
        "and new sessions take seconds longer."
        if is_load
        else f"{name or where} starts handshakes many times a second; a client does so every 5 s at most."
    )
    return finding(
        evidence,
        "handshake-flood",
        Severity.WARNING,
        Confidence.CERTAIN if sources else Confidence.LIKELY,
        own + sum(swept.values()),
        cause,
        peer=key,
        seen=facts,
        fix=_stop(evidence, sources),
        needs=[reason.id for reason in (*UNDER_LOAD, Reason.HANDSHAKE_FLOOD)],
        not_visible=() if sources else ("where they come from: none of these was seen in detail",),
    )


def _stop(evidence: InterfaceEvidence, sources: list[IPAddress]) -> list[str]:
    device = evidence.device
    port = device.listen_port if device and device.listen_port else "PORT"
    ours = [addr for addr in sources if evidence.places.get(addr)]
    others = [addr for addr in sources if addr not in ours]
    fix: list[str] = []
    if ours:
        names = [evidence.label(k) for addr in ours for k in set(evidence.places[addr].values())]
        fix.append(
            f"look at {listing(list(dict.fromkeys(names)))}, which is at {listing(ours)}: a client that "
            "restarts over and over, or one key on many machines"
        )
    if 0 < len(others) <= _SPOOFED:
        for version, family in ((4, "ip"), (6, "ip6")):
            if addrs := ", ".join(str(addr) for addr in others if addr.version == version):
                fix.append(_nft(evidence, f"{family} saddr {{ {addrs} }} udp dport {port} drop"))
    elif others:
        fix.append("from so many addresses, or made-up ones, let through what can be checked:")
        fix.append(_nft(evidence, f"udp dport {port} @th,64,32 0x01000000 limit rate over 100/second drop"))
    if others:
        fix += ["and when it is over:", evidence.command("nft delete table inet wg_flood")]
    return fix or ["nothing: WireGuard defends itself with cookies; let peers not all start at once"]


def _nft(evidence: InterfaceEvidence, rule: str) -> str:
    chain = "input { type filter hook input priority -150; policy accept; }"
    text = f"add table inet wg_flood; add chain inet wg_flood {chain}; add rule inet wg_flood input {rule}"
    return evidence.command(f"nft {quoted(text)}")


def receive_stalled(evidence: InterfaceEvidence, key: str) -> Finding | None:
    """A peer's receive queue is full, and nobody takes anything out of it: `wgtrace top` only."""
    stall = evidence.stalls.get(key)
    if stall is None:
        return None
    label, full = evidence.label(key), evidence.total(Reason.RX_QUEUE_FULL, peer=key)
    return finding(
        evidence,
        "receive-stalled",
        Severity.ERROR,
        Confidence.LIKELY,
        full,
        f"{evidence.ifname} takes nothing more from {label}: for {stall.seconds:.0f} s its receive queue was "
        f"full, and not one packet came out of it.",
        peer=key,
        seen=[
            f"{count_of(stall.count, 'packet')} found it full from {utc(stall.unix_ns, 0)} UTC on, and no "
            "counter was accepted",
            f"{count_of(full, 'packet')} found it full in this run",
            *_cpu_facts(evidence),
        ],
        fix=[
            "see whether something keeps receiving from its CPU, as a real-time task does:",
            "ps -eLo cls,rtprio,psr,pcpu,comm --sort -pcpu",
            "if nothing does, it is a fault of this kernel: only a new interface helps, then a newer kernel",
        ],
        needs=(Reason.RX_QUEUE_FULL.id, "sessions"),
    )


def queue_full(evidence: InterfaceEvidence) -> Finding | None:
    """Packets come faster than this host encrypts, sends or takes them."""
    count = evidence.total(*_TX, *_RX)
    if not count or count == sum(evidence.total(Reason.RX_QUEUE_FULL, peer=k) for k in evidence.stalls):
        return None
    facts: list[str] = []
    keys: list[str] = []
    for reason, said in {**_TX, **_RX}.items():
        total = evidence.total(reason)
        by_peer = {key: n for key in evidence.peer_keys() if (n := evidence.total(reason, peer=key))}
        keys += by_peer
        if "{peer}" in said:
            facts += [f"{said.format(peer=evidence.label(k))}, {times(n)}" for k, n in by_peer.items()]
            total -= sum(by_peer.values())
        if total:
            facts.append(f"{said.format(peer='a peer')}, {times(total)}")
    peers = list(dict.fromkeys(keys))
    sent, received = evidence.total(*_TX), evidence.total(*_RX)
    way = " and ".join(text for n, text in ((received, "receive"), (sent, "send")) if n)
    whose = f" of {listing([evidence.label(k) for k in peers])}" if peers else ""
    return finding(
        evidence,
        "queue-full",
        Severity.WARNING,
        Confidence.CERTAIN if evidence.cpus else Confidence.LIKELY,
        count,
        f"{count_of(count, 'packet')}{whose} found a queue of {evidence.ifname} full: the CPUs do not keep "
        f"up with what it has to {way}.",
        peer=peers[0] if len(peers) == 1 else None,
        seen=[*facts, *_cpu_facts(evidence)],
        fix=_relieve(evidence, peers, bool(sent), bool(received)),
        needs=[reason.id for reason in (*_TX, *_RX)],
        not_visible=() if evidence.cpus else ("how busy the CPUs were",),
    )


def _cpu_facts(evidence: InterfaceEvidence) -> list[str]:
    if not evidence.cpus:
        return []
    number, (busy, softirq) = max(enumerate(evidence.cpus), key=lambda cpu: cpu[1][0])
    text = f"CPU {number}, the busiest of {len(evidence.cpus)}, was busy {busy:.0%} of this run"
    return [f"{text}, {softirq:.0%} with receiving (softirq)"]


def _relieve(evidence: InterfaceEvidence, peers: list[str], sent: bool, received: bool) -> list[str]:
    fix = ["a short burst needs nothing: TCP slows down by itself"]
    if received and len(evidence.cpus) != 1:
        device = next((way.oif for key in peers if (way := evidence.ways.get(key)) and way.oif), "DEVICE")
        mask = f"{(1 << len(evidence.cpus)) - 1:x}" if 0 < len(evidence.cpus) <= 32 else "MASK"
        loop = f"for q in /sys/class/net/{device}/queues/rx-*/rps_cpus; do echo {mask} > $q; done"
        fix += ["have all CPUs receive, not one:", evidence.command(f"sh -c {quoted(loop)}")]
    if sent:
        shape = f"tc qdisc replace dev {quoted(evidence.ifname)} root tbf rate RATE burst 64kb latency 50ms"
        fix += ["hold back what is sent, below what the CPUs can do:", evidence.command(shape)]
    return [*fix, "see who has the CPUs:", "top -H"]
