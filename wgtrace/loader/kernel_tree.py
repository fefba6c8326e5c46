# SPDX-License-Identifier: GPL-2.0-only
"""A few small files in the place of kernel headers, for BCC to compile against.

BCC looks for kernel headers in $BCC_KERNEL_SOURCE first, and its own prelude
(bcc/helpers.h) includes the files named here and no others. What headers would
say about types comes from BTF instead (`wgtrace.probes.btf`).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_VARIABLE = "BCC_KERNEL_SOURCE"
FILES = {
    "linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n",
    # C11 allows BTF to repeat these, as they say the same.
    "linux/types.h": """\
#pragma once
typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __s8 s8;
typedef __u8 u8;
typedef __s16 s16;
typedef __u16 u16;
typedef __s32 s32;
typedef __u32 u32;
typedef __s64 s64;
typedef __u64 u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u64 __be64;
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef __u64 __attribute__((aligned(8))) __aligned_u64;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
typedef int pid_t;
typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)
""",
    "linux/bpf_common.h": "",
    "linux/version.h": """\
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE 0
""",
    "linux/log2.h": "",
    "asm/page.h": "#define PAGE_SHIFT 12\n#define PAGE_SIZE 4096UL\n",
    "uapi/linux/bpf.h": "",
    "uapi/linux/if_packet.h": "",
    "uapi/linux/if_ether.h": "#define ETH_ALEN 6\n",
    "uapi/linux/ptrace.h": "#include <kernel_types.h>\n",
}


def kernel_tree(directory: Path, definitions: str) -> Path:
    """Write the tree that $BCC_KERNEL_SOURCE is to name.

    A program gets the definitions by `#include <uapi/linux/ptrace.h>`.

    Args:
        directory: An existing directory.
        definitions: What `Btf.c_definitions` gave, `pt_regs` among it.

    Returns:
        `directory`.
    """
    for name, text in {**FILES, "kernel_types.h": f"#pragma once\n{definitions}"}.items():
        path = directory / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@contextlib.contextmanager
def installed(definitions: str) -> Iterator[Path]:
    """Have BCC compile against these definitions, in this process, as long as this lasts.

    The directory is readable by its owner alone, and is removed at the end.

    Yields:
        The directory.
    """
    before = os.environ.get(_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="wgtrace-") as directory:
        os.environ[_VARIABLE] = str(kernel_tree(Path(directory), definitions))
        try:
            yield Path(directory)
        finally:
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before
