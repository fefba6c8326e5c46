# SPDX-License-Identifier: GPL-2.0-only
"""What was configured, as frozen snapshots. Private and preshared keys have no place here."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network

from wgtrace.events.types import Endpoint, IPAddress

IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """A configured peer, as wg(8) shows it.

    Attributes:
        public_key: Base64.
        has_preshared_key: Whether one is set; the key itself is never kept.
        persistent_keepalive: Seconds, 0: off.
        latest_handshake_ns: Unix time in nanoseconds, 0: never.
    """

    public_key: str
    endpoint: Endpoint | None = None
    allowed_ips: tuple[IPNetwork, ...] = ()
    has_preshared_key: bool = False
    persistent_keepalive: int = 0
    latest_handshake_ns: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    name: str | None = None


@dataclass(frozen=True)
class Device:
    """A WireGuard interface with its peers.

    Attributes:
        netns: Inode number of the network namespace it is in.
        public_key: Base64; None: it has no private key.
        has_carrier: WireGuard takes it away when the namespace that the interface was
            made in is deleted, and its UDP sockets with it; nothing gives it back.
        counters: `rtnl_link_stats64` fields by name (rx_errors, tx_dropped, ...).
    """

    ifname: str
    ifindex: int
    netns: int
    public_key: str | None = None
    listen_port: int = 0
    fwmark: int = 0
    is_up: bool = False
    has_carrier: bool = True
    mtu: int = 0
    peers: tuple[Peer, ...] = ()
    counters: dict[str, int] = field(default_factory=dict)

    def peer(self, public_key: str) -> Peer | None:
        """The peer with this base64 public key, or None."""
        return self._by_key.get(public_key)

    @cached_property
    def _by_key(self) -> dict[str, Peer]:
        return {peer.public_key: peer for peer in reversed(self.peers)}

    def owner_of(self, addr: IPAddress) -> Peer | None:
        """The peer whose AllowedIPs hold `addr` by longest prefix, or None."""
        best: tuple[int, Peer] | None = None
        for peer in self.peers:
            for net in peer.allowed_ips:
                if net.version == addr.version and addr in net and (best is None or net.prefixlen > best[0]):
                    best = (net.prefixlen, peer)
        return best[1] if best else None


@dataclass(frozen=True, slots=True)
class Route:
    """A route, as ip-route(8) shows it.

    Attributes:
        kind: unicast, prohibit, unreachable, blackhole; "" is another.
        oif: Name of the device that it leads to, "" if none.
    """

    net: IPNetwork
    table: int
    kind: str = "unicast"
    oif: str = ""
    gateway: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy rule that asks for nothing but the fwmark, as ip-rule(8) shows it.

    Attributes:
        action: lookup, prohibit, unreachable, blackhole.
        mask: Of the mark, 0: every packet.
        is_inverted: `not fwmark`.
    """

    priority: int
    action: str
    table: int = 0
    mark: int = 0
    mask: int = 0
    is_inverted: bool = False

    def takes(self, mark: int) -> bool:
        """Whether it applies to a packet with this mark."""
        return (mark & self.mask == self.mark) != self.is_inverted


@dataclass(frozen=True, slots=True)
class Way:
    """What the kernel said when it was asked for the route to a peer's endpoint.

    Attributes:
        mark: The fwmark that was asked with.
        errno: Why there is none, 0: there is one, and this is it:
        oif: Name of the device that it leads to.
        unmarked: The answer without a mark, None if there is none anyway.
        defaults: Default routes of the family, of all tables, also those not asked.
        refusing: Routes of other kinds that hold the endpoint, of all tables.
        rules: In their order.
        has_address: Whether the namespace has a global address of the family.
        has_family: Whether the kernel has the family at all.
        netns: Inode of the namespace that the UDP socket is in, 0: not known.
        netns_name: Name of the namespace that was asked, None if it has none.
        mtu: Of the route, 0: it has none of its own.
        is_mtu_learned: It is what a router told, and will be forgotten.
        link_mtu: Of the device, 0: not known.
    """

    endpoint: IPAddress
    mark: int = 0
    errno: int = 0
    oif: str = ""
    table: int = 0
    gateway: IPAddress | None = None
    unmarked: Way | None = None
    defaults: tuple[Route, ...] = ()
    refusing: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    has_address: bool = True
    has_family: bool = True
    netns: int = 0
    netns_name: str | None = None
    mtu: int = 0
    is_mtu_learned: bool = False
    link_mtu: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """A [Peer] section of a configuration file that wants a prefix as its own.

    Attributes:
        file: Path.
        public_key: Of the section, base64.
    """

    file: str
    public_key: str
    net: IPNetwork


@dataclass(frozen=True, slots=True)
class Load:
    """What the CPUs have done since boot, proc_stat(5).

    Attributes:
        busy: Of each CPU, ticks not idle.
        softirq: Of each CPU, ticks in softirqs, where packets are received.
        ticks: Of each CPU, all of them.
    """

    busy: tuple[int, ...] = ()
    softirq: tuple[int, ...] = ()
    ticks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NftChain:
    """A chain of nft with its rules.

    Attributes:
        family: `inet`, `ip`, `ip6`, `netdev`, `bridge` or `arp`.
        table_handle: No other table of the namespace ever has it.
        hook: `input`, `forward` and so on of a base chain, else "".
        priority: Of a base chain, as nft prints it.
        policy: `accept` or `drop` of a base chain, else "".
        rules: Their text by handle.
    """

    family: str
    table: str
    table_handle: int
    name: str
    hook: str = ""
    priority: str = ""
    policy: str = ""
    rules: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Firewall:
    """The rules of a network namespace.

    Attributes:
        chains: Of nft, iptables-nft's among them.
        legacy: Tables that iptables-legacy has rules in, such as `filter`.
        unreadable: Why nft's are not known, "": they are.
    """

    chains: tuple[NftChain, ...] = ()
    legacy: tuple[str, ...] = ()
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace.

    Attributes:
        inode: What the kernel and `lsns` call it.
        path: Opens it: /proc/self/ns/net, /run/netns/NAME or /proc/PID/ns/net.
        name: As ip-netns(8) knows it, None if it has no name.
    """

    inode: int
    path: str
    name: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """Every WireGuard interface that was looked at, at one moment.

    Attributes:
        taken_ns: CLOCK_BOOTTIME.
        unreadable: What could not be read, one sentence each.
    """

    taken_ns: int
    devices: tuple[Device, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    unreadable: tuple[str, ...] = ()

    def device(self, ifname: str, netns: int) -> Device | None:
        """The interface of this name in the namespace with this inode, or None."""
        return self._by_name.get((ifname, netns))

    def netns_name(self, inode: int) -> str | None:
        """The name of the namespace with this inode, or None."""
        return self._netns_names.get(inode)

    @cached_property
    def _by_name(self) -> dict[tuple[str, int], Device]:
        return {(device.ifname, device.netns): device for device in reversed(self.devices)}

    @cached_property
    def _netns_names(self) -> dict[int, str | None]:
        return {space.inode: space.name for space in reversed(self.namespaces)}
