/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * WireGuard's own objects: which interface, which peer, who owns an address.
 * All of this runs only once a packet is already lost; a good packet never
 * comes here.
 *
 * Secrets live next to what is read (preshared_key, static_private, the
 * symmetric keys): only the fields named here are read, and a peer's key only
 * after the peer was recognised by its own back pointer.
 */
#pragma once

#define AF_INET	 2
#define AF_INET6 10

#define MESSAGE_INITIATION	1
#define MESSAGE_RESPONSE	2
#define MESSAGE_COOKIE		3
#define MESSAGE_DATA		4
#define MESSAGE_INITIATION_LEN	148
#define MESSAGE_RESPONSE_LEN	92
#define MESSAGE_COOKIE_LEN	64
#define MESSAGE_DATA_LEN_MIN	32
#define MESSAGE_DATA_HEADER_LEN 16
#define UDP_HEADER_LEN		8

#define MAX_TIMER_HANDSHAKES  18 /* messages.h: 90 / REKEY_TIMEOUT */
#define REKEY_TIMEOUT_NS      (5 * NSEC_PER_SEC)
#define REJECT_AFTER_NS	      (180 * NSEC_PER_SEC)
#define COUNTER_WINDOW_SIZE   8128 /* messages.h: COUNTER_BITS_TOTAL - COUNTER_REDUNDANT_BITS */
#define REJECT_AFTER_MESSAGES (~0ULL - COUNTER_WINDOW_SIZE - 1)

#define INDEX_HASHTABLE_HANDSHAKE 1
#define INDEX_HASHTABLE_KEYPAIR	  2

#ifndef WGT_MAX_DEVICES
#define WGT_MAX_DEVICES 256
#endif

#define container_of(ptr, type, member) ((type *)((u64)(ptr) - offsetof(type, member)))

/* A variable onto itself: the verifier forgets what it knew of it, and walks what follows but once. */
#define FORGET(variable) bpf_probe_read_kernel(&(variable), sizeof(variable), &(variable))

#define WGT_MAX_PEERS 512

/* Whether `peer` is a peer: its handshake's index entry points back at it. */
static __always_inline bool is_peer(struct wg_peer *peer)
{
	return peer && READ(peer->handshake.entry.peer) == peer;
}

static __always_inline struct wg_device *peer_device(struct wg_peer *peer)
{
	return is_peer(peer) ? READ(peer->device) : NULL;
}

/* netdev_priv(), if `dev` is a WireGuard interface. */
static __always_inline struct wg_device *device_of(struct net_device *dev)
{
	struct wg_device *wg = (void *)dev + ((sizeof(struct net_device) + 31) & ~31ULL);

	return dev && READ(wg->dev) == dev ? wg : NULL;
}

/*
 * The interface whose UDP socket takes packets for `port` in the namespace of
 * `dev`: the one that wg_receive() finds in sk_user_data, and that nothing in
 * the skb names. It is not compiled in where the kernel's list of them is: that
 * address changes with each boot, and the bytecode is to outlive it.
 */
static __always_inline struct wg_device *device_by_port(struct net_device *dev, u16 port)
{
	u32 slot = 0;
	struct wgt_config *settings = config.lookup(&slot);
	struct list_head *list, *entry;
	struct net *net;

	if (!settings || !settings->device_list || !dev)
		return NULL;
	list = (void *)settings->device_list;
	net = READ(dev->nd_net.net);
	entry = READ(list->next);
	for (int i = 0; i < WGT_MAX_DEVICES && entry && entry != list; i++) {
		struct wg_device *wg = container_of(entry, struct wg_device, device_list);

		if (READ(wg->incoming_port) == port && READ(wg->creating_net) == net)
			return wg;
		entry = READ(entry->next);
	}
	return NULL;
}

