# SPDX-License-Identifier: GPL-2.0-only
"""From a recording to the archive's files."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wgtrace.evidence import archive
from wgtrace.evidence.host import host_of
from wgtrace.evidence.redact import redacted
from wgtrace.evidence.report import Context, report, title
from wgtrace.evidence.repro import not_provoked, script
from wgtrace.evidence.seen import Seen, seen
from wgtrace.recording.plain import dumped
from wgtrace.state.types import Device

_FILES = {
    "drops.txt": "the totals and findings, as `wgtrace replay` shows them",
    "events.jsonl": "each drop, the findings and the totals, as JSON lines",
    "timeline.txt": "what happened, in order",
    "state-before.json": "the configuration when the recording began",
    "state-after.json": "the configuration when it ended",
    "facts.json": "kernel, probes, clocks",
    "config.gz": "the kernel's configuration",
    "repro.sh": "a self-checking script",
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """An archive, checked and packed.

    Attributes:
        title: What it is about.
        files: How many files are in it.
    """

    data: bytes
    title: str
    files: int


def bundle(
    paths: Sequence[Path],
    *,
    redact: bool = True,
    root: str = "wgtrace-evidence",
    repro: bytes | None = None,
) -> Bundle:
    """The archive of a recording.

    Args:
        paths: All files of one run.
        redact: With pseudonyms for keys, addresses and names.
        root: Directory in the archive.
        repro: The script that brings it out; None: one is made of the configuration.

    Raises:
        UsageError: One is no recording.
        UnsupportedError: It may not be read, a key of this host is in it, or its keys may not be read.
    """
    with _recording(paths, redact=redact) as (files, left_out):
        told = seen(files)
        host = host_of(told.facts.kernel.boot_id, told.facts.kernel.release)
        content = {path.name: path.read_bytes() for path in files}
        recordings = dict.fromkeys(content, "the recording: `wgtrace replay`")
        device = _troubled_device(told)
        content |= {
            "drops.txt": told.table.encode(),
            "events.jsonl": told.lines.encode(),
            "timeline.txt": "".join(f"{line}\n" for line in told.timeline).encode(),
            "state-before.json": dumped(told.before) + b"\n",
            "state-after.json": dumped(told.after) + b"\n",
            "facts.json": dumped(told.facts) + b"\n",
        }
        if host and host.config:
            content["config.gz"] = host.config
        if repro is not None:
            content["repro.sh"] = repro
        elif device:
            troubled = {t.public_key for t in told.summary.totals if t.public_key}
            content["repro.sh"] = script(device, told.drops, troubled, _plain_title(told)).encode()
        context = Context(
            host,
            left_out,
            not_provoked(told.drops, device) if device and repro is None else (),
            "repro.sh" in content,
            {name: what for name, what in (_FILES | recordings).items() if name in content},
            is_given=repro is not None,
        )
        content["report.md"] = report(told, context).encode()
        archive.check(content, _public_keys(told), files)
        mtime = told.facts.clock.realtime_ns // 1_000_000_000
        return Bundle(archive.packed(root, content, mtime), title(told), len(content) + 1)


@contextmanager
def _recording(
    paths: Sequence[Path], *, redact: bool
) -> Iterator[tuple[tuple[Path, ...], tuple[str, ...] | None]]:
    """The files as they go into the archive, and what was left out of them."""
    with tempfile.TemporaryDirectory(prefix="wgtrace-") as directory:  # mode 0700
        if redact:
            result = redacted(paths)
            contents, left_out = result.files, result.left_out
        else:
            contents, left_out = tuple(path.read_bytes() for path in paths), None
        files = []
        for number, data in enumerate(contents):
            name = f"recording-{number}.rec" if len(contents) > 1 else "recording.rec"
            path = Path(directory, name)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            files.append(path)
        yield tuple(files), left_out


def _troubled_device(told: Seen) -> Device | None:
    """The interface with most drops, or the first one, that has a key: as it was before, or when it came."""
    counts: dict[tuple[str, int], int] = {}
    for total in told.summary.totals:
        counts[total.ifname, total.netns] = counts.get((total.ifname, total.netns), 0) + total.count
    devices = [device for device in (*told.before.devices, *told.after.devices) if device.public_key]
    return max(devices, key=lambda device: counts.get((device.ifname, device.netns), 0), default=None)


def _plain_title(told: Seen) -> str:
    """The title without what would end a comment."""
    return " ".join(title(told).split())


def _public_keys(told: Seen) -> set[bytes]:
    """The keys that are public as WireGuard itself says."""
    devices = (*told.before.devices, *told.after.devices)
    keys = {device.public_key for device in devices if device.public_key}
    keys |= {peer.public_key for device in devices for peer in device.peers}
    return {base64.b64decode(key) for key in keys}
