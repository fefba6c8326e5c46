# SPDX-License-Identifier: GPL-2.0-only
"""`make bench`: what wgtrace costs, and what others cost, in one table (markdown).

Each kernel of the lab is booted once, with a clock that counts instructions (`in_guest.py`);
user space is measured here (`user_space.py`). Other tools come from Debian, unpacked and not
installed, and are kept under $XDG_CACHE_HOME/wgtrace/bench.
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
from pathlib import Path
from typing import Any

from wgtrace.lab import debian, image

HERE = Path(__file__).resolve().parent
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


def in_guest(kernel: debian.Kernel, asked: argparse.Namespace) -> Found:
    """What `in_guest.py` finds on a kernel.

    Raises:
        subprocess.CalledProcessError: It failed; it has said why.
    """
    command = [sys.executable, "-m", "wgtrace", "lab", "run", "--icount", "--timeout", "1800"]
    command += ["--kernel", kernel.name, "--mount", str(HERE)]
    script = ["python3", f"/mnt/host/{HERE.name}/in_guest.py"]
    script += [f"--{name}={getattr(asked, name)}" for name in ("pairs", "runs", "trips", "storm")]
    if asked.others:
        layer = others(kernel.release)
        command += ["--mount", str(layer)]
        script += ["--others", f"/mnt/host/{layer.name}"]
    before = time.monotonic()
    done = subprocess.run([*command, "--", *script], stdout=subprocess.PIPE, text=True, check=True)
    found: Found = json.loads(done.stdout.splitlines()[-1])
    print(f"bench: {kernel.name} took {time.monotonic() - before:.0f} s", file=sys.stderr)
    return found


def user_space() -> Found:
    """What `user_space.py` finds here."""
    command = [sys.executable, str(HERE / "user_space.py")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Found = json.loads(done.stdout)
    return found


# -- the table ---------------------------------------------------------------------


def _more(found: Found, name: str) -> str:
    """`+195 (+120 to +240), 0.3 %`."""
    if name not in found:
        return "-"
    if "error" in found[name]:
        return "does not start"
    more, untraced = found[name]["more"], statistics.median(found[name]["untraced"])
    middle = statistics.median(more)
    spread = f" ({min(more):+,.0f} to {max(more):+,.0f})" if len(more) > 1 else ""
    return f"{middle:+,.0f}{spread}, {middle / untraced:.1%}"


def _untraced(found: Found) -> str:
    values = found["wgtrace"]["untraced"]
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _drop(found: Found, reason: str) -> str:
    storm = found["storm"]
    in_programs = found["runs"][reason][1]
    return f"{in_programs:,.0f} of {storm['traced'][reason] - storm['untraced'][reason]:,.0f}"


def _exact(found: Found) -> str:
    sent, counted = found["storm"]["sent"], found["storm"]["counted"]
    count = f"{sum(sent.values()):,} of {sum(sent.values()):,}"
    return count if sent == counted else f"{sum(counted.values()):,} of {sum(sent.values()):,}: NOT EXACT"


def _forward(found: Found) -> str:
    forward = found["storm"]["forward"]
    return f"{forward['untraced'] / forward['traced']:.1%}"


def _start(found: Found) -> str:
    return f"{found['runs']['start_instructions'] / 1e9:.1f}"


def _memory(found: Found) -> str:
    memory = found["storm"]["memory_mb"]
    return f"{memory['VmRSS']:.0f}, {memory['VmHWM']:.0f}"


ROWS = {
    "a good packet through both ends, untraced: instructions": _untraced,
    "`wgtrace drops --all`: more": lambda found: _more(found, "wgtrace"),
    "programs that do nothing in the same places: more": lambda found: _more(found, "empty"),
    "a bpftrace script: more": lambda found: _more(found, "bpftrace"),
    "pwru: more": lambda found: _more(found, "pwru"),
    "programs of wgtrace run for a good packet": lambda found: f"{found['runs']['good'][0]:.1f}",
    "instructions in them, with 46 a run for counting these": lambda found: f"{found['runs']['good'][1]:.0f}",
    "a `bad_header` drop: instructions in programs, of all that it costs more": lambda found: _drop(
        found, "bad_header"
    ),
    "an `allowedips_no_peer` drop: the same": lambda found: _drop(found, "allowedips_no_peer"),
    "drops in the storm, counted of sent": _exact,
    "forwards in the storm, of the untraced rate": _forward,
    "from start to attached: CPU, in 10⁹ instructions": _start,
    "memory after the storm, and at most: MB": _memory,
}


def table(found: dict[str, Found]) -> str:
    """All of it, as markdown: a column for each kernel."""
    lines = [f"| what | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for title, cell in ROWS.items():
        lines.append(f"| {title} | {' | '.join(cell(each) for each in found.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="make bench", description="What wgtrace costs.")
    parser.add_argument("--kernel", action="append", dest="kernels", choices=list(debian.kernels()))
    parser.add_argument("--pairs", type=int, default=5, help="how often wgtrace is started")
    parser.add_argument("--runs", type=int, default=11, help="runs between two starts")
    parser.add_argument("--trips", type=int, default=300, help="round trips in a run")
    parser.add_argument("--storm", type=int, default=1_000_000, help="drops")
    parser.add_argument("--no-others", action="store_false", dest="others", help="without bpftrace and pwru")
    parser.add_argument("--json", action="store_true", help="all that was measured, instead of the table")
    asked = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # depmod, for who is not root
    matrix = debian.kernels()
    found = {name: in_guest(matrix[name], asked) for name in asked.kernels or matrix}
    rates = user_space()
    if asked.json:
        print(json.dumps({"kernels": found, "user_space": rates}))
        return
    print(table(found))
    print(
        f"\nUser space, on one core here: {rates['json']:,.0f} events a second decoded, joined with the "
        f"configuration and written as JSON; {rates['table']:,.0f} as rows of the table."
    )


if __name__ == "__main__":
    main()
