# SPDX-License-Identifier: GPL-2.0-only
"""table: one run of every kind of line, at 80 and at 200 columns, held against stored text."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from factories import (
    BERLIN,
    NETNS,
    NOW,
    OSLO,
    PARIS,
    STRANGER,
    Scene,
    attached_probe,
    console,
    device,
    drop,
    flow,
    missing_probe,
    nobody,
    outer,
    run_start,
    seen,
    summary,
    total,
    written,
)
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.events.types import DropTotal, Losses, Tai64n
from wgtrace.outputs.console import WIDE, make_console
from wgtrace.outputs.summary import headline
from wgtrace.outputs.table import TableSink, banner
from wgtrace.report import CounterLine

pytestmark = pytest.mark.usefixtures("in_utc")

GOLDEN = Path(__file__).with_name("golden")


def whole_run() -> Scene:
    """Drops of every kind of line."""
    tai: dict[str, Any] = {"timestamp": Tai64n(NOW - 3_600_000_000_000), "latest_timestamp": Tai64n(NOW)}
    stun: dict[str, Any] = {"payload": bytes.fromhex("000100002112a442"), "payload_len": 40}
    long6 = flow(
        "2001:db8:1234:5678:9abc:def0:1234:5678", "2001:db8:8765:4321:ffff:ffff:ffff:fff1", 6, 52114, 443
    )
    moved = {"rx_errors": 23, "rx_frame_errors": 23, "tx_errors": 20, "tx_dropped": 5}
    scene = Scene(counters=tuple(CounterLine("wg0", NETNS, name, n, n) for name, n in moved.items()))
    scene.dropped(nobody())
    scene.dropped(drop(Reason.INVALID_MAC1, outer=outer("192.0.2.7", 4500)), 2)
    scene.dropped(drop(Reason.ALLOWEDIPS_NO_PEER, inner=flow("10.9.0.1", "10.9.5.1", 1)), 7)
    scene.dropped(drop(Reason.STAGED_QUEUE_OVERFLOW, BERLIN, inner=long6), 5)
    scene.dropped(drop(Reason.HANDSHAKE_INIT_REPLAY, PARIS, outer=outer("2001:db8::3", 4500), **tai), 3)
    scene.dropped(drop(Reason.BAD_HEADER, sub_reason=SubReason.UNKNOWN_TYPE, outer=outer(), **stun), 11)
    scene.dropped(drop(Reason.NO_ENDPOINT, OSLO, inner=flow("fd00::1", "fd00::2", 17, 51820, 443)), 13)
    return scene.stepped(HandshakeCode.INIT_SENT, BERLIN, 3)


def table(width: int) -> str:
    """The whole run as a table of this width."""
    to, scene = console(width), whole_run()
    sink = TableSink(to)
    sink.start(run_start())
    for event, _ in scene.drops:
        sink.drop(seen(event))
    sink.summary(summary(*scene.totals, findings=scene.findings, reconciliation=scene.counters))
    return written(to)


@pytest.mark.parametrize("width", [80, 200])
def test_table_is_as_stored(width: int) -> None:
    """A whole run, word for word."""
    text = table(width)

    assert text == GOLDEN.joinpath(f"table-{width}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [80, 100, 170, 171, 200])
def test_no_line_ends_in_spaces_and_no_prose_is_too_long(width: int) -> None:
    """Only commands and long IPv6 flows may be longer than the terminal: they are never broken."""
    lines = table(width).splitlines()

    assert all(line == line.rstrip() for line in lines)
    too_long = [line for line in lines if cell_len(line) > width]
    assert all(" wg set " in line or "2001:db8:1234" in line for line in too_long)


def test_rows_stand_in_their_columns() -> None:
    """At 200 columns every reason begins where its title does."""
    lines = table(200).splitlines()
    at = lines[1].index("REASON")
    rows = [line for line in lines[2:9] if "2001:db8:1234" not in line]

    assert len(rows) == 6
    assert all(line[at - 1] == " " and line[at] != " " for line in rows)


@pytest.mark.parametrize("width", [20, 40])
def test_a_tiny_terminal_breaks_nothing(width: int) -> None:
    """However narrow, every reason is still there."""
    text = table(width)

    assert all(event.reason.id in text for event, _ in whole_run().drops)


def test_hostile_and_wide_names_keep_the_columns() -> None:
    """A name with escapes, bidi marks, wide letters or of great length moves nothing."""
    to = console(200)
    sink = TableSink(to)
    sink.start(run_start())
    for name in ("\x1b[31mred\r\n", "\u202enilreb", "東京東京東京東京東京", "x" * 99):
        event = nobody()
        assert event.peer
        sink.drop(seen(replace(event, peer=replace(event.peer, name=name))))
    rows = written(to).splitlines()[2:]

    assert len(rows) == 4
    assert not any(char in written(to) for char in "\x1b\r\u202e")
    assert {cell_len(row[: row.index("10.9.7.7:")]) for row in rows} == {cell_len("12:04:11.203  rx   ") + 18}


def test_two_interfaces_get_a_column() -> None:
    """With more than one interface each row says which, with the namespace's name."""
    to = console(200)
    sink = TableSink(to)
    sink.start(run_start(None, device(), device("wg1", 7)))
    sink.drop(replace(seen(nobody()), netns_name="hub"))
    lines = written(to).splitlines()

    assert lines[0] == f"wg0 in netns {NETNS}: 3 peers, port 51820."
    assert "IF" in lines[2]
    assert "hub/wg0" in lines[3]


