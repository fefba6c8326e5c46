# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.nft: what `nft -a list ruleset` prints, read back."""

from __future__ import annotations

from wgtrace.state.nft import chains_of
from wgtrace.state.types import NftChain

LISTING = """\
table inet fw { # handle 5
\tset ports { # handle 3
\t\ttype inet_service
\t\telements = { 1004, 1044 }
\t}

\tchain in { # handle 1
\t\ttype filter hook input priority filter; policy drop;
\t\tct state established,related accept # handle 4
\t\tudp dport @ports jump deep comment "# handle 99" # handle 7
\t}

\tchain deep { # handle 2
\t\treject with icmpx port-unreachable # handle 6
\t}

\tchain early {
\t}
}
table ip raw { # handle 6
\tchain ingress0 { # handle 1
\t\ttype filter hook prerouting device "eth0" priority -300; policy accept;
\t}
}
"""


def test_chains_and_rules() -> None:
    """Base chains have hook and policy, others not; a rule keeps its text, its own handle is the last."""
    assert chains_of(LISTING) == (
        NftChain(
            "inet",
            "fw",
            5,
            "in",
            "input",
            "filter",
            "drop",
            {
                4: "ct state established,related accept",
                7: 'udp dport @ports jump deep comment "# handle 99"',
            },
        ),
        NftChain("inet", "fw", 5, "deep", rules={6: "reject with icmpx port-unreachable"}),
        NftChain("ip", "raw", 6, "ingress0", "prerouting", "-300", "accept"),
    )


def test_no_rules() -> None:
    """Nothing is printed where there is nothing."""
    assert chains_of("") == ()
