# SPDX-License-Identifier: GPL-2.0-only
"""recording: what was recorded is told again exactly as it was told live."""

from __future__ import annotations

import base64
import contextlib
import signal
import stat
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from factories import BERLIN, OSLO, PARIS, device, missing_probe, peer, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import FACTS, KERNEL, live, of, record, replayed
from stand_ins import BAD, CONFIG, FROM_NOBODY, Host, Replay, Step, drop, step, total_of

from wgtrace.errors import UnsupportedError
from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Direction, HandshakeCode, Reason
from wgtrace.events.types import Counters
from wgtrace.events.wire import EventKind, Loss
from wgtrace.recording import recorder
from wgtrace.recording.format import Block, Kind
from wgtrace.recording.reader import opened
from wgtrace.recording.replay import Recording
from wgtrace.state.types import Device, Snapshot


def wg0(name: str | None = "berlin", **counters: int) -> Device:
    """The interface wg0, berlin being called by another name or none."""
    return device(
        peers=(peer(BERLIN, name, "10.9.0.2/32"), peer(PARIS, "paris", at="[2001:db8::3]:4500")),
        counters=counters,
    )


def blocks(path: Path) -> list[Block]:
    """All blocks of a recording, none of which is damaged."""
    with contextlib.closing(opened(path)) as file:
        read = list(file.blocks())
    assert all(isinstance(block, Block) for block in read)
    return [block for block in read if isinstance(block, Block)]


def a_run() -> tuple[Replay, Host]:
    """A run with some of everything: two interfaces, a change, a flood, losses, counters that move."""
    host = Host(snapshot(wg0("old", rx_errors=2, rx_frame_errors=2)))
    sums = {total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32): 2}
    unsent = drop(Reason.NO_ROUTE_TO_ENDPOINT, PARIS, message_type=1, err=-101)
    source = Replay([], sums, probes=(missing_probe("no_endpoint"),))

    def more() -> None:
        sums[total_of(Reason.SRC_NOT_ALLOWED, BERLIN, 32)] += 2
        sums[total_of(Reason.BAD_HEADER, sub=3)] = 23
        sums[total_of(HandshakeCode.INIT_SENT, OSLO)] = 5
        source.counted = Counters({**dict.fromkeys(Loss, 0), Loss.LOST_EVENTS: 5}, {Reason.BAD_HEADER: 11}, 7)

    changed = wg0("new", rx_errors=4, rx_frame_errors=4)
    source.polls = [
        [FROM_NOBODY, host.set(changed), CONFIG, CONFIG, FROM_NOBODY],
        [BAD] * 23,
        [b"", b"\xff" * 328, BAD[:-1]],
        [step(HandshakeCode.INIT_SENT, OSLO)] * 5,
        [drop(Reason.NO_ENDPOINT, OSLO, ifname="wg7")] * 3,
        [unsent] * 2,
        [more, CONFIG],
    ]
    return source, host


def test_a_replay_tells_what_was_told_live(tmp_path: Path) -> None:
    """Each line of a run, from the start to the summary, comes again from its recording."""
    record(a_run, tmp_path / "a.rec")

    told = replayed(tmp_path / "a.rec")

    assert told == live(a_run)
    assert len(of(told, "drop")) == 30
    assert [line["peer"]["name"] for line in of(told, "drop")[:2]] == ["old", "new"]
    assert told[-1]["lost"]["undecodable"] == 3
    assert of(told, "finding")


STATES = [snapshot(wg0("old")), snapshot(wg0("new", rx_errors=3)), snapshot(), snapshot(device("wg7"))]
OF_WG7, OF_PARIS = drop(Reason.BAD_HEADER, ifname="wg7"), drop(Reason.NO_ENDPOINT, PARIS)
EVENTS = st.sampled_from(
    [BAD, FROM_NOBODY, OF_WG7, OF_PARIS, step(HandshakeCode.INIT_SENT, OSLO), CONFIG, CONFIG, b"", b"\x01"]
)
ACTIONS = st.lists(st.one_of(EVENTS, st.sampled_from(range(len(STATES))), st.just("total")), max_size=6)


