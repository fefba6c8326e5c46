# SPDX-License-Identifier: GPL-2.0-only
"""What `wgtrace latency` and `wgtrace top` cost a packet, and a bpftrace script of latency's stages.

Runs where `in_guest.py` does, in the machine whose clock counts instructions; prints one
JSON object:

    wgtrace lab run --icount --timeout 1500 --mount tests/bench -- \\
        python3 /mnt/host/bench/latency_in_guest.py

With `--mount ~/.cache/wgtrace/bench/others-trixie`, which `make bench` fills, and
`--others /mnt/host/others-trixie` bpftrace takes its turn too.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any

from in_guest import Size, Tool, Traffic, tool

from wgtrace.lab.topology import hub_and_spokes

STAGES = """
kprobe:wg_prev_queue_enqueue { @queued[arg1] = nsecs; }
kprobe:encrypt_packet, kprobe:decrypt_packet {
    if (@queued[arg0] != 0) { @queue = hist(nsecs - @queued[arg0]); }
    delete(@queued[arg0]); @crypting[tid] = nsecs; @skb[tid] = arg0;
}
kretprobe:encrypt_packet, kretprobe:decrypt_packet {
    if (@skb[tid] != 0) { @crypto = hist(nsecs - @crypting[tid]); @done[@skb[tid]] = nsecs; }
    delete(@crypting[tid]); delete(@skb[tid]);
}
kprobe:wg_allowedips_lookup_src, kprobe:wg_socket_send_skb_to_peer {
    if (@done[arg1] != 0) { @order = hist(nsecs - @done[arg1]); }
    delete(@done[arg1]); @sending[tid] = nsecs;
}
kretprobe:wg_socket_send_skb_to_peer {
    if (@sending[tid] != 0) { @output = hist(nsecs - @sending[tid]); }
    delete(@sending[tid]);
}
BEGIN { printf("ready\\n"); }
"""


def live(name: str) -> Tool:
    """`wgtrace latency` or `wgtrace top` on every interface."""
    ready = Path("/tmp/ready")
    ready.unlink(missing_ok=True)
    command = ["wgtrace", name, "--all", "--json", "--ready-file", str(ready)]
    return Tool(command, lambda _said: ready.exists())


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser()
    for name, plain in (("pairs", 3), ("runs", 11), ("trips", 300)):
        parser.add_argument(f"--{name}", type=int, default=plain)
    parser.add_argument("--others", type=Path)
    asked: Any = parser.parse_args()
    size = Size(asked.pairs, asked.runs, asked.trips, drops=1, storm=0)
    found: dict[str, Any] = {"kernel": os.uname().release}
    with hub_and_spokes() as net:
        traffic = Traffic(net)
        for name in ("latency", "top"):
            found[name] = tool(traffic, size, functools.partial(live, name), size.pairs, f"wgtrace {name}")
        if asked.others:
            command = [str(asked.others / "bin/bpftrace"), "-e", STAGES]

            def bpftrace() -> Tool:
                return Tool(command, lambda said: "ready" in said, asked.others / "lib")

            found["bpftrace"] = tool(traffic, size, bpftrace, 1, "bpftrace")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
