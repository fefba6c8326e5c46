# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace lab`: a virtual machine with a Debian kernel, to try things where nothing breaks."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import click

from wgtrace.errors import WgtraceError
from wgtrace.lab import debian, image, vm

_kernel_option = click.option(
    "--kernel", default="6.12", show_default=True, metavar="NAME", help="A name of `wgtrace lab kernels`."
)
_mount_option = click.option(
    "--mount",
    "mounts",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Show a copy of DIR at /mnt/host/<its name>; what the guest changes there is lost.",
)
_append_option = click.option("--append", default="", hidden=True, help="Added to the kernel command line.")
_icount_option = click.option(
    "--icount",
    is_flag=True,
    help="Emulate one CPU whose clock counts instructions, one a nanosecond: to measure, not to wait.",
)
_rebuild_option = click.option("--rebuild", is_flag=True, help="Fetch Debian's packages anew first.")


@click.group(short_help="Try things in a virtual machine with a Debian kernel.")
def lab() -> None:
    """Boot a virtual machine with a Debian kernel and this wgtrace in it.

    \b
    wgtrace lab demo
    wgtrace lab run -- wgtrace probes
    wgtrace lab run --kernel 6.1 -- uname -r
    wgtrace lab shell --kernel latest
    """
    # Debian keeps depmod from the PATH of anybody but root, who may well build images.
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


