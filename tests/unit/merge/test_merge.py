# SPDX-License-Identifier: GPL-2.0-only
"""Recordings of both ends, made in the lab, put together; then with clocks that are apart.

data/nat-*.rec: a behind a masquerading router that dropped 70 of a's data messages (nft's own
count) and none of b's; every data message was recorded. data/filter-*.rec: the router dropped
7 % of a's data, then b's responses, then a's initiations as well; one message in 4 was
recorded at a, one in 6 at b. Both ends ran on one kernel, so their clocks are the same one.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from wgtrace.events.decode import kind_of
from wgtrace.events.wire import EventKind, HandshakeEventWire, PacketEventWire
from wgtrace.merge.ends import ends
from wgtrace.merge.findings import SLUGS, findings
from wgtrace.merge.tunnel import Tunnel, tunnels
from wgtrace.outputs.jsonl import json_schema
from wgtrace.recording import bodies
from wgtrace.recording.facts import Facts
from wgtrace.recording.format import Block, Kind, file_header, packed
from wgtrace.recording.plain import dumped, loaded
from wgtrace.recording.reader import opened
from wgtrace.state.clock import Anchor

DATA = Path(__file__).parent / "data"
NAT, FILTER = ([DATA / f"{name}-{end}.rec" for end in "ab"] for name in ("nat", "filter"))
DROPPED = 70
HOUR_NS = 3_600_000_000_000
MESSAGE_AT: int = getattr(HandshakeEventWire, "message_ns").offset  # noqa: B009  # mypy takes it for the value


def rewritten(
    path: Path, to: Path, clock: Callable[[int], int] = int, keep: Callable[[bytes], bool] = lambda _: True
) -> Path:
    """A recording as it were if the host's clock of events had shown `clock` of what it showed."""
    file = opened(path)
    parts = [file_header()]
    for block in file.blocks():
        assert isinstance(block, Block)
        body = block.body
        if block.kind == Kind.FACTS:
            facts = loaded(Facts, body)
            body = dumped(replace(facts, clock=_set(facts.clock, clock)))
        elif block.kind == Kind.CLOCK:
            body = dumped(_set(loaded(Anchor, body), clock))
        elif block.kind == Kind.RECORDS:
            body = bodies.records_body(_at(r, clock) for r in bodies.records(body) if keep(r))
        parts.append(packed(replace(block, ts_ns=clock(block.ts_ns), body=body)))
    file.close()
    to.write_bytes(b"".join(parts))
    return to


def _set(anchor: Anchor, clock: Callable[[int], int]) -> Anchor:
    return replace(anchor, boottime_ns=clock(anchor.boottime_ns))


def _at(record: bytes, clock: Callable[[int], int]) -> bytes:
    (ts_ns,) = struct.unpack_from("=Q", record)
    record = struct.pack("=Q", clock(ts_ns)) + record[8:]
    if kind_of(record) == EventKind.HANDSHAKE:
        (message_ns,) = struct.unpack_from("=Q", record, MESSAGE_AT)
        if message_ns:
            record = record[:MESSAGE_AT] + struct.pack("=Q", clock(message_ns)) + record[MESSAGE_AT + 8 :]
    return record


def only(*paths: Path) -> Tunnel:
    """The one tunnel between two recordings."""
    (tunnel,) = tunnels(ends(paths))
    return tunnel


def slugs(tunnel: Tunnel) -> list[str]:
    """What is proved."""
    return [finding.slug for finding in findings(tunnel)]


