# SPDX-License-Identifier: GPL-2.0-only
"""`repro.sh`: the recorded configuration in namespaces, what happened done to it, and checks.

The script's frame is repro.sh beside this file. Keys are made when it runs; addresses are
those for documentation; of the recording it has numbers, and nothing that is anybody's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Final

from wgtrace.diagnosis.words import count_of
from wgtrace.events.reasons import Reason
from wgtrace.state.types import Device, Peer

MOST_PEERS: Final = 8
_MOST_EXTRA: Final = 4

#: What provokes a reason, as the body of a shell function; `$1` is the number of a peer.
_STEPS: Final[dict[Reason, str]] = {
    Reason.SRC_NOT_ALLOWED: """\
	local before
	before=$(counter rx_frame_errors)
	peer "$1" ip addr add 203.0.113.251/32 dev lo
	peer "$1" ping -n -q -c "$N" -i 0.2 -W 1 -I 203.0.113.251 "${INNER[hub]}" >/dev/null 2>&1
	moved rx_frame_errors "$before" "$N" "a source that is in no AllowedIPs"
	peer "$1" ip addr del 203.0.113.251/32 dev lo""",
    Reason.ALLOWEDIPS_NO_PEER: """\
	local before
	before=$(counter tx_errors)
	hub ip route add 203.0.113.252/32 dev "$IFACE"
	hub ping -n -q -c "$N" -i 0.2 -W 1 203.0.113.252 >/dev/null 2>&1
	moved tx_errors "$before" "$N" "a destination that is in no AllowedIPs"
	hub ip route del 203.0.113.252/32 dev "$IFACE\"""",
    Reason.NO_ENDPOINT: """\
	local before key
	key=$(wg genkey | wg pubkey)
	before=$(counter tx_errors)
	hub wg set "$IFACE" peer "$key" allowed-ips 203.0.113.253/32
	hub ip route add 203.0.113.253/32 dev "$IFACE"
	hub ping -n -q -c "$N" -i 0.2 -W 1 203.0.113.253 >/dev/null 2>&1
	moved tx_errors "$before" "$N" "a peer without an endpoint"
	hub ip route del 203.0.113.253/32 dev "$IFACE"
	hub wg set "$IFACE" peer "$key" remove""",
    Reason.BAD_HEADER: """\
	local before
	before=$(counter rx_errors)
	junk "$1" '\\x09\\x00\\x00\\x00this is no WireGuard message'
	moved rx_errors "$before" 0 "datagrams that are no WireGuard messages"
	alive "$1" "datagrams that are no WireGuard messages\"""",
    Reason.UNKNOWN_RECEIVER_INDEX: """\
	local before
	before=$(counter rx_errors)
	junk "$1" '\\x04\\x00\\x00\\x00\\xde\\xad\\xbe\\xef0123456789abcdef01234567'
	moved rx_errors "$before" 0 "data for a session that is not there"
	alive "$1" "data for a session that is not there\"""",
    Reason.INVALID_MAC1: """\
	junk "$1" "\\x01\\x00\\x00\\x00$(printf '%0144d' 0)"
	alive "$1" "initiations for another public key\"""",
    Reason.UNKNOWN_PEER_PUBKEY: """\
	peer "$1" wg set wg0 private-key <(wg genkey)
	restart "$1"
	dead "$1" "a public key that is no peer"
	peer "$1" wg set wg0 private-key <(echo "${PRIVATE[$1]}")
	restart "$1"
	alive "$1" "the right public key again\"""",
    Reason.RESP_DECRYPT_FAILED: """\
	local now
	now=$(peer "$1" wg show wg0 preshared-keys | cut -f 2)
	peer "$1" wg set wg0 peer "${PUBLIC[hub]}" preshared-key <(wg genpsk)
	restart "$1"
	dead "$1" "another preshared key"
	[[ $now == "(none)" ]] && now=
	peer "$1" wg set wg0 peer "${PUBLIC[hub]}" preshared-key <(echo "$now")
	restart "$1"
	alive "$1" "the right preshared key again\"""",
    Reason.NO_ROUTE_TO_ENDPOINT: """\
	hub ip route add prohibit "192.0.2.$1/32"
	hub ip -6 route add prohibit "2001:db8::$1/128" 2>/dev/null
	dead "$1" "no route to the endpoint"
	hub ip route del prohibit "192.0.2.$1/32"
	hub ip -6 route del prohibit "2001:db8::$1/128" 2>/dev/null
	alive "$1" "a route to the endpoint again\"""",
}


def script(device: Device, reasons: Mapping[Reason, int], troubled: Collection[str], title: str) -> str:
    """The script for an interface.

    Args:
        reasons: Packets dropped there.
        troubled: Public keys of the peers to take first.
        title: What it is about, one line.
    """
    peers = sorted(device.peers, key=lambda peer: peer.public_key not in troubled)[:MOST_PEERS]
    frame = resources.files("wgtrace.evidence").joinpath("repro.sh").read_text(encoding="utf-8")
    provoked = [reason for reason in reasons if reason in _STEPS and _is_possible(reason, peers)]
    parts = {
        "@HEAD@": "\n".join(_head(device, peers, reasons, provoked, title)),
        "@CONFIGURATION@": "\n".join(_configuration(device, peers)),
        "@STEPS@": "\n\n".join(f"{reason.id}() {{\n{_STEPS[reason]}\n}}" for reason in provoked),
        "@CALLS@": "\n".join(f'[[ ${{#ALL[@]}} == 0 ]] || {reason.id} "${{ALL[0]}}"' for reason in provoked),
    }
    for mark, text in parts.items():
        frame = frame.replace(mark, text)
    return frame