/* The peer whose endpoint this is. */
static __always_inline struct wg_peer *peer_by_endpoint(struct wg_device *wg, const u8 *address, u16 port,
							u8 version)
{
	struct list_head *list = &wg->peer_list, *entry = READ(list->next);
	/* struct sockaddr_in: family, port, address; of IPv6 a word follows the port, then the address */
	u64 wanted[3] = {(u64)swap16(port) << 16 | (version == 4 ? AF_INET : AF_INET6)};
	u64 mask[3] = {version == 4 ? ~0ULL : 0xffffffff};

	if (version == 4) {
		wanted[0] |= (u64)read_u32(address) << 32;
	} else {
		bpf_probe_read_kernel(&wanted[1], 16, address);
		mask[1] = mask[2] = ~0ULL;
	}
	FORGET(wanted);
	FORGET(mask);
	for (int i = 0; i < WGT_MAX_PEERS && entry && entry != list; i++) {
		struct wg_peer *peer = container_of(entry, struct wg_peer, peer_list);
		u64 has[3] = {};

		bpf_probe_read_kernel(has, sizeof(has), &peer->endpoint.addr);
		if (!(((has[0] ^ wanted[0]) & mask[0]) | ((has[1] ^ wanted[1]) & mask[1]) |
		      ((has[2] ^ wanted[2]) & mask[2])))
			return peer;
		entry = READ(entry->next);
	}
	return NULL;
}

static __always_inline void read_device(struct wgt_device *to, struct wg_device *wg)
{
	struct net_device *dev = wg ? READ(wg->dev) : NULL;
	struct net *net;

	if (!dev)
		return;
	bpf_probe_read_kernel_str(to->ifname, sizeof(to->ifname), dev->name);
	to->ifindex = READ(dev->ifindex);
	net = READ(dev->nd_net.net);
	to->netns = READ(net->ns.inum);
}

static __always_inline void read_peer(struct wgt_peer *to, struct wg_peer *peer)
{
	u16 family;

	if (!is_peer(peer))
		return;
	to->known = 1;
	bpf_probe_read_kernel(to->public_key, sizeof(to->public_key), peer->handshake.remote_static);
	family = READ(peer->endpoint.addr.sa_family);
	if (family == AF_INET) {
		to->endpoint_family = 4;
		to->endpoint_port = swap16(READ(peer->endpoint.addr4.sin_port));
		bpf_probe_read_kernel(to->endpoint_addr, 4, &peer->endpoint.addr4.sin_addr);
	} else if (family == AF_INET6) {
		to->endpoint_family = 6;
		to->endpoint_port = swap16(READ(peer->endpoint.addr6.sin6_port));
		bpf_probe_read_kernel(to->endpoint_addr, 16, &peer->endpoint.addr6.sin6_addr);
	}
}

/* An address as the AllowedIPs trie holds it: host order, most significant first. */
struct trie_key {
	u64 high;
	u64 low;
	u32 bits;
	u32 shift; /* of a node's first eight bytes: only four of them are an IPv4 address */
};

static __always_inline void trie_key_init(struct trie_key *key, const u8 *address, u8 version)
{
	if (version == 4) {
		key->high = (u64)__builtin_bswap32(read_u32(address)) << 32;
		key->bits = 32;
		key->shift = 32;
	} else {
		key->high = __builtin_bswap64(read_u64(address));
		key->low = __builtin_bswap64(read_u64(address + 8));
		key->bits = 128;
	}
}

/*
 * Who has `address` in its AllowedIPs: find_node() of allowedips.c. Asked again
 * after the fact, so that no program has to run on good packets. Each instruction
 * of the loop is verified 129 times for each way through it, so there is but one:
 * masks, all ones or 0, stand for branches.
 */
static __always_inline struct wg_peer *allowedips_lookup(struct wg_device *wg, const u8 *address, u8 version)
{
	struct trie_key key = {};
	struct allowedips_node *at;
	u64 found = 0, side;

	if (!wg || (version != 4 && version != 6))
		return NULL;
	trie_key_init(&key, address, version);
	at = version == 4 ? READ(wg->peer_allowedips.root4) : READ(wg->peer_allowedips.root6);
	for (int depth = 0; depth <= 128 && at; depth++) {
		struct allowedips_node node;
		s64 is_short, is_whole, has_peer;
		u64 words[2], rest;

		bpf_probe_read_kernel(&node, sizeof(node), at);
		rest = ~0ULL >> (node.cidr & 63);
		is_short = (node.cidr - 64LL) >> 63; /* the prefix ends in the first word */
		is_whole = (127LL - node.cidr) >> 63;
		has_peer = (s64)node.peer >> 63; /* as the addresses of the kernel are */
		__builtin_memcpy(words, node.bits, sizeof(words));
		words[0] = (words[0] << key.shift ^ key.high) & ~(rest & is_short);
		words[1] = (words[1] ^ key.low) & ~((rest | is_short) & ~is_whole);
		if (words[0] | words[1])
			break;
		asm volatile("" : "+r"(has_peer)); /* else clang makes a branch of it */
		found ^= (found ^ (u64)node.peer) & has_peer;
		if (node.cidr >= key.bits)
			break;
		side = key.low ^ ((key.low ^ key.high) & is_short); /* the word with the next bit */
		side = side << (node.cidr & 63) >> 63;
		at = READ(at->bit[side]);
	}
	return (struct wg_peer *)found;
}

