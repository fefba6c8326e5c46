# SPDX-License-Identifier: GPL-2.0-only
"""The command line: options in, exit status out. The work is done elsewhere."""

from __future__ import annotations

import base64
import binascii
import contextlib
import ctypes
import errno
import os
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wgtrace import __version__
from wgtrace.errors import OutputError, UnsupportedError, UsageError, WgtraceError
from wgtrace.events.flow_filter import Filter, parse_flow
from wgtrace.events.reasons import Direction, Reason

if TYPE_CHECKING:  # the commands import what they need: a help text is not to wait for it
    from wgtrace.loader.tracer import Tracer
    from wgtrace.outputs.pcapng import PcapngSink
    from wgtrace.pipeline import HostFacts
    from wgtrace.report import Sink
    from wgtrace.selftest.scenes import Scene
    from wgtrace.source import ThisHost
    from wgtrace.state.types import Snapshot

EXIT_FINDINGS = 1
EXIT_INTERNAL = 4
_PR_SET_DUMPABLE = 4
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOBODY_READS = (errno.EPIPE, errno.EIO)  # the reader has what it wanted; the terminal is gone

_VIEWS = ("drops",)
_LEAST_SIZE = 1 << 16

_HELP = {"help_option_names": ["-h", "--help"]}


class _Commands(click.Group):
    """The commands: they end quietly when their reader goes away, and `lab` is imported by who wants it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return sorted([*super().list_commands(ctx), "lab"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        if cmd_name != "lab":
            return super().get_command(ctx, cmd_name)
        from wgtrace.lab.commands import lab

        lab.short_help = "Try things in a virtual machine with a Debian kernel."
        return lab

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; click itself would make a closed pipe exit status 1."""
        try:
            return super().invoke(ctx)
        except OSError as exc:
            if exc.errno in _NOBODY_READS:
                _write_no_more()
                return None
            if exc.errno not in _CANNOT_WRITE:
                raise
            _write_no_more()
            raise OutputError(
                "the output cannot be written", exc.strerror or "", "make room, or write it elsewhere"
            ) from exc


