# SPDX-License-Identifier: GPL-2.0-only
"""The command line from outside: what it prints, and with which exit status it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import pytest

from wgtrace import __version__, cli
from wgtrace.commands.view import View
from wgtrace.errors import UnsupportedError, UsageError
from wgtrace.events.reasons import Reason
from wgtrace.state import dumps
from wgtrace.state.types import Snapshot

# All that a command imports late: a user who is not root may not be able to read it here.
AS_NOBODY: Final = """\
import os, sys
from wgtrace import cli, pipeline
from wgtrace.commands import drops, lab, probes, record, replay, selftest
from wgtrace.loader import build, tracer
from wgtrace.state import dumps, names, netns, snapshot, wireguard
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
cli.main()
"""


def wgtrace(*arguments: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    env = {**os.environ, "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "wgtrace", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user who may do nothing."""
    command = [sys.executable, "-c", AS_NOBODY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command in this process: its exit status."""
    monkeypatch.setattr(sys, "argv", ["wgtrace", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def without_wireguard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that knows no WireGuard, and has no interface of its kind."""
    monkeypatch.setattr(dumps, "links", lambda netns, kind="": [])
    monkeypatch.setattr(dumps, "has_wireguard", lambda: False)


@pytest.fixture
def with_wireguard(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that knows WireGuard, where no interface was made yet."""
    monkeypatch.setattr(dumps, "links", lambda netns, kind="": [])
    monkeypatch.setattr(dumps, "has_wireguard", lambda: True)


def test_help_names_every_command_and_fits_a_screen() -> None:
    """`wgtrace --help` has a line for each command, in no more than 24 lines."""
    done = wgtrace("--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) <= 24
    for command in cli.COMMANDS:
        assert f"\n  {command} " in done.stdout
    assert "..." not in done.stdout.split("\nCommands:\n")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("drops",),
        ("handshakes",),
        ("top",),
        ("record",),
        ("replay",),
        ("probes",),
        ("selftest",),
    ],
)
def test_help_is_not_wider_than_a_screen(arguments: Sequence[str]) -> None:
    """No line of help is longer than the 80 columns of the smallest screen."""
    done = wgtrace(*arguments, "--help")

    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("command", ["drops", "handshakes", "top", "probes", "selftest", "lab"])
def test_each_command_explains_itself(command: str) -> None:
    """Every command has help, also by -h."""
    assert wgtrace(command, "-h").stdout == wgtrace(command, "--help").stdout != ""


def test_help_of_drops_has_examples_and_exit_status() -> None:
    """The help of `drops` shows how to use it and what its exit status means."""
    text = wgtrace("drops", "--help").stdout

    assert text.count("  wgtrace drops") >= 3
    assert "Exit status: 0 ran; 1 findings" in text


def test_version() -> None:
    """`wgtrace --version` says the package's version."""
    done = wgtrace("--version")

    assert (done.returncode, done.stdout) == (0, f"wgtrace, version {__version__}\n")


def test_an_unknown_reason_names_those_alike() -> None:
    """A reason that does not exist ends with 2, and says which are alike; nothing goes to stdout."""
    done = wgtrace("drops", "--reason", "staged")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no reason 'staged'\n")
    for reason in Reason:
        assert (reason.id in done.stderr) == reason.id.startswith("staged")


def test_a_reason_like_none_names_all() -> None:
    """A reason like no other has them all listed."""
    done = wgtrace("drops", "--reason", "no-such-thing")

    assert done.returncode == 2
    assert all(reason.id in done.stderr for reason in Reason)


@pytest.mark.parametrize(
    "arguments",
    [
        ("drops", "--all", "wg0"),
        ("drops", "--all", "--netns", "blue"),
        ("drops", "--netns", "no-such-namespace"),
        ("drops", "--netns", "/etc/passwd"),
        ("drops", "--direction", "sideways"),
        ("drops", "--duration", "-1"),
        ("drops", "--count", "0"),
        ("drops", "--names", "/no/such/file"),
        ("drops", "--no-such-option"),
        ("latency", "--heatmap"),
        ("latency", "--heatmap", "--interval", "1", "--json"),
        ("latency", "--interval", "0"),
        ("latency", "--by", "nothing"),
        ("latency", "--netns", "no-such-namespace"),
        ("record",),
        ("record", "-o", "/tmp/x", "--rotate", "3"),
        ("record", "-o", "/tmp/x", "--max-size", "63K"),
        ("record", "-o", "/tmp/x", "--max-size", "much"),
        ("record", "-o", "/tmp/x", "--max-size", "-64M"),
        ("record", "-o", "/tmp/x", "--rotate", "0", "--max-size", "64M"),
        ("replay",),
        ("replay", "/no/such/file"),
        ("replay", "/tmp"),
        ("replay", "/dev/null"),
        ("replay", "--view", "nothing", "/dev/null"),
        ("no-such-command",),
    ],
)
def test_wrong_usage_ends_with_2(arguments: Sequence[str]) -> None:
    """What cannot be meant is said on stderr alone, with status 2, and without a traceback."""
    done = wgtrace(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert "rror: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("drops", "--all"),
        ("latency", "--all"),
        ("probes",),
        ("record", "-o", "/tmp/x", "--all"),
        ("selftest",),
        ("selftest", "--clean"),
    ],
)
def test_without_root_it_ends_with_3(arguments: Sequence[str]) -> None:
    """A user who is not root is told so, and how to do it."""
    done = as_nobody(*arguments)

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.endswith("error: wgtrace needs root\n  it loads BPF programs\n  sudo wgtrace ...\n")


@pytest.mark.usefixtures("without_wireguard")
@pytest.mark.parametrize(
    "arguments",
    [
        ("wg0",),
        (),
    ],
)
def test_a_kernel_without_wireguard_ends_with_3(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the kernel has no WireGuard, the command that loads it is named."""
    status = here(monkeypatch, "drops", *arguments)

    said = capsys.readouterr()
    assert (status, said.out) == (3, "")
    assert said.err.startswith("error: this kernel has no WireGuard\n")
    assert said.err.endswith("\n  modprobe wireguard\n")


@pytest.mark.usefixtures("with_wireguard")
def test_no_interface_at_all_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no interface was made yet, it is said how to make one or to look elsewhere."""
    status = here(monkeypatch, "drops")

    assert status == 2
    assert "wg-quick up NAME, or --netns NAME, or --all" in capsys.readouterr().err


@pytest.mark.usefixtures("with_wireguard")
def test_an_interface_that_is_not_there_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interface that does not exist is named."""
    status = here(monkeypatch, "drops", "wg77")

    assert status == 2
    assert capsys.readouterr().err.startswith("error: there is no interface wg77\n")


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UnsupportedError("what", "because", "do this"), 3, "error: what\n  because\n  do this\n"),
        (UnsupportedError("what"), 3, "error: what\n"),
        (
            ZeroDivisionError("by 0"),
            4,
            "error: internal error: ZeroDivisionError: by 0\n"
            "  this is a bug of wgtrace; WGTRACE_DEBUG=1 shows where\n",
        ),
    ],
)
def test_errors_have_three_parts_and_a_status(
    error: Exception,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error says what, why and what to do, each if there is one; a bug says that it is one."""
    monkeypatch.delenv("WGTRACE_DEBUG", raising=False)
    monkeypatch.setattr(dumps, "links", lambda netns, kind="": _raise(error))

    assert here(monkeypatch, "drops", "wg0") == status
    assert capsys.readouterr().err == said


def test_a_bug_shows_where_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With WGTRACE_DEBUG an internal error is the traceback itself."""
    monkeypatch.setenv("WGTRACE_DEBUG", "1")
    monkeypatch.setattr(dumps, "links", lambda netns, kind="": _raise(ZeroDivisionError("by 0")))
    monkeypatch.setattr(sys, "argv", ["wgtrace", "drops", "wg0"])

    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_reader_that_closes_the_pipe_ends_it_quietly() -> None:
    """A closed pipe is no error: nothing is said, and the status is 0."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        # The help of a command; a table is written by the same process in the same way.
        command = [sys.executable, "-m", "wgtrace", "drops", "--help"]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writing)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_said() -> None:
    """What cannot be written is an error of its own, with its reason, and not a bug."""
    command = [sys.executable, "-m", "wgtrace", "drops", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)

    assert done.returncode == 4
    assert done.stderr == (
        "error: the output cannot be written\n  No space left on device\n  make room, or write it elsewhere\n"
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_that_are_closed(closed: str) -> None:
    """Nothing that is opened later gets what is written to them, and nothing fails for it."""
    script = f'exec "$@" {closed}'
    done = subprocess.run(["sh", "-c", script, "sh", sys.executable, "-m", "wgtrace", "--help"])

    assert done.returncode == 0


def test_what_errors_say_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interface's name in an error comes without its control characters."""
    monkeypatch.setattr(dumps, "links", lambda netns, kind="": [])
    monkeypatch.setattr(dumps, "has_wireguard", lambda: True)

    assert here(monkeypatch, "drops", "wg\x1b[2J\udcff") == 2
    assert "there is no interface wg[2J" in capsys.readouterr().err


def test_the_start_is_quick() -> None:
    """What is slow to import is imported only by the run of a command that needs it, by no help text."""
    script = (
        "import sys; from wgtrace import cli\n"
        "for name in cli.COMMANDS: cli.cli.get_command(None, name)\n"
        "print(*sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert {"bcc", "pyroute2", "rich", "wgtrace.pipeline"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--snaplen", "96"], "--snaplen is about the packets that -w writes"),
        (["-w", "-", "--json"], "-w - and --json both take standard output"),
        (["-w", "x.pcapng", "--snaplen", "0"], "0 is not in the range 1<=x<=9216"),
        (["--flow", ""], "--flow: it ends where host"),
    ],
)
def test_options_that_do_not_go_together(arguments: Sequence[str], said: str) -> None:
    """What cannot be meant ends with 2 and says why, before anything is made."""
    done = wgtrace("drops", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_wrong_flow_filter_is_pointed_at() -> None:
    """The filter is shown with a mark below the word that is wrong, and an example."""
    done = wgtrace("drops", "--flow", "inner host 10.9.4.7 an port 443")

    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: --flow: 'and' is missing before 'an', at character 21",
        "  inner host 10.9.4.7 an port 443",
        "                      ^",
        "  for example: --flow 'inner host 10.9.4.7 and port 443 and tcp'",
    ]


KEY: Final = "/dZm2sY5RkBrlea58QHaW433cZFGhOAGqrWv7PlKBhw="


@pytest.mark.parametrize(
    ("text", "is_key"),
    [
        (KEY, True),
        (KEY[:-2] + "x=", False),
        (KEY[:-1], False),
        ("berlin", False),
        ("AAAA", False),
        ("", False),
    ],
)
def test_a_whole_key_may_be_a_peers_later(
    text: str, is_key: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A public key that no peer has yet is taken, with a warning; anything else must be a peer's."""
    view = View(None, "wg0", lambda: Snapshot(0))
    if is_key:
        assert list(view.public_keys(text)) == [text]
        assert f"{text} is no peer of wg0 yet" in capsys.readouterr().err
    else:
        with pytest.raises(UsageError, match="no peer"):
            view.public_keys(text)
