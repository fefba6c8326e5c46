# SPDX-License-Identifier: GPL-2.0-only
"""QEMU as the lab uses it: its command line, whether KVM is any good here, its console."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from wgtrace.lab import image

#: In front of the command: QEMU dies with us, even if we are killed.
LEASH = ("setpriv", "--pdeathsig", "KILL")

_MEMORY = "2G"
_KVM_PROBE_SECONDS = 15

# QEMU 7.2 corrupts flags after cmpxchg16b (random guest panics): a CPU without it.
_EMULATED_CPU = ("-cpu", "max,-cx16")
_ACCELERATORS = {
    "kvm": ("-smp", "2", "-accel", "kvm", "-cpu", "host"),
    "tcg": ("-smp", "2", "-accel", "tcg,thread=multi", *_EMULATED_CPU),
    # One nanosecond for each instruction, and none for waiting.
    "icount": ("-smp", "1", "-accel", "tcg,thread=single", *_EMULATED_CPU, "-icount", "shift=0,sleep=off"),
}

# A TSC that QEMU derives from the host's clock is reliable; every other clock costs an exit.
_CMDLINE = (
    "console=ttyS0 quiet panic=-1 oops=panic mitigations=off tsc=reliable clocksource=tsc "
    "no_timer_check nowatchdog apparmor=0 audit=0"
)


def qemu_command(
    accel: str,
    boot: Path,
    drives: Sequence[Path],
    console: Path,
    port_fd: int | None,
    shell: bool = False,
    append: str = "",
) -> list[str]:
    """Return QEMU's command line for a guest.

    Args:
        accel: "kvm", "tcg", or "icount": emulated on one CPU whose clock counts instructions.
        boot: Directory of the kernel image.
        drives: The read-only images, in the order that initramfs.sh expects.
        console: File that the kernel's console is written to.
        port_fd: The guest's end of the frames' socket, or None.
        shell: Whether this terminal becomes the guest's hvc0.
        append: Added to the kernel's command line.
    """
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-m", _MEMORY, *_ACCELERATORS[accel]]
    command += ["-kernel", str(boot / "vmlinuz"), "-initrd", str(boot / "initrd")]
    command += ["-append", f"{_CMDLINE} {append}".strip()]
    command += ["-chardev", f"file,id=console,path={_escaped(console)}", "-serial", "chardev:console"]
    for number, drive in enumerate(drives):
        options = f"if=none,id=d{number},format=raw,readonly=on,file={_escaped(drive)}"
        command += ["-drive", options, "-device", f"virtio-blk-pci,drive=d{number}"]
    command += ["-device", "virtio-serial-pci"]
    if port_fd is not None:
        command += ["-chardev", f"socket,id=port,fd={port_fd}"]
        command += ["-device", "virtserialport,nr=1,chardev=port,name=wgtrace"]
    if shell:
        command += ["-chardev", "stdio,id=terminal,signal=off"]
        command += ["-device", "virtconsole,nr=2,chardev=terminal"]
    return command


def console_tail(console: Path, lines: int = 25) -> str:
    """Return the last lines that the guest's kernel wrote to its console."""
    if not console.exists():
        return ""
    text = console.read_bytes()[-64 * 1024 :].decode(errors="replace")
    printable = "".join(c for c in text if c.isprintable() or c == "\n")
    return "\n".join(printable.split("\n")[-lines:]).strip()


def kvm_works(boot: Path, say: image.Say) -> bool:
    """Whether a guest boots under KVM; tried once per boot of this host, then remembered.

    Some hosts offer a /dev/kvm under which an unmodified guest hangs.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    host_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict = image.cache_dir() / "kvm.json"
    with contextlib.suppress(OSError, ValueError):
        remembered = json.loads(verdict.read_text())
        if remembered["boot_id"] == host_boot:
            return bool(remembered["works"])
    say(f"trying whether KVM works here, at most {_KVM_PROBE_SECONDS} s")
    with image.scratch() as scratch:
        console = scratch / "console"
        command = qemu_command("kvm", boot, [], console, None, append="wgtrace.probe")
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*LEASH, *command],
                timeout=_KVM_PROBE_SECONDS, stdin=subprocess.DEVNULL, capture_output=True, check=False,
            )  # fmt: skip
        works = "wgtrace-probe-ok" in console_tail(console)
    new = verdict.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps({"boot_id": host_boot, "works": works}))
    new.replace(verdict)
    return works


def _escaped(path: Path) -> str:
    """Write a path the way QEMU's option parser reads it back."""
    return str(path).replace(",", ",,")