def _write_no_more() -> None:
    """Nothing more goes to standard output, also not at exit, where it would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=_Commands, context_settings=_HELP)
@click.version_option(__version__, prog_name="wgtrace")
def cli() -> None:
    """Why WireGuard on this host drops a packet, and what to change.

    \b
    sudo wgtrace drops wg0   each dropped packet, then the causes and fixes
    sudo wgtrace probes      what can be seen on this kernel
    sudo wgtrace selftest    the proof: each reason provoked, and seen or not
    wgtrace lab demo         see it work in a virtual machine
    """


@cli.command(short_help="Show each packet that WireGuard drops, and why.")
@click.argument("interfaces", nargs=-1, metavar="[IFACE]...")
@click.option(
    "--netns", metavar="NAME|PATH", help="Look in this network namespace instead of the current one."
)
@click.option("--all", "everywhere", is_flag=True, help="Every WireGuard interface in every namespace.")
@click.option(
    "--peer", "peers", multiple=True, metavar="KEY|KEY-PREFIX|NAME", help="Only this peer's packets."
)
@click.option(
    "--direction",
    "directions",
    multiple=True,
    type=click.Choice([d.value for d in Direction]),
    help="Only packets going out (tx), coming in (rx), or handshake messages received.",
)
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    metavar="REASON",
    help="Only drops for this reason; findings are told all the same.",
)
@click.option(
    "--flow", metavar="EXPR", help="Only packets with these addresses, ports, protocols; see README."
)
@click.option("--duration", type=click.FloatRange(min=0), metavar="SECONDS", help="End after this time.")
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="End after N drops shown.")
@click.option(
    "-j", "--json", "as_json", is_flag=True, help="JSON lines on standard output, nothing else there."
)
@click.option(
    "-w", "--write", metavar="FILE", help="Also write the packets to FILE, as pcapng; - is standard output."
)
@click.option(
    "--snaplen",
    type=click.IntRange(1, 9216),
    metavar="BYTES",
    help="With -w: so much of each packet, content too; else its headers only.",
)
@click.option(
    "--names",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Names of peers, a line each: NAME PUBLIC-KEY.",
)
@click.option(
    "--ready-file", type=click.Path(path_type=Path), metavar="PATH", help="Created once all is attached."
)
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is a finding of severity error.")
@click.option("-q", "--quiet", is_flag=True, help="No row or line for each packet: only the summary.")
@click.option(
    "-v", "--verbose", is_flag=True, help="Also where the programs came from and what became of each probe."
)
def drops(
    interfaces: tuple[str, ...],
    netns: str | None,
    everywhere: bool,
    peers: tuple[str, ...],
    directions: tuple[str, ...],
    reasons: tuple[str, ...],
    flow: str | None,
    duration: float | None,
    count: int | None,
    as_json: bool,
    write: str | None,
    snaplen: int | None,
    names: Path | None,
    ready_file: Path | None,
    exit_code: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Show each packet that WireGuard drops: which way, which peer, which flow, why.

    Without IFACE: every WireGuard interface of this network namespace. Ctrl-C ends
    it with exact totals and, for each cause, what to change; SIGUSR1 shows them in
    between. Nothing on the host is changed.

    \b
    wgtrace drops wg0
    wgtrace drops wg0 --duration 60 --json > drops.jsonl
    wgtrace drops --all --direction rx
    wgtrace drops wg0 --peer berlin --reason src_not_allowed
    wgtrace drops --netns blue wg1
    wgtrace drops wg0 -w drops.pcapng --flow 'inner dst port 443 and not ip6'

    \b
    Exit status: 0 ran; 1 findings of severity error (--exit-code); 2 wrong usage;
    3 cannot run here; 4 internal error, or the output cannot be written.
    """
    from wgtrace.loader.build import begun
    from wgtrace.loader.tracer import Settings, Tracer

    wanted_reasons = frozenset(_reason(text) for text in reasons)
    terms = parse_flow(flow) if flow is not None else ()
    _check_write(write, snaplen, as_json)
    _need_root()
    captured = (snaplen or 0) if write else None
    build = begun(captured)  # what follows is slow to import, and goes on beside it
    from wgtrace.pipeline import DropsRun, Limits, Signals

    view = _view(interfaces, netns, everywhere, names)
    wanted = Filter(
        frozenset(key for text in peers for key in view.public_keys(text)),
        frozenset(Direction(text) for text in directions),
        wanted_reasons,
        terms,
    )
    facts = _host_facts()
    sink = _sink(as_json, quiet, write == "-")
    with Signals() as signals, contextlib.ExitStack() as files:
        packets = _packets_sink(write, signals.end) if write else None
        if packets:
            files.callback(packets.close)
        _progress(f"attaching to {view.described} ...")
        tracer = Tracer(Settings(view.traced, wanted=wanted, snaplen=captured), build=build)
        try:
            sinks = [*filter(None, [packets]), sink]
            run = DropsRun(tracer, _this_host(view, tracer), sinks, wanted, _warn, facts)
            run.start()
            if verbose:
                click.echo(f"programs {tracer.origin}", err=True)
                for status in tracer.probes:
                    how = status.mechanism.value if status.mechanism else "not attached"
                    click.echo(f"{how:>14} {status.target}: {status.because}", err=True)
            if ready_file:
                ready_file.touch()
            findings = run.run(Limits(duration, count), signals)
        finally:
            tracer.close()
    if packets and packets.failed:
        raise packets.failed
    if exit_code and any(finding.severity.value == "error" for finding in findings):
        sys.exit(EXIT_FINDINGS)


