# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace merge`: what two ends tell together, as text and as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Console

from wgtrace.diagnosis.finding import Finding
from wgtrace.diagnosis.words import age, count_of, utc
from wgtrace.merge.ends import End
from wgtrace.merge.findings import percent
from wgtrace.merge.tunnel import Message, Tunnel, Way
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import put
from wgtrace.outputs.fields import Json, rfc3339
from wgtrace.outputs.jsonl import SCHEMA, finding_json
from wgtrace.outputs.summary import put_finding, put_wrapped

_INDENT: Final = " " * 16
_NS: Final = 1_000_000_000


def print_merge(
    console: Console, ends: Sequence[End], found: Sequence[tuple[Tunnel, Sequence[Finding]]]
) -> None:
    """Write the ends, each tunnel between them, and what they prove."""
    for end in ends:
        put_wrapped(console, f"{clean(end.name)}: {_end(end)}")
        for gap in end.gaps:
            put_wrapped(console, f"  incomplete: {clean(gap)}")
    if not found:
        put(console)
        put_wrapped(
            console,
            "No tunnel is in both: no interface of one has one of the other as peer that has it as peer too.",
        )
    for tunnel, proved in found:
        put(console)
        put_wrapped(console, _clocks(tunnel))
        for way in tunnel.ways:
            _put_way(console, way)
        for finding in proved:
            put_finding(console, finding, several=False)


def _end(end: End) -> str:
    names = (
        ", ".join(dict.fromkeys(clean(ifname) for ifname, _, _ in end.devices)) or "no interface with a key"
    )
    sampled = f", one data message in {end.facts.sample}" if end.facts.sample else ", no data messages"
    if end.facts.sample == 1:
        sampled = ", every data message"
    begin = utc(end.facts.clock.realtime_ns, 0)
    return (
        f"{names} on Linux {clean(end.facts.kernel.release)}, "
        f"{age((end.end_ns - end.begin_ns) / _NS)} from {begin} UTC{sampled}."
    )


def _clocks(tunnel: Tunnel) -> str:
    lead, first, second = tunnel.lead, clean(tunnel.first.name), clean(tunnel.second.name)
    together = f"Both recorded for {age(max(0, tunnel.end_ns - tunnel.begin_ns) / _NS)}. "
    told = f"{second}'s clock is {_lead(tunnel)} {first}'s"
    if not tunnel.is_measured:
        within = "as the wall clocks have it, which nobody vouches for"
        if lead.within_ns is not None:
            within = f"as the wall clocks have it, ± {_span(lead.within_ns)} by NTP"
        return f"{together}{told}, {within}: no messages each way tell it."
    assert lead.worst_ns is not None
    assert lead.drift_within_ppm is not None
    text = (
        f"{together}{told}, ± {_span(lead.worst_ns)}, and gains {lead.drift_ppm:.1f} "
        f"± {lead.drift_within_ppm:.1f} ppm: "
        f"from {lead.messages[0]:,} messages there and {lead.messages[1]:,} back."
    )
    if lead.unevenness_ns:
        text += f" The clocks ran unevenly, by {_span(lead.unevenness_ns)}."
    return text


def wall_lead_ns(tunnel: Tunnel) -> int:
    """By how much the second end's wall clock is ahead of the first's, as each had it when it began."""
    offsets = tunnel.second.facts.clock_offset_ns - tunnel.first.facts.clock_offset_ns
    return tunnel.lead.lead_ns + offsets


def _lead(tunnel: Tunnel) -> str:
    lead_ns = wall_lead_ns(tunnel)
    return f"{_span(abs(lead_ns), exact=True)} {'ahead of' if lead_ns >= 0 else 'behind'}"


