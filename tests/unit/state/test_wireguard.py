# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.wireguard: which interfaces are read, and what is said where that cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from wgtrace.errors import StateError, UnsupportedError, UsageError
from wgtrace.state import dumps
from wgtrace.state.netns import current
from wgtrace.state.types import Device
from wgtrace.state.wireguard import devices

LINKS = [
    (Device("wg0", 7, 1), "wireguard"),
    (Device("br0", 8, 1), "bridge"),
    (Device("wg1", 9, 1), "tun"),
    (Device("wg2", 10, 1), "wireguard"),
]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a host that has these links, and whose WireGuard answers like that."""

    def make(links: list[tuple[Device, str]], errors: Mapping[str, int], knows: bool = True) -> None:
        def wireguard(link: Device, _names: Mapping[str, str]) -> Device:
            if link.ifname in errors:
                raise OSError(errors[link.ifname], "the reason")
            return replace(link, listen_port=51820)

        monkeypatch.setattr(
            dumps, "links", lambda _netns, kind="": [pair for pair in links if kind in ("", pair[1])]
        )
        monkeypatch.setattr(dumps, "wireguard", wireguard)
        monkeypatch.setattr(dumps, "has_wireguard", lambda: knows)

    return make


def names_of(found: tuple[Device, ...]) -> list[str]:
    """Names of interfaces, all of which were read."""
    assert all(device.listen_port == 51820 for device in found)
    return [device.ifname for device in found]


def test_which_interfaces_are_read(host: Callable[..., None]) -> None:
    """All of WireGuard's interfaces, or those that are wanted, and none of another kind."""
    host(LINKS, {})

    assert names_of(devices(current(), {})) == ["wg0", "wg2"]
    assert names_of(devices(current(), {}, only=["wg2"])) == ["wg2"]


@pytest.mark.parametrize("gone", [19, 95], ids=["deleted", "replaced"])
def test_one_that_goes_meanwhile_is_left_out(gone: int, host: Callable[..., None]) -> None:
    """An interface that is deleted, or another by now, while its peers are read is not there."""
    host(LINKS, {"wg0": gone})

    assert names_of(devices(current(), {})) == ["wg2"]


@pytest.mark.parametrize("refused", [1, 13])
def test_not_permitted(refused: int, host: Callable[..., None]) -> None:
    """Who may not read the peers hears that it takes root."""
    host(LINKS, {"wg0": refused})

    with pytest.raises(UnsupportedError, match="peers of wg0") as error:
        devices(current(), {})
    assert "root" in error.value.because


def test_netlink_fails(host: Callable[..., None]) -> None:
    """Another answer of the kernel is an error that says what could not be read and why."""
    host(LINKS, {"wg2": 105})

    with pytest.raises(StateError, match="cannot read WireGuard's configuration") as error:
        devices(current(), {})
    assert error.value.because == "the reason"


@pytest.mark.parametrize(
    ("name", "what"),
    [("wg9", "there is no interface wg9"), ("br0", "kind is bridge"), ("wg1", "wireguard-go")],
)
def test_what_is_not_wireguard_is_said(name: str, what: str, host: Callable[..., None]) -> None:
    """No such interface, one of another kind, and one of WireGuard outside the kernel are told apart."""
    host(LINKS, {})

    with pytest.raises(UsageError) as error:
        devices(current(), {}, only=["wg0", name])
    told = f"{error.value.what} {error.value.because} {error.value.do}"
    assert what in told
    assert "WireGuard interfaces here: wg0, wg2" in told


def test_a_kernel_without_wireguard(host: Callable[..., None]) -> None:
    """Where the kernel does not know WireGuard, a wanted interface is missing for that reason."""
    host(LINKS[1:2], {}, knows=False)

    with pytest.raises(UnsupportedError) as error:
        devices(current(), {}, only=["wg0"])
    assert error.value.do == "modprobe wireguard"


@pytest.mark.parametrize("knows", [True, False])
def test_a_namespace_without_wireguard_interfaces(knows: bool, host: Callable[..., None]) -> None:
    """No interface is asked for and there is none: that is no error, with WireGuard or without."""
    host(LINKS[1:2], {}, knows=knows)

    assert devices(current(), {}) == ()


def test_pyroute2_is_imported_late() -> None:
    """Importing the state modules does not import pyroute2, which is slow."""
    code = "import sys, wgtrace.state.snapshot; sys.exit('pyroute2' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
