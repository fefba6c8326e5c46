# SPDX-License-Identifier: GPL-2.0-only
"""Canary keys in interface, configuration files and environment: in no output, file, map, memory or core."""

from __future__ import annotations

import base64
import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenes import send, wait_until
from tracer import START_S

from wgtrace.lab.topology import Network, two_hosts

pytestmark = pytest.mark.once

PIECE = 8
GARBAGE = b"\x09\x00\x00\x00" + bytes(60)
CONF_DIR = Path("/etc/wireguard")
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


def spellings(secret: bytes) -> set[bytes]:
    """Pieces of a key as bytes, in base64 and in hexadecimal: 16 in a row of any hold one of them."""
    texts = (secret, base64.b64encode(secret), secret.hex().encode())
    return {t[at : at + PIECE] for t in texts for at in range(0, len(t) - PIECE + 1, PIECE)}


def found_in(data: bytes, secrets: dict[str, bytes]) -> list[str]:
    """Names of the canaries that are in there, in one spelling or another."""
    return [
        name for name, secret in secrets.items() if any(spelling in data for spelling in spellings(secret))
    ]


def memory(pid: int) -> Iterator[tuple[str, bytes]]:
    """All that a process can have written: each such mapping's name and bytes."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for line in maps:
            bounds, mode, *rest = line.split(maxsplit=5)
            start, end = (int(bound, 16) for bound in bounds.split("-"))
            name = rest[-1].strip() if len(rest) == 4 else ""
            if mode.startswith("rw"):
                mem.seek(start)
                data = b""
                try:
                    while len(data) < end - start and (more := mem.read(end - start - len(data))):
                        data += more
                except OSError:
                    pass
                yield name, data


def maps_of(pid: int) -> Iterator[bytes]:
    """What each BPF map of a process holds, as bpftool dumps it, and as bytes."""
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        found = re.search(r"^map_id:\s*(\d+)", info.read_text(), re.MULTILINE)
        if found:
            command = ["bpftool", "map", "dump", "id", found[1]]
            dump = subprocess.run(command, capture_output=True, check=False).stdout
            # `key:` and `value:` in bytes of two digits, a blank between: joined, so that a key shows.
            numbers = re.sub(rb"0x([0-9a-f]{2})\b|\s|[\[\],\"]", rb"\1", dump)
            yield dump + numbers


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """Two hosts with a session, whose interface at b has a preshared key too."""
    with two_hosts(ifname="canary0") as network:
        network.connect()
        yield network


def _interface_secrets(net: Network) -> dict[str, bytes]:
    """The private and preshared keys that the kernel hands out."""
    psk = os.urandom(32)
    for host, other in ((net.a, net.b), (net.b, net.a)):
        key = base64.b64encode(psk).decode()
        host.wg("set", host.ifname, "peer", other.public_key, "preshared-key", "/dev/stdin", stdin=key)
    private = base64.b64decode(net.b.wg("show", net.b.ifname, "private-key"))
    assert net.b.wg("show", net.b.ifname, "preshared-keys").split()[1] == base64.b64encode(psk).decode()
    return {"private key of the interface": private, "preshared key of the interface": psk}


def _conf_secrets() -> dict[str, bytes]:
    """Keys in configuration files, with and without the comments that name peers."""
    private, preshared, comment = (os.urandom(32) for _ in range(3))
    CONF_DIR.mkdir(exist_ok=True)
    texts = {"private": private, "preshared": preshared, "comment": comment}
    keys = {name: base64.b64encode(secret).decode() for name, secret in texts.items()}
    public = base64.b64encode(os.urandom(31) + b"\x04").decode()
    (CONF_DIR / "canary.conf").write_text(
        f"[Interface]\nPrivateKey = {keys['private']}\n# old PrivateKey={keys['comment']}\n"
        f"[Peer]\n# Name = oslo\nPublicKey = {public}\npresharedkey={keys['preshared']}\n" * 40
    )
    return {f"{name} key in a file": secret for name, secret in texts.items()}


def test_canary_keys(net: Network, tmp_path: Path) -> None:
    """While it runs and afterwards no key is anywhere, but that of its environment in its own memory."""
    secrets = {**_interface_secrets(net), **_conf_secrets()}
    of_environment = {"key in the environment": os.urandom(32)}
    environment = {"WG_PRIVATE_KEY": base64.b64encode(of_environment["key in the environment"]).decode()}
    work, ready = tmp_path / "work", tmp_path / "ready"
    work.mkdir()
    outputs = {name: (tmp_path / name).open("wb") for name in ("json", "errors", "table")}
    env = {**os.environ, **environment, "TMPDIR": str(work), "HOME": str(work), "WGTRACE_DEBUG": "1"}
    command = ["ip", "netns", "exec", net.b.netns, "wgtrace", "drops", "canary0", "-v"]
    wgtrace = subprocess.Popen(
        [*command, "--json", "--ready-file", str(ready)],
        stdout=outputs["json"], stderr=outputs["errors"], env=env, cwd=work,
    )  # fmt: skip
    try:
        wait_until(lambda: ready.exists() or wgtrace.poll() is not None, START_S)
        net.b.wg("set", "canary0", "listen-port", str(net.b.listen_port))  # so that it reads it again
        net.a.ip("addr", "add", "192.168.50.9/32", "dev", "lo")
        net.a.send_udp(net.b.inner(), count=7, source="192.168.50.9")
        send(net.a, net.b, [GARBAGE] * 7)
        wgtrace.send_signal(signal.SIGUSR1)
        wait_until(lambda: b'"summary"' in (tmp_path / "json").read_bytes())

        dumps = list(maps_of(wgtrace.pid))
        assert len(dumps) >= 6
        assert any(b"canary0".hex().encode() in dump.lower() for dump in dumps)  # the search finds something
        assert [found for dump in dumps for found in found_in(dump, {**secrets, **of_environment})] == []
        mappings = list(memory(wgtrace.pid))
        everything = b"".join(data for _, data in mappings)
        assert len(everything) > 10 << 20
        assert b"canary0" in everything
        assert found_in(everything, of_environment)  # its own environment, by nature: the search works
        assert found_in(everything, secrets) == []
    finally:
        wgtrace.send_signal(signal.SIGINT)
        assert wgtrace.wait(timeout=180) == 0
        (CONF_DIR / "canary.conf").unlink()

    files = [path for path in (*work.rglob("*"), *outputs_of(tmp_path)) if path.is_file()]
    assert (tmp_path / "json").read_bytes().count(b'"summary"') == 2
    for path in files:
        assert found_in(path.read_bytes(), {**secrets, **of_environment}) == [], path


def outputs_of(directory: Path) -> list[Path]:
    """What it wrote."""
    return [directory / "json", directory / "errors", directory / "ready"]


def test_no_core(net: Network, tmp_path: Path) -> None:
    """A wgtrace that crashes leaves no core, where another process of the same root does."""
    pattern = CORE_PATTERN.read_text()
    CORE_PATTERN.write_text(f"{tmp_path}/core.%p\n")

    def limitless() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    try:
        other = subprocess.Popen(["sleep", "600"], preexec_fn=limitless)
        ready = tmp_path / "ready"
        command = ["wgtrace", "drops", "--netns", net.b.netns, "--ready-file", str(ready)]
        wgtrace = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=limitless)
        wait_until(lambda: ready.exists() or wgtrace.poll() is not None, START_S)
        for process in (other, wgtrace):
            process.send_signal(signal.SIGSEGV)
            assert process.wait(timeout=180) == -signal.SIGSEGV
        assert [path.name for path in tmp_path.glob("core.*")] == [f"core.{other.pid}"]
    finally:
        CORE_PATTERN.write_text(pattern)