def merge(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `wgtrace merge`."""
    command = [sys.executable, "-m", "wgtrace", "merge", *map(str, arguments)]
    env = {**os.environ, "COLUMNS": "100", "TZ": "UTC"}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


@pytest.mark.parametrize(
    ("ahead_ns", "ppm"), [(0, 0), (HOUR_NS, 200), (-HOUR_NS, -200), (12_345_678, 37), (100 * 24 * HOUR_NS, 0)]
)
def test_clocks_that_are_apart(ahead_ns: int, ppm: int, tmp_path: Path) -> None:
    """An hour and 200 ppm: offset and drift within what is stated, every message matched, the same loss."""
    later = rewritten(NAT[0], tmp_path / "nat-a.rec", lambda ns: ns + 9 * HOUR_NS)  # booted long ago
    base = ends([later, NAT[1]])[0].begin_ns

    def clock(ns: int) -> int:
        return ns + ahead_ns + (ns - base) * ppm // 1_000_000

    skewed = rewritten(NAT[1], tmp_path / "nat-b.rec", lambda ns: clock(ns + 9 * HOUR_NS))
    tunnel = only(later, skewed)
    lead = tunnel.lead

    assert tunnel.is_measured
    assert lead.worst_ns is not None
    assert lead.drift_within_ppm is not None
    for at in range(lead.begin_ns, lead.end_ns, (lead.end_ns - lead.begin_ns) // 23):
        assert abs(lead.at(at) - (clock(at) - at)) <= lead.worst_ns
    assert lead.worst_ns < 1_000_000
    assert abs(lead.drift_ppm - ppm) <= lead.drift_within_ppm < 30
    there, back = tunnel.ways
    assert [(len(way.lost), way.loss) for way in tunnel.ways] == [
        (DROPPED, (DROPPED / len(there.data),) * 3),
        (0, (0, 0, 0)),
    ]
    assert len(there.initiations) == len(back.responses) == 7
    assert all(m.arrived_ns is not None for m in (*there.initiations, *back.responses))
    assert slugs(tunnel) == ["one-way-loss", "nat-in-path"]
    assert all(-lead.worst_ns <= delay < 1_000_000_000 for way in tunnel.ways for delay in way.delays_ns)


def test_the_other_way_round() -> None:
    """Which file comes first makes no difference but to who is ahead of whom."""
    one, other = only(*NAT), only(*reversed(NAT))

    assert [len(way.lost) for way in other.ways] == [0, DROPPED]
    assert slugs(other) == slugs(one)
    assert abs(one.lead.lead_ns + other.lead.lead_ns) <= (one.lead.worst_ns or 0) + (other.lead.worst_ns or 0)


def test_what_is_in_the_way_is_told_by_its_addresses() -> None:
    """a sends from its own address; b sees the router's."""
    (nat,) = (f for f in findings(only(*NAT)) if f.slug == "nat-in-path")

    assert nat.cause.startswith("nat-a sends from 10.1.0.2:1111, and nat-b sees 10.2.0.1:1111")


def test_a_sample_says_how_sure_it_is() -> None:
    """7 % were dropped; of the messages that both ends took it is told within a bound that holds 7 %."""
    there, back = only(*FILTER).ways
    assert there.one_in == back.one_in == 12
    assert {message.nonce % 12 for message in there.data} == {0}
    assert there.loss
    share, least, most = there.loss

    assert least <= 0.07 <= most
    assert least < share < most < 0.2


def test_handshakes_that_die_in_between() -> None:
    """First the responses were dropped, then the initiations too: both are proved, and which way."""
    tunnel = only(*FILTER)
    filtered, lost, loss = findings(tunnel)

    assert (filtered.slug, filtered.count) == ("handshake-filtered-in-path", 2)
    assert filtered.cause.startswith(
        "filter-a asks for a session, and what it sends does not reach WireGuard at filter-b"
    )
    assert (lost.slug, lost.count) == ("response-lost", 3)
    assert lost.cause.startswith("filter-a's initiations reach filter-b, which answers")
    assert loss.slug == "path-loss"
    assert {finding.confidence.value for finding in (filtered, lost, loss)} == {"certain"}


def test_without_samples_handshakes_are_enough(tmp_path: Path) -> None:
    """A plain `record` has no data messages: clocks and handshakes are told, loss is not."""
    plain = [
        rewritten(path, tmp_path / path.name, keep=lambda r: kind_of(r) != EventKind.PACKET) for path in NAT
    ]
    tunnel = only(*plain)

    assert tunnel.is_measured
    assert abs(tunnel.lead.lead_ns) <= (tunnel.lead.worst_ns or 0)
    assert [way.loss for way in tunnel.ways] == [None, None]
    assert len(tunnel.ways[0].initiations) == 7


def test_a_message_that_left_before_its_time_is_known_bounds_no_clock(tmp_path: Path) -> None:
    """Recordings from before `message_ns`: handshakes still match, the wall clocks have to do."""

    def old(record: bytes) -> bool:
        return kind_of(record) != EventKind.PACKET

    def without_time(path: Path) -> Path:
        there = rewritten(path, tmp_path / f"old-{path.name}", keep=old)
        file = opened(there)
        blocks = [block for block in file.blocks() if isinstance(block, Block)]
        file.close()
        parts = [file_header()]
        for block in blocks:
            body = block.body
            if block.kind == Kind.RECORDS:
                zero = bytes(8)
                body = bodies.records_body(
                    r[:MESSAGE_AT] + zero + r[MESSAGE_AT + 8 :] if kind_of(r) == EventKind.HANDSHAKE else r
                    for r in bodies.records(body)
                )
            parts.append(packed(replace(block, body=body)))
        there.write_bytes(b"".join(parts))
        return there

    tunnel = only(*map(without_time, NAT))

    assert not tunnel.is_measured
    assert len(tunnel.ways[0].initiations) == 7
    assert all(m.arrived_ns is not None for m in tunnel.ways[0].initiations)


def test_records_that_are_missing_there_make_loss_less_certain(tmp_path: Path) -> None:
    """A record that found the buffer full looks like a message that did not arrive: 23 of 70 may be that."""
    lost_there = rewritten(NAT[1], tmp_path / "b.rec")
    found = ends([NAT[0], lost_there])
    found[1].lost = 23
    (tunnel,) = tunnels(found)
    there = tunnel.ways[0]

    assert there.loss
    assert there.loss[1] == (DROPPED - 23) / len(there.data)
    assert there.loss[2] == DROPPED / len(there.data)
    assert {f.confidence.value for f in findings(tunnel) if f.slug == "one-way-loss"} == {"likely"}


def test_large_messages_only(tmp_path: Path) -> None:
    """Where all from a size on are lost and all below arrive, it is the size, and no loss."""

    def is_small_or_left(record: bytes) -> bool:
        return kind_of(record) != EventKind.PACKET or _length(record) <= 128

    sized = rewritten(NAT[1], tmp_path / "nat-b.rec", keep=is_small_or_left)
    large, *others = findings(only(NAT[0], sized))

    assert large.slug == "large-packets-lost"
    assert "messages of up to 128 bytes arrive and those from 160 bytes on do not" in large.cause
    assert [finding.slug for finding in others] == ["nat-in-path"]


def _length(record: bytes) -> int:
    return PacketEventWire.from_buffer_copy(record).len


def test_the_text() -> None:
    """What a person reads: clocks with their bound, each way, and what is proved."""
    done = merge(*NAT)

    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert "nat-a: wg0 on Linux 6.12." in text
    assert " 70 lost: 6.4 % " in text
    assert "initiations 7 left, 7 arrived" in text
    assert "then dropped 23 src_not_allowed" in text
    assert "one-way-loss" in text
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_lines() -> None:
    """Each JSON line fits the schema; the numbers are those of the text."""
    done = merge("--json", *NAT)
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]

    assert [line["type"] for line in lines] == ["merge", "merge_finding", "merge_finding"]
    for line in lines:
        jsonschema.validate(line, dict(json_schema()))
    there, back = lines[0]["ways"]
    assert (there["data"]["lost"], there["data"]["loss_at_least"]) == (DROPPED, there["data"]["loss_at_most"])
    assert (back["data"]["lost"], back["data"]["first_lost"]) == (0, None)
    assert there["initiations"] == {"left": 7, "arrived": 7, "refused": 0}
    clock = lines[0]["clock"]
    assert clock["measured"]
    assert abs(clock["boottime_ahead_ns"]) <= clock["within_ns"]


