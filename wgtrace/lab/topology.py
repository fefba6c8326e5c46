# SPDX-License-Identifier: GPL-2.0-only
"""Small networks of namespaces with WireGuard between them, for tests, the demo and the curious.

    with two_hosts(outer=6, inner=4) as net:
        net.connect()
        net.a.run(["ping", "-c1", net.b.inner()])

Needs root and may be used in the lab's guest or on any host (`wgtrace selftest` does); it changes
nothing outside its own namespaces, and they go when the context ends. After `kill -9` they stay:
their names say whose they were, and `remove_leftovers` removes those of the dead.

A healthy tunnel in them is quiet: no IPv6 autoconfiguration, router solicitation,
duplicate-address detection or multicast report ever enters a WireGuard device, so a test that
sends 23 packets sees 23.

It calls `ip` and `wg`, with as few processes as it can: each costs 50 to 100 ms under emulation.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import ipaddress
import itertools
import os
import re
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_instances = itertools.count()
_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
_NETNS = Path("/run/netns")

#: Written into each namespace before it has any device, so that all devices inherit it.
_QUIET = {
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
}


@dataclasses.dataclass
class Host:
    """A network namespace that stands for a host.

    Args:
        name: Its part in the topology: a, b, router, hub, spoke1.
        netns: Name of the namespace, unique on this machine.
        ifname: Its WireGuard interface, "" if it has none.
        public_key: Of that interface.
        listen_port: Of that interface.
        outer_addr: Address of its (first) underlay device.
        inner_addrs: Addresses of the WireGuard interface, one for each inner family.
        allowed_ips: What the others' peers entry for it allows.
    """

    name: str
    netns: str
    ifname: str = ""
    public_key: str = ""
    listen_port: int = 0
    outer_addr: str = ""
    inner_addrs: tuple[str, ...] = ()
    allowed_ips: str = ""
    _processes: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list, repr=False)

    @property
    def netns_path(self) -> str:
        """The namespace as a file."""
        return str(_NETNS / self.netns)

    @property
    def endpoint(self) -> str:
        """Address and port as `wg set … endpoint` wants them."""
        return _endpoint(self.outer_addr, self.listen_port)

    def inner(self, family: int | None = None) -> str:
        """Return the inner address of that family (4 or 6), or the first one."""
        wanted = (a for a in self.inner_addrs if family in (None, ipaddress.ip_address(a).version))
        return next(wanted)

    def run(
        self, argv: Sequence[str], check: bool = True, stdin: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program here and return what it said; a failure raises unless `check` is off."""
        with self.enter():  # a child begins where its parent's thread is
            done = _finished(argv, stdin, **options)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: {done.stderr or done.stdout}")
        return done

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a program here; it is ended with the topology."""
        process = subprocess.Popen(["nsenter", f"--net={self.netns_path}", "--", *argv], text=True, **options)
        self._processes.append(process)
        return process

    def ip(self, *arguments: str) -> str:
        """Run ip(8) here."""
        return self.run(["ip", *arguments]).stdout

    def wg(self, *arguments: str, stdin: str | None = None) -> str:
        """Run wg(8) here; keys go by `stdin` and /dev/stdin, never as arguments."""
        return self.run(["wg", *arguments], stdin=stdin).stdout

    def sysctl(self, name: str, value: str | int) -> None:
        """Set a sysctl of this namespace: `net.ipv4.ip_forward` or the path under /proc/sys."""
        path = name if "/" in name else name.replace(".", "/")
        with self.enter():
            Path("/proc/sys", path).write_text(str(value), encoding="ascii")

    def end_processes(self) -> None:
        """End what `popen` started."""
        for process in self._processes:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Move the calling thread here: sockets that it opens belong to this host."""
        with open("/proc/thread-self/ns/net", "rb") as before, open(self.netns_path, "rb") as here:
            _setns(here.fileno())
            try:
                yield
            finally:
                _setns(before.fileno())

    def socket(self, family: int, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        """Open a socket here; it stays usable from everywhere."""
        with self.enter():
            return socket.socket(family, kind, protocol)

    def send_udp(
        self, to: str, port: int = 9, count: int = 1, payload: bytes = b"wgtrace", source: str = ""
    ) -> None:
        """Send `count` datagrams, one after the other; a refusal by the kernel raises OSError."""
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        with self.socket(family) as sender:
            if source:
                sender.bind((source, 0))
            for _ in range(count):
                sender.sendto(payload, (to, port))

    def latest_handshakes(self) -> dict[str, int]:
        """Return peer's public key → time of the latest handshake, 0 if there was none."""
        lines = self.wg("show", self.ifname, "latest-handshakes").splitlines()
        return {key: int(seconds) for key, seconds in (line.split("\t") for line in lines)}


@dataclasses.dataclass
class Network:
    """The hosts of a topology, in the order they were named."""

    hosts: dict[str, Host]
    peers: list[tuple[Host, Host]]

    @property
    def a(self) -> Host:
        """The first WireGuard host: host a, or the first spoke."""
        return self.peers[0][0]

    @property
    def b(self) -> Host:
        """The one it talks to: host b, or the hub."""
        return self.peers[0][1]

    @property
    def router(self) -> Host:
        """The router between a and b."""
        return self.hosts["router"]

    @property
    def hub(self) -> Host:
        """The hub."""
        return self.hosts["hub"]

    @property
    def spokes(self) -> tuple[Host, ...]:
        """The spokes."""
        return tuple(host for name, host in self.hosts.items() if name.startswith("spoke"))

    def connect(self) -> None:
        """Bring up a session between all peers; AssertionError if a healthy tunnel will not."""
        for first, second in self.peers:
            for address in second.inner_addrs:
                ping = first.run(["ping", "-n", "-c1", "-W5", address], check=False)
                assert ping.returncode == 0, f"no answer from {second.name} at {address}:\n{ping.stdout}"
            assert first.latest_handshakes()[second.public_key]
            assert second.latest_handshakes()[first.public_key]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every topology can have otherwise.

    Args:
        outer: Family of the underlay, 4 or 6.
        inner: Families inside the tunnel: 4, 6 or (4, 6).
        ifname: Name of every WireGuard interface.
        ports: Listen ports, in the order of the hosts.
        inner_nets: The tunnel's prefix for each family.
        outer_nets: Underlay prefixes for each family; `{}` is the number of the link.
        mtu: Of the WireGuard interfaces; None for the kernel's choice (1420).
    """

    outer: int = 4
    inner: int | tuple[int, ...] = 4
    ifname: str = "wg0"
    ports: tuple[int, ...] = (1111, 2222, 3333)
    inner_nets: dict[int, str] = dataclasses.field(
        default_factory=lambda: {4: "192.168.9.0/24", 6: "fd09::/64"}
    )
    outer_nets: dict[int, str] = dataclasses.field(
        default_factory=lambda: {4: "10.{}.0.0/24", 6: "fd10:{}::/64"}
    )
    mtu: int | None = None


@contextlib.contextmanager
def two_hosts(**settings: Any) -> Iterator[Network]:
    """A and B on one wire, each knowing the other's endpoint. Takes `Settings` by name."""
    with _Builder(Settings(**settings), ["a", "b"]) as build:
        build.wire("a", "b", 0)
        yield build.tunnels([("a", "b")], both_ways=True)


@contextlib.contextmanager
def two_hosts_and_router(**settings: Any) -> Iterator[Network]:
    """A and B with a router between them, each knowing the other's endpoint."""
    with _Builder(Settings(**settings), ["a", "b", "router"]) as build:
        build.wire("router", "a", 1)
        build.wire("router", "b", 2)
        build.forward("router")
        for name, link in (("a", 1), ("b", 2)):
            build.default_route(name, link)
        yield build.tunnels([("a", "b")], both_ways=True)


@contextlib.contextmanager
def router_with_nat(udp_timeout: int | None = None, **settings: Any) -> Iterator[Network]:
    """A behind a router that masquerades; B sees only the router and has no way back but that.

    Args:
        udp_timeout: Seconds until the router forgets a UDP mapping; None for the kernel's.
        settings: `Settings` by name.
    """
    with _Builder(Settings(**settings), ["a", "b", "router"]) as build:
        build.wire("router", "a", 1)
        build.wire("router", "b", 2)
        build.forward("router")
        build.default_route("a", 1)
        net = build.tunnels([("a", "b")], both_ways=False)
        chain = "add chain inet nat post { type nat hook postrouting priority srcnat; }"
        rule = "add rule inet nat post oifname eth1 masquerade"
        net.router.run(["nft", "-f", "-"], stdin=f"add table inet nat\n{chain}\n{rule}\n")
        if udp_timeout:
            net.router.sysctl("net.netfilter.nf_conntrack_udp_timeout", udp_timeout)
            net.router.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", udp_timeout)
        yield net


@contextlib.contextmanager
def hub_and_spokes(**settings: Any) -> Iterator[Network]:
    """A hub that forwards between two spokes, which know its endpoint and route all through it."""
    with _Builder(Settings(**settings), ["spoke1", "hub", "spoke2"]) as build:
        build.wire("hub", "spoke1", 1)
        build.wire("hub", "spoke2", 2)
        build.forward("hub")
        for name, link in (("spoke1", 1), ("spoke2", 2)):
            build.default_route(name, link)
        nets = build.settings.inner_nets
        build.allowed_ips["hub"] = ",".join(nets[family] for family in build.inner)
        yield build.tunnels([("spoke1", "hub"), ("spoke2", "hub")], both_ways=False)


class _Builder:
    """Collects what each namespace needs, then makes it all; leaving the context removes it."""

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        self.settings = settings
        self.inner = (settings.inner,) if isinstance(settings.inner, int) else settings.inner
        self.allowed_ips: dict[str, str] = {}
        prefix = f"{_owner()}-{next(_instances)}"
        self.hosts = {name: Host(name, f"{prefix}-{name}") for name in names}
        self._wires: list[str] = []
        self._devices: dict[str, list[str]] = {name: [] for name in names}
        self._lines: dict[str, list[str]] = {name: ["link set lo up"] for name in names}

    def __enter__(self) -> _Builder:
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove)
            _batch(f"netns add {host.netns}" for host in self.hosts.values())
            for host in self.hosts.values():
                for name, value in _QUIET.items():
                    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6 is as quiet
                        host.sysctl(name, value)
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        for host in self.hosts.values():
            host.end_processes()
        _delete([host.netns for host in self.hosts.values()])

    def wire(self, first: str, second: str, link: int) -> None:
        """Join two hosts by a veth pair; they get the link's addresses .1 and .2."""
        ends = []
        for number, name in enumerate((first, second), 1):
            host, device = self.hosts[name], f"eth{len(self._devices[name])}"
            address = self._outer_address(link, number)
            host.outer_addr = host.outer_addr or str(address.ip)
            self._devices[name].append(device)
            self._lines[name] += [
                f"addr add {address} dev {device}{_nodad(address)}",
                f"link set {device} up",
            ]
            ends.append((device, host.netns))
        (device, netns), (peer, peer_netns) = ends
        self._wires.append(f"link add {device} netns {netns} type veth peer name {peer} netns {peer_netns}")

    def forward(self, name: str) -> None:
        """Make a router of a host."""
        self.hosts[name].sysctl("net.ipv4.ip_forward", 1)
        self.hosts[name].sysctl("net.ipv6.conf.all.forwarding", 1)

    def default_route(self, name: str, link: int) -> None:
        """Send what a host has no other route for to the router on that link."""
        self._lines[name].append(f"route add default via {self._outer_address(link, 1).ip}")

    def tunnels(self, pairs: Sequence[tuple[str, str]], both_ways: bool) -> Network:
        """Make everything, with WireGuard in all hosts of `pairs`.

        The first of a pair knows the second's endpoint; the second knows the first's only
        if `both_ways`.
        """
        names = list(dict.fromkeys(name for pair in pairs for name in pair))
        private_keys = {}
        for number, (name, (private, public)) in enumerate(zip(names, _new_keys(len(names)), strict=True)):
            private_keys[name] = private
            self._plan_tunnel(self.hosts[name], number, public)
        _batch(self._wires)
        for name, host in self.hosts.items():
            for device in self._devices[name] if self.settings.outer == 4 else ():
                with contextlib.suppress(FileNotFoundError):
                    host.sysctl(f"net/ipv6/conf/{device}/disable_ipv6", 1)
            _batch(self._lines[name], host.netns)
        peers = [(self.hosts[first], self.hosts[second]) for first, second in pairs]
        for name, private in private_keys.items():
            host = self.hosts[name]
            config = f"[Interface]\nPrivateKey = {private}\nListenPort = {host.listen_port}\n"
            config += "".join(_peer_section(two, True) for one, two in peers if one is host)
            config += "".join(_peer_section(one, both_ways) for one, two in peers if two is host)
            host.wg("setconf", host.ifname, "/dev/stdin", stdin=config)
        return Network(self.hosts, peers)

    def _plan_tunnel(self, host: Host, number: int, public_key: str) -> None:
        """Give a host its WireGuard interface and addresses; its keys and peers come later."""
        nets = [ipaddress.ip_network(self.settings.inner_nets[family]) for family in self.inner]
        host.ifname, host.listen_port = self.settings.ifname, self.settings.ports[number]
        host.public_key = public_key
        host.inner_addrs = tuple(str(net[number + 1]) for net in nets)
        own = ",".join(f"{net[number + 1]}/{net.max_prefixlen}" for net in nets)
        host.allowed_ips = self.allowed_ips.get(host.name, own)
        mtu = f" mtu {self.settings.mtu}" if self.settings.mtu else ""
        lines = self._lines[host.name]
        lines.append(f"link add {host.ifname}{mtu} type wireguard")
        for net in nets:
            address = _interface(net, number + 1)
            lines.append(f"addr add {address} dev {host.ifname}{_nodad(address)}")
        lines.append(f"link set {host.ifname} up")

    def _outer_address(self, link: int, number: int) -> _Interface:
        return _interface(
            ipaddress.ip_network(self.settings.outer_nets[self.settings.outer].format(link)), number
        )


