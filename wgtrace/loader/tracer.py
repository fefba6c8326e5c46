# SPDX-License-Identifier: GPL-2.0-only
"""The running programs: made, told what to trace, attached, polled, counted, detached.

Everything in the kernel is a file descriptor of this process and nothing is pinned,
so the kernel itself takes all of it away when the process ends, however it ends.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wgtrace.errors import CompileError, UnsupportedError
from wgtrace.events.flow_filter import Filter
from wgtrace.events.reasons import Reason
from wgtrace.events.types import Counters
from wgtrace.events.wire import ConfigWire, Loss, Site, SiteRangeWire, SitesWire, StreamWire, TracedKeyWire
from wgtrace.loader import kernel_filter, outside, programs
from wgtrace.loader.build import Build, running_kernel
from wgtrace.loader.bytecode import MapShape, with_maps
from wgtrace.loader.maps import Map, RingBuffer
from wgtrace.loader.plan import MOST_DEVICES
from wgtrace.loader.programs import RefusedError
from wgtrace.loader.source import Program
from wgtrace.probes import kernel
from wgtrace.probes.btf import Btf
from wgtrace.probes.catalogue import CATALOGUE, NF_TABLES, WIREGUARD
from wgtrace.probes.types import Mechanism, Probe, ProbeStatus

LOCKDOWN = Path("/sys/kernel/security/lockdown")
SYS_MODULE = Path("/sys/module")
GATHER_S = 0.002
"""What comes within this time of a first record is taken with it: a storm wakes nobody for each."""
_FIRST = bytes(4)  # key of an array's first entry
_YES = (1).to_bytes(4, sys.byteorder)

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

# The function behind kfree_skb_list(). Where it frees one by one, it is what the
# tracepoint tells as the place, and who called it is behind it on the stack.
_LIST_FREE = ("kfree_skb_list_reason", "kfree_skb_list")
_NO_LIST_FREE = ProbeStatus(
    "kfree-skb-list",
    _LIST_FREE[0],
    None,
    "the kernel does not list this function",
    "who frees a list of packets",
    tuple(
        r.id
        for r in (Reason.PEER_DEAD_TX, Reason.TX_QUEUE_FULL, Reason.ENCRYPT_QUEUE_FULL, Reason.ENCRYPT_FAILED)
    ),
    "packets that find a queue full or cannot be encrypted",
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
        sample: Tell of one data message in so many, for a catalogue with PACKETS; 0: of none.
    """

    traced: tuple[tuple[str, int], ...] | None
    events_per_second: int = 1000
    totals: int = 8192
    wanted: Filter = field(default_factory=Filter)
    snaplen: int | None = None
    devices: int = MOST_DEVICES
    sample: int = 0


def _advice() -> str:
    """What may help where the kernel refuses a probe, "" if nothing is known to."""
    try:
        mode = LOCKDOWN.read_text()
    except OSError:
        return ""
    locked = "[confidentiality]" in mode
    return "boot without lockdown=confidentiality: it forbids tracing" if locked else ""


