# SPDX-License-Identifier: GPL-2.0-only
"""Who wants which prefix, from the AllowedIPs in wg-quick(8)'s files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from pathlib import Path

from wgtrace.state.names import PUBLIC_KEY, SECTION, WG_QUICK_DIR, lines
from wgtrace.state.types import Claim

_SETTING = re.compile(r"\s*(PublicKey|AllowedIPs)\s*=\s*([^#]*)", re.IGNORECASE)


def claims(conf_dir: Path = WG_QUICK_DIR) -> tuple[Claim, ...]:
    """The prefixes that each [Peer] section of `*.conf` lists; what cannot be read is left out."""
    found: list[Claim] = []
    with contextlib.suppress(OSError):
        for path in sorted(path for path in conf_dir.iterdir() if path.suffix == ".conf"):
            with contextlib.suppress(OSError):
                found += _claims(str(path), lines(path))
    return tuple(found)


def _claims(file: str, text: Iterable[str]) -> Iterator[Claim]:
    key, wanted = "", ""
    in_peer = False
    for line in (*text, "[end]"):
        if section := SECTION.match(line):
            for net in filter(None, re.split(r"[,\s]+", wanted)) if key else ():
                with contextlib.suppress(ValueError):
                    yield Claim(file, key, ip_network(net.lstrip("+"), strict=False))
            in_peer, key, wanted = section[1].lower() == "peer", "", ""
        elif in_peer and (setting := _SETTING.match(line)):
            if setting[1].lower() == "allowedips":
                wanted += "," + setting[2]
            elif PUBLIC_KEY.fullmatch(setting[2].strip()):
                key = setting[2].strip()
