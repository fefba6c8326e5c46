# SPDX-License-Identifier: GPL-2.0-only
"""Names and bytes that want to steer the terminal, and a hundred thousand datagrams at full rate."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pty
import random
import re
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from noise import Impostor, ipv4, mac1
from scenes import add_impostor, udp, wait_until
from tracer import START_S, Report, Tracer

from wgtrace.lab.topology import Network, two_hosts

pytestmark = pytest.mark.soak

#: What the kernel lets an interface be called: any bytes but a slash, a colon and white space.
HOSTILE = b"\x1b[31m\x07\xc2\x9b\xe2\x80\xae\xff"
HOSTILE_NETNS = "\x1b]0;owned\x07%n"
HOSTILE_PEER = "os\x1b[2Jlo\x9b31m\u202e%s\x00\x08"
CLEANED_PEER = "os[2Jlo31m%s"
SGR = re.compile(rb"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")
UDP_SEGMENT = 103  # linux/udp.h
SEED = 20260123
DATAGRAMS = 100_000
BATCH = 40
PATIENCE_S = 900  # two wgtraces show each drop, emulated, and the limit of rows is not reached


class Terminal:
    """`wgtrace drops` on a terminal of its own, all of whose output is kept.

    Args:
        arguments: What comes after `wgtrace drops`.
    """

    def __init__(self, arguments: list[bytes], ready: Path, columns: int = 120) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        self.process = subprocess.Popen(
            [b"wgtrace", b"drops", b"--ready-file", os.fsencode(ready), *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, env={**environ, "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)
        self._fd = ours
        self._output: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: ready.exists() or self.process.poll() is not None, START_S)
        assert self.process.poll() is None, self.output

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other end
            while more := os.read(self._fd, 65536):
                self._output.append(more)

    @property
    def output(self) -> bytes:
        """All that it wrote, as the terminal gets it."""
        return b"".join(self._output)

    def end(self) -> int:
        """Ctrl-C, and the exit status."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(timeout=PATIENCE_S)
        self._reader.join(timeout=180)
        os.close(self._fd)
        return status


def assert_clean(output: bytes) -> str:
    """Nothing but text, colours and line ends reached the terminal; gives the text."""
    text = SGR.sub(b"", output).replace(b"\r\n", b"\n").decode()  # strict: it is UTF-8
    assert CONTROL.findall(text) == []
    return text


@pytest.fixture
def hostile_netns() -> Iterator[str]:
    """A network namespace whose name wants to set the terminal's title."""
    subprocess.run(["ip", "netns", "add", HOSTILE_NETNS], check=True)
    yield HOSTILE_NETNS
    subprocess.run(["ip", "netns", "del", HOSTILE_NETNS], check=True)


def test_names_and_bytes_that_steer_a_terminal(tracer: Tracer, hostile_netns: str, tmp_path: Path) -> None:
    """An interface, a namespace, a peer and packets full of escapes: seen, counted, and never written raw."""
    conf = Path("/etc/wireguard/hostile.conf")
    conf.parent.mkdir(exist_ok=True)
    with two_hosts(ifname="plain0") as net:
        a, b = net.a, net.b
        a.ip("addr", "add", "192.168.50.5/32", "dev", "lo")
        conf.write_text(f"[Peer]\n# Name = {HOSTILE_PEER}\nPublicKey = {a.public_key}\n")
        for command in (
            [b"ip", b"link", b"set", b"plain0", b"down"],
            [b"ip", b"link", b"set", b"plain0", b"name", HOSTILE],
            [b"ip", b"link", b"set", HOSTILE, b"up"],
        ):
            subprocess.run([b"nsenter", b"--net=" + os.fsencode(b.netns_path), *command], check=True)
        named = [HOSTILE, b"--netns", os.fsencode(b.netns)]
        first = Terminal(named, tmp_path / "named")
        a.run(["ping", "-n", "-c1", "-W5", b.inner()])
        a.send_udp(b.inner(), count=7, source="192.168.50.5")
        garbage = [b"\x1b[2J\x1b]0;x\x07\x9b%s%n\x00\xff" + bytes([n]) for n in range(11)]
        with udp(a, b.outer_addr) as sock:
            for message in garbage:
                sock.sendto(message, (b.outer_addr, b.listen_port))
        with b.enter():
            subprocess.run(
                [b"ip", b"link", b"set", HOSTILE, b"netns", os.fsencode(hostile_netns)], check=True
            )
        report = tracer.settled(lambda r: sum(r.totals.values()) >= 18, _json_name(HOSTILE))
        status = first.end()

    conf.unlink()
    text = assert_clean(first.output)
    assert status == 0
    assert CLEANED_PEER in text
    assert text.count("src_not_allowed: ") + text.count("not_allowed  ") >= 7
    assert "18 packets dropped in" in text
    assert "was moved to network namespace" in text
    assert report.totals == {"src_not_allowed": 7, "bad_header": 11}
    assert not CONTROL.findall(tracer.stderr)
    assert not CONTROL.findall(json.dumps(tracer.lines[-20:], ensure_ascii=False))


