# SPDX-License-Identifier: GPL-2.0-only
"""How `wgtrace mtu` is told: a line for each event, a table of sizes, the findings; or JSON lines."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from wgtrace.diagnosis.words import count_of
from wgtrace.events.mtu import MtuEvent
from wgtrace.events.wire import MtuOf
from wgtrace.outputs.clean import clean
from wgtrace.outputs.console import put
from wgtrace.outputs.fields import Json, clock, flow_json, packet_name, peer_json, peer_text
from wgtrace.outputs.jsonl import JsonLinesSink, finding_json
from wgtrace.outputs.summary import put_finding, put_wrapped, span, wrapped
from wgtrace.outputs.table import banner
from wgtrace.report import MtuReport, MtuRow, RunStart, SeenMtu

_NAME: Final = 9
_NUMBERS: Final = ("MTU", "LINK", "ROUTE", "PATH", "OVER", "OUT", "DIED", "IN", "FITS")
_LEGEND: Final = (
    "Bytes. LINK: MTU of the device BY which datagrams leave; ROUTE: of the route itself; PATH: the "
    "smallest that is known of the way. OVER: what encryption adds. OUT: the largest packet that TCP or an "
    "echo confirmed; DIED: the smallest larger one that nothing did; IN: the largest that came. "
    "FITS: the MTU to set."
)


class MtuTableSink:
    """Writes a run for a person to read.

    Args:
        console: Decides on width and colour.
        rows: Whether to write a line for each event.
    """

    def __init__(self, console: Console, rows: bool = True) -> None:
        self._console = console
        self._has_rows = rows
        self._has_interface = False

    def start(self, start: RunStart) -> None:
        """Write the banner and the titles."""
        for text in banner(start):
            put_wrapped(self._console, text)
        self._has_interface = len(start.devices) > 1
        if self._has_rows:
            put(self._console, (f"{'TIME':<12}  {self._who('IF', 'PEER')}WHAT", "dim"))

    def event(self, seen: SeenMtu) -> None:
        """Write an event, in as many lines as it needs."""
        if not self._has_rows:
            return
        time, event = f"{clock(seen.ts_unix_ns)}  ", seen.event
        who = self._who(event.device.ifname, peer_text(event.peer))
        indent = " " * (len(time) + cell_len(who))
        room = max(self._console.width - len(indent), 30)
        first, *rest = wrapped(clean(seen.what), room, "")
        style = "red" if event.where else ""
        put(self._console, (time, "dim"), (who, "bold"), (first, style))
        for line in rest:
            put(self._console, (indent, ""), (line, style))

    def report(self, report: MtuReport) -> None:
        """Write the table, what is missing, and the findings."""
        put(self._console)
        put(self._console, (_headline(report), "bold"))
        if report.rows:
            titles = "".join(_number(title, title) for title in _NUMBERS)
            put(self._console, (f"{self._who('IF', 'PEER')}{_fitted('BY')}{titles}", "dim"))
        for row in report.rows:
            who = self._who(row.ifname, peer_text(row.peer))
            put(self._console, (f"{who}{_fitted(row.oif or '-')}{_numbers(row)}", ""))
        if report.rows:
            put_wrapped(self._console, _LEGEND)
        if report.incomplete_because:
            put(self._console, ("This is incomplete:", "yellow"))
            for text in report.incomplete_because:
                put_wrapped(self._console, f"  {clean(text)}", indent="    ")
        several = len({(f.ifname, f.netns) for f in report.findings}) > 1
        for finding in report.findings:
            put_finding(self._console, finding, several)

    def _who(self, ifname: str, peer: str) -> str:
        """The columns that say whose it is."""
        return "  ".join((*([_fitted(ifname)] if self._has_interface else []), _fitted(peer), ""))


def _headline(report: MtuReport) -> str:
    count = sum(total.count for total in report.totals)
    so_far = "So far: " if report.is_interim else ""
    return f"{so_far}{count_of(count, 'event') if count else 'Nothing too big'} in {span(report.duration_s)}."


def _number(title: str, text: str) -> str:
    return f"{text:>{max(len(title), 5) + 1}}"


def _numbers(row: MtuRow) -> str:
    values = (
        *(row.mtu, row.link_mtu, row.route_mtu, row.path_mtu, row.overhead),
        *(row.passed, row.failed, row.received, row.fits),
    )
    return "".join(_number(title, str(value or "-")) for title, value in zip(_NUMBERS, values, strict=True))


def _fitted(name: str) -> str:
    text = clean(name)
    if cell_len(text) > _NAME:
        text = set_cell_size(text, _NAME - 1) + "…"
    return set_cell_size(text, _NAME)


class MtuJsonSink(JsonLinesSink):
    """Writes a run as JSON lines: one for each event; then for each peer and each finding, and the end."""

    def event(self, seen: SeenMtu) -> None:
        """Write an `mtu` line."""
        if self._has_rows:
            self._write("mtu", seen.ts_unix_ns, _event_json(seen.event, seen.what))

    def report(self, report: MtuReport) -> None:
        """Write the `mtu_peer` and `finding` lines, and `mtu_summary`."""
        for row in report.rows:
            self._write("mtu_peer", report.ts_unix_ns, _row_json(row))
        for finding in report.findings:
            self._write("finding", report.ts_unix_ns, finding_json(finding))
        names = {row.peer.public_key: row.peer.name for row in report.rows}
        end: Json = {
            "duration_s": round(report.duration_s, 3),
            "interim": report.is_interim,
            "totals": [
                {
                    "ifname": clean(total.ifname),
                    "netns": total.netns,
                    "event": total.code.name.lower(),
                    "direction": "tx" if total.outgoing else "rx",
                    "peer": _named(total.public_key, names),
                    "count": total.count,
                }
                for total in report.totals
            ],
            "lost": report.lost,
            "complete": not report.incomplete_because,
            "incomplete_because": [clean(text) for text in report.incomplete_because],
        }
        self._write("mtu_summary", report.ts_unix_ns, end)


def _named(key: str | None, names: dict[str, str | None]) -> Json | None:
    name = names.get(key or "")
    return {"public_key": key, "name": clean(name) if name else None} if key else None


def _event_json(event: MtuEvent, what: str) -> Json:
    return {
        "netns": event.device.netns,
        "ifname": clean(event.device.ifname),
        "event": event.id,
        "packet": packet_name(event.is_inner),
        "direction": "tx" if event.outgoing else "rx",
        "peer": peer_json(event.peer),
        "inner": flow_json(event.inner),
        "outer": flow_json(event.outer),
        "mtu": event.mtu or None,
        "mtu_of": None if event.mtu_of is MtuOf.UNKNOWN else event.mtu_of.name.lower(),
        "size": event.size or None,
        "origin": str(event.origin) if event.origin else None,
        "at": {"ifname": clean(event.ifname), "netns": event.netns} if event.ifname else None,
        "where": clean(event.where) or None,
        "kernel_reason": event.kernel_reason,
        "what": clean(what),
    }


def _row_json(row: MtuRow) -> Json:
    return {
        "netns": row.netns,
        "ifname": clean(row.ifname),
        "peer": peer_json(row.peer),
        "mtu": row.mtu,
        "oif": clean(row.oif) or None,
        "link_mtu": row.link_mtu or None,
        "route_mtu": row.route_mtu or None,
        "path_mtu": row.path_mtu or None,
        "path_mtu_of": clean(row.path_of) or None,
        "overhead": row.overhead,
        "largest_sent": row.sent or None,
        "largest_passed": row.passed or None,
        "smallest_failed": row.failed or None,
        "largest_received": row.received or None,
        "fits": row.fits or None,
    }
