#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# WireGuard sends bytes of the kernel's memory as padding.
#
# Mended by f75e3eb08fe3 ("wireguard: send: append trailer after expanding head").
# encrypt_packet() wrote the zeros that fill a packet up to 16 bytes behind skb->len, and
# then had the head expanded for its header: what is behind skb->len is not copied, so up
# to 15 bytes of whatever was in that memory before are encrypted and sent. A packet has
# too little room in front if it did not come through the stack, as one that tc(8)
# redirects into the tunnel.
#
#   source [eth0]---[eth0: redirect to wg0] sender [wg0 eth1]---[eth0] receiver
#
# Two peers get the same datagrams of 1 to 60 bytes: the kernel of the receiver, where a
# tracer may look, and a program here that speaks the protocol and looks at what fills
# them up. The bytes themselves are not shown: they are memory of this kernel.
#
# Boot with init_on_alloc=0: with 1, as Debian has it, new memory is zero. Needs root,
# iproute2, wireguard-tools, python3-cryptography, act_mirred, cls_matchall. No network is
# contacted and nothing else on the host is changed. Exit status: 0 all padding is zero;
# 1 it is not; 4 this host cannot run it.

set -u -o pipefail
export LC_ALL=C WG_HIDE_KEYS=always

readonly SOURCE="wgbug-$$-l" SENDER="wgbug-$$-s" RECEIVER="wgbug-$$-d"

say() { printf '[%s] %s\n' "$1" "$2"; }
skip() { say SKIP "$1"; exit 4; }
fail() { say FAIL "$1"; exit 1; }
in_() { local space="$1"; shift; ip netns exec "$space" "$@"; }
cleanup() {
	local space
	for space in "$SOURCE" "$SENDER" "$RECEIVER"; do
		ip netns pids "$space" 2>/dev/null | xargs -r kill 2>/dev/null
		ip netns del "$space" 2>/dev/null
	done
}
trap cleanup EXIT

[[ $EUID == 0 ]] || skip "needs root"
for tool in ip tc wg python3; do
	command -v "$tool" >/dev/null || skip "needs $tool"
done
python3 -c 'import cryptography' 2>/dev/null || skip "needs python3-cryptography"
grep -qw init_on_alloc=0 /proc/cmdline || skip "boot with init_on_alloc=0: new memory is zero else"

for space in "$SOURCE" "$SENDER" "$RECEIVER"; do
	ip netns add "$space" || skip "cannot make a network namespace"
	in_ "$space" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6' 2>/dev/null
	ip -n "$space" link set lo up
done
ip link add eth0 netns "$SOURCE" type veth peer name eth0 netns "$SENDER" || skip "cannot make a veth pair"
ip link add eth1 netns "$SENDER" type veth peer name eth0 netns "$RECEIVER"
ip -n "$SENDER" addr add 192.0.2.1/24 dev eth1
ip -n "$RECEIVER" addr add 192.0.2.2/24 dev eth0
for at in "$SOURCE eth0" "$SENDER eth0" "$SENDER eth1" "$RECEIVER eth0"; do
	ip -n ${at% *} link set "${at#* }" up
done

declare -A key
for space in "$SENDER" "$RECEIVER"; do
	key[$space]=$(wg genkey)
	ip -n "$space" link add wg0 type wireguard || skip "this kernel has no WireGuard"
	in_ "$space" wg set wg0 listen-port 51820 private-key <(echo "${key[$space]}")
done
program=$(wg genkey)
in_ "$SENDER" wg set wg0 \
	peer "$(wg pubkey <<<"${key[$RECEIVER]}")" allowed-ips 203.0.113.2/32 endpoint 192.0.2.2:51820 \
	peer "$(wg pubkey <<<"$program")" allowed-ips 203.0.113.3/32 endpoint 192.0.2.2:51821
in_ "$RECEIVER" wg set wg0 peer "$(wg pubkey <<<"${key[$SENDER]}")" allowed-ips 203.0.113.1/32,198.51.100.1/32
ip -n "$SENDER" addr add 203.0.113.1/24 dev wg0
ip -n "$RECEIVER" addr add 203.0.113.2/24 dev wg0
ip -n "$SENDER" link set wg0 up
ip -n "$RECEIVER" link set wg0 up
in_ "$SENDER" ping -n -q -c 1 -W 20 203.0.113.2 >/dev/null 2>&1 || fail "no answer through the tunnel"

