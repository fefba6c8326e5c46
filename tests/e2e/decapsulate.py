# SPDX-License-Identifier: GPL-2.0-only
"""Takes the first 40 bytes off each packet that leaves by an interface, as a careless tc program does.

The kernel had promised the packet's checksum to the hardware, and its place is gone with
the header: WireGuard cannot make it and so cannot encrypt the packet.
"""

from __future__ import annotations

import ctypes
import os
import struct

from pyroute2 import IPRoute

from wgtrace.lab.topology import Host

TAKEN = 40
_SYS_BPF, _PROG_LOAD, _SCHED_CLS = 321, 5, 3  # x86-64
_CLSACT_EGRESS = 0xFFFFFFF3
# r2 = -40, r3 = BPF_ADJ_ROOM_MAC, r4 = 0, bpf_skb_adjust_room(), return TC_ACT_OK
_PROGRAM = b"".join(
    struct.pack("<BBhi", *instruction)
    for instruction in (
        (0xB7, 2, 0, -TAKEN),
        (0xB7, 3, 0, 1),
        (0xB7, 4, 0, 0),
        (0x85, 0, 0, 50),
        (0xB7, 0, 0, 0),
        (0x95, 0, 0, 0),
    )
)


def _load() -> int:
    """The program's file descriptor."""
    code, licence = ctypes.create_string_buffer(_PROGRAM), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "<IIQQIIQ", _SCHED_CLS, len(_PROGRAM) // 8, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0
    )
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_SYS_BPF, _PROG_LOAD, ctypes.create_string_buffer(attributes), len(attributes))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(fd)


def decapsulate(host: Host) -> None:
    """Have the WireGuard interface of `host` do so; the interface's end undoes it."""
    fd = _load()
    with host.enter(), IPRoute() as netlink:
        (index,) = netlink.link_lookup(ifname=host.ifname)
        netlink.tc("add", "clsact", index)
        netlink.tc(
            "add-filter",
            "bpf",
            index,
            ":1",
            fd=fd,
            name="decapsulate",
            parent=_CLSACT_EGRESS,
            classid=1,
            direct_action=True,
        )
    os.close(fd)
