# SPDX-License-Identifier: GPL-2.0-only
"""Known fixes of WireGuard, and whether a kernel of a version has them.

By its version only: a distribution takes over fixes without changing what `uname -r` says,
or numbers its kernels otherwise. Nothing that wgtrace does depends on this.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import Final

Version = tuple[int, int, int]


class Has(enum.Enum):
    """Whether a kernel has a fix."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fix:
    """A commit of the kernel.

    Attributes:
        since: The release that it came with.
        stable: Patch level of each stable series that it came to; None: it has not come.
        since_bug: The release that the bug came with; `stable_bug` those of stable series.
        tell: How it shows.
    """

    commit: str
    title: str
    since: tuple[int, int]
    stable: dict[tuple[int, int], int | None]
    tell: str
    since_bug: tuple[int, int] = (5, 6)
    stable_bug: dict[tuple[int, int], int] = field(default_factory=dict)


FIXES: Final = (
    Fix(
        "d0305f8d9002",
        "wireguard: noise: reject response consumption after intermediate initiation",
        (7, 3),
        {(6, 1): 191, (6, 12): 113, (7, 2): 11},
        "handshakes are fresh, and data from the responder is lost (unknown_receiver_index there)",
    ),
    Fix(
        "f75e3eb08fe3",
        "wireguard: send: append trailer after expanding head",
        (7, 1),
        {(6, 1): 176, (6, 12): 93},
        "with init_on_alloc=0 the padding of small forwarded packets is not zero",
    ),
    Fix(
        "65ab9de4bdd4",
        "wireguard: queueing: preserve tstamp_type when encapsulating packet",
        (7, 3),
        {(6, 1): 191, (6, 12): 113, (7, 2): 11},
        "pacing (fq, EDT) of TCP inside the tunnel breaks across namespaces",
    ),
    Fix(
        "revert of db9ae3b6b43c",
        "wireguard: device: enable threaded NAPI (CVE-2026-52945)",
        (9999, 0),
        {(5, 15): 201, (6, 1): 164, (6, 6): 127, (6, 12): 74},
        "a peer's receive queue only grows (rx_queue_full) until the interface is made anew",
        (6, 16),
        {(5, 15): 186, (6, 1): 142, (6, 6): 94, (6, 12): 34},
    ),
    Fix(
        "60a25ef8dacb",
        "wireguard: device: use exit_rtnl callback instead of manual rtnl_lock in pre_exit",
        (7, 1),
        {(6, 1): None, (6, 12): 115},
        "deleting a namespace hangs while others hold rtnl",
    ),
    Fix(
        "c6dd1aa2cbb7",
        "icmp: fix icmp_ndo_send address translation for reply direction",
        (6, 17),
        {(6, 1): 151, (6, 12): 46},
        "with SNAT, the ICMP error for allowedips_no_peer goes to the wrong host",
    ),
    Fix(
        "5bd8de20770c",
        "always return an online CPU in wg_cpumask_choose_online",
        (6, 18),
        {(6, 1): None, (6, 12): None},
        "after CPUs were taken offline under traffic, packets wait on one that is not there",
    ),
    Fix(
        "7387943fa355",
        "wireguard: queueing: use saner cpu selection wrapping",
        (6, 5),
        {(6, 1): 39},
        "work is not spread over all CPUs",
    ),
    Fix(
        "f58d0a9b4c6a",
        "wireguard: netlink: send staged packets when setting initial private key",
        (6, 5),
        {(6, 1): 39},
        "packets sent before the private key was set wait for the next one",
    ),
    Fix(
        "46622219aae2",
        "wireguard: allowedips: expand maximum node depth",
        (6, 5),
        {(6, 1): 46},
        "a stack overrun with 129 nested IPv6 prefixes when the interface is deleted",
    ),
    Fix(
        "55b6c7386738",
        "wireguard: netlink: check for dangling peer via is_dead instead of empty list (CVE-2024-26951)",
        (6, 9),
        {(6, 1): 84},
        "`wg show` of many peers crashes while peers are removed",
    ),
    Fix(
        "bba045dc4d99",
        "wireguard: receive: annotate data-race around receiving_counter.counter (CVE-2024-26861)",
        (6, 9),
        {(6, 1): 83},
        "KCSAN only",
    ),
)


def version_of(release: str, version: str) -> Version | None:
    """The stable release that a kernel is of: what its package says (Debian), else `uname -r`."""
    for text in (version.partition("Debian ")[2], release):
        found = re.match(r"(\d+)\.(\d+)\.(\d+)", text) or re.match(r"(\d+)\.(\d+)()", text)
        if found:
            return int(found[1]), int(found[2]), int(found[3] or 0)
    return None


def has(fix: Fix, kernel: Version) -> Has:
    """Whether a kernel of this version has it, or never had the bug."""
    series, patch = kernel[:2], kernel[2]
    if series in fix.stable_bug and patch < fix.stable_bug[series]:
        return Has.YES
    if series in fix.stable:
        since = fix.stable[series]
        return Has.YES if since is not None and patch >= since else Has.NO
    if series >= fix.since or (series < fix.since_bug):
        return Has.YES
    newest_stable = max(fix.stable)
    # A series older than its release, and not one that is known to have got it.
    return Has.NO if series >= newest_stable else Has.UNKNOWN
