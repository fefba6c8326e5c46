# SPDX-License-Identifier: GPL-2.0-only
"""The only module that knows BCC: C in, bytecode out.

BCC brings clang and LLVM into a process, some 100 MB that stay. So it runs in a
short-lived process of its own, which also compiles while this one does something else.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from wgtrace.errors import CompileError, UnsupportedError
from wgtrace.loader import kernel_tree
from wgtrace.loader.bytecode import Bytecode, MapShape, with_maps

_NO_BCC = 3  # exit status of the process below
_INSTALL = "apt-get install python3-bpfcc (and use /usr/bin/python3)"
_PACKAGES = Path(__file__).resolve().parent.parent.parent
_RUN = (
    f"import sys; sys.path.insert(0, {str(_PACKAGES)!r}); from wgtrace.loader.compiler import _main; _main()"
)


@dataclass(frozen=True, slots=True)
class Source:
    """All that bytecode is made of, besides the compiler.

    Attributes:
        text: What `source.joined` gave.
        definitions: What `Btf.c_definitions` gave.
    """

    text: str
    cflags: tuple[str, ...]
    definitions: str

    def key(self) -> str:
        """A name that changes whenever other bytecode might come out.

        Raises:
            UnsupportedError: BCC is not installed for this Python.
        """
        compiler = [bcc_version(), platform.machine(), sorted(kernel_tree.FILES.items())]
        return hashlib.sha256(json.dumps([compiler, asdict(self)]).encode()).hexdigest()


def bcc_version() -> str:
    """BCC's version, read without loading BCC.

    Raises:
        UnsupportedError: BCC is not installed for this Python.
    """
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        raise UnsupportedError("BCC cannot be imported", "this Python has no module bcc", _INSTALL)
    with contextlib.suppress(OSError):
        found = re.search(
            r"__version__ = ['\"](.+)['\"]", Path(spec.origin).with_name("version.py").read_text()
        )
        if found:
            return found[1]
    return "?"


class Compilation:
    """BCC at work on a text, in another process.

    It begins at once; `bytecode` waits for its end. BCC makes the maps as it
    compiles: they go with their process.
    """

    def __init__(self, source: Source) -> None:
        self._files = contextlib.ExitStack()
        self._stdout, self._stderr = self._file(), self._file()
        stdin = self._file()
        stdin.write(json.dumps(asdict(source)).encode())
        stdin.seek(0)
        # In a process group of its own, because Ctrl-C is for this process to handle.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN],
            stdin=stdin,
            stdout=self._stdout,
            stderr=self._stderr,
            process_group=0,
        )
        # Where nobody waits for it any more it ends as soon as LLVM lets it, and cleans up behind it.
        self._abandoned = weakref.finalize(self, _abandon, self._process, self._files)

    def _file(self) -> IO[bytes]:
        return self._files.enter_context(tempfile.TemporaryFile())

    def bytecode(self) -> Bytecode:
        """What came of it.

        Raises:
            UnsupportedError: BCC cannot be imported.
            CompileError: The text does not compile.
        """
        with self._files:
            status = self._process.wait()
            self._abandoned.detach()
            self._stdout.seek(0)
            self._stderr.seek(0)
            output = self._stdout.read()
            lines = self._stderr.read().decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        if status == _NO_BCC:
            raise UnsupportedError("BCC cannot be imported", said[-1], _INSTALL)
        if status:
            first = next((line for line in said if "error:" in line), (said or [f"exit status {status}"])[-1])
            raise CompileError(
                "the BPF text does not compile on this kernel", first, "report it with `uname -a`"
            )
        return Bytecode.from_bytes(output)


def _abandon(process: subprocess.Popen[bytes], files: contextlib.ExitStack) -> None:
    process.send_signal(signal.SIGINT)
    files.close()


def module_type() -> Any:
    """BCC's class BPF, without its attaching by name.

    Raises:
        ImportError: BCC is not installed for this Python.
    """
    from bcc import BPF

    class Module(BPF):  # type: ignore[misc]  # BCC has no types
        """A compiled text."""

        def _trace_autoload(self) -> None:
            """Nothing is attached by name: the catalogue says what."""

    return Module


def bytecode_of(bpf: Any) -> Bytecode:
    """The maps and programs of a text that BCC compiled in this process."""
    from bcc import lib

    lib.bpf_table_name.restype = ctypes.c_char_p  # BCC itself does not call it
    names = [lib.bpf_table_name(bpf.module, i).decode() for i in range(lib.bpf_num_tables(bpf.module))]
    fds = [lib.bpf_table_fd(bpf.module, name.encode()) for name in names]
    functions = [lib.bpf_function_name(bpf.module, i) for i in range(lib.bpf_num_functions(bpf.module))]
    places = {fd: place for place, fd in enumerate(fds)}
    return Bytecode(
        tuple(_shape(name, fd) for name, fd in zip(names, fds, strict=True)),
        {name.decode(): with_maps(bpf.dump_func(name), places) for name in functions},
    )


def _shape(name: str, fd: int) -> MapShape:
    """A map as the kernel has it, by proc_pid_fdinfo(5)."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    told = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    fields = ("map_type", "key_size", "value_size", "max_entries", "map_flags")
    return MapShape(name, *(int(told[field], 0) for field in fields))


def _main() -> None:
    """The other process: a `Source` as JSON on standard input, bytecode on standard output."""
    asked = json.load(sys.stdin)
    output = os.dup(1)
    os.dup2(2, 1)  # whatever BCC and LLVM print, it is no bytecode
    try:
        module = module_type()
    except ImportError as exc:
        sys.exit((print(exc, file=sys.stderr), _NO_BCC)[1])  # noqa: T201
    with kernel_tree.installed(asked["definitions"]):
        bpf = module(text=asked["text"].encode(), cflags=asked["cflags"])
    with open(output, "wb") as file:
        file.write(bytecode_of(bpf).to_bytes())
    # The kernel takes the maps; to tear LLVM down in good order takes time.
    os._exit(0)
