#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# WireGuard forgets of which clock the time is at which a packet is to leave.
#
# Mended by 65ab9de4bdd4 ("wireguard: queueing: preserve tstamp_type when encapsulating
# packet"). TCP gives each packet the time at which it is to leave, by the monotonic
# clock, and fq holds it until then. wg_reset_packet() clears skb->tstamp_type and leaves
# skb->tstamp: a time of the monotonic clock that says it is of the real one. Such a time
# is thrown away where the packet goes into another namespace, and whoever paces there
# has nothing to pace by:
#
#   sender [wg0 eth0]---[veth] router [fq on eth1]---[eth0 wg0] receiver
#
# A socket paced at RATE sends BYTES through the tunnel. The fq of the router is the only
# one on the way. It needs as long as it says, or it is not paced at all.
#
# Needs root, iproute2, wireguard-tools, python3, sch_fq. No network is contacted and
# nothing else on the host is changed. Exit status: 0 it is paced; 1 it is not; 4 this
# host cannot run it.

set -u -o pipefail
export LC_ALL=C WG_HIDE_KEYS=always

readonly RATE=65536 BYTES=524288 # bytes a second: 8 s
readonly LEAST_MS=$((BYTES * 1000 / RATE / 2))
readonly SENDER="wgbug-$$-s" ROUTER="wgbug-$$-r" RECEIVER="wgbug-$$-d"

say() { printf '[%s] %s\n' "$1" "$2"; }
skip() { say SKIP "$1"; exit 4; }
fail() { say FAIL "$1"; exit 1; }
in_() { local space="$1"; shift; ip netns exec "$space" "$@"; }
cleanup() {
	local space
	for space in "$SENDER" "$ROUTER" "$RECEIVER"; do
		ip netns pids "$space" 2>/dev/null | xargs -r kill 2>/dev/null
		ip netns del "$space" 2>/dev/null
	done
}
trap cleanup EXIT

[[ $EUID == 0 ]] || skip "needs root"
for tool in ip tc wg python3; do
	command -v "$tool" >/dev/null || skip "needs $tool"
done
for space in "$SENDER" "$ROUTER" "$RECEIVER"; do
	ip netns add "$space" || skip "cannot make a network namespace"
	ip -n "$space" link set lo up
done
ip link add eth0 netns "$SENDER" type veth peer name eth0 netns "$ROUTER" || skip "cannot make a veth pair"
ip link add eth1 netns "$ROUTER" type veth peer name eth0 netns "$RECEIVER"
ip -n "$SENDER" addr add 192.0.2.1/24 dev eth0
ip -n "$ROUTER" addr add 192.0.2.254/24 dev eth0
ip -n "$ROUTER" addr add 198.51.100.254/24 dev eth1
ip -n "$RECEIVER" addr add 198.51.100.1/24 dev eth0
ip -n "$SENDER" link set eth0 up
ip -n "$ROUTER" link set eth0 up
ip -n "$ROUTER" link set eth1 up
ip -n "$RECEIVER" link set eth0 up
ip -n "$SENDER" route add default via 192.0.2.254
ip -n "$RECEIVER" route add default via 198.51.100.254
in_ "$ROUTER" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
in_ "$ROUTER" tc qdisc add dev eth1 root fq || skip "this kernel has no fq"

declare -A key
for space in "$SENDER" "$RECEIVER"; do
	key[$space]=$(wg genkey)
	ip -n "$space" link add wg0 type wireguard || skip "this kernel has no WireGuard"
	in_ "$space" wg set wg0 listen-port 51820 private-key <(echo "${key[$space]}")
done
in_ "$SENDER" wg set wg0 peer "$(wg pubkey <<<"${key[$RECEIVER]}")" allowed-ips 203.0.113.2/32 endpoint 198.51.100.1:51820
in_ "$RECEIVER" wg set wg0 peer "$(wg pubkey <<<"${key[$SENDER]}")" allowed-ips 203.0.113.1/32 endpoint 192.0.2.1:51820
ip -n "$SENDER" addr add 203.0.113.1/24 dev wg0
ip -n "$RECEIVER" addr add 203.0.113.2/24 dev wg0
ip -n "$SENDER" link set wg0 up
ip -n "$RECEIVER" link set wg0 up
in_ "$SENDER" ping -n -q -c 1 -W 20 203.0.113.2 >/dev/null 2>&1 || fail "no answer through the tunnel"

# The receiver says how long it took from the first byte to the last.
readonly RECEIVE='
import socket, time
listener = socket.create_server(("203.0.113.2", 7000))
print("listening", flush=True)
connection, _ = listener.accept()
count, began = len(connection.recv(65536)), time.monotonic()
while part := connection.recv(65536):
    count += len(part)
print(count, round((time.monotonic() - began) * 1000), flush=True)
'
# An fq on wg0 tells the socket that there is one, so that TCP gives times and does not
# wait for them itself. Then it goes, and that on the router is the only one.
readonly SEND='
import socket, subprocess, sys
rate, count = int(sys.argv[1]), int(sys.argv[2])
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, 47, rate)  # SO_MAX_PACING_RATE
tc = ["tc", "qdisc", "add", "dev", "wg0", "root", "fq"]
subprocess.run(tc, check=True)
sock.connect(("203.0.113.2", 7000))
sock.sendall(b"x")
subprocess.run([*tc[:2], "del", *tc[3:6]], check=True)
sock.sendall(bytes(count - 1))
'
coproc receiver { in_ "$RECEIVER" python3 -c "$RECEIVE"; }
exec {from}<&"${receiver[0]}" {to}>&"${receiver[1]}" # bash forgets these when it ends
read -r -u "$from" -t 60 said || fail "the receiver does not listen"
in_ "$SENDER" timeout 120 python3 -c "$SEND" "$RATE" "$BYTES" || fail "cannot send"
read -r -u "$from" -t 120 got took || fail "nothing came"
[[ $got == "$BYTES" ]] || fail "$got of $BYTES bytes came"
told="$BYTES bytes at $RATE bytes a second took $took ms, Linux $(uname -r)"
((took >= LEAST_MS)) || fail "not paced: $told"
say PASS "paced: $told"
