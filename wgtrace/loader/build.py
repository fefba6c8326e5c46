# SPDX-License-Identifier: GPL-2.0-only
"""Where the bytecode for this kernel comes from: the cache, or the compiler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wgtrace.errors import UnsupportedError
from wgtrace.loader import cache
from wgtrace.loader.bytecode import Bytecode
from wgtrace.loader.compiler import Compilation
from wgtrace.loader.plan import MOST_DEVICES, Plan
from wgtrace.probes import kernel
from wgtrace.probes.btf import Btf
from wgtrace.probes.catalogue import CATALOGUE, WIREGUARD
from wgtrace.probes.types import Probe

LOCKDOWN = Path("/sys/kernel/security/lockdown")


def running_kernel(
    catalogue: Sequence[Probe] = CATALOGUE, snaplen: int | None = None, devices: int = MOST_DEVICES
) -> Plan:
    """How the catalogue can be attached to the kernel that runs.

    Args:
        snaplen: As in `Settings`, and devices too.

    Raises:
        UnsupportedError: It has no BTF, no WireGuard, hides its addresses, or is locked down.
    """
    need_no_lockdown()
    vmlinux = Btf.vmlinux()
    wireguard = Btf.module(WIREGUARD, vmlinux)
    return Plan(vmlinux, wireguard, kernel.module_symbols(WIREGUARD), catalogue, snaplen, devices)


def need_no_lockdown() -> None:
    """Have a kernel whose memory BPF may read, kernel_lockdown(7).

    Some programs would be taken all the same, those that read nothing: a run that sees next to nothing.

    Raises:
        UnsupportedError: It may not.
    """
    try:
        is_locked = "[confidentiality]" in LOCKDOWN.read_text()
    except OSError:
        return  # securityfs is not mounted: then the kernel says it, probe by probe
    if is_locked:
        raise UnsupportedError(
            "nothing can be traced on this kernel",
            "it is locked down, by lockdown=confidentiality: BPF programs may not read its memory",
            "boot without lockdown=confidentiality",
        )


class Build:
    """The programs of a plan in the making: it goes on until `bytecode` asks for the result.

    Args:
        directory: The cache.

    Raises:
        UnsupportedError: No BCC, or the kernel lacks a type.
    """

    def __init__(self, plan: Plan, directory: Path | None = None) -> None:
        self.plan = plan
        self.origin = ""
        source = plan.source()
        self._key = source.key()
        self._directory = directory or cache.default_directory()
        self._bytecode: Bytecode | None = None
        self._compilation: Compilation | None = None
        where = self._directory / self._key
        try:
            self._bytecode = Bytecode.from_bytes(cache.load(self._key, self._directory))
            self.origin = f"compiled before: {where}"
        except (cache.UnusableError, ValueError) as exc:
            self.origin = f"compiled: {where}: {exc}"
            self._compilation = Compilation(source)

    def bytecode(self) -> Bytecode:
        """The bytecode; it is kept in the cache, if it can be.

        Raises:
            UnsupportedError: BCC cannot be imported.
            CompileError: The text does not compile.
        """
        if self._compilation is not None:
            compilation, self._compilation = self._compilation, None
            self._bytecode = compilation.bytecode()
            try:
                cache.store(self._key, self._bytecode.to_bytes(), self._directory)
            except cache.UnusableError as exc:
                self.origin += f"; not kept for the next start: {exc}"
        assert self._bytecode is not None
        return self._bytecode


def begun(snaplen: int | None = None, catalogue: Sequence[Probe] = CATALOGUE) -> Build | None:
    """A catalogue's programs for the running kernel, in the making; None if it is too early.

    WireGuard's module may be loaded only later; what is missing for good is told
    by who needs it.
    """
    try:
        return Build(running_kernel(catalogue, snaplen))
    except UnsupportedError:
        return None
