# SPDX-License-Identifier: GPL-2.0-only
"""All that was configured, taken together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from wgtrace.errors import WgtraceError
from wgtrace.state.clock import boottime_ns
from wgtrace.state.types import Device, Namespace, Snapshot
from wgtrace.state.wireguard import devices


def take(
    namespaces: Iterable[Namespace], names: Mapping[str, str], only: Collection[str] | None = None
) -> Snapshot:
    """The WireGuard interfaces of these namespaces as they are now.

    What cannot be read (a namespace that is gone, an interface of `only` that is
    not there, no permission) is listed in the snapshot, and nothing is raised.

    Args:
        names: Names of peers by public key.
        only: Names of the interfaces wanted; None: all of them.
    """
    taken_ns, namespaces = boottime_ns(), tuple(namespaces)
    found: list[Device] = []
    unreadable = []
    for namespace in namespaces:
        try:
            found += devices(namespace, names, only)
        except WgtraceError as exc:
            where = namespace.name or namespace.path
            unreadable.append(f"{where}: {exc.what}" + (f" ({exc.because})" if exc.because else ""))
    return Snapshot(taken_ns, tuple(found), namespaces, tuple(unreadable))
