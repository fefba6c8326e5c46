# SPDX-License-Identifier: GPL-2.0-only
"""TopRun: rates, drops and handshakes of all peers, once for each interval; and how they are shown."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import termios
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import pytest
from factories import (
    BERLIN,
    BOOT_NS,
    NETNS,
    NOW,
    OSLO,
    PARIS,
    PEERS,
    attached_probe,
    console,
    device,
    run_start,
    snapshot,
    written,
)
from latency_data import histogram
from rich.console import Console
from session_data import queues_entry, session_entry
from stand_ins import Host, Replay, step, total_of

from wgtrace.events.flow_filter import Filter
from wgtrace.events.latency import Stage
from wgtrace.events.reasons import Direction, HandshakeCode, Reason, SubReason
from wgtrace.events.session import Arrivals, Session
from wgtrace.events.types import PeerRef
from wgtrace.outputs.jsonl import JsonLinesSink, json_schema
from wgtrace.outputs.top import ORDERS, TopTableSink, bytes_rate, frame_lines, peer_lines, percent
from wgtrace.outputs.top_live import LiveTopSink
from wgtrace.pipeline import Limits, Signals
from wgtrace.report import Group, LatencyRow, SeenStep, TopFrame, TopRow, TopSink
from wgtrace.state.types import Snapshot
from wgtrace.top import TopRun

SCHEMA: dict[str, Any] = dict(json_schema())
SECOND = 1_000_000_000
KEYS = (BERLIN, PARIS, OSLO)
MINUTE = 60 * SECOND


def state(seconds: int, berlin: tuple[int, int], paris: tuple[int, int] = (0, 0), **more: Any) -> Snapshot:
    """Wg0 so many seconds after the start, with the bytes that came from and went to two peers."""
    bytes_of = {BERLIN: berlin, PARIS: paris, OSLO: (0, 0)}
    peers = tuple(
        replace(peer, rx_bytes=bytes_of[peer.public_key][0], tx_bytes=bytes_of[peer.public_key][1])
        for peer in PEERS
    )
    return replace(snapshot(device(**{"peers": peers, **more})), taken_ns=BOOT_NS + seconds * SECOND)


@dataclass
class Clock(Host):
    """A host whose time passes when a test says so."""

    now_s: float = 0.0

    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self.now_s

    def at(self, seconds: int, *berlin: int, **more: Any) -> Callable[[], None]:
        """It is so late, and berlin's bytes are these."""

        def change() -> None:
            self.now_s = seconds
            self.state = state(seconds, (berlin[0], berlin[1]), **more)

        return change


def lines_of(source: Replay, host: Clock, count: int | None = None, **wanted: Any) -> list[dict[str, Any]]:
    """The `top` lines of a run with an interval of one second, each held against the schema."""
    out = io.StringIO()
    _run(source, host, JsonLinesSink(out), count, **wanted)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    for line in lines:
        jsonschema.validate(line, SCHEMA, cls=jsonschema.Draft202012Validator)
    return [line for line in lines if line["type"] == "top"]


def _run(source: Replay, host: Clock, sink: TopSink, count: int | None = None, **wanted: Any) -> None:
    run = TopRun(source, host, [sink], Filter(**wanted), 1.0)
    run.start()
    with Signals() as signals:
        run.run(Limits(None, count), signals)


def of(line: dict[str, Any], public_key: str | None) -> dict[str, Any]:
    """The row of a peer, or of none."""
    (row,) = (
        row for row in line["peers"] if (row["peer"] or {"public_key": None})["public_key"] == public_key
    )
    return dict(row)


def test_rates_are_of_the_interval() -> None:
    """What came since the reading before, by the time between the two; not since the start."""
    host = Clock(state=state(0, (1000, 500)))
    source = Replay([[host.at(1, 24_000, 500)], [host.at(3, 24_046, 7_500)]])

    first, second = lines_of(source, host)
    assert (of(first, BERLIN)["rx_bytes_per_s"], of(first, BERLIN)["tx_bytes_per_s"]) == (23_000, 0)
    assert (of(second, BERLIN)["rx_bytes_per_s"], of(second, BERLIN)["tx_bytes_per_s"]) == (23, 3_500)
    assert (second["interval_s"], second["duration_s"]) == (2, 3)
    assert of(second, BERLIN)["rx_bytes"] == 24_046
    assert of(second, BERLIN)["peer"]["name"] == "berlin"