def test_banner_has_the_names_of_namespaces() -> None:
    """With several namespaces each is called by its name where it has one."""
    start = replace(run_start((), device(), replace(device(), netns=7)), netns_names={7: "blue\x1b"})

    assert [line.split(":")[0] for line in banner(start)] == [f"wg0 in netns {NETNS}", "wg0 in netns blue"]
    assert banner(replace(start, devices=start.devices[1:]))[0].startswith("wg0: ")


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe gets no escape sequence, nor does a terminal with NO_COLOR."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def escapes(is_terminal: bool) -> bool:
        to = Console(file=io.StringIO(), width=200, force_terminal=is_terminal, markup=False)
        TableSink(to).drop(seen(nobody()))
        return "\x1b[31" in written(to) or "\x1b[1;31" in written(to)

    assert escapes(True)
    assert not escapes(False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not escapes(True)


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("colours", ["standard", "256", "truecolor"])
def test_a_row_is_what_rich_would_write(colours: Any, width: int) -> None:
    """Rows are put together without rich: its colours are the same, its text that without colours."""

    def rows(colours: Any) -> list[str]:
        to = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=colours, markup=False)
        sink = TableSink(to)
        for event, _ in whole_run().drops:
            sink.drop(seen(event))
        return written(to).splitlines()

    def by_rich(row: str) -> str:
        to = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=colours, markup=False)
        to.print(Text.from_ansi(row), soft_wrap=True, end="", highlight=False)
        return written(to)

    coloured = rows(colours)

    assert [by_rich(row) for row in coloured] == coloured
    assert [Text.from_ansi(row).plain for row in coloured] == rows(None)
    assert sum("\x1b[1;31m" in row for row in coloured) == 7  # reasons
    assert sum("\x1b[35m" in row for row in coloured) == 2  # handshake messages
    assert sum("\x1b[2m12:04:11.203" in row for row in coloured) == 7


def test_a_pipe_gets_one_line_for_each_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal rows are wide, so that grep finds all of a drop; COLUMNS overrides."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console(io.StringIO()).width == WIDE

    monkeypatch.setenv("COLUMNS", "80")
    assert make_console(io.StringIO()).width == 80


def test_an_old_locale_breaks_nothing() -> None:
    """A stream that cannot encode `…` shows a `?` instead of failing."""
    raw = io.BytesIO()
    to = make_console(io.TextIOWrapper(raw, encoding="ascii"))
    TableSink(to).drop(seen(drop(Reason.UNKNOWN_PEER_PUBKEY, unknown_public_key=STRANGER)))
    to.file.flush()

    assert b"public key CQkJCQkJ? is no peer" in raw.getvalue()


