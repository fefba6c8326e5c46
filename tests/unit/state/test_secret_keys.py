# SPDX-License-Identifier: GPL-2.0-only
"""state.secrets: which keys are looked for, where they are found, and that they are gone afterwards."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from pathlib import Path

import pytest

from wgtrace.state.secrets import found_in, held

RAW = bytes(range(100, 132))
OTHER = bytes(range(7, 39))
KEY, OTHER_KEY = (base64.b64encode(raw).decode() for raw in (RAW, OTHER))


@pytest.mark.parametrize(
    "text",
    [
        f"[Interface]\nPrivateKey = {KEY}\n",
        f"[Peer]\nPublicKey = {OTHER_KEY}\npresharedkey={KEY} # of berlin\n",
        f"# old key: {KEY}\n",
        KEY,
        RAW.hex(),
    ],
    ids=["private", "preshared", "comment", "alone", "hex"],
)
def test_keys_of_files(text: str, tmp_path: Path) -> None:
    """All that looks like a key in any file there, but a public key."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/wg0.conf").write_text(text)

    with held(conf_dir=tmp_path, environment={}) as keys:
        assert list(map(bytes, keys)) == [RAW]


def test_keys_of_the_environment(tmp_path: Path) -> None:
    """A key that was handed over in a variable, beside others."""
    with held(conf_dir=tmp_path, environment={"A": "b", "WG": f"--key={KEY}"}) as keys:
        assert list(map(bytes, keys)) == [RAW]


def test_a_key_that_is_known_to_be_public_is_not_looked_for(tmp_path: Path) -> None:
    """A file may hold it by itself."""
    (tmp_path / "publickey").write_text(f"{KEY}\n{OTHER_KEY}\n")

    with held({OTHER}, tmp_path, {}) as keys:
        assert list(map(bytes, keys)) == [RAW]


def test_they_are_wiped(tmp_path: Path) -> None:
    """Also when an error ends it."""
    kept = []
    with contextlib.suppress(KeyboardInterrupt), held(conf_dir=tmp_path, environment={"WG": KEY}) as keys:
        kept = keys
        assert list(map(bytes, kept)) == [RAW]
        raise KeyboardInterrupt

    assert list(map(bytes, kept)) == [bytes(32)]


@pytest.mark.parametrize("start", range(0, 17, 5))
@pytest.mark.parametrize(
    "text",
    [RAW, KEY.encode(), RAW.hex().encode(), RAW.hex().upper().encode()],
    ids=["raw", "base64", "hex", "HEX"],
)
def test_half_a_key_is_found(text: bytes, start: int) -> None:
    """Any sixteen bytes of it in a row, in whatever spelling."""
    begin, end = (at * len(text) // 32 for at in (start, start + 16))
    assert found_in(b"--" + text[begin:end] + b"--", [bytearray(RAW)])


@pytest.mark.parametrize("text", [RAW[9:25], KEY[20:36].encode()], ids=["raw", "base64"])
def test_half_a_key_of_very_many_is_found(text: bytes) -> None:
    """Where there are hundreds of keys they are looked for in another way."""
    others = [bytearray(hashlib.sha256(bytes([n])).digest()) for n in range(200)]

    assert found_in(b"-" * 99 + text, [*others, bytearray(RAW)])
    assert not found_in(b"-" * 99 + text, others)


def test_what_is_no_key_is_not_found() -> None:
    """Another key, seven bytes of it, padding."""
    keys = [bytearray(RAW)]

    assert not found_in(OTHER + OTHER_KEY.encode() + OTHER.hex().encode(), keys)
    assert not found_in(RAW[:7], keys)
    assert not found_in(
        RAW[:4].hex().encode(), keys
    )  # the type of a message that happens to be one's beginning
    assert not found_in(b"A" * 99 + bytes(99) + b"/" * 99, [bytearray(b"\xff" * 31 + b"\x07")])
    assert found_in(b"\xff" * 31 + b"\x07", [bytearray(b"\xff" * 31 + b"\x07")])