def test_no_frame_before_its_time() -> None:
    """Polls come more often than frames."""
    host = Clock(state=state(0, (0, 0)))
    source = Replay([[], [host.at(1, 10, 10)], [], []])

    assert len(lines_of(source, host)) == 1


def test_once_ends_after_one_frame() -> None:
    """--once."""
    host = Clock(state=state(0, (0, 0)))
    source = Replay([[host.at(1, 1, 1)], [host.at(2, 2, 2)], [host.at(3, 3, 3)]])

    assert len(lines_of(source, host, count=1)) == 1


@pytest.mark.parametrize("more", [{}, {"ifname": "wg0"}])
def test_a_counter_that_begins_anew_is_no_negative_rate(more: dict[str, Any]) -> None:
    """The peer was removed and added again: what it has now came since."""
    host = Clock(state=state(0, (9_000, 9_000)))

    (line,) = lines_of(Replay([[host.at(1, 23, 7, **more)]]), host)
    assert (of(line, BERLIN)["rx_bytes_per_s"], of(line, BERLIN)["tx_bytes_per_s"]) == (0, 0)


def test_drops_are_the_kernels_totals() -> None:
    """Of each peer, and of none; new ones are those since the frame before."""
    host = Clock(state=state(0, (0, 0)))
    source = Replay([])

    def counted(seconds: int, berlin: int, nobody: int) -> Callable[[], None]:
        def change() -> None:
            host.at(seconds, 0, 0)()
            source.sums = {
                total_of(Reason.SRC_NOT_ALLOWED, BERLIN): berlin,
                total_of(Reason.DECRYPT_FAILED, BERLIN): 5,
                total_of(Reason.BAD_HEADER): nobody,
            }

        return change

    source.polls = [[counted(1, 7, 3)], [counted(2, 30, 3)]]
    first, second = lines_of(source, host)
    assert of(first, BERLIN)["drops"] == {"src_not_allowed": 7, "decrypt_failed": 5}
    assert (of(first, BERLIN)["new_drops"], of(first, None)["new_drops"]) == (12, 3)
    assert of(second, BERLIN)["drops"] == {"src_not_allowed": 30, "decrypt_failed": 5}
    assert (of(second, BERLIN)["new_drops"], of(second, None)["new_drops"]) == (23, 0)
    assert of(second, PARIS)["drops"] == {}


def test_the_last_handshake_is_timed() -> None:
    """Of those in this run how long it took and who began; when it was, the kernel knows anyway."""
    host = Clock(state=state(0, (0, 0)))
    peers = (replace(PEERS[0], latest_handshake_ns=NOW), replace(PEERS[1], latest_handshake_ns=NOW - MINUTE))
    steps = [
        step(HandshakeCode.HANDSHAKE_COMPLETE, BERLIN, sub_reason=role, latency_ns=latency)
        for role, latency in ((SubReason.INITIATOR, 7_000_000), (SubReason.RESPONDER, 23_000_000))
    ]
    source = Replay([[host.at(1, 0, 0, peers=peers), *steps]])

    (line,) = lines_of(source, host)
    berlin, paris = of(line, BERLIN), of(line, PARIS)
    assert (berlin["handshake_latency_ns"], berlin["role"]) == (23_000_000, "responder")
    assert berlin["latest_handshake"] == "2026-11-22T12:04:11.203000417Z"
    assert (paris["handshake_latency_ns"], paris["role"]) == (None, None)
    assert paris["latest_handshake"] == "2026-11-22T12:03:11.203000417Z"


SEEN = replace(attached_probe(1), gives=("sessions",))


def counting(host: Host, *polls: list[tuple[bytes, bytes]]) -> Replay:
    """A source whose map `sessions` has these entries, one second after the other."""
    source = Replay([], probes=(SEEN,))
    source.maps["sessions"] = {}

    def second(number: int, entries: list[tuple[bytes, bytes]]) -> Callable[[], None]:
        def change() -> None:
            host.at(number, 0, 0)()  # type: ignore[attr-defined]
            source.maps["sessions"].update(entries)

        return change

    source.polls = [[second(at + 1, entries)] for at, entries in enumerate(polls)]
    return source


