# SPDX-License-Identifier: GPL-2.0-only
"""A recording under pseudonyms tells the same, and holds nothing that is anybody's."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from factories import BERLIN, NETNS, OURS, PARIS, STRANGER, device, peer
from records import flow4, record
from runs import Line, of, replayed
from runs import record as recorded
from stand_ins import Host, Replay, drop, raw, step, total_of

from wgtrace.events.reasons import HandshakeCode, Reason, SubReason
from wgtrace.events.wire import EventKind, PacketWay
from wgtrace.evidence.redact import redacted
from wgtrace.recording.format import Block, Kind, file_header, packed
from wgtrace.recording.reader import opened

N, M = 23, 7
PEERS = (
    peer(BERLIN, "berlin", "10.9.0.2/32", at="203.0.113.9:51820"),
    peer(PARIS, "paris", "10.9.0.3/32", "10.9.4.0/24", at="[2001:db8:77::3]:4500"),
)
BERLINS = {
    "public_key": raw(BERLIN),
    "known": 1,
    "endpoint_addr": ip_address("203.0.113.9").packed,
    "endpoint_port": 51820,
    "endpoint_family": 4,
}


def _run() -> tuple[Replay, Host]:
    """Drops with all that a record can hold, a handshake, a data message, a change of the configuration."""
    stray = drop(
        Reason.SRC_NOT_ALLOWED,
        peer=BERLINS,
        sub_reason=SubReason.OWNED_BY_OTHER_PEER,
        inner=flow4("10.9.4.7", "10.9.0.1", 6, 52114, 443, 84),
        outer=flow4("203.0.113.9", "198.51.100.77", 17, 51820, 51820, 144),
        other_key=raw(PARIS),
        location=0x7,
    )
    junk = drop(
        Reason.BAD_HEADER,
        outer=flow4("203.0.113.9", "198.51.100.77", 17, 51820, 51820, 144),
        sub_reason=SubReason.UNKNOWN_TYPE,
        payload=b"\x09\0\0\0to bob@acme!",
        payload_len=60,
    )
    knock = drop(Reason.UNKNOWN_PEER_PUBKEY, other_key=raw(STRANGER))
    sample = record(
        EventKind.PACKET, device={"ifname": b"wg0", "netns": NETNS}, peer=BERLINS, way=PacketWay.ARRIVED,
        outer=flow4("203.0.113.9", "198.51.100.77", 17, 51820, 51820, 144),
    )  # fmt: skip
    asked = record(
        EventKind.HANDSHAKE, device={"ifname": b"wg0", "netns": NETNS}, peer=BERLINS,
        code=HandshakeCode.ROUTE_FOUND,
        inner=flow4("10.9.0.66", "10.9.4.67", 17, 4000, 53, 60), source=ip_address("198.51.100.68").packed,
    )  # fmt: skip
    sums = {
        total_of(Reason.SRC_NOT_ALLOWED, BERLIN, SubReason.OWNED_BY_OTHER_PEER): N,
        total_of(Reason.BAD_HEADER, sub=SubReason.UNKNOWN_TYPE): M,
        total_of(Reason.UNKNOWN_PEER_PUBKEY): 1,
        total_of(HandshakeCode.INIT_SENT, PARIS): 1,
    }
    host = Host()
    host.set(device(peers=PEERS))()
    change = record(EventKind.CONFIG, pid=7, comm=b"wg")
    polls: list[list[Any]] = [
        [stray] * N + [junk] * M,
        [step(HandshakeCode.INIT_SENT, PARIS), asked, sample, knock],
        [change, host.set(device(peers=PEERS, listen_port=7))],
    ]
    return Replay(polls, sums), host


def _bodies(path: Path) -> bytes:
    with path.open("rb") as file:
        content = [file.read()]
    with_blocks = opened(path)
    content += [block.body for block in with_blocks.blocks() if isinstance(block, Block)]
    with_blocks.close()
    return b"\n".join(content)


def _written(tmp_path: Path, files: Sequence[bytes]) -> list[Path]:
    paths = [tmp_path / f"redacted-{number}.rec" for number in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    return paths


def _comparable(lines: Sequence[Line]) -> list[object]:
    """What does not depend on who is who."""
    drops = [(d["reason"], d["sub_reason"], bool(d["peer"]), d["where"]) for d in of(lines, "drop")]
    findings = [(f["slug"], f["count"], f["confidence"], bool(f["peer"])) for f in of(lines, "finding")]
    (end,) = of(lines, "summary")
    totals = sorted((t["reason"], t["count"], bool(t["peer"])) for t in end["totals"])
    return [drops, findings, totals, end["complete"], end["incomplete_because"]]


def test_it_tells_the_same_and_nothing_is_left(tmp_path: Path) -> None:
    """Same drops, places, findings, totals; no key, address, name or payload of before, raw or as text."""
    path = tmp_path / "wg.rec"
    recorded(_run, path)
    result = redacted([path])
    (there,) = _written(tmp_path, result.files)

    before, after = replayed(path), replayed(there)
    assert _comparable(after) == _comparable(before)
    assert next(f["slug"] for f in of(after, "finding")) == "source-owned-by-other-peer"

    held, held_before = _bodies(there), _bodies(path)
    somebodys = [key.encode() for key in (OURS, BERLIN, PARIS)]
    somebodys += [raw(key) for key in (BERLIN, PARIS, STRANGER)]
    somebodys += [ip_address(a).packed for a in ("10.9.4.7", "10.9.0.1", "203.0.113.9", "198.51.100.77")]
    somebodys += [ip_address(a).packed for a in ("10.9.0.66", "10.9.4.67", "198.51.100.68")]
    somebodys += [b"10.9.0.2/32", b"10.9.0.3/32", b"10.9.4.0/24", b"203.0.113.9", b"2001:db8:77::3"]
    somebodys += [b"berlin", b"paris", b"bob@acme", b"/etc/wireguard/wg0.conf", path.name.encode()]
    assert [piece for piece in somebodys if piece not in held_before] == []
    assert [piece for piece in somebodys if piece in held] == []
    assert result.left_out == (
        f"what follows the first 4 bytes of {M} datagrams that are no WireGuard messages",
    )


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    """A block and a record of a later wgtrace may hold anything: they are not in it, and that is said."""
    path = tmp_path / "wg.rec"
    recorded(_run, path)
    later = bytearray(step(HandshakeCode.INIT_SENT, PARIS))
    later[12:14] = (77).to_bytes(2, "little")
    body = len(later).to_bytes(4, "little") + bytes(later)
    with path.open("ab") as file:
        file.write(packed(Block(77, 900, 1, b"secret of berlin")))
        file.write(packed(Block(Kind.RECORDS, 901, 1, body)))
    result = redacted([path])
    (there,) = _written(tmp_path, result.files)

    assert b"secret of" not in _bodies(there)
    assert "1 block of a kind that this wgtrace does not know" in result.left_out
    assert "1 record of a kind that this wgtrace does not know" in result.left_out


def test_addresses_of_the_kernel_are_moved(tmp_path: Path) -> None:
    """Where the module lay is the host's secret; where in it a packet was freed is not."""
    path = tmp_path / "wg.rec"
    recorded(_run, path)
    (there,) = _written(tmp_path, redacted([path]).files)
    file = opened(there)
    file.close()

    assert [hex(symbol.address) for symbol in file.facts.symbols] == ["0xffffffffc0000000"]
    assert {drop["where"] for drop in of(replayed(there), "drop")} == {"wg_packet_rx_poll+0x7", ""}
    assert file.facts.command == ("record", "-o", "...")


def test_what_is_missing_stays_missing(tmp_path: Path) -> None:
    """Of a damaged recording the same is said as of the one that it was made of."""
    path = tmp_path / "wg.rec"
    recorded(_run, path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    (there,) = _written(tmp_path, redacted([path]).files)

    assert there.read_bytes().startswith(file_header())
    because = of(replayed(there), "summary")[0]["incomplete_because"]
    assert "the recording breaks off at" in str(because)
