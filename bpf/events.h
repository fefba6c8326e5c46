/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The wire ABI between the BPF programs and wgtrace: ring-buffer records and
 * map keys. Plain C, sized types, no hidden padding; compiles alone with any
 * compiler. The rules are in bpf/README.md; the mirror is
 * wgtrace/events/wire.py, and tests/unit/events/test_abi.py holds the two
 * together.
 *
 * Addresses are in network order in 16 bytes; an IPv4 address fills the first
 * four and the rest is 0. Ports and lengths are in host order. Times are
 * CLOCK_BOOTTIME nanoseconds. A field that is not known is 0.
 */
#pragma once

#ifndef __KERNEL__
#include <linux/types.h>
#endif

/* Bumped when the meaning or place of an existing field changes. */
#define WGT_ABI 1

#define WGT_KEY_LEN	32
#define WGT_TAI64N_LEN	12
#define WGT_PAYLOAD_LEN 16
#define WGT_IFNAME_LEN	16

/* Kinds are only appended, never reused. */
enum wgt_event_kind {
	WGT_EVENT_DROP = 1,
	WGT_EVENT_HANDSHAKE = 2,
	WGT_EVENT_CONFIG = 3,
	WGT_EVENT_PATH = 4,
	WGT_EVENT_PACKET = 6,
	WGT_EVENT_MTU = 7,
	WGT_EVENT_INVARIANT = 8,
};

/*
 * Why a packet ended. The names, in lower case without the prefix, are the
 * reason ids that users see. tx: 1..31, rx: 32..63, handshake: 64..95.
 */
enum wgt_reason {
	WGT_BAD_PROTOCOL = 1,
	WGT_ALLOWEDIPS_NO_PEER = 2,
	WGT_NO_ENDPOINT = 3,
	WGT_GSO_SEGMENT_FAILED = 4,
	WGT_SKB_CLONE_NOMEM = 5,
	WGT_STAGED_QUEUE_OVERFLOW = 6,
	WGT_STAGED_PURGED_GIVEUP = 7,
	WGT_STAGED_PURGED_IFDOWN = 8,
	WGT_STAGED_PURGED_PEER_REMOVED = 9,
	WGT_PEER_DEAD_TX = 10,
	WGT_TX_QUEUE_FULL = 11,
	WGT_ENCRYPT_QUEUE_FULL = 12,
	WGT_ENCRYPT_FAILED = 13,
	WGT_UDP_SOCK_NULL = 14,
	WGT_NO_ROUTE_TO_ENDPOINT = 15,
	WGT_ENDPOINT_AF_INVALID = 16,
	WGT_HANDSHAKE_TX_NOMEM = 17,
	WGT_KEEPALIVE_NOMEM = 18,

	WGT_SOCK_USER_DATA_NULL = 32,
	WGT_BAD_HEADER = 33,
	WGT_UNKNOWN_RECEIVER_INDEX = 34,
	WGT_PEER_DEAD_RX = 35,
	WGT_RX_QUEUE_FULL = 36,
	WGT_DECRYPT_QUEUE_FULL = 37,
	WGT_KEYPAIR_INVALID = 38,
	WGT_KEYPAIR_EXPIRED = 39,
	WGT_NONCE_LIMIT_RX = 40,
	WGT_DECRYPT_NOMEM = 41,
	WGT_DECRYPT_FAILED = 42,
	WGT_REPLAY_OR_OLD_COUNTER = 43,
	WGT_ENDPOINT_FROM_SKB_FAILED = 44,
	WGT_BAD_INNER_SIZE = 45,
	WGT_BAD_INNER_HEADER = 46,
	WGT_INNER_TRIM_FAILED = 47,
	WGT_SRC_NOT_ALLOWED = 48,

	WGT_RNG_NOT_READY = 64,
	WGT_HANDSHAKE_QUEUE_CONTENDED = 65,
	WGT_HANDSHAKE_QUEUE_FULL = 66,
	WGT_INVALID_MAC1 = 67,
	WGT_COOKIE_UNDER_LOAD = 68,
	WGT_RATELIMITED = 69,
	WGT_NO_PRIVATE_KEY = 70,
	WGT_INIT_DH_FAILED = 71,
	WGT_INIT_STATIC_DECRYPT_FAILED = 72,
	WGT_UNKNOWN_PEER_PUBKEY = 73,
	WGT_INIT_PRECOMPUTED_ZERO = 74,
	WGT_INIT_TIMESTAMP_DECRYPT_FAILED = 75,
	WGT_HANDSHAKE_INIT_REPLAY = 76,
	WGT_HANDSHAKE_FLOOD = 77,
	WGT_RESP_UNKNOWN_INDEX = 78,
	WGT_RESP_BAD_STATE = 79,
	WGT_RESP_DECRYPT_FAILED = 80,
	WGT_RESP_SUPERSEDED = 81,
	WGT_RESPONSE_NOT_SENT = 82,
	WGT_SESSION_NOT_STARTED = 83,
	WGT_COOKIE_UNKNOWN_INDEX = 84,
	WGT_COOKIE_UNSOLICITED = 85,
	WGT_COOKIE_DECRYPT_FAILED = 86,
	WGT_RESP_DH_FAILED = 87,
	WGT_INIT_CREATE_FAILED = 88,
	WGT_HANDSHAKE_PURGED_IFDOWN = 89,

