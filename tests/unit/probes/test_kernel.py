# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.probes.kernel, on /proc/kallsyms files written for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from wgtrace.errors import UnsupportedError
from wgtrace.probes.kernel import (
    Places,
    Symbol,
    TextRange,
    address_of,
    describe_address,
    function_range,
    function_ranges,
    module_symbols,
    text_ranges,
)

BASE = 0xFFFFFFFFC0400000
# Not in the order of addresses, with other modules before, between and after, as it happens.
KALLSYMS = f"""\
ffffffff81000000 T _stext
ffffffff81a00000 T wg_xmit
{BASE - 0x1000:x} t udp_tunnel_xmit_skb\t[udp_tunnel]
{BASE + 0x100:x} t wg_receive\t[wireguard]
{BASE:x} t wg_xmit\t[wireguard]
{BASE + 0x50:x} t wg_open\t[wireguard_extras]
{BASE + 0x8000:x} d device_list\t[wireguard]
{BASE + 0x40000:x} t nf_conntrack_in\t[nf_conntrack]
{BASE + 0x180:x} T wg_mod_init\t[wireguard]
{BASE + 0x50000:x} t bpf_prog_6deef7357e7b4530_wireguard\t[bpf]
"""


def kallsyms(directory: Path, text: str) -> Path:
    """A file such as /proc/kallsyms."""
    path = directory / "kallsyms"
    path.write_text(text)
    return path


def test_symbols_of_one_module_of_many(tmp_path: Path) -> None:
    """Only this module's symbols are taken, wherever its lines stand, and they come by address."""
    assert module_symbols("wireguard", kallsyms(tmp_path, KALLSYMS)) == (
        Symbol("wg_xmit", BASE, "t"),
        Symbol("wg_receive", BASE + 0x100, "t"),
        Symbol("wg_mod_init", BASE + 0x180, "T"),
        Symbol("device_list", BASE + 0x8000, "d"),
    )


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_modules_lines_may_be_the_last(tmp_path: Path, end: str) -> None:
    """The last line of the file counts, whether or not a newline ends it."""
    text = f"{BASE:x} t wg_xmit\t[wireguard]{end}"

    assert module_symbols("wireguard", kallsyms(tmp_path, text)) == (Symbol("wg_xmit", BASE, "t"),)


@pytest.mark.parametrize("text", ["", KALLSYMS.replace("[wireguard]", "[other]")])
def test_a_module_that_is_not_loaded_has_no_symbols(tmp_path: Path, text: str) -> None:
    """Not loaded, or built in: no symbols and no error, also where other names contain its name."""
    assert module_symbols("wireguard", kallsyms(tmp_path, text)) == ()


def test_hidden_addresses_are_said(tmp_path: Path) -> None:
    """Addresses that are all zero are not taken for addresses: the sysctl to change is named."""
    hidden = f"{0:016x} t wg_xmit\t[wireguard]\n{0:016x} d device_list\t[wireguard]\n"

    with pytest.raises(UnsupportedError, match="hides") as error:
        module_symbols("wireguard", kallsyms(tmp_path, hidden))

    assert error.value.do == "sysctl kernel.kptr_restrict=1"


def test_code_and_data_are_told_apart() -> None:
    """Only the kinds t and T are code."""
    assert [kind for kind in "tTdDbBrRaA" if Symbol("x", 1, kind).is_text] == ["t", "T"]


def test_ranges_end_where_the_next_code_begins() -> None:
    """A function reaches to the next code symbol; data in between does not end it."""
    symbols = (
        Symbol("wg_xmit", 0x1000, "t"),
        Symbol("some_data", 0x1010, "d"),
        Symbol("wg_open", 0x1100, "t"),
        Symbol("wg_receive", 0x1200, "T"),
        Symbol("wg_stop", 0x1280, "t"),
    )

    assert text_ranges(symbols, ["wg_receive", "wg_xmit"]) == (
        TextRange("wg_xmit", 0x1000, 0x1100),
        TextRange("wg_receive", 0x1200, 0x1280),
    )


def test_ranges_have_every_part_of_a_function() -> None:
    """What the compiler split off belongs to its function; a longer name does not."""
    symbols = (
        Symbol("wg_xmit", 0x1000, "t"),
        Symbol("wg_xmit_more", 0x1100, "t"),
        Symbol("wg_xmit.part.0", 0x1200, "t"),
        Symbol("__pfx_wg_xmit", 0x12F0, "t"),
        Symbol("wg_xmit.constprop.0.isra.0", 0x1300, "t"),
        Symbol("wg_open", 0x1400, "t"),
        Symbol("wg_xmit.cold", 0x2000, "t"),
        Symbol("wg_open.cold", 0x2010, "t"),
    )

    assert text_ranges(symbols, ["wg_xmit"]) == (
        TextRange("wg_xmit", 0x1000, 0x1100),
        TextRange("wg_xmit", 0x1200, 0x12F0),
        TextRange("wg_xmit", 0x1300, 0x1400),
        TextRange("wg_xmit", 0x2000, 0x2010),
    )


