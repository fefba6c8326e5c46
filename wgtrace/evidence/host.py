# SPDX-License-Identifier: GPL-2.0-only
"""What the host tells of its kernel, for a recording that was made on it since it booted."""

from __future__ import annotations

import gzip
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Documentation/admin-guide/tainted-kernels.rst: bit, letter, meaning.
_TAINTS: Final = (
    "P proprietary module was loaded",
    "F module was force loaded",
    "S kernel running on an out of specification system",
    "R module was force unloaded",
    "M processor reported a Machine Check Exception",
    "B bad page referenced or some unexpected page flags",
    "U taint requested by userspace application",
    "D kernel died recently, i.e. there was an OOPS or BUG",
    "A ACPI table overridden by user",
    "W kernel issued warning",
    "C staging driver was loaded",
    "I workaround for bug in platform firmware applied",
    "O externally-built (out-of-tree) module was loaded",
    "E unsigned module was loaded",
    "L soft lockup occurred",
    "K kernel has been live patched",
    "X auxiliary taint, defined for and used by distros",
    "T kernel was built with the struct randomization plugin",
    "N an in-kernel test has been run",
)
# Words of the kernel's command line that matter here; the others may say whose host this is.
_WORDS: Final = (
    "init_on_alloc", "init_on_free", "preempt", "mitigations", "isolcpus", "nohz_full", "rcu_nocbs",
    "threadirqs", "nosmt", "maxcpus", "nr_cpus", "lockdown", "slub_debug", "panic", "ipv6.disable",
    "wireguard.", "debug_pagealloc", "kasan", "clocksource", "tsc",
)  # fmt: skip
_CONFIG_KEPT: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class HostFact:
    """What the host of this moment knows of a kernel.

    Attributes:
        distribution: Its name; cpus: those that are online; wg: version of wireguard-tools.
        command_line: The words of the kernel's that matter; words_left_out: how many others.
        config: The kernel's, gzipped, b"" if it is not to be found.
    """

    distribution: str = ""
    proc_version: str = ""
    cpus: str = ""
    clocksource: str = ""
    wg: str = ""
    command_line: tuple[str, ...] = ()
    words_left_out: int = 0
    config: bytes = b""


def decoded_taint(taint: int) -> tuple[str, ...]:
    """Each flag of /proc/sys/kernel/tainted with its letter and meaning."""
    known = tuple(text for bit, text in enumerate(_TAINTS) if taint >> bit & 1)
    rest = taint >> len(_TAINTS) << len(_TAINTS)
    return (*known, f"? unknown flags {rest:#x}") if rest else known


def host_of(boot_id: str, release: str, root: Path = Path("/")) -> HostFact | None:
    """What can be told of the kernel with this boot id; None: another one runs here.

    Args:
        root: Where proc/, sys/, boot/ and etc/ are.
    """
    if not boot_id or _text(root / "proc/sys/kernel/random/boot_id") != boot_id:
        return None
    words = _text(root / "proc/cmdline").split()
    kept = tuple(word for word in words if word.startswith(_WORDS))
    return HostFact(
        distribution=_distribution(_text(root / "etc/os-release")),
        proc_version=_text(root / "proc/version"),
        cpus=_text(root / "sys/devices/system/cpu/online"),
        clocksource=_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
        wg=_wg_version(),
        command_line=kept,
        words_left_out=len(words) - len(kept),
        config=_config(root, release),
    )


def _config(root: Path, release: str) -> bytes:
    for path in (
        root / "proc/config.gz",
        root / f"boot/config-{release}",
        root / f"lib/modules/{release}/config",
    ):
        try:
            with path.open("rb") as file:
                content = file.read(_CONFIG_KEPT)
        except OSError:
            continue
        return content if path.suffix == ".gz" else gzip.compress(content, mtime=0)
    return b""


def _distribution(os_release: str) -> str:
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    return fields.get("PRETTY_NAME", "").strip('"')


def _wg_version() -> str:
    try:
        done = subprocess.run(["wg", "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.split(" - ")[0].strip()


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return os.read(file.fileno(), 1 << 16).decode(errors="replace").strip()
    except OSError:
        return ""