/*
 * The peer that this kworker works for, if it is sending: its current work is
 * the peer's transmit_packet_work or transmit_handshake_work. send4() and
 * send6() know no peer, and are reached from workers only.
 */
static __always_inline struct wg_peer *peer_of_worker(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct kthread *kthread;
	struct worker *worker;
	struct work_struct *work;
	struct wg_peer *peer;

	if (!(READ(task->flags) & 0x20)) /* PF_WQ_WORKER */
		return NULL;
	kthread = READ(task->worker_private);
	worker = READ(kthread->data);
	work = READ(worker->current_work);
	peer = container_of(work, struct wg_peer, transmit_packet_work);
	if (is_peer(peer))
		return peer;
	peer = container_of(work, struct wg_peer, transmit_handshake_work);
	return is_peer(peer) ? peer : NULL;
}

/*
 * The entry of `index` in the table that wg_index_hashtable_lookup() searches, if
 * it is of one of `types` (INDEX_HASHTABLE_HANDSHAKE, INDEX_HASHTABLE_KEYPAIR);
 * that function itself runs for every good data packet and is left alone.
 */
static __always_inline struct index_hashtable_entry *index_lookup(struct wg_device *wg, u32 index, u32 types)
{
	struct index_hashtable *table = READ(wg->index_hashtable);
	u64 buckets = sizeof(table->hashtable) / sizeof(table->hashtable[0]);
	struct hlist_node *node = READ(table->hashtable[index & (buckets - 1)].first);

	for (int i = 0; i < 16 && node; i++) {
		struct index_hashtable_entry *entry =
			container_of(node, struct index_hashtable_entry, index_hash);

		if (READ(entry->index) == index)
			return READ(entry->type) & types ? entry : NULL;
		node = READ(node->next);
	}
	return NULL;
}

/* A drop, classified: all that is needed to count it and to tell about it. */
struct drop {
	struct wg_device *wg;
	struct wg_peer *peer;
	struct wg_peer *owner;
	struct noise_keypair *keypair;
	const u8 *inner; /* IP header of the inner packet, NULL: not known */
	const u8 *outer;
	const u8 *end;	   /* end of the skb's linear data */
	const u8 *message; /* WireGuard's message header */
	u64 location;
	u64 nonce;
	u32 kernel_reason;
	s32 err;
	u32 queue_len;
	u16 reason;
	u8 sub_reason;
	u8 message_type;
	u32 payload_len;
	u32 receiver_index;
	u32 len; /* skb->len */
	u32 pad;
};

/* What leaves the kernel: the event, and with -w room for the packet's first bytes. */
struct drop_record {
	struct wgt_drop_event event;
	u8 packet[WGT_CAPTURE_LEN];
};

#if WGT_CAPTURE_LEN
/* Type and first index of a message. Wireshark takes a data message that is cut behind its counter for malformed. */
#define MESSAGE_BEGIN_LEN 8

/* How long the headers at `ip` are: IP's, that of the protocol in it, and WireGuard's. */
static __always_inline u32 headers_len(const struct wgt_flow *flow, const u8 *ip, const u8 *end,
				       bool has_message)
{
	u32 len = sizeof(struct ipv6hdr);

	if (flow->family == 4) {
		len = (read_u8(ip) & 0xf) * 4;
		if (READ(((struct iphdr *)ip)->frag_off) & 0xff1f) /* not the first fragment */
			return len;
	}
	if (flow->proto == IPPROTO_TCP)
		return ip + len + 20 <= end ? len + (read_u8(ip + len + 12) >> 4) * 4 : len;
	if (flow->proto == IPPROTO_ICMP || flow->proto == IPPROTO_ICMPV6)
		return len + 8;
	if (flow->proto == IPPROTO_UDP)
		return len + UDP_HEADER_LEN + (has_message ? MESSAGE_BEGIN_LEN : 0);
	return len;
}

