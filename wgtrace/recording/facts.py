# SPDX-License-Identifier: GPL-2.0-only
"""What does not change during a run: who recorded what, on which kernel, and how to read it."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field

from wgtrace.events.wire import ABI, RECORDS, TotalKeyWire
from wgtrace.probes.identity import Identity
from wgtrace.probes.kernel import Symbol
from wgtrace.probes.types import ProbeStatus
from wgtrace.state.clock import Anchor
from wgtrace.state.types import Claim, Firewall, Load, Way

TOTAL_KEY = 0
"""In `Facts.sizes`: the key of a total, which is no kind of event."""


def sizes() -> dict[int, int]:
    """Bytes of each kind of record as this wgtrace knows it."""
    return {
        TOTAL_KEY: ctypes.sizeof(TotalKeyWire),
        **{int(kind): ctypes.sizeof(wire) for kind, wire in RECORDS.items()},
    }


@dataclass(frozen=True, slots=True)
class AskedWay:
    """The way to a peer's endpoint, asked for an interface."""

    ifname: str
    netns: int
    way: Way


@dataclass(frozen=True, slots=True)
class Asked:
    """What rules ask the host for beside its configuration, `pipeline.HostFacts`, as it was.

    Attributes:
        ways: Of peers whose handshakes or packets went unanswered or unsent.
        places: Names of addresses that dropped packets outside of WireGuard.
        firewalls: Of the namespaces where that was, by inode.
        sysctls: That decided there, by inode.
    """

    load: Load
    claims: tuple[Claim, ...] = ()
    ways: tuple[AskedWay, ...] = ()
    places: dict[int, str] = field(default_factory=dict)
    firewalls: dict[int, Firewall] = field(default_factory=dict)
    sysctls: dict[int, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """The first block of each file of a recording.

    Attributes:
        run: Another for each run, the same in all files of a rotation.
        file: Counts the files of a run, from 0.
        version: Of wgtrace.
        bcc: Version of BCC.
        clock_offset_ns: CLOCK_REALTIME minus CLOCK_BOOTTIME when the file began.
        clock: The clocks when the file began.
        command: Words of the command line.
        sample: One data message in so many was recorded, by its counter; 0: none.
        probes: What became of each row of the probe catalogue.
        kernel_reasons: `enum skb_drop_reason` of the kernel, without its prefix.
        symbols: Functions of WireGuard, to describe addresses.
        abi: WGT_ABI of bpf/events.h.
        byteorder: Of the numbers in records: that of the machine.
        sizes: Bytes of each kind of record. One that grew since gets zeros at its end,
            which say "not known".
    """

    run: str
    file: int
    version: str
    bcc: str
    kernel: Identity
    clock_offset_ns: int
    clock: Anchor
    command: tuple[str, ...] = ()
    sample: int = 0
    probes: tuple[ProbeStatus, ...] = ()
    kernel_reasons: dict[int, str] = field(default_factory=dict)
    symbols: tuple[Symbol, ...] = ()
    abi: int = ABI
    byteorder: str = sys.byteorder
    sizes: dict[int, int] = field(default_factory=sizes)