	WGT_REASONS = 96, /* size of per-reason arrays, not a reason */
};

/* A finer reason within one; the names lose the prefix and the reason. */
enum wgt_sub_reason {
	WGT_SUB_NONE = 0,
	/* bad_header */
	WGT_SUB_BOGUS_IP = 1,
	WGT_SUB_UDP_LEN_LIES = 2,
	WGT_SUB_TOO_SHORT = 3,
	WGT_SUB_UNKNOWN_TYPE = 4,
	WGT_SUB_WRONG_LENGTH_FOR_TYPE = 5,
	WGT_SUB_NONLINEAR_PULL_FAILED = 6,
	/* replay_or_old_counter */
	WGT_SUB_DUPLICATE = 16,
	WGT_SUB_TOO_OLD = 17,
	WGT_SUB_EXHAUSTED = 18,
	/* src_not_allowed: who has the source address in its AllowedIPs */
	WGT_SUB_OWNED_BY_NOBODY = 32,
	WGT_SUB_OWNED_BY_OTHER_PEER = 33,
	/* staged_wait: what is wrong with the session's key */
	WGT_SUB_KEY_ABSENT = 48,
	WGT_SUB_KEY_INVALIDATED = 49,
	WGT_SUB_KEYPAIR_EXPIRED = 50,
	WGT_SUB_NONCE_EXHAUSTED = 51,
	/* rekey_requested: one of those above, or */
	WGT_SUB_KEY_OLD = 52,	  /* 120 s */
	WGT_SUB_LAST_MINUTE = 53, /* 165 s: the session's last chance */
	WGT_SUB_NO_ANSWER = 54,	  /* 15 s */
	/* keys_cleared */
	WGT_SUB_UNUSED_540S = 64,
	WGT_SUB_INTERFACE_DOWN = 65,
	WGT_SUB_PEER_REMOVED = 66,
	WGT_SUB_SUSPENDED = 67,
	/* session_derived, handshake_complete: which end of the handshake is this */
	WGT_SUB_INITIATOR = 72,
	WGT_SUB_RESPONDER = 73,
	/* unreachable */
	WGT_SUB_PORT_UNREACHABLE = 80,
	WGT_SUB_HOST_UNREACHABLE = 81,
	WGT_SUB_PROHIBITED = 82,
};

/*
 * What a handshake did, when it was not refused. 9 to 11 are no steps but why one
 * is waited for: they are only counted, as one comes with every packet. From 12 on
 * only `wgtrace handshakes` asks for them.
 */
enum wgt_handshake_code {
	WGT_INIT_SENT = 1,
	WGT_RETRY = 2,
	WGT_GIVE_UP = 3,
	WGT_INIT_ACCEPTED = 4,
	WGT_RESPONSE_SENT = 5,
	WGT_RESPONSE_ACCEPTED = 6,
	WGT_HANDSHAKE_COMPLETE = 7,
	WGT_COOKIE_RECEIVED = 8,
	WGT_INIT_SUPPRESSED_5S = 9,
	WGT_INIT_PEER_DEAD = 10,
	WGT_STAGED_WAIT = 11,
	WGT_REKEY_REQUESTED = 12, /* an initiation will be sent, no retry */
	WGT_NO_ANSWER_15S = 13,
	WGT_ROUTE_FOUND = 14, /* for what is sent to the peer from now on */
	WGT_SESSION_DERIVED = 15,
	WGT_KEYS_CLEARED = 16,
	WGT_KEYS_EXPIRED = 17,
	WGT_ICMP_ERROR = 18,  /* for what was sent to an endpoint; the peer is not told */
	WGT_UNREACHABLE = 19, /* an ICMP message says so of a datagram to the peer; for `drops` */
};

struct wgt_event_header {
	__u64 ts_ns; /* bpf_ktime_get_boot_ns() */
	__u32 cpu;
	__u16 kind; /* enum wgt_event_kind */
	__u16 len;  /* of the whole record, bytes */
};

