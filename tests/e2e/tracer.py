# SPDX-License-Identifier: GPL-2.0-only
"""Runs the real `wgtrace drops` and reads its JSON lines."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]

START_S = 600  # of patience, not of waiting: a busy host may give a guest a tenth of a CPU
SETTLE_S = 180
SUMMARY_S = 900  # what is in the buffer is shown before, which may be 50,000 drops


@dataclass
class Report:
    """What a run said about some interfaces.

    Attributes:
        drops: Those by WireGuard; lost: those outside of it.
    """

    drops: list[Line]
    lost: list[Line]
    findings: list[Line]
    summary: Line

    @property
    def totals(self) -> dict[str, int]:
        """Packets that WireGuard dropped, by reason."""
        counts: dict[str, int] = {}
        for total in self.summary["totals"]:
            if total["layer"] != "wireguard":
                continue
            counts[total["reason"]] = counts.get(total["reason"], 0) + total["count"]
        return counts

    @property
    def outside(self) -> dict[tuple[str, str, str | None], int]:
        """Packets dropped outside of WireGuard, by reason, packet and hook."""
        counts: dict[tuple[str, str, str | None], int] = {}
        for total in self.summary["totals"]:
            if total["layer"] != "wireguard":
                kind = total["reason"], total["packet"], total["hook"]
                counts[kind] = counts.get(kind, 0) + total["count"]
        return counts

    @property
    def steps(self) -> dict[str, int]:
        """What handshakes did, and why packets waited for one, by step or by step and sub-reason."""
        return self.steps_of(None)

    def steps_of(self, public_key: str | None) -> dict[str, int]:
        """The steps of one peer; None: of all."""
        counts: dict[str, int] = {}
        for total in self.summary["handshakes"]:
            if public_key not in (None, (total["peer"] or {}).get("public_key")):
                continue
            step = ":".join(filter(None, (total["step"], total["sub_reason"])))
            counts[step] = counts.get(step, 0) + total["count"]
        return counts

    def count(self, reason: str, public_key: str) -> int:
        """Packets of one peer for one reason."""
        totals = [t for t in self.summary["totals"] if t["reason"] == reason and t["peer"]]
        return sum(t["count"] for t in totals if t["peer"]["public_key"] == public_key)

    @property
    def slugs(self) -> list[str]:
        """The findings, sorted."""
        return sorted(finding["slug"] for finding in self.findings)

    def finding(self, slug: str) -> Line:
        """The one finding of this slug."""
        (found,) = (f for f in self.findings if f["slug"] == slug)
        return found

    def of(self, reason: str) -> list[Line]:
        """The drops for this reason."""
        return [drop for drop in self.drops if drop["reason"] == reason]


class Tracer:
    """A running `wgtrace drops --json`, or another command that ends in such a line.

    Args:
        arguments: What comes after `--json`.
        prefix: What comes before `wgtrace`, such as `ip netns exec NAME`.
    """

    command, last_line = "drops", "summary"

    def __init__(self, arguments: Sequence[str], ready: Path, prefix: Sequence[str] = ()) -> None:
        self.lines: list[Line] = []
        command = [*prefix, "wgtrace", self.command, "--json", "--ready-file", str(ready), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._errors: list[str] = []
        self._error_reader = threading.Thread(target=self._read_errors, daemon=True)
        self._error_reader.start()
        deadline = time.monotonic() + START_S
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"wgtrace did not start: {self.process.poll()} {self.stderr}")
            time.sleep(0.05)

    @property
    def stderr(self) -> str:
        """What it said beside the data."""
        return "".join(self._errors)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self._errors.append(line)

    def summary(self) -> Line:
        """An interim summary, asked for now by SIGUSR1."""
        before = sum(line["type"] == self.last_line for line in self.lines)
        self.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + SUMMARY_S
        while time.monotonic() < deadline:
            summaries = [line for line in list(self.lines) if line["type"] == self.last_line]
            if len(summaries) > before:
                return summaries[-1]
            assert self.process.poll() is None, f"wgtrace ended: {self.stderr}"
            time.sleep(0.05)
        raise AssertionError(f"no summary within {SUMMARY_S} s: {self.stderr}")

    def report(self, *ifnames: str) -> Report:
        """What is known of these interfaces now."""
        summary = self.summary()
        lines = list(self.lines)
        end = lines.index(summary)
        begin = max((at for at, line in enumerate(lines[:end]) if line["type"] == "summary"), default=0)
        chosen = dict(summary)
        chosen["totals"] = [t for t in summary["totals"] if t["ifname"] in ifnames]
        chosen["handshakes"] = [t for t in summary["handshakes"] if t["ifname"] in ifnames]
        chosen["reconciliation"] = [r for r in summary["reconciliation"] if r["ifname"] in ifnames]
        drops = [line for line in lines[:end] if line["type"] == "drop" and line["ifname"] in ifnames]
        return Report(
            [drop for drop in drops if drop["layer"] == "wireguard"],
            [drop for drop in drops if drop["layer"] != "wireguard"],
            [line for line in lines[begin:end] if line["type"] == "finding" and line["ifname"] in ifnames],
            chosen,
        )

    def settled(self, enough: Callable[[Report], bool], *ifnames: str, limit_s: float = SETTLE_S) -> Report:
        """The report once `enough` holds and nothing more comes; what there is when patience ends."""
        deadline = time.monotonic() + limit_s
        report = self.report(*ifnames)
        while not enough(report) and time.monotonic() < deadline:
            time.sleep(0.2)
            report = self.report(*ifnames)
        while time.monotonic() < deadline:
            time.sleep(0.4)
            again = self.report(*ifnames)
            if (again.totals, again.outside, again.steps) == (report.totals, report.outside, report.steps):
                return again
            report = again
        return report

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and give the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout=SETTLE_S)
        self._reader.join(timeout=SETTLE_S)
        return status


def bpf_objects() -> list[str]:
    """Programs, maps and links that the kernel holds now, by bpftool."""
    found = []
    for kind in ("prog", "map", "link"):
        listed = subprocess.run(["bpftool", "-j", kind], capture_output=True, text=True, check=True).stdout
        found += [f"{kind} {entry['id']}" for entry in json.loads(listed or "[]")]
    return found


def kprobe_events() -> str:
    """The kprobes that tracefs lists."""
    return Path("/sys/kernel/tracing/kprobe_events").read_text()


def names() -> Iterator[str]:
    """Interface names that no other test uses."""
    number = 0
    while True:
        number += 1
        yield f"tun{number}x"
