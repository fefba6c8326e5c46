# SPDX-License-Identifier: GPL-2.0-only
"""The firewall's rules as nft(8) prints them. They are only read."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from wgtrace.errors import WgtraceError
from wgtrace.state.netns import inside
from wgtrace.state.types import Firewall, Namespace, NftChain

_LIST: Final = ("-a", "-t", "list", "ruleset")  # with handles, without what sets hold
_LIMIT_S: Final = 20
_TABLE: Final = re.compile(r"table (\S+) (\S+) \{ # handle (\d+)")
_CHAIN: Final = re.compile(r"\tchain (\S+) \{ # handle \d+")
_BASE: Final = re.compile(r"\t\ttype \S+ hook (\S+) .*?priority ([^;]+);(?: policy (\w+);)?")
_RULE: Final = re.compile(r"\t\t(.*) # handle (\d+)$")
_LEGACY: Final = ("ip_tables_names", "ip6_tables_names")


def firewall(namespace: Namespace) -> Firewall:
    """The rules of a namespace as they are now."""
    try:
        return inside(namespace, _here)
    except (WgtraceError, OSError) as exc:
        return Firewall(unreadable=f"its namespace cannot be entered: {exc}")


def _here() -> Firewall:
    legacy: list[str] = []
    for name in _LEGACY:
        with contextlib.suppress(OSError):  # nobody ever used them here
            legacy += Path("/proc/thread-self/net", name).read_text().split()
    tables = tuple(dict.fromkeys(legacy))
    nft = shutil.which("nft")
    if nft is None:
        return Firewall(legacy=tables, unreadable="nft(8) is not installed: apt-get install nftables")
    try:
        done = subprocess.run([nft, *_LIST], capture_output=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Firewall(legacy=tables, unreadable=f"nft(8) did not answer within {_LIMIT_S} s")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().split("\n")[0]
        return Firewall(legacy=tables, unreadable=f"nft(8) failed: {said}")
    return Firewall(chains_of(done.stdout.decode(errors="replace")), tables)


def chains_of(text: str) -> tuple[NftChain, ...]:
    """The chains that `nft -a list ruleset` prints."""
    found: list[NftChain] = []
    table = ("", "", 0)
    chain: NftChain | None = None
    for line in text.split("\n"):
        if at := _TABLE.match(line):
            table, chain = (at[1], at[2], int(at[3])), None
        elif at := _CHAIN.match(line):
            chain = NftChain(table[0], table[1], table[2], at[1])
            found.append(chain)
        elif line in ("}", "\t}"):
            chain = None
        elif chain is not None and (at := _BASE.match(line)):
            chain = NftChain(*table, chain.name, at[1], at[2], at[3] or "accept", chain.rules)
            found[-1] = chain
        elif chain is not None and (at := _RULE.match(line)):
            chain.rules[int(at[2])] = at[1]
    return tuple(found)
