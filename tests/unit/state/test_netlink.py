# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.netlink, against this kernel's own netlink: it takes no privilege."""

from __future__ import annotations

import socket

import pytest

from wgtrace.errors import StateError
from wgtrace.state.links import links
from wgtrace.state.netlink import NETLINK_GENERIC, Netlink, attributes, state_errors


def test_links_of_this_host() -> None:
    """The loopback interface is there, with index 1 and without a kind; no bridge goes by its name."""
    with Netlink(socket.NETLINK_ROUTE) as route:
        found = {device.ifname: (device.ifindex, kind) for device, kind in links(route, netns=1)}
        bridges = {device.ifname for device, _ in links(route, netns=1, kind="bridge")}

    assert found["lo"] == (1, "")
    assert "lo" not in bridges


def test_generic_families() -> None:
    """A family has the number that the kernel gives it; one that nobody registers has none."""
    with Netlink(NETLINK_GENERIC) as generic:
        assert generic.family("nlctrl") == 16
        assert generic.family("no-such-family") is None


def test_the_kernels_refusal_is_an_os_error() -> None:
    """What the kernel refuses is an error with its errno, and the socket stays usable."""
    with Netlink(NETLINK_GENERIC) as generic:
        with pytest.raises(OSError, match="No such file"):
            list(generic.dump(4000, b"\0" * 4))
        assert generic.family("nlctrl") == 16


def test_a_late_answer_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a request that timed out, what comes for it does not answer another."""

    def time_out(_: Netlink) -> bytearray:
        raise TimeoutError

    with Netlink(NETLINK_GENERIC) as generic:
        with monkeypatch.context() as patched:
            patched.setattr(Netlink, "_receive", time_out)
            with pytest.raises(TimeoutError):
                generic.family("nlctrl")

        assert generic.family("no-such-family") is None


def test_messages_are_wiped() -> None:
    """A message that was kept is zeros once the dump is over: no secret stays in memory."""
    kept = []
    with Netlink(socket.NETLINK_ROUTE) as route:
        for message in route.dump(18, bytes(16)):
            assert any(message)
            kept.append(message)

    assert kept
    assert not any(any(message) for message in kept)
    assert [kind for kind, _ in attributes(kept[0])] == []


def test_state_errors() -> None:
    """An OSError becomes an error of ours that says what could not be read and why."""
    with pytest.raises(StateError, match="cannot read it") as error, state_errors("it"):
        raise OSError(1, "Operation not permitted")
    assert error.value.because == "Operation not permitted"