/*
 * Copies the first bytes of the packet, from its IP header on: of the inner one
 * where it is plain, else of the datagram. What follows the header of a session's
 * data message is never copied: decryption is in place, so it may be plain by now.
 */
static __always_inline void capture(struct drop_record *to, struct drop *drop)
{
	struct wgt_drop_event *e = &to->event;
	struct wgt_flow *flow = drop->inner ? &e->inner : &e->outer;
	const u8 *from = drop->inner ? drop->inner : drop->outer;
	u64 len, most;

	e->packet_len = drop->len;
	if (!from || !flow->family)
		return;
	if (!drop->inner)
		e->packet_len = flow->len;
	len = headers_len(flow, from, drop->end, !drop->inner && drop->message_type);
	if (!WGT_HEADERS_ONLY && (drop->inner || !drop->keypair))
		len = WGT_CAPTURE_LEN;
	most = drop->end - from; /* what lies in fragments is left out */
	if (len > most)
		len = most;
	if (len > e->packet_len)
		len = e->packet_len;
	if (len > WGT_CAPTURE_LEN)
		len = WGT_CAPTURE_LEN;
	asm volatile("" : "+r"(len)); /* else clang drops a check that the verifier wants to see */
	if (len > WGT_CAPTURE_LEN)
		return;
	if (bpf_probe_read_kernel(to->packet, len, from))
		return;
	e->captured_len = len;
	e->captured_layer = drop->inner ? WGT_INNER : WGT_OUTER;
}
#endif

/* Whether the filter asks for `drop`, of which `key` is filled but for this. */
static __always_inline bool is_wanted(const struct wgt_filter *filter, struct drop *drop,
				      struct wgt_total_key *key)
{
	struct wgt_flow inner = {}, outer = {};

	if (drop->reason < WGT_REASONS && filter->hidden[drop->reason])
		return false;
	if (filter->has_peers && !(key->peer_known && wanted_peers.lookup((void *)key->public_key)))
		return false;
	if (!filter->terms)
		return true;
	if (drop->inner)
		read_flow(&inner, drop->inner, drop->end);
	if (drop->outer)
		read_flow(&outer, drop->outer, drop->end);
	return is_flow_wanted(filter, &inner, &outer);
}

