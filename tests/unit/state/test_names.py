# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgtrace.errors import UsageError
from wgtrace.state.names import clean, peer_names

A = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
B = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI="
C = "Q0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0NDQ0M="
SECRET = "cHJpdmF0ZS1rZXktY2FuYXJ5LWluLXRoZS1maWxlISE="


def conf(directory: Path, text: str, name: str = "wg0.conf") -> dict[str, str]:
    """Names found when this is a file of /etc/wireguard."""
    (directory / name).write_text(text)
    return peer_names(directory)


def test_names_inside_and_right_above_peers(tmp_path: Path) -> None:
    """A comment names the peer that it is in, or that it stands right above, in every spelling."""
    found = conf(
        tmp_path,
        f"""
        [Interface]
        # Name = this host
        PrivateKey = {SECRET}

        [Peer]
        # Name = berlin
        PublicKey = {A}
        AllowedIPs = 10.0.0.1/32
        # friendly_name = paris
        # (the old office)
        [peer]
        publickey={B}   # moved in May
        [Peer]
        PublicKey = {C}
        #Name=rome

        [Peer]
        AllowedIPs = 10.0.0.9/32
        """,
    )

    assert found == {A: "berlin", B: "paris", C: "rome"}


def test_the_interfaces_name_is_nobodys(tmp_path: Path) -> None:
    """A name in [Interface] does not slip to the peer after it."""
    assert conf(tmp_path, f"[Interface]\n# Name = me\nListenPort = 1\n\n[Peer]\nPublicKey = {A}\n") == {}


def test_only_conf_files_are_read_and_the_first_name_counts(tmp_path: Path) -> None:
    """Files are read by name; a peer that two of them name keeps the first name."""
    for file, name in (("wg1.conf", "second"), ("wg0.conf", "first"), ("wg0.conf.bak", "old")):
        (tmp_path / file).write_text(f"[Peer]\n# Name = {name}\nPublicKey = {A}\n")

    assert peer_names(tmp_path) == {A: "first"}


@pytest.mark.parametrize(
    "spelling", ["PrivateKey = ", "PRESHAREDKEY=", "  preshared key =", "# Private_Key: "]
)
def test_lines_with_secrets_are_not_parsed(tmp_path: Path, spelling: str) -> None:
    """A line that holds a secret names nothing, even where it looks like a name."""
    text = f"[Peer]\n# Name = {spelling}{SECRET}\nPublicKey = {A}\n{spelling}{SECRET}\n"

    assert conf(tmp_path, text) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="to deny root reading takes more than a file mode")
def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    """What cannot be read is said once each, and the others' names are there."""
    (tmp_path / "a.conf").mkdir()
    (tmp_path / "b.conf").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "c.conf")
    (tmp_path / "d.conf").write_text(f"[Peer]\n# Name = berlin\nPublicKey = {A}\n")
    said: list[str] = []

    assert peer_names(tmp_path, report=said.append) == {A: "berlin"}
    assert [line.split()[0] for line in said] == [str(tmp_path / f"{name}.conf") for name in "abc"]


def test_no_directory_is_no_names(tmp_path: Path) -> None:
    """A host without /etc/wireguard has no names, and nothing to report."""
    said: list[str] = []

    assert peer_names(tmp_path / "wireguard", report=said.append) == {}
    assert said == []


@given(st.binary())  # type: ignore[untyped-decorator]
def test_any_bytes_are_survived(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """No content of a configuration file raises, and what comes out can be printed."""
    directory = tmp_path_factory.mktemp("wireguard")
    (directory / "wg0.conf").write_bytes(data + f"\n[Peer]\n# Name = x\nPublicKey = {A}\n".encode())

    names = peer_names(directory)
    assert names[A] == "x"
    assert all(name.isprintable() for name in names.values())


@given(st.text())  # type: ignore[untyped-decorator]
def test_a_clean_name(text: str) -> None:
    """A name has no control characters, no line ends, no direction overrides, and a length."""
    name = clean(f"\x1b[31m{text}\u202e\n")

    assert name.isprintable()
    assert 1 <= len(name) <= 64


def test_names_file(tmp_path: Path) -> None:
    """Key and name in either order, names of several words, comments; it goes before the conf files."""
    conf(tmp_path, f"[Peer]\n# Name = old\nPublicKey = {A}\n")
    path = tmp_path / "names"
    path.write_text(f"# ours\n\n{A} berlin\nnew york  {B}\n")

    assert peer_names(tmp_path, path) == {A: "berlin", B: "new york"}


@pytest.mark.parametrize("line", [SECRET[:-3] + " x", SECRET, f"{SECRET} {SECRET}", "\x00", f"\x1b {A}"])
def test_a_bad_line_is_pointed_at_but_not_shown(tmp_path: Path, line: str) -> None:
    """The error has file and line number, and nothing of the line itself."""
    path = tmp_path / "names"
    path.write_text(f"{A} berlin\n{line}\n")

    with pytest.raises(UsageError, match=r"names:2: ") as error:
        peer_names(tmp_path, path)
    told = f"{error.value.what} {error.value.because} {error.value.do}"
    assert not any(word in told for word in line.split() if len(word) > 1)


def test_no_names_file(tmp_path: Path) -> None:
    """A file that was named and is not there is an error that names it."""
    with pytest.raises(UsageError, match="no-such-file"):
        peer_names(tmp_path, tmp_path / "no-such-file")
