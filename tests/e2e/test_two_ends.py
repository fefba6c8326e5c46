# SPDX-License-Identifier: GPL-2.0-only
"""Both ends recorded and put together; an archive of it for a bug report, without a secret.

One recorder sees both ends, as they are on one kernel; its recording is taken apart by namespace.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scenes import new_key, send, wait_until
from tracer import START_S

from wgtrace.events.decode import device_of
from wgtrace.lab.topology import Host, Network, router_with_nat
from wgtrace.recording import bodies
from wgtrace.recording.facts import Facts
from wgtrace.recording.format import Block, Kind, file_header, packed
from wgtrace.recording.plain import dumped, loaded
from wgtrace.recording.reader import opened
from wgtrace.state.types import Snapshot

pytestmark = pytest.mark.soak

N, M = 73, 37
SESSIONS = 3
STRAYS = 23
PIECE = 8
CONF = Path("/etc/wireguard/canary.conf")
LOSS = """
add table inet loss
add chain inet loss f { type filter hook forward priority 10; }
add rule inet loss f oifname eth1 @th,64,8 4 numgen inc mod 13 == 7 counter drop
"""


@dataclass
class Scene:
    """What was recorded.

    Attributes:
        lost: Of a's data messages, as nft counted them.
        secrets: Every key that must be in no output.
    """

    net: Network
    recording: Path
    lost: int
    secrets: dict[str, bytes]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """a behind NAT sends to b, and each 13th data message is lost; then b refuses what a stray sends."""
    directory = tmp_path_factory.mktemp("ends")
    path, ready = directory / "both.rec", directory / "ready"
    environment = os.urandom(32)
    secrets = {"environment": environment, **_conf_secrets()}
    env = {**os.environ, "WG_PRIVATE_KEY": base64.b64encode(environment).decode()}
    command = [
        "wgtrace",
        "record",
        "--all",
        "--sample",
        "1",
        "-q",
        "-o",
        str(path),
        "--ready-file",
        str(ready),
    ]
    with router_with_nat(ifname="ends0") as net:
        secrets |= _interface_secrets(net)
        recorder = subprocess.Popen(command, env=env)
        try:
            wait_until(lambda: ready.exists() or recorder.poll() is not None, START_S)
            lost = _traffic(net, secrets["private of b"][:12])
        finally:
            recorder.send_signal(signal.SIGINT)
            assert recorder.wait(timeout=60) == 0
        try:
            yield Scene(net, path, lost, secrets)
        finally:
            CONF.unlink()


def _traffic(net: Network, part_of_a_key: bytes) -> int:
    """Sessions anew, data both ways; gives how many of a's messages were dropped in between."""
    net.connect()
    net.router.run(["nft", "-f", "-"], stdin=LOSS)
    for _ in range(SESSIONS):  # each begins with a handshake
        net.a.ip("link", "set", "ends0", "down")
        net.a.ip("link", "set", "ends0", "up")
        wait_until(
            lambda: net.a.run(["ping", "-n", "-c1", "-W1", net.b.inner()], check=False).returncode == 0
        )
        net.a.send_udp(net.b.inner(), count=N, payload=bytes(100))
        net.b.send_udp(net.a.inner(), count=M, payload=bytes(100))
    net.a.run(["ping", "-n", "-c3", "-i1", net.b.inner()], check=False)  # what leaves last is not judged
    told = net.router.run(["nft", "list", "table", "inet", "loss"]).stdout
    net.router.run(["nft", "delete", "table", "inet", "loss"])
    net.a.ip("addr", "add", "192.168.50.9/32", "dev", "lo")
    net.a.send_udp(net.b.inner(), count=STRAYS, source="192.168.50.9")
    send(net.router, net.b, [b"\x09\0\0\0" + part_of_a_key + bytes(16)])
    net.a.run(["ping", "-n", "-c3", "-i1", net.b.inner()])
    found = re.search(r"counter packets (\d+)", told)
    assert found
    return int(found[1])


def _interface_secrets(net: Network) -> dict[str, bytes]:
    psk = new_key("genpsk").strip()
    found = {"preshared": base64.b64decode(psk)}
    for host, other in ((net.a, net.b), (net.b, net.a)):
        host.wg("set", host.ifname, "peer", other.public_key, "preshared-key", "/dev/stdin", stdin=psk)
        found[f"private of {host.name}"] = base64.b64decode(host.wg("show", host.ifname, "private-key"))
    return found


def _conf_secrets() -> dict[str, bytes]:
    private, preshared = os.urandom(32), os.urandom(32)
    CONF.parent.mkdir(exist_ok=True)
    texts = [base64.b64encode(secret).decode() for secret in (private, preshared)]
    public = base64.b64encode(os.urandom(31) + b"\x04").decode()
    CONF.write_text(
        f"[Interface]\nPrivateKey = {texts[0]}\n[Peer]\n# Name = oslo\n"
        f"PublicKey = {public}\nPresharedKey={texts[1]}\n"
    )
    return {"private in a file": private, "preshared in a file": preshared}


