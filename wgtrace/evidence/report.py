# SPDX-License-Identifier: GPL-2.0-only
"""`report.md`: what an upstream maintainer asks for, in the order in which it is read.

Documentation/admin-guide/reporting-issues.rst of the kernel says what belongs in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wgtrace.diagnosis.words import count_of, listing, utc
from wgtrace.events.invariants import INVARIANTS, Invariant
from wgtrace.events.reasons import CATALOGUE, Reason
from wgtrace.evidence.fixes import FIXES, Has, has, version_of
from wgtrace.evidence.host import HostFact, decoded_taint
from wgtrace.evidence.seen import Seen
from wgtrace.outputs.clean import clean
from wgtrace.state.types import Device, Peer, Snapshot

_SHOWN_LINES: Final = 40
_SHOWN_PEERS: Final = 32


@dataclass(frozen=True, slots=True)
class Context:
    """What a report is made of beside what was seen.

    Attributes:
        host: None: the recording was made elsewhere, or before the last boot.
        left_out: What is not in the recording any more, None: it is as it was made.
        not_provoked: By repro.sh; has_repro: whether there is one.
        files: Names of the other files, and what they are.
        is_given: repro.sh is the script that was run, not one that was made of the configuration.
    """

    host: HostFact | None
    left_out: tuple[str, ...] | None
    not_provoked: Sequence[Reason]
    has_repro: bool
    files: Mapping[str, str]
    is_given: bool = False


def title(seen: Seen) -> str:
    """One line: the first finding, or how many packets were dropped."""
    if seen.summary.findings:
        first = seen.summary.findings[0]
        return f"wireguard: {first.slug}: {clean(first.cause)}"
    count = sum(seen.drops.values())
    return f"wireguard: {count_of(count, 'packet')} dropped" if count else "wireguard: no packet dropped"


def report(seen: Seen, context: Context) -> str:
    """The whole text."""
    parts = [
        (title(seen).removeprefix("wireguard: "), _first(seen, context)),
        ("System", _system(seen, context.host)),
        ("What was seen", _what(seen)),
        ("Invariants", _invariants(seen)),
        ("Timeline", _timeline(seen)),
        ("Where the packets were freed", _places(seen)),
        ("Known fixes", _fixes(seen)),
        ("State before", _state(seen.before)),
        ("State after", _changes(seen.before, seen.after)),
        ("How to reproduce", _reproduce(context)),
        ("Files", (f"- `{name}`: {what}" for name, what in context.files.items())),
        ("Before it is sent", _before_sending(context)),
    ]
    (heading, first), *rest = parts
    text = [f"# {_escaped(heading)}", "", *first]
    for name, lines in rest:
        text += ["", f"## {name}", "", *lines]
    return "\n".join(text) + "\n"


def _first(seen: Seen, context: Context) -> Iterator[str]:
    count = sum(seen.drops.values())
    begin = utc(seen.facts.clock.realtime_ns, 0)
    yield (
        f"On Linux {clean(seen.facts.kernel.release)} ({clean(seen.facts.kernel.machine)}), "
        f"{count_of(count, 'packet')} dropped by WireGuard{_and_outside(seen)} in "
        f"{seen.summary.duration_s:.3g} s "
        f"from {begin} UTC on, recorded by wgtrace {seen.facts.version}. "
        + (
            "Nothing was lost of what was to be seen."
            if seen.summary.complete
            else "The recording is incomplete:"
        )
    )
    for text in seen.summary.incomplete_because:
        yield f"- {_escaped(text)}"
    if context.left_out is not None:
        yield ""
        yield (
            "Public keys, addresses and names are pseudonyms, the same in all files of this archive; "
            "whether an address is in a network is as it was. Addresses of kernel functions are moved "
            "to one place."
        )
        for text in context.left_out:
            yield f"- left out: {text}"


def _and_outside(seen: Seen) -> str:
    count = sum(seen.outside.values())
    return f" and {count} of its tunnels elsewhere in the kernel" if count else ""


def _system(seen: Seen, host: HostFact | None) -> Iterator[str]:
    kernel = seen.facts.kernel
    rows = {
        "release": kernel.release,
        "version": kernel.version,
        "machine": kernel.machine,
        "kernel build id": kernel.build_id,
        "taint": f"{kernel.taint}" + "".join(f"; {text}" for text in decoded_taint(kernel.taint)),
        "wireguard srcversion": kernel.module_srcversion,
        "wireguard build id": kernel.module_build_id,
        "wireguard BTF, SHA-256": kernel.module_btf,
        "wireguard module taint": kernel.module_taint,
        "wgtrace": f"{seen.facts.version}, BCC {seen.facts.bcc}",
        "wgtrace command line": " ".join(seen.facts.command),
    }
    if host:
        rows |= {
            "distribution": host.distribution,
            "/proc/version": re.sub(r"\([^()]*@[^()]*\)", "(...)", host.proc_version),
            "CPUs online": host.cpus,
            "clock source": host.clocksource,
            "wg": host.wg,
            "kernel command line": " ".join((*host.command_line, f"(and {host.words_left_out} other words)")),
            "kernel config": "config.gz" if host.config else "not found in /proc, /boot or /lib/modules",
        }
    yield "| | |"
    yield "|---|---|"
    for name, value in rows.items():
        yield f"| {name} | {_cell(value) or '-'} |"
    if not host:
        yield ""
        yield "Made on another host, or before its last boot: more of it is not known here."
    yield ""
    missing = [probe for probe in seen.facts.probes if probe.mechanism is None]
    attached = "all attached" if not missing else f"{len(missing)} of them not attached"
    yield f"{count_of(len(seen.facts.probes), 'probe')}, {attached}."
    for probe in missing:
        yield f"- `{clean(probe.target)}`: {_escaped(probe.because)}; not visible: {probe.without_it}"


def _what(seen: Seen) -> Iterator[str]:
    if seen.drops:
        yield "| packets | reason | way | meaning |"
        yield "|---:|---|---|---|"
        for reason, count in seen.drops.most_common():
            yield f"| {count} | `{reason.id}` | {reason.direction.value} | {CATALOGUE[reason].means} |"
        yield ""
    if seen.outside:
        yield "| packets | the kernel's reason | where, outside of WireGuard |"
        yield "|---:|---|---|"
        for (layer, reason_id), count in seen.outside.most_common():
            yield f"| {count} | `{clean(reason_id)}` | {layer} |"
        yield ""
    steps: dict[str, int] = {}
    for total in seen.summary.handshakes:
        name = ":".join(filter(None, (total.code.id, total.sub_reason.id)))
        steps[name] = steps.get(name, 0) + total.count
    if steps:
        yield "Handshakes: " + ", ".join(f"`{name}` {count}" for name, count in sorted(steps.items())) + "."
        yield ""
    for line in seen.summary.reconciliation:
        agrees = "explained by the drops" if line.moved == line.explained else f"{line.explained} explained"
        yield f"- `{clean(line.ifname)}` {line.counter} +{line.moved}, {agrees}"
    if not seen.summary.findings:
        yield "No finding: no rule of wgtrace knows a cause for this."
    for finding in seen.summary.findings:
        yield ""
        yield f"**{finding.slug}** ({finding.confidence.value}): {_escaped(finding.cause)}"
        yield from (f"- seen: {_escaped(text)}" for text in finding.evidence)
        yield from (f"- not visible: {_escaped(text)}" for text in finding.not_visible)


def _looks(seen: Seen, invariant: Invariant) -> tuple[int, int]:
    """How often it was violated, and how often it was looked at."""
    looks = [total for total in seen.summary.invariants if total.invariant is invariant]
    return sum(total.count for total in looks if not total.holds), sum(total.count for total in looks)


def _invariants(seen: Seen) -> Iterator[str]:
    if not seen.summary.invariants:
        yield "None was looked at: `wgtrace record --invariants` does, where there is something to look at."
        return
    yield "What holds on every sound kernel, and how often it was violated here:"
    yield ""
    yield "| invariant | violated | looked at | what holds | mended by |"
    yield "|---|---:|---:|---|---|"
    for invariant, row in INVARIANTS.items():
        violated, count = _looks(seen, invariant)
        number = f"**{violated}**" if violated else "0" if count else "-"
        yield f"| `{invariant.id}` | {number} | {count} | {row.holds} | `{row.commit}` |"
    for invariant, (what, stack) in seen.violations.items():
        whose = " The peer's kernel is at fault, not this one." if INVARIANTS[invariant].of_peer else ""
        yield ""
        yield f"`{invariant.id}`, the first time: {what}.{whose}"
        yield ""
        yield "```"
        yield from map(clean, stack)
        yield "```"


def _timeline(seen: Seen) -> Iterator[str]:
    yield "```"
    lines = seen.timeline or ("nothing happened",)
    head = lines if len(lines) <= _SHOWN_LINES else lines[: _SHOWN_LINES // 2]
    yield from map(clean, head)
    if len(lines) > _SHOWN_LINES:
        yield f"... {len(lines) - _SHOWN_LINES} lines, see timeline.txt ..."
        yield from map(clean, lines[-_SHOWN_LINES // 2 :])
    yield "```"


def _places(seen: Seen) -> Iterator[str]:
    if seen.other_places:
        yield "Outside of WireGuard, for `scripts/faddr2line vmlinux`, or the module that has the function:"
        yield ""
        yield "```"
        for (place, reason), count in seen.other_places.most_common():
            yield f"{count:>8}  {clean(place)}  {reason}"
        yield "```"
        yield ""
    if not seen.places:
        yield "No place in WireGuard is known: handshake messages are refused by a function's result."
        return
    yield "For `scripts/faddr2line wireguard.ko`, with the module of the build id above."
    yield ""
    yield "```"
    for (place, reason), count in seen.places.most_common():
        yield f"{count:>8}  {clean(place)} [wireguard]  {reason}"
    yield "```"


def _fixes(seen: Seen) -> Iterator[str]:
    version = version_of(seen.facts.kernel.release, seen.facts.kernel.version)
    if version is None:
        yield "The kernel's version is not of a form that is known."
        return
    text = ".".join(map(str, version))
    told = [(fix, has(fix, version)) for fix in FIXES]
    yield (
        f"By the version alone, {text}: a distribution may have taken over more. "
        f"Of {len(FIXES)} known fixes this kernel lacks {sum(state is Has.NO for _, state in told)}."
    )
    seen_here = {row.commit: _looks(seen, invariant) for invariant, row in INVARIANTS.items()}
    rows = [
        (fix, state) for fix, state in told if state is not Has.YES or seen_here.get(fix.commit, (0, 0))[0]
    ]
    if rows:
        yield ""
        yield "| commit | title | here | seen | how it shows |"
        yield "|---|---|---|---|---|"
        for fix, state in rows:
            here = {Has.YES: "has it", Has.NO: "lacks it", Has.UNKNOWN: "not known"}[state]
            violated, count = seen_here.get(fix.commit, (0, 0))
            what = f"violated {violated} of {count_of(count, 'time')}" if count else "-"
            yield f"| `{fix.commit}` | {fix.title} | {here} | {what} | {_cell(fix.tell)} |"


def _state(snapshot: Snapshot) -> Iterator[str]:
    if not snapshot.devices:
        yield "No WireGuard interface."
    for number, device in enumerate(snapshot.devices):
        if number:
            yield ""
        yield from _device(device)


def _device(device: Device) -> Iterator[str]:
    up = "up" if device.is_up else "down"
    mark = f", fwmark {device.fwmark:#x}" if device.fwmark else ""
    yield (
        f"`{clean(device.ifname)}`: {up}, port {device.listen_port}, MTU {device.mtu}{mark}, "
        f"{count_of(len(device.peers), 'peer')}, public key `{device.public_key or 'none'}`"
    )
    yield ""
    yield "| peer | endpoint | AllowedIPs | latest handshake | received | sent | keepalive | preshared key |"
    yield "|---|---|---|---|---:|---:|---:|---|"
    for peer in device.peers[:_SHOWN_PEERS]:
        yield f"| {' | '.join(_peer(peer))} |"
    if len(device.peers) > _SHOWN_PEERS:
        yield f"| and {len(device.peers) - _SHOWN_PEERS} more | | | | | | | |"


def _peer(peer: Peer) -> Iterable[str]:
    handshake = f"{utc(peer.latest_handshake_ns, 0)} UTC" if peer.latest_handshake_ns else "never"
    name = f"{_cell(peer.name)} " if peer.name else ""
    return (
        f"{name}`{peer.public_key}`",
        str(peer.endpoint or "-"),
        listing([str(net) for net in peer.allowed_ips], 16) or "none",
        handshake,
        str(peer.rx_bytes),
        str(peer.tx_bytes),
        str(peer.persistent_keepalive or "off"),
        "yes" if peer.has_preshared_key else "no",
    )


def _changes(before: Snapshot, after: Snapshot) -> Iterator[str]:
    yield from _state(after)
    for device in after.devices:
        then = before.device(device.ifname, device.netns)
        moved = {
            name: count - then.counters.get(name, 0)
            for name, count in device.counters.items()
            if then and count != then.counters.get(name, 0)
        }
        if moved:
            yield ""
            told = ", ".join(f"{name} {count:+}" for name, count in sorted(moved.items()))
            yield f"Counters of `{clean(device.ifname)}` since: {told}."


def _reproduce(context: Context) -> Iterator[str]:
    if not context.has_repro:
        yield "There is no interface in the recording to make a script of."
        return
    yield "```"
    yield "sudo ./repro.sh"
    yield "```"
    yield ""
    if context.is_given:
        yield "It is what was run when this was recorded. `wgtrace lab repro` runs it on other kernels."
        return
    yield (
        "It makes namespaces of its own with this configuration, fresh keys and documentation addresses, "
        "provokes what was seen, and exits with 1 if WireGuard does not do what it should. "
        "`wgtrace lab repro repro.sh` runs it on several kernels."
    )
    if context.not_provoked:
        names = ", ".join(f"`{reason.id}`" for reason in context.not_provoked)
        yield ""
        yield f"Not provoked by it: {names}. What does belongs in its function `trigger`."


def _before_sending(context: Context) -> Iterator[str]:
    yield (
        "A kernel of a distribution: to the distribution first. If it happens with the newest stable or "
        "mainline kernel too: as plain text to `wireguard@lists.zx2c4.com` and `netdev@vger.kernel.org`, "
        "with the title and the first paragraph in the mail, and links to the rest; a regression also to "
        "`regressions@lists.linux.dev`, with the last good version and, best, the commit."
    )
    yield ""
    yield "Not in here, and asked for: `dmesg`, as a link. Read it first; with debugging on it has addresses."
    if context.left_out is None:
        yield ""
        yield "**Public keys, endpoints, addresses and names in this archive are the real ones.**"


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text from outside that stays text in Markdown."""
    return re.sub(r"([\\`*_<>\[\]#])", r"\\\1", clean(text))
