# SPDX-License-Identifier: GPL-2.0-only
"""All peers as a table, one below the other; or all of one peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console

from wgtrace.diagnosis.words import age, count_of, milliseconds
from wgtrace.events.session import Arrivals
from wgtrace.outputs.console import put
from wgtrace.outputs.fields import clock, interface_label, peer_text
from wgtrace.outputs.histogram import duration
from wgtrace.outputs.summary import put_end
from wgtrace.report import RunStart, Summary, TopFrame, TopRow

_TITLES: Final = ("PEER", "ENDPOINT", "IN", "OUT", "LOSS", "DROPS", "HANDSHAKE", "TOOK")
_LEAST: Final = (9, 21, 8, 8, 5, 6, 9, 6)
_NUMBERS: Final = frozenset({2, 3, 4, 5, 6, 7})
_AROUND: Final = 4
"""Lines beside the rows: headline, titles, drops by reason, keys."""
ORDERS: Final[dict[str, Callable[[TopRow], object]]] = {
    "interface": lambda row: (row.ifname, row.netns, row.peer is None, peer_text(row.peer)),
    "in": lambda row: -row.rx_rate,
    "out": lambda row: -row.tx_rate,
    "loss": lambda row: -(row.arrivals.loss if row.arrivals else 0.0),
    "drops": lambda row: (-row.new_drops, -row.dropped),
    "handshake": lambda row: (row.handshake_ns == 0, -row.handshake_ns),
}
"""By what rows can be sorted; `s` goes from one to the next."""


def bytes_rate(rate: float) -> str:
    """`0`, `873 B`, `12.3 kB`, `1.2 GB`: bytes a second."""
    for unit in ("B", "kB", "MB", "GB"):
        if rate < 999.5 or unit == "GB":
            return f"{rate:.0f} {unit}" if unit == "B" else f"{rate:.1f} {unit}"
        rate /= 1000
    raise AssertionError


def percent(arrivals: Arrivals | None) -> str:
    """What is lost on the way from a peer: `0`, `0.3%`, `23%`; `-` where nothing came that tells."""
    if arrivals is None or not (arrivals.received or arrivals.lost):
        return "-"
    if not arrivals.lost:
        return "0"
    share = 100 * arrivals.loss
    return "<0.1%" if share < 0.05 else f"{share:.1f}%" if share < 99.95 else "100%"


def _cells(row: TopRow, now_ns: int, has_interfaces: bool) -> tuple[str, ...]:
    where = f"{interface_label(row.ifname, row.netns_name)} " if has_interfaces else ""
    if row.peer is None:
        return (f"{where}?", "", "", "", "", str(row.dropped), "", "")
    handshake = "never"
    if row.handshake_ns:
        handshake = f"{age(max((now_ns - row.handshake_ns) // 1_000_000_000, 0))} ago"
    return (
        where + peer_text(row.peer),
        str(row.peer.endpoint or "-"),
        bytes_rate(row.rx_rate),
        bytes_rate(row.tx_rate),
        percent(row.arrivals),
        str(row.dropped),
        handshake,
        milliseconds(row.latency_ns) if row.latency_ns else "-",
    )


def sorted_rows(frame: TopFrame, order: str) -> list[TopRow]:
    """The rows in one of `ORDERS`."""
    return sorted(frame.rows, key=ORDERS[order])  # type: ignore[arg-type]  # each order compares with itself


def frame_lines(
    frame: TopFrame,
    width: int,
    height: int | None = None,
    order: str = "interface",
    note: str = "",
    chosen: int | None = None,
) -> list[tuple[str, str]]:
    """The lines of a frame, and the style of each.

    Args:
        height: Lines of the terminal; None: as many as there are.
        note: At the end of the headline.
        chosen: The row that is marked, and always to be seen; None: none is.
    """
    rows = sorted_rows(frame, order)
    room = len(rows) if height is None else max(height - _AROUND, 1)
    first = 0 if chosen is None else max(0, min(chosen - room // 2, len(rows) - room))
    shown = rows[first : first + room]
    has_interfaces = len({(row.ifname, row.netns) for row in rows}) > 1
    cells = [_cells(row, frame.ts_unix_ns, has_interfaces) for row in shown]
    widths = _widths([_TITLES, *cells], width)
    peers = count_of(sum(row.peer is not None for row in rows), "peer")
    more = f", {len(rows) - len(shown)} rows more" if len(shown) < len(rows) else ""
    head = f"{clock(frame.ts_unix_ns)[:8]}  {peers}{more}, by {order}{note}"
    lines = [(head, "bold"), (_line(_TITLES, widths), "dim")]
    for at, (row, line) in enumerate(zip(shown, cells, strict=True), first):
        style = "reverse" if at == chosen else "red" if row.new_drops else ""
        lines.append((_line(line, widths), style))
    return [(line[:width], style) for line, style in [*lines, (_reasons(rows), "")]]


def _widths(lines: Sequence[Sequence[str]], width: int) -> list[int]:
    """Columns as wide as they have to be; names and endpoints give way where there is no room."""
    wanted = [max(cell_len(line[column]) for line in lines) for column in range(len(_TITLES))]
    widths = [min(most, least) for most, least in zip(wanted, _LEAST, strict=True)]
    spare = width - sum(widths) - len(_TITLES) + 1
    for column in (2, 3, 4, 5, 6, 7, 0, 1):  # numbers first: they are never cut where there is any room
        grown = max(min(spare, wanted[column] - widths[column]), 0)
        widths[column] += grown
        spare -= grown
    return widths


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    texts = []
    for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        if cell_len(cell) > width:
            cell = set_cell_size(cell, width - 1) + "…"
        room = " " * (width - cell_len(cell))
        texts.append(room + cell if column in _NUMBERS else cell + room)
    return " ".join(texts).rstrip()


def _reasons(rows: Sequence[TopRow]) -> str:
    """Why packets were dropped since the start, the most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        for reason, count in row.drops:
            counts[reason.id] = counts.get(reason.id, 0) + count
    told = [f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])]
    return f"drops: {', '.join(told)}" if told else "no drops"