@pytest.mark.parametrize("every_s", [0.0, 60.0])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
@given(polls=st.lists(ACTIONS, max_size=6))  # type: ignore[untyped-decorator]  # mypy does not read hypothesis
def test_any_run_is_told_again(
    polls: list[list[bytes | int | str]],
    every_s: float,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever comes in whatever order and however it is cut into blocks, a replay tells it as it was."""
    for name in ("FLUSH_S", "CLOCK_S", "CHECKPOINT_S"):
        monkeypatch.setattr(recorder, name, every_s)

    def script() -> tuple[Replay, Host]:
        host, sums = Host(STATES[0]), {total_of(Reason.BAD_HEADER, sub=3): 1}

        def use(state: Snapshot) -> Callable[[], None]:
            return lambda: setattr(host, "state", state)

        def count() -> None:
            sums[total_of(Reason.BAD_HEADER, sub=3)] += 7

        def made(action: bytes | int | str) -> Step:
            return count if action == "total" else use(STATES[action]) if isinstance(action, int) else action  # type: ignore[return-value]  # bytes

        return Replay([[made(action) for action in poll] for poll in polls], sums), host

    path = tmp_path_factory.mktemp("run") / "any.rec"
    record(script, path)

    assert replayed(path) == live(script)


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(peers=frozenset({BERLIN})),
        Filter(directions=frozenset({Direction.TX})),
        Filter(reasons=frozenset({Reason.BAD_HEADER})),
    ],
)
def test_a_filter_chooses_of_a_recording_as_of_a_live_run(wanted: Filter, tmp_path: Path) -> None:
    """A recording keeps everything; what of it to show is asked when it is shown."""
    record(a_run, tmp_path / "a.rec")

    assert replayed(tmp_path / "a.rec", wanted=wanted) == live(a_run, wanted)


def test_what_rules_ask_the_host_for_is_kept(tmp_path: Path) -> None:
    """Claims of configuration files and ways to endpoints are answered as they were then."""
    record(a_run, tmp_path / "a.rec")

    with contextlib.closing(Recording([tmp_path / "a.rec"])) as recording:
        while recording.records(0) is not None:
            pass
        asked = recording.asked
        way = asked.way(device(), ip_address("2001:db8::3"), ())
        assert asked.claims() == FACTS.claims()
        assert way == FACTS.way(device(), ip_address("2001:db8::3"), ())
        assert asked.way(device(), ip_address("203.0.113.9"), ()) is None  # nobody asked


def test_records_are_kept_as_they_came(tmp_path: Path) -> None:
    """Byte for byte, also of kinds that this wgtrace does not know."""
    later = b"\x07" * 12 + b"\x63\x00" + b"\x28\x00" + bytes(range(24))
    record(lambda: (Replay([[BAD, later], [b"", FROM_NOBODY]]), Host()), tmp_path / "a.rec")

    with contextlib.closing(Recording([tmp_path / "a.rec"])) as recording:
        assert recording.records(0) == [BAD, later, b"", FROM_NOBODY]
        assert recording.records(0) is None


def test_only_root_may_read_it(tmp_path: Path) -> None:
    """A recording holds addresses: whatever the umask, nobody else may read it."""
    record(a_run, tmp_path / "a.rec")

    assert stat.S_IMODE((tmp_path / "a.rec").stat().st_mode) == 0o600


def test_facts_are_kept(tmp_path: Path) -> None:
    """Kernel, build, command, names of drop reasons and the functions of WireGuard go with it."""
    record(a_run, tmp_path / "a.rec")

    with contextlib.closing(Recording([tmp_path / "a.rec"])) as recording:
        facts = recording.facts

    assert (facts.kernel, facts.version, facts.bcc) == (KERNEL, "0.1.0", "0.31.0")
    assert facts.command == ("record", "-o", "a.rec")
    assert facts.kernel_reasons == {2: "NOT_SPECIFIED"}
    assert [symbol.name for symbol in facts.symbols] == ["wg_packet_rx_poll"]
    assert facts.probes == (missing_probe("no_endpoint"),)
    assert (facts.abi, facts.sizes[EventKind.DROP]) == (1, len(BAD))
    assert 0 <= facts.clock.within_ns < 1_000_000_000


def test_a_run_that_goes_blind_says_so(tmp_path: Path) -> None:
    """If the module is unloaded, what was seen until then is kept, and the replay says why it ends."""

    def script() -> tuple[Replay, Host]:
        def unload() -> None:
            raise UnsupportedError("the wireguard module was unloaded")

        return Replay([[BAD] * 5, [unload]]), Host()

    with pytest.raises(UnsupportedError):
        record(script, tmp_path / "a.rec")

    told = replayed(tmp_path / "a.rec")
    assert len(of(told, "drop")) == 5
    assert told[-1]["incomplete_because"] == ["the wireguard module was unloaded"]


def test_records_are_in_the_file_within_a_second(tmp_path: Path) -> None:
    """What came is in the file at the next poll after FLUSH_S, while the run goes on."""
    path = tmp_path / "a.rec"
    seen: list[int] = []

    def look() -> None:
        seen.append(sum(len(block.body) for block in blocks(path) if block.kind == Kind.RECORDS))

    polls: list[list[Step]] = [[BAD], [lambda: signal.sigtimedwait([], recorder.FLUSH_S) and None], [look]]
    record(lambda: (Replay(polls), Host()), path)

    assert seen == [4 + len(BAD)]


def test_sigusr1_writes_down_all_that_is_known(tmp_path: Path) -> None:
    """After it records, totals and configuration are in the file though the run goes on."""
    path = tmp_path / "a.rec"
    kinds: list[int] = []
    sums = {total_of(Reason.BAD_HEADER, sub=3): 1}

    def ask() -> None:
        sums[total_of(Reason.BAD_HEADER, sub=3)] = 2
        signal.raise_signal(signal.SIGUSR1)

    def look() -> None:
        kinds.extend(block.kind for block in blocks(path))

    record(lambda: (Replay([[ask, BAD], [look]], sums), Host()), path)

    known = [Kind.ASKED, Kind.STATE, Kind.TOTALS, Kind.COUNTERS]
    assert kinds == [Kind.FACTS, *known, Kind.RECORDS, *known, Kind.CLOCK]


def test_no_secret_has_a_place(tmp_path: Path) -> None:
    """Of a preshared key a recording has that there is one; a private key is nowhere in its types."""
    state = snapshot(device(peers=(peer(BERLIN, "berlin", "10.9.0.2/32", has_preshared_key=True),)))
    record(lambda: (Replay([[FROM_NOBODY]]), Host(state)), tmp_path / "a.rec")

    held = b"".join(block.body for block in blocks(tmp_path / "a.rec"))

    assert base64.b64decode(BERLIN) in held  # the event
    assert BERLIN.encode() in held  # the configuration
    assert b'"has_preshared_key":true' in held
    assert b"private" not in held
