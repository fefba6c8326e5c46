# SPDX-License-Identifier: GPL-2.0-only
"""BCC, root and Debian's kernels: without them the tests skip."""

from __future__ import annotations

import importlib.util
import os
import subprocess

import pytest
from kernel_btf import SUITES, debian_btf
from programs import Kernel

from wgtrace.probes.btf import Btf


@pytest.fixture(scope="session")
def bcc() -> None:
    """BCC is there, and may load programs."""
    if importlib.util.find_spec("bcc") is None:
        pytest.skip(
            "this Python has no BCC: apt-get install python3-bpfcc, and a venv that sees it (make setup)"
        )
    if os.geteuid() != 0:
        pytest.skip("programs and maps are loaded by root only")


@pytest.fixture(scope="session", params=SUITES)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """Each of the kernels that wgtrace supports."""
    release: str = request.param
    try:
        vmlinux, module = debian_btf(release)
    except (subprocess.CalledProcessError, OSError) as exc:
        pytest.skip(f"Debian's kernel {release} cannot be had: {exc}")
    base = Btf(vmlinux)
    return Kernel(release, base, Btf(module, base), module)