def test_what_is_lost_on_the_way_is_told_of_each_session() -> None:
    """And summed for the peer, over a rekey; a peer that nothing came from has nothing."""
    host = Clock(state=state(0, (0, 0)))
    old = session_entry(BERLIN, 1, next=1000, received=930, late=23, born_ns=BOOT_NS, index=5)
    new = session_entry(BERLIN, 2, next=100, received=93, duplicates=3, born_ns=BOOT_NS, is_initiator=1)
    first, second = lines_of(counting(host, [old], [new]), host)

    none = dict.fromkeys(("received", "lost", "late", "duplicates", "too_old", "unread"), 0)
    assert of(first, BERLIN)["arrivals"] == {**none, "received": 930, "lost": 70, "late": 23}
    assert of(second, BERLIN)["arrivals"] == {
        "received": 1023,
        "lost": 77,
        "late": 23,
        "duplicates": 3,
        "too_old": 0,
        "unread": 0,
    }
    sessions = of(second, BERLIN)["sessions"]
    assert [(s["role"], s["lost"], s["age_s"]) for s in sessions] == [
        ("initiator", 7, 2),
        ("responder", 70, 2),
    ]
    assert (of(second, PARIS)["arrivals"], of(second, PARIS)["sessions"]) == (none, [])


def test_sessions_that_are_over_leave_the_kernel_and_not_the_sum() -> None:
    """Three can be alive; an older one goes once nothing came by it since the last time."""
    host = Clock(state=state(0, (0, 0)))
    entries = [session_entry(BERLIN, number, next=100, received=93) for number in range(1, 8)]
    more = session_entry(BERLIN, 1, next=101, received=94)
    source = counting(host, entries[:3], [*entries[3:], more], [], [])
    lines = lines_of(source, host)

    assert sorted(source.maps["sessions"]) == sorted(key for key, _value in entries[4:])
    assert [of(line, BERLIN)["arrivals"]["lost"] for line in lines] == [21, 49, 49, 49]
    assert [len(of(line, BERLIN)["sessions"]) for line in lines] == [3, 3, 3, 3]


def test_sessions_of_a_peer_that_is_gone_are_forgotten() -> None:
    """In the kernel, too."""
    host = Clock(state=state(0, (0, 0)))
    source = counting(host, [session_entry("A" * 43 + "=", 1, next=9)])
    lines_of(source, host)

    assert source.maps["sessions"] == {}


@pytest.mark.parametrize(
    ("received", "full", "seconds", "slugs"),
    [
        ([7, 7, 7, 7], [100, 200, 300, 400], 3, ["receive-stalled"]),
        ([7, 8, 9, 10], [100, 200, 300, 400], 2, ["queue-full"]),  # it is slow, and goes on
        ([7, 7, 7, 7], [100, 200, 300, 400], 1, ["queue-full"]),  # a burst
        ([7, 7, 7, 7], [0, 0, 400, 400], 20, ["queue-full"]),  # a burst after a long silence
    ],
)
def test_a_receive_queue_that_nothing_comes_out_of(
    received: list[int], full: list[int], seconds: int, slugs: list[str]
) -> None:
    """Full, and full again after seconds, and not one counter accepted in between."""
    host = Clock(state=state(0, (0, 0)))
    source = Replay([], probes=(SEEN,))

    def frame_of(number: int) -> Callable[[], None]:
        def change() -> None:
            host.at((number + 1) * seconds, 0, 0)()
            source.maps["sessions"] = dict(
                [session_entry(BERLIN, 1, next=received[number], received=received[number])]
            )
            source.sums = {total_of(Reason.RX_QUEUE_FULL, BERLIN): full[number]}

        return change

    source.polls = [[frame_of(number)] for number in range(4)]
    out = io.StringIO()
    _run(source, host, JsonLinesSink(out))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    found = [line for line in lines if line["type"] == "finding"]
    assert [line["slug"] for line in found] == slugs
    assert found[0]["count"] == 400
    if slugs == ["receive-stalled"]:
        assert "for 6 s its receive queue was full" in found[0]["cause"]


