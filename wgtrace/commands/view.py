# SPDX-License-Identifier: GPL-2.0-only
"""What a run looks at: the interfaces that were asked for, their peers, and the host around them."""

from __future__ import annotations

import base64
import binascii
import ctypes
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wgtrace import __version__
from wgtrace.commands.terminal import warn
from wgtrace.errors import UnsupportedError, UsageError

if TYPE_CHECKING:  # the commands import what they need: a help text is not to wait for it
    from wgtrace.loader.tracer import Tracer
    from wgtrace.pipeline import HostFacts
    from wgtrace.source import ThisHost
    from wgtrace.state.types import Snapshot

_PR_SET_DUMPABLE = 4


def need_root() -> None:
    """Be root, and leave no core: environment and memory of root's are nobody's business.

    Raises:
        UnsupportedError: Somebody else runs this.
    """
    if os.geteuid() != 0:
        raise UnsupportedError("wgtrace needs root", "it loads BPF programs", "sudo wgtrace ...")
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class View:
    """The interfaces that a run looks at.

    Attributes:
        traced: As `Settings.traced` wants it.
        described: For the operator.
        snapshot: Reads the configuration of this moment.
    """

    traced: tuple[tuple[str, int], ...] | None
    described: str
    snapshot: Callable[[], Snapshot]

    def public_keys(self, text: str) -> Collection[str]:
        """Public keys of the peers that `text` means: a key, its beginning, or a name.

        Raises:
            UsageError: None, or the beginning of several.
        """
        known = {p.public_key: p.name for device in self.snapshot().devices for p in device.peers}
        return public_keys(text, known, self.described)


def public_keys(text: str, known: Mapping[str, str | None], described: str) -> Collection[str]:
    """As `View.public_keys`, among these peers: their names by public key."""
    named = [key for key, name in known.items() if name == text]
    found = named or [key for key in known if key.startswith(text)]
    if not found and _is_public_key(text):
        warn(f"{text} is no peer of {described} yet: nothing of it is shown before it is")
        return [text]
    if not found:
        names = ", ".join(sorted(name or key[:8] + "…" for key, name in known.items())) or "none"
        raise UsageError(f"no peer {text!r} on {described}", f"the peers are: {names}")
    if len(found) > 1 and not named:
        raise UsageError(f"{text!r} is the beginning of {len(found)} public keys", "", "give more of it")
    return found


def view_of(
    interfaces: tuple[str, ...], netns: str | None, everywhere: bool, names_file: Path | None
) -> View:
    """The view that IFACE, --netns, --all and --names ask for.

    Raises:
        UsageError: They contradict each other, or there is no such interface.
        UnsupportedError: This kernel has no WireGuard.
    """
    from wgtrace.state import names as peer_names
    from wgtrace.state import netns as namespaces
    from wgtrace.state import snapshot, wireguard

    names = peer_names.peer_names(names_file=names_file, report=warn)
    if everywhere:
        if interfaces or netns:
            raise UsageError(
                "--all takes every interface in every namespace", "", "leave out IFACE and --netns"
            )
        wireguard.need_wireguard()
        return View(
            None, "every WireGuard interface", lambda: snapshot.take(namespaces.all_namespaces(), names)
        )
    namespace = namespaces.by_name_or_path(netns) if netns else namespaces.current()
    # A name that is no UTF-8 is shown, and read from the kernel, with U+FFFD in it.
    shown = tuple(os.fsencode(name).decode(errors="replace") for name in interfaces) or None
    found = wireguard.devices(namespace, names, shown)
    if not found:
        wireguard.need_wireguard()
        raise UsageError(
            "there is no WireGuard interface here",
            f"none in network namespace {namespace.name or namespace.inode}",
            "wg-quick up NAME, or --netns NAME, or --all",
        )
    return View(
        tuple((name, namespace.inode) for name in interfaces or ("",)),
        ", ".join(device.ifname for device in found),
        snapshot.Followed(namespace, names, shown, warn).take,
    )


def this_host(view: View, tracer: Tracer) -> ThisHost:
    """What a run of `tracer` needs to know of the host; its snapshots keep the tracer on its interfaces."""
    from wgtrace.loader.compiler import bcc_version
    from wgtrace.loader.tracer import kernel_release
    from wgtrace.source import Build, ThisHost

    def snapshot() -> Snapshot:
        taken = view.snapshot()
        tracer.follow((device.netns, device.ifindex) for device in taken.devices)
        return taken

    return ThisHost(Build(__version__, kernel_release(), bcc_version()), snapshot)


def host_facts() -> HostFacts:
    """What rules may ask of this host."""
    from wgtrace.pipeline import HostFacts
    from wgtrace.state import nft, routes, sysctl  # late: pyroute2 is slow
    from wgtrace.state.claims import claims
    from wgtrace.state.load import cpu_load

    return HostFacts(routes.look_up, claims, cpu_load, nft.firewall, sysctl.values, routes.look_again)


def _is_public_key(text: str) -> bool:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return False
    return len(raw) == 32 and base64.b64encode(raw).decode() == text
