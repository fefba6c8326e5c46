# SPDX-License-Identifier: GPL-2.0-only
"""WireGuard's interfaces and peers, as wg(8) shows them."""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping

from wgtrace.errors import StateError, UnsupportedError, UsageError
from wgtrace.state.netns import inside
from wgtrace.state.types import Device, Namespace

_KIND = "wireguard"


def devices(
    namespace: Namespace,
    names: Mapping[str, str],
    only: Collection[str] | None = None,
    followed: Collection[int] | None = None,
) -> tuple[Device, ...]:
    """The WireGuard interfaces of a network namespace, by interface index.

    Args:
        names: Names of peers by public key.
        only: Names of the interfaces wanted; None: all of them.
        followed: Indexes of interfaces wanted under any name. If it is given, one of
            `only` may be missing.

    Raises:
        UsageError: One that is wanted does not exist, or is no WireGuard interface.
        UnsupportedError: This kernel has no WireGuard, or it takes root.
        StateError: The namespace is gone, or netlink fails.
    """
    from wgtrace.state import dumps  # late, it is slow

    def read() -> tuple[Device, ...]:
        found = [link for link, _ in dumps.links(namespace.inode, _KIND)]
        missing = sorted(set(only or ()) - {link.ifname for link in found})
        if missing and followed is None:
            need_wireguard()
            raise _not_wireguard(missing[0], dumps.links(namespace.inode))
        known = followed or ()
        wanted = (link for link in found if only is None or link.ifname in only or link.ifindex in known)
        return tuple(device for device in (_read(link, names) for link in wanted) if device)

    try:
        return inside(namespace, read)
    except OSError as exc:
        raise StateError("cannot read WireGuard's configuration", exc.strerror or str(exc)) from exc


def need_wireguard() -> None:
    """Have the kernel's WireGuard; it is loaded if it can be.

    Raises:
        UnsupportedError: This kernel has none.
    """
    from wgtrace.state import dumps

    if not dumps.has_wireguard():
        raise UnsupportedError(
            "this kernel has no WireGuard", "its module is not loaded, or not built", "modprobe wireguard"
        )


def _read(link: Device, names: Mapping[str, str]) -> Device | None:
    """`link` with its peers; None: it was deleted, or replaced, since it was listed."""
    from wgtrace.state import dumps

    try:
        return dumps.wireguard(link, names)
    except PermissionError as exc:
        raise UnsupportedError(
            f"not permitted to read the peers of {link.ifname}", "this needs root", "run it by sudo"
        ) from exc
    except OSError as exc:
        if exc.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return None
        raise


def _not_wireguard(name: str, links: list[tuple[Device, str]]) -> UsageError:
    """Why an interface of this name cannot be traced, told from all interfaces of its namespace."""
    known = ", ".join(link.ifname for link, kind in links if kind == _KIND) or "none"
    for link, kind in links:
        if link.ifname == name:
            because = f"its kind is {kind}" if kind else "it is a device of another kind"
            if kind == "tun":
                because += ", and WireGuard outside the kernel (wireguard-go, boringtun) is not seen"
            return UsageError(
                f"{name} is not a WireGuard interface", because, f"WireGuard interfaces here: {known}"
            )
    return UsageError(f"there is no interface {name}", f"WireGuard interfaces here: {known}")
