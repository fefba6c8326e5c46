# SPDX-License-Identifier: GPL-2.0-only
"""What of libbpf the loader calls, as ctypes sees it: bpf.h and libbpf.h of that library.

Structures of options may be longer in newer versions; each tells its size. libbpf
1.1 and 1.5 both have all of it.
"""

from __future__ import annotations

import ctypes
import functools
import os

from wgtrace.probes import libbpf as types

c_int, c_uint32, c_void_p, c_char_p = ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_char_p


class MapOptions(ctypes.Structure):
    """`struct bpf_map_create_opts`."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", c_uint32),
        ("map_ifindex", c_uint32),
    ]


class ProgramOptions(ctypes.Structure):
    """`struct bpf_prog_load_opts`."""

    log_level: int
    log_size: int
    log_buf: int
    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_int),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("fd_array", c_void_p),
        ("func_info", c_void_p),
        ("func_info_cnt", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("line_info", c_void_p),
        ("line_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_void_p),
    ]


class BtfInfo(ctypes.Structure):
    """`struct bpf_btf_info` of linux/bpf.h."""

    kernel_btf: int
    _fields_ = [
        ("btf", ctypes.c_uint64),
        ("btf_size", c_uint32),
        ("id", c_uint32),
        ("name", ctypes.c_uint64),
        ("name_len", c_uint32),
        ("kernel_btf", c_uint32),
    ]


def raised(result: int) -> int:
    """`result`, a file descriptor or 0.

    Raises:
        OSError: It is below 0, which is -errno.
    """
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


@functools.cache
def libbpf() -> ctypes.CDLL:
    """libbpf, silenced.

    Raises:
        UnsupportedError: It is not installed.
    """
    lib = types.libbpf()
    number = c_uint32
    prototypes: types.Prototypes = (
        ("bpf_map_create", c_int, (c_int, c_char_p, number, number, number, c_void_p)),
        ("bpf_map_update_elem", c_int, (c_int, c_void_p, c_void_p, ctypes.c_uint64)),
        ("bpf_map_delete_elem", c_int, (c_int, c_void_p)),
        ("bpf_map_lookup_elem", c_int, (c_int, c_void_p, c_void_p)),
        ("bpf_map_get_next_key", c_int, (c_int, c_void_p, c_void_p)),
        ("bpf_prog_load", c_int, (c_int, c_char_p, c_char_p, c_void_p, ctypes.c_size_t, c_void_p)),
        ("bpf_raw_tracepoint_open", c_int, (c_char_p, c_int)),
        ("bpf_btf_get_next_id", c_int, (number, c_void_p)),
        ("bpf_btf_get_fd_by_id", c_int, (number,)),
        ("bpf_obj_get_info_by_fd", c_int, (c_int, c_void_p, c_void_p)),
        ("libbpf_num_possible_cpus", c_int, ()),
        ("ring_buffer__new", c_void_p, (c_int, c_void_p, c_void_p, c_void_p)),
        ("ring_buffer__poll", c_int, (c_void_p, c_int)),
        ("ring_buffer__free", None, (c_void_p,)),
    )
    types.declare(lib, prototypes)
    return lib