/* One IP packet's addresses. All zero: not known. */
struct wgt_flow {
	__u8 saddr[16];
	__u8 daddr[16];
	__u16 sport; /* or ICMP echo identifier; 0 for other protocols */
	__u16 dport;
	__u32 len;   /* of the IP packet, bytes */
	__u8 family; /* 4 or 6 */
	__u8 proto;  /* IPPROTO_* */
	__u8 pad[6];
};

/* The interface that an event belongs to. */
struct wgt_device {
	__u8 ifname[WGT_IFNAME_LEN];
	__u32 netns; /* inode of the interface's network namespace */
	__u32 ifindex;
};

/* A configured peer. All zero: none, or not knowable. */
struct wgt_peer {
	__u8 public_key[WGT_KEY_LEN];
	__u8 endpoint_addr[16];
	__u16 endpoint_port;
	__u8 endpoint_family; /* 4, 6, or 0: no endpoint */
	__u8 known;	      /* 1: there is a peer */
	__u8 pad[4];
};

/* Kind WGT_EVENT_DROP: WireGuard dropped or refused a packet. */
struct wgt_drop_event {
	struct wgt_event_header hdr;
	struct wgt_device device;
	struct wgt_peer peer;
	struct wgt_flow inner;
	struct wgt_flow outer;
	__u64 location;	      /* address of the code that freed the skb */
	__u64 nonce;	      /* counter of the data message */
	__u64 max_nonce;      /* highest counter accepted in this session + 1 */
	__u64 session_age_ns; /* since the keypair was made */
	__u32 kernel_reason;  /* enum skb_drop_reason of this kernel */
	__u32 receiver_index;
	__u32 sender_index;
	__u32 queue_len;		       /* packets in the queue that overflowed or was purged */
	__s32 err;			       /* -errno */
	__u16 reason;			       /* enum wgt_reason */
	__u8 sub_reason;		       /* enum wgt_sub_reason */
	__u8 message_type;		       /* 1..4 of a WireGuard message */
	__u8 other_key[WGT_KEY_LEN];	       /* src_not_allowed: owner of the source;
					 * unknown_peer_pubkey: the key that knocked */
	__u8 timestamp[WGT_TAI64N_LEN];	       /* of this initiation */
	__u8 latest_timestamp[WGT_TAI64N_LEN]; /* of the last one accepted */
	__u8 payload[WGT_PAYLOAD_LEN];	       /* bad_header: first bytes of the UDP payload */
	__u32 payload_len;		       /* bad_header: UDP payload, bytes */
	__u32 packet_len;    /* of the packet, bytes; of what was freed where it has no header */
	__u16 captured_len;  /* bytes of the packet that follow this struct: with -w only */
	__u8 captured_layer; /* enum wgt_layer: what they are, 0: none */
	__u8 matched;	     /* 1: what was asked for; 0: a sample of the rest, for diagnosis */
	__u32 pad;
};

/* Kind WGT_EVENT_HANDSHAKE: a handshake took a step. */
struct wgt_handshake_event {
	struct wgt_event_header hdr;
	struct wgt_device device;
	struct wgt_peer peer;
	__u32 sender_index;   /* of a session: ours */
	__u32 receiver_index; /* of a session: the peer's */
	__u32 attempt;	      /* retry: 1 is the first retry */
	__u16 code;	      /* enum wgt_handshake_code */
	__u16 pad;
	__u64 message_ns;      /* sent: once it was made, before it left; received: once it had come */
	__u64 latency_ns;      /* handshake_complete: since its initiation was made or came in */
	__u64 session_age_ns;  /* rekey_requested, keys_cleared, keys_expired */
	struct wgt_flow inner; /* rekey_requested: the packet that waits longest; icmp_error: what was sent */
	__u8 source[16];       /* route_found: outer source address; its family is the endpoint's.
				* icmp_error: who says so; its family is that of `inner`. unreachable: who says so */
	__u8 out_ifname[WGT_IFNAME_LEN];
	__u32 queue_len; /* packets that wait for a session */
	__u8 sub_reason; /* enum wgt_sub_reason */
	__u8 icmp_type;	 /* icmp_error; of ICMPv6 where `inner` is IPv6 */
	__u8 icmp_code;
	__u8 message_type; /* icmp_error: 1..4 of the message that was sent */
};

/* Kind WGT_EVENT_CONFIG: someone configured an interface. */
struct wgt_config_event {
	struct wgt_event_header hdr;
	__u32 pid;
	__u32 pad;
	__u8 comm[16];
};

/* Which way a packet went. */
enum wgt_way {
	WGT_LEFT = 1,
	WGT_ARRIVED = 2,
};

/*
 * Kind WGT_EVENT_PACKET: a data message left, or arrived, of which one in so many
 * is told, by its counter. The time is before it left, or after it arrived.
 */
