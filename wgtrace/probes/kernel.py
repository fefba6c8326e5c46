# SPDX-License-Identifier: GPL-2.0-only
"""What the running kernel offers: symbols from /proc/kallsyms.

Never a version: the kernel is asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wgtrace.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol of a kernel module.

    Attributes:
        kind: As nm(1) prints it: t and T are text, d, D, b and B data.
    """

    name: str
    address: int
    kind: str

    @property
    def is_text(self) -> bool:
        """Whether it is code."""
        return self.kind in "tT"


@dataclass(frozen=True, slots=True)
class TextRange:
    """Kernel text of one function, first byte and first byte after."""

    function: str
    start: int
    end: int


def module_id(module: str) -> int:
    """Of a module that is loaded: another one when it is loaded again. 0: it is not loaded, or built in."""
    try:
        return os.stat(f"/sys/module/{module}").st_ino
    except FileNotFoundError:
        return 0


def module_symbols(module: str, kallsyms: Path = Path("/proc/kallsyms")) -> tuple[Symbol, ...]:
    """The symbols of a module, by address; empty if it is not loaded or built in.

    Raises:
        UnsupportedError: The kernel hides its addresses.
    """
    text = kallsyms.read_bytes()
    mark = b"\t[" + module.encode() + b"]"
    first = text.find(mark)
    if first < 0:
        return ()
    start = text.rfind(b"\n", 0, first) + 1
    # A module's symbols stand together; what comes between is filtered below.
    lines = text[start : text.rfind(mark) + len(mark)].split(b"\n")
    found = []
    for line in lines:
        if line.endswith(mark):
            address, kind, name = line[: -len(mark)].decode().split(" ", 2)
            found.append(Symbol(name, int(address, 16), kind))
    if found and not any(symbol.address for symbol in found):
        raise UnsupportedError(
            "the kernel hides the addresses of its functions",
            "kernel.kptr_restrict is 2",
            "sysctl kernel.kptr_restrict=1",
        )
    return tuple(sorted(found, key=lambda symbol: symbol.address))


def text_ranges(symbols: Iterable[Symbol], functions: Iterable[str]) -> tuple[TextRange, ...]:
    """Where the code of these functions is, their `.cold` and other parts included.

    A symbol ends where the next one begins.
    """
    wanted = set(functions)
    text = sorted((s for s in symbols if s.is_text), key=lambda s: s.address)
    ranges = []
    for at, symbol in enumerate(text):
        function = symbol.name.split(".", 1)[0]
        if function not in wanted:
            continue
        after = next((s.address for s in text[at + 1 :] if s.address > symbol.address), None)
        # The last function of a module: no more than a page of it is believed.
        ranges.append(TextRange(function, symbol.address, after or symbol.address + 4096))
    return tuple(ranges)


def function_ranges(names: Iterable[str], kallsyms: Path = Path("/proc/kallsyms")) -> tuple[TextRange, ...]:
    """Where the kernel itself has these functions, those that it lists."""
    text = kallsyms.read_bytes()
    return tuple(found for name in names if (found := _function_range(name, text)))


def function_range(names: Iterable[str], kallsyms: Path = Path("/proc/kallsyms")) -> TextRange | None:
    """Where the kernel itself has the first of these functions that it lists; None if it has none."""
    return next(iter(function_ranges(names, kallsyms)), None)


def _function_range(name: str, text: bytes) -> TextRange | None:
    at = next((m for kind in (b"T", b"t") if (m := text.find(b" %c %b\n" % (kind, name.encode()))) >= 0), -1)
    if at < 0:
        return None
    start = int(text[text.rfind(b"\n", 0, at) + 1 : at], 16)
    # Symbols of the kernel are listed by address; two may stand at one.
    for line in text[at + 1 : at + 4096].split(b"\n")[1:]:
        if line and int(line.split()[0], 16) > start:
            return TextRange(name, start, int(line.split()[0], 16))
    return None


class Places:
    """Names for addresses of code anywhere in the kernel, each looked up when it is first asked for.

    Args:
        kallsyms: As the kernel lists its symbols: its own first and by address, then each module's.
        modules: As proc_modules(5) lists where they are.
    """

    def __init__(
        self, kallsyms: Path = Path("/proc/kallsyms"), modules: Path = Path("/proc/modules")
    ) -> None:
        self._kallsyms, self._modules = kallsyms, modules
        self._described: dict[int, str] = {}
        self._text = b""

    def describe(self, address: int) -> str:
        """`nft_do_chain+0x83`, or the bare address."""
        if address not in self._described:
            self._described[address] = self._describe(address)
        return self._described[address]

    def _describe(self, address: int) -> str:
        module = self._module_of(address)
        if module:
            return describe_address(module_symbols(module, self._kallsyms), address)
        if not self._text:
            self._text = self._kallsyms.read_bytes().split(b"\t[", 1)[0]
        low, high = 0, len(self._text)
        while high - low > 1:  # the last line that begins at or before the address
            middle = (low + high) // 2
            line = self._text.rfind(b"\n", 0, middle) + 1
            if line <= low:
                line = self._text.find(b"\n", middle) + 1
                if line <= 0 or line >= high:
                    break
            if int(self._text[line : line + 16], 16) <= address:
                low = line
            else:
                high = line
        found = []
        for entry in self._text[max(0, low - 4096) : low + 200].split(b"\n")[1:-1]:
            value, kind, name = entry.decode().split(" ", 2)
            found.append(Symbol(name, int(value, 16), kind))
        return describe_address(found, address)

    def _module_of(self, address: int) -> str:
        """proc_modules(5): name, size, ..., address."""
        for line in self._modules.read_text().splitlines():
            words = line.split()
            start = int(words[5], 16)
            if start <= address < start + int(words[1]):
                return words[0]
        return ""


def address_of(symbols: Iterable[Symbol], name: str) -> int:
    """The address of a symbol, 0 if there is none of that name."""
    return next((s.address for s in symbols if s.name == name), 0)


def describe_address(symbols: Iterable[Symbol], address: int) -> str:
    """`wg_xmit+0x83`, or the bare address if no symbol of the module is near."""
    before = [s for s in symbols if s.is_text and s.address <= address]
    if not before or not address:
        return hex(address)
    nearest = max(before, key=lambda s: s.address)
    return f"{nearest.name}+{address - nearest.address:#x}"
