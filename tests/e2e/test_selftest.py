# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace selftest` on this kernel: all is seen, nothing is left, nobody else is touched."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from scenes import udp, wait_until
from tracer import START_S, bpf_objects, kprobe_events

from wgtrace.events.reasons import Reason
from wgtrace.lab.topology import Network, remove_leftovers, two_hosts

SELFTEST = ("wgtrace", "selftest")
# A kernel that lacks a function, and of the scenes only the first and one that needs no function.
WITHOUT_PURGE = """
from dataclasses import replace
from wgtrace.probes import catalogue
from wgtrace.selftest import scenes
catalogue.CATALOGUE = tuple(
    replace(p, targets=("wg_no_such_function",)) if "purge" in p.name else p
    for p in catalogue.CATALOGUE
    if p.point.value == "tracepoint" or "purge" in p.name
)
scenes.SCENES = tuple(s for s in scenes.SCENES if s.reason.id in ("staged_purged_ifdown", "bad_header"))
from wgtrace.cli import main
main()
"""


def _netns() -> set[str]:
    """Namespaces that a topology or a selftest made, and that are there now."""
    directory = Path("/run/netns")
    return {path.name for path in directory.glob("wgt-*")} if directory.exists() else set()


def _netns_of(process: subprocess.Popen[str]) -> set[str]:
    return {name for name in _netns() if f"-{process.pid}-" in name}


def _is_tracing(process: subprocess.Popen[str]) -> bool:
    """Whether it has attached its programs: so it is in the middle of the scenes."""
    assert process.poll() is None, process.communicate()
    programs = 0
    for fd in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since
            programs += "bpf-prog" in os.readlink(fd)
    return programs >= 20


def _configuration(net: Network) -> list[str]:
    """All that could be changed in a network that is not the selftest's, and in the host's own."""
    shown = [
        host.run(["sh", "-c", "ip addr; ip rule; ip route show table all; wg showconf wg0; nft list ruleset"])
        for host in (net.a, net.b)
    ]
    own = [
        "sh",
        "-c",
        "ip addr; ip rule; ip route show table all; nft list ruleset; cat /proc/modules | cut -d' ' -f1",
    ]
    shown.append(subprocess.run(own, capture_output=True, text=True, check=True))
    return [done.stdout for done in shown]


@pytest.fixture
def busy_wg0() -> Iterator[Network]:
    """A tunnel of somebody else's, on interfaces named wg0, with good traffic and bad all the time."""
    end = threading.Event()
    with two_hosts(ifname="wg0") as net:
        net.connect()

        def work() -> None:
            with udp(net.a, net.b.outer_addr) as sock, udp(net.a, net.b.inner()) as inner:
                while not end.wait(0.05):
                    inner.sendto(b"good", (net.b.inner(), 9))
                    sock.sendto(b"\x09" + bytes(63), (net.b.outer_addr, net.b.listen_port))

        worker = threading.Thread(target=work)
        worker.start()
        yield net
        end.set()
        worker.join()


def test_every_reason_beside_a_busy_wg0(busy_wg0: Network) -> None:
    """Each reason that can be provoked is seen as often as it was sent, whatever else goes on."""
    before, kprobes, spaces = bpf_objects(), kprobe_events(), _netns()
    configuration = _configuration(busy_wg0)
    done = subprocess.run([*SELFTEST, "--json"], capture_output=True, text=True, check=False)
    *rows, summary = map(json.loads, done.stdout.splitlines())

    wrong = [row for row in rows if row["verdict"] not in ("seen", "not_provoked")]
    assert (done.returncode, wrong, done.stderr) == (0, [], "")
    provoked = [row for row in rows if row["verdict"] == "seen"]
    assert len({row["reason"] for row in provoked}) >= 25
    assert all(row["sent"] == row["seen"] > 0 for row in provoked)
    assert sum(row["sent"] == 23 for row in provoked) >= 25
    assert {row["reason"] for row in rows} == {reason.id for reason in Reason}
    assert all(row["because"] for row in rows if row["verdict"] == "not_provoked")
    assert (summary["passed"], summary["seen"]) == (True, len(provoked))
    print(
        *(f"{row['reason']} {row['sub_reason'] or ''}: {row['sent']} {row['seen']}" for row in provoked),
        sep="\n",
    )

    assert _configuration(busy_wg0) == configuration
    assert _netns() == spaces
    wait_until(lambda: bpf_objects() == before)
    assert kprobe_events() == kprobes


@pytest.fixture
def start() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a selftest; those that still run in the end are killed, and what they leave removed."""
    started: list[subprocess.Popen[str]] = []

    def one() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(SELFTEST, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield one
    for process in started:
        process.kill()
        process.communicate()
    remove_leftovers()


@pytest.mark.once
def test_stopped_and_killed(start: Callable[[], subprocess.Popen[str]]) -> None:
    """Ctrl-C and SIGTERM leave nothing; what kill -9 leaves goes with the next run, the living stay."""
    before, kprobes, spaces = bpf_objects(), kprobe_events(), _netns()
    killed = start()
    wait_until(lambda: len(_netns_of(killed)) == 2, START_S)
    killed.kill()
    killed.communicate()
    left = _netns() - spaces
    assert len(left) == 2

    runs = {signal.SIGINT: start(), signal.SIGTERM: start()}
    for process in runs.values():
        wait_until(partial(_is_tracing, process), START_S)
        assert len(_netns_of(process)) == 2
    assert _netns() & left == set()
    cleaned = subprocess.run([*SELFTEST, "--clean"], capture_output=True, text=True, check=True)
    assert cleaned.stdout == ""  # these two are alive
    for number, process in runs.items():
        process.send_signal(number)
        process.send_signal(number)  # impatient people do it twice
    for number, process in runs.items():
        output, errors = process.communicate(timeout=START_S)
        assert (process.returncode, output) == (128 + number, "")
        assert "nothing is left behind" in errors

    assert _netns() == spaces
    wait_until(lambda: bpf_objects() == before)
    assert kprobe_events() == kprobes


@pytest.mark.once
def test_clean_removes_what_the_dead_left() -> None:
    """--clean alone removes the namespaces of a run that was killed, and says which."""
    spaces = _netns()
    script = (
        "import os\nfrom wgtrace.lab.topology import two_hosts\nwith two_hosts(): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    left = _netns() - spaces
    assert len(left) == 2

    done = subprocess.run([*SELFTEST, "--clean"], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) > left
    assert _netns() == spaces


@pytest.mark.userland
def test_a_probe_that_is_missing() -> None:
    """A reason whose probe cannot be attached is NOT SEEN, with the reason, and the status is 1."""
    command = [sys.executable, "-c", WITHOUT_PURGE, "selftest", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *rows, summary = map(json.loads, done.stdout.splitlines())
    (unseen,) = (row for row in rows if row["verdict"] not in ("seen", "not_provoked"))

    assert (done.returncode, summary["passed"], done.stderr) == (1, False, "")
    assert (unseen["reason"], unseen["verdict"]) == ("staged_purged_ifdown", "not_seen")
    assert (unseen["sent"], unseen["seen"]) == (23, 0)
    assert "no function wg_no_such_function" in unseen["because"]
    assert [row["seen"] for row in rows if row["reason"] == "bad_header" and row["sent"]] == [23, 23, 23]


@pytest.mark.once
def test_tools_that_are_missing() -> None:
    """Without ip and wg: exit status 3, and what to install."""
    command = [sys.executable, "-m", "wgtrace", "selftest"]
    env = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: selftest needs `ip`, `wg`, `unshare`\n")
    assert "apt-get install iproute2 util-linux wireguard-tools" in done.stderr