def peer_lines(
    frame: TopFrame, row: TopRow, width: int, height: int, note: str = ""
) -> list[tuple[str, str]]:
    """All that is known of one row, and the style of each line: the last steps as far as there is room."""
    name = peer_text(row.peer)
    key = f" {row.peer.public_key}" if row.peer else ""
    where = interface_label(row.ifname, row.netns_name)
    lines = [(f"{clock(frame.ts_unix_ns)[:8]}  {where} {name}{key}{note}", "bold")]
    lines += [(f"{title:<10} {text}", "") for title, text in _facts(frame, row)]
    room = max(height - len(lines) - 2, 0)
    if row.steps and room:
        lines.append(("its last steps:", "dim"))
        lines += [(f"{clock(step.ts_unix_ns)}  {step.what}", "") for step in row.steps[-room:]]
    return [(line[:width], style) for line, style in lines[: height - 1]]


def _facts(frame: TopFrame, row: TopRow) -> Iterator[tuple[str, str]]:
    if row.peer:
        yield "endpoint", str(row.peer.endpoint or "not known")
        yield "in", f"{bytes_rate(row.rx_rate)}/s, {row.rx_bytes:,} bytes in all"
        yield "out", f"{bytes_rate(row.tx_rate)}/s, {row.tx_bytes:,} bytes in all"
        seconds = (frame.ts_unix_ns - row.handshake_ns) // 1_000_000_000
        took = f", took {milliseconds(row.latency_ns)}" if row.latency_ns else ""
        side = f", this side is the {row.role}" if row.role else ""
        yield "handshake", f"{age(max(seconds, 0))} ago{took}{side}" if row.handshake_ns else "never"
    if row.queues:
        of = row.queues
        yield "waiting", f"{of.staged} for a session, {of.outgoing} on their way out, {of.incoming} in"
    for direction, histogram in row.latency.items():
        times = [*(histogram.percentile(percent) for percent in (50, 99)), histogram.max]
        p50, p99, most = map(duration, times)
        yield f"{direction.value} took", f"p50 {p50}, p99 {p99}, max {most} ({histogram.count} packets)"
    if row.arrivals:
        yield "came", arrivals_text(row.arrivals)
    for session in row.sessions:
        old = age(max(frame.boot_ns - session.born_ns, 0) / 1e9)
        side = "this side" if session.is_initiator else "the peer"
        yield f"{session.index:08x}", f"{old} old, begun by {side}: {arrivals_text(session.arrivals)}"
    told = [f"{reason.id} {count}" for reason, count in row.drops]
    yield "drops", ", ".join(told) or "none"


def arrivals_text(arrivals: Arrivals) -> str:
    """`930 came, 70 lost (7.0%), 23 late, 3 doubled`"""
    told = [f"{arrivals.received:,} came", f"{arrivals.lost:,} lost ({percent(arrivals)})"]
    told += [f"{arrivals.late:,} late", f"{arrivals.duplicates:,} doubled"]
    told += [f"{arrivals.too_old:,} much too late"] if arrivals.too_old else []
    told += [f"{arrivals.unread:,} found a queue full"] if arrivals.unread else []
    return ", ".join(told)


class TopTableSink:
    """Writes each frame below the one before."""

    is_over = False

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, start: RunStart) -> None:
        """Nothing: what cannot be seen is said in the end."""

    def frame(self, frame: TopFrame) -> None:
        """Write it."""
        for line, style in frame_lines(frame, max(self._console.width, 80)):
            put(self._console, (line, style))

    def summary(self, summary: Summary) -> None:
        """Write what is missing, and the findings."""
        put_end(self._console, summary)
