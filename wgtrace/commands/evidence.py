# SPDX-License-Identifier: GPL-2.0-only
"""`wgtrace evidence`: one archive for a bug report, free of secrets."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from wgtrace.commands import options
from wgtrace.commands.record import recorded
from wgtrace.commands.terminal import progress
from wgtrace.errors import UsageError

_SUFFIXES = (".tar.gz", ".tgz")


@click.command(short_help="Make an archive for a bug report, of a recording or a run.")
@click.argument("what", nargs=-1, metavar="RECORDING...|[IFACE]...")
@click.option(
    "-o",
    "--output",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.tar.gz",
    help="The archive; it must not exist.",
)
@options.duration
@options.netns
@options.everywhere
@options.names
@options.invariants
@options.ready_file
@click.option(
    "--repro",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="SCRIPT",
    help="Put this script in as repro.sh, as it is, instead of one made of the configuration.",
)
@click.option("--no-redact", is_flag=True, help="Keep public keys, addresses and names as they are.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def evidence(
    what: tuple[str, ...],
    path: Path,
    duration: float | None,
    netns: str | None,
    everywhere: bool,
    names: Path | None,
    invariants: bool,
    ready_file: Path | None,
    repro: Path | None,
    no_redact: bool,
    quiet: bool,
) -> None:
    """Put all that a bug report needs into one archive.

    Of a recording (all files of a rotation), or with --duration of what happens now:
    report.md, the recording, its totals and timeline, the state before and after, the
    kernel's identity and config, checksums, and repro.sh, a self-checking script with
    the same configuration in namespaces, fresh keys and documentation addresses.

    Public keys, addresses and names become pseudonyms, the same in every file, the
    recording included. Before anything is written, all of it is searched for every
    private and preshared key that this host holds.

    \b
    wgtrace evidence -o case.tar.gz wg0.rec
    wgtrace evidence -o case.tar.gz --duration 60 wg0

    \b
    Exit status: 0 written; 2 wrong usage, or no recording; 3 cannot run here, or a
    key was found and nothing was written; 4 internal error, or the disk is full.
    """
    if not path.name.endswith(_SUFFIXES):
        raise UsageError(f"{path} is to be a tar.gz", "", "give it a name that ends in .tar.gz")
    if path.exists():
        raise UsageError(f"{path} exists", "wgtrace overwrites nothing", "remove it, or give another name")
    from wgtrace.evidence.archive import write
    from wgtrace.evidence.bundle import bundle

    script = repro.read_bytes() if repro else None
    if duration is None:
        if netns or everywhere or names or invariants or ready_file:
            raise UsageError(
                "--netns, --all, --names, --invariants and --ready-file are for a run now",
                "",
                "add --duration",
            )
        files = _files(what)
        made = bundle(files, redact=not no_redact, root=_root(path), repro=script)
    else:
        with _run(what, netns, everywhere, names, duration, invariants, ready_file) as files:
            progress("making the archive ...")
            made = bundle(files, redact=not no_redact, root=_root(path), repro=script)
    write(path, made.data)
    if not quiet:
        from wgtrace.outputs.clean import clean

        click.echo(clean(made.title))
        kept = "as they are" if no_redact else "pseudonyms"
        click.echo(
            f"{made.files} files in {path}; keys, addresses and names are {kept}. Start with report.md."
        )


def _files(what: Sequence[str]) -> list[Path]:
    if not what:
        raise UsageError(
            "of which recording?", "", "wgtrace evidence -o FILE.tar.gz RECORDING, or --duration"
        )
    for name in what:
        try:
            is_file = stat.S_ISREG(Path(name).stat().st_mode)
        except (OSError, ValueError):
            is_file = False
        if not is_file:
            raise UsageError(
                f"there is no recording {name}",
                "",
                "of an interface and what happens now: add --duration SECONDS",
            )
    return [Path(name) for name in what]


@contextmanager
def _run(
    interfaces: tuple[str, ...],
    netns: str | None,
    everywhere: bool,
    names: Path | None,
    duration: float,
    invariants: bool,
    ready_file: Path | None,
) -> Iterator[list[Path]]:
    """Record what happens now, for a time or until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="wgtrace-") as directory:  # mode 0700
        file = Path(directory, "now.rec")
        recorded(interfaces, file, netns=netns, everywhere=everywhere, names=names, duration=duration,
                 invariants=invariants, ready_file=ready_file)  # fmt: skip
        yield [file]


def _root(path: Path) -> str:
    """The directory in the archive: its name without the ending."""
    name = next(path.name.removesuffix(suffix) for suffix in _SUFFIXES if path.name.endswith(suffix))
    return name or "wgtrace-evidence"