@cli.command(short_help="Show what can be seen on this kernel, and what cannot.")
@click.option("-j", "--json", "as_json", is_flag=True, help="One JSON object.")
def probes(as_json: bool) -> None:
    """Show what can be seen on this kernel, how, and what cannot, and why.

    Each probe is attached for a moment, for real, and taken away again.
    """
    _need_root()
    from wgtrace.loader.tracer import Settings, Tracer
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.probes import print_probes, probes_json

    _progress("attaching each probe for a moment ...")
    tracer = Tracer(Settings(traced=()))
    try:
        if as_json:
            click.echo(probes_json(tracer.probes, time.time_ns()))
        else:
            print_probes(make_console(sys.stdout), tracer.probes)
    finally:
        tracer.close()


@cli.command(short_help="Provoke each reason in namespaces of its own, and show that it is seen.")
@click.option("-j", "--json", "as_json", is_flag=True, help="JSON lines on standard output.")
@click.option("--clean", "only_clean", is_flag=True, help="Only remove what a killed selftest left.")
def selftest(as_json: bool, only_clean: bool) -> None:
    """Prove on this very kernel what `wgtrace drops` sees.

    Two network namespaces are made, with a tunnel between them that goes through
    wgtrace. Each reason that can be provoked safely is provoked there, 23 times
    where that is cheap, and counted.

    Nothing else on the host is touched: no interface, firewall, sysctl or module,
    and no network is contacted. Everything is removed in the end, also after
    Ctrl-C; what `kill -9` leaves is removed by the next run, or by --clean.

    \b
    Exit status: 0 all that was provoked was seen, packet for packet; 1 it was
    not; 3 cannot run here; 4 internal error; 128+n stopped by signal n.
    """
    _need_root()
    from wgtrace.lab.topology import remove_leftovers
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.selftest import print_selftest, selftest_json
    from wgtrace.selftest.pair import StoppedError
    from wgtrace.selftest.run import run
    from wgtrace.selftest.stop import Stop

    if only_clean:
        for name in remove_leftovers():
            click.echo(f"removed network namespace {name}")
        return
    with Stop() as stop:
        _progress("making two network namespaces, attaching ...")
        try:
            report = run(lambda: bool(stop.number), _scene_progress)
        except StoppedError:
            _warn("stopped before the end: nothing is proved, nothing is left behind")
            sys.exit(128 + stop.number)
    if as_json:
        for line in selftest_json(report):
            click.echo(line)
    else:
        print_selftest(make_console(sys.stdout), report)
    if not report.has_passed:
        sys.exit(EXIT_FINDINGS)


