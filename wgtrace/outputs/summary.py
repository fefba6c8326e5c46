# SPDX-License-Identifier: GPL-2.0-only
"""The closing words of a run: how many, was anything missed, and why it happened."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

from rich.cells import cell_len
from rich.console import Console

from wgtrace.diagnosis.finding import Finding, Severity
from wgtrace.diagnosis.words import count_of, short_key
from wgtrace.events.invariants import Invariant
from wgtrace.events.types import Losses, PathTotal
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import put
from wgtrace.outputs.fields import hook_name, packet_name
from wgtrace.report import CounterLine, Summary, counters_of

_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold"}
_COMMANDS: Final = (
    *("wg ", "wg-quick ", "ip ", "nsenter ", "tcpdump ", "nft ", "tc ", "ethtool ", "ping ", "top "),
    *("sh -c ", "bash -c "),
)
_READABLE: Final = 160
"""Findings are prose: no line gets longer than this, however wide the terminal is."""
_NAMED: Final = 3
"""Interfaces that the headline names."""
_STAYS: Final = "\xa0"
"""A space where no line is broken."""


def print_summary(console: Console, summary: Summary) -> None:
    """Write the summary: the count, the totals, what was lost, the findings."""
    put(console)
    if summary.interim:
        put(console, ("So far:", "bold"))
    whole = headline(summary).replace("Nothing lost", f"Nothing{_STAYS}lost").replace(" +", f"{_STAYS}+")
    for line in _lines(console, whole, "  "):
        put(console, (line.replace(_STAYS, " "), "bold"))
    _put_totals(console, summary)
    for text in counter_mismatches(summary.reconciliation):
        put_wrapped(console, text)
    put_end(console, summary)


def put_end(console: Console, summary: Summary) -> None:
    """Write what the invariants did, what is missing, and the findings."""
    for text in invariants(summary):
        put_wrapped(console, text)
    if _is_only_limited(summary):
        for text in summary.incomplete_because:
            put_wrapped(console, f"{clean(text)}.")
    elif not summary.complete:
        put(console, ("This is incomplete:", "yellow"))
        for text in summary.incomplete_because:
            put_wrapped(console, f"  {clean(text)}", indent="    ")
    several = len({(f.ifname, f.netns) for f in summary.findings}) > 1
    for finding in summary.findings:
        put_finding(console, finding, several)


def _is_only_limited(summary: Summary) -> bool:
    """Whether all that is missing are rows that were left out to keep up: no reason to worry."""
    losses = summary.losses
    is_alone = losses == Losses(rate_limited=losses.rate_limited) and len(summary.incomplete_because) == 1
    return bool(losses.rate_limited) and is_alone


def headline(summary: Summary) -> str:
    """`6 packets dropped in 11 s: 5 are in wg0's counters (rx_errors +5), the kernel counts 1 nowhere.`"""
    count = sum(total.count for total in summary.totals)
    time = span(summary.duration_s)
    if not count:
        return f"No packet dropped in {time}." if summary.complete else f"No drop seen in {time}."
    where = _where_counted(summary, count)
    text = f"{count_of(count, 'packet')} dropped in {time}{': ' if where else ''}{where}."
    return f"{text} Nothing lost." if summary.complete else text


def _where_counted(summary: Summary, count: int) -> str:
    """In which counters the kernel has these drops; "" where the counters do not bear it out."""
    ours: dict[tuple[str, int], dict[str, int]] = {}
    for total in summary.totals:
        for counter in counters_of(total)[:1]:  # those after it count a part of it
            of = ours.setdefault((total.ifname, total.netns), {})
            of[counter] = of.get(counter, 0) + total.count
    counted = sum(sum(of.values()) for of in ours.values())
    if not counted:
        return f"the kernel counts {'it' if count == 1 else 'them'} nowhere"
    moved = {(line.ifname, line.netns, line.counter): line.moved for line in summary.reconciliation}
    is_borne_out = all(moved.get((*key, name), 0) >= n for key, of in ours.items() for name, n in of.items())
    if not is_borne_out or counter_mismatches(summary.reconciliation):
        return ""
    parts = []
    if len(ours) > _NAMED:
        parts.append(f"{counted} are in the counters of {len(ours)} interfaces")
    for (ifname, netns), of in sorted(ours.items()) if not parts else ():
        is_only = sum(key[0] == ifname for key in ours) == 1
        name = clean(ifname)
        who = f"{name}'s counters" if is_only else f"the counters of {name} in netns {netns}"
        moves = ", ".join(_move(c, n, moved[ifname, netns, c]) for c, n in sorted(of.items()))
        here = sum(of.values())
        subject = ("it" if count == 1 else "all") if here == count else str(here)
        parts.append(f"{subject} {'is' if here == 1 else 'are'} in {who} ({moves})")
    if counted < count:
        parts.append(f"the kernel counts {count - counted} nowhere")
    return ", ".join(parts)


def _move(counter: str, ours: int, moved: int) -> str:
    """`rx_errors +4`; where the run was asked for a part of the drops only, `3 of rx_errors +4`."""
    return f"{counter} +{moved}" if moved == ours else f"{ours} of {counter} +{moved}"


def counter_mismatches(lines: tuple[CounterLine, ...]) -> list[str]:
    """One sentence for each interface counter that the totals do not explain."""
    return [
        f"{clean(line.ifname)} {line.counter} moved by {line.moved}, and "
        f"{count_of(line.explained, 'drop')} {'is' if line.explained == 1 else 'are'} counted there: "
        + (
            f"{line.moved - line.explained} of it is not explained."
            if line.moved > line.explained
            else "the counter was read too early, or the interface is gone."
        )
        for line in lines
        if line.moved != line.explained
    ]


def invariants(summary: Summary) -> list[str]:
    """A sentence for each invariant that was looked at: how often, and how often it did not hold."""
    told = []
    for invariant in Invariant:
        looks = [total for total in summary.invariants if total.invariant is invariant]
        violated = sum(total.count for total in looks if not total.holds)
        if looks:
            times = count_of(sum(total.count for total in looks), "time")
            said = f"violated {violated} of {times}" if violated else f"held {times}, always"
            told.append(f"Invariant {invariant.id}: {said}.")
    return told


def _put_totals(console: Console, summary: Summary) -> None:
    names = summary.peer_names or {}
    counts: dict[tuple[str, int, str, str | None], int] = {}
    for total in summary.totals:
        where = f" ({_place(total)})" if isinstance(total, PathTotal) else ""
        key = (total.ifname, total.netns, f"{total.reason.id}{where}", total.public_key)
        counts[key] = counts.get(key, 0) + total.count
    if len(counts) < 2:
        return
    room = max(len(clean(key[0])) for key in counts) + 2 if len({key[:2] for key in counts}) > 1 else 0
    put(console, (f"{'COUNT':>9}  {'IF' if room else '':<{room}}{'REASON':<32}PEER", "dim"))
    for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0][2])):
        ifname, _, reason, public_key = key
        peer = (clean(names.get(public_key, "")) or short_key(public_key)) if public_key else "?"
        where = clean(ifname) if room else ""
        put(console, (f"{count:>9}  {where:<{room}}{clean(reason):<30}  {peer}", ""))


def _place(total: PathTotal) -> str:
    """`inner forward`, `outer`."""
    return " ".join(filter(None, (packet_name(total.is_inner), hook_name(total.hook))))


def put_finding(console: Console, finding: Finding, several: bool) -> None:
    """Write a finding: what, whom, why, and what to do.

    Args:
        several: Findings of several interfaces are shown: say which.
    """
    put(console)
    head = [(finding.slug, _STYLES[finding.severity])]
    if several:
        head.append((f"   {clean(finding.ifname)}", ""))
    if finding.peer:
        name, key = clean(finding.peer.name or ""), short_key(finding.peer.public_key)
        head.append((f"   {name} ({key})" if name else f"   {key}", ""))
    if finding.count:
        head.append((f"   {count_of(finding.count, 'packet')}", ""))
    head.append((f"   {finding.confidence.value}", "dim"))
    put(console, *head)
    put_wrapped(console, f"  {clean(finding.cause)}", indent="  ")
    for label, texts in (
        ("fix", finding.fix),
        ("seen", ("; ".join(finding.evidence),) if finding.evidence else ()),
        ("unseen", finding.not_visible),
    ):
        for at, text in enumerate(texts):
            start = f"  {label if at == 0 else '':<6} "
            if label == "fix" and text.startswith(_COMMANDS):  # never broken: it is there to be copied
                put(console, (start, "dim"), (clean(text), "bold"))
            else:
                put_wrapped(console, start + clean(text), indent=" " * 9)


def put_wrapped(console: Console, text: str, indent: str = "  ") -> None:
    """Write a sentence, in lines that can be read."""
    for line in _lines(console, text, indent):
        put(console, (line, ""))


def _lines(console: Console, text: str, indent: str) -> Iterator[str]:
    return wrapped(text, min(max(console.width, 40), _READABLE), indent)


def wrapped(text: str, width: int, indent: str) -> Iterator[str]:
    """The text in lines of at most `width` cells; a longer word stays whole."""
    if cell_len(text) <= width:
        yield text
        return
    yield from textwrap.wrap(
        text,
        width,
        subsequent_indent=indent,
        drop_whitespace=True,
        break_long_words=False,
        break_on_hyphens=False,
    )


def span(seconds: float) -> str:
    """`4.3 s`, `31 s`, `2 min 5 s`, `3 h 12 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
