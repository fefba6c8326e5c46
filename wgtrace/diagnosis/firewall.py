# SPDX-License-Identifier: GPL-2.0-only
"""Which rule of the firewall dropped a packet: what the kernel told, held against the rules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from wgtrace.diagnosis.words import listing
from wgtrace.events.types import PathEvent
from wgtrace.events.wire import RuleFound
from wgtrace.state.types import Firewall, NftChain

FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
"""NFPROTO numbers as nft(8) writes them."""
# By a statement, which the kernel names; and by what it does not.
_SAYS_SO: Final = re.compile(r"(?<!: )\b(?:drop|reject)\b")
_IMPLIES: Final = re.compile(r'\b(?:vmap|synproxy|queue)\b|xt target "(?:REJECT|NFQUEUE|SYNPROXY)"')
_WG_QUICK: Final = "wg-quick-"


@dataclass(frozen=True, slots=True)
class Blocked:
    """What of the firewall dropped a packet.

    Attributes:
        family: Of the table, "" if no rule of nft is named.
        handle: Of the rule, 0: it was the policy of the chain.
        text: Of the rule as nft(8) prints it, "" if it could not be read.
        is_exact: It was this one; else it is a candidate.
        others: What else it can have been.
    """

    family: str = ""
    table: str = ""
    chain: str = ""
    handle: int = 0
    text: str = ""
    is_exact: bool = False
    others: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether reading the rules again would tell no more."""
        return self.is_exact and bool(self.text or self.is_policy)

    @property
    def is_policy(self) -> bool:
        """Whether no rule but the chain's policy did it."""
        return bool(self.chain) and not self.handle

    @property
    def is_wg_quick(self) -> bool:
        """Whether wg-quick(8) made it."""
        return self.table.startswith(_WG_QUICK)

    @property
    def where(self) -> str:
        """`chain in of table inet filter`."""
        return f"chain {self.chain} of table {self.family} {self.table}" if self.chain else ""

    def __str__(self) -> str:
        sure = "" if self.is_exact else "perhaps "
        if self.is_policy:
            return f"{sure}the policy of {self.where}"
        if self.chain:
            whose = "wg-quick's own rule" if self.is_wg_quick else "rule"
            text = f": {self.text}" if self.text else ""
            return f"{sure}{whose} {self.handle} in {self.where}{text}"
        return f"one of {listing(self.others)}" if self.others else "the firewall"


def blocked_by(event: PathEvent, firewall: Firewall | None) -> Blocked:
    """What of the firewall dropped this packet.

    Args:
        firewall: The rules where it died, None: not known.
    """
    chains = firewall.chains if firewall else ()
    if event.nft is not None:
        place = event.nft
        family = FAMILIES.get(place.family, str(place.family))
        text = next(
            (c.rules.get(place.handle, "") for c in chains if _is(c, place.table_handle, place.handle)), ""
        )
        return Blocked(family, place.table, place.chain, place.handle, text, is_exact=True)
    here = _reached(chains, event)
    found: list[Blocked] = []
    legacy: tuple[str, ...] = ()
    for refuses, is_possible in (
        (_SAYS_SO, event.found is not RuleFound.IMPLICIT),
        (_IMPLIES, event.found is not RuleFound.SOMEWHERE),
    ):
        found += [
            Blocked(c.family, c.table, c.name, handle, text)
            for c in here
            for handle, text in c.rules.items()
            if is_possible and refuses.search(text)
        ]
    if event.found is not RuleFound.SOMEWHERE:
        found += [Blocked(c.family, c.table, c.name) for c in here if c.hook and c.policy == "drop"]
        legacy = tuple(f"iptables-legacy's table {name}" for name in (firewall.legacy if firewall else ()))
    if len(found) == 1 and not legacy:
        one = found[0]
        # Where every `drop` and `reject` is followed, the only policy is all that is left.
        sure = one.is_policy and event.found is RuleFound.IMPLICIT
        return Blocked(one.family, one.table, one.chain, one.handle, one.text, is_exact=sure)
    return Blocked(others=(*map(_name, found), *legacy))


def _name(found: Blocked) -> str:
    what = f"rule {found.handle} in" if found.handle else "the policy of"
    return f"{what} {found.where}"


def _is(chain: NftChain, table_handle: int, handle: int) -> bool:
    return chain.table_handle == table_handle and handle in chain.rules


def _reached(chains: tuple[NftChain, ...], event: PathEvent) -> list[NftChain]:
    """The chains that a packet may have come through at its hook: base chains, and where they lead."""
    flow = event.flow
    families = ("inet", "ip6" if flow and flow.family == 6 else "ip")
    hook = event.hook.name.lower()
    found = [c for c in chains if c.hook == hook and c.family in families]
    for chain in found:  # grows as it goes
        for text in chain.rules.values():
            for name in re.findall(r"\b(?:jump|goto) ([^\s,}]+)", text):
                found += [
                    c
                    for c in chains
                    if c.name == name and c.table_handle == chain.table_handle and c not in found
                ]
    return found
