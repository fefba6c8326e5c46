# SPDX-License-Identifier: GPL-2.0-only
"""What selftest needs is asked for before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from wgtrace.errors import UnsupportedError
from wgtrace.selftest import run


@pytest.fixture(autouse=True)
def _nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that would go on to make namespaces fails the test."""
    monkeypatch.setattr(run, "remove_leftovers", lambda: pytest.fail("it went on"))


def test_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs that are missing are named, and the packages that bring them."""
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(UnsupportedError) as raised:
        run.run(lambda: False)
    assert raised.value.what == "selftest needs `ip`, `wg`, `unshare`"
    assert raised.value.do == "apt-get install iproute2 util-linux wireguard-tools"


def test_wireguard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module that is not loaded is not loaded by selftest: it says how."""
    monkeypatch.setattr(run, "_TOOLS", {})
    monkeypatch.setattr(run, "_MODULE", tmp_path / "wireguard")

    with pytest.raises(UnsupportedError) as raised:
        run.run(lambda: False)
    assert raised.value.what == "the kernel's WireGuard is not loaded"
    assert raised.value.do == "modprobe wireguard"
