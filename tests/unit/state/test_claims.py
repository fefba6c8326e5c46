# SPDX-License-Identifier: GPL-2.0-only
"""wgtrace.state.claims: who wants which prefix, from configuration files."""

from __future__ import annotations

import base64
from ipaddress import ip_network
from pathlib import Path

from wgtrace.state.claims import claims
from wgtrace.state.types import Claim

ONE, TWO = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


def test_each_section_s_prefixes(tmp_path: Path) -> None:
    """In whatever spelling wg-quick(8) takes: several lines, commas, case, comments, order."""
    (tmp_path / "wg0.conf").write_text(
        f"[Interface]\nAddress = 10.9.0.1/24\nPrivateKey = secret\n"
        f"[Peer]\nPublicKey = {ONE}\nAllowedIPs = 10.9.0.2/32, fd00::2/128 # mine\nallowedips=10.9.4.7/24\n"
        f"[peer] # second\nAllowedIPs = 10.9.0.3\nPublicKey = {TWO}"
    )
    file = str(tmp_path / "wg0.conf")

    assert claims(tmp_path) == (
        Claim(file, ONE, ip_network("10.9.0.2/32")),
        Claim(file, ONE, ip_network("fd00::2/128")),
        Claim(file, ONE, ip_network("10.9.4.0/24")),
        Claim(file, TWO, ip_network("10.9.0.3/32")),
    )


def test_what_is_not_understood_is_left_out(tmp_path: Path) -> None:
    """No key, no prefix, no file, no directory."""
    (tmp_path / "a.conf").write_text(
        f"[Peer]\nPublicKey = x\nAllowedIPs = 10.0.0.0/8\n[Peer]\nPublicKey={ONE}\n"
    )
    (tmp_path / "b.conf").write_text(f"[Peer]\nPublicKey = {ONE}\nAllowedIPs = all, 10.0.0.0/99, ::/0\n")
    (tmp_path / "c.conf").mkdir()
    (tmp_path / "d.txt").write_text(f"[Peer]\nPublicKey = {ONE}\nAllowedIPs = 10.0.0.0/8\n")

    assert claims(tmp_path) == (Claim(str(tmp_path / "b.conf"), ONE, ip_network("::/0")),)
    assert claims(tmp_path / "none") == ()
