# SPDX-License-Identifier: GPL-2.0-only
"""`make bench`: what wgtrace costs, and what others cost, in one table (markdown).

Each kernel of the lab is booted once for each part, with a clock that counts instructions
(`in_guest.py`); user space is measured here (`user_space.py`). Other tools and kernel headers
come from Debian, unpacked and not installed, and are kept under $XDG_CACHE_HOME/wgtrace/bench.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from wgtrace.lab import debian, image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import start_up  # noqa: E402

PARTS = ("start", "tools", "storm")
SIZES = ("pairs", "runs", "trips", "drops", "storm")
OTHERS = {"bookworm": "bpftrace", "trixie": "bpftrace,pwru"}  # pwru is in Debian since trixie
_LIBC = re.compile(r"(ld-linux.*|lib(c|m|mvec|dl|pthread|rt|resolv|anl|util|nsl|nss_\w+|thread_db))\.so\..*")
_LIBRARY = re.compile(r"\./usr/lib/(x86_64-linux-gnu|llvm-\d+/lib)/([^/]+\.so(\.[^/]*)?)")

Found = dict[str, Any]


def others(release: str) -> Path:
    """bpftrace and pwru of a Debian release: bin/ and lib/, to be mounted."""
    cache = image.cache_dir() / "bench"
    done = cache / f"others-{release}"
    if not done.is_dir():
        cache.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            tree, half_done = Path(scratch, "tree.tar"), Path(scratch, "others")
            options = ["--variant=extract", f"--include={OTHERS[release]}"]
            debian.debootstrap(options, release, backports=False, output=tree)
            _unpack(tree, half_done)
            half_done.rename(done)
    return done


def _unpack(tree: Path, to: Path) -> None:
    for directory in ("bin", "lib"):
        (to / directory).mkdir(parents=True)
    with tarfile.open(tree) as archive:
        for member in archive:
            name = Path(member.name).name
            library = _LIBRARY.fullmatch(member.name)
            if member.name in ("./usr/bin/bpftrace", "./usr/bin/pwru"):
                target = to / "bin" / name
            elif library and not _LIBC.fullmatch(name):  # the guest has the C library
                target = to / "lib" / name
            else:
                continue
            if member.issym():  # a library may have several, and lie elsewhere under its own name
                if Path(member.linkname).name != name and not os.path.lexists(target):
                    target.symlink_to(Path(member.linkname).name)
            elif content := archive.extractfile(member):
                target.unlink(missing_ok=True)
                with open(target, "wb") as file:
                    shutil.copyfileobj(content, file)
                target.chmod(0o755)


def in_guest(kernel: debian.Kernel, parts: Sequence[str], asked: argparse.Namespace) -> Found:
    """What parts of `in_guest.py` find on a kernel, in one boot.

    Raises:
        subprocess.CalledProcessError: It failed; it has said why.
    """
    command = [sys.executable, "-m", "wgtrace", "lab", "run", "--icount", "--timeout", "3600"]
    command += ["--kernel", kernel.name, "--mount", str(HERE)]
    script = ["python3", f"/mnt/host/{HERE.name}/in_guest.py", *parts]
    script += [f"--{name}={getattr(asked, name)}" for name in SIZES]
    if asked.others:
        layer = others(kernel.release)
        command += ["--mount", str(layer)]
        script += ["--others", f"/mnt/host/{layer.name}"]
        if "start" in parts and kernel.name in start_up.SUITES:
            command += ["--mount", str(start_up.header_tree(kernel.name))]
    before = time.monotonic()
    done = subprocess.run([*command, "--", *script], stdout=subprocess.PIPE, text=True, check=True)
    found: Found = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    took = time.monotonic() - before
    print(f"bench: {kernel.name}, {' and '.join(parts)}: {took:.0f} s", file=sys.stderr)
    return found


def measured(kernel: debian.Kernel, asked: argparse.Namespace) -> Found:
    """Every part on a kernel, in one boot; with `--keep` in one for each, but for those that are there."""
    parts = asked.parts or PARTS
    if not asked.keep:
        return in_guest(kernel, parts, asked)
    found: Found = {}
    for part in parts:
        kept = asked.keep / f"{kernel.name}-{part}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(in_guest(kernel, [part], asked)))
        found |= json.loads(kept.read_text())
    return found


def user_space() -> Found:
    """What `user_space.py` finds here."""
    command = [sys.executable, str(HERE / "user_space.py")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Found = json.loads(done.stdout)
    return found


# -- the table ---------------------------------------------------------------------


def _range(values: list[float], form: str) -> str:
    """`60,100 (59,900 to 60,200)`: the median, and from the least to the most."""
    middle = format(statistics.median(values), form)
    return f"{middle} ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else middle


def _of(tool: str, cell: Callable[[Found], str]) -> Callable[[Found], str]:
    """A cell about a tool: why there is none, if there is none."""

    def text(found: Found) -> str:
        figures = found.get("tools", {}).get(tool)
        if figures is None:
            return "not in Debian" if tool == "pwru" and "bpftrace" in found.get("tools", {}) else "-"
        return "does not start" if "error" in figures else cell(figures)

    return text


def _more(figures: Found) -> str:
    share = statistics.median(figures["more"]) / statistics.median(figures["untraced"])
    return f"{_range(figures['more'], '+,.0f')}, {share:.1%}"


def _programs(figures: Found) -> str:
    return f"{figures['good'][0]:.1f}, {figures['good'][1]:,.0f}"


def _drop(figures: Found) -> str:
    kinds = figures["drop_traced"]
    return ", ".join(f"{kinds[kind] - figures['drop_untraced'][kind]:+,.0f}" for kind in kinds)


def _billions(instructions: float) -> str:
    return f"{instructions / 1e9:.1f}"


def _exact(found: Found) -> str:
    sent, counted = found["storm"]["sent"], found["storm"]["counted"]
    count = f"{sum(counted.values()):,} of {sum(sent.values()):,}"
    return count if sent == counted else f"{count}: NOT EXACT"


def _forward(found: Found) -> str:
    forward = found["storm"]["forward"]
    return f"{forward['untraced'] / forward['traced']:.1%}"


def _start(way: str) -> Callable[[Found], str]:
    def text(found: Found) -> str:
        figure = found["start"].get(way)
        return (
            _billions(figure) if figure else "does not compile" if "headers_error" in found["start"] else "-"
        )

    return text


TOOLS = {"wgtrace": "`wgtrace drops --all`", "bpftrace": "a bpftrace script", "pwru": "pwru"}
START = "start to attached, CPU in 10⁹ instructions"
Row = tuple[str, str, str, Callable[[Found], str]]
"""Which part finds it, what, by whom, and what a kernel's cell says."""