/* Counts `drop`; if it may be shown, gives its record, all filled but for what only the caller knows. */
static __always_inline struct wgt_drop_event *drop_begin(struct drop *drop)
{
	u32 slot = 0;
	struct wgt_filter *filter = filters.lookup(&slot);
	struct wgt_total_key key = {};
	struct wgt_device device = {};
	struct drop_record *record;
	struct wgt_drop_event *e;

	/* Onto itself: the verifier forgets what it knew of each field, and walks what follows only once. */
	bpf_probe_read_kernel(drop, sizeof(*drop), drop);
	read_device(&device, drop->wg);
	if (!device.ifindex)
		count_loss(WGT_LOST_DEVICES);
	if (!is_traced(&device) || !filter)
		return NULL;

	__builtin_memcpy(key.ifname, device.ifname, sizeof(key.ifname));
	key.netns = device.netns;
	key.kind = WGT_EVENT_DROP;
	key.code = drop->reason;
	key.sub_reason = drop->sub_reason;
	if (is_peer(drop->peer)) {
		key.peer_known = 1;
		bpf_probe_read_kernel(key.public_key, sizeof(key.public_key),
				      drop->peer->handshake.remote_static);
	}
	key.matched = is_wanted(filter, drop, &key);
	count_total(&key);
	/* Findings are about the peers that were asked for: of others nothing is needed. */
	if (!key.matched && filter->has_peers && key.peer_known &&
	    !wanted_peers.lookup((void *)key.public_key))
		return NULL;
	if (!may_stream(drop->reason, bpf_ktime_get_boot_ns(), key.matched, filter->samples_per_second))
		return NULL;

	record = events.ringbuf_reserve(sizeof(struct drop_record));
	if (!record) {
		count_loss(WGT_LOST_EVENTS);
		return NULL;
	}
	e = &record->event;
	__builtin_memset(e, 0, sizeof(*e));
	header_init(&e->hdr, WGT_EVENT_DROP, sizeof(*e));
	e->matched = key.matched;
	e->device = device;
	read_peer(&e->peer, drop->peer);
	if (drop->inner)
		read_flow(&e->inner, drop->inner, drop->end);
	if (drop->outer)
		read_flow(&e->outer, drop->outer, drop->end);
	e->location = drop->location;
	e->kernel_reason = drop->kernel_reason;
	e->queue_len = drop->queue_len;
	e->err = drop->err;
	e->reason = drop->reason;
	e->sub_reason = drop->sub_reason;
	e->message_type = drop->message_type;
	e->payload_len = drop->payload_len;
	e->nonce = drop->nonce;
	e->receiver_index = drop->receiver_index;
	if (drop->message) {
		if (drop->message_type == MESSAGE_DATA) {
			e->receiver_index = read_u32(drop->message + 4);
			e->nonce = read_u64(drop->message + 8);
		} else if (drop->message_type == MESSAGE_INITIATION) {
			e->sender_index = read_u32(drop->message + 4);
		} else if (drop->message_type == MESSAGE_RESPONSE) {
			e->sender_index = read_u32(drop->message + 4);
			e->receiver_index = read_u32(drop->message + 8);
		} else if (drop->message_type == MESSAGE_COOKIE) {
			e->receiver_index = read_u32(drop->message + 4);
		}
	}
	if (drop->keypair) {
		e->max_nonce = READ(drop->keypair->receiving_counter.counter);
		e->session_age_ns = e->hdr.ts_ns - READ(drop->keypair->receiving.birthdate);
	}
	if (is_peer(drop->owner))
		bpf_probe_read_kernel(e->other_key, sizeof(e->other_key),
				      drop->owner->handshake.remote_static);
#if WGT_CAPTURE_LEN
	if (key.matched)
		capture(record, drop);
#endif
	return e;
}

static __always_inline void drop_emit(struct drop *drop)
{
	struct wgt_drop_event *e = drop_begin(drop);

	if (e)
		events.ringbuf_submit(e, 0);
}

/* Counts what a handshake of `peer` did; whether the user asked for its interface. */
static __always_inline bool count_handshake(struct wg_peer *peer, struct wgt_device *device, u16 code,
					    u8 sub_reason)
{
	struct wgt_total_key key = {};

	read_device(device, peer_device(peer));
	if (!is_traced(device) || !is_peer(peer))
		return false;

	__builtin_memcpy(key.ifname, device->ifname, sizeof(key.ifname));
	key.netns = device->netns;
	key.kind = WGT_EVENT_HANDSHAKE;
	key.code = code;
	key.sub_reason = sub_reason;
	key.peer_known = 1;
	bpf_probe_read_kernel(key.public_key, sizeof(key.public_key), peer->handshake.remote_static);
	count_total(&key);
	return true;
}

/* The record of a counted step, all filled but for what only the caller knows. */
static __always_inline struct wgt_handshake_event *
handshake_record(struct wg_peer *peer, const struct wgt_device *device, u16 code, u8 sub_reason)
{
	struct wgt_handshake_event *e = events.ringbuf_reserve(sizeof(struct wgt_handshake_event));

	if (!e) {
		count_loss(WGT_LOST_EVENTS);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	header_init(&e->hdr, WGT_EVENT_HANDSHAKE, sizeof(*e));
	e->device = *device;
	read_peer(&e->peer, peer);
	e->code = code;
	e->sub_reason = sub_reason;
	return e;
}

static __always_inline void emit_handshake(struct wg_peer *peer, u16 code, u32 sender_index,
					   u32 receiver_index, u32 attempt, u64 message_ns)
{
	struct wgt_device device = {};
	struct wgt_handshake_event *e;

	if (!count_handshake(peer, &device, code, WGT_SUB_NONE))
		return;
	e = handshake_record(peer, &device, code, WGT_SUB_NONE);
	if (!e)
		return;
	e->sender_index = sender_index;
	e->receiver_index = receiver_index;
	e->attempt = attempt;
	e->message_ns = message_ns;
	events.ringbuf_submit(e, 0);
}