struct wgt_packet_event {
	struct wgt_event_header hdr;
	struct wgt_device device;
	struct wgt_peer peer;
	struct wgt_flow outer; /* arrived */
	__u64 nonce;	       /* counter of the data message */
	__u32 receiver_index;
	__u32 len; /* of the message, bytes */
	__u8 way;  /* enum wgt_way */
	__u8 pad[7];
};

/* What holds on every sound kernel: looked at with --invariants only. */
enum wgt_invariant {
	WGT_RESPONSE_INDEX = 1, /* a response is taken by the handshake that it names */
	WGT_PADDING_ZERO = 2,	/* what fills a message up to 16 bytes is zero */
	WGT_TSTAMP_TYPE = 3,	/* the time at which a packet is to leave says of which clock it is */
	WGT_INVARIANTS = 4,	/* size of arrays, no invariant */
};

#define WGT_STACK_LEN 12

/*
 * Kind WGT_EVENT_INVARIANT: one was violated. response_index: the index that the
 * response names, and that of the handshake that took it. padding_zero: 0, and how
 * many bytes of the padding are not zero; the bytes themselves never leave the kernel.
 * tstamp_type: the time, nanoseconds, and the clock that the packet says it is of.
 */
struct wgt_invariant_event {
	struct wgt_event_header hdr;
	struct wgt_device device;
	struct wgt_peer peer;
	struct wgt_flow inner; /* padding_zero: the packet in front of it */
	__u64 expected;
	__u64 found;
	__u64 stack[WGT_STACK_LEN]; /* return addresses, the innermost first; 0: no more */
	__u32 code;		    /* enum wgt_invariant */
	__u32 len;		    /* padding_zero: of the padding, bytes */
};

/* Where netfilter looks at a packet: NF_INET_* + 1, so that 0 says "not known". */
enum wgt_hook {
	WGT_HOOK_NONE = 0,
	WGT_HOOK_PREROUTING = 1,
	WGT_HOOK_INPUT = 2,
	WGT_HOOK_FORWARD = 3,
	WGT_HOOK_OUTPUT = 4,
	WGT_HOOK_POSTROUTING = 5,
	WGT_HOOK_INGRESS = 6,
	WGT_HOOK_EGRESS = 7,
};

/* How sure it is which nft rule dropped a packet. */
enum wgt_rule_found {
	WGT_RULE_NONE = 0,	/* rules are not followed here */
	WGT_RULE_EXACT = 1,	/* the one that table, chain and handle name */
	WGT_RULE_SOMEWHERE = 2, /* one that says `drop` or `reject`, but it is not known which */
	WGT_RULE_IMPLICIT = 3,	/* none of these: a policy, a verdict map, or no part of nft at all */
};

/* Kind WGT_EVENT_PATH: a packet of a tunnel was dropped, and not by WireGuard. */
struct wgt_path_event {
	struct wgt_event_header hdr;
	struct wgt_device device; /* the WireGuard interface that it belongs to */
	struct wgt_peer peer;
	struct wgt_flow inner;
	struct wgt_flow outer;
	__u64 location;		     /* address of the code that freed the skb */
	__u64 table_handle;	     /* of the nft table; none is used twice */
	__u64 rule_handle;	     /* unique in its table */
	__u8 table[32];		     /* name, cut */
	__u8 chain[32];		     /* name, cut */
	__u8 ifname[WGT_IFNAME_LEN]; /* device that the packet was at */
	__u32 netns;		     /* where it died; the socket may be in another one than the interface */
	__u32 kernel_reason;	     /* enum skb_drop_reason of this kernel */
	__u32 mark;
	__u32 receiver_index;
	__u8 layer;	   /* enum wgt_layer: which packet died */
	__u8 outgoing;	   /* 1: on its way to the peer; 0: from it */
	__u8 hook;	   /* enum wgt_hook, of a drop by netfilter */
	__u8 rule;	   /* enum wgt_rule_found */
	__u8 table_family; /* NFPROTO_* of the nft table */
	__u8 message_type; /* 1..4 of the WireGuard message */
	__u8 matched;	   /* as in wgt_drop_event */
	__u8 pad;
};

