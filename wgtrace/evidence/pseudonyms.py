# SPDX-License-Identifier: GPL-2.0-only
"""Other keys, addresses and names, the same everywhere in one archive.

What is a question of prefixes stays one: an address is in a pseudonym of a network exactly
if it was in the network, so that AllowedIPs and routes tell the same story. Bit for bit a
keyed hash of the bits before decides whether it is turned (Xu, Fan, Ammar and Moon:
"Prefix-preserving IP address anonymization", 2002). Blocks with a meaning stay what they
are: private, link-local, loopback, multicast. A public address becomes one for documentation
(RFC 5737, RFC 3849), then for benchmarks (RFC 2544), and a public network one that nobody
has: in 240.0.0.0/4, or in 2001:db8::/32.

Names of interfaces, and of tables and chains of nft, stay where everybody has them (`wg0`,
`filter`, `input`); of a rule's text comments and log prefixes say only that there is one.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import re
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, TypeVar

from wgtrace.events.types import IPAddress
from wgtrace.recording.facts import AskedWay
from wgtrace.state.types import Claim, Device, IPNetwork, Namespace, NftChain, Peer, Route, Way

_T = TypeVar("_T")
_KEY: Final = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")
_ADDRESS: Final = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]*(?::[0-9A-Fa-f]*){2,7})(?:/\d{1,3})?(?!\w)"
)
_MAC: Final = re.compile(r"(?<![\w:])[0-9a-f]{2}(?::[0-9a-f]{2}){5}(?![\w:])", re.IGNORECASE)
# Names that the kernel, systemd and everybody's instructions give, and no name made of a MAC.
_EVERYBODYS: Final = re.compile(
    r"lo|(?:wg|eth|wlan|wwan|tun|tap|br|virbr|docker|dummy|bond|team|ppp|vxlan|ifb|ens|eno|enp|wlp|wls)"
    r"\d[\dspfdn.]*"
)
_TABLES: Final = frozenset(("filter", "nat", "mangle", "raw", "security", "route", "firewalld", "fw4"))
_CHAINS: Final = frozenset(("input", "forward", "output", "prerouting", "postrouting", "ingress", "egress"))
_WG_QUICK: Final = "wg-quick-"
_NFT_NAME: Final = 31  # bytes of a name of nft that the programs hand over
_QUOTED: Final = re.compile(r'(\w+ )?"([^"]*)"')
_SET: Final = re.compile(r"@([A-Za-z_][\w./-]*)")
_JUMP: Final = re.compile(r"\b(jump|goto) ([^\s,}]+)")

# Blocks, and how many of their bits stay as they are; None: all.
_KEPT: Final = [
    (ip_network(net), bits)
    for net, bits in (
        ("0.0.0.0/8", None),
        ("10.0.0.0/8", 8),
        ("100.64.0.0/10", 10),
        ("127.0.0.0/8", None),
        ("169.254.0.0/16", 16),
        ("172.16.0.0/12", 12),
        ("192.168.0.0/16", 16),
        ("224.0.0.0/3", None),
        ("::/16", None),
        ("fc00::/7", 8),
        ("fe80::/10", 64),
        ("ff00::/8", None),
    )
]
_HOSTS: Final = [
    ip_network(n) for n in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15")
]
_HOSTS6: Final = ip_network("2001:db8::/32")
_SHORT: Final = {4: 8, 6: 32}
"""A public network with fewer bits says nothing of anybody, and stays."""


class Pseudonyms:
    """Gives each key, address and name another one.

    Args:
        secret: What the turning of bits depends on; nobody must be able to guess it.
        networks: Those in which an address stands for its place, such as AllowedIPs:
            it is turned with them. Others are just hosts.
        names: Of peers.
        ifnames: Of interfaces.
    """

    def __init__(
        self,
        secret: bytes,
        networks: Collection[IPNetwork] = (),
        names: Collection[str] = (),
        ifnames: Collection[str] = (),
    ) -> None:
        self._secret = secret
        self._networks = [net for net in networks if net.prefixlen >= _SHORT[net.version]]
        self._keys: dict[str, str] = {}
        self._hosts = {4: 0, 6: 0}
        self._others: dict[tuple[str, str], str] = {}
        own = {name for name in ifnames if name and not _EVERYBODYS.fullmatch(name)}
        self._kinds = dict.fromkeys(own, "if") | {name: "peer" for name in names if name}
        longest_first = sorted(self._kinds, key=len, reverse=True)
        words = "|".join(map(re.escape, longest_first))
        self._names = re.compile(rf"(?<!\w)(?:{words})(?!\w)") if words else None
        self._addresses: dict[IPAddress, IPAddress] = {}

    # -- keys and names --------------------------------------------------------

    def key(self, public_key: str) -> str:
        """Another public key, the same each time: `key007/pseudonym///…A=`."""
        return self._keys.setdefault(
            public_key, f"key{len(self._keys) + 1:03}/pseudonym".ljust(42, "/") + "A="
        )

    def raw_key(self, raw: bytes) -> bytes:
        """The same of 32 bytes; all zero stays: there is none."""
        return base64.b64decode(self.key(base64.b64encode(raw).decode())) if any(raw) else raw

    def name(self, name: str, kind: str = "peer") -> str:
        """`peer-7` for a name."""
        known = len([1 for other, _ in self._others if other == kind])
        return self._others.setdefault((kind, name), f"{kind}-{known + 1}")

    def ifname(self, name: str) -> str:
        """`if-3` for the name of an interface, unless it is one that everybody has."""
        return name if not name or _EVERYBODYS.fullmatch(name) else self.name(name, "if")

    def table(self, name: str) -> str:
        """`table-2` for a table of nft; wg-quick's own stay wg-quick's."""
        if name.startswith(_WG_QUICK):
            return _WG_QUICK + self.ifname(name.removeprefix(_WG_QUICK))
        return self._nft_name(name, "table", _TABLES)

    def chain(self, name: str) -> str:
        """`chain-5` for a chain of nft."""
        return self._nft_name(name, "chain", _CHAINS)

    def _nft_name(self, name: str, kind: str, everybodys: Collection[str]) -> str:
        cut = name.encode()[:_NFT_NAME].decode(errors="replace")
        return name if not name or name.lower() in everybodys else self.name(cut, kind)

    def rule(self, text: str) -> str:
        """A rule as nft(8) prints it, with what is somebody's replaced."""
        text = _QUOTED.sub(self._quoted, text)
        text = _SET.sub(lambda found: f"@{self.name(found[1], 'set')}", text)
        text = _JUMP.sub(lambda found: f"{found[1]} {self.chain(found[2])}", text)
        return self.text(text)

    def _quoted(self, found: re.Match[str]) -> str:
        before, name = found[1] or "", found[2]
        if before in ("comment ", "prefix "):
            return f'{before}"{self.name(name, before.strip())}"'
        if before in ("match ", "target "):  # of iptables-nft: a module of the kernel
            return found[0]
        return f'{before}"{self.ifname(name)}"'

    # -- addresses -------------------------------------------------------------

    def address(self, address: IPAddress) -> IPAddress:
        """Another address of the same family."""
        if address not in self._addresses:
            self._addresses[address] = self._another(address)
        return self._addresses[address]

    def _another(self, address: IPAddress) -> IPAddress:
        if _kept(address) is None and not any(
            address.version == net.version and address in net for net in self._networks
        ):
            return self._host(address)
        turned = self._turned(address, address.max_prefixlen)
        return IPv4Address(turned) if address.version == 4 else IPv6Address(turned)

    def network(self, net: IPNetwork) -> IPNetwork:
        """Another network of the same family and length."""
        address = net.network_address
        if net.prefixlen == net.max_prefixlen:
            return ip_network(self.address(address))
        if _kept(address) is None and net.prefixlen < _SHORT[net.version]:
            return net
        rest = net.max_prefixlen - net.prefixlen
        turned = self._turned(address, net.prefixlen) >> rest << rest
        return (
            ip_network((turned, net.prefixlen)) if net.version == 4 else IPv6Network((turned, net.prefixlen))
        )

    def _host(self, address: IPAddress) -> IPAddress:
        self._hosts[address.version] += 1
        number = self._hosts[address.version]
        if address.version == 6:
            return _HOSTS6[number]
        for net in _HOSTS:
            if number < net.num_addresses - 1:
                return net[number]
            number -= net.num_addresses - 2
        return IPv4Address(self._turned(address, 32))

    def _turned(self, address: IPAddress, length: int) -> int:
        """The first `length` bits turned, but those that stay; the rest as it is."""
        bits, value, width = _kept(address), int(address), address.max_prefixlen
        if bits == width:
            return value
        first = bits
        if first is None:  # public
            first = _SHORT[address.version]
            block = int(_HOSTS6.network_address) >> 96 if width == 128 else 0xF0 | value >> 24 & 0xF
            base = block << width - first
        else:
            base = value >> width - first << width - first
        turned = value & (1 << width - first) - 1
        for bit in range(first, length):
            before = value >> width - bit
            text = f"{width}/{bit}/{before}".encode()
            if hmac.digest(self._secret, text, "sha256")[0] & 1:
                turned ^= 1 << width - 1 - bit
        return base | turned

    # -- whatever holds them -----------------------------------------------------

    def text(self, text: str) -> str:
        """A sentence, with the keys, addresses and names in it replaced."""
        text = _KEY.sub(lambda found: self.key(found[0]), text)
        text = _MAC.sub(lambda found: self._mac(found[0]), text)
        text = _ADDRESS.sub(lambda found: self._address_text(found[0]), text)
        if self._names:
            return self._names.sub(lambda found: self.name(found[0], self._kinds[found[0]]), text)
        return text

    def _mac(self, mac: str) -> str:
        """A locally administered one."""
        number = int(self.name(mac.lower(), "mac").rpartition("-")[2])
        return f"02:00:5e:00:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}"

    def _address_text(self, text: str) -> str:
        address, slash, length = text.partition("/")
        try:
            if slash:
                return str(self.network(ip_network(text)))
            return str(self.address(ip_address(text)))
        except ValueError:  # a time of day, a version; or an address in its network
            return f"{self._address_text(address)}/{length}" if slash else text

    def of(self, value: _T) -> _T:
        """A dataclass, or what dataclasses hold, with all that is in it replaced."""
        return self._of(value)  # type: ignore[no-any-return]  # it gives back what it gets

    def _of(self, value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: self._field(value, f.name) for f in dataclasses.fields(value)}
            return type(value)(**fields)
        if isinstance(value, Mapping):
            return {self._of(key): self._of(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(self._of(item) for item in value)
        if isinstance(value, (IPv4Address, IPv6Address)):
            return self.address(value)
        if isinstance(value, (IPv4Network, IPv6Network)):
            return self.network(value)
        return self.text(value) if isinstance(value, str) else value

    def _field(self, holder: Any, name: str) -> Any:
        """A field whose text has a meaning of its own, or any other."""
        value = getattr(holder, name)
        if isinstance(holder, NftChain) and name == "rules":
            return {handle: self.rule(text) for handle, text in holder.rules.items()}
        if not value or not isinstance(value, str):
            return self._of(value)
        if isinstance(holder, Peer) and name == "name":
            return self.name(value)
        if name in _IFNAMES.get(type(holder), ()):
            return self.ifname(value)
        if isinstance(holder, NftChain) and name in ("table", "name"):
            return self.table(value) if name == "table" else self.chain(value)
        if (isinstance(holder, Namespace) and name == "name") or (
            isinstance(holder, Way) and name == "netns_name"
        ):
            return self.name(value, "netns")
        if isinstance(holder, Namespace) and name == "path":
            return (
                value
                if value.startswith("/proc/")
                else f"/run/netns/{self.name(value.rpartition('/')[2], 'netns')}"
            )
        if isinstance(holder, Claim) and name == "file":
            return f"/etc/wireguard/{self.name(value, 'file')}.conf"
        return self.text(value)


_IFNAMES: Final[dict[type, tuple[str, ...]]] = {
    AskedWay: ("ifname",),
    Device: ("ifname",),
    Route: ("oif",),
    Way: ("oif",),
}
"""Fields that hold the name of an interface."""


def _kept(address: IPAddress) -> int | None:
    """How many bits of an address stay as they are; None: it is public."""
    for net, bits in _KEPT:
        if address.version == net.version and address in net:
            return address.max_prefixlen if bits is None else bits
    return None


def secret_of(*contents: bytes) -> bytes:
    """A secret for these recordings that only their owner can compute: the same archive each time."""
    digest = hashlib.sha256(b"wgtrace pseudonyms")
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.digest()
