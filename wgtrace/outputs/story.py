# SPDX-License-Identifier: GPL-2.0-only
"""Handshakes for a person to read: a sentence for each step, then sums and histograms for each peer."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from wgtrace.diagnosis.words import count_of, short_key
from wgtrace.events.histogram import Histogram, merged
from wgtrace.events.reasons import HandshakeCode, SubReason
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import put
from wgtrace.outputs.fields import clock, interface_label, peer_text
from wgtrace.outputs.histogram import duration, heat_line, heat_scale, text_histogram
from wgtrace.outputs.summary import put_end, put_wrapped, span, wrapped
from wgtrace.outputs.table import banner
from wgtrace.report import HandshakeHistogram, RunStart, SeenStep, Summary

_PEER: Final = 9
_INTERFACE: Final = 8
_BAD: Final = ("_refused", "_not_sent", "give_up", "retry", "_late", "icmp_error")
_GOOD: Final = HandshakeCode.HANDSHAKE_COMPLETE.id

Key = tuple[str, int, str | None]
"""Interface, inode of its namespace, public key of the peer if it is known."""


class StoryTableSink:
    """Writes a run of `wgtrace handshakes`.

    Args:
        console: Decides on width and colour.
        rows: Whether to write a row for each step, or only banner and summary.
        heat_map: Whether an interval is a line of a heat map, or one with percentiles.
    """

    def __init__(self, console: Console, rows: bool = True, heat_map: bool = False) -> None:
        self._console = console
        self._has_rows = rows
        self._has_heat_map = heat_map
        self._has_scale = False
        self._has_interface = False

    def start(self, start: RunStart) -> None:
        """Write the banner and the titles."""
        for text in banner(start):
            for line in wrapped(text, max(self._console.width, 40), "  "):
                put(self._console, (line, ""))
        self._has_interface = len(start.devices) > 1
        if self._has_rows:
            where = f"{'IF':<{_INTERFACE}}  " if self._has_interface else ""
            put(self._console, (f"{'TIME':<12}  {where}{'PEER':<{_PEER}}  WHAT", "dim"))

    def step(self, step: SeenStep) -> None:
        """Write a step, in as many lines as it needs."""
        if not self._has_rows:
            return
        time = f"{clock(step.ts_unix_ns)}  "
        where = ""
        if self._has_interface:
            where = f"{_cell(interface_label(step.ifname, step.netns_name), _INTERFACE)}  "
        peer = f"{_cell(peer_text(step.peer), _PEER)}  "
        indent = " " * (len(time) + cell_len(where) + _PEER + 2)
        origin = f" (from {step.origin})" if step.origin else ""
        room = max(self._console.width - len(indent), 30)
        first, *rest = wrapped(clean(step.what) + origin, room, "")
        style = "red" if step.event.endswith(_BAD) else "green" if step.event == _GOOD else ""
        put(self._console, (time, "dim"), (where, ""), (peer, "bold"), (first, style))
        for line in rest:
            put(self._console, (indent, ""), (line, style))

    def interval(self, ts_unix_ns: int, histograms: tuple[HandshakeHistogram, ...]) -> None:
        """Write a line for each role that had handshakes in it, of all peers together."""
        if self._has_heat_map and not self._has_scale:
            put(self._console, (f"{'TIME':<10}{'ROLE':<12}{heat_scale()}", "dim"))
            self._has_scale = True
        for role in ("initiator", "responder"):
            of = [each.histogram for each in histograms if each.role == role]
            if not of:
                continue
            all_of_it = merged(of)
            start = f"{clock(ts_unix_ns)[:8]}  {role:<10} "
            if self._has_heat_map:
                text = f"{start}|{heat_line(all_of_it)}| {all_of_it.count:>8}  max {duration(all_of_it.max)}"
            else:
                text = f"{start} {count_of(all_of_it.count, 'handshake')}: {percentiles(all_of_it)}"
            put(self._console, (text, ""))

    def summary(self, summary: Summary) -> None:
        """Write the sums and histograms of each peer, what is missing, and the findings."""
        put(self._console)
        if summary.interim:
            put(self._console, ("So far:", "bold"))
        for line in wrapped(headline(summary), max(self._console.width, 40), "  "):
            put(self._console, (line, "bold"))
        for text in peer_sums(summary):
            put_wrapped(self._console, text, "      ")
        for histogram in summary.histograms:
            put(self._console)
            put_wrapped(self._console, histogram_title(histogram, self._has_interface))
            for line in text_histogram(histogram.histogram):
                put(self._console, (line, ""))
            put_wrapped(self._console, f"  {percentiles(histogram.histogram)}")
        put_end(self._console, summary)


def _cell(text: str, width: int) -> str:
    if cell_len(text) > width:
        text = set_cell_size(text, width - 1) + "…"
    return text + " " * (width - cell_len(text))


def headline(summary: Summary) -> str:
    """`23 handshakes completed in 31 s, 1 message refused or not sent. Nothing lost.`"""
    done = sum(t.count for t in summary.handshakes if t.code is HandshakeCode.HANDSHAKE_COMPLETE)
    refused = sum(total.count for total in summary.totals)
    text = f"{count_of(done, 'handshake')} completed in {span(summary.duration_s)}"
    if refused:
        text += f", {count_of(refused, 'message')} refused or not sent"
    return f"{text}. Nothing lost." if summary.complete else f"{text}."


def peer_sums(summary: Summary) -> list[str]:
    """For each peer what its handshakes came to: `  berlin: ...`."""
    steps: dict[Key, dict[tuple[HandshakeCode, SubReason], int]] = {}
    refusals: dict[Key, dict[str, int]] = {}
    for step in summary.handshakes:
        counts = steps.setdefault((step.ifname, step.netns, step.public_key), {})
        for kind in {(step.code, step.sub_reason), (step.code, SubReason.NONE)}:
            counts[kind] = counts.get(kind, 0) + step.count
    for total in summary.totals:
        reasons = refusals.setdefault((total.ifname, total.netns, total.public_key), {})
        reasons[total.reason.id] = reasons.get(total.reason.id, 0) + total.count
    names = summary.peer_names or {}
    keys = sorted({*steps, *refusals}, key=lambda key: (key[0], key[1], names.get(key[2] or "", "~")))
    has_interface = len({key[:2] for key in keys}) > 1
    told = []
    for key in keys:
        said = _sums(steps.get(key, {}), refusals.get(key, {}))
        if not said:
            continue
        name = clean(names.get(key[2], "")) or short_key(key[2]) if key[2] else "not known from whom"
        where = f"{clean(key[0])} " if has_interface else ""
        told.append(f"  {where}{name}: {said}")
    return told


def _sums(steps: dict[tuple[HandshakeCode, SubReason], int], refusals: dict[str, int]) -> str:
    def of(code: HandshakeCode, sub: SubReason = SubReason.NONE) -> int:
        return steps.get((code, sub), 0)

    complete = HandshakeCode.HANDSHAKE_COMPLETE
    up, confirmed = of(complete, SubReason.INITIATOR), of(complete, SubReason.RESPONDER)
    unknown = of(complete) - up - confirmed  # `record` does not tell who began a session
    told = []
    if sent := of(HandshakeCode.INIT_SENT):
        retries = of(HandshakeCode.RETRY)
        again = f" ({count_of(retries, 'retry').replace('retrys', 'retries')})" if retries else ""
        done = "" if unknown else f", {count_of(up, 'session')} up"
        told.append(f"{count_of(sent, 'initiation')} sent{again}{done}")
    if received := of(HandshakeCode.INIT_ACCEPTED):
        done = "" if unknown else f", {count_of(confirmed, 'session')} confirmed"
        told.append(f"{count_of(received, 'initiation')} accepted{done}")
    told += [f"{count_of(unknown, 'session')} up"] if unknown else []
    if given_up := of(HandshakeCode.GIVE_UP):
        told.append(f"given up {'once' if given_up == 1 else f'{given_up} times'}")
    told += [f"{reason} {count}" for reason, count in sorted(refusals.items())]
    return "; ".join(told)


def histogram_title(of: HandshakeHistogram, has_interface: bool) -> str:
    """`berlin: 23 handshakes, from the initiation to the session`"""
    what = {
        "initiator": "from the initiation to the session",
        "responder": "from the initiation to its confirmation",
    }[of.role]
    where = f"{clean(of.ifname)} " if has_interface else ""
    return f"  {where}{peer_text(of.peer)}: {count_of(of.histogram.count, 'handshake')}, {what}"


def percentiles(histogram: Histogram) -> str:
    """`p50 105ms, p90 120ms, p99 130ms, max 131ms`"""
    of = {f"p{percent}": histogram.percentile(percent) for percent in (50, 90, 99)}
    return ", ".join(f"{name} {duration(ns)}" for name, ns in {**of, "max": histogram.max}.items())