def _json_name(name: bytes) -> str:
    """An interface's name as the JSON lines have it."""
    return "[31m\ufffd"


def _flipped(message: bytes, rng: random.Random) -> bytes:
    """The message with one to eight bits changed, at least one for good."""
    mutated = bytearray(message)
    for bit in rng.sample(range(len(message) * 8), rng.randint(1, 8)):
        mutated[bit // 8] ^= 1 << bit % 8
    return bytes(mutated)


def _mutants(impostor: Impostor, responder: bytes, inner: bytes, rng: random.Random) -> Iterator[bytes]:
    """What is sent beside the good messages: without end, each with a bit of every kind of wrong."""
    good = [impostor.data(inner, counter) for counter in range(1 << 20, (1 << 20) + 64)]
    lengths = {1: 148, 2: 92, 3: 64, 4: 32}
    while True:
        kind, kinds = rng.randint(1, 4), rng.random()
        head = struct.pack("<I", kind)
        if kinds < 0.40:
            yield rng.randbytes(rng.randint(1, 300))
        elif kinds < 0.55:
            yield head + rng.randbytes(rng.randint(0, 200))
        elif kinds < 0.65:
            yield head + rng.randbytes(lengths[kind] - 4)
        elif kinds < 0.66:
            initiation = struct.pack("<I", 1) + rng.randbytes(112)
            yield initiation + mac1(initiation, responder) + bytes(16)
        elif kinds < 0.76:
            yield rng.choice(good)[: rng.randint(1, len(good[0]) - 1)]
        else:
            yield _flipped(rng.choice(good), rng)


def _send_at_once(sock: socket.socket, to: tuple[str, int], messages: list[bytes]) -> None:
    """Datagrams of any sizes, those of one size in a row by one call each (UDP_SEGMENT, udp(7))."""
    by_size: dict[int, list[bytes]] = {}
    for message in messages:
        by_size.setdefault(len(message), []).append(message)
    for size, alike in by_size.items():
        for start in range(0, len(alike), BATCH):
            batch = b"".join(alike[start : start + BATCH])
            sock.sendmsg([batch], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))], 0, to)


def _datagrams_taken(net: Network) -> int:
    """UDP datagrams that a socket at b has taken: WireGuard's is the only one."""
    with net.b.enter():
        names, values = (
            line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
            if line.startswith("Udp:")
        )  # fmt: skip
    return int(values[names.index("InDatagrams")])


def _program_runs() -> tuple[int, int]:
    """Runs of BPF programs since they are counted, and the nanoseconds that they took."""
    programs = json.loads(subprocess.run(["bpftool", "-j", "prog"], capture_output=True, check=True).stdout)
    return sum(p.get("run_cnt", 0) for p in programs), sum(p.get("run_time_ns", 0) for p in programs)