class _Size(click.ParamType):
    """A size in bytes as people write it: `500K`, `64M`, `2G`."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        text = str(value).upper()
        factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
        digits = text[:-1] if factor > 1 else text
        if not (digits.isascii() and digits.isdigit()) or int(digits) * factor < _LEAST_SIZE:
            self.fail(f"{value!r} is not a size like 64M, at least {_LEAST_SIZE >> 10}K", param, ctx)
        return int(digits) * factor


@cli.command(short_help="Keep a run in a file, to be looked at anywhere later.")
@click.argument("interfaces", nargs=-1, metavar="[IFACE]...")
@click.option(
    "-o",
    "--output",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The recording; it must not exist.",
)
@click.option("--max-size", type=_Size(), metavar="SIZE", help="End, or rotate, once FILE has this size.")
@click.option(
    "--rotate",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep N files: FILE, the older FILE.1, ... Needs --max-size.",
)
@click.option(
    "--netns", metavar="NAME|PATH", help="Look in this network namespace instead of the current one."
)
@click.option("--all", "everywhere", is_flag=True, help="Every WireGuard interface in every namespace.")
@click.option("--duration", type=click.FloatRange(min=0), metavar="SECONDS", help="End after this time.")
@click.option(
    "--names",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Names of peers, a line each: NAME PUBLIC-KEY.",
)
@click.option(
    "--ready-file", type=click.Path(path_type=Path), metavar="PATH", help="Created once all is attached."
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def record(
    interfaces: tuple[str, ...],
    path: Path,
    max_size: int | None,
    rotate: int | None,
    netns: str | None,
    everywhere: bool,
    duration: float | None,
    names: Path | None,
    ready_file: Path | None,
    quiet: bool,
) -> None:
    """Keep all that wgtrace sees in a file; `wgtrace replay` shows it, anywhere.

    The file can be read at any moment, also after a crash, a full disk or kill -9:
    all but the last second is there. Ctrl-C ends it. It holds what the output of
    `drops` can hold, so no secret, but addresses and public keys; its mode is 0600.

    \b
    wgtrace record -o wg0.rec wg0
    wgtrace record -o wg0.rec wg0 --duration 600
    wgtrace record -o /var/log/wg.rec --all --max-size 64M --rotate 8

    With --rotate it may run for weeks, and FILE may be one of an earlier run.

    \b
    Exit status: 0 ran; 2 wrong usage; 3 cannot run here, or the disk is full;
    4 internal error.
    """
    from wgtrace.loader.build import begun
    from wgtrace.loader.tracer import Settings, Tracer

    if rotate and not max_size:
        raise UsageError("--rotate says how many files to keep", "not how large one is", "add --max-size")
    _need_root()
    build = begun(None)  # what follows is slow to import, and goes on beside it
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.table import TableSink
    from wgtrace.pipeline import Limits, Signals
    from wgtrace.probes.catalogue import WIREGUARD
    from wgtrace.probes.identity import identity
    from wgtrace.recording.output import Output
    from wgtrace.recording.recorder import Recorder

    view = _view(interfaces, netns, everywhere, names)
    with Signals() as signals, contextlib.closing(Output(path, max_size, rotate)) as output:
        _progress(f"attaching to {view.described} ...")
        with contextlib.closing(Tracer(Settings(view.traced), build=build)) as tracer:
            recorder = Recorder(
                tracer,
                _this_host(view, tracer),
                output,
                identity(WIREGUARD),
                tracer.symbols,
                sys.argv[1:],
                _host_facts(),
            )
            if not quiet:
                TableSink(make_console(sys.stdout), rows=False).start(recorder.start())
            if ready_file:
                ready_file.touch()
            recorder.run(Limits(duration), signals)
    if not quiet:
        click.echo(recorder.kept.told(output))


@cli.command(short_help="Show a recording, anywhere and without root.")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(readable=False, path_type=Path)
)
@click.option(
    "--view",
    "view_name",
    type=click.Choice(_VIEWS),
    default=_VIEWS[0],
    show_default=True,
    help="The command whose output to give.",
)
@click.option(
    "--peer", "peers", multiple=True, metavar="KEY|KEY-PREFIX|NAME", help="Only this peer's packets."
)
@click.option(
    "--direction",
    "directions",
    multiple=True,
    type=click.Choice([d.value for d in Direction]),
    help="Only packets going out (tx), coming in (rx), or handshake messages received.",
)
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    metavar="REASON",
    help="Only drops for this reason; findings are told all the same.",
)
@click.option(
    "-j", "--json", "as_json", is_flag=True, help="JSON lines on standard output, nothing else there."
)
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is a finding of severity error.")
@click.option("-q", "--quiet", is_flag=True, help="No row or line for each packet: only the summary.")
def replay(
    files: tuple[Path, ...],
    view_name: str,
    peers: tuple[str, ...],
    directions: tuple[str, ...],
    reasons: tuple[str, ...],
    as_json: bool,
    exit_code: bool,
    quiet: bool,
) -> None:
    """Show a recording as the live command would have shown the run.

    Of a rotation give all files, in any order, or those of interest. It needs
    neither root nor BCC nor WireGuard. What is missing of the recording (it was cut,
    a byte was changed, the disk was full) is said, and the rest is shown.

    \b
    wgtrace replay wg0.rec
    wgtrace replay wg0.rec --peer berlin --json
    wgtrace replay /var/log/wg.rec*

    \b
    Exit status: 0 shown; 1 findings of severity error (--exit-code); 2 wrong
    usage, or no recording; 3 not permitted to read it, or of a newer wgtrace.
    """
    from wgtrace.pipeline import DropsRun, Limits, Signals
    from wgtrace.recording.replay import Recording

    wanted_reasons = frozenset(_reason(text) for text in reasons)
    with contextlib.closing(Recording(files)) as recording, Signals() as signals:
        known = {key: peer.name for key, peer in recording.peers().items()} if peers else {}
        wanted = Filter(
            frozenset(key for text in peers for key in _public_keys(text, known, "the recording")),
            frozenset(Direction(text) for text in directions),
            wanted_reasons,
        )
        sinks = [_sink(as_json, quiet, on_stderr=False)]
        view = {"drops": DropsRun}[view_name]
        run = view(recording, recording, sinks, wanted, _warn, recording.asked)
        run.start()
        findings = run.run(Limits(), signals)
    if exit_code and any(finding.severity.value == "error" for finding in findings):
        sys.exit(EXIT_FINDINGS)


@dataclass(frozen=True, slots=True)
class _View:
    """The interfaces that a run looks at.

    Attributes:
        traced: As `Settings.traced` wants it.
        described: For the operator.
        snapshot: Reads the configuration of this moment.
    """

    traced: tuple[tuple[str, int], ...] | None
    described: str
    snapshot: Callable[[], Snapshot]

    def public_keys(self, text: str) -> Collection[str]:
        """Public keys of the peers that `text` means: a key, its beginning, or a name.

        Raises:
            UsageError: None, or the beginning of several.
        """
        known = {p.public_key: p.name for device in self.snapshot().devices for p in device.peers}
        return _public_keys(text, known, self.described)


def _public_keys(text: str, known: Mapping[str, str | None], described: str) -> Collection[str]:
    """As `_View.public_keys`, among these peers: their names by public key."""
    named = [key for key, name in known.items() if name == text]
    found = named or [key for key in known if key.startswith(text)]
    if not found and _is_public_key(text):
        _warn(f"{text} is no peer of {described} yet: nothing of it is shown before it is")
        return [text]
    if not found:
        names = ", ".join(sorted(name or key[:8] + "…" for key, name in known.items())) or "none"
        raise UsageError(f"no peer {text!r} on {described}", f"the peers are: {names}")
    if len(found) > 1 and not named:
        raise UsageError(f"{text!r} is the beginning of {len(found)} public keys", "", "give more of it")
    return found


def _view(interfaces: tuple[str, ...], netns: str | None, everywhere: bool, names_file: Path | None) -> _View:
    from wgtrace.state import names as peer_names
    from wgtrace.state import netns as namespaces
    from wgtrace.state import snapshot, wireguard

    names = peer_names.peer_names(names_file=names_file, report=_warn)
    if everywhere:
        if interfaces or netns:
            raise UsageError(
                "--all takes every interface in every namespace", "", "leave out IFACE and --netns"
            )
        wireguard.need_wireguard()
        return _View(
            None, "every WireGuard interface", lambda: snapshot.take(namespaces.all_namespaces(), names)
        )
    namespace = namespaces.by_name_or_path(netns) if netns else namespaces.current()
    # A name that is no UTF-8 is shown, and read from the kernel, with U+FFFD in it.
    shown = tuple(os.fsencode(name).decode(errors="replace") for name in interfaces) or None
    found = wireguard.devices(namespace, names, shown)
    if not found:
        wireguard.need_wireguard()
        raise UsageError(
            "there is no WireGuard interface here",
            f"none in network namespace {namespace.name or namespace.inode}",
            "wg-quick up NAME, or --netns NAME, or --all",
        )
    return _View(
        tuple((name, namespace.inode) for name in interfaces or ("",)),
        ", ".join(device.ifname for device in found),
        snapshot.Followed(namespace, names, shown, _warn).take,
    )


def _this_host(view: _View, tracer: Tracer) -> ThisHost:
    """What a run of `tracer` needs to know of the host; its snapshots keep the tracer on its interfaces."""
    from wgtrace.loader.compiler import bcc_version
    from wgtrace.loader.tracer import kernel_release
    from wgtrace.source import Build, ThisHost

    def snapshot() -> Snapshot:
        taken = view.snapshot()
        tracer.follow((device.netns, device.ifindex) for device in taken.devices)
        return taken

    return ThisHost(Build(__version__, kernel_release(), bcc_version()), snapshot)


def _host_facts() -> HostFacts:
    from wgtrace.pipeline import HostFacts
    from wgtrace.state import routes  # late: pyroute2 is slow
    from wgtrace.state.claims import claims
    from wgtrace.state.load import cpu_load

    return HostFacts(routes.look_up, claims, cpu_load)


def _need_root() -> None:
    """Be root, and leave no core: environment and memory of root's are nobody's business."""
    if os.geteuid() != 0:
        raise UnsupportedError("wgtrace needs root", "it loads BPF programs", "sudo wgtrace ...")
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _reason(text: str) -> Reason:
    try:
        return Reason[text.upper()]
    except KeyError as exc:
        alike = [r.id for r in Reason if text.lower() in r.id]
        known = ", ".join(alike or sorted(r.id for r in Reason))
        raise UsageError(f"no reason {text!r}", f"there are: {known}") from exc


def _is_public_key(text: str) -> bool:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        return False
    return len(raw) == 32 and base64.b64encode(raw).decode() == text


def _check_write(write: str | None, snaplen: int | None, as_json: bool) -> None:
    if snaplen and not write:
        raise UsageError("--snaplen is about the packets that -w writes", "", "add -w FILE, or leave it out")
    if write == "-" and as_json:
        raise UsageError("-w - and --json both take standard output", "", "-w FILE")
    if write == "-" and sys.stdout.isatty():
        raise UsageError("pcapng is not for a terminal", "", "wgtrace drops -w - | tshark -r -")


def _packets_sink(write: str, on_failure: Callable[[], None]) -> PcapngSink:
    from wgtrace.outputs.pcapng import PcapngSink, open_for_writing

    if write == "-":
        return PcapngSink(os.dup(sys.stdout.fileno()), "standard output", on_failure)
    return PcapngSink(open_for_writing(Path(write)), write, on_failure)


def _sink(as_json: bool, quiet: bool, on_stderr: bool) -> Sink:
    from wgtrace.outputs.console import make_console
    from wgtrace.outputs.jsonl import JsonLinesSink
    from wgtrace.outputs.table import TableSink

    if as_json:
        return JsonLinesSink(sys.stdout, rows=not quiet)
    return TableSink(make_console(sys.stderr if on_stderr else sys.stdout), rows=not quiet)


def _warn(text: str) -> None:
    _say(f"wgtrace: {text}")


def _say(text: str) -> None:
    """Write a line for the operator, without what steers a terminal: interfaces can be called anything."""
    from wgtrace.outputs.clean import clean

    with contextlib.suppress(OSError):  # the terminal is gone, or the same disk is full
        click.echo(clean(text), err=True)


def _have_standard_streams() -> None:
    """Have descriptors 0 to 2 open: else what is opened next gets what is written to them."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(file)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        _warn(text)


def _scene_progress(number: int, of: int, scene: Scene) -> None:
    if sys.stderr.isatty():  # one line, rewritten
        end = "\n" if number == of else ""
        with contextlib.suppress(OSError):
            click.echo(f"\r\x1b[Kwgtrace: {number} of {of}: {scene.reason.id}{end}", err=True, nl=False)


def main() -> None:
    """Run the command line; errors become a message and an exit status."""
    _have_standard_streams()
    try:
        cli(prog_name="wgtrace", standalone_mode=False)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except WgtraceError as exc:
        _say(f"error: {exc.what}")
        for line in filter(None, (*exc.because.splitlines(), exc.do)):
            _say(f"  {line}")
        sys.exit(exc.exit_code)
    except Exception as exc:
        if os.environ.get("WGTRACE_DEBUG"):
            raise
        _say(f"error: internal error: {type(exc).__name__}: {exc}")
        _say("  this is a bug of wgtrace; WGTRACE_DEBUG=1 shows where")
        sys.exit(EXIT_INTERNAL)