# What the source sends goes straight into the tunnel.
ip -n "$SOURCE" addr add 198.51.100.1/32 dev eth0
ip -n "$SOURCE" route add 203.0.113.0/24 dev eth0
for to in 2 3; do
	ip -n "$SOURCE" neigh add "203.0.113.$to" lladdr 02:00:00:00:00:01 dev eth0
done
in_ "$SENDER" tc qdisc add dev eth0 ingress || skip "this kernel has no ingress qdisc"
in_ "$SENDER" tc filter add dev eth0 ingress protocol ip matchall action mirred egress redirect dev wg0 ||
	skip "this kernel has no mirred"

readonly SEND='
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for length in range(1, 61):
    for to in ("203.0.113.2", "203.0.113.3"):
        sock.sendto(b"Z" * length, (to, 9999))
'
# The protocol of wireguard.com/protocol, as the responder. It prints how many packets
# came, how many of them had padding, and of how many that was not all zero.
readonly RECEIVE='
import base64, hashlib, hmac, os, socket, struct, sys
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

def digest(*parts): return hashlib.blake2s(b"".join(parts)).digest()
def public(key): return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
def agree(key, raw): return key.exchange(X25519PublicKey.from_public_bytes(raw))
def derive(chain, data, count):
    secret, last, outputs = hmac.new(chain, data, hashlib.blake2s).digest(), b"", []
    for number in range(1, count + 1):
        last = hmac.new(secret, last + bytes([number]), hashlib.blake2s).digest()
        outputs.append(last)
    return outputs

def answer(ours, message):
    """The response to an initiation, and the key of what then comes."""
    index, theirs = message[4:8], message[8:40]
    chain = digest(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    told = digest(digest(digest(chain, b"WireGuard v1 zx2c4 Jason@zx2c4.com"), public(ours)), theirs)
    (chain,) = derive(chain, theirs, 1)
    chain, key = derive(chain, agree(ours, theirs), 2)
    static = ChaCha20Poly1305(key).decrypt(bytes(12), message[40:88], told)
    told = digest(digest(told, message[40:88]), message[88:116])
    chain, _ = derive(chain, agree(ours, static), 2)
    ephemeral = X25519PrivateKey.generate()
    told = digest(told, public(ephemeral))
    for data in (public(ephemeral), agree(ephemeral, theirs), agree(ephemeral, static)):
        (chain,) = derive(chain, data, 1)
    chain, tau, key = derive(chain, bytes(32), 3)
    nothing = ChaCha20Poly1305(key).encrypt(bytes(12), b"", digest(told, tau))
    receiving, _sending = derive(chain, b"", 2)
    body = struct.pack("<II", 2, 7) + index + public(ephemeral) + nothing
    mac = hashlib.blake2s(body, digest_size=16, key=digest(b"mac1----", static)).digest()
    return body + mac + bytes(16), receiving

ours = X25519PrivateKey.from_private_bytes(base64.b64decode(sys.stdin.readline()))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("192.0.2.2", 51821))
sock.settimeout(60)
print("listening", flush=True)
came = padded = stale = 0
while came < 60:
    message, sender = sock.recvfrom(2048)
    if message[0] == 1:
        response, receiving = answer(ours, message)
        sock.sendto(response, sender)
    elif message[0] == 4 and len(message) > 32:
        plain = ChaCha20Poly1305(receiving).decrypt(bytes(4) + message[8:16], message[16:], b"")
        padding = plain[int.from_bytes(plain[2:4], "big"):]
        came, padded, stale = came + 1, padded + bool(padding), stale + any(padding)
print(came, padded, stale, flush=True)
'
coproc receiver { in_ "$RECEIVER" python3 -c "$RECEIVE"; }
exec {from}<&"${receiver[0]}" {to}>&"${receiver[1]}" # bash forgets these when it ends
echo "$program" >&"$to"
read -r -u "$from" -t 60 said || fail "the program does not listen"
in_ "$SOURCE" python3 -c "$SEND"
read -r -u "$from" -t 60 came padded stale || fail "not all packets came"
told="of $came packets $padded were filled up, Linux $(uname -r)"
[[ $stale == 0 ]] || fail "$stale of them not with zeros: $told"
say PASS "all with zeros: $told"