def test_a_hundred_thousand_datagrams(
    tracer: Tracer, ifname: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Random, truncated and mutated messages at full rate: all accounted for, the terminal whole."""
    rng = random.Random(SEED)
    good = 1009
    stats = Path("/proc/sys/kernel/bpf_stats_enabled")
    with two_hosts(ifname=ifname) as net:
        terminal = Terminal([b"--netns", os.fsencode(net.b.netns)], tmp_path / "ready")
        impostor = add_impostor(net.b, "172.20.0.7/32")
        to = (net.b.outer_addr, net.b.listen_port)
        inner = ipv4("172.20.0.7", net.b.inner(), b"wgtrace")
        mutants = _mutants(impostor, _raw(net.b.public_key), inner, rng)
        with udp(net.a, to[0]) as sock:
            impostor.connect(sock, to)
            wait_until(lambda: _rx_packets(net) == 2)  # the initiation, and the keepalive
            messages = [next(mutants) for _ in range(DATAGRAMS - good)]
            messages += [impostor.data(inner) for _ in range(good)]
            rng.shuffle(messages)
            taken, accepted = _datagrams_taken(net), _rx_packets(net)
            stats.write_text("1")
            try:
                began = time.monotonic()
                for start in range(0, DATAGRAMS, 4000):
                    _send_at_once(sock, to, messages[start : start + 4000])
                took = time.monotonic() - began
                wait_until(lambda: _datagrams_taken(net) - taken >= DATAGRAMS, PATIENCE_S)
                cookies = sum(m[:4] == b"\x03\0\0\0" and len(m) == 64 for m in messages)

                def is_whole(report: Report) -> bool:
                    return sum(report.totals.values()) + cookies + _rx_packets(net) - accepted >= DATAGRAMS

                report = tracer.settled(is_whole, ifname, limit_s=PATIENCE_S)
                runs, nanoseconds = _program_runs()
            finally:
                stats.write_text("0")
            accepted = _rx_packets(net) - accepted
            taken = _datagrams_taken(net) - taken
        status = terminal.end()

    print(f"{DATAGRAMS} in {took:.1f} s: {report.totals}, accepted {accepted}")
    print(f"{runs / DATAGRAMS:.2f} program runs and {nanoseconds / DATAGRAMS:.0f} ns a datagram, two tracers")
    record_property("bpf_runs_per_datagram", f"{runs / DATAGRAMS:.2f}")
    record_property("bpf_ns_per_datagram", f"{nanoseconds / DATAGRAMS:.0f}")
    assert taken == DATAGRAMS
    # At full rate a queue of the peer may overflow, and good ones are then among what is lost there.
    overflowed = sum(report.totals.get(reason, 0) for reason in ("rx_queue_full", "decrypt_queue_full"))
    assert good - overflowed <= accepted <= good
    unseen = 0 if any(reason.startswith("cookie_") for reason in report.totals) else cookies
    assert sum(report.totals.values()) + accepted + unseen == DATAGRAMS, report.totals
    assert report.summary["lost"]["undecodable"] == 0
    assert (status, "Traceback" in assert_clean(terminal.output)) == (0, False)
    shown = re.search(r"([0-9]+) packets dropped in", assert_clean(terminal.output))
    assert shown
    # What is in the good ones has no IP checksum: the host drops that, and not WireGuard.
    assert report.outside == {("ip_csum", "inner", None): accepted}
    assert int(shown[1]) == sum(report.totals.values()) + accepted


def _raw(public_key: str) -> bytes:
    return base64.b64decode(public_key)


def _rx_packets(net: Network) -> int:
    """Packets that b's interface has received: what came out of the tunnel, keepalives, handshakes."""
    with net.b.enter():
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    fields = next(line for line in lines if line.strip().startswith(f"{net.b.ifname}:")).split(":")[1].split()
    return int(fields[1])
