# SPDX-License-Identifier: GPL-2.0-only
"""What ICMP errors say, in words."""

from __future__ import annotations

from typing import Final

# RFC 792, RFC 1122, RFC 1812; RFC 4443: of type 3 (IPv4) and 1 (IPv6), the codes.
_UNREACHABLE: Final = {
    4: {
        0: "network unreachable",
        1: "host unreachable",
        2: "protocol unreachable",
        3: "port closed",
        4: "packet too big",
        5: "source route failed",
        6: "network unknown",
        7: "host unknown",
        9: "network prohibited",
        10: "host prohibited",
        11: "network unreachable",
        12: "host unreachable",
        13: "prohibited by a firewall",
    },
    6: {
        0: "no route",
        1: "prohibited by a firewall",
        2: "beyond scope",
        3: "address unreachable",
        4: "port closed",
        5: "source refused by a firewall",
        6: "route rejected",
    },
}
_OTHER_ICMP: Final = {
    (4, 4): "source quench",
    (4, 11): "time to live exceeded",
    (4, 12): "bad header",
    (6, 2): "packet too big",
    (6, 3): "hop limit exceeded",
    (6, 4): "bad header",
}


def icmp_text(family: int, kind: int, code: int) -> str:
    """`port closed (ICMP 3/3)`."""
    unreachable = _UNREACHABLE[family] if kind == (3 if family == 4 else 1) else {}
    said = unreachable.get(code) or _OTHER_ICMP.get((family, kind), "error")
    return f"{said} (ICMP{'v6' if family == 6 else ''} {kind}/{code})"


def is_unreachable(family: int, kind: int, code: int) -> bool:
    """Whether it says that what was sent does not arrive, however small it is."""
    return (kind, code) != (3, 4) and kind == (3 if family == 4 else 1)
