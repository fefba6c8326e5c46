# SPDX-License-Identifier: GPL-2.0-only
"""Maps of the running programs: made, written, read, and the ring buffer of the records."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator

from wgtrace.loader.bytecode import MapShape
from wgtrace.loader.libbpf import MapOptions, libbpf, raised

# `enum bpf_map_type` of linux/bpf.h: those that have a value for each CPU.
_PER_CPU = frozenset({5, 6, 10, 21})  # hash, array, lru_hash, cgroup_storage

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Map:
    """A map in the kernel, gone when its file descriptor and those of its programs are closed.

    Raises:
        OSError: The kernel's answer.
    """

    def __init__(self, shape: MapShape) -> None:
        self._lib = libbpf()
        options = MapOptions(sz=ctypes.sizeof(MapOptions), map_flags=shape.flags)
        sizes = (shape.key_size, shape.value_size, shape.max_entries)
        name = shape.name.encode()[:15]  # BPF_OBJ_NAME_LEN and its NUL
        self.fd = raised(self._lib.bpf_map_create(shape.kind, name, *sizes, ctypes.byref(options)))
        self._key_size, self._value_size, self._values = shape.key_size, shape.value_size, 1
        if shape.kind in _PER_CPU:  # each is padded to 8 bytes
            self._values = raised(self._lib.libbpf_num_possible_cpus())
        self._stride = shape.value_size if self._values == 1 else (shape.value_size + 7) // 8 * 8

    def update(self, key: bytes, value: bytes) -> None:
        """Write an entry.

        Raises:
            OSError: The kernel's answer.
        """
        raised(self._lib.bpf_map_update_elem(self.fd, key, value, 0))

    def delete(self, key: bytes) -> None:
        """Remove an entry, if it is there."""
        self._lib.bpf_map_delete_elem(self.fd, key)

    def values(self, key: bytes) -> list[bytes]:
        """The values of an entry, one for each CPU where the map is per CPU; [] if there is none.

        Raises:
            OSError: The kernel's answer.
        """
        buffer = ctypes.create_string_buffer(self._stride * self._values)
        if self._lib.bpf_map_lookup_elem(self.fd, key, buffer) < 0:
            if ctypes.get_errno() == errno.ENOENT:
                return []
            raised(-ctypes.get_errno())
        starts = range(0, len(buffer), self._stride)
        return [buffer.raw[start : start + self._value_size] for start in starts]

    def keys(self) -> Iterator[bytes]:
        """The keys that there are; one that is added meanwhile may be missing."""
        key, following = None, ctypes.create_string_buffer(self._key_size)
        while self._lib.bpf_map_get_next_key(self.fd, key, following) == 0:
            key = following.raw
            yield key


class RingBuffer:
    """The records of a BPF_MAP_TYPE_RINGBUF.

    Args:
        take: Gets each record; what it raises would be swallowed by ctypes.

    Raises:
        OSError: The kernel's answer.
    """

    def __init__(self, ring: Map, take: Callable[[bytes], None]) -> None:
        def on_record(_context: object, data: int, size: int) -> int:
            take(ctypes.string_at(data, size))
            return 0

        self._lib = libbpf()
        self._callback = _Callback(on_record)  # libbpf keeps its address
        self._ring = self._lib.ring_buffer__new(ring.fd, self._callback, None, None)
        if not self._ring:
            raised(-ctypes.get_errno())

    def poll(self, timeout_s: float) -> None:
        """Take the records that there are; wait for the first until the timeout or a signal.

        Raises:
            OSError: The kernel's answer.
        """
        found = self._lib.ring_buffer__poll(self._ring, int(timeout_s * 1000))
        if found < 0 and found != -errno.EINTR:
            raise OSError(-found, os.strerror(-found))

    def close(self) -> None:
        """Unmap it."""
        self._lib.ring_buffer__free(self._ring)
