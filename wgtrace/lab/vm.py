# SPDX-License-Identifier: GPL-2.0-only
"""Boots the lab's machine, runs one command in it and brings back how it ended.

The guest has no network and no disk of its own: three read-only images (userland, kernel
modules, and one made for this run: wgtrace, the mounted directories and the plan) under a
tmpfs. All that it says comes over one virtio-serial port, as frames (`wire`); the kernel's
console goes to a file, whose end explains a guest that died.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, BinaryIO, NoReturn

from wgtrace.errors import LabError, UsageError
from wgtrace.lab import debian, image, qemu
from wgtrace.lab.wire import FrameKind, FrameParser, TornStreamError

_PACKAGE = Path(__file__).parent.parent
_GUEST_PACKAGE = "usr/lib/python3/dist-packages/wgtrace"
_LAUNCHER = b"#!/usr/bin/python3\nimport wgtrace.__main__\n"
_TOOLS = {"qemu-system-x86_64": "qemu-system-x86", "mksquashfs": "squashfs-tools", "setpriv": "util-linux"}

_UNCOMPRESSED = ("-noI", "-noD", "-noF", "-noX")  # quickest to make
_BOOT_SECONDS = {"kvm": 60, "tcg": 240, "icount": 600}
# Of this host's; a guest that counts instructions has its own seconds.
_SILENCE_SECONDS = {"kvm": 60, "tcg": 60, "icount": 600}
_SAID = {"kvm": "KVM", "tcg": "emulated", "icount": "emulated, its clock counts instructions"}


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do in which guest.

    Args:
        kernel: A name of kernels.toml, or a version of one of these.
        argv: The command; empty for an interactive shell.
        timeout: Seconds that the command may take, without the boot; None for no limit.
        mounts: Directories of the host to show under /mnt/host.
        copy_out: Where the files of $WGTRACE_LAB_OUT go, or None.
        env: Added to the command's environment.
        append: Added to the kernel's command line.
        icount: Whether the guest's clock counts instructions, one a nanosecond, on one CPU.
    """

    kernel: str
    argv: Sequence[str] = ()
    timeout: float | None = None
    mounts: Sequence[Path] = ()
    copy_out: Path | None = None
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    append: str = ""
    icount: bool = False


def run(
    job: Job,
    say: image.Say,
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
    rebuild: bool = False,
) -> int:
    """Boot, run the job, and return the command's exit status.

    Raises:
        LabError: The image could not be built, or the guest did not boot, panicked, hung,
            or took too long; each said apart, with the console's last lines.
    """
    kernel = debian.kernel(job.kernel)
    image.require(_TOOLS)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_terminated_as_interrupted())
        userland = stack.enter_context(image.held(debian.userland_image(kernel.release), say, rebuild))
        boot = stack.enter_context(image.held(debian.kernel_image(kernel), say, rebuild))
        accel = "icount" if job.icount else "kvm" if qemu.kvm_works(boot, say) else "tcg"
        scratch = stack.enter_context(image.scratch())
        own = scratch / "run.squashfs"
        _make_own_image(job, own)
        drives = [userland / "root.squashfs", boot / "modules.squashfs", own]
        say(f"booting Linux {kernel.name} ({kernel.debian}), {_SAID[accel]}")
        guest = stack.enter_context(_Guest(job, accel, boot, drives, scratch))
        return guest.wait(stdout or sys.stdout.buffer, stderr or sys.stderr.buffer)


