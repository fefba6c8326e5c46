# SPDX-License-Identifier: GPL-2.0-only
"""The end-to-end tests of tests/e2e, inside the lab, on every kernel of the matrix."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from wgtrace.lab import debian

pytestmark = pytest.mark.vm

KERNELS = list(debian.kernels())
LEAST = 55  # so many there are at least: a run that collects nothing is no success

Run = subprocess.CompletedProcess[str]


@pytest.mark.parametrize("kernel", KERNELS)
def test_end_to_end(kernel: str, runs: dict[str, tuple[Path, Future[Run]]]) -> None:
    """Every end-to-end test passes on this kernel, none is skipped."""
    out, run = runs[kernel]
    done = run.result()

    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    (suite,) = ElementTree.parse(out / "e2e.xml").getroot().iter("testsuite")
    assert int(suite.attrib["tests"]) >= LEAST, output
    assert (suite.attrib["failures"], suite.attrib["errors"], suite.attrib["skipped"]) == ("0", "0", "0")
    print(done.stdout)
    print((out / "reasons.txt").read_text())


def _tshark(file: Path, *fields: str, only: str = "") -> list[list[str]]:
    """Fields of each packet as tshark reads them."""
    asked = [argument for field in fields for argument in ("-e", field)]
    command = ["tshark", "-n", "-r", str(file), "-T", "fields", "-E", "occurrence=f", "-E", "separator=/t"]
    command += [*asked, *(["-Y", only] if only else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kernel", KERNELS)
def test_tshark_reads_the_packets(kernel: str, runs: dict[str, tuple[Path, Future[Run]]]) -> None:
    """What `-w` wrote there is to tshark what the JSON lines of the same run say, packet for packet."""
    out, run = runs[kernel]
    assert run.result().returncode == 0
    file = out / "drops.pcapng"
    drops = [line for line in json.loads((out / "drops.json").read_text()) if line["type"] == "drop"]

    times = _tshark(file, "frame.time_epoch", "frame.interface_name", "frame.len", "frame.cap_len")
    comments = _tshark(file, "frame.comment")
    assert len(times) == len(drops) > 7 * 23
    for (time, name, length, captured), (comment,), drop in zip(times, comments, drops, strict=True):
        flow = drop["inner"] or drop["outer"]
        whole, fraction = time.split(".")
        assert f"{whole}.{fraction[:9]}" == _epoch(drop["ts"])
        assert name == f"{drop['ifname']} {drop['direction']}"
        assert int(length) == flow["len"]
        is_message = not drop["inner"] and drop["reason"] != "bad_header"
        assert int(captured) == 28 + (8 if is_message else 0)
        sub_reason = f" ({drop['sub_reason']})" if drop["sub_reason"] else ""
        which = "inner packet" if drop["inner"] else "outer datagram"
        if not drop["inner"] and "nonce" in drop["detail"]:
            which += f" (counter {drop['detail']['nonce']})"
        peer = f"peer {drop['peer']['public_key']}" if drop["peer"] else "no peer known"
        assert comment == f"{drop['reason']}{sub_reason}, {which}, {peer}: {drop['why']}"
    addresses = _tshark(file, "ip.src", "ip.dst", "udp.srcport", "udp.dstport")
    for found, drop in zip(addresses, drops, strict=True):
        flow = drop["inner"] or drop["outer"]
        assert found == [flow["saddr"], flow["daddr"], str(flow["sport"]), str(flow["dport"])]
    assert {d["reason"] for d in drops} == {
        "allowedips_no_peer",
        "bad_header",
        "invalid_mac1",
        "replay_or_old_counter",
        "src_not_allowed",
        "unknown_receiver_index",
    }
    assert _tshark(file, "frame.number", only="_ws.malformed") == []
    counted = subprocess.run(
        ["capinfos", "-c", "-T", "-r", "-M", str(file)], capture_output=True, text=True, check=True
    )
    assert counted.stdout.split() == [str(file), str(len(drops))]


def _epoch(ts: str) -> str:
    """Seconds with nine places, as tshark has them, of an RFC 3339 time."""
    whole, fraction = ts.removesuffix("Z").split(".")
    return f"{int(datetime.fromisoformat(f'{whole}+00:00').timestamp())}.{fraction}"