def test_how_long_packets_took() -> None:
    """Of each direction, for this interval: as `latency` has it."""
    host = Clock(state=state(0, (0, 0)))
    group = Group(Direction.TX, "wg0", NETNS, BERLIN)
    through = [[LatencyRow(group, {Stage.QUEUE: histogram(1), Stage.TOTAL: histogram(7, 23)})], []]
    out = io.StringIO()
    source = Replay([[host.at(1, 0, 0)], [host.at(2, 0, 0)]])
    run = TopRun(source, host, [JsonLinesSink(out)], Filter(), 1.0, latencies=lambda: through.pop(0))
    run.start()
    with Signals() as signals:
        run.run(Limits(), signals)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    first, second = (line for line in lines if line["type"] == "top")
    jsonschema.validate(first, SCHEMA, cls=jsonschema.Draft202012Validator)

    assert of(first, BERLIN)["latency"] == {"tx": {"count": 2, "max": 23, "p50": 7, "p90": 23, "p99": 23}}
    assert of(first, PARIS)["latency"] == of(second, BERLIN)["latency"] == {}


def test_what_waits_is_of_this_frame() -> None:
    """What was noted for an earlier one is of a peer that is there no more, and leaves the kernel."""
    host = Clock(state=state(0, (0, 0)))
    fresh, old = queues_entry(BERLIN, BOOT_NS + 1, 23, 7, 5), queues_entry(PARIS, BOOT_NS - 1, 1, 1, 1)
    source = Replay([[host.at(1, 0, 0)]], maps={"queues": dict([fresh, old])})

    (line,) = lines_of(source, host)
    assert of(line, BERLIN)["waiting"] == {"staged": 23, "outgoing": 7, "incoming": 5}
    assert of(line, PARIS)["waiting"] is None
    assert list(source.maps["queues"]) == [fresh[0]]


def test_what_is_not_seen_is_not_told() -> None:
    """Without the probe nobody knows what came."""
    host = Clock(state=state(0, (0, 0)))
    missing = Replay([[host.at(1, 0, 0)]], probes=(replace(SEEN, mechanism=None),))

    (line,) = lines_of(missing, host)
    assert of(line, BERLIN)["arrivals"] is None


@pytest.mark.parametrize(
    ("arrivals", "text"),
    [
        (None, "-"),
        (Arrivals(), "-"),
        (Arrivals(23), "0"),
        (Arrivals(99_999, 1), "<0.1%"),
        (Arrivals(77, 23), "23.0%"),
        (Arrivals(0, 7), "100%"),
    ],
)
def test_loss_in_words(arrivals: Arrivals | None, text: str) -> None:
    """No more than five characters, and never 0 where something was lost."""
    assert percent(arrivals) == text


def test_only_the_peers_that_were_asked_for() -> None:
    """--peer."""
    host = Clock(state=state(0, (0, 0)))

    (line,) = lines_of(Replay([[host.at(1, 1, 1)]]), host, peers=frozenset({PARIS}))
    assert [row["peer"]["public_key"] for row in line["peers"]] == [PARIS]


# -- how it is shown -----------------------------------------------------------


def row(number: int, **more: Any) -> TopRow:
    """A peer with an endpoint that is as long as they get in IPv4."""
    given: dict[str, Any] = {"handshake_ns": NOW - 42 * SECOND, "latency_ns": 105_000_000, **more}
    given.setdefault("peer", PeerRef(BERLIN, PEERS[0].endpoint, f"peer-{number}"))
    return TopRow("wg0", 1, None, **given)


def frame(*rows: TopRow) -> TopFrame:
    """At NOW."""
    return TopFrame(NOW, 1.0, 7.0, rows)


def test_a_frame_fits_80_by_24() -> None:
    """200 peers on the smallest terminal: no line is wider, none too many, and it says how many are left."""
    rows = [
        row(
            n,
            rx_rate=1e11,
            tx_rate=999_499,
            drops=((Reason.BAD_HEADER, 123_456),),
            new_drops=1,
            arrivals=Arrivals(1000, 300),
        )
        for n in range(200)
    ]
    lines = [line for line, _style in frame_lines(frame(*rows), 80, 24)]

    assert len(lines) == 23  # and one for the keys
    assert max(map(len, lines)) <= 80
    assert "200 peers, 180 rows more, by interface" in lines[0]
    assert lines[1].split() == ["PEER", "ENDPOINT", "IN", "OUT", "LOSS", "DROPS", "HANDSHAKE", "TOOK"]
    assert lines[2].split()[1:] == [
        *("203.0.113.9:51820", "100.0", "GB", "999.5", "kB", "23.1%", "123456", "42", "s", "ago"),
        *("105", "ms"),
    ]
    assert lines[-1] == "drops: bad_header 24691200"