/* What happened to the size of packets. Codes are only appended. */
enum wgt_mtu_code {
	WGT_MTU_OUTER_FRAGMENTED = 1,	 /* a datagram of WireGuard, by this host */
	WGT_MTU_INNER_FRAGMENTED = 2,	 /* a packet on its way into the tunnel */
	WGT_MTU_TOO_BIG_RECEIVED = 3,	 /* by ICMP, about a datagram of WireGuard */
	WGT_MTU_TOO_BIG_SENT = 4,	 /* ICMP about a packet on its way into the tunnel */
	WGT_MTU_TOO_BIG_LOST = 5,	 /* such an ICMP message was dropped here */
	WGT_MTU_PATH_MTU_CHANGED = 6,	 /* of the way to a peer's endpoint, or of one through the tunnel */
	WGT_MTU_SENDER_REFUSED = 7,	 /* EMSGSIZE; which interface, user space finds out */
	WGT_MTU_FRAGMENT_LOST = 8,	 /* of a datagram of WireGuard, or waited in vain for its others */
	WGT_MTU_DATAGRAM_LOST = 9,	 /* a data message that this host sent, whole */
	WGT_MTU_PADDING_BEYOND_MTU = 10, /* padded to more than the interface's MTU */
	WGT_MTU_CODES = 11,		 /* size of per-code arrays, not a code */
};

/* What decided on an MTU. */
enum wgt_mtu_of {
	WGT_MTU_OF_UNKNOWN = 0,
	WGT_MTU_OF_DEVICE = 1,
	WGT_MTU_OF_ROUTE = 2,
	WGT_MTU_OF_ICMP = 3, /* a router told: a route exception */
};

/* Kind WGT_EVENT_MTU: one of those. */
struct wgt_mtu_event {
	struct wgt_event_header hdr;
	struct wgt_device device; /* all zero: sender_refused */
	struct wgt_peer peer;
	struct wgt_flow inner;
	struct wgt_flow outer;
	__u64 location;		     /* lost: address of the code that freed the skb */
	__u8 origin[16];	     /* too_big_received: who says so; its family is the datagram's */
	__u8 ifname[WGT_IFNAME_LEN]; /* device that the packet was at, or was routed to */
	__u32 netns;		     /* where that was */
	__u32 kernel_reason;	     /* lost: enum skb_drop_reason of this kernel */
	__u32 mtu;		     /* that it had to fit, or that was told */
	__u32 size;		     /* of the IP packet, bytes */
	__u16 code;		     /* enum wgt_mtu_code */
	__u8 of;		     /* enum wgt_mtu_of, of `mtu` */
	__u8 layer;		     /* enum wgt_layer: which packet it is about */
	__u8 outgoing;
	__u8 pad[3];
};

#define WGT_SIZE_TRIALS 8

/* A packet that waits for its answer. */
struct wgt_size_trial {
	__u64 sent_ns;
	__u32 ends;   /* of both addresses, the same for the answer */
	__u32 number; /* TCP: that the answer acknowledges; echo: identifier and sequence number */
	__u16 sport;
	__u16 dport;
	__u16 len;  /* of the IP packet */
	__u8 proto; /* 0: there is none */
	__u8 pad;
};

/* Value of the map `sizes`, by wg_peer.internal_id: bytes of inner IP packets. */
struct wgt_sizes {
	struct wgt_device device; /* ifindex 0: it was only just made */
	__u8 public_key[WGT_KEY_LEN];
	__u64 failed_ns;       /* last time that an answer did not come */
	__u64 first_failed_ns; /* since when there is none to `failed` */
	__u64 heard_ns;	       /* last time that TCP or an echo reply came while one was waited for */
	__u32 sent;	       /* the largest */
	__u32 passed;	       /* the largest that was answered */
	__u32 failed;	       /* the smallest that was not, and is larger than those; 0: none */
	__u32 failures;	       /* how often in a row */
	__u32 received;	       /* the largest */
	__u32 mtu;	       /* of the interface */
	__u32 waiting;	       /* 1: there are trials */
	__u32 pad;
	struct wgt_size_trial trial[WGT_SIZE_TRIALS]; /* by size */
};

/*
 * Key of the map `endpoints`, which user space fills: an address of a peer, and the
 * namespace that the interface's UDP socket is in. A fragment has no more than that.
 */
struct wgt_endpoint_key {
	__u8 addr[16];
	__u32 netns;
	__u32 family; /* 4 or 6 */
};

struct wgt_endpoint {
	struct wgt_device device;
	struct wgt_peer peer;
};

#define WGT_FORWARD_ENDS 8

/* Slot 0 of the map `mtu_config`: ranges of code, as first byte and first after. */
struct wgt_mtu_config {
	__u64 forward[WGT_FORWARD_ENDS]; /* code that hands packets to another device */
};

/* Key of the per-CPU totals: u64 packets. */
struct wgt_total_key {
	__u8 ifname[WGT_IFNAME_LEN];
	__u32 netns;
	__u16 kind; /* enum wgt_event_kind */
	__u16 code; /* enum wgt_reason, wgt_handshake_code, wgt_invariant, wgt_mtu_code; path: skb_drop_reason, low half */
	__u8 sub_reason; /* path: 4 or 6, of the packet that died */
	__u8 peer_known;
	__u8 matched;	/* of a drop: whether the filter asks for it; of an invariant: whether it held */
	__u8 subsystem; /* path: the high half of skb_drop_reason */
	__u8 layer;	/* path, and those below: as in wgt_path_event */
	__u8 outgoing;
	__u8 hook;
	__u8 rule;
	__u8 public_key[WGT_KEY_LEN];
};