def test_banner_names_what_is_missing() -> None:
    """A probe that is not attached is named, with what is not visible and what to do."""
    assert banner(run_start((attached_probe(1), missing_probe("x")))) == [
        "wg0: 3 peers, port 51820. 1 of 2 probes attached (1 fentry). Ctrl-C ends.",
        "not attached: a-probe (no such function in this kernel)",
        "  not visible: the thing that happens",
        "  to see it: load the module: modprobe wireguard",
    ]


def test_banner_of_a_recording_says_of_when_and_where_it_is() -> None:
    """A table shows times of day only, so the banner has the date; Ctrl-C ends nothing."""
    recorded = replace(run_start(), recorded=True)

    assert banner(recorded)[0].endswith("all attached. Recorded on 2026-11-22, Linux 6.12.117.")


def test_no_drops_is_only_said_of_a_complete_run() -> None:
    """An incomplete run without drops does not claim that there were none."""
    to = console(80)
    because = ("a-probe is not attached: the thing that happens is not visible",)
    TableSink(to).summary(summary(complete=False, incomplete_because=because))
    incomplete = written(to)

    assert headline(summary()) == "No packet dropped in 31 s."
    assert incomplete == ("\nNo drop seen in 31 s.\nThis is incomplete:\n  " + because[0] + "\n")


def test_a_counter_that_does_not_fit_is_said() -> None:
    """When the interface counted more than was seen, that is said, and nothing is said to fit."""
    to = console(100)
    counters = (CounterLine("wg0", NETNS, "rx_errors", 30, 23),)
    TableSink(to).summary(summary(total(Reason.SRC_NOT_ALLOWED, 23, BERLIN), reconciliation=counters))
    text = written(to)

    assert text.startswith("\n23 packets dropped in 31 s. Nothing lost.\n")
    assert "wg0 rx_errors moved by 30, and 23 drops are counted there: 7 of it is not explained." in text


def test_losses_are_said_and_nothing_lost_is_not() -> None:
    """What was lost is said in the words of the run, under a heading of its own."""
    to = console(200)
    because = ("1 record found the buffer full", "12 rows were not shown")
    losses = Losses(events=1, rate_limited={"invalid_mac1": 12})
    drops = total(Reason.INVALID_MAC1, 23)
    TableSink(to).summary(summary(drops, complete=False, losses=losses, incomplete_because=because))

    assert written(to).splitlines()[1:] == [
        "23 packets dropped in 31 s: the kernel counts them nowhere.",
        "This is incomplete:",
        f"  {because[0]}",
        f"  {because[1]}",
    ]


def test_rows_left_out_to_keep_up_are_no_reason_to_worry() -> None:
    """When nothing but rows is missing, it is said without `incomplete`, and without `Nothing lost`."""
    to = console(200)
    limited = ("Totals are exact; 12 rows were not shown",)
    losses = Losses(rate_limited={"invalid_mac1": 12})
    drops = total(Reason.INVALID_MAC1, 23)
    TableSink(to).summary(summary(drops, complete=False, losses=losses, incomplete_because=limited))

    assert written(to).splitlines()[1:] == [
        "23 packets dropped in 31 s: the kernel counts them nowhere.",
        "Totals are exact; 12 rows were not shown.",
    ]


def test_a_probe_that_is_missing_beside_left_out_rows_is_incomplete() -> None:
    """Rows left out do not hide that something else was not seen."""
    to = console(200)
    because = ("no probe on wg_function", "12 rows were not shown")
    losses = Losses(rate_limited={"invalid_mac1": 12})
    TableSink(to).summary(summary(complete=False, losses=losses, incomplete_because=because))

    assert "This is incomplete:\n  no probe on wg_function\n" in written(to)


def test_an_interim_summary_says_so() -> None:
    """A count in the middle of a run is not taken for the end."""
    to = console(80)
    TableSink(to).summary(summary(interim=True))

    assert written(to).startswith("\nSo far:\n")


def test_without_rows_there_are_banner_and_summary() -> None:
    """A quiet run writes no row and no titles."""
    to = console(200)
    sink = TableSink(to, rows=False)
    sink.start(run_start())
    sink.drop(seen(nobody()))

    assert len(written(to).splitlines()) == 1


def counted(counter: str, moved: int, explained: int | None = None, ifname: str = "wg0") -> CounterLine:
    """A counter that moved so far, all of it explained unless said otherwise."""
    return CounterLine(ifname, NETNS, counter, moved, moved if explained is None else explained)