def _interface(net: ipaddress.IPv4Network | ipaddress.IPv6Network, number: int) -> _Interface:
    """Return the n-th address of a network, with its prefix length."""
    return ipaddress.ip_interface(f"{net[number]}/{net.prefixlen}")


def _nodad(address: _Interface) -> str:
    return " nodad" if address.version == 6 else ""


def _peer_section(peer: Host, with_endpoint: bool) -> str:
    endpoint = f"Endpoint = {peer.endpoint}\n" if with_endpoint else ""
    return f"[Peer]\nPublicKey = {peer.public_key}\nAllowedIPs = {peer.allowed_ips}\n{endpoint}"


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _new_keys(count: int) -> Iterator[tuple[str, str]]:
    """Make pairs of a private and its public key; they pass through pipes only."""
    script = 'while read -r _; do key=$(wg genkey) && echo "$key" && echo "$key" | wg pubkey; done'
    done = _finished(["sh", "-c", script], "\n" * count)
    if done.returncode:
        raise RuntimeError(f"wg genkey: {done.stderr.strip()}")
    keys = iter(done.stdout.split())
    return zip(keys, keys, strict=True)


def _batch(lines: Iterable[str], netns: str = "") -> None:
    """Run many ip(8) commands in one process."""
    command = ["ip", *(["-n", netns] if netns else []), "-batch", "-"]
    done = _finished(command, "\n".join(lines))
    if done.returncode:
        raise RuntimeError(f"ip -batch: {done.stderr.strip()}")


