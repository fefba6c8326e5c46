#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# WireGuard takes a response for an older initiation than its last one.
#
# Mended by d0305f8d9002 ("wireguard: noise: reject response consumption after
# intermediate initiation"). wg_noise_handshake_consume_response() looks the handshake up
# by the index that the response names, computes without a lock, and then only asked
# whether a response is still waited for. If the next initiation was made in between, one
# is: the old response is taken, and the session is up under the new index, of which the
# peer knows nothing. Both sides show a fresh handshake, and nothing comes back.
#
#   TUNNELS initiators [eth0]---[eth0: netem delays what it sends] one responder
#
# An initiation is repeated after 5 to 5.33 s. So the responses are delayed as long: each
# comes while the next initiation is due. Meanwhile tasks of real-time priority take the
# CPUs away in turn, now and then in the middle of such a computation. It is a race: run
# it some 20 times. Afterwards each tunnel must have a session, and pass packets.
#
# Needs root, iproute2, wireguard-tools, ping, python3, sch_netem, two CPUs, and a kernel
# whose own code can be preempted (preempt=full, or debugfs). No network is contacted; on
# the host preemption is changed, and set back. Exit status: 0 all tunnels pass packets;
# 1 one does not; 4 this host cannot run it.

set -u -o pipefail
export LC_ALL=C WG_HIDE_KEYS=always

readonly TUNNELS=40
readonly INITIATORS="wgbug-$$-i" RESPONDER="wgbug-$$-r"
readonly SWITCH=/sys/kernel/debug/sched/preempt
was=

say() { printf '[%s] %s\n' "$1" "$2"; }
skip() { say SKIP "$1"; exit 4; }
fail() { say FAIL "$1"; exit 1; }
in_() { local space="$1"; shift; ip netns exec "$space" "$@"; }
cleanup() {
	local space
	for space in "$INITIATORS" "$RESPONDER"; do
		ip netns pids "$space" 2>/dev/null | xargs -r kill 2>/dev/null
		ip netns del "$space" 2>/dev/null
	done
	[[ -z $was ]] || echo "$was" >"$SWITCH"
}
trap cleanup EXIT

[[ $EUID == 0 ]] || skip "needs root"
for tool in ip tc wg ping python3; do
	command -v "$tool" >/dev/null || skip "needs $tool"
done
(($(nproc) > 1)) || skip "needs two CPUs"
if ! grep -qw preempt=full /proc/cmdline; then
	mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug 2>/dev/null
	was=$(sed -n 's/.*(\(.*\)).*/\1/p' "$SWITCH" 2>/dev/null)
	{ [[ $was ]] && echo full >"$SWITCH"; } 2>/dev/null || skip "boot with preempt=full"
fi

for space in "$INITIATORS" "$RESPONDER"; do
	ip netns add "$space" || skip "cannot make a network namespace"
	in_ "$space" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6' 2>/dev/null
	ip -n "$space" link set lo up
done
ip link add eth0 netns "$INITIATORS" type veth peer name eth0 netns "$RESPONDER" || skip "cannot make a veth pair"
ip -n "$INITIATORS" addr add 192.0.2.1/24 dev eth0
ip -n "$RESPONDER" addr add 192.0.2.2/24 dev eth0
ip -n "$INITIATORS" link set eth0 up
ip -n "$RESPONDER" link set eth0 up
in_ "$INITIATORS" ping -n -q -c 1 -W 20 192.0.2.2 >/dev/null 2>&1 || fail "the two namespaces are not joined"
in_ "$RESPONDER" tc qdisc add dev eth0 root netem delay 5167ms 167ms limit 10000 || skip "this kernel has no netem"

responder=$(wg genkey)
ip -n "$RESPONDER" link add wg0 type wireguard || skip "this kernel has no WireGuard"
in_ "$RESPONDER" wg set wg0 listen-port 51820 private-key <(echo "$responder")
ip -n "$RESPONDER" addr add 203.0.113.254/32 dev wg0
ip -n "$RESPONDER" link set wg0 up
ip -n "$RESPONDER" route add 203.0.113.0/24 dev wg0
public=$(wg pubkey <<<"$responder")
for ((n = 1; n <= TUNNELS; n++)); do
	key=$(wg genkey)
	ip -n "$INITIATORS" link add "wg$n" type wireguard
	ip -n "$INITIATORS" addr add "203.0.113.$n/32" dev "wg$n"
	in_ "$RESPONDER" wg set wg0 peer "$(wg pubkey <<<"$key")" allowed-ips "203.0.113.$n/32"
	in_ "$INITIATORS" wg set "wg$n" private-key <(echo "$key") peer "$public" \
		allowed-ips 203.0.113.254/32 endpoint 192.0.2.2:51820 persistent-keepalive 600
done

# Takes the even CPUs for 20 ms, then the odd ones, while the responses come.
readonly HOG='
import os, time
began = time.monotonic()
first, *others = sorted(os.sched_getaffinity(0))
cpu = next((other for other in others if os.fork() == 0), first)
os.sched_setaffinity(0, [cpu])
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
time.sleep(4.9)
while (now := time.monotonic() - began) < 5.6:
    if int(now / 0.02) % 2 != cpu % 2:
        time.sleep(0.002)
'
in_ "$INITIATORS" python3 -c "$HOG" &
for ((n = 1; n <= TUNNELS; n++)); do echo "link set wg$n up"; done | ip -n "$INITIATORS" -b -
sleep 6.5
# What answers the repeated initiations is still under way, and what comes now is at once.
in_ "$RESPONDER" tc qdisc change dev eth0 root netem delay 0ms limit 10000
sleep 6
for ((n = 1; n <= TUNNELS; n++)); do echo "route add 203.0.113.254/32 dev wg$n metric $n"; done | ip -n "$INITIATORS" -b -

# All at once: a tunnel from which nothing comes asks for a new session after 15 s.
for ((n = 1; n <= TUNNELS; n++)); do
	in_ "$INITIATORS" ping -n -q -c 1 -W 9 -I "wg$n" 203.0.113.254 >/dev/null 2>&1 &
	pings[n]=$!
done
fresh=0 dead=()
for ((n = 1; n <= TUNNELS; n++)); do
	wait "${pings[n]}" && continue
	[[ $(in_ "$INITIATORS" wg show "wg$n" latest-handshakes) == *$'\t0' ]] && continue
	dead+=("wg$n")
done
for ((n = 1; n <= TUNNELS; n++)); do
	[[ $(in_ "$INITIATORS" wg show "wg$n" latest-handshakes) == *$'\t0' ]] || fresh=$((fresh + 1))
done
told="of $fresh tunnels with a fresh handshake, Linux $(uname -r)"
((fresh)) || fail "no tunnel has a session"
[[ ${#dead[@]} == 0 ]] || fail "nothing comes through ${#dead[@]} (${dead[*]}) $told"
say PASS "packets come through all $told"
