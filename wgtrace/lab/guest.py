# SPDX-License-Identifier: GPL-2.0-only
"""Process 1 of the lab's guest: runs the command, sends what it says, reaps what it leaves.

The initramfs (see `image`) has mounted everything and loaded WireGuard before this starts.
If this dies the kernel panics, and the host shows the console's last lines, so it
catches nothing that it cannot handle.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import selectors
import signal
import socket
import subprocess
import termios
import time
from typing import Any

from wgtrace.lab.wire import MAX_PAYLOAD, FrameKind, pack

PLAN = "/etc/wgtrace-lab.json"
PORT = "/dev/vport*p1"  # the star is the index of the virtio device
TERMINAL = "/dev/hvc0"
OUT = "/run/wgtrace-lab/out"
HEARTBEAT_SECONDS = 5.0
DEVICE_SECONDS = 30
SO_TIMESTAMP = 29  # asm-generic/socket.h


def main() -> None:
    """Run the plan that the host left, say how it ended, and wait to be switched off."""
    with open(PLAN, encoding="utf-8") as plan_file:
        plan: dict[str, Any] = json.load(plan_file)
    time.clock_settime(time.CLOCK_REALTIME, plan["time"] + time.clock_gettime(time.CLOCK_BOOTTIME))
    os.makedirs(OUT)
    os.environ.update(plan["env"], WGTRACE_LAB="1", WGTRACE_LAB_OUT=OUT)
    os.chdir("/root")
    stamped = socket.socket(type=socket.SOCK_DGRAM)
    # QEMU before 8.1 may run a jump that another CPU is just patching (fixed by its commit
    # deba78709ae8, "accel/tcg: Always lock pages before translation"), and the guest panics. Each
    # ping(8) patches two on the way of every packet, netstamp_needed_key: this holds them where they are.
    stamped.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
    _Guest(plan).run()
    while True:
        signal.pause()


class _Guest:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._port = _open_when_there(PORT)
        self._streams: dict[int, FrameKind] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        wakeup, on_signal = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(on_signal, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(wakeup, selectors.EVENT_READ)

        self._send(FrameKind.READY)
        main_pid = self._spawn_shell() if self._plan["shell"] else self._spawn_command()
        status = None
        next_beat = time.monotonic()
        while status is None:
            if time.monotonic() >= next_beat:
                self._send(FrameKind.HEARTBEAT)
                next_beat = time.monotonic() + HEARTBEAT_SECONDS
            for key, _ in self._selector.select(max(0.0, next_beat - time.monotonic())):
                if key.fd == wakeup:
                    os.read(wakeup, 4096)
                    status = _reap(main_pid)
                else:
                    self._forward(key.fd)
        self._finish(status)

    def _spawn_command(self) -> int:
        pipes = {1: os.pipe(), 2: os.pipe()}
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for fd, (_, write_end) in pipes.items():
                os.dup2(write_end, fd)
            _exec(self._plan["argv"])
        for fd, (read_end, write_end) in pipes.items():
            os.close(write_end)
            os.set_blocking(read_end, False)
            self._streams[read_end] = FrameKind.STDOUT if fd == 1 else FrameKind.STDERR
            self._selector.register(read_end, selectors.EVENT_READ)
        return pid

    def _spawn_shell(self) -> int:
        pid = os.fork()
        if pid == 0:
            os.setsid()
            terminal = _open_when_there(TERMINAL)
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            termios.tcsetwinsize(terminal, tuple(self._plan["winsize"]))
            for fd in (0, 1, 2):
                os.dup2(terminal, fd)
            _exec(["bash", "-l"])
        return pid

    def _forward(self, fd: int) -> bool:
        """Send what a stream has to say; False if it has nothing now, or ever again."""
        try:
            data = os.read(fd, MAX_PAYLOAD)
        except BlockingIOError:
            return False
        if not data:
            self._selector.unregister(fd)
            del self._streams[fd]
            os.close(fd)
            return False
        self._send(self._streams[fd], data)
        return True

    def _finish(self, status: int) -> None:
        """End what the command left running, then send the rest of all that it said and wrote."""
        _kill_all()
        for fd in list(self._streams):
            while self._forward(fd):
                pass
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with subprocess.Popen(["tar", "-C", OUT, "-c", "."], stdout=subprocess.PIPE) as tar:
            assert tar.stdout
            while data := tar.stdout.read(MAX_PAYLOAD):
                self._send(FrameKind.OUT, data)
        self._send(FrameKind.EXIT, b"%d" % status)

    def _send(self, kind: FrameKind, payload: bytes = b"") -> None:
        frame = memoryview(pack(kind, payload))
        while frame:
            frame = frame[os.write(self._port, frame) :]


def _exec(argv: list[str]) -> None:
    """Become the command, or leave as a shell would: 127 not found, 126 not to be run."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _reap(main_pid: int) -> int | None:
    """Collect every process that ended; the exit status of the main one if it is among them."""
    status = None
    while True:
        try:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == main_pid:
            code = os.waitstatus_to_exitcode(wait_status)
            status = code if code >= 0 else 128 - code


def _kill_all() -> None:
    """End every process but this one, and wait until they are gone."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def _open_when_there(pattern: str) -> int:
    """Open a device that the kernel may still be about to make."""
    give_up = time.monotonic() + DEVICE_SECONDS
    while not (paths := glob.glob(pattern)):
        if time.monotonic() > give_up:
            raise FileNotFoundError(pattern)
        time.sleep(0.01)
    return os.open(paths[0], os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


if __name__ == "__main__":
    main()
