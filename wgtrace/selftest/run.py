# SPDX-License-Identifier: GPL-2.0-only
"""A run of `wgtrace selftest`: play each scene under one tracer, and compare what was sent and seen."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from wgtrace import __version__
from wgtrace.errors import UnsupportedError
from wgtrace.events import decode
from wgtrace.events.types import DropTotal
from wgtrace.lab.topology import remove_leftovers
from wgtrace.loader.compiler import bcc_version
from wgtrace.loader.tracer import Settings, Tracer, kernel_release
from wgtrace.probes.catalogue import CATALOGUE
from wgtrace.probes.types import Probe
from wgtrace.report import SelftestReport, SelftestRow, Verdict
from wgtrace.selftest.pair import Pair, Patience, SceneError, pair
from wgtrace.selftest.scenes import NOT_PROVOKED, SCENES, Scene

_TOOLS = {"ip": "iproute2", "wg": "wireguard-tools", "unshare": "util-linux"}
_MODULE = Path("/sys/module/wireguard")
_SETTLE_S = 0.05  # what is counted more than once is counted by then
_FAILURES = (SceneError, OSError, RuntimeError, subprocess.CalledProcessError)

OnScene = Callable[[int, int, Scene], None]


def run(
    is_stopped: Callable[[], bool],
    on_scene: OnScene = lambda number, of, scene: None,
    scenes: Sequence[Scene] = SCENES,
    catalogue: Sequence[Probe] = CATALOGUE,
) -> SelftestReport:
    """Play the scenes in two namespaces of their own, which are gone when this returns or raises.

    Args:
        is_stopped: Asked again and again; then it raises `StoppedError`.
        on_scene: Told of each scene before it is played: its number, and how many there are.
        scenes: What to provoke.
        catalogue: What to attach.

    Raises:
        UnsupportedError: A tool or WireGuard is missing, or namespaces cannot be made.
        CompileError: The tracer could not start.
    """
    _need_tools()
    began = time.monotonic()
    patience = Patience(is_stopped)
    with contextlib.ExitStack() as stack:
        try:
            remove_leftovers()
            hosts = stack.enter_context(pair(patience))
        except (RuntimeError, OSError) as exc:
            raise UnsupportedError(
                "the network namespaces for the test cannot be made",
                str(exc),
                "run it as root on the host itself: a container may not make any",
            ) from exc
        patience.check()
        spaces = tuple(("", os.stat(host.netns_path).st_ino) for host in (hosts.a, hosts.b))
        tracer = Tracer(Settings(spaces), catalogue)
        stack.callback(tracer.close)
        stage = _Stage(hosts, tracer, patience)
        rows = []
        for number, scene in enumerate(scenes, 1):
            patience.check()
            on_scene(number, len(scenes), scene)
            rows.append(stage.play(scene))
    rows += [
        SelftestRow(n.reason, n.sub_reason, Verdict.NOT_PROVOKED, because=n.because) for n in NOT_PROVOKED
    ]
    rows.sort(key=lambda row: (row.reason, row.sub_reason))
    duration_s = time.monotonic() - began
    return SelftestReport(
        time.time_ns(), __version__, kernel_release(), bcc_version(), duration_s, tuple(rows)
    )


def _need_tools() -> None:
    missing = sorted({package for tool, package in _TOOLS.items() if not shutil.which(tool)})
    if missing:
        tools = ", ".join(f"`{tool}`" for tool in _TOOLS if not shutil.which(tool))
        raise UnsupportedError(
            f"selftest needs {tools}", "not installed here", f"apt-get install {' '.join(missing)}"
        )
    if not _MODULE.exists():
        raise UnsupportedError(
            "the kernel's WireGuard is not loaded",
            "selftest changes nothing on the host, so it does not load it either",
            "modprobe wireguard",
        )


class _Stage:
    """Where scenes are played and looked at."""

    def __init__(self, hosts: Pair, tracer: Tracer, patience: Patience) -> None:
        self._hosts = hosts
        self._tracer = tracer
        self._patience = patience

    def play(self, scene: Scene) -> SelftestRow:
        """Provoke a reason, look for it, tidy up."""
        row = SelftestRow(scene.reason, scene.sub_reason, Verdict.NOT_STAGED, scene.how)
        if not any(scene.reason.id in probe.gives for probe in self._tracer.probes):
            return replace(row, verdict=Verdict.NOT_PROVOKED, because="this wgtrace has no probe for it")
        before = self._count(scene)
        try:
            with contextlib.closing(scene.play(self._hosts)) as steps:
                sent = next(steps)
                self._look(scene, before + sent)
                row = self._judged(row, sent, self._count(scene) - before)
                next(steps, None)
        except _FAILURES as exc:
            row = replace(row, verdict=Verdict.NOT_STAGED, because=" ".join(str(exc).split()))
        return row

    def _look(self, scene: Scene, wanted: int) -> None:
        """Wait until so many are counted; as long as more come, patience begins anew."""
        known = -1
        while known < wanted and self._patience.until(partial(self._has_more, scene, known)):
            known = self._count(scene)
        time.sleep(_SETTLE_S)

    def _judged(self, row: SelftestRow, sent: int, seen: int) -> SelftestRow:
        if not sent:
            raise SceneError("the kernel accepted what it was to refuse")
        if sent == seen:
            return replace(row, verdict=Verdict.SEEN, sent=sent, seen=seen)
        missing = [
            f"no probe on {probe.target}: {probe.because}"
            for probe in self._tracer.probes
            if probe.mechanism is None and row.reason.id in probe.gives
        ]
        skipped = self._tracer.counters().missed
        if skipped:
            missing.append(f"the kernel skipped {skipped} runs of a probe")
        verdict = Verdict.MISCOUNTED if seen else Verdict.NOT_SEEN
        return replace(row, verdict=verdict, sent=sent, seen=seen, because="; ".join(missing))

    def _has_more(self, scene: Scene, known: int) -> bool:
        return self._count(scene) > known

    def _count(self, scene: Scene) -> int:
        """How often the scene's reason was counted until now."""
        totals = (decode.total(key, count) for key, count in self._tracer.totals())
        return sum(
            total.count
            for total in totals
            if isinstance(total, DropTotal)
            and (total.reason, total.sub_reason) == (scene.reason, scene.sub_reason)
        )