def test_what_is_not_known_is_a_dash() -> None:
    """No endpoint, no handshake, no latency; a row of nobody has drops only."""
    never = TopRow("wg0", 1, None, PeerRef(OSLO))
    nobody = TopRow("wg0", 1, None, None, drops=((Reason.INVALID_MAC1, 7),))
    lines = [line for line, _style in frame_lines(frame(never, nobody), 80)]

    assert lines[2].split()[1:] == ["-", "0", "B", "0", "B", "-", "0", "never", "-"]
    assert lines[3].split() == ["?", "7"]
    assert "1 peer, by interface" in lines[0]


@pytest.mark.parametrize(
    ("order", "first"),
    [("interface", "peer-1"), ("in", "peer-2"), ("out", "peer-3"), ("drops", "peer-4"), ("loss", "peer-6")],
)
def test_rows_are_sorted(order: str, first: str) -> None:
    """By what was asked for, the most first."""
    rows = [
        row(1),
        row(2, rx_rate=7),
        row(3, tx_rate=7),
        row(4, drops=((Reason.BAD_HEADER, 2),), new_drops=2),
        row(5, drops=((Reason.BAD_HEADER, 9),)),
        row(6, arrivals=Arrivals(99, 1)),
    ]
    lines = [line for line, _style in frame_lines(frame(*rows), 80, None, order)]

    assert lines[2].startswith(first)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0 B"),
        (999.4, "999 B"),
        (999.5, "1.0 kB"),
        (12_345, "12.3 kB"),
        (5e6, "5.0 MB"),
        (2e12, "2000.0 GB"),
    ],
)
def test_rates_in_words(rate: float, text: str) -> None:
    """Never more than three digits before the point, but for what no link carries."""
    assert bytes_rate(rate) == text


def test_a_name_moves_no_cursor() -> None:
    """Names come from files."""
    evil = replace(row(1), peer=PeerRef(BERLIN, None, "\x1b[2Jevil"))
    out = console(80)
    TopTableSink(out).frame(frame(evil))

    assert "\x1b" not in written(out)
    assert "evil" in written(out)


class Terminal:
    """A pseudo-terminal of 80 by 24 with the live view on it."""

    def __init__(self) -> None:
        self.person, self.keys = pty.openpty()
        self.before = termios.tcgetattr(self.keys)
        self.out = io.StringIO()
        self.sink = LiveTopSink(Console(file=self.out, force_terminal=True, width=80, height=24), self.keys)

    def press(self, key: bytes) -> bool:
        """Press a key; gives whether that was the end."""
        os.write(self.person, key)
        assert select.select([self.keys], [], [], 60)[0]
        return self.sink.is_over

    def drawn(self) -> str:
        """What was drawn since the last call."""
        text = self.out.getvalue()
        self.out.truncate(0)
        self.out.seek(0)
        return text

    def close(self) -> None:
        """Give it back."""
        self.sink.close()
        os.close(self.person)
        os.close(self.keys)


@pytest.fixture
def terminal() -> Any:
    """A terminal, given back in the end."""
    made = Terminal()
    yield made
    made.close()


def test_keys(terminal: Terminal) -> None:
    """S goes through all orders and begins anew, p holds the picture, q ends; the terminal is as before."""
    sink = terminal.sink
    sink.start(run_start())
    sink.frame(frame(row(1), row(2, rx_rate=5)))
    assert "by interface" in terminal.drawn()
    for order in [*list(ORDERS)[1:], "interface"]:
        assert not terminal.press(b"s")
        assert f"by {order}" in terminal.drawn()

    assert not terminal.press(b"p")
    assert "paused" in terminal.drawn()
    sink.frame(frame(row(3)))
    assert "peer-3" not in terminal.drawn()
    assert not terminal.press(b"p")
    sink.frame(frame(row(3)))
    assert "peer-3" in terminal.drawn()

    assert terminal.press(b"q")
    sink.close()
    assert termios.tcgetattr(terminal.keys) == terminal.before
    assert "\x1b[?1049l" in terminal.out.getvalue()  # the screen that was there before


