# SPDX-License-Identifier: GPL-2.0-only
"""Every error that wgtrace raises on purpose.

WgtraceError            exit status 4
├── UsageError          2   what was asked for does not exist here
├── UnsupportedError    3   cannot run here: not root, no BTF, no WireGuard
├── RecordingError      3   a recording is not understood
├── CompileError        4   the BPF text did not compile or load
├── StateError          4   netlink would not answer
├── UndecodableRecordError  4   a record that is no event of this ABI
├── OutputError         4   the disk is full, or the terminal is gone
└── LabError            4   the virtual machine did not come up, or died
"""

from __future__ import annotations


class WgtraceError(Exception):
    """What went wrong, why it is likely, and what to do about it.

    Args:
        what: One sentence, no full stop.
        because: The likely reason, or "".
        do: What to do: a command or a step, or "".
    """

    exit_code = 4

    def __init__(self, what: str, because: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.because = because
        self.do = do


class UsageError(WgtraceError):
    """Something was asked for that does not exist here."""

    exit_code = 2


class UnsupportedError(WgtraceError):
    """wgtrace cannot run on this host as it is."""

    exit_code = 3


class RecordingError(WgtraceError):
    """A recording is whole, and not understood by this wgtrace."""

    exit_code = 3


class CompileError(WgtraceError):
    """The BPF text did not compile, or the kernel refused it."""


class StateError(WgtraceError):
    """The kernel would not tell its configuration."""


class UndecodableRecordError(WgtraceError):
    """A ring-buffer record that is no event of this ABI."""


class OutputError(WgtraceError):
    """What a run has to say cannot be written."""


class LabError(WgtraceError):
    """The lab's image could not be built, or its machine died."""