def part(recording: Path, host: Host, to: Path) -> Path:
    """What a recorder in one host's namespace would have kept of it."""
    netns = os.stat(host.netns_path).st_ino
    parts = [file_header()]
    with contextlib.closing(opened(recording)) as file:
        for block in file.blocks():
            assert isinstance(block, Block)
            body = block.body
            if block.kind == Kind.FACTS:
                body = dumped(replace(loaded(Facts, body), run=host.name))
            elif block.kind == Kind.STATE:
                state = loaded(Snapshot, body)
                body = dumped(replace(state, devices=tuple(d for d in state.devices if d.netns == netns)))
            elif block.kind == Kind.RECORDS:
                records = bodies.records(body)
                body = bodies.records_body(r for r in records if (device_of(r) or ("", netns))[1] == netns)
            parts.append(packed(replace(block, body=body)))
    to.write_bytes(b"".join(parts))
    return to


def spellings(secret: bytes) -> set[bytes]:
    """Pieces of a key as bytes, in base64 and in hexadecimal: 16 in a row of any hold one of them."""
    texts = (secret, base64.b64encode(secret), secret.hex().encode())
    return {t[at : at + PIECE] for t in texts for at in range(0, len(t) - PIECE + 1, PIECE)}


def found_in(data: bytes, secrets: dict[str, bytes]) -> list[str]:
    """Names of the canaries that are in there."""
    return [name for name, secret in secrets.items() if any(piece in data for piece in spellings(secret))]


def content(path: Path) -> bytes:
    """A file as it stands; a recording also as it is when it is inflated."""
    data = path.read_bytes()
    if path.suffix == ".rec":
        with contextlib.closing(opened(path)) as file:
            data += b"\n".join(block.body for block in file.blocks() if isinstance(block, Block))
    return data


def test_both_ends_together(scene: Scene, tmp_path: Path) -> None:
    """What nft dropped is what is lost, in that direction only; every handshake matches; the clock is one."""
    ends = [part(scene.recording, host, tmp_path / f"{host.name}.rec") for host in (scene.net.a, scene.net.b)]
    done = subprocess.run(["wgtrace", "merge", "--json", *ends], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    tunnel, *proved = [json.loads(line) for line in done.stdout.splitlines()]
    there, back = tunnel["ways"]

    assert scene.lost > 7
    assert (there["data"]["lost"], back["data"]["lost"]) == (scene.lost, 0), tunnel
    assert there["data"]["loss"] == there["data"]["loss_at_least"] == there["data"]["loss_at_most"]
    assert there["initiations"]["left"] == there["initiations"]["arrived"] >= SESSIONS
    assert back["responses"] == there["initiations"]
    assert there["dropped"] == {"src_not_allowed": STRAYS}
    clock = tunnel["clock"]
    assert clock["measured"]
    assert abs(clock["boottime_ahead_ns"]) <= clock["within_ns"] < 1_000_000_000
    assert abs(clock["drift_ppm"]) <= clock["drift_within_ppm"]
    assert [finding["slug"] for finding in proved] == ["one-way-loss", "nat-in-path"]
    assert found_in(done.stdout.encode(), scene.secrets) == []


@pytest.mark.parametrize("redact", [True, False], ids=["pseudonyms", "as it is"])
def test_an_archive_without_a_secret(scene: Scene, redact: bool, tmp_path: Path) -> None:
    """No key of interface, file or environment is in it; with pseudonyms no public key or address either."""
    path = tmp_path / "case.tar.gz"
    env = {**os.environ, "WG_PRIVATE_KEY": base64.b64encode(scene.secrets["environment"]).decode()}
    options = [] if redact else ["--no-redact"]
    recording = scene.recording if redact else part(scene.recording, scene.net.a, tmp_path / "a.rec")
    command = ["wgtrace", "evidence", "-o", str(path), *options, str(recording)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    subprocess.run(["tar", "-xzf", path, "-C", tmp_path], check=True)
    files = {file.name: content(file) for file in (tmp_path / "case").iterdir()}

    assert {"report.md", "recording.rec", "repro.sh", "SHA256SUMS"} <= set(files)
    for name, data in {**files, "stdout": done.stdout.encode(), "archive": path.read_bytes()}.items():
        assert found_in(data, scene.secrets) == [], name
    hosts = (scene.net.a, scene.net.b)
    somebodys = [text.encode() for host in hosts for text in (host.public_key, host.outer_addr, host.inner())]
    somebodys += [base64.b64decode(host.public_key) for host in hosts]
    everything = b"".join(files.values())
    assert (scene.net.b.public_key.encode() in everything) is not redact
    if redact:
        assert [piece for piece in somebodys if piece in everything] == []
        repro = ["bash", str(tmp_path / "case/repro.sh")]
        script = subprocess.run(repro, capture_output=True, text=True, check=False)
        assert (script.returncode, script.stderr) == (0, ""), script.stdout
        assert "[ok] a source that is in no AllowedIPs: rx_frame_errors +7" in script.stdout
        assert script.stdout.splitlines()[-1].startswith("[PASS] ")
        spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        assert "wgrepro" not in spaces


def test_an_archive_with_a_part_of_a_key_is_refused(scene: Scene, tmp_path: Path) -> None:
    """A part of b's private key came as a datagram: as it is it would be in it, so nothing is written."""
    path, ends = tmp_path / "case.tar.gz", part(scene.recording, scene.net.b, tmp_path / "b.rec")
    command = ["wgtrace", "evidence", "-o", str(path), str(ends)]
    refused = subprocess.run([*command, "--no-redact"], capture_output=True, text=True, check=False)

    assert (refused.returncode, refused.stdout) == (3, "")
    assert "a private or preshared key of this host is in " in refused.stderr
    assert found_in(refused.stderr.encode(), scene.secrets) == []
    assert not path.exists()
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0  # of it 4 bytes are kept
