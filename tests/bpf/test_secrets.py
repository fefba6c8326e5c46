# SPDX-License-Identifier: GPL-2.0-only
"""No program reads a key that must stay secret. Read off the text: neither BCC nor root is needed."""

from __future__ import annotations

import re
from typing import Final

import pytest

from wgtrace.loader.source import FILES, bpf_directory, kprobe_program, program_text
from wgtrace.probes.catalogue import CATALOGUE, PACKETS
from wgtrace.probes.invariants import INVARIANT_PROBES
from wgtrace.probes.latency import LATENCY
from wgtrace.probes.story import HANDSHAKES

# Members of WireGuard's structs that hold a secret, or whole structs that do.
SECRETS: Final = (
    "static_private",
    "preshared_key",
    "ephemeral_private",
    "chaining_key",
    "precomputed_static_static",
    "latest_cookie",
    "cookie_decryption_key",
    "cookie_encryption_key",
    "message_mac1_key",
    "last_mac1_sent",
    "noise_symmetric_key",
    "cookie_checker",
    "secret",
)
# Structs that hold secrets beside what is read: their members that may be read.
MAY_READ: Final = {
    "handshake": {"remote_static", "latest_timestamp", "entry", "state"},
    "static_identity": {"has_identity"},
    "receiving": {"birthdate", "is_valid"},
    "sending": {"birthdate", "is_valid"},
}


def _text() -> str:
    """All that runs in the kernel, without comments."""
    files = "".join((bpf_directory() / name).read_text() for name in FILES)
    rows = (*CATALOGUE, *LATENCY, *PACKETS, *HANDSHAKES, *INVARIANT_PROBES)
    programs = "".join(program_text(kprobe_program(probe, probe.targets[0])) for probe in rows)
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", files + programs, flags=re.DOTALL)


TEXT: Final = _text()


@pytest.mark.parametrize("name", SECRETS)
def test_no_program_names_a_secret(name: str) -> None:
    """The name of a secret stands nowhere in what runs."""
    assert not re.search(rf"\b{name}\b", TEXT)


def test_no_program_reads_a_symmetric_key() -> None:
    """No member `key` is read: that is what noise_symmetric_key calls its own."""
    assert re.findall(r"(?:->|\.)\s*key\b", TEXT) == []


@pytest.mark.parametrize("struct", MAY_READ)
def test_of_a_struct_with_secrets_only_known_members_are_read(struct: str) -> None:
    """Members beside a secret are read by name, and only those that are none."""
    members = set(re.findall(rf"(?:->|\.){struct}\.(\w+)", TEXT))

    assert members <= MAY_READ[struct]


def test_no_struct_with_secrets_is_read_whole() -> None:
    """A struct that holds secrets is never copied as a whole, nor a peer, an interface or a keypair."""
    structs = "|".join(MAY_READ)

    assert re.findall(rf"READ\([^()]*(?:->|\.)(?:{structs})\)", TEXT) == []
    assert re.findall(r"READ\(\s*\*", TEXT) == []
    assert re.findall(r"sizeof\(struct (?:wg_|noise_|cookie)\w*\)", TEXT) == []


def test_the_key_of_a_decryption_is_not_handed_over() -> None:
    """chacha20poly1305_decrypt() gets its key as sixth argument: its program takes three."""
    (entry,) = (probe for probe in CATALOGUE if probe.name == "chacha20poly1305-decrypt")

    assert entry.args == ("u8 *dst", "u8 *src", "u64 src_len")
    assert "PT_REGS_PARM5" not in TEXT
    assert "PT_REGS_PARM6" not in TEXT
