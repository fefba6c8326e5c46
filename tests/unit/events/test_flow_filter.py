# SPDX-License-Identifier: GPL-2.0-only
"""flow_filter: the language, and bpf/filter.bpf.h compiled for the host against a plain reading of it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from records import fill

from wgtrace.errors import UsageError
from wgtrace.events.flow_filter import EXAMPLE, Filter, FlowTerm, parse_flow
from wgtrace.events.reasons import Direction, Reason
from wgtrace.events.types import Flow
from wgtrace.events.wire import FilterWire, FlowEnd, FlowWire, Layer, TermKind
from wgtrace.loader.kernel_filter import filter_wire, peer_keys
from wgtrace.loader.source import bpf_directory

INNER, OUTER, SRC, DST = Layer.INNER, Layer.OUTER, FlowEnd.SOURCE, FlowEnd.DESTINATION
TEN = ip_network("10.0.0.0/8")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        (
            EXAMPLE,
            [
                FlowTerm(TermKind.NET, INNER, net=ip_network("10.9.4.7")),
                FlowTerm(TermKind.PORT, port=443),
                FlowTerm(TermKind.PROTO, proto=6),
            ],
        ),
        ("src host fd00::1", [FlowTerm(TermKind.NET, ends=SRC, net=ip_network("fd00::1"))]),
        ("not outer dst net 10.0.0.0/8", [FlowTerm(TermKind.NET, OUTER, DST, True, TEN)]),
        ("  UDP  dst port 53 ", [FlowTerm(TermKind.PORT, ends=DST, port=53, proto=17)]),
        ("tcp port 0 and not src port 65535", [
            FlowTerm(TermKind.PORT, port=0, proto=6),
            FlowTerm(TermKind.PORT, ends=SRC, negated=True, port=65535),
        ]),
        ("proto 47 and icmp6", [FlowTerm(TermKind.PROTO, proto=47), FlowTerm(TermKind.PROTO, proto=58)]),
        ("proto icmp6", [FlowTerm(TermKind.PROTO, proto=58)]),
        ("inner ip6 and outer ip", [
            FlowTerm(TermKind.FAMILY, INNER, family=6),
            FlowTerm(TermKind.FAMILY, OUTER, family=4),
        ]),
        ("icmp and udp", [FlowTerm(TermKind.PROTO, proto=1), FlowTerm(TermKind.PROTO, proto=17)]),
    ],
)  # fmt: skip
def test_what_words_mean(text: str, terms: list[FlowTerm]) -> None:
    """Each form of a term, in any case and with any spaces."""
    assert list(parse_flow(text)) == terms


@pytest.mark.parametrize(
    ("text", "said", "at"),
    [
        ("", "it ends where host", 1),
        ("   ", "it ends where host", 1),
        ("inner hots 10.9.4.7", "'hots' is no word of a flow filter", 6),
        ("host 10.9.4", "'10.9.4' does not appear to be an IPv4 or IPv6", 5),
        ("host 10.0.0.0/8", "'net 10.0.0.0/8'", 5),
        ("net 10.9.4.7/8", "10.9.4.7/8 has host bits set", 4),
        ("port https", "'https' is no port number: 0 to 65535", 5),
        ("port 65536", "'65536' is no port number", 5),
        ("port -1", "'-1' is no port number", 5),
        ("port ٣", "no port number", 5),
        ("proto 256", "'256' is no protocol number: 0 to 255", 6),
        ("proto gre", "'gre' is no protocol number", 6),
        ("tcp port 443 udp", "'and' is missing before 'udp'", 13),
        ("host 10.0.0.1 or host 10.0.0.2", "'or' of pcap-filter(7) is not known here", 14),
        ("(tcp)", "'(' of pcap-filter(7) is not known here", 0),
        ("portrange 1-2", "'portrange' of pcap-filter(7) is not known here", 0),
        ("tcp and", "it ends where host", 8),
        ("src port", "it ends where port number", 9),
        ("src tcp", "'tcp' is no word", 4),
        ("tcp src host 10.0.0.1", "'port' is expected, not 'host'", 8),
        ("not not tcp", "no 'not' here", 4),
        ("src proto 6", "'proto' is no word", 4),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, said: str, at: int) -> None:
    """An error names the word, points at it, and gives an example that parses."""
    with pytest.raises(UsageError) as refused:
        parse_flow(text)

    assert said in refused.value.what
    line, mark = refused.value.because.split("\n")
    assert line == text
    assert mark.index("^") == at
    assert refused.value.what.endswith(f"at character {at + 1}")
    assert EXAMPLE in refused.value.do


def test_there_is_an_end_to_terms() -> None:
    """Eight terms are taken, nine are refused with both numbers."""
    assert len(parse_flow(" and ".join(["tcp"] * 8))) == 8
    with pytest.raises(UsageError, match="at most 8") as refused:
        parse_flow(" and ".join(["tcp"] * 9))
    assert "9" in refused.value.because


@given(st.text(max_size=60))  # type: ignore[untyped-decorator]
def test_any_text_is_a_filter_or_an_error(text: str) -> None:
    """Nothing that a user can type raises anything else."""
    try:
        terms = parse_flow(text)
    except UsageError:
        return
    assert terms


def test_reasons_and_peers_for_the_kernel() -> None:
    """A reason is hidden that any of the options leaves out; peers are keys of a map."""
    key = "/dZm2sY5RkBrlea58QHaW433cZFGhOAGqrWv7PlKBhw="
    wanted = Filter(
        frozenset({key}),
        frozenset({Direction.RX}),
        frozenset({Reason.BAD_HEADER, Reason.NO_ENDPOINT}),
        parse_flow("udp"),
    )
    wire = filter_wire(wanted)

    assert [reason for reason in Reason if not wire.hidden[reason]] == [Reason.BAD_HEADER]
    assert (wire.has_peers, wire.terms) == (1, 1)
    assert [bytes(peer.bytes)[:4].hex() for peer in peer_keys(wanted)] == ["fdd666da"]


def test_no_filter_is_all_zero_for_the_kernel() -> None:
    """Without options the programs ask nothing of a drop."""
    wire = filter_wire(Filter())
    wire.samples_per_second = 0

    assert bytes(wire) == bytes(ctypes.sizeof(FilterWire))


HARNESS = """\
#include <stdbool.h>
#include "%s/events.h"
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
#include "%s/filter.bpf.h"
int wanted(struct wgt_filter *filter, struct wgt_flow *inner, struct wgt_flow *outer)
{
	return is_flow_wanted(filter, inner, outer);
}
"""
Wanted = Callable[[tuple[FlowTerm, ...], "Flow | None", "Flow | None"], bool]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Wanted:
    """The very C that runs in the kernel."""
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler: apt-get install gcc")
    folder: Path = tmp_path_factory.mktemp("filter")
    text = HARNESS % (bpf_directory(), bpf_directory())
    (folder / "filter.c").write_text(text)
    flags = ["-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
    library = folder / "filter.so"
    subprocess.run(["cc", *flags, "-o", str(library), str(folder / "filter.c")], check=True)
    function = ctypes.CDLL(str(library)).wanted

    def wanted(terms: tuple[FlowTerm, ...], inner: Flow | None, outer: Flow | None) -> bool:
        flows = [flow_wire(inner), flow_wire(outer)]
        return bool(function(ctypes.byref(filter_wire(Filter(flow=terms))), *map(ctypes.byref, flows)))

    return wanted


def flow_wire(flow: Flow | None) -> FlowWire:
    """A flow as the programs fill it in."""
    wire = FlowWire()
    if flow:
        values: dict[str, Any] = {
            "saddr": flow.saddr.packed,
            "daddr": flow.daddr.packed,
            "sport": flow.sport,
            "dport": flow.dport,
            "family": flow.family,
            "proto": flow.proto,
        }
        fill(wire, values)
    return wire


def holds(term: FlowTerm, flow: Flow | None) -> bool:
    """Whether a packet has what a term says, as README puts it."""
    if flow is None:
        return False
    ends = [(flow.saddr, flow.sport)] * bool(term.ends & SRC) + [(flow.daddr, flow.dport)] * bool(
        term.ends & DST
    )
    if term.kind is TermKind.NET:
        assert term.net
        return any(address in term.net for address, _port in ends)
    if term.kind is TermKind.PORT:
        protos = (term.proto,) if term.proto else (6, 17)
        return flow.proto in protos and any(port == term.port for _address, port in ends)
    return flow.proto == term.proto if term.kind is TermKind.PROTO else flow.family == term.family


def reading(terms: tuple[FlowTerm, ...], inner: Flow | None, outer: Flow | None) -> bool:
    """What a filter means."""
    return all(
        ((bool(t.layers & INNER) and holds(t, inner)) or (bool(t.layers & OUTER) and holds(t, outer)))
        is not t.negated
        for t in terms
    )


ADDRESSES = {
    4: ["10.9.4.7", "10.9.4.8", "192.0.2.1", "0.0.0.0"],
    6: ["fd00::7", "fd00::8", "fd00:0:0:1::7", "::"],
}
NETS = [
    "10.9.4.7/32",
    "10.9.0.0/16",
    "0.0.0.0/0",
    "fd00::7/128",
    "fd00::/63",
    "fd00::/65",
    "fd00::/61",
    "::/0",
]
FLOWS = st.sampled_from([4, 6]).flatmap(
    lambda family: st.builds(
        Flow,
        *[st.sampled_from([ip_address(text) for text in ADDRESSES[family]])] * 2,
        st.sampled_from([1, 6, 17, 47, 58]),
        *[st.sampled_from([0, 53, 443])] * 2,
        st.just(84),
    )
)
WORDS = st.tuples(
    st.sampled_from(["", "not "]),
    st.sampled_from(["", "inner ", "outer "]),
    st.one_of(
        st.sampled_from(["tcp", "udp", "icmp", "icmp6", "ip", "ip6", "proto 47", "proto 0"]),
        st.tuples(st.sampled_from(["", "src ", "dst "]), st.sampled_from([f"net {n}" for n in NETS])).map(
            "".join
        ),
        st.tuples(
            st.sampled_from(["", "tcp ", "udp "]),
            st.sampled_from(["", "src ", "dst "]),
            st.sampled_from(["port 0", "port 53", "port 443"]),
        ).map("".join),
    ),
).map("".join)
DNS = Flow(ip_address("10.9.4.7"), ip_address("10.9.4.8"), 17, 40000, 53, 60)


@given(st.lists(WORDS, min_size=1, max_size=8), st.none() | FLOWS, st.none() | FLOWS)  # type: ignore[untyped-decorator]
@example(["inner udp port 53", "src net 10.9.0.0/16"], DNS, None)  # type: ignore[untyped-decorator]
@example(["inner udp port 53"], None, DNS)  # type: ignore[untyped-decorator]
@example(["proto 0"], None, DNS)  # type: ignore[untyped-decorator]
@example(["not inner udp port 53"], None, DNS)  # type: ignore[untyped-decorator]
def test_the_kernels_c_reads_it_so(
    kernels: Wanted, words: list[str], inner: Flow | None, outer: Flow | None
) -> None:
    """Any filter on any two packets, known or not: bpf/filter.bpf.h says what the words mean."""
    terms = parse_flow(" and ".join(words))

    assert kernels(terms, inner, outer) is reading(terms, inner, outer)