RX, TX = counted("rx_errors", 4), counted("tx_errors", 1)
RX_AND_FRAME = (RX, counted("rx_frame_errors", 4))
SRC, NO_ENDPOINT = total(Reason.SRC_NOT_ALLOWED, 4), total(Reason.NO_ENDPOINT, 1)
UNKNOWN = total(Reason.UNKNOWN_PEER_PUBKEY, 1)


@pytest.mark.parametrize(
    ("totals", "counters", "said"),
    [
        (
            (SRC, NO_ENDPOINT, UNKNOWN),
            (*RX_AND_FRAME, TX),
            "6 packets dropped in 31 s: 5 are in wg0's counters (rx_errors +4, tx_errors +1), "
            "the kernel counts 1 nowhere.",
        ),
        (
            (NO_ENDPOINT, UNKNOWN),
            (TX,),
            "2 packets dropped in 31 s: 1 is in wg0's counters (tx_errors +1), the kernel counts 1 nowhere.",
        ),
        ((SRC,), RX_AND_FRAME, "4 packets dropped in 31 s: all are in wg0's counters (rx_errors +4)."),
        ((NO_ENDPOINT,), (TX,), "1 packet dropped in 31 s: it is in wg0's counters (tx_errors +1)."),
        ((UNKNOWN,), (), "1 packet dropped in 31 s: the kernel counts it nowhere."),
        ((UNKNOWN, UNKNOWN), (), "2 packets dropped in 31 s: the kernel counts them nowhere."),
        # Only a part of the drops was asked for.
        (
            (SRC,),
            (counted("rx_errors", 9), TX),
            "4 packets dropped in 31 s: all are in wg0's counters (4 of rx_errors +9).",
        ),
        # What the counters do not bear out is not said.
        ((SRC, UNKNOWN), (), "5 packets dropped in 31 s."),
        ((SRC, UNKNOWN), (counted("rx_errors", 3),), "5 packets dropped in 31 s."),
        ((SRC, UNKNOWN), (counted("rx_errors", 7, 4),), "5 packets dropped in 31 s."),
        (
            (SRC, replace(SRC, ifname="wg1"), UNKNOWN),
            (RX, replace(RX, ifname="wg1")),
            "9 packets dropped in 31 s: 4 are in wg0's counters (rx_errors +4), "
            "4 are in wg1's counters (rx_errors +4), the kernel counts 1 nowhere.",
        ),
        (
            (SRC, replace(SRC, netns=7)),
            (RX, replace(RX, netns=7)),
            "8 packets dropped in 31 s: 4 are in the counters of wg0 in netns 7 (rx_errors +4), "
            f"4 are in the counters of wg0 in netns {NETNS} (rx_errors +4).",
        ),
        (
            (*(replace(SRC, ifname=f"wg{n}") for n in range(4)), UNKNOWN),
            tuple(replace(RX, ifname=f"wg{n}") for n in range(4)),
            "17 packets dropped in 31 s: 16 are in the counters of 4 interfaces, "
            "the kernel counts 1 nowhere.",
        ),
    ],
)
def test_headline_says_which_drops_the_kernel_counts(
    totals: tuple[DropTotal, ...], counters: tuple[CounterLine, ...], said: str
) -> None:
    """How many are in which counters, how many in none; a sub-counter is not named beside its whole."""
    given = summary(*totals, reconciliation=counters)

    assert headline(given) == f"{said} Nothing lost."
    assert headline(replace(given, complete=False)) == said


@pytest.mark.parametrize("width", [40, 53, 68, 80, 97, 106, 200])
def test_headline_is_wrapped(width: int) -> None:
    """It fits the console, and what scripts look for stays on one line."""
    to = console(width)
    TableSink(to).summary(summary(SRC, NO_ENDPOINT, UNKNOWN, reconciliation=(*RX_AND_FRAME, TX)))
    lines = written(to).split("    COUNT")[0].splitlines()

    assert max(map(len, lines)) <= width
    assert lines[1].startswith("6 packets dropped in 31 s: ")
    for words in ("rx_errors +4", "tx_errors +1", "Nothing lost."):
        assert any(words in line for line in lines)
