# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line and the end of the guest's console."""

from __future__ import annotations

from pathlib import Path

from wgtrace.lab.qemu import console_tail, qemu_command


def _command(accel: str, shell: bool = False) -> str:
    drives = [Path("/c/root,1.squashfs"), Path("/c/modules.squashfs")]
    return " ".join(qemu_command(accel, Path("/c/kernel"), drives, Path("/c/console"), 7, shell))


def test_emulated_cpu_has_no_cmpxchg16b() -> None:
    """Under emulation the CPU lacks cmpxchg16b, which QEMU 7.2 gets wrong."""
    command = _command("tcg")

    assert "-cpu max,-cx16" in command
    assert "-accel tcg,thread=multi" in command


def test_a_machine_that_counts_instructions_has_one_cpu() -> None:
    """With icount the clock is the number of instructions: that of one CPU, without pauses."""
    command = _command("icount")

    assert "-icount shift=0,sleep=off" in command
    assert "-smp 1 " in command
    assert "-cpu max,-cx16" in command


def test_kvm_uses_the_host_cpu() -> None:
    """Under KVM the guest has the host's CPU."""
    assert "-accel kvm -cpu host" in _command("kvm")


def test_images_are_attached_read_only() -> None:
    """Every image is read-only, so any number of labs share it, and commas in paths are escaped."""
    command = _command("tcg")

    assert command.count("readonly=on") == 2
    assert "file=/c/root,,1.squashfs" in command


def test_only_a_shell_gets_the_terminal() -> None:
    """hvc0 is this terminal for a shell and does not exist otherwise."""
    assert "virtconsole" not in _command("tcg")
    assert "virtconsole" in _command("tcg", shell=True)


def test_panic_ends_the_guest_at_once() -> None:
    """A panic reboots at once and a reboot ends QEMU, so nobody waits for a dead guest."""
    command = _command("tcg")

    assert "panic=-1" in command
    assert "-no-reboot" in command


def test_console_tail_keeps_the_panic(tmp_path: Path) -> None:
    """Of a long console the last lines are shown, without control characters."""
    console = tmp_path / "console"
    noise = "".join(f"[ {n}.0] noise\r\n" for n in range(10_000))
    console.write_text(noise + "[ 9.1] \x1b[1mKernel panic - not syncing: sysrq triggered crash\r\n")

    tail = console_tail(console, lines=4).splitlines()

    assert tail[-1] == "[ 9.1] [1mKernel panic - not syncing: sysrq triggered crash"
    assert len(tail) <= 4


def test_console_that_was_never_written(tmp_path: Path) -> None:
    """A guest that died before its first word has an empty console, not a missing file."""
    assert console_tail(tmp_path / "console") == ""
