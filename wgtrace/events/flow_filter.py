# SPDX-License-Identifier: GPL-2.0-only
"""Which drops a user asks for, and the little language for flows: a part of pcap-filter(7).

    [not] [inner|outer] [src|dst] host ADDRESS
    [not] [inner|outer] [src|dst] net ADDRESS/LENGTH
    [not] [inner|outer] [tcp|udp] [src|dst] port NUMBER
    [not] [inner|outer] proto NAME|NUMBER
    [not] [inner|outer] tcp|udp|icmp|icmp6|ip|ip6

joined by `and`. A term without `inner` or `outer` holds if either packet has it; one about a
packet that is not known does not hold, and its `not` does. bpf/filter.bpf.h evaluates it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from wgtrace.errors import UsageError
from wgtrace.events.reasons import Direction, KernelReason, Reason
from wgtrace.events.wire import MAX_TERMS, FlowEnd, Layer, TermKind

EXAMPLE: Final = "inner host 10.9.4.7 and port 443 and tcp"

_PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmp6": 58}
_FAMILIES: Final = {"ip": 4, "ip6": 6}
_LAYERS: Final = {"inner": Layer.INNER, "outer": Layer.OUTER}
_ENDS: Final = {"src": FlowEnd.SOURCE, "dst": FlowEnd.DESTINATION}
_BOTH_LAYERS: Final = Layer.INNER | Layer.OUTER
_BOTH_ENDS: Final = FlowEnd.SOURCE | FlowEnd.DESTINATION
_NOT_HERE: Final = ("or", "||", "(", ")", "portrange", "ether", "vlan", "gateway", "greater", "less")


@dataclass(frozen=True, slots=True)
class FlowTerm:
    """`struct wgt_flow_term`: one thing that a packet must have.

    Attributes:
        layers: Bits of `Layer`: the packets that may have it.
        ends: Bits of `FlowEnd`, for NET and PORT.
        net: For NET.
        port: For PORT.
        proto: IPPROTO number for PROTO; for PORT that of TCP or UDP, or 0 for both.
        family: 4 or 6, for FAMILY.
    """

    kind: TermKind
    layers: int = _BOTH_LAYERS
    ends: int = _BOTH_ENDS
    negated: bool = False
    net: IPv4Network | IPv6Network | None = None
    port: int = 0
    proto: int = 0
    family: int = 0


@dataclass(frozen=True, slots=True)
class Filter:
    """What of the drops to show and count; empty means everything.

    Attributes:
        peers: Base64 public keys.
        flow: All of these must hold.
        kernel_reasons: Ids of reasons outside of WireGuard; with `reasons`, those and these.
    """

    peers: frozenset[str] = frozenset()
    directions: frozenset[Direction] = frozenset()
    reasons: frozenset[Reason] = frozenset()
    flow: tuple[FlowTerm, ...] = ()
    kernel_reasons: frozenset[str] = frozenset()

    def wants(self, reason: Reason | KernelReason) -> bool:
        """Whether drops for this reason are wanted at all."""
        if self.directions and reason.direction not in self.directions:
            return False
        if not self.reasons and not self.kernel_reasons:
            return True
        return reason in self.reasons if isinstance(reason, Reason) else reason.id in self.kernel_reasons

    def passes(self, reason: Reason | KernelReason, public_key: str | None) -> bool:
        """Whether a drop for this reason and of this peer is wanted, as far as these tell."""
        return self.wants(reason) and (not self.peers or public_key in self.peers)


def parse_flow(text: str) -> tuple[FlowTerm, ...]:
    """The terms of a flow filter.

    Raises:
        UsageError: It is none; says where, and gives an example.
    """
    words = _Words(text)
    terms = [_term(words)]
    while not words.is_at_end:
        word = words.take("and")
        if word != "and":
            raise words.error(f"'and' is missing before {word!r}" if word not in _NOT_HERE else None)
        terms.append(_term(words))
    if len(terms) > MAX_TERMS:
        raise UsageError(f"a flow filter has at most {MAX_TERMS} terms", f"this one has {len(terms)}")
    return tuple(terms)


class _Words:
    """The words of a filter, and where they stand."""

    def __init__(self, text: str) -> None:
        self._text = re.sub(r"\s", " ", text)
        self._found = [(m.group().lower(), m.start()) for m in re.finditer(r"[()]|[^\s()]+", text)]
        self._next = 0

    @property
    def is_at_end(self) -> bool:
        return self._next == len(self._found)

    @property
    def next(self) -> str:
        """The next word, "" at the end."""
        return "" if self.is_at_end else self._found[self._next][0]

    def take(self, expected: str) -> str:
        """The next word; at the end an error that says what is expected there."""
        if self.is_at_end:
            self._next += 1
            raise self.error(f"it ends where {expected} is expected")
        self._next += 1
        return self._found[self._next - 1][0]

    def error(self, what: str | None) -> UsageError:
        """About the word taken last, or what should have stood at the end."""
        at = self._next - 1
        column = self._found[at][1] if at < len(self._found) else len(self._text.rstrip()) + 1
        word = self._found[at][0] if at < len(self._found) else ""
        if word in _NOT_HERE:
            what = f"{word!r} of pcap-filter(7) is not known here"
        return UsageError(
            f"--flow: {what}, at character {column + 1}",
            f"{self._text}\n{' ' * column}^",
            f"for example: --flow '{EXAMPLE}'",
        )


def _term(words: _Words) -> FlowTerm:
    negated = _skip(words, "not")
    layers = _one_of(words, _LAYERS) or _BOTH_LAYERS
    word = words.take("host, net, port, proto or a protocol")
    proto = 0
    if word in _FAMILIES:
        return FlowTerm(TermKind.FAMILY, layers, negated=negated, family=_FAMILIES[word])
    if word in _PROTOCOLS:
        proto = _PROTOCOLS[word]
        if word not in ("tcp", "udp") or words.next not in ("src", "dst", "port"):
            return FlowTerm(TermKind.PROTO, layers, negated=negated, proto=proto)
        word = words.take("port")
    ends = int(_ENDS.get(word, _BOTH_ENDS))
    if word in _ENDS:
        word = words.take("port" if proto else "host, net or port")
    if word == "port":
        return FlowTerm(TermKind.PORT, layers, ends, negated, port=_port(words), proto=proto)
    if proto:
        raise words.error(f"'port' is expected, not {word!r}")
    if word in ("host", "net"):
        return FlowTerm(TermKind.NET, layers, ends, negated, net=_net(words, word == "host"))
    if word == "proto" and ends == _BOTH_ENDS:
        return FlowTerm(TermKind.PROTO, layers, negated=negated, proto=_protocol(words))
    raise words.error(
        f"{word!r} is no word of a flow filter" if word not in ("and", "not") else f"no {word!r} here"
    )


def _skip(words: _Words, word: str) -> bool:
    if words.next != word:
        return False
    words.take(word)
    return True


def _one_of(words: _Words, known: dict[str, Layer]) -> int:
    return known[words.take("")] if words.next in known else 0


def _net(words: _Words, is_host: bool) -> IPv4Network | IPv6Network:
    text = words.take("an IP address" if is_host else "a prefix such as 10.9.0.0/16")
    try:
        if is_host and "/" in text:
            raise words.error(f"'host' takes one address, {text} is a prefix: 'net {text}'")
        return ip_network(text)
    except ValueError as exc:
        raise words.error(str(exc)) from exc


def _number(words: _Words, what: str, most: int) -> int:
    text = words.take(what)
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > most:
        raise words.error(f"{text!r} is no {what}: 0 to {most}")
    return int(text)


def _port(words: _Words) -> int:
    return _number(words, "port number", 65535)


def _protocol(words: _Words) -> int:
    if words.next in _PROTOCOLS:
        return _PROTOCOLS[words.take("")]
    return _number(words, "protocol number", 255)