/*
 * Key of the per-CPU map `handshake_times`: one bucket of a histogram, nanoseconds.
 * Bucket 0 counts 0, bucket n from 2^(n-1) to 2^n - 1.
 */
struct wgt_handshake_time_key {
	__u8 ifname[WGT_IFNAME_LEN];
	__u32 netns;
	__u8 role; /* WGT_SUB_INITIATOR: until the answer; WGT_SUB_RESPONDER: until it was confirmed */
	__u8 bucket;
	__u8 pad[2];
	__u8 public_key[WGT_KEY_LEN];
};

struct wgt_handshake_time {
	__u64 count;
	__u64 sum;
	__u64 max;
};

/*
 * Value of the map `sessions`: the messages that came by a session, told apart by the
 * counters that the peer gave them. Its key is the keypair's internal_id.
 */
struct wgt_session {
	struct wgt_device device;
	__u8 public_key[WGT_KEY_LEN];
	__u64 born_ns;
	__u64 first;	  /* the counter that counting began with: 0 for a session that began since */
	__u64 next;	  /* the largest that was accepted, and one */
	__u64 received;	  /* accepted, from `first` on: each counter once */
	__u64 late;	  /* of these: after a larger one */
	__u64 duplicates; /* refused: the counter had come before */
	__u64 too_old;	  /* refused: too far behind the largest to know whether it had */
	__u64 unread;	  /* lost on this host before the counter was looked at */
	__u32 index;	  /* ours */
	__u8 is_initiator;
	__u8 pad[3];
};

/* Value of the map `queues`: how much of a peer's waits. Its key is wg_peer.internal_id. */
struct wgt_queues {
	struct wgt_device device;
	__u8 public_key[WGT_KEY_LEN];
	__u64 ts_ns;
	__u32 staged;	/* packets that wait for a session */
	__u32 outgoing; /* packets, or bundles of them, on their way out through WireGuard */
	__u32 incoming;
	__u32 pad;
};

/* Per-CPU counters by cause: index into the map `losses`. */
enum wgt_loss {
	WGT_LOST_EVENTS = 0,	      /* the ring buffer was full */
	WGT_LOST_TOTALS = 1,	      /* the totals map was full: counted by reason only */
	WGT_LOST_UNCLASSIFIED = 2,    /* freed in WireGuard at a place not in the catalogue */
	WGT_LOST_FRAMES = 3,	      /* a handshake's exit was seen without its entry */
	WGT_LOST_DEVICES = 4,	      /* a drop's interface was not found */
	WGT_LOST_PACKETS = 5,	      /* latency: a packet was seen only in part */
	WGT_LOST_PEERS = 6,	      /* latency: there is no room for a peer's histograms */
	WGT_LOST_HANDSHAKE_TIMES = 7, /* the map `handshake_times` was full */
	WGT_LOST_SESSIONS = 8,	      /* top: the map `sessions` was full */
	WGT_LOSSES = 9,
};

/* Per-CPU, per reason: what was streamed in this second, and what was not. */
struct wgt_stream {
	__u64 second;
	__u64 shown;   /* in this second */
	__u64 limited; /* since the start: counted, not shown */
	__u64 total;   /* since the start: all drops of this reason */
	__u64 sampled; /* in this second: those that the filter does not ask for */
};

/* Slot 0 of the map `config`. */
struct wgt_config {
	__u32 all;		 /* 1: every interface in every namespace */
	__u32 events_per_second; /* per reason and CPU */
	__u64 device_list;	 /* address of device.c's list of interfaces */
};

/*
 * Key of the map `traced`: an interface by its name (ifindex 0) or, as it may be
 * renamed, by its index (no name); with neither, every interface of the namespace.
 */
struct wgt_traced_key {
	__u8 ifname[WGT_IFNAME_LEN];
	__u32 netns;
	__u32 ifindex;
};

/* The packets of a drop: bits. */
enum wgt_layer {
	WGT_INNER = 1,
	WGT_OUTER = 2,
};

/* The ends of a flow: bits. */
enum wgt_flow_end {
	WGT_SOURCE = 1,
	WGT_DESTINATION = 2,
};

/* What a term of a flow filter looks at. */
enum wgt_term_kind {
	WGT_TERM_NET = 1,
	WGT_TERM_PORT = 2,
	WGT_TERM_PROTO = 3,
	WGT_TERM_FAMILY = 4,
};

