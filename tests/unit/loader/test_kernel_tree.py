# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.loader.kernel_tree, compiled by cc as BCC's clang would; tests/bpf does it with BCC."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from wgtrace.loader.kernel_tree import installed, kernel_tree

DEFINITIONS = """
typedef unsigned char __u8;
typedef __u8 u8;
typedef unsigned long long __u64;
typedef _Bool bool;
typedef unsigned long __kernel_size_t;
typedef __kernel_size_t size_t;
typedef int __kernel_pid_t;
typedef __kernel_pid_t pid_t;
struct pt_regs { unsigned long ax; bool seen; };
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler: apt-get install gcc")
def test_what_bccs_prelude_includes_compiles(tmp_path: Path) -> None:
    """The files that bcc/helpers.h asks for are there, and get on with BTF's own typedefs."""
    tree = kernel_tree(tmp_path, DEFINITIONS)
    program = """
    #include <linux/types.h>
    #include <linux/bpf_common.h>
    #include <uapi/linux/bpf.h>
    #include <uapi/linux/if_packet.h>
    #include <uapi/linux/if_ether.h>
    #include <linux/version.h>
    #include <linux/log2.h>
    #include <asm/page.h>
    #include <uapi/linux/ptrace.h>
    #include <uapi/linux/ptrace.h>
    #if !defined(CONFIG_BPF_SYSCALL) || LINUX_VERSION_CODE >= KERNEL_VERSION(1, 0, 0)
    #error
    #endif
    u64 look(struct pt_regs *regs) { return regs->seen == true ? PAGE_SIZE : ETH_ALEN; }
    """
    command = ["cc", "-std=gnu11", "-Wall", "-Werror", "-nostdinc", "-fsyntax-only", "-xc", "-"]
    command += [f"-I{tree / 'include'}", "-include", "linux/kconfig.h"]

    done = subprocess.run(command, input=program, text=True, capture_output=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("before", [None, "/usr/src/linux"])
def test_installed_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, before: str | None) -> None:
    """BCC is pointed at a private directory for as long as it lasts, also when compiling fails."""
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    if before is not None:
        monkeypatch.setenv("BCC_KERNEL_SOURCE", before)

    def compile_and_fail() -> None:
        with installed(DEFINITIONS) as directory:
            directories.append(directory)
            assert os.environ["BCC_KERNEL_SOURCE"] == str(directory)
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert DEFINITIONS in (directory / "include/kernel_types.h").read_text()
            raise RuntimeError("does not compile")

    directories: list[Path] = []
    with pytest.raises(RuntimeError, match="does not compile"):
        compile_and_fail()

    assert not directories[0].exists()
    assert os.environ.get("BCC_KERNEL_SOURCE") == before
