# SPDX-License-Identifier: GPL-2.0-only
"""repro.sh is a script that bash takes, of nobody's addresses and keys. What it does is shown in the lab."""

from __future__ import annotations

import re
import shutil
import subprocess
from ipaddress import ip_address, ip_network

import pytest
from factories import BERLIN, OSLO, PARIS, device, key, peer

from wgtrace.events.reasons import Reason
from wgtrace.evidence.repro import MOST_PEERS, not_provoked, script

DOCUMENTATION = [
    ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]
EVERY = dict.fromkeys(Reason, 23)
PEERS = (
    peer(BERLIN, "berlin", "10.9.0.2/32", "10.7.0.0/16", at="75.5.5.9:51821", has_preshared_key=True),
    peer(PARIS, "paris", "10.9.0.3/32", "fd00::/64", at="[2a00::3]:4500", persistent_keepalive=25),
    peer(OSLO, None, "0.0.0.0/0"),
)


def lines_for(text: str, number: int) -> list[str]:
    """The lines that set a peer up at the hub."""
    return [
        line for line in text.splitlines() if line.startswith("hub wg set") and f"PUBLIC[{number}]" in line
    ]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.id)
def test_bash_takes_it(reason: Reason) -> None:
    """For each reason alone, with each kind of peer; what is not provoked is said."""
    text = script(device(peers=PEERS[:2]), {reason: 23}, [], 'it\'s "broken"')
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    is_provoked = f"\n{reason.id}() {{" in text
    assert is_provoked == (not_provoked([reason], device(peers=PEERS[:2])) == [])
    assert (f"{reason.id}, 23 times; provoked below" in text) == is_provoked
    assert not re.search(r"@[A-Z]+@", text)  # no mark is left


def test_nothing_in_it_is_anybodys() -> None:
    """No key, no name, and no address but those for documentation, and everything."""
    text = script(device(peers=PEERS), EVERY, [], "it")

    for somebodys in (BERLIN, PARIS, OSLO, "berlin", "paris"):
        assert somebodys not in text
    for found in re.findall(r"\d+\.\d+\.\d+\.\d+|2001:db8::[\da-f]+", text):
        assert found == "0.0.0.0" or any(
            ip_address(found) in net for net in DOCUMENTATION if net.version == ip_address(found).version
        ), found
    assert re.findall(r"[A-Za-z0-9+/]{43}=", text) == []


def test_the_configuration_is_the_recorded_one() -> None:
    """Ports, MTU, mark, keepalive, preshared keys, families, how many AllowedIPs, who has an endpoint."""
    text = script(device(peers=PEERS, listen_port=7, mtu=1380, fwmark=0x33), {}, [], "it")

    assert "readonly PORT=7\n" in text
    assert "mtu 1380 up" in text
    assert " fwmark 0x33 " in text
    (one,), (two,), (three,) = (lines_for(text, n) for n in (1, 2, 3))
    assert "allowed-ips 198.51.100.1/32,203.0.113.1/32 endpoint 192.0.2.1:51821" in one
    assert "preshared-key" in one
    assert "endpoint [2001:db8::2]:4500 persistent-keepalive 25" in two
    assert "preshared-key" not in two
    assert "allowed-ips 198.51.100.3/32,0.0.0.0/0" in three
    assert "endpoint" not in three


def test_of_many_peers_those_in_trouble_come_first() -> None:
    """A script of 200 namespaces helps nobody."""
    peers = tuple(
        peer(key(number), None, f"10.9.0.{number}/32", at=f"75.5.5.5:{number}") for number in range(2, 99)
    )
    text = script(device(peers=peers), {}, [key(77)], "it")

    assert f"readonly ALL=({' '.join(map(str, range(1, MOST_PEERS + 1)))})" in text
    assert "endpoint 192.0.2.1:77" in lines_for(text, 1)[0]


def test_where_all_is_allowed_nothing_can_be_refused() -> None:
    """With a default route in AllowedIPs no source and no destination is wrong."""
    assert not_provoked([Reason.SRC_NOT_ALLOWED, Reason.BAD_HEADER], device(peers=PEERS)) == [
        Reason.SRC_NOT_ALLOWED
    ]
