# SPDX-License-Identifier: GPL-2.0-only
"""One script, run live, recorded, and replayed."""

from __future__ import annotations

import contextlib
import errno
import io
import json
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from factories import BERLIN
from stand_ins import Host, Replay

from wgtrace.events.flow_filter import Filter
from wgtrace.events.types import IPAddress
from wgtrace.outputs.jsonl import JsonLinesSink
from wgtrace.pipeline import DropsRun, HostFacts, Limits, Signals
from wgtrace.probes.identity import Identity
from wgtrace.probes.kernel import Symbol
from wgtrace.recording.output import Output
from wgtrace.recording.recorder import Kept, Recorder
from wgtrace.recording.replay import Recording
from wgtrace.source import Host as AnyHost
from wgtrace.source import Source
from wgtrace.state.types import Claim, Device, Namespace, Way

Line = dict[str, Any]
Script = Callable[[], tuple[Replay, Host]]

KERNEL = Identity("6.12.117", "#1 SMP", "x86_64")
# `Replay.describe` calls every address an offset in this function.
SYMBOLS = (Symbol("wg_packet_rx_poll", 0, "t"), Symbol("device_list", 0x10, "d"))


def _way(device: Device, endpoint: IPAddress, _namespaces: Iterable[Namespace]) -> Way:
    """The kernel has no route."""
    return Way(endpoint, errno=errno.ENETUNREACH, has_address=True)


FACTS = HostFacts(_way, lambda: (Claim("/etc/wireguard/wg0.conf", BERLIN, ip_network("10.9.4.0/24")),))


def record(
    script: Script,
    path: Path,
    max_bytes: int | None = None,
    keep: int | None = None,
    facts: HostFacts = FACTS,
) -> Kept:
    """Record a script to its end."""
    source, host = script()
    with Signals() as signals, contextlib.closing(Output(path, max_bytes, keep)) as output:
        recorder = Recorder(source, host, output, KERNEL, SYMBOLS, ("record", "-o", path.name), facts)
        recorder.run(Limits(), signals)
    return recorder.kept


def told(source: Source, host: AnyHost, wanted: Filter | None, facts: HostFacts) -> list[Line]:
    """The JSON lines of a run of `drops`, without what depends on when and how fast it was told."""
    out = io.StringIO()
    with Signals() as signals:
        run = DropsRun(source, host, [JsonLinesSink(out)], wanted or Filter(), facts=facts)
        run.start()
        run.run(Limits(), signals)
    lines: list[Line] = [json.loads(line) for line in out.getvalue().splitlines()]
    for line in lines:
        if line["type"] != "drop":
            del line["ts"]
        line.pop("duration_s", None)
    return lines


def live(script: Script, wanted: Filter | None = None) -> list[Line]:
    """What `drops` tells of a script."""
    source, host = script()
    return told(source, host, wanted, FACTS)


def replayed(*paths: Path, wanted: Filter | None = None) -> list[Line]:
    """What `replay` tells of a recording."""
    with contextlib.closing(Recording(paths)) as recording:
        return told(recording, recording, wanted, recording.asked)


def of(lines: Sequence[Line], kind: str) -> list[Line]:
    """The lines of a type."""
    return [line for line in lines if line["type"] == kind]