def test_one_peer_is_opened(terminal: Terminal) -> None:
    """Down chooses, Enter opens, what comes is drawn there, Esc goes back."""
    sink = terminal.sink
    sink.start(run_start())
    keys = [row(number, peer=PeerRef(key, None, f"peer-{number}")) for number, key in enumerate(KEYS)]
    sink.frame(frame(*keys))
    terminal.press(b"\r")  # none is chosen yet
    assert "by interface" in terminal.drawn()
    for arrow in (b"\x1b[B", b"\x1b[B", b"\x1b[B", b"\x1b[A"):
        terminal.press(arrow)
    terminal.drawn()
    terminal.press(b"\r")
    drawn = terminal.drawn()
    assert "peer-1" in drawn
    assert "peer-2" not in drawn
    sink.frame(frame(*keys[:1], replace(keys[1], rx_bytes=23_023)))
    assert "23,023 bytes" in terminal.drawn()
    terminal.press(b"\x1b")
    assert "by interface" in terminal.drawn()


def test_peers_are_filtered(terminal: Terminal) -> None:
    """By a part of what they are called; q and s are letters then."""
    sink = terminal.sink
    sink.start(run_start())
    sink.frame(frame(row(1, peer=PeerRef(BERLIN, None, "squid")), row(2, peer=PeerRef(PARIS, None, "paris"))))
    for key in (b"/", b"S", b"q", b"x", b"\x7f"):
        assert not terminal.press(key)
    drawn = terminal.drawn().rpartition("1 peer, by interface; with 'sq'")[2]
    assert "squid" in drawn
    assert "paris" not in drawn
    terminal.press(b"\n")
    terminal.press(b"s")
    assert "1 peer, by in; with 'sq'" in terminal.drawn()
    terminal.press(b"\x1b")
    assert "paris" in terminal.drawn()


def test_a_chosen_row_is_always_seen() -> None:
    """Of 200, the last."""
    rows = [row(number) for number in range(200)]
    lines = frame_lines(frame(*rows), 80, 24, "interface", "", 199)

    assert len(lines) == 23
    assert [style for _line, style in lines].index("reverse") == 21


def test_a_peer_is_told_whole() -> None:
    """In 80 by 24: each session, drops, and as many of the last steps as there is room for."""
    steps = tuple(SeenStep(NOW, "wg0", 1, "retry", f"step number {n} {'x' * 90}") for n in range(16))
    of_it = (
        Session(2, "wg0", 1, BERLIN, 0xABCD, BOOT_NS - 42 * SECOND, True, True, Arrivals(930, 70, 23, 3, 5)),
        Session(1, "wg0", 1, BERLIN, 0xAB, BOOT_NS - 119 * SECOND, False, True, Arrivals(7)),
    )
    drops = ((Reason.DECRYPT_FAILED, 5), (Reason.SRC_NOT_ALLOWED, 2))
    more = {"drops": drops, "arrivals": Arrivals(937, 70), "sessions": of_it, "steps": steps}
    of = row(1, role="initiator", **more)
    lines = [line for line, _s in peer_lines(replace(frame(of), boot_ns=BOOT_NS), of, 80, 24)]

    assert len(lines) == 23
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "0000abcd   42 s old, begun by this side: 930 came, 70 lost (7.0%), 23 late" in text
    assert "000000ab   119 s old, begun by the peer: 7 came, 0 lost (0), 0 late, 0 doubled" in text
    assert "drops      decrypt_failed 5, src_not_allowed 2" in text
    assert "handshake  42 s ago, took 105 ms, this side is the initiator" in text
    assert lines[-1].startswith("12:04:11.203  step number 15")


def test_q_ends_the_run(terminal: Terminal) -> None:
    """As a signal would: with the last frame and the findings on the terminal that was there before."""
    host = Clock(state=state(0, (0, 0)))

    def press_q() -> None:
        os.write(terminal.person, b"q")
        assert select.select([terminal.keys], [], [], 60)[0]

    source = Replay([[host.at(1, 23_000, 0)], [press_q], [host.at(2, 0, 0)]])

    _run(source, host, terminal.sink)
    after = terminal.out.getvalue().rpartition("\x1b[?1049l")[2]
    assert "berlin" in after
    assert "23.0 kB" in after
