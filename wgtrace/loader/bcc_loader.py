# SPDX-License-Identifier: GPL-2.0-only
"""The only module that knows BCC: compile, attach, poll, count, detach.

Every attachment is a file descriptor of this process and nothing is pinned, so
the kernel itself takes all of it away when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wgtrace.errors import CompileError, UnsupportedError
from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Reason
from wgtrace.events.wire import ConfigWire, Loss, Site, SiteRangeWire, SitesWire, TracedKeyWire
from wgtrace.loader import kernel_filter, kernel_tree, source
from wgtrace.loader.source import Program
from wgtrace.probes import kernel
from wgtrace.probes.btf import Btf
from wgtrace.probes.catalogue import CATALOGUE, WIREGUARD
from wgtrace.probes.types import Mechanism, Point, Probe, ProbeStatus

KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe/type")
LOCKDOWN = Path("/sys/kernel/security/lockdown")
RING_PAGES = 512  # 2 MiB: 6,000 drops between two polls
HEADERS_LEN = 128  # an IP and a TCP header with all their options, 60 bytes each

# Functions of WireGuard that free packets, and what their place tells.
_SITES = {
    "wg_xmit": Site.XMIT,
    "wg_packet_purge_staged_packets": Site.PURGE,
    "wg_packet_send_staged_packets": Site.SEND_STAGED,
    "wg_packet_tx_worker": Site.TX_WORKER,
    "send4": Site.SEND,
    "send6": Site.SEND,
    "wg_socket_send_skb_to_peer": Site.SEND_SKB,
    "wg_receive": Site.RECEIVE,
    "wg_packet_receive": Site.RECEIVE,
    "wg_packet_rx_poll": Site.RX_POLL,
    "wg_packet_handshake_receive_worker": Site.HANDSHAKE_WORKER,
    "wg_stop": Site.STOP,
}


# Not a place to attach, but to read: it tells what is missing without it like any probe.
_NO_DEVICE_LIST = ProbeStatus(
    "device-list",
    "device_list",
    None,
    "the kernel does not list its data symbols: built without CONFIG_KALLSYMS_ALL",
    "the list of WireGuard interfaces",
    (Reason.BAD_HEADER.id, Reason.UNKNOWN_RECEIVER_INDEX.id),
    "which interface a datagram came to that belongs to no session",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the programs are told before they run.

    Attributes:
        traced: (interface name, inode of its namespace); "" is every interface
            of that namespace. None: every interface in every namespace.
        events_per_second: Details shown per reason and CPU; the totals count all.
        totals: Kinds of drops (interface, reason, peer) that are counted apart.
        wanted: What the programs show; the totals count all, and apart what is wanted.
        snaplen: Bytes of each packet to hand over, at most 65,535; 0: its headers;
            None: nothing.
        devices: Interfaces of the host among which that of a datagram is looked for.
    """

    traced: tuple[tuple[str, int], ...] | None
    events_per_second: int = 1000
    totals: int = 8192
    wanted: Filter = field(default_factory=Filter)
    snaplen: int | None = None
    devices: int = 256


@dataclass(frozen=True, slots=True)
class Counters:
    """What the programs counted beside the totals.

    Attributes:
        losses: By `enum wgt_loss`.
        limited: Drops counted but not shown, by reason.
        missed: Program runs that the kernel skipped.
    """

    losses: dict[Loss, int]
    limited: dict[Reason, int]
    missed: int


def _import_bcc() -> type:
    """BCC's class BPF, without its attaching by name.

    Raises:
        UnsupportedError: BCC is not installed for this Python.
    """
    try:
        from bcc import BPF
    except ImportError as exc:
        raise UnsupportedError(
            "BCC cannot be imported", str(exc), "apt-get install python3-bpfcc (and use /usr/bin/python3)"
        ) from exc

    class Module(BPF):  # type: ignore[misc]  # BCC has no types
        """A compiled text."""

        def _trace_autoload(self) -> None:
            """Nothing is attached by name: the catalogue says what, and failures are said."""

    return Module


def bcc_version() -> str:
    """BCC's version."""
    import bcc

    return str(bcc.__version__)