@lab.command()
@_kernel_option
@click.option("--timeout", type=float, default=1800, show_default=True, metavar="S", help="0: no limit.")
@click.option(
    "--copy-out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the files that the command leaves in $WGTRACE_LAB_OUT go.",
)
@_mount_option
@_append_option
@_icount_option
@_rebuild_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    kernel: str,
    timeout: float,
    copy_out: Path | None,
    mounts: tuple[Path, ...],
    append: str,
    icount: bool,
    rebuild: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND as root in a fresh guest and exit with its status.

    Its output comes as it is made; 128+n means that signal n ended it, 4 that the guest itself failed.

    \b
    wgtrace lab run -- ip link
    wgtrace lab run --mount tests --copy-out logs -- \\
        sh -c 'pytest /mnt/host/tests/e2e --junitxml $WGTRACE_LAB_OUT/e2e.xml'
    """
    job = vm.Job(kernel, command, timeout or None, mounts, copy_out, append=append, icount=icount)
    sys.exit(_run(job, rebuild))


@lab.command()
@_kernel_option
@_mount_option
@_append_option
def shell(kernel: str, mounts: tuple[Path, ...], append: str) -> None:
    """Give a prompt in a fresh guest; `exit` ends it."""
    sys.exit(_run(vm.Job(kernel, mounts=mounts, append=append), rebuild=False))


@lab.command()
@_kernel_option
def demo(kernel: str) -> None:
    """Break a real tunnel in several ways and watch `wgtrace drops wg0` name each cause."""
    columns = shutil.get_terminal_size((100, 24)).columns
    command = ("env", f"COLUMNS={columns}", "python3", "-m", "wgtrace.lab.demo")
    sys.exit(_run(vm.Job(kernel, command, timeout=900), rebuild=False))


@lab.command()
@click.option(
    "--kernel",
    "kernels",
    multiple=True,
    required=True,
    metavar="NAME",
    help="A name of `wgtrace lab kernels`, or a version of one that Debian still has; repeatable.",
)
@click.option("--runs", type=click.IntRange(min=1), default=7, show_default=True, metavar="N")
@click.option(
    "--timeout",
    type=float,
    default=1800,
    show_default=True,
    metavar="S",
    help="For all runs on a kernel; 0: no limit.",
)
@click.option(
    "--copy-out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("repro-out"),
    show_default=True,
    metavar="DIR",
    help="Where the evidence of the first failure on each kernel goes.",
)
@click.option(
    "--append", default="", metavar="WORDS", help="Added to the kernel's command line: init_on_alloc=0."
)
@click.argument("script", type=click.Path(path_type=Path))
def repro(
    kernels: tuple[str, ...], runs: int, timeout: float, copy_out: Path, append: str, script: Path
) -> None:
    """Run SCRIPT on several kernels under tracing, and say how often it fails on each.

    It is run by bash, as root, such as the repro.sh of `wgtrace evidence`: exit status
    0 is a pass, 4 that it cannot run there, anything else a failure. Of the first failure
    on a kernel its output and an archive of `wgtrace evidence` are kept. Of all runs it is
    told how often each invariant was looked at, and violated.

    \b
    wgtrace lab repro repro.sh --kernel 6.1.170 --kernel 6.1 --kernel 6.12 --runs 23

    \b
    Exit status: 0 it never failed; 1 it did on some kernel; 2 wrong usage;
    4 a guest failed, or it cannot run there.
    """
    from wgtrace.lab.repro import repro as run_repro
    from wgtrace.outputs.clean import clean

    status = 0
    click.echo(f"{'KERNEL':<10} {'RELEASE':<30} {'RUNS':>5} {'FAILED':>7}  FIRST FAILURE")
    try:
        for told in run_repro(script, kernels, runs, copy_out, _say, timeout or None, append=append):
            click.echo(
                f"{told.kernel:<10} {told.release:<30} {len(told.statuses):>5} {told.failed:>7}  "
                f"{clean(told.first_failure) or '-'}"
            )
            for line in (told.trouble, "it cannot run there" if told.is_skipped else ""):
                if line:
                    click.echo(f"{'':<10} {line}")
            for name, (violated, count) in told.invariants.items():
                click.echo(f"{'':<10} {clean(name)}: violated {violated} of {count} times")
            if told.evidence:
                click.echo(f"{'':<10} evidence: {told.evidence}")
            if told.failed:
                status = max(status, 1)
            elif told.is_skipped or told.trouble:
                status = 4
    except WgtraceError as error:
        sys.exit(_fail(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(status)


@lab.command()
@click.option("--rebuild", is_flag=True, help="Build every image anew from Debian's packages of today.")
def kernels(rebuild: bool) -> None:
    """List the kernels that the guest can boot.

    An image is built when it is first needed and kept in ~/.cache/wgtrace.
    """
    try:
        matrix = debian.kernels()
        if rebuild:
            wanted = [debian.kernel_image(kernel) for kernel in matrix.values()]
            wanted += [debian.userland_image(name) for name in {k.release: None for k in matrix.values()}]
            for each in wanted:
                with image.held(each, _say, rebuild=True):
                    pass
        click.echo(f"{'NAME':<8} {'KERNEL FROM':<20} {'BCC':<6} {'BUILT':<6} {'KERNEL':>8} {'USERLAND':>9}")
        for kernel in matrix.values():
            sizes = [_size(debian.kernel_image(kernel)), _size(debian.userland_image(kernel.release))]
            built = "yes" if all(sizes) else "no"
            shown = [f"{size} MB" if size else "-" for size in sizes]
            click.echo(
                f"{kernel.name:<8} {kernel.debian:<20} {kernel.bcc:<6} {built:<6} {shown[0]:>8} {shown[1]:>9}"
            )
    except WgtraceError as error:
        sys.exit(_fail(error))


def _size(wanted: image.Image) -> int:
    """Megabytes of an image, 0 if it is not built."""
    return image.size_bytes(wanted.path) >> 20 if wanted.path.exists() else 0


def _run(job: vm.Job, rebuild: bool) -> int:
    try:
        return vm.run(job, _say, rebuild=rebuild)
    except WgtraceError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads: nothing to flush at exit
        return 128 + signal.SIGPIPE


def _say(progress: str) -> None:
    click.echo(f"lab: {progress}", err=True)


def _fail(error: WgtraceError) -> int:
    click.echo(f"lab: {error.what}", err=True)
    for line in (error.because, error.do):
        if line:
            click.echo(line, err=True)
    return error.exit_code


if __name__ == "__main__":
    lab()
