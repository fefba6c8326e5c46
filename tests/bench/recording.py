# SPDX-License-Identifier: GPL-2.0-only
"""What a recording costs: bytes for each event, and how fast it is written and told again.

    PYTHONPATH=.:tests/unit .venv/bin/python tests/bench/recording.py [--events N] [--keep FILE]

It needs neither root nor BCC: drop records of 64 peers with all that changes from packet to
packet (time, CPU, counter, addresses, ports, lengths) are made in memory, then recorded to a file
by `Recorder` as `wgtrace record` does it, read back, and told by the pipeline without rows.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType

from factories import NETNS, attached_probe, peer, snapshot
from factories import device as a_device
from records import fill, record
from stand_ins import Host

from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Reason, SubReason
from wgtrace.events.types import Counters
from wgtrace.events.wire import DropEventWire, EventKind, Loss
from wgtrace.outputs.jsonl import JsonLinesSink
from wgtrace.pipeline import DropsRun, Limits, Signals
from wgtrace.probes.identity import identity
from wgtrace.recording.output import Output
from wgtrace.recording.recorder import Recorder
from wgtrace.recording.replay import Recording

BATCH = 1000
PEERS = 64


class _Nowhere(io.StringIO):
    """Takes lines and keeps none."""

    def write(self, text: str) -> int:
        """Nothing."""
        return len(text)


class Flood:
    """A source that has all of its records at once, a thousand a poll."""

    probes = (attached_probe(1),)
    kernel_reasons: Mapping[int, str] = MappingProxyType({2: "NOT_SPECIFIED"})

    def __init__(self, records: list[bytes]) -> None:
        self._batches = iter([records[at : at + BATCH] for at in range(0, len(records), BATCH)])

    def describe(self, address: int) -> str:
        """A place."""
        return hex(address)

    def records(self, timeout_s: float) -> list[bytes] | None:
        """The next thousand, at once."""
        return next(self._batches, None)

    def totals(self) -> list[tuple[bytes, int]]:
        """None: they are not what is measured."""
        return []

    def counters(self) -> Counters:
        """Nothing lost."""
        return Counters(dict.fromkeys(Loss, 0), {}, 0)


def events(count: int, keys: Sequence[bytes]) -> list[bytes]:
    """Drops as a hub sees them from peers with wrong AllowedIPs."""
    wire = DropEventWire.from_buffer_copy(
        record(
            EventKind.DROP,
            reason=Reason.SRC_NOT_ALLOWED,
            sub_reason=SubReason.OWNED_BY_NOBODY,
            device={"ifname": b"wg0", "netns": NETNS, "ifindex": 7},
            peer={"known": 1, "endpoint_family": 4},
            inner={"family": 4, "proto": 6, "dport": 443, "daddr": IPv4Address("10.9.0.1").packed},
            outer={"family": 4, "proto": 17, "dport": 51820, "daddr": IPv4Address("198.51.100.1").packed},
            location=0xFFFFFFFFC0A81234,
            kernel_reason=2,
            message_type=4,
        )
    )
    wire.hdr.kind, wire.hdr.len = EventKind.DROP, len(bytes(wire))
    numbers, made, now = random.Random(23), [], 10**12
    for nonce in range(count):
        of = numbers.randrange(len(keys))
        now += numbers.randrange(1_000_000)
        address = bytes((203, 0, 113, of))
        length = numbers.choice((60, 84, 1420, numbers.randrange(60, 1420)))
        wire.hdr.ts_ns, wire.hdr.cpu = now, numbers.randrange(8)
        wire.peer.public_key[:] = list(keys[of])
        fill(wire, {"peer": {"endpoint_addr": address}, "outer": {"saddr": address}})
        wire.peer.endpoint_port = wire.outer.sport = 40_000 + of
        wire.inner.saddr[:4] = [10, 9, of, numbers.randrange(256)]
        wire.inner.sport, wire.inner.len, wire.outer.len = numbers.randrange(1 << 16), length, length + 60
        wire.nonce, wire.max_nonce, wire.session_age_ns = nonce // PEERS, nonce // PEERS, now - 10**12
        wire.receiver_index = 0x5A5A0000 + of
        made.append(bytes(wire))
    return made


@contextlib.contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    """Print the CPU time that it took, and how many events a second that is."""
    begun = time.process_time()
    yield
    took = time.process_time() - begun
    print(f"{what:<24} {took:7.2f} s  {count / took:>12,.0f} events/s")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="where to leave the recording")
    options = parser.parse_args()
    keys = [random.Random(number).randbytes(32) for number in range(PEERS)]
    made = events(options.events, keys)
    peers = tuple(peer(base64.b64encode(key).decode(), f"peer{number}") for number, key in enumerate(keys))
    state = snapshot(a_device(peers=peers))
    with tempfile.TemporaryDirectory() as directory, Signals() as signals:
        path = options.keep or Path(directory) / "bench.rec"
        with contextlib.closing(Output(path)) as output:
            recorder = Recorder(Flood(made), Host(state), output, identity("wireguard"))
            with timed("record", len(made)):
                recorder.run(Limits(), signals)
        size = path.stat().st_size
        print(f"{size:,} bytes: {size / len(made):.1f} for each event, whose record has {len(made[0])}")
        with contextlib.closing(Recording([path])) as recording, timed("read the records", len(made)):
            found = 0
            while (records := recording.records(0)) is not None:
                found += len(records)
        assert found == len(made)
        for what, rows in (("replay --json --quiet", False), ("replay --json", True)):
            with contextlib.closing(Recording([path])) as recording, timed(what, len(made)):
                run = DropsRun(recording, recording, [JsonLinesSink(_Nowhere(), rows)], Filter())
                run.start()
                run.run(Limits(), signals)


if __name__ == "__main__":
    main()