def test_the_exit_code_is_for_scripts() -> None:
    """With --exit-code an error among the findings is status 1; loss and NAT are none."""
    assert merge("--exit-code", *NAT).returncode == 0
    assert merge("--exit-code", *FILTER).returncode == 1


def test_ends_that_have_nothing_to_do_with_each_other() -> None:
    """It is said, and no error."""
    done = merge(NAT[0], FILTER[1])

    assert done.returncode == 0
    assert "No tunnel is in both" in done.stdout


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ([NAT[0]], 2, "these are recordings of one run"),
        ([NAT[0], NAT[0]], 2, "these are recordings of one run"),
        ([NAT[0], Path(__file__)], 2, "is not a recording"),
        ([NAT[0], DATA / "gone.rec"], 2, "cannot read"),
    ],
)
def test_what_cannot_be_merged(files: list[Path], status: int, said: str) -> None:
    """Each error is a sentence, with the exit status that the help promises."""
    done = merge(*files)

    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


def test_each_finding_has_its_place() -> None:
    """No finding is told by a slug that is not in the list, which README has too."""
    told = {slug for pair in (NAT, FILTER) for slug in slugs(only(*pair))}

    assert told <= set(SLUGS)
    schema: Any = json_schema()
    assert schema["$defs"]["merge_finding"]["properties"]["slug"]["enum"] == list(SLUGS)