class _Guest:
    """A running machine; leaving the context ends it."""

    def __init__(self, job: Job, accel: str, boot: Path, drives: Sequence[Path], scratch: Path) -> None:
        self._job = job
        self._console = scratch / "console"
        self._boot_seconds, self._silence_seconds = _BOOT_SECONDS[accel], _SILENCE_SECONDS[accel]
        self._port, guest_end = socket.socketpair()
        self._terminal = termios.tcgetattr(0) if not job.argv and os.isatty(0) else None
        command = qemu.qemu_command(
            accel, boot, drives, self._console, guest_end.fileno(), shell=not job.argv, append=job.append
        )
        # A shell's QEMU stays in the terminal's foreground group; any other must not see Ctrl-C.
        self._qemu = subprocess.Popen(
            [*qemu.LEASH, *command],
            stdin=None if not job.argv else subprocess.DEVNULL,
            stdout=None if not job.argv else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[guest_end.fileno()],
            start_new_session=bool(job.argv),
        )
        guest_end.close()
        self._collector: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Guest:
        return self

    def __exit__(self, *_: object) -> None:
        self._qemu.kill()
        self._qemu.wait()
        if self._qemu.stderr:
            self._qemu.stderr.close()
        self._port.close()
        if self._collector:
            self._finish_collecting()
        if self._terminal:
            termios.tcsetattr(0, termios.TCSADRAIN, self._terminal)

    def wait(self, stdout: BinaryIO, stderr: BinaryIO) -> int:
        """Pass on what the guest says until it says how the command ended."""
        parser = FrameParser()
        ready_by = time.monotonic() + self._boot_seconds
        end_by: float | None = None
        is_ready = False
        heard = time.monotonic()
        while True:
            if not select.select([self._port], [], [], 1)[0]:
                now = time.monotonic()
                if not is_ready and now > ready_by:
                    self._give_up(f"the guest did not boot within {self._boot_seconds} s")
                if is_ready and now > heard + self._silence_seconds:
                    self._give_up(f"the guest hangs: nothing heard from it for {self._silence_seconds} s")
            if end_by and time.monotonic() > end_by:
                self._give_up(f"the command did not end within {self._job.timeout:g} s")
            with contextlib.suppress(BlockingIOError):
                data = self._port.recv(1 << 18, socket.MSG_DONTWAIT)
                if not data:
                    self._explain_death(is_ready)
                heard = time.monotonic()
                try:
                    frames = list(parser.feed(data))
                except TornStreamError as error:
                    self._give_up(f"the guest sends nonsense: {error}")
                for kind, payload in frames:
                    if kind == FrameKind.READY:
                        is_ready = True
                        end_by = heard + self._job.timeout if self._job.timeout else None
                    elif kind == FrameKind.STDOUT:
                        _write(stdout, payload)
                    elif kind == FrameKind.STDERR:
                        _write(stderr, payload)
                    elif kind == FrameKind.OUT:
                        self._collect(payload)
                    elif kind == FrameKind.EXIT:
                        return int(payload)

    def _collect(self, piece: bytes) -> None:
        if not self._job.copy_out:
            return
        if not self._collector:
            self._job.copy_out.mkdir(parents=True, exist_ok=True)
            command = ["tar", "-x", "--no-same-owner", "--no-overwrite-dir", "-C", str(self._job.copy_out)]
            self._collector = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert self._collector.stdin
        with contextlib.suppress(BrokenPipeError):  # its exit status says so below
            self._collector.stdin.write(piece)

    def _finish_collecting(self) -> None:
        assert self._collector
        assert self._collector.stdin
        with contextlib.suppress(BrokenPipeError):
            self._collector.stdin.close()
        if self._collector.wait():
            raise LabError(f"the guest's files could not all be written to {self._job.copy_out}")

    def _explain_death(self, is_ready: bool) -> NoReturn:
        status = self._qemu.wait()
        if "Kernel panic" in qemu.console_tail(self._console, lines=200):
            self._give_up("the guest's kernel panicked", lines=60)
        said = self._qemu.stderr.read().decode(errors="replace").strip() if self._qemu.stderr else ""
        when = "while the command ran" if is_ready else "before the guest had booted"
        self._give_up(f"QEMU ended with status {status} {when}" + (f": {said}" if said else ""))

    def _give_up(self, what: str, lines: int = 25) -> NoReturn:
        tail = qemu.console_tail(self._console, lines)
        raise LabError(what, because=f"the console's last lines:\n{tail}" if tail else "the console is empty")


def _make_own_image(job: Job, output: Path) -> None:
    """Pack what is this run's own: wgtrace as if installed, the mounted directories, the plan."""
    size = shutil.get_terminal_size()
    plan = {
        "argv": list(job.argv),
        "shell": not job.argv,
        "env": dict(job.env),
        "winsize": [size.lines, size.columns],
        "time": time.time(),
    }
    names = [directory.resolve().name for directory in job.mounts]
    if len(set(names)) < len(names):
        raise UsageError("two mounted directories have the same name", because="it names them in the guest")
    with image.squashed(output, _UNCOMPRESSED) as archive, tarfile.open(fileobj=archive, mode="w|") as tar:
        tar.add(_PACKAGE, _GUEST_PACKAGE, filter=image.as_root)
        bpf = _PACKAGE.parent / "bpf"
        if bpf.is_dir():  # a checkout; an installed package has it inside
            tar.add(bpf, f"{_GUEST_PACKAGE}/bpf", filter=image.as_root)
        for directory, name in zip(job.mounts, names, strict=True):
            tar.add(directory.resolve(), f"mnt/host/{name}", filter=image.as_root)
        _add_file(tar, "usr/local/bin/wgtrace", _LAUNCHER, 0o755)
        _add_file(tar, "etc/wgtrace-lab.json", json.dumps(plan).encode(), 0o644)


def _add_file(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), mode, int(time.time())
    tar.addfile(member, io.BytesIO(content))


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that the guest goes and nothing stays."""

    def interrupt(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)
    stream.flush()
