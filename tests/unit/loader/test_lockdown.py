# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.loader.build: a kernel that is locked down is told from the beginning."""

from __future__ import annotations

from pathlib import Path

import pytest

from wgtrace.errors import UnsupportedError
from wgtrace.loader import build


@pytest.fixture
def lockdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /sys/kernel/security/lockdown; it is not there yet."""
    path = tmp_path / "lockdown"
    monkeypatch.setattr(build, "LOCKDOWN", path)
    return path


def test_confidentiality_is_refused(lockdown: Path) -> None:
    """Before anything is compiled or attached: what, why, and what to do."""
    lockdown.write_text("none integrity [confidentiality]\n")

    for begins in (build.running_kernel, build.need_no_lockdown):
        with pytest.raises(UnsupportedError, match="nothing can be traced") as error:
            begins()
        assert "lockdown=confidentiality" in error.value.because
        assert "boot without" in error.value.do
    assert build.begun() is None


@pytest.mark.parametrize("said", ["[none] integrity confidentiality\n", "none [integrity] confidentiality\n"])
def test_integrity_lets_bpf_read(lockdown: Path, said: str) -> None:
    """Nothing is refused for what the kernel would take."""
    lockdown.write_text(said)

    build.need_no_lockdown()


def test_without_securityfs(lockdown: Path) -> None:
    """Nobody knows: the kernel has its say when a program is loaded."""
    assert not lockdown.exists()

    build.need_no_lockdown()
