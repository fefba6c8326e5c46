# SPDX-License-Identifier: GPL-2.0-only
"""Runs inside the lab's virtual machine: root, WireGuard, BCC.

One tracer runs for the whole session, because starting one costs seconds under
emulation; each test has interfaces of a name of its own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger import Ledger
from slow import SlowScenes
from stories import Stories
from tracer import Tracer, names

_NAMES = names()


@pytest.fixture(autouse=True, scope="session")
def _in_the_lab() -> None:
    """Only the lab may be broken: these tests change the clock and fill queues."""
    if os.environ.get("WGTRACE_LAB") != "1":
        pytest.exit("the end-to-end tests run in the lab: wgtrace lab run --mount tests -- ...", returncode=3)


@pytest.fixture(autouse=True, scope="session")
def _hooks_that_stay() -> None:
    """Netfilter's hooks are in use all the time, as time stamps are (lab/guest.py, which says why).

    The kernel patches its code for the first rule of a hook and for the last one, under traffic.
    """
    hooks = ("prerouting", "input", "forward", "output", "postrouting")
    chains = (f"add chain inet held {hook} {{ type filter hook {hook} priority 0; }}\n" for hook in hooks)
    subprocess.run(["nft", "-f", "-"], input="add table inet held\n" + "".join(chains), text=True, check=True)


@pytest.fixture(autouse=True, scope="session")
def _room_on_the_wire() -> None:
    """Softirqs may be late by any number of packets: none is lost before WireGuard has it."""
    Path("/proc/sys/net/core/netdev_max_backlog").write_text("1000000")


@pytest.fixture(scope="session")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracer]:
    """`wgtrace drops --all --json`, attached; it must end well."""
    ready: Path = tmp_path_factory.mktemp("tracer") / "ready"
    running = Tracer(["--all", "-v"], ready)
    yield running
    assert running.end() == 0, running.stderr


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracer]:
    """`wgtrace handshakes --all --json`, attached; it must end well."""
    running = Stories(["--all"], tmp_path_factory.mktemp("stories") / "ready")
    yield running
    assert running.end() == 0, running.stderr


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """What the tests of this session provoked, and what was reported of it."""
    return Ledger()


@pytest.fixture
def ifname() -> str:
    """A name for the WireGuard interfaces of this test."""
    return next(_NAMES)


@pytest.fixture(scope="session", autouse=True)
def slow_scenes(tracer: Tracer) -> Iterator[SlowScenes]:
    """What takes minutes in the kernel begins with the session and is looked at in its end."""
    with SlowScenes.begun() as scenes:
        yield scenes


def pytest_configure(config: pytest.Config) -> None:
    """What no kernel changes is run once for each Debian release, what takes long by `-m soak` only."""
    config.addinivalue_line("markers", "soak: not part of `make test`")
    config.addinivalue_line("markers", "userland: about user space, the same on each kernel of a release")
    config.addinivalue_line("markers", "once: about user space, the same on every kernel and release")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Late come the tests that wait for slow scenes, then what needs all others, then what is for good."""
    last = ["test_slow.py", "test_table_of_reasons.py", "test_robust_last.py"]
    items.sort(key=lambda item: last.index(item.path.name) if item.path.name in last else -1)
