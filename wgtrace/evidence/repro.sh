#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
@HEAD@
#
# It makes network namespaces joined by a bridge, with fresh keys and documentation
# addresses; no network is contacted and nothing else on the host is changed. It needs
# root, bash, iproute2, wireguard-tools and ping, and WireGuard in the kernel.
#
# Exit status: 0 WireGuard did all that it should; 1 it did not, and what is said;
# 4 this host cannot run it.

set -u -o pipefail
export LC_ALL=C
export WG_HIDE_KEYS=always

readonly HUB="wgrepro-$$-hub" WIRE="wgrepro-$$-wire"
readonly N=7
checks=0
spaces=()
# Where this run begins in the kernel's log, which may be closed to us.
began=$(cut -d' ' -f1 /proc/uptime)

say() { printf '[%s] %s\n' "$1" "$2"; }
skip() { say SKIP "$1"; exit 4; }
fail() { say FAIL "$1"; exit 1; }
pass() { checks=$((checks + 1)); say ok "$1"; }
hub() { ip netns exec "$HUB" "$@"; }
peer() { local n="$1"; shift; ip netns exec "wgrepro-$$-peer$n" "$@"; }

cleanup() {
	local space
	for space in "${spaces[@]}"; do
		ip netns pids "$space" 2>/dev/null | xargs -r kill 2>/dev/null
		ip netns del "$space" 2>/dev/null
	done
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[[ $EUID == 0 ]] || skip "needs root"
for tool in ip wg ping; do
	command -v "$tool" >/dev/null || skip "needs $tool"
done

# space NAME: a quiet namespace. Autoconfiguration would send packets of its own.
space() {
	ip netns add "$1" || skip "cannot make a network namespace"
	spaces+=("$1")
	ip netns exec "$1" sh -c '
		for name in accept_dad accept_ra router_solicitations; do
			echo 0 >"/proc/sys/net/ipv6/conf/default/$name"
		done' 2>/dev/null
	ip -n "$1" link set lo up
}

# join SPACE NUMBER: put a namespace on the wire, as 192.0.2.NUMBER and 2001:db8::NUMBER.
join() {
	ip -n "$WIRE" link add "port$2" type veth peer name eth0 netns "$1" || skip "cannot make a veth pair"
	ip -n "$WIRE" link set "port$2" master br0 up
	ip -n "$1" addr add "192.0.2.$2/24" dev eth0
	ip -n "$1" addr add "2001:db8::$2/64" dev eth0 nodad 2>/dev/null
	ip -n "$1" link set eth0 up
}

# counter NAME: one of the hub interface's counters.
counter() { hub cat "/sys/class/net/$IFACE/statistics/$1"; }

# moved NAME BEFORE BY WHAT: the counter moved by exactly so many since.
moved() {
	local now
	now=$(counter "$1")
	[[ $((now - $2)) == "$3" ]] || fail "$4: $1 moved by $((now - $2)) instead of $3"
	pass "$4: $1 +$3"
}

# alive NUMBER WHAT: the tunnel to a peer passes packets.
alive() {
	peer "$1" ping -n -q -c 1 -W 9 "${INNER[hub]}" >/dev/null 2>&1 || fail "$2: no answer through the tunnel of peer $1"
	[[ $(hub wg show "$IFACE" latest-handshakes | grep -cF "${PUBLIC[$1]}"$'\t0') == 0 ]] || fail "$2: peer $1 has no session"
	pass "$2: the tunnel of peer $1 passes packets"
}

# dead NUMBER WHAT: it does not.
dead() {
	peer "$1" ping -n -q -c 1 -W 2 "${INNER[hub]}" >/dev/null 2>&1 && fail "$2: an answer came through the tunnel of peer $1"
	pass "$2: nothing comes through the tunnel of peer $1"
}

# restart NUMBER: a peer without sessions, which asks for one anew.
restart() {
	peer "$1" ip link set wg0 down
	peer "$1" ip link set wg0 up
	peer "$1" ip route replace "${INNER[hub]}/32" dev wg0
}

# junk NUMBER BYTES: send a datagram to the hub's port N times.
junk() {
	local n
	for ((n = 0; n < N; n++)); do
		peer "$1" bash -c "printf '$2' >/dev/udp/192.0.2.254/$PORT"
	done
}

### the configuration, as it was recorded

declare -A PRIVATE PUBLIC INNER
@CONFIGURATION@

### the checks

baseline() {
	local n
	for n in "${ALL[@]}"; do
		alive "$n" baseline
	done
}

@STEPS@

# Put here what else makes it go wrong, and `fail "what happened"` where it did.
trigger() {
	:
}

baseline
@CALLS@
trigger
baseline

if log=$(dmesg 2>/dev/null); then
	new=$(awk -F '[][]' -v began="$began" '$2 + 0 >= began + 0' <<<"$log")
	if complaint=$(grep -m 1 -E 'WARNING: |BUG: |Oops|general protection|refcount_t' <<<"$new"); then
		fail "the kernel complains: $complaint"
	fi
	pass "the kernel does not complain"
fi
say PASS "$checks checks, Linux $(uname -r)"
