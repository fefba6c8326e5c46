# SPDX-License-Identifier: GPL-2.0-only
"""WireGuard's own test, netns.sh, from the source package of each kernel of the matrix.

It is unpacked once and kept under $XDG_CACHE_HOME/wgtrace/upstream, never in this tree.
"""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from wgtrace.lab import debian
from wgtrace.lab.image import cache_dir

_IN_SOURCE = "tools/testing/selftests/wireguard/netns.sh"


def netns_sh(kernel: str) -> Path:
    """A directory with nothing in it but netns.sh, as Debian's source of that kernel has it.

    Raises:
        LabError: Debian's package could not be had.
    """
    row, cache = debian.kernels()[kernel], cache_dir() / "upstream"
    done = cache / f"netns-{kernel}"
    if not done.is_dir():
        cache.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            found = Path(scratch, "found")
            found.mkdir()
            (found / "netns.sh").write_bytes(_from_source(row, Path(scratch)))
            found.rename(done)
    return done


def _from_source(row: debian.Kernel, scratch: Path) -> bytes:
    """The text of netns.sh, out of the archive in the package linux-source."""
    tree, archive = scratch / "tree.tar", scratch / "source.tar.xz"
    options = ["--variant=extract", "--include=linux-source"]
    if row.backports:
        options.append(f'--aptopt=APT::Default-Release "{row.release}-backports"')
    debian.debootstrap(options, row.release, backports=row.backports, output=tree)
    with tarfile.open(tree) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".tar.xz") and "linux-source-" in member.name:
                content = tar.extractfile(member)
                assert content
                with archive.open("wb") as copy:
                    while data := content.read(1 << 20):
                        copy.write(data)
    tree.unlink()
    done = subprocess.run(
        ["tar", "-xJOf", archive, "--wildcards", f"*/{_IN_SOURCE}"],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "XZ_DEFAULTS": "-T0"},
    )
    assert done.stdout.startswith(b"#!")
    return done.stdout