def _finished(command: Sequence[str], stdin: str | None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; Ctrl-C on the terminal is for us, and not to stop a clean-up half-way."""
    options = {"start_new_session": True, **options}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, **options)


def remove_leftovers() -> list[str]:
    """Remove the namespaces of topologies whose process is dead; gives their names."""
    left = [path.name for path in sorted(_NETNS.glob("wgt-*")) if _is_leftover(path.name)]
    _delete(left)
    return left


def _delete(names: Iterable[str]) -> None:
    """Delete those of these namespaces that are there."""
    there = [netns for netns in names if (_NETNS / netns).exists()]
    if there:
        done = _finished(["ip", "-force", "-batch", "-"], "\n".join(f"netns del {netns}" for netns in there))
        if any((_NETNS / netns).exists() for netns in there):  # and nobody else deleted it meanwhile
            raise RuntimeError(f"ip netns del: {done.stderr.strip()}")


def _owner() -> str:
    """What the names of this process's namespaces begin with, and no other's: now, before or later."""
    return f"wgt-{_pid_namespace()}-{os.getpid()}-{_start_time(os.getpid())}"


def _is_leftover(netns: str) -> bool:
    name = re.fullmatch(r"wgt-(\d+)-(\d+)-(\d+)-\d+-\w+", netns)
    # What runs in another PID namespace, a container's, cannot be seen from here.
    return bool(name and int(name[1]) == _pid_namespace() and int(name[3]) != _start_time(int(name[2])))


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _start_time(pid: int) -> int:
    """When a process began, in ticks since boot (field 22 of proc_pid_stat(5)); 0 if it is dead."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
