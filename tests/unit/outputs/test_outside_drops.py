# SPDX-License-Identifier: GPL-2.0-only
"""Drops outside of WireGuard in every output: the table, JSON lines, pcapng, the summary."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from factories import BERLIN, NETNS, NOW, console, flow, outer, path_drop, run_start, summary, written

from wgtrace.diagnosis.firewall import Blocked
from wgtrace.events.reasons import Direction, KernelReason
from wgtrace.events.types import Losses, PathTotal
from wgtrace.events.wire import Hook, RuleFound
from wgtrace.outputs.jsonl import JsonLinesSink, json_schema
from wgtrace.outputs.pcapng import comment
from wgtrace.outputs.summary import headline
from wgtrace.outputs.table import TableSink
from wgtrace.report import CounterLine, SeenPath, Summary

RULE = Blocked("inet", "fw", "in", 4, "udp dport 51820 drop", is_exact=True)
OUTER = SeenPath(
    path_drop(
        "netfilter_drop",
        BERLIN,
        is_inner=False,
        outer=outer(),
        hook=Hook.INPUT,
        ifname="eth0",
        where="nft_do_chain+0x1c4",
        message_type=4,
    ),
    NOW,
    f"outer datagram in input at eth0: {RULE}",
    blocked=RULE,
)
OFF = SeenPath(
    path_drop("ip_inaddrerrors", inner=flow("10.9.7.7", "10.8.0.1"), where="ip_error+0x10"),
    NOW,
    "inner packet at wg0: forwarding is off",
    sysctls={"net/ipv4/conf/all/forwarding": "0"},
)
TX, RX = (KernelReason("netfilter_drop", way) for way in (Direction.TX, Direction.RX))


def total(reason: KernelReason, hook: Hook, count: int, family: int = 4, is_inner: bool = False) -> PathTotal:
    """So many drops by netfilter on wg0."""
    return PathTotal("wg0", NETNS, reason, is_inner, hook, RuleFound.EXACT, family, BERLIN, count)


def lines_of(*parts: SeenPath | Summary) -> list[dict[str, Any]]:
    """The JSON lines, each held against the schema."""
    out = io.StringIO()
    sink = JsonLinesSink(out)
    for part in parts:
        if isinstance(part, Summary):
            sink.summary(part)
        else:
            sink.drop(part)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    for line in lines:
        jsonschema.validate(line, json_schema(), cls=jsonschema.Draft202012Validator)
    return lines


def test_a_line_of_json() -> None:
    """Which packet, which part of the kernel, and the rule in `detail`."""
    (line,) = lines_of(OUTER)

    assert {
        key: line[key] for key in ("direction", "reason", "layer", "packet", "kernel_reason", "inner")
    } == {
        "direction": "rx",
        "reason": "netfilter_drop",
        "layer": "netfilter",
        "packet": "outer",
        "kernel_reason": "NETFILTER_DROP",
        "inner": None,
    }
    assert line["detail"] == {
        "device": "eth0",
        "hook": "input",
        "rule": {
            "family": "inet",
            "table": "fw",
            "chain": "in",
            "handle": 4,
            "text": "udp dport 51820 drop",
            "exact": True,
            "candidates": [],
        },
        "mark": 0,
        "message_type": 4,
    }


def test_a_line_of_json_without_a_rule() -> None:
    """The settings that decided are there instead."""
    (line,) = lines_of(OFF)

    assert (line["layer"], line["packet"], line["outer"]) == ("ip", "inner", None)
    assert line["detail"] == {"device": "wg0", "mark": 0, "sysctls": {"net/ipv4/conf/all/forwarding": "0"}}


@pytest.mark.parametrize(
    ("reason", "where", "layer"),
    [
        ("no_socket", "", "udp"),
        ("neigh_failed", "", "neighbour"),
        ("qdisc_drop_overlimit", "", "qdisc"),
        ("cpu_backlog", "", "device"),
        ("not_specified", "ip_forward+0x1", "ip"),
        ("not_specified", "veth_xmit+0x1", "device"),
    ],
)
def test_layers(reason: str, where: str, layer: str) -> None:
    """By the kernel's reason, and by its function where it gives none."""
    event = path_drop(reason, inner=flow("10.9.7.7", "10.8.0.1"), where=where)
    assert lines_of(replace(OFF, event=event))[0]["layer"] == layer


def test_a_reason_that_is_neither_ours_nor_the_kernels_is_refused() -> None:
    """A drop by WireGuard has one of its own reasons, whatever the kernel calls others."""
    (line,) = lines_of(OUTER)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**line, "layer": "wireguard"}, json_schema())


def test_totals_in_json() -> None:
    """They tell the packet and the hook, and what was limited by the kernel's name."""
    text = summary(total(RX, Hook.INPUT, 23), losses=Losses(rate_limited={"netfilter_drop": 5}))
    (line,) = lines_of(text)

    (told,) = line["totals"]
    assert (told["layer"], told["packet"], told["hook"], told["count"]) == ("netfilter", "outer", "input", 23)


def test_a_row_of_the_table() -> None:
    """The kernel's reason, where it was, and the rule."""
    to = console(200)
    sink = TableSink(to)
    sink.start(run_start())
    sink.drop(OUTER)
    row = written(to).splitlines()[-1]

    assert row.split()[1:3] == ["rx", f"{BERLIN[:8]}…"]
    assert "from 203.0.113.9:51820" in row
    assert "netfilter_drop" in row
    assert row.rstrip().endswith("rule 4 in chain in of table inet fw: udp dport 51820 drop")


def test_a_comment_of_pcapng() -> None:
    """There are no bytes of it, but why it died is told."""
    assert comment(OUTER) == f"netfilter_drop, packet not known, peer {BERLIN}: {OUTER.why}"


def test_the_interface_counts_what_its_own_firewall_refuses() -> None:
    """WireGuard is told that its datagram did not leave; of what comes in nothing is counted."""
    moved = (CounterLine("wg0", NETNS, "tx_dropped", 23, 23),)
    text = summary(total(TX, Hook.OUTPUT, 23), total(RX, Hook.INPUT, 5), reconciliation=moved)
    assert "23 are in wg0's counters (tx_dropped +23), the kernel counts 5 nowhere" in headline(text)

    moved = (CounterLine("wg0", NETNS, "tx_errors", 23, 23),)
    text = summary(total(TX, Hook.POSTROUTING, 23, family=6), reconciliation=moved)
    assert "all are in wg0's counters (tx_errors +23)" in headline(text)

    text = summary(total(TX, Hook.OUTPUT, 23, is_inner=True))
    assert "the kernel counts them nowhere" in headline(text)


def test_totals_of_a_summary_tell_the_place() -> None:
    """The same reason of both packets and of several hooks is not thrown together."""
    to = console(120)
    TableSink(to).summary(summary(total(TX, Hook.OUTPUT, 7), total(TX, Hook.OUTPUT, 23, is_inner=True)))
    rows = [line.split() for line in written(to).splitlines() if "netfilter_drop" in line]

    assert rows[0][:4] == ["23", "netfilter_drop", "(inner", "output)"]
    assert rows[1][:4] == ["7", "netfilter_drop", "(outer", "output)"]