def not_provoked(reasons: Iterable[Reason], device: Device) -> list[Reason]:
    """Those of these reasons that the script does not provoke."""
    return [reason for reason in reasons if reason not in _STEPS or not _is_possible(reason, device.peers)]


def _is_possible(reason: Reason, peers: Sequence[Peer]) -> bool:
    """Whether the configuration leaves room for it: with a default route all is allowed."""
    takes_all = any(net.prefixlen == 0 and net.version == 4 for peer in peers for net in peer.allowed_ips)
    return not (takes_all and reason in (Reason.SRC_NOT_ALLOWED, Reason.ALLOWEDIPS_NO_PEER))


def _head(
    device: Device,
    peers: Sequence[Peer],
    reasons: Mapping[Reason, int],
    provoked: Sequence[Reason],
    title: str,
) -> Iterator[str]:
    yield f"# {title}"
    yield "#"
    yield f"# A tunnel as it was recorded: {count_of(len(peers), 'peer')} of {len(device.peers)}."
    for reason, count in reasons.items():
        what = "provoked below" if reason in provoked else "not provoked here"
        yield f"# Seen then: {reason.id}, {count_of(count, 'time')}; {what}."


def _configuration(device: Device, peers: Sequence[Peer]) -> Iterator[str]:
    yield "readonly IFACE=wg0"
    yield f"readonly PORT={device.listen_port or 51820}"
    numbers = range(1, len(peers) + 1)
    yield f"readonly ALL=({' '.join(map(str, numbers))})"
    yield "INNER[hub]=198.51.100.254"
    yield ""
    yield 'space "$WIRE"'
    yield 'ip -n "$WIRE" link add br0 type bridge || skip "cannot make a bridge"'
    yield 'ip -n "$WIRE" link set br0 up'
    yield 'space "$HUB"'
    yield 'join "$HUB" 254'
    yield 'ip -n "$HUB" link add "$IFACE" type wireguard || skip "this kernel has no WireGuard"'
    yield from _keys("hub")
    mark = f" fwmark {device.fwmark:#x}" if device.fwmark else ""
    yield f'hub wg set "$IFACE" listen-port "$PORT"{mark} private-key <(echo "${{PRIVATE[hub]}}")'
    yield 'ip -n "$HUB" addr add "${INNER[hub]}/32" dev "$IFACE"'
    yield f'ip -n "$HUB" link set "$IFACE" mtu {device.mtu or 1420} up'
    extra = iter(range(1, 250))
    for number, peer in zip(numbers, peers, strict=True):
        yield ""
        yield from _peer(number, peer, extra)


def _keys(name: str) -> Iterator[str]:
    yield f"PRIVATE[{name}]=$(wg genkey)"
    yield f'PUBLIC[{name}]=$(wg pubkey <<<"${{PRIVATE[{name}]}}")'


def _peer(number: int, peer: Peer, extra: Iterator[int]) -> Iterator[str]:
    is_ipv6 = peer.endpoint is not None and peer.endpoint.addr.version == 6
    here, there = (
        (f"[2001:db8::{number}]", "[2001:db8::254]") if is_ipv6 else (f"192.0.2.{number}", "192.0.2.254")
    )
    own = f"198.51.100.{number}/32"
    allowed = [own]
    for net in peer.allowed_ips:
        if net.prefixlen == 0:
            allowed.append(str(net))
    several = sum(net.prefixlen > 0 and net.version == 4 for net in peer.allowed_ips) - 1
    allowed += [f"203.0.113.{next(extra)}/32" for _ in range(min(max(several, 0), _MOST_EXTRA))]
    port = peer.endpoint.port if peer.endpoint else 51820
    endpoint = f" endpoint {here}:{port}" if peer.endpoint else ""
    keepalive = f" persistent-keepalive {peer.persistent_keepalive}" if peer.persistent_keepalive else ""
    yield f'space "wgrepro-$$-peer{number}"'
    yield f'join "wgrepro-$$-peer{number}" {number}'
    yield f"peer {number} ip link add wg0 type wireguard"
    yield from _keys(str(number))
    psk = ""
    if peer.has_preshared_key:
        yield "psk=$(wg genpsk)"
        psk = ' preshared-key <(echo "$psk")'
    yield f'peer {number} wg set wg0 listen-port {port} private-key <(echo "${{PRIVATE[{number}]}}")'
    yield (
        f'peer {number} wg set wg0 peer "${{PUBLIC[hub]}}" allowed-ips "${{INNER[hub]}}/32" '
        f'endpoint {there}:"$PORT"{psk}'
    )
    yield (
        f'hub wg set "$IFACE" peer "${{PUBLIC[{number}]}}" allowed-ips {",".join(allowed)}'
        f"{endpoint}{keepalive}{psk}"
    )
    yield f"peer {number} ip addr add {own} dev wg0"
    yield f"peer {number} ip link set wg0 up"
    yield f'peer {number} ip route add "${{INNER[hub]}}/32" dev wg0'
    yield f'ip -n "$HUB" route add {own} dev "$IFACE"'