def _span(ns: int, *, exact: bool = False) -> str:
    """`34 µs`, `1.2 ms`; exact: `3,600.012345 s`."""
    if exact and ns >= _NS:
        return f"{ns / _NS:,.6f} s"
    for unit, size in (("s", _NS), ("ms", 1_000_000), ("µs", 1000)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def _put_way(console: Console, way: Way) -> None:
    put(console)
    put(
        console,
        (f"{clean(way.source.name)} > {clean(way.target.name)}", "bold"),
        (f"   {clean(way.device.ifname)}", ""),
    )
    for label, text in _lines(way):
        put_wrapped(console, f"  {label:<13} {text}", indent=_INDENT)


def _lines(way: Way) -> Iterator[tuple[str, str]]:
    for label, messages in (("initiations", way.initiations), ("responses", way.responses)):
        if messages:
            arrived = sum(m.arrived_ns is not None for m in messages)
            refused = sum(m.refused is not None for m in messages)
            told = f", {refused} of them refused there" if refused else ""
            yield label, f"{len(messages)} left, {arrived} arrived{told}"
    loss = way.loss
    if loss is None:
        yield "data", "not recorded: wgtrace record --sample N" if not way.one_in else "none left"
    else:
        lost, left = way.lost, len(way.data)
        one_in = f" of one in {way.one_in}" if way.one_in > 1 else ""
        yield (
            "data",
            f"{left:,}{one_in} left, {left - len(lost):,} arrived, {len(lost):,} lost: {percent(loss)}",
        )
        if lost:
            yield "lost", f"{_when(way, lost)}, at most {len(way.longest_gap())} in a row"
    if way.copies:
        yield "copies", f"{count_of(way.copies, 'message')} arrived again"
    if way.delays_ns:
        delays = sorted(way.delays_ns)
        low, middle, high = (_signed(ns) for ns in (delays[0], delays[len(delays) // 2], delays[-1]))
        yield "delay", f"{low} at least, {middle} median, {high} at most"
    if way.dropped:
        reasons = ", ".join(f"{count} {reason.id}" for reason, count in way.dropped.most_common())
        yield "then dropped", reasons


def _signed(ns: int) -> str:
    return f"-{_span(-ns)}" if ns < 0 else _span(ns)


def _when(way: Way, messages: Sequence[Message]) -> str:
    first, last = (
        utc(m.left_ns + way.source.facts.clock_offset_ns)
        for m in (min(messages, key=lambda m: m.left_ns), max(messages, key=lambda m: m.left_ns))
    )
    return f"from {first} to {last[11:]} UTC"


def merge_json(found: Sequence[tuple[Tunnel, Sequence[Finding]]]) -> Iterator[str]:
    """JSON lines without their ends: for each tunnel `merge`, then its findings."""
    for tunnel, proved in found:
        ts = rfc3339(tunnel.first.facts.clock.realtime_ns)
        lead = tunnel.lead
        body: Json = {
            "schema": SCHEMA,
            "type": "merge",
            "ts": ts,
            "first": _end_json(tunnel.first),
            "second": _end_json(tunnel.second),
            "together_s": round(max(0, tunnel.end_ns - tunnel.begin_ns) / _NS, 3),
            "clock": {
                "measured": tunnel.is_measured,
                "ahead_ns": wall_lead_ns(tunnel),
                "boottime_ahead_ns": lead.lead_ns,
                "within_ns": lead.worst_ns,
                "drift_ppm": round(lead.drift_ppm, 3),
                "drift_within_ppm": None
                if lead.drift_within_ppm is None
                else round(lead.drift_within_ppm, 3),
                "uneven_ns": lead.unevenness_ns,
                "messages": list(lead.messages),
            },
            "ways": [_way_json(way) for way in tunnel.ways],
        }
        yield json.dumps(body, separators=(",", ":"))
        for finding in proved:
            line = {"schema": SCHEMA, "type": "merge_finding", "ts": ts, **finding_json(finding)}
            yield json.dumps(line, separators=(",", ":"))


def _end_json(end: End) -> Json:
    return {
        "name": clean(end.name),
        "kernel": clean(end.facts.kernel.release),
        "sample": end.facts.sample,
        "lost_records": end.lost,
        "gaps": [clean(gap) for gap in end.gaps],
    }


def _way_json(way: Way) -> Json:
    loss = way.loss
    delays = sorted(way.delays_ns)
    lost = way.lost
    offset = way.source.facts.clock_offset_ns
    return {
        "from": clean(way.source.name),
        "to": clean(way.target.name),
        "ifname": clean(way.device.ifname),
        "netns": way.device.netns,
        "public_key": way.device.public_key,
        "initiations": _messages_json(way.initiations),
        "responses": _messages_json(way.responses),
        "data": None
        if loss is None
        else {
            "one_in": way.one_in,
            "left": len(way.data),
            "arrived": len(way.data) - len(lost),
            "lost": len(lost),
            "copies": way.copies,
            "loss": round(loss[0], 6),
            "loss_at_least": round(loss[1], 6),
            "loss_at_most": round(loss[2], 6),
            "first_lost": rfc3339(min(m.left_ns for m in lost) + offset) if lost else None,
            "last_lost": rfc3339(max(m.left_ns for m in lost) + offset) if lost else None,
            "longest_gap": len(way.longest_gap()),
        },
        "delay_ns": {"min": delays[0], "median": delays[len(delays) // 2], "max": delays[-1]}
        if delays
        else None,
        "dropped": {reason.id: count for reason, count in way.dropped.items()},
    }


def _messages_json(messages: Sequence[Message]) -> Json:
    return {
        "left": len(messages),
        "arrived": sum(m.arrived_ns is not None for m in messages),
        "refused": sum(m.refused is not None for m in messages),
    }
