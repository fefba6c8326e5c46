# SPDX-License-Identifier: GPL-2.0-only
"""README.md says what the code says: its tables, commands and examples are held against it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from wgtrace import cli
from wgtrace.commands import options
from wgtrace.commands.drops import drops
from wgtrace.diagnosis.explain import SLUGS
from wgtrace.errors import UnsupportedError, UsageError
from wgtrace.events.invariants import INVARIANTS
from wgtrace.events.reasons import CATALOGUE, Reason
from wgtrace.merge.findings import SLUGS as MERGE_SLUGS
from wgtrace.outputs import fields
from wgtrace.outputs.jsonl import json_schema

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(language, block) for language, block in FENCE.findall(TEXT)]
PROSE = FENCE.sub("", TEXT)

Command = tuple[str, ...]


def section(title: str) -> str:
    """The text below a heading, up to the next one of the same or a higher level."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", PROSE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[2]


def table(title: str, first_column: str) -> list[list[str]]:
    """The rows of the table of a section that begins with this column."""
    lines = iter(section(title).splitlines())
    for line in lines:
        if line.startswith(f"| {first_column} |"):
            break
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert len(rows) > 1, f"no table {first_column} in {title}"
    return rows[1:]


def commands() -> list[Command]:
    """Every command line of wgtrace that README shows, without what stands before `wgtrace`."""
    lines = [line for language, block in BLOCKS if not language for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", PROSE)
    found = []
    for line in lines:
        if re.match(r"(# |sudo |ip netns exec \w+ )*wgtrace( |$)", line):
            words = shlex.split(line.removeprefix("# "), comments=True)
            words = words[words.index("wgtrace") + 1 :]
            stop = next((at for at, word in enumerate(words) if word in (">", "|")), len(words))
            found.append(tuple(words[:stop]))
    return list(dict.fromkeys(found))


def test_reasons_are_those_of_the_catalogue() -> None:
    """The table of reasons has each id, its direction, its meaning and its counters, in order."""
    expected = [
        [
            f"`{reason.id}`",
            reason.direction.value,
            row.means,
            ", ".join(f"`{name}`" for name in row.counter) or "-",
        ]
        for reason, row in CATALOGUE.items()
    ]

    assert table("Reasons", "reason") == expected


def test_findings_are_those_of_the_rules() -> None:
    """The table of findings has each slug that a rule can give, and no other."""
    assert [row[0] for row in table("Findings", "finding")] == [f"`{slug}`" for slug in SLUGS]


def test_invariants_are_those_of_the_code() -> None:
    """The table of invariants has each, and the commit without which a kernel violates it."""
    expected = [(f"`{invariant.id}`", f"`{row.commit}`") for invariant, row in INVARIANTS.items()]

    assert [(row[0], row[2].split()[0]) for row in table("Invariants", "invariant")] == expected


def test_findings_of_two_ends_are_those_of_the_code() -> None:
    """The table of what both ends prove has each slug of `merge`, in its order."""
    rows = table("Both ends together", "both ends prove")
    named = [slug for row in rows for slug in re.findall(r"`([a-z-]+)`", row[0])]

    assert named == list(MERGE_SLUGS)


def test_options_are_those_of_drops() -> None:
    """The table of options has each option of `wgtrace drops`, by all its names, in its order."""
    its = [param for param in drops.params if isinstance(param, click.Option)]
    expected = [", ".join(f"`{name}`" for name in option.opts) for option in its]

    assert [row[0] for row in table("Options of `drops`", "option")] == expected


def test_exit_statuses_are_those_of_the_code() -> None:
    """The table of exit statuses has each that wgtrace can end with."""
    expected = [0, options.EXIT_FINDINGS, UsageError.exit_code, UnsupportedError.exit_code, cli.EXIT_INTERNAL]

    assert [int(row[0]) for row in table("Options of `drops`", "exit status")] == expected


def test_columns_are_those_of_the_table() -> None:
    """Each column of the table is explained, and from what width on it is on one line."""
    shown = (fields.TIME, fields.DIRECTION, fields.PEER, fields.INNER, fields.LENGTH, fields.REASON)
    in_one_line = (*shown, fields.WHY)
    titles = [field.title for field in (fields.TIME, fields.INTERFACE, *in_one_line[1:])]
    width = sum(field.min_width for field in in_one_line) + 2 * len(shown)

    assert [row[0] for row in table("Columns", "column")] == titles
    assert f"From {width} columns on" in section("Columns")


def test_supported_kernels_are_those_of_the_lab() -> None:
    """The table of supported kernels has each kernel of the lab, its Debian and its BCC."""
    matrix = tomllib.loads((ROOT / "wgtrace/lab/kernels.toml").read_text(encoding="utf-8"))
    expected = [[f"`{name}`", kernel["debian"], kernel["bcc"]] for name, kernel in matrix.items()]

    assert [row[:3] for row in table("Supported kernels", "name in the lab")] == expected


def test_there_are_commands() -> None:
    """The commands that the next test looks at are found, in blocks and in sentences."""
    found = commands()

    assert len(found) >= 15
    for example in (
        ("drops", "wg0"),
        ("probes",),
        ("lab", "kernels", "--rebuild"),
        ("drops", "wg1", "--netns", "blue"),
    ):
        assert example in found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_parses(words: Command) -> None:
    """Each command line of wgtrace in README exists, with these options and values of these kinds."""
    command: click.Command = cli.cli
    context = click.Context(command, info_name="wgtrace")
    rest = list(words)
    while isinstance(command, click.Group) and rest:
        _, subcommand, rest = command.resolve_command(context, rest)
        assert subcommand
        command, context = subcommand, click.Context(subcommand, parent=context)
    options, _, _ = command.make_parser(context).parse_args(rest)

    for param in command.params:
        if param.name in options and not isinstance(param.type, click.Path):
            param.type_cast_value(context, options[param.name])
    for reason in options.get("reasons") or ():
        assert Reason[reason.upper()]


def test_the_json_line_fits_the_schema() -> None:
    """The JSON line that README shows is one that wgtrace may write, with every field."""
    (block,) = [block for language, block in BLOCKS if language == "json"]
    line = json.loads(block)
    schema: dict[str, Any] = dict(json_schema())

    jsonschema.validate(line, schema)
    assert [*line][2:] == [field.json for field in fields.FIELDS if field.json]


def test_the_python_example_runs() -> None:
    """The program that README shows reads a run, and prints causes, totals and what is incomplete."""
    (program,) = [block for language, block in BLOCKS if language == "python"]
    (drop,) = [block.strip() for language, block in BLOCKS if language == "json"]
    lines: list[dict[str, object]] = [
        {"type": "finding", "severity": "error", "slug": "unknown-peer", "cause": "Somebody."},
        {
            "type": "summary",
            "totals": [
                {"count": 7, "reason": "src_not_allowed", "peer": {"name": "berlin", "public_key": "k"}},
                {"count": 5, "reason": "bad_header", "peer": None},
            ],
            "complete": False,
            "incomplete_because": ["a probe"],
        },
    ]
    given = "\n".join([drop, *map(json.dumps, lines)])

    done = subprocess.run(
        [sys.executable, "-c", program], input=given, capture_output=True, text=True, check=True
    )

    assert done.stdout.splitlines() == [
        "error: unknown-peer: Somebody.",
        "7 src_not_allowed berlin",
        "5 bad_header ?",
        "incomplete:",
        "  a probe",
    ]


def test_packages_are_those_that_make_installs() -> None:
    """The Debian packages that README names are those of `make install`."""
    found = re.search(
        r"^RUN_PACKAGES := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found

    assert {f"`{name}`" for name in found[1].split()} <= set(re.findall(r"`[^`\n]+`", section("Install")))


def test_make_targets_exist() -> None:
    """Each `make` target that README names is in the Makefile."""
    named = set(re.findall(r"(?:^|`)(?:sudo )?make ([a-z]+)", TEXT, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert {"demo", "install", "uninstall", "setup", "test", "unit"} <= named
    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_files_exist() -> None:
    """Each file that README links or names by its path is there."""
    linked = re.findall(r"\]\(([^)#:]+)\)", PROSE)
    named = re.findall(r"`((?:wgtrace|tests|bpf)/[\w./-]+)`", PROSE)

    assert {"LICENSE", "bpf/README.md", "tests/README.md"} <= set(linked)
    assert "wgtrace/outputs/schema.json" in named
    assert [path for path in (*linked, *named) if not (ROOT / path).exists()] == []


def test_it_stays_short() -> None:
    """README is read at night: it stays below 850 lines, for twelve commands and bugs of kernels."""
    assert len(TEXT.splitlines()) < 850


def test_the_licence_is_the_whole_gpl_2() -> None:
    """LICENSE is the text of version 2 of the GPL from its title to its end, not a notice."""
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")

    assert licence.split()[:6] == ["GNU", "GENERAL", "PUBLIC", "LICENSE", "Version", "2,"]
    assert "END OF TERMS AND CONDITIONS" in licence
    assert len(licence.splitlines()) > 300
