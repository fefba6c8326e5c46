# SPDX-License-Identifier: GPL-2.0-only
"""A recording with pseudonyms for all that is somebody's: block for block, record for record.

What this wgtrace does not know is left out, as nobody can say what is in it.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from wgtrace.diagnosis.words import count_of
from wgtrace.events.decode import kind_of
from wgtrace.events.wire import (
    RECORDS,
    ConfigEventWire,
    DropEventWire,
    EventKind,
    FlowWire,
    HandshakeEventWire,
    InvariantEventWire,
    PacketEventWire,
    PathEventWire,
    PeerWire,
    TotalKeyWire,
)
from wgtrace.evidence.pseudonyms import Pseudonyms, secret_of
from wgtrace.recording import bodies
from wgtrace.recording.facts import TOTAL_KEY, Asked, Facts, sizes
from wgtrace.recording.format import Block, Flag, Kind, file_header, packed
from wgtrace.recording.growth import Growth
from wgtrace.recording.plain import dumped, loaded
from wgtrace.recording.reader import File, opened
from wgtrace.state.types import IPNetwork, Snapshot

_PAYLOAD_KEPT: Final = 4  # the type of a message, and what stands for it in one of another protocol
_TEXT_START: Final = 0xFFFF_FFFF_C000_0000  # where modules may lie; where this one lay is the host's secret
_PAGE: Final = 4096
_CORE_START: Final = 0xFFFF_FFFF_8100_0000  # and where the kernel's own code may lie
_CORE_STEP: Final = 16


@dataclass(frozen=True, slots=True)
class Redacted:
    """A recording under pseudonyms.

    Attributes:
        files: The files of the run, in their order.
        left_out: What is not in them any more, a sentence each.
    """

    files: tuple[bytes, ...]
    left_out: tuple[str, ...]


def redacted(paths: Sequence[Path]) -> Redacted:
    """The files of one run, with pseudonyms.

    Raises:
        UsageError: One is no recording.
        UnsupportedError: One may not be read here, or a newer wgtrace made it.
        RecordingError: One is whole, and yet not what this wgtrace expects.
    """
    files = [opened(path) for path in paths]
    try:
        files.sort(key=lambda file: file.facts.file)
        secret = secret_of(*(file.path.read_bytes() for file in files))
        writer = _Writer(Pseudonyms(secret, *_known(files)), files[0].facts)
        written = tuple(writer.written(file) for file in files)
        return Redacted(written, tuple(writer.left_out()))
    finally:
        for file in files:
            file.close()


def _known(files: Iterable[File]) -> tuple[set[IPNetwork], set[str], set[str]]:
    """Networks in which an address stands for its place, names of peers, and of interfaces."""
    nets: set[IPNetwork] = set()
    names: set[str] = set()
    ifnames: set[str] = set()
    for file in files:
        for block in file.blocks():
            if not isinstance(block, Block):
                continue
            if block.kind == Kind.STATE:
                snapshot = file.understood(lambda body: loaded(Snapshot, body), block)
                peers = [peer for device in snapshot.devices for peer in device.peers]
                nets.update(net for peer in peers for net in peer.allowed_ips)
                names.update(peer.name for peer in peers if peer.name)
                ifnames.update(device.ifname for device in snapshot.devices)
            elif block.kind == Kind.ASKED:
                asked = file.understood(lambda body: loaded(Asked, body), block)
                nets.update(claim.net for claim in asked.claims)
                ways = [asked_way.way for asked_way in asked.ways]
                nets.update(route.net for way in ways for route in (*way.defaults, *way.refusing))
                ifnames.update(way.oif for way in ways)
            elif block.kind == Kind.RECORDS:
                records = file.understood(bodies.records, block)
                ifnames.update(
                    _text(PathEventWire.from_buffer_copy(raw).ifname) for raw in records if _is_path(raw)
                )
    return nets, names, ifnames


def _is_path(raw: bytes) -> bool:
    return kind_of(raw) == EventKind.PATH and len(raw) >= ctypes.sizeof(PathEventWire)


def _text(field: Any) -> str:
    return bytes(field).split(b"\0", 1)[0].decode(errors="replace")


class _Writer:
    def __init__(self, to: Pseudonyms, facts: Facts) -> None:
        self._to = to
        text = [symbol.address for symbol in facts.symbols]
        self._text = (min(text), max(text) + _PAGE) if text else (0, 0)
        self._core: dict[int, int] = {}
        self._unknown_blocks = self._unknown_records = self._payloads = self._captured = 0

    def left_out(self) -> Iterable[str]:
        if self._unknown_blocks:
            yield f"{count_of(self._unknown_blocks, 'block')} of a kind that this wgtrace does not know"
        if self._unknown_records:
            yield f"{count_of(self._unknown_records, 'record')} of a kind that this wgtrace does not know"
        if self._payloads:
            yield (
                f"what follows the first {_PAYLOAD_KEPT} bytes of {count_of(self._payloads, 'datagram')} "
                "that are no WireGuard messages"
            )
        if self._captured:
            yield f"the bytes of {count_of(self._captured, 'packet')}"

    def written(self, file: File) -> bytes:
        growth = Growth(file.facts)
        parts = [file_header()]
        for block in file.blocks():
            if isinstance(block, Block):
                body = self._body(file, block, growth)
                if body is None:
                    self._unknown_blocks += 1
                else:
                    parts.append(packed(replace(block, body=body, flags=Flag(block.flags))))
        return b"".join(parts)

    def _body(self, file: File, block: Block, growth: Growth) -> bytes | None:
        def of(kind: type[Any]) -> bytes:
            return dumped(self._to.of(file.understood(lambda body: loaded(kind, body), block)))

        if block.kind == Kind.FACTS:
            return dumped(self._facts(file.facts))
        if block.kind == Kind.STATE:
            return of(Snapshot)
        if block.kind == Kind.ASKED:
            asked = file.understood(lambda body: loaded(Asked, body), block)
            places = {self._address_of_code(at): text for at, text in asked.places.items()}
            return dumped(replace(self._to.of(asked), places=places))
        if block.kind == Kind.RECORDS:
            records = file.understood(bodies.records, block)
            written = (self._record(growth.as_now(kind_of(record), record)) for record in records)
            return bodies.records_body(record for record in written if record is not None)
        if block.kind == Kind.TOTALS:
            totals = file.understood(bodies.totals, block)
            return bodies.totals_body(
                {self._total(growth.as_now(TOTAL_KEY, k)): n for k, n in totals.items()}
            )
        if block.kind == Kind.COUNTERS:
            return bodies.counters_body(file.understood(bodies.counters, block)[0])
        if block.kind == Kind.CLOCK:
            return block.body
        if block.kind == Kind.END:
            blind = self._to.text(file.understood(bodies.blind, block))
            because = file.understood(lambda body: str(json.loads(body).get("because", "")), block)
            return json.dumps({"because": because, "blind": blind}).encode()
        return None

    def _facts(self, facts: Facts) -> Facts:
        symbols = tuple(replace(s, address=s.address - self._text[0] + _TEXT_START) for s in facts.symbols)
        return replace(
            facts, command=_command(facts.command), symbols=symbols, sizes=sizes(),
            probes=self._to.of(facts.probes),
        )  # fmt: skip

    def _location(self, address: int) -> int:
        start, end = self._text
        return address - start + _TEXT_START if address and start <= address < end else 0

    def _address_of_code(self, address: int) -> int:
        """Of a function of WireGuard's, or of the kernel's: those are numbered, `Asked.places` names them."""
        if not address or self._location(address):
            return self._location(address)
        return self._core.setdefault(address, _CORE_START + len(self._core) * _CORE_STEP)

    def _record(self, raw: bytes) -> bytes | None:
        kind = next((kind for kind in RECORDS if kind == kind_of(raw)), None)
        if kind is None or len(raw) < ctypes.sizeof(RECORDS[kind]):
            self._unknown_records += 1
            return None
        wire: Any = RECORDS[kind].from_buffer_copy(raw)
        wire.hdr.len = ctypes.sizeof(wire)
        if hasattr(wire, "device"):
            self._name(wire.device.ifname, self._to.ifname)
        if isinstance(wire, DropEventWire):
            self._peer(wire.peer)
            self._flow(wire.inner)
            self._flow(wire.outer)
            wire.other_key[:] = list(self._to.raw_key(bytes(wire.other_key)))
            wire.location = self._location(wire.location)
            if any(wire.payload[_PAYLOAD_KEPT:]):
                self._payloads += 1
                wire.payload[_PAYLOAD_KEPT:] = [0] * (len(wire.payload) - _PAYLOAD_KEPT)
            self._captured += bool(wire.captured_len)
            wire.captured_len = wire.captured_layer = 0
        elif isinstance(wire, PathEventWire):
            self._peer(wire.peer)
            self._flow(wire.inner)
            self._flow(wire.outer)
            wire.location = self._address_of_code(wire.location)
            self._name(wire.table, self._to.table)
            self._name(wire.chain, self._to.chain)
            self._name(wire.ifname, self._to.ifname)
        elif isinstance(wire, InvariantEventWire):
            self._peer(wire.peer)
            self._flow(wire.inner)
            wire.stack[:] = [self._address_of_code(address) for address in wire.stack]
        elif isinstance(wire, PacketEventWire):
            self._peer(wire.peer)
            self._flow(wire.outer)
        elif isinstance(wire, HandshakeEventWire):
            self._peer(wire.peer)
            self._flow(wire.inner)
            self._address(wire.source, wire.peer.endpoint_family)
            self._name(wire.out_ifname, self._to.ifname)
        elif not isinstance(wire, ConfigEventWire):
            self._unknown_records += 1  # its fields were never looked at here
            return None
        return bytes(wire)

    def _total(self, raw: bytes) -> bytes:
        key = TotalKeyWire.from_buffer_copy(raw)
        self._name(key.ifname, self._to.ifname)
        key.public_key[:] = list(self._to.raw_key(bytes(key.public_key)))
        return bytes(key)

    def _peer(self, peer: PeerWire) -> None:
        peer.public_key[:] = list(self._to.raw_key(bytes(peer.public_key)))
        self._address(peer.endpoint_addr, peer.endpoint_family)

    def _flow(self, flow: FlowWire) -> None:
        self._address(flow.saddr, flow.family)
        self._address(flow.daddr, flow.family)

    def _name(self, field: Any, another: Callable[[str], str]) -> None:
        field[:] = list(another(_text(field)).encode()[: len(field) - 1].ljust(len(field), b"\0"))

    def _address(self, field: Any, family: int) -> None:
        size = {4: 4, 6: 16}.get(family, 0)
        packed_address = self._to.address(ip_address(bytes(field[:size]))).packed if size else b""
        field[:] = packed_address.ljust(len(field), b"\0")


def _command(words: Sequence[str]) -> tuple[str, ...]:
    """The command line: which command, options and numbers; what else was given is nobody's business."""
    kept = []
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if at == 0 or word.startswith("-"):
            kept.append(name if not equals or value.isdecimal() is False else word)
        else:
            kept.append(word if word.replace(".", "", 1).isdecimal() else "...")
    return tuple(kept)
