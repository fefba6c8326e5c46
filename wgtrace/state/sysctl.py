# SPDX-License-Identifier: GPL-2.0-only
"""Settings under /proc/sys/net, as they are in a network namespace."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from wgtrace.errors import WgtraceError
from wgtrace.state.netns import inside
from wgtrace.state.types import Namespace


def values(namespace: Namespace, names: Collection[str]) -> dict[str, str]:
    """The values of those of these settings that there are.

    Args:
        names: As paths: `net/ipv4/conf/all/rp_filter`.
    """
    with contextlib.suppress(WgtraceError, OSError):
        return inside(namespace, lambda: dict(_here(names)))
    return {}


def _here(names: Collection[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        with contextlib.suppress(OSError):
            yield name, Path("/proc/sys", name).read_text(encoding="ascii").strip()