/* One term: holds if one of these ends of one of these packets has it. */
struct wgt_flow_term {
	__u8 addr[16]; /* net; the bits outside of mask are 0 */
	__u8 mask[16];
	__u16 port;   /* port */
	__u8 kind;    /* enum wgt_term_kind */
	__u8 layers;  /* of enum wgt_layer */
	__u8 ends;    /* net, port: of enum wgt_flow_end */
	__u8 negated; /* 1: it must not hold */
	__u8 family;  /* net, family: 4 or 6 */
	__u8 proto;   /* proto: IPPROTO_*; port: IPPROTO_TCP, IPPROTO_UDP, or 0 for both */
};

#define WGT_MAX_TERMS 8

/* Slot 0 of the map `filters`: all zero asks for every drop. */
struct wgt_filter {
	__u32 has_peers;	  /* 1: only those in the map `wanted_peers` */
	__u32 terms;		  /* so many of `term` are there; all of them must hold */
	__u32 samples_per_second; /* of what is not asked for, per reason and CPU */
	__u32 pad;
	__u8 hidden[WGT_REASONS]; /* by enum wgt_reason, 1: not asked for */
	struct wgt_flow_term term[WGT_MAX_TERMS];
};

/* Key of the map `wanted_peers`. */
struct wgt_public_key {
	__u8 bytes[WGT_KEY_LEN];
};

/* Functions of WireGuard that free packets: values of the map `sites`. */
enum wgt_site {
	WGT_SITE_NONE = 0,
	WGT_SITE_XMIT = 1,	       /* wg_xmit */
	WGT_SITE_PURGE = 2,	       /* wg_packet_purge_staged_packets */
	WGT_SITE_SEND_STAGED = 3,      /* wg_packet_send_staged_packets */
	WGT_SITE_TX_WORKER = 4,	       /* wg_packet_tx_worker */
	WGT_SITE_SEND = 5,	       /* send4, send6 */
	WGT_SITE_SEND_SKB = 6,	       /* wg_socket_send_skb_to_peer */
	WGT_SITE_RECEIVE = 7,	       /* wg_receive, wg_packet_receive */
	WGT_SITE_RX_POLL = 8,	       /* wg_packet_rx_poll */
	WGT_SITE_HANDSHAKE_WORKER = 9, /* wg_packet_handshake_receive_worker */
	WGT_SITE_STOP = 10,	       /* wg_stop */
};

/* What the map `path_reasons` says of one of the kernel's reasons: bits. */
enum wgt_path_rule {
	WGT_PATH_NEVER = 1,	/* no loss: never told */
	WGT_PATH_DELIVERED = 2, /* told also of an inner packet that was routed to this host */
	WGT_PATH_NETFILTER = 4, /* netfilter's */
	WGT_PATH_HIDE_TX = 8,	/* the filter does not ask for it on the way out */
	WGT_PATH_HIDE_RX = 16,	/* nor in */
	WGT_PATH_INCOMING = 32, /* of what comes in, though nothing on it says so yet */
};

/* Slots of `path_reasons`: reasons of the kernel's core, then one for each subsystem. */
#define WGT_PATH_REASONS     256
#define WGT_PATH_SUBSYSTEM_0 240

#define WGT_QUIET_ENDS 16

/*
 * Slot 0 of the map `path_config`: where nf_tables keeps what, as its BTF says. The
 * module may be loaded long after the programs; until then all of it is 0.
 */
struct wgt_path_config {
	__u64 net_id; /* address of nf_tables' number in net->gen */
	__u16 pkt_skb;
	__u16 pkt_state;
	__u16 verdict_code;
	__u16 verdict_dreg;
	__u16 table_list;
	__u16 table_chains;
	__u16 table_handle;
	__u16 table_name;
	__u16 table_family; /* of the byte with its six bits */
	__u16 chain_list;
	__u16 chain_name;
	__u16 chain_blob_0;
	__u16 chain_blob_1;
	__u16 blob_size;
	__u16 blob_data;
	__u16 net_tables;
	__u16 pad[4];
	__u64 quiet[WGT_QUIET_ENDS]; /* code that frees copies, as first byte and first after */
};

#define WGT_MAX_SITES 40

/* One piece of kernel text. */
struct wgt_site_range {
	__u64 start;
	__u64 end;  /* first byte after */
	__u64 site; /* enum wgt_site */
};

/* Slot 0 of the map `sites`. */
struct wgt_sites {
	__u64 start; /* of all the ranges together */
	__u64 end;
	struct wgt_site_range range[WGT_MAX_SITES]; /* the unused ones are 0 */
	__u64 list_start; /* of kfree_skb_list(), which frees for WireGuard and for others */
	__u64 list_end;
};