class Tracer:
    """The programs, attached.

    Args:
        settings: What to trace.
        catalogue: What to attach.
        build: Its programs, if they are in the making already.

    Raises:
        UnsupportedError: No BCC, no BTF, no WireGuard.
        CompileError: The text did not compile, or the kernel does not make its maps.
    """

    def __init__(
        self, settings: Settings, catalogue: Sequence[Probe] = CATALOGUE, build: Build | None = None
    ) -> None:
        build = build or Build(running_kernel(catalogue, settings.snaplen, settings.devices))
        self._settings = settings
        self._plan = build.plan
        self._kernel_reasons = outside.kernel_reasons(self._plan.vmlinux)
        self._records: deque[bytes] = deque()
        self._fds: list[int] = []
        self._counted: list[int] = []
        self._followed: set[tuple[int, int]] = set()
        self._module_id = kernel.module_id(WIREGUARD)
        self._device_list = kernel.address_of(self._plan.symbols, "device_list")
        self._list_free = kernel.function_range(_LIST_FREE)
        self._places = kernel.Places()
        self._quiet: tuple[kernel.TextRange, ...] = ()
        self._ring: RingBuffer | None = None
        self._statuses: list[ProbeStatus] = []
        try:
            refused = self._load(build)
            if refused:  # each gets a second chance, as a kprobe
                self.close()
                self._load(Build(replace(self._plan, refused=refused)))
            if all(status.mechanism is None for status in self._statuses):
                first = self._statuses[0]
                raise UnsupportedError("no probe can be attached on this kernel", first.because, first.do)
        except BaseException:
            self.close()
            raise

    @property
    def probes(self) -> tuple[ProbeStatus, ...]:
        """What became of each row of the catalogue."""
        places = (_NO_DEVICE_LIST, self._device_list), (_NO_LIST_FREE, self._list_free)
        asked = {given for probe in self._plan.catalogue for given in probe.gives}
        missing = (place for place, is_there in places if not is_there and asked.intersection(place.gives))
        return (*self._statuses, *missing)

    @property
    def origin(self) -> str:
        """Where the programs come from, for the operator."""
        return self._origin

    @property
    def kernel_reasons(self) -> dict[int, str]:
        """`enum skb_drop_reason` of the running kernel, without its prefix."""
        return self._kernel_reasons

    @property
    def symbols(self) -> tuple[kernel.Symbol, ...]:
        """The symbols of WireGuard's module; empty if it is built into the kernel."""
        return tuple(self._plan.symbols)

    def describe(self, address: int) -> str:
        """`wg_xmit+0x83` for an address in the kernel."""
        return self._places.describe(address)

    # -- load and attach ---------------------------------------------------

    def _load(self, build: Build) -> dict[str, str]:
        """Load and attach what can be; gives the rows whose fentry was refused, and why."""
        self._plan = build.plan
        bytecode = build.bytecode()
        self._origin = build.origin
        self._maps: dict[str, Map] = {}
        try:
            for shape in bytecode.maps:
                self._maps[shape.name] = Map(self._sized(shape))
                self._fds.append(self._maps[shape.name].fd)
            self._configure()
            self._btf_fd = programs.module_btf(WIREGUARD)
        except OSError as exc:
            raise CompileError(
                "the kernel does not make the programs' maps", exc.strerror or str(exc), _advice()
            ) from exc
        self._fds += [self._btf_fd] if self._btf_fd else []
        self._statuses, refused = [], {}
        self._late: dict[int, tuple[Program, bytes]] = {}
        self._late_modules: dict[int, int] = {}
        for probe in self._plan.catalogue:
            variants = [program for program, _text in self._plan.variants[probe.name]]
            program = next((p for p in variants if p.name in bytecode.programs), variants[-1])
            if probe.is_late:
                self._late[len(self._statuses)] = program, bytecode.programs[program.name]
                self._statuses.append(self._status(program, f"once the module {probe.module} is loaded"))
                continue
            status = self._attach(program, bytecode.programs)
            self._statuses.append(status)
            if program.fentry and status.mechanism is None:
                refused[probe.name] = status.because
        self._attach_late()
        self._ring = RingBuffer(self._maps["events"], self._records.append)
        return refused

    def _status(self, program: Program, because: str) -> ProbeStatus:
        probe = program.probe
        how, gives = self._plan.mechanism(program), probe.gives
        return ProbeStatus(probe.name, program.target, how, because, probe.tells, gives, probe.without_it)

    def _attach_late(self) -> None:
        """Attach what waits for its module, if that is there by now; also when it was loaded anew."""
        for at, (program, code) in self._late.items():
            module = program.probe.module
            number = kernel.module_id(module)
            if not number or self._late_modules.get(at) == number:
                continue
            self._late_modules[at] = number
            because = self._plan.because(program)
            try:
                maps = [each.fd for each in self._maps.values()]
                self._attach_once(program, self._plan.mechanism(program), with_maps(code, maps))
                if module == NF_TABLES:  # from now on a drop without a statement is known to be one
                    self._find_nft()
            except RefusedError as exc:
                self._statuses[at] = replace(self._status(program, str(exc)), mechanism=None, do=_advice())
            except UnsupportedError as exc:
                text = f"{exc.what}: {exc.because}"
                self._statuses[at] = replace(self._status(program, text), mechanism=None)
            else:
                self._statuses[at] = self._status(program, because)

    def _find_nft(self) -> None:
        """Tell the programs where nf_tables keeps its rules."""
        symbols, types = kernel.module_symbols(NF_TABLES), Btf.module(NF_TABLES, self._plan.vmlinux)
        config = outside.path_config(symbols, types, self._quiet)
        self._maps["path_config"].update(_FIRST, bytes(config))

    def _attach(self, program: Program, compiled: Mapping[str, bytes]) -> ProbeStatus:
        mechanism = self._plan.mechanism(program)
        status = self._status(program, self._plan.because(program))
        if not self._plan.has_function(program):
            because = f"this kernel has no function {program.target}: inlined or renamed"
            return replace(status, mechanism=None, because=because)
        maps = [each.fd for each in self._maps.values()]
        both = (program, program.second) if mechanism is Mechanism.RAW_TRACEPOINT else (program,)
        try:
            for each in both:
                self._attach_once(each, mechanism, with_maps(compiled[each.name], maps))
        except RefusedError as exc:
            return replace(status, mechanism=None, because=str(exc), do=_advice())
        return status

    def _attach_once(self, program: Program, mechanism: Mechanism, code: bytes) -> None:
        target, function = program.target, (0, 0)
        if program.fentry:
            function = (self._plan.wireguard.function_id(target) or 0, self._btf_fd)
        elif program.probe.module and (SYS_MODULE / program.probe.module / "initstate").exists():
            # A module that is built into the kernel has no symbols of its own.
            target = f"{program.probe.module}:{target}"
        loaded = programs.load(program.name, code, mechanism, *function)
        self._fds.append(loaded)
        self._fds.append(programs.attach(loaded, mechanism, target))
        if mechanism is not Mechanism.RAW_TRACEPOINT:  # of a pair, one at least runs
            self._counted.append(loaded)

    def _sized(self, shape: MapShape) -> MapShape:
        """A map as large as these settings need it."""
        if shape.name == "totals":
            return replace(shape, max_entries=self._settings.totals)
        if shape.name == "events" and (self._settings.snaplen or 0) > 512:
            return replace(shape, max_entries=shape.max_entries * 8)
        return shape

    def _configure(self) -> None:
        everywhere, limit = self._settings.traced is None, self._settings.events_per_second
        config = ConfigWire(all=everywhere, events_per_second=limit, device_list=self._device_list)
        self._maps["config"].update(_FIRST, bytes(config))
        for ifname, netns in self._settings.traced or ():
            key = TracedKeyWire(netns=netns)
            raw = os.fsencode(ifname)[:15]
            key.ifname[: len(raw)] = list(raw)
            self._maps["traced"].update(bytes(key), _YES)
        self._maps["filters"].update(_FIRST, bytes(kernel_filter.filter_wire(self._settings.wanted)))
        for peer in kernel_filter.peer_keys(self._settings.wanted):
            self._maps["wanted_peers"].update(bytes(peer), _YES)
        ranges = kernel.text_ranges(self._plan.symbols, _SITES)
        if not ranges:
            raise UnsupportedError(
                "WireGuard's functions are not in /proc/kallsyms",
                "the module is not loaded, or built into the kernel",
                "modprobe wireguard",
            )
        sites = SitesWire(min(r.start for r in ranges), max(r.end for r in ranges))
        for slot, found in enumerate(ranges):
            sites.range[slot] = SiteRangeWire(found.start, found.end, _SITES[found.function])
        if self._list_free:
            sites.list_start, sites.list_end = self._list_free.start, self._list_free.end
        self._maps["sites"].update(_FIRST, bytes(sites))
        if "path_config" in self._maps:
            self._configure_path()

    def _configure_path(self) -> None:
        names = self.kernel_reasons
        # Else those copies have a reason of their own.
        copies = () if "PACKET_SOCK_ERROR" in names.values() else outside.COPIES
        self._quiet = kernel.function_ranges((*outside.PARTS, *copies))
        self._maps["path_config"].update(_FIRST, bytes(outside.path_config(quiet=self._quiet)))
        for slot, rule in outside.path_rules(names, self._settings.wanted).items():
            if rule:
                self._maps["path_reasons"].update(_slot(slot), rule.to_bytes(4, sys.byteorder))
        if "sampling" in self._maps:
            self._maps["sampling"].update(_FIRST, self._settings.sample.to_bytes(8, sys.byteorder))

    def follow(self, interfaces: Iterable[tuple[int, int]]) -> None:
        """Trace these interfaces, whatever they are called from now on, and no others under any name.

        Args:
            interfaces: (inode of the namespace, index in it) of each.
        """
        if self._settings.traced is None:
            return
        wanted, traced = set(interfaces), self._maps["traced"]
        for netns, ifindex in wanted - self._followed:
            traced.update(bytes(TracedKeyWire(netns=netns, ifindex=ifindex)), _YES)
        for netns, ifindex in self._followed - wanted:
            traced.delete(bytes(TracedKeyWire(netns=netns, ifindex=ifindex)))
        self._followed = wanted

    # -- run -----------------------------------------------------------------

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
        self._attach_late()
        if self._ring:
            self._ring.poll(timeout_s)
            if self._records and timeout_s:
                time.sleep(GATHER_S)
                self._ring.poll(0)
        taken = list(self._records)
        self._records.clear()
        return taken

    def totals(self) -> list[tuple[bytes, int]]:
        """(key, packets) of the map `totals`, summed over the CPUs."""
        totals = self._maps["totals"]
        return [(key, _sum(totals.values(key))) for key in totals.keys()]  # noqa: SIM118

    def entries(self, name: str) -> list[tuple[bytes, bytes]]:
        """(key, value) of a map of the catalogue's own that is not per CPU."""
        entries = self._maps[name]
        found = ((key, entries.values(key)) for key in list(entries.keys()))
        return [(key, values[0]) for key, values in found if values]

    def write(self, name: str, key: bytes, value: bytes | None) -> None:
        """Write an entry of such a map; without a value, remove it."""
        if value is None:
            self._maps[name].delete(key)
        else:
            self._maps[name].update(key, value)

    def handshake_times(self) -> list[tuple[bytes, list[bytes]]]:
        """(key, values of the CPUs) of the map `handshake_times`."""
        times = self._maps["handshake_times"]
        return [(key, times.values(key)) for key in times.keys()]  # noqa: SIM118

    def counters(self) -> Counters:
        """Losses and limits, summed over the CPUs."""
        losses, streams = self._maps["losses"], self._maps["streams"]
        limited = {}
        for reason in Reason:
            shown = (StreamWire.from_buffer_copy(value) for value in streams.values(_slot(reason)))
            if count := sum(stream.limited for stream in shown):
                limited[reason] = count
        lost = {loss: _sum(losses.values(_slot(loss))) for loss in Loss}
        missed = sum(map(programs.missed_runs, self._counted))
        return Counters(lost, limited, missed, self._path_limited())

    def _path_limited(self) -> dict[int, int]:
        limited: dict[int, int] = {}
        streams = self._maps.get("path_streams")
        if streams is None:
            return limited
        for slot, number in outside.firsts(self._kernel_reasons).items():
            values = streams.values(_slot(slot))
            if count := sum(StreamWire.from_buffer_copy(value).limited for value in values):
                limited[number] = count
        return limited

    def close(self) -> None:
        """Detach everything; the counters cannot be read any more."""
        if self._ring:
            self._ring.close()
            self._ring = None
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._counted.clear()


def _slot(number: int) -> bytes:
    """Key of an array's entry."""
    return number.to_bytes(4, sys.byteorder)


def _sum(values: Iterable[bytes]) -> int:
    """Sum of u64 counts."""
    return sum(int.from_bytes(value, sys.byteorder) for value in values)


def kernel_release() -> str:
    """`uname -r`."""
    return platform.release()