def _each(what: str, cell: Callable[[Found], str], tools: Iterable[str] = TOOLS) -> list[Row]:
    return [("tools", what, TOOLS[tool], _of(tool, cell)) for tool in tools]


ROWS: list[Row] = [
    (
        "tools",
        "a packet through both ends of a tunnel: instructions",
        "untraced",
        _of("wgtrace", lambda found: _range(found["untraced"], ",.0f")),
    ),
    *_each("more for it", _more),
    ("tools", "more for it", "programs that do nothing in wgtrace's places", _of("empty", _more)),
    *_each("programs run for it, and instructions in them", _programs),
    *_each("more for a drop, its row included: `bad_header`, `allowedips_no_peer`", _drop),
    ("storm", "a storm of both drops, counted of sent", TOOLS["wgtrace"], _exact),
    (
        "tools",
        "both drops, told of sent",
        TOOLS["bpftrace"],
        _of("bpftrace", lambda found: f"{found['told']:,} of {found['drops_sent']:,}"),
    ),
    ("storm", "forwarding beside a drop each, of the untraced rate", TOOLS["wgtrace"], _forward),
    ("start", START, "`wgtrace`, compiled before", _start("later")),
    ("start", START, "`wgtrace`, the first time", _start("first")),
    ("start", START, "its programs with kernel headers", _start("headers")),
    *_each(START, lambda found: _billions(found["start_instructions"]), ("bpftrace", "pwru")),
    *_each("resident, MB", lambda found: f"{found['memory_mb']:.0f}"),
    (
        "storm",
        "resident after the storm, MB",
        TOOLS["wgtrace"],
        lambda found: f"{found['storm']['memory_mb']:.0f}",
    ),
]


def table(found: dict[str, Found]) -> str:
    """All of it, as markdown: a column for each kernel."""
    lines = [f"| what | by | {' | '.join(found)} |", "|---" * (len(found) + 2) + "|"]
    for part, what, by, cell in ROWS:
        cells = [cell(each) if part in each else "-" for each in found.values()]
        lines.append(f"| {what} | {by} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="make bench", description="What wgtrace costs.")
    parser.add_argument("--kernel", action="append", dest="kernels", choices=list(debian.kernels()))
    parser.add_argument("--part", action="append", dest="parts", choices=PARTS)
    parser.add_argument("--pairs", type=int, default=3, help="how often wgtrace is started")
    parser.add_argument("--runs", type=int, default=11, help="runs between two starts")
    parser.add_argument("--trips", type=int, default=300, help="round trips in a run")
    parser.add_argument("--drops", type=int, default=5_000, help="drops of each kind for each tool")
    parser.add_argument("--storm", type=int, default=1_000_000, help="drops")
    parser.add_argument("--no-others", action="store_false", dest="others", help="without bpftrace and pwru")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="what was measured, to go on from there")
    parser.add_argument("--json", action="store_true", help="all that was measured, instead of the table")
    asked = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # depmod, for who is not root
    matrix = debian.kernels()
    found = {name: measured(matrix[name], asked) for name in asked.kernels or matrix}
    rates = user_space()
    if asked.json:
        print(json.dumps({"kernels": found, "user_space": rates}))
        return
    print(table(found))
    print(
        f"\nUser space, on one core here: {rates['json']:,.0f} events a second decoded, joined with the "
        f"configuration and written as JSON, {rates['json_scan']:,.0f} where each has a flow of its own; "
        f"{rates['table']:,.0f} as rows of the table."
    )


if __name__ == "__main__":
    main()
