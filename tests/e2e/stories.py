# SPDX-License-Identifier: GPL-2.0-only
"""Runs the real `wgtrace handshakes`, and tells the sides of a tunnel apart by their namespace."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tracer import Line, Tracer

from wgtrace.lab.topology import Host


class Stories(Tracer):
    """A running `wgtrace handshakes --json`."""

    command = "handshakes"


class Side:
    """What the tracer tells of an interface of one host, by its own if it has but one."""

    def __init__(self, tracer: Tracer, host: Host, ifname: str = "") -> None:
        self._tracer, self._ifname = tracer, ifname or host.ifname
        self._netns = Path(host.netns_path).stat().st_ino

    def _is_here(self, line: Line) -> bool:
        return line.get("ifname") == self._ifname and line.get("netns") == self._netns

    def steps(self, *events: str) -> list[Line]:
        """Its steps until now, those of these events."""
        lines = [line for line in list(self._tracer.lines) if line["type"] == "handshake"]
        return [
            line for line in lines if self._is_here(line) and line["event"] in (events or (line["event"],))
        ]

    def events(self) -> list[str]:
        """The events of its steps until now; a route that is found anew is no step of a handshake."""
        return [line["event"] for line in self.steps() if line["event"] != "route_found"]

    def histograms(self) -> list[Line]:
        """Its histograms, as the kernel has them now."""
        before = len(self._tracer.lines)
        self._tracer.summary()
        lines = self._tracer.lines[before:]
        return [line for line in lines if line["type"] == "histogram" and self._is_here(line)]

    def findings(self) -> list[str]:
        """The slugs of its findings now."""
        return [line["slug"] for line in self._findings()]

    def finding(self, slug: str) -> Line:
        """The one finding of this slug."""
        (found,) = (line for line in self._findings() if line["slug"] == slug)
        return found

    def _findings(self) -> list[Line]:
        before = len(self._tracer.lines)
        self._tracer.summary()
        lines = self._tracer.lines[before:]
        return [line for line in lines if line["type"] == "finding" and self._is_here(line)]

    def has(self, count: int, *events: str) -> Callable[[], bool]:
        """Whether so many such steps were told."""
        return lambda: len(self.steps(*events)) >= count


def agrees(host: Host, peer: Host, last: Line) -> None:
    """The kernel's own time of the latest handshake is that of the last step."""
    told = datetime.fromisoformat(last["ts"][:19] + "+00:00").timestamp()
    assert 0 <= host.latest_handshakes()[peer.public_key] - told <= 1
