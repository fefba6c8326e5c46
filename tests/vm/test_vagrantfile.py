# SPDX-License-Identifier: GPL-2.0-only
"""The Vagrantfile, as far as Debian's vagrant can say without a hypervisor."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wgtrace.lab import debian

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Vagrantfile").read_text(encoding="utf-8")


def _vagrant(tmp_path: Path, *arguments: str, text: str = TEXT) -> subprocess.CompletedProcess[str]:
    """Run vagrant with the libvirt provider's settings, in a folder of its own."""
    if not shutil.which("vagrant"):
        pytest.skip("no vagrant here: apt-get install vagrant vagrant-libvirt")
    (tmp_path / "Vagrantfile").write_text(text, encoding="utf-8")
    own = {"VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot")}
    env = {**os.environ, **own, "VAGRANT_DEFAULT_PROVIDER": "libvirt", "VAGRANT_CHECKPOINT_DISABLE": "1"}
    command = ["vagrant", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)


def test_vagrant_takes_it(tmp_path: Path) -> None:
    """`vagrant validate` finds nothing wrong, the settings of a provider included."""
    done = _vagrant(tmp_path, "validate")

    assert (done.returncode, done.stdout) == (0, "Vagrantfile validated successfully.\n"), done.stderr


def test_vagrant_looks_at_the_settings(tmp_path: Path) -> None:
    """A setting that no provider has is found: the test before can fail."""
    done = _vagrant(tmp_path, "validate", text=TEXT.replace("settings.memory", "settings.memroy"))

    assert done.returncode == 1
    assert "memroy" in done.stderr


def test_there_is_a_machine_for_each_debian_of_the_lab() -> None:
    """The machines are the releases that the lab has userlands of."""
    machines = re.findall(r'^  "(\w+)" => \{', TEXT, re.MULTILINE)

    assert machines == list(dict.fromkeys(kernel.release for kernel in debian.kernels().values()))


def test_no_package_is_listed_twice() -> None:
    """What is installed is said by the lab and the Makefile; only what reads these is named here."""
    named = re.findall(r"\b([a-z0-9-]+)\b", " ".join(re.findall(r"apt-get install(.*)", TEXT)))

    assert {"make", "python3"} < set(named)
    assert set(named) & set(debian.USERLAND_PACKAGES) == {"python3"}
    assert "USERLAND_PACKAGES)" in TEXT
    assert "make install" in TEXT
