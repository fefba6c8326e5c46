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
from wgtrace.events.reasons import CATALOGUE, Reason
from wgtrace.events.types import Losses
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import put
from wgtrace.report import CounterLine, Summary

_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold"}
_COMMANDS: Final = ("wg ", "ip ", "nsenter ", "tcpdump ")
_READABLE: Final = 160
"""Findings are prose: no line gets longer than this, however wide the terminal is."""


def print_summary(console: Console, summary: Summary) -> None:
    """Write the summary: the count, the totals, what was lost, the findings."""
    put(console)
    if summary.interim:
        put(console, ("So far:", "bold"))
    put(console, (headline(summary), "bold"))
    _put_totals(console, summary)
    for text in counter_mismatches(summary.reconciliation):
        _put_wrapped(console, text)
    because = summary.incomplete_because or tuple(lost_lines(summary.losses))
    if not summary.complete:
        put(console, ("This is incomplete:", "yellow"))
        for text in because:
            _put_wrapped(console, f"  {clean(text)}", indent="    ")
    several = len({(f.ifname, f.netns) for f in summary.findings}) > 1
    for finding in summary.findings:
        _put_finding(console, finding, several)


def headline(summary: Summary) -> str:
    """`24 packets dropped in 31 s, all accounted for (wg0 rx_errors +23). Nothing lost.`"""
    count = sum(total.count for total in summary.totals)
    span = _span(summary.duration_s)
    if not count:
        return f"No packet dropped in {span}." if summary.complete else f"No drop seen in {span}."
    text = f"{count_of(count, 'packet')} dropped in {span}"
    moved = [line for line in summary.reconciliation if line.moved]
    if summary.reconciliation and not counter_mismatches(summary.reconciliation):
        counters = ", ".join(f"{clean(line.ifname)} {line.counter} +{line.moved}" for line in moved)
        text += f", all accounted for ({counters})" if counters else ""
    if not any(CATALOGUE[total.reason].counter for total in summary.totals):
        text += "; no interface counter counts such drops"
    return f"{text}. Nothing lost." if summary.complete else f"{text}."


def counter_mismatches(lines: tuple[CounterLine, ...]) -> list[str]:
    """One sentence for each interface counter that the totals do not explain."""
    return [
        f"{clean(line.ifname)} {line.counter} moved by {line.moved}, and "
        f"{count_of(line.explained, 'drop')} {'is' if line.explained == 1 else 'are'} counted there: "
        + (
            f"{line.moved - line.explained} of it is not explained."
            if line.moved > line.explained
            else "the counter was read too early, or was reset."
        )
        for line in lines
        if line.moved != line.explained
    ]


def lost_lines(losses: Losses) -> list[str]:
    """One sentence for each way in which something was not seen or not shown."""
    lines = []
    if losses.rate_limited:
        kinds = ", ".join(f"{reason} {count}" for reason, count in sorted(losses.rate_limited.items()))
        total = sum(losses.rate_limited.values())
        lines.append(f"Counted but not shown one by one, to keep up: {count_of(total, 'packet')} ({kinds}).")
    for count, noun, consequence in (
        (losses.events, "record", "found the buffer full: counted above, not shown."),
        (losses.missed_probes, "probe run", "skipped by the kernel: drops may be missing above."),
        (losses.undecodable, "record", "could not be read: counted above, not shown."),
        (losses.totals, "drop", "counted by reason only: too many peers for the table of totals."),
        (losses.unclassified, "packet", "freed inside WireGuard at a place that wgtrace does not know."),
        (losses.frames, "handshake message", "seen only in part: its fate is not counted above."),
    ):
        if count:
            lines.append(f"{count_of(count, noun)} {consequence}")
    return lines


def _put_totals(console: Console, summary: Summary) -> None:
    names = summary.peer_names or {}
    counts: dict[tuple[str, int, Reason, str | None], int] = {}
    for total in summary.totals:
        key = (total.ifname, total.netns, total.reason, total.public_key)
        counts[key] = counts.get(key, 0) + total.count
    if len(counts) < 2:
        return
    room = max(len(clean(key[0])) for key in counts) + 2 if len({key[:2] for key in counts}) > 1 else 0
    put(console, (f"{'COUNT':>9}  {'IF' if room else '':<{room}}{'REASON':<32}PEER", "dim"))
    for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0][2])):
        ifname, _, reason, public_key = key
        peer = (clean(names.get(public_key, "")) or short_key(public_key)) if public_key else "?"
        where = clean(ifname) if room else ""
        put(console, (f"{count:>9}  {where:<{room}}{reason.id:<30}  {peer}", ""))


def _put_finding(console: Console, finding: Finding, several: bool) -> None:
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
    _put_wrapped(console, f"  {clean(finding.cause)}", indent="  ")
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
                _put_wrapped(console, start + clean(text), indent=" " * 9)


def _put_wrapped(console: Console, text: str, indent: str = "  ") -> None:
    for line in wrapped(text, min(max(console.width, 40), _READABLE), indent):
        put(console, (line, ""))


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


def _span(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