/*
 * Stages of a packet's way through WireGuard, in order: the end of one is the
 * beginning of the next. Inwards there are QUEUE, CRYPTO and ORDER.
 */
enum wgt_stage {
	WGT_STAGE_STAGED = 0, /* waits for a key */
	WGT_STAGE_QUEUE = 1,  /* for a crypto worker */
	WGT_STAGE_CRYPTO = 2, /* is encrypted or decrypted */
	WGT_STAGE_ORDER = 3,  /* waits for older packets of its peer, and for its turn */
	WGT_STAGE_OUTPUT = 4, /* outwards: until the kernel's output returns */
	WGT_STAGE_TOTAL = 5,
};

#define WGT_STAGES  6
#define WGT_BUCKETS 40 /* the last is open: from 275 s on */
#define WGT_SLOWEST 5

/* Key of the map `latencies`. */
struct wgt_latency_key {
	__u64 peer_id; /* wg_peer.internal_id: never used again */
	__u32 epoch;   /* of wgt_latency_config, at the end of the packet's way */
	__u16 cpu;     /* that did the crypto; 0 where not asked for */
	__u8 is_rx;
	__u8 pad;
};

/* Nanoseconds: bucket 0 counts 0, bucket n from 2^(n-1) to 2^n - 1. */
struct wgt_histogram {
	__u64 sum;
	__u64 max;
	__u64 bucket[WGT_BUCKETS];
};

struct wgt_slow_packet {
	__u64 ts_ns; /* when it was through; 0: there is none */
	__u64 total;
	__u64 staged;
	__u64 queue;
	__u64 crypto;
	__u64 order;
	__u64 output;
	__u32 cpu; /* that did the crypto */
	__u32 pad;
};

/* Value of the map `latencies`: a peer's packets in one direction. */
struct wgt_latency {
	struct wgt_device device;
	__u8 public_key[WGT_KEY_LEN];
	__u64 least;				/* total of the quickest in `slowest` */
	struct wgt_histogram stage[WGT_STAGES]; /* by enum wgt_stage */
	struct wgt_slow_packet slowest[WGT_SLOWEST];
};

/* Slot 0 of the map `latency_config`. */
struct wgt_latency_config {
	__u32 epoch;
	__u32 by_cpu;
};

_Static_assert(sizeof(struct wgt_event_header) == 16, "also change EventHeader and WGT_ABI");
_Static_assert(sizeof(struct wgt_flow) == 48, "also change FlowWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_device) == 24, "also change DeviceWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_peer) == 56, "also change PeerWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_drop_event) == 336,
	       "also change DropEventWire and, if not appended, WGT_ABI");
_Static_assert(sizeof(struct wgt_handshake_event) == 224,
	       "also change HandshakeEventWire and, if not appended, WGT_ABI");
_Static_assert(sizeof(struct wgt_config_event) == 40,
	       "also change ConfigEventWire and, if not appended, WGT_ABI");
_Static_assert(sizeof(struct wgt_path_event) == 320,
	       "also change PathEventWire and, if not appended, WGT_ABI");
_Static_assert(sizeof(struct wgt_path_config) == 176, "also change PathConfigWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_packet_event) == 168,
	       "also change PacketEventWire and, if not appended, WGT_ABI");
_Static_assert(sizeof(struct wgt_invariant_event) == 264,
	       "also change InvariantEventWire and, if not appended, WGT_ABI");
_Static_assert(sizeof(struct wgt_mtu_event) == 256, "also change MtuEventWire and, if not appended, WGT_ABI");
_Static_assert(sizeof(struct wgt_size_trial) == 24, "also change SizeTrialWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_sizes) == 304, "also change SizesWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_endpoint_key) == 24, "also change EndpointKeyWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_endpoint) == 80, "also change EndpointWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_mtu_config) == 64, "also change MtuConfigWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_total_key) == 64, "also change TotalKeyWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_handshake_time_key) == 56, "also change HandshakeTimeKeyWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_handshake_time) == 24, "also change HandshakeTimeWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_session) == 128, "also change SessionWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_queues) == 80, "also change QueuesWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_stream) == 40, "also change StreamWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_config) == 16, "also change ConfigWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_traced_key) == 24, "also change TracedKeyWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_flow_term) == 40, "also change FlowTermWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_filter) == 432, "also change FilterWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_public_key) == 32, "also change PublicKeyWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_site_range) == 24, "also change SiteRangeWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_sites) == 992, "also change SitesWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_latency_key) == 16, "also change LatencyKeyWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_histogram) == 336, "also change HistogramWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_slow_packet) == 64, "also change SlowPacketWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_latency) == 2400, "also change LatencyWire and WGT_ABI");
_Static_assert(sizeof(struct wgt_latency_config) == 8, "also change LatencyConfigWire and WGT_ABI");