@contextlib.contextmanager
def _captured_stderr() -> Iterator[list[str]]:
    """BCC and LLVM write to file descriptor 2; here it ends in a list of lines."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines.extend(file.read().decode(errors="replace").splitlines())


def capture_flags(snaplen: int | None) -> tuple[str, str]:
    """Compiler flags for what a record holds of its packet: without -w no byte, and no code."""
    room = 0 if snaplen is None else snaplen or HEADERS_LEN
    return f"-DWGT_CAPTURE_LEN={room}", f"-DWGT_HEADERS_ONLY={int(not snaplen)}"


def _advice() -> str:
    """What may help where the kernel refuses a probe, "" if nothing is known to."""
    try:
        mode = LOCKDOWN.read_text()
    except OSError:
        return ""
    locked = "[confidentiality]" in mode
    return "boot without lockdown=confidentiality: it forbids tracing" if locked else ""


class Tracer:
    """The programs, compiled and attached.

    Args:
        settings: What to trace.
        catalogue: What to attach.

    Raises:
        UnsupportedError: No BCC, no BTF, no WireGuard.
        CompileError: The text did not compile, or the kernel refused a program
            that nothing can replace.
    """

    def __init__(self, settings: Settings, catalogue: Sequence[Probe] = CATALOGUE) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._records: deque[bytes] = deque()
        self._fds: list[int] = []
        self._program_fds: list[int] = []
        self._followed: set[tuple[int, int]] = set()
        self._module_id = kernel.module_id(WIREGUARD)
        vmlinux = Btf.vmlinux()
        self._vmlinux = vmlinux
        self._btf = Btf.module(WIREGUARD, vmlinux)
        modules = {WIREGUARD, *(probe.module for probe in catalogue if probe.module)}
        self._modules = {module: kernel.module_symbols(module) for module in modules}
        self._symbols = self._modules[WIREGUARD]
        self._device_list = kernel.address_of(self._symbols, "device_list")
        self._module = _import_bcc()
        self._described: dict[int, str] = {}
        self._statuses: dict[str, ProbeStatus] = {}
        self._refused: dict[str, str] = {}
        self._compile_and_attach()

    @property
    def probes(self) -> tuple[ProbeStatus, ...]:
        """What became of each row of the catalogue."""
        rows = [self._statuses[probe.name] for probe in self._catalogue]
        if not self._device_list:
            rows.append(_NO_DEVICE_LIST)
        return tuple(rows)

    @property
    def kernel_reasons(self) -> dict[int, str]:
        """`enum skb_drop_reason` of the running kernel, without its prefix."""
        prefixes = ("SKB_DROP_REASON_", "SKB_")
        names = {}
        for value, name in self._vmlinux.enum_names("skb_drop_reason").items():
            prefix = next((p for p in prefixes if name.startswith(p)), "")
            names[value] = name[len(prefix) :]
        return names

    def describe(self, address: int) -> str:
        """`wg_xmit+0x83` for an address in WireGuard."""
        # There are some thirty such places: each is looked up once.
        if address not in self._described:
            self._described[address] = kernel.describe_address(self._symbols, address)
        return self._described[address]

    # -- compile and attach ------------------------------------------------

    def _compile_and_attach(self) -> None:
        """Attach what can be; a fentry that is refused gets a second chance as a kprobe."""
        self._load()
        if self._refused and any(s.mechanism is None for s in self._statuses.values()):
            self._detach()
            self._load()
        if all(status.mechanism is None for status in self._statuses.values()):
            first = next(iter(self._statuses.values()))
            self._detach()
            raise UnsupportedError("no probe can be attached on this kernel", first.because, first.do)

    def _load(self) -> None:
        programs = {probe.name: self._programs(probe) for probe in self._catalogue}
        texts = [text for variants in programs.values() for _program, text in variants]
        cflags = [
            f"-DWGT_RING_PAGES={RING_PAGES * (8 if (self._settings.snaplen or 0) > 512 else 1)}",
            f"-DWGT_TOTALS={self._settings.totals}",
            f"-DWGT_MAX_DEVICES={self._settings.devices}",
            f"-DWGT_DEVICE_LIST={self._device_list:#x}ULL",
            *capture_flags(self._settings.snaplen),
            # BCC optimises by itself, and nobody debugs the programs by line: together
            # these save a third of the time to compile.
            "-Xclang",
            "-disable-llvm-passes",
            "-g0",
            "-Wno-ignored-attributes",
            "-Wno-duplicate-decl-specifier",
        ]
        definitions = self._btf.c_definitions(source.KERNEL_TYPES)
        with kernel_tree.installed(definitions), _captured_stderr() as lines:
            try:
                self._bpf = self._module(text=source.joined(texts).encode(), cflags=cflags)
            except Exception as exc:  # noqa: BLE001 - BCC raises bare Exception
                failed: Exception | None = exc
            else:
                failed = None
        if failed:
            first = next((line for line in lines if "error:" in line), str(failed))
            raise CompileError(
                "the BPF text does not compile on this kernel", first, "report it with `uname -a`"
            )
        self._configure()
        for probe in self._catalogue:
            self._statuses[probe.name] = self._attach(probe, [p for p, _text in programs[probe.name]])
        self._bpf[b"events"].open_ring_buffer(self._on_record)

    def _target(self, probe: Probe) -> str:
        """The first of a probe's targets that this kernel has, else the first."""
        names = {s.name for s in self._symbols}
        return next((t for t in probe.targets if t in names or self._btf.has_function(t)), probe.targets[0])

    def _programs(self, probe: Probe) -> list[tuple[Program, str]]:
        """The variants of a probe's program that this kernel might take, the best first."""
        target = self._target(probe)
        if probe.point is Point.TRACEPOINT:
            program = source.kprobe_program(probe, target)
            parameters = self._vmlinux.tracepoint_parameters(target)
            if parameters is not None and len(parameters) < len(probe.args):
                return [(program, source.consume_skb_kprobe_text(program))]
            return [(program, source.program_text(program))]
        kprobe = source.kprobe_program(probe, target)
        kprobe_text = source.program_text(kprobe)
        count = self._btf.parameter_count(target)
        # A BPF trampoline on x86-64 passes at most six arguments before Linux kernel
        # commit 473e3150e30a ("bpf, x86: allow function arguments up to 12 for
        # TRACING") (in v6.6); what has more is no hot path, so a kprobe does.
        fits = count is not None and count <= 6 and probe.module == WIREGUARD
        if not fits or probe.name in self._refused or not self._has_trampolines():
            return [(kprobe, kprobe_text)]
        fentry = source.fentry_program(probe, target)
        # BCC before 0.28 has no fentry for functions of modules, and no such macro.
        guarded = f"#ifdef MODULE_KFUNC_PROBE\n{source.program_text(fentry, count or 0)}"
        return [(fentry, guarded), (kprobe, f"#else\n{kprobe_text}#endif\n")]

    def _has_trampolines(self) -> bool:
        """Whether fentry can work: what BCC's support_kfunc() asks, without its walk through kallsyms."""
        return platform.machine() == "x86_64" and self._vmlinux.has_function("bpf_trampoline_link_prog")

    def _attach(self, probe: Probe, variants: list[Program]) -> ProbeStatus:
        compiled = self._compiled_functions()
        program = next((p for p in variants if p.name in compiled), variants[-1])
        mechanism = self._mechanism(probe, program)
        status = ProbeStatus(
            probe.name, program.target, mechanism, "", probe.tells, probe.gives, probe.without_it
        )
        if not program.fentry and not self._exists(probe, program.target):
            return replace(
                status,
                mechanism=None,
                because=f"this kernel has no function {program.target}: inlined or renamed",
            )
        with _captured_stderr() as lines:
            fd, because = self._attach_program(program, mechanism)
            if fd >= 0 and mechanism is Mechanism.RAW_TRACEPOINT:
                self._fds.append(fd)
                fd, because = self._attach_program(program.second, mechanism)
        if fd < 0:
            if program.fentry:
                self._refused[probe.name] = because
            why = next((line.strip() for line in lines if line.strip()), because)
            return replace(status, mechanism=None, because=why, do=_advice())
        self._fds.append(fd)
        return replace(status, because=self._why(probe, program))

    def _why(self, probe: Probe, program: Program) -> str:
        if probe.point is Point.TRACEPOINT:
            location = "skb:consume_skb tells no location here" if not self._is_tracepoint(probe) else ""
            return location or "the kernel's own tracepoint"
        if program.fentry:
            return "the module's BTF describes it"
        if probe.name in self._refused:
            return f"fentry was refused: {self._refused[probe.name]}"
        if probe.module == WIREGUARD and self._btf.has_function(program.target):
            return "this BCC has no fentry for functions of modules"
        return "no BTF prototype that fits a trampoline"

    def _is_tracepoint(self, probe: Probe) -> bool:
        parameters = self._vmlinux.tracepoint_parameters(probe.targets[0])
        return parameters is None or len(parameters) >= len(probe.args)

    def _mechanism(self, probe: Probe, program: Program) -> Mechanism:
        if probe.point is Point.TRACEPOINT:
            return Mechanism.RAW_TRACEPOINT if self._is_tracepoint(probe) else Mechanism.KPROBE
        if program.fentry:
            return Mechanism.FEXIT if probe.point is Point.RETURN else Mechanism.FENTRY
        return Mechanism.KRETPROBE if probe.point is Point.RETURN else Mechanism.KPROBE

    def _exists(self, probe: Probe, target: str) -> bool:
        if probe.module != WIREGUARD or not self._symbols:
            return True
        return any(s.name == target and s.is_text for s in self._symbols)

    def _compiled_functions(self) -> set[str]:
        from bcc import lib

        count = lib.bpf_num_functions(self._bpf.module)
        return {lib.bpf_function_name(self._bpf.module, i).decode() for i in range(count)}

    def _attach_program(self, program: Program, mechanism: Mechanism) -> tuple[int, str]:
        """Load and attach one program: its file descriptor, or -1 and why."""
        from bcc import BPF, lib

        kinds = {
            Mechanism.RAW_TRACEPOINT: BPF.RAW_TRACEPOINT,
            Mechanism.FENTRY: BPF.TRACING,
            Mechanism.FEXIT: BPF.TRACING,
        }
        try:
            function = self._bpf.load_func(program.name.encode(), kinds.get(mechanism, BPF.KPROBE))
        except Exception as exc:  # noqa: BLE001 - BCC raises bare Exception
            return -1, f"the kernel refuses the program: {exc}"
        if mechanism is not Mechanism.RAW_TRACEPOINT:  # of a pair, one at least runs
            self._program_fds.append(function.fd)
        if mechanism is Mechanism.RAW_TRACEPOINT:
            fd = lib.bpf_attach_raw_tracepoint(function.fd, program.target.encode())
        elif program.fentry:
            fd = lib.bpf_attach_kfunc(function.fd)
        elif not KPROBE_PMU.exists():
            return -1, "the kernel has no kprobes"
        else:
            module = program.probe.module
            # A module that is built into the kernel has no symbols of its own.
            qualified = f"{module}:{program.target}" if self._modules.get(module) else program.target
            kind = 1 if mechanism is Mechanism.KRETPROBE else 0
            fd = lib.bpf_attach_kprobe(function.fd, kind, program.name.encode(), qualified.encode(), 0, 0)
        if fd < 0:
            code = ctypes.get_errno()
            return -1, os.strerror(code) if code else "the function cannot be traced"
        return fd, ""

    def _configure(self) -> None:
        config = ConfigWire(
            all=self._settings.traced is None, events_per_second=self._settings.events_per_second
        )
        self._set("config", ctypes.c_uint32(0), config)
        for ifname, netns in self._settings.traced or ():
            key = TracedKeyWire(netns=netns)
            raw = os.fsencode(ifname)[:15]
            key.ifname[: len(raw)] = list(raw)
            self._set("traced", key, ctypes.c_uint32(1))
        self._set("filters", ctypes.c_uint32(0), kernel_filter.filter_wire(self._settings.wanted))
        for peer in kernel_filter.peer_keys(self._settings.wanted):
            self._set("wanted_peers", peer, ctypes.c_uint32(1))
        ranges = kernel.text_ranges(self._symbols, _SITES)
        if not ranges:
            raise UnsupportedError(
                "WireGuard's functions are not in /proc/kallsyms",
                "the module is not loaded, or built into the kernel",
                "modprobe wireguard",
            )
        sites = SitesWire(min(r.start for r in ranges), max(r.end for r in ranges))
        for slot, found in enumerate(ranges):
            sites.range[slot] = SiteRangeWire(found.start, found.end, _SITES[found.function])
        self._set("sites", ctypes.c_uint32(0), sites)

    def follow(self, interfaces: Iterable[tuple[int, int]]) -> None:
        """Trace these interfaces, whatever they are called from now on, and no others under any name.

        Args:
            interfaces: (inode of the namespace, index in it) of each.
        """
        if self._settings.traced is None:
            return
        from bcc import lib

        wanted = set(interfaces)
        for netns, ifindex in wanted - self._followed:
            self._set("traced", TracedKeyWire(netns=netns, ifindex=ifindex), ctypes.c_uint32(1))
        fd = self._bpf[b"traced"].map_fd
        for netns, ifindex in self._followed - wanted:
            lib.bpf_delete_elem(fd, ctypes.byref(TracedKeyWire(netns=netns, ifindex=ifindex)))
        self._followed = wanted

    def _set(self, table: str, key: object, value: object) -> None:
        """Write one map entry; the wire classes stand in for BCC's own."""
        from bcc import lib

        fd = self._bpf[table.encode()].map_fd
        if lib.bpf_update_elem(fd, ctypes.byref(key), ctypes.byref(value), 0) < 0:  # type: ignore[arg-type]
            raise CompileError(f"cannot write the map {table}", os.strerror(ctypes.get_errno()))

    # -- run -----------------------------------------------------------------

    def _on_record(self, _ctx: object, data: int, size: int) -> int:
        # An exception here would be swallowed by ctypes: copy the bytes, no more.
        self._records.append(ctypes.string_at(data, size))
        return 0

    def records(self, timeout_s: float) -> list[bytes]:
        """Records since the last call; waits up to `timeout_s` for the first.

        Raises:
            UnsupportedError: WireGuard's module was unloaded, and the probes with it.
        """
        if kernel.module_id(WIREGUARD) != self._module_id:
            raise UnsupportedError(
                "the wireguard module was unloaded",
                "wgtrace's probes went with it: nothing is seen since",
                "start wgtrace again",
            )
        try:
            self._bpf.ring_buffer_poll(int(timeout_s * 1000))
        except OSError as exc:
            if exc.errno != errno.EINTR:
                raise
        taken = list(self._records)
        self._records.clear()
        return taken

    def totals(self) -> list[tuple[bytes, int]]:
        """(key, packets) of the map `totals`, summed over the CPUs."""
        table = self._bpf[b"totals"]
        return [(bytes(key), sum(leaf)) for key, leaf in table.items()]

    def counters(self) -> Counters:
        """Losses and limits, summed over the CPUs."""
        losses = self._bpf[b"losses"]
        streams = self._bpf[b"streams"]
        limited = {}
        for reason in Reason:
            count = sum(cpu.limited for cpu in streams[ctypes.c_uint32(reason)])
            if count:
                limited[reason] = count
        return Counters(
            {loss: sum(losses[ctypes.c_uint32(loss)]) for loss in Loss}, limited, self._missed_runs()
        )

    def _missed_runs(self) -> int:
        missed = 0
        for fd in self._program_fds:
            info = Path(f"/proc/self/fdinfo/{fd}").read_text()
            missed += sum(
                int(line.split()[1]) for line in info.splitlines() if line.startswith("recursion_misses")
            )
        return missed

    # -- end -----------------------------------------------------------------

    def _detach(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._program_fds.clear()
        self._bpf.cleanup()

    def close(self) -> None:
        """Detach everything; the counters cannot be read any more."""
        self._detach()


def kernel_release() -> str:
    """`uname -r`."""
    return platform.release()