def test_ranges_of_symbols_at_one_address() -> None:
    """Another name for the same address does not make a function empty."""
    symbols = (
        Symbol("alias", 0x1000, "t"),
        Symbol("wg_xmit", 0x1000, "t"),
        Symbol("alias_too", 0x1000, "t"),
        Symbol("wg_open", 0x1100, "t"),
    )

    assert text_ranges(symbols, ["wg_xmit"]) == (TextRange("wg_xmit", 0x1000, 0x1100),)
    assert text_ranges(reversed(symbols), ["wg_xmit"]) == (TextRange("wg_xmit", 0x1000, 0x1100),)


def test_ranges_of_the_last_function_and_of_none() -> None:
    """The last function has an end too; a function that is not there has no range."""
    last = (Symbol("wg_xmit", 0x1000, "t"),)

    (found,) = text_ranges(last, ["wg_xmit"])

    assert found.start < found.end <= 0x2000
    assert text_ranges(last, ["wg_receive"]) == ()
    assert text_ranges((), ["wg_xmit"]) == ()


def test_the_address_of_a_symbol() -> None:
    """A symbol's address is found by its whole name; 0 stands for none."""
    symbols = (Symbol("device_list_lock", 0x10, "b"), Symbol("device_list", 0x20, "d"))

    assert address_of(symbols, "device_list") == 0x20
    assert address_of(symbols, "device") == 0


@pytest.mark.parametrize(
    ("address", "described"),
    [
        (0x1000, "wg_xmit+0x0"),
        (0x1083, "wg_xmit+0x83"),
        (0x1120, "wg_xmit.cold+0x20"),
        (0x0FFF, "0xfff"),
        (0, "0x0"),
    ],
)
def test_addresses_are_described(address: int, described: str) -> None:
    """An address is told by the code symbol before it; without one it stays a number."""
    symbols = (
        Symbol("wg_xmit.cold", 0x1100, "t"),
        Symbol("wg_xmit", 0x1000, "t"),
        Symbol("nearer_data", 0x1080, "d"),
    )

    assert describe_address(symbols, address) == described


def test_an_address_without_symbols_stays_a_number() -> None:
    """A module without symbols describes nothing."""
    assert describe_address((), 0x1000) == "0x1000"


def test_the_running_kernel() -> None:
    """The running kernel's own list is read; a module of no kernel is not in it."""
    assert module_symbols("no_such_module_at_all") == ()


LISTED = """\
ffffffff81000010 T kfree_skb_list_reason_not
ffffffff81000020 t __pfx_kfree_skb_list_reason
ffffffff81000030 T kfree_skb_list_reason
ffffffff81000030 t an_alias
ffffffff81000070 t next_one
"""


def test_the_range_of_a_function_of_the_kernel(tmp_path: Path) -> None:
    """It ends at the next address, and only the whole name counts; the first name that is there is taken."""
    path = kallsyms(tmp_path, LISTED)

    expected = TextRange("kfree_skb_list_reason", 0xFFFFFFFF81000030, 0xFFFFFFFF81000070)
    assert function_range(("kfree_skb_list", "kfree_skb_list_reason"), path) == expected
    assert function_range(("next",), path) is None
    assert function_range(("next_one",), path) is None  # where it ends is not known


def test_the_ranges_of_several_functions(tmp_path: Path) -> None:
    """Those that are there, in the order that they were asked for."""
    path = kallsyms(tmp_path, LISTED)

    found = function_ranges(("kfree_skb_list_reason", "nobody", "kfree_skb_list_reason_not"), path)
    assert [place.function for place in found] == ["kfree_skb_list_reason", "kfree_skb_list_reason_not"]


def test_places_anywhere_in_the_kernel(tmp_path: Path) -> None:
    """Code of the kernel, of a module by its own symbols, and what is neither."""
    lines = [f"{0xFFFFFFFF81000000 + n * 0x40:x} T function_{n}" for n in range(4001)]
    lines += [f"{BASE + 0x100:x} t nft_do_chain\t[nf_tables]", f"{BASE:x} t nft_other\t[nf_tables]"]
    modules = tmp_path / "modules"
    modules.write_text(f"nf_tables 8192 1 - Live {BASE:#x}\nx 4096 0 - Live {BASE + 8192:#x}\n")
    places = Places(kallsyms(tmp_path, "\n".join(lines) + "\n"), modules)

    for number in (1, 2, 1999, 3998):
        at = 0xFFFFFFFF81000000 + number * 0x40
        assert places.describe(at) == f"function_{number}+0x0"
        assert places.describe(at + 0x3F) == f"function_{number}+0x3f"
    assert places.describe(BASE + 0x1C4) == "nft_do_chain+0xc4"
    assert places.describe(0x10) == "0x10"
