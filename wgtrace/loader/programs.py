# SPDX-License-Identifier: GPL-2.0-only
"""Programs into the kernel, and their attachments: each is a file descriptor, and gone with it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
from pathlib import Path

from wgtrace.loader.libbpf import BtfInfo, ProgramOptions, libbpf, raised
from wgtrace.probes.types import Mechanism

KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")
_INSTRUCTION = 8  # bytes
_LOG_SIZE = 1 << 22  # bytes; a log that is cut off is an error of its own
_STATISTICS = ("processed ", "verification time ", "stack depth ")  # the log's last lines
# `enum bpf_prog_type` and `enum bpf_attach_type` of linux/bpf.h.
_KINDS = {
    Mechanism.KPROBE: 2,
    Mechanism.KRETPROBE: 2,
    Mechanism.RAW_TRACEPOINT: 17,
    Mechanism.FENTRY: 26,
    Mechanism.FEXIT: 26,
}
_TRAMPOLINES = {Mechanism.FENTRY: 24, Mechanism.FEXIT: 25}
# perf_event_open(2)
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_EVENT_IOC_SET_BPF = 0x40042408


class RefusedError(Exception):
    """Why the kernel does not take a program, or does not attach it."""


class _PerfEventAttr(ctypes.Structure):
    """The first 72 bytes of `struct perf_event_attr`: PERF_ATTR_SIZE_VER1."""

    _fields_ = [
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("sample_period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("wakeup_events", ctypes.c_uint32),
        ("bp_type", ctypes.c_uint32),
        ("kprobe_func", ctypes.c_char_p),
        ("probe_offset", ctypes.c_uint64),
    ]


def module_btf(module: str) -> int:
    """File descriptor of the kernel's own BTF of a module; 0, its own number for vmlinux, if it has none.

    Raises:
        OSError: The kernel's answer.
    """
    lib, number = libbpf(), ctypes.c_uint32()
    while lib.bpf_btf_get_next_id(number, ctypes.byref(number)) == 0:
        fd = lib.bpf_btf_get_fd_by_id(number)
        if fd == -errno.ENOENT:  # a module was unloaded this very moment
            continue
        raised(fd)
        name = ctypes.create_string_buffer(64)  # longer than MODULE_NAME_LEN
        info = BtfInfo(name=ctypes.addressof(name), name_len=len(name))
        size = ctypes.c_uint32(ctypes.sizeof(info))
        raised(lib.bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size)))
        if info.kernel_btf and name.value == module.encode():
            return int(fd)
        os.close(fd)
    return 0


def load(
    name: str, instructions: bytes, mechanism: Mechanism, attach_btf_id: int = 0, attach_btf: int = 0
) -> int:
    """Have the kernel verify a program and take it: its file descriptor.

    Args:
        attach_btf_id: The function that an fentry or fexit is for.
        attach_btf: What `module_btf` gave for its module.

    Raises:
        RefusedError: What the verifier says.
    """
    options = ProgramOptions(
        sz=ctypes.sizeof(ProgramOptions),
        expected_attach_type=_TRAMPOLINES.get(mechanism, 0),
        attach_btf_id=attach_btf_id,
        attach_btf_obj_fd=attach_btf,
    )
    what = (_KINDS[mechanism], name.encode(), b"GPL", instructions, len(instructions) // _INSTRUCTION)
    fd: int = libbpf().bpf_prog_load(*what, ctypes.byref(options))
    if fd >= 0:
        return fd
    because = os.strerror(-fd)
    log = ctypes.create_string_buffer(_LOG_SIZE)  # asked for only now: it slows the verifier down
    options.log_level, options.log_size, options.log_buf = 1, _LOG_SIZE, ctypes.addressof(log)
    fd = libbpf().bpf_prog_load(*what, ctypes.byref(options))
    if fd >= 0:
        return fd
    lines = [line.strip() for line in log.value.decode(errors="replace").split("\n") if line.strip()]
    told = [line for line in lines if not line.startswith(_STATISTICS)]
    raise RefusedError(f"the kernel refuses the program: {because}" + (f": {told[-1]}" if told else ""))


def attach(program: int, mechanism: Mechanism, target: str) -> int:
    """Have a loaded program run: the attachment's file descriptor.

    Args:
        target: A tracepoint without its group, or for a kprobe `function` or
            `module:function`; a trampoline's program knows its own.

    Raises:
        RefusedError: What the kernel says.
    """
    try:
        if mechanism in (Mechanism.KPROBE, Mechanism.KRETPROBE):
            return _attach_kprobe(program, target, is_return=mechanism is Mechanism.KRETPROBE)
        name = target.encode() if mechanism is Mechanism.RAW_TRACEPOINT else None
        return raised(libbpf().bpf_raw_tracepoint_open(name, program))
    except OSError as exc:
        raise RefusedError(exc.strerror) from exc


def missed_runs(program: int) -> int:
    """How often the kernel skipped a program, because it was running on that CPU."""
    info = Path(f"/proc/self/fdinfo/{program}").read_text().splitlines()
    return sum(int(line.split()[1]) for line in info if line.startswith("recursion_misses"))


def _attach_kprobe(program: int, target: str, *, is_return: bool) -> int:
    """As perf_event_open(2) and the kernel's `kprobe` event source do it."""
    if not KPROBE_PMU.exists():
        raise RefusedError("the kernel has no kprobes")
    retprobe = (KPROBE_PMU / "format/retprobe").read_text().split(":")[1]
    attr = _PerfEventAttr(
        type=int((KPROBE_PMU / "type").read_text()),
        size=ctypes.sizeof(_PerfEventAttr),
        config=1 << int(retprobe) if is_return else 0,
        sample_period=1,
        wakeup_events=1,
        kprobe_func=target.encode(),
    )
    every, cpu, alone = -1, 0, -1
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = [ctypes.c_long, ctypes.c_void_p, *[ctypes.c_int] * 3, ctypes.c_ulong]
    number = _PERF_EVENT_OPEN[platform.machine()]
    event: int = syscall(number, ctypes.byref(attr), every, cpu, alone, _PERF_FLAG_FD_CLOEXEC)
    if event < 0:
        raised(-ctypes.get_errno())
    try:
        fcntl.ioctl(event, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event
