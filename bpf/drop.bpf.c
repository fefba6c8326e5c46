// SPDX-License-Identifier: GPL-2.0-only
/*
 * Packets that WireGuard frees.
 *
 * Nothing here runs for a good packet but the first lines of handle_kfree_skb
 * and handle_consume_skb: the reason is read off the skb when WireGuard frees
 * it, from where it is freed and from what was already done to it. Every drop
 * on receive is a consume_skb(), which other tools take for a normal end.
 */

/* Set while wg_packet_purge_staged_packets() runs, by the task that runs it. */
struct purge {
	struct wg_peer *peer;
	u32 reason;
	u32 queue_len;
};

BPF_TABLE("lru_hash", u64, struct purge, purges, 1024);

/*
 * skb -> what was found of the packet before it in the same bundle. Packets are
 * encrypted, queued and freed in bundles, and only the first one says whose it is.
 */
struct bundle {
	struct wg_peer *peer;
	u32 reason;
	u32 receiver_index;
};

BPF_TABLE("lru_hash", u64, struct bundle, bundles, 1024);

/* Packets that the first program of a tracepoint has taken, for the second: the last, and the one before. */
struct taken {
	struct sk_buff *skb[2];
};

enum { BY_KFREE_SKB, BY_CONSUME_SKB, TRACEPOINTS };

BPF_TABLE("percpu_array", u32, struct taken, taken, TRACEPOINTS);

/*
 * Each tracepoint runs two programs of ours, one after the other. The kernel skips
 * a program that is interrupted on this CPU by an event of its own (a softirq that
 * frees packets, prog->active in __bpf_trace_run()), and then those drops would be
 * missing; but never both, as no softirq interrupts a softirq. The first takes
 * every drop and says so; the second takes what the first did not. Never by the
 * address alone: the packets of a burst follow each other at the same one.
 */
static __always_inline bool is_taken(struct sk_buff *skb, u32 slot, bool is_second)
{
	struct taken *marks = is_second ? taken.lookup(&slot) : NULL;

	if (!marks || (marks->skb[0] != skb && marks->skb[1] != skb))
		return false;
	marks->skb[0] = marks->skb[0] == skb ? marks->skb[1] : NULL;
	marks->skb[1] = NULL;
	return true;
}

/* A softirq may do all of this between the two programs of the task that it interrupts. */
static __always_inline void take(struct sk_buff *skb, u32 slot, bool is_second)
{
	struct taken *marks = is_second ? NULL : taken.lookup(&slot);

	if (!marks)
		return;
	marks->skb[1] = marks->skb[0];
	marks->skb[0] = skb;
}

/* The task, or the CPU where it is the idle task: pid 0 is on every CPU. */
static __always_inline u64 current_frame(void)
{
	u64 id = bpf_get_current_pid_tgid();

	return (u32)id ? id : (1ULL << 63) | bpf_get_smp_processor_id();
}

static __always_inline struct wgt_sites *known_sites(void)
{
	u32 slot = 0;

	return sites.lookup(&slot);
}

/* Which of WireGuard's functions holds `address`: enum wgt_site. */
static __always_inline u32 site_of(struct wgt_sites *known, u64 address)
{
	if (!known || address < known->start || address >= known->end)
		return WGT_SITE_NONE;
	for (int i = 0; i < WGT_MAX_SITES; i++) {
		struct wgt_site_range *range = &known->range[i];

		if (address >= range->start && address < range->end)
			return range->site;
	}
	return WGT_SITE_NONE;
}

#define WGT_STACK_DEPTH 16
#define WGT_MAX_PIECES	32

/*
 * Who called kfree_skb_list(), where the tracepoint tells that function itself as the
 * place: Linux 6.1 does, later ones tell its caller. Unwinding the stack is dear: it is
 * done only for a packet that is WireGuard's by its interface, or that has none and is
 * freed by a worker of a peer.
 */
static __always_inline u64 caller_of_list_free(void *ctx, struct wgt_sites *known, struct sk_buff *skb,
					       u64 location)
{
	u64 frames[WGT_STACK_DEPTH] = {};
	struct net_device *dev;
	bool inside = false;

	if (!known || location < known->list_start || location >= known->list_end)
		return location;
	dev = READ(skb->dev);
	if (dev ? !device_of(dev) : !peer_of_worker())
		return location;
	bpf_get_stack(ctx, frames, sizeof(frames), 0);
	for (int i = 0; i < WGT_STACK_DEPTH; i++) {
		if (frames[i] >= known->list_start && frames[i] < known->list_end)
			inside = true;
		else if (inside)
			return frames[i];
	}
	return location;
}

/* A plain packet on its way out: the interface, the flow, and who has the destination. */
static __always_inline void outgoing(struct drop *drop, struct skb_view *view)
{
	u8 version = ip_version(view->network, view->tail);

	drop->wg = device_of(view->dev);
	if (!version)
		return;
	drop->inner = view->network;
	drop->peer = allowedips_lookup(drop->wg,
				       view->network + (version == 4 ? offsetof(struct iphdr, daddr)
								     : offsetof(struct ipv6hdr, daddr)),
				       version);
}

/*
 * wg_xmit() refuses the packet that it was given. The checks are its own, in
 * its order; the lookup is asked again.
 */
static __always_inline u16 refused_by_xmit(struct drop *drop, struct sk_buff *skb, struct skb_view *view)
{
	u16 protocol, family;

	if (!drop->wg)
		return 0;
	if (!drop->inner)
		return WGT_BAD_PROTOCOL;
	protocol = read_u8(drop->inner) >> 4 == 4 ? ETH_P_IP_BE : ETH_P_IPV6_BE;
	if (view->protocol != protocol)
		return WGT_BAD_PROTOCOL;
	if (!drop->peer)
		return WGT_ALLOWEDIPS_NO_PEER;
	family = READ(drop->peer->endpoint.addr.sa_family);
	if (family != AF_INET && family != AF_INET6)
		return WGT_NO_ENDPOINT;
	return skb_is_gso(skb) ? WGT_GSO_SEGMENT_FAILED : WGT_SKB_CLONE_NOMEM;
}

/* The bundle that `skb` is in, and with it the packet behind it. */
static __always_inline void bundle_of(struct bundle *bundle, struct sk_buff *skb, struct wg_peer *peer,
				      u32 reason)
{
	struct packet_cb *cb = (void *)skb->cb;
	struct noise_keypair *keypair = READ(cb->keypair);
	u64 key = (u64)skb;
	struct bundle *before;

	if (is_peer(peer) && READ(keypair->entry.peer) == peer) {
		bundle->peer = peer;
		bundle->reason = reason;
		bundle->receiver_index = READ(keypair->remote_index);
	} else {
		before = bundles.lookup(&key);
		if (before)
			*bundle = *before;
	}
	key = (u64)READ(skb->next);
	if (key)
		bundles.update(&key, bundle);
}

/*
 * Whether encrypt_packet() has had the first packet of a bundle, which is dead. It
 * clears skb->dev of what it encrypts. What it fails at shows by what it does before:
 * it gives each packet a hash, and a checksum to one of our own that has none yet.
 */
static __always_inline bool was_in_encryption(struct sk_buff *skb, struct skb_view *view)
{
	u8 summed = read_u8((u8 *)&skb->__pkt_type_offset) >> 5 & 3; /* skb->ip_summed */
	s32 offset = READ(skb->csum_start) - (s32)(view->data - view->head);
	s32 linear = view->len - READ(skb->data_len);

	if (!view->dev)
		return true;
	if (!READ(skb->hash))
		return false;
	if (summed == CHECKSUM_PARTIAL) /* skb_checksum_help() cannot make it */
		return offset < 0 || offset + READ(skb->csum_offset) + 2 > linear;
	return summed == CHECKSUM_NONE && !READ(skb->skb_iif);
}

/* wg_packet_create_data() frees a bundle: its peer is gone, or has too much queued. */
static __always_inline void drop_in_send_staged(struct drop *drop, struct sk_buff *skb, struct skb_view *view)
{
	struct packet_cb *cb = (void *)skb->cb;
	struct noise_keypair *keypair = READ(cb->keypair);
	struct wg_peer *peer = READ(keypair->entry.peer);
	struct bundle bundle = {};

	drop->wg = device_of(view->dev);
	bundle_of(&bundle, skb, peer,
		  is_peer(peer) && !READ(peer->is_dead) ? WGT_TX_QUEUE_FULL : WGT_PEER_DEAD_TX);
	drop->peer = bundle.peer;
	drop->reason = bundle.reason;
	drop->receiver_index = bundle.receiver_index;
	drop->nonce = READ(cb->nonce);
	if (drop->reason == WGT_TX_QUEUE_FULL)
		drop->queue_len = READ(drop->peer->tx_queue.count.counter);
	drop->inner = view->len ? view->network : NULL; /* else a keepalive */
}

/* wg_packet_tx_worker() frees a bundle that is marked dead. */
static __always_inline void drop_in_tx_worker(struct drop *drop, struct sk_buff *skb, struct skb_view *view)
{
	struct packet_cb *cb = (void *)skb->cb;
	struct bundle bundle = {};

	drop->peer = peer_of_worker();
	drop->wg = peer_device(drop->peer);
	bundle_of(&bundle, skb, drop->peer,
		  was_in_encryption(skb, view) ? WGT_ENCRYPT_FAILED : WGT_ENCRYPT_QUEUE_FULL);
	drop->reason = bundle.reason;
	drop->receiver_index = bundle.receiver_index;
	drop->nonce = READ(cb->nonce);
	if (drop->reason == WGT_ENCRYPT_QUEUE_FULL && drop->wg)
		drop->queue_len = READ(drop->wg->encrypt_queue.ring.size); /* so many: it was full */
	drop->inner = view->dev && view->len ? view->network : NULL; /* else encrypted, or a keepalive */
}

/* send4() or send6() did not get the packet out. Handshake messages tell their errno: handshake.bpf.c. */
static __always_inline void drop_in_send(struct drop *drop, struct skb_view *view)
{
	u32 type = read_u32(view->data);
	u16 family;

	if (type != MESSAGE_DATA)
		return;
	drop->wg = device_of(view->dev);
	drop->peer = peer_of_worker();
	drop->message = view->data;
	drop->message_type = type;
	drop->reason = WGT_NO_ROUTE_TO_ENDPOINT;
	if (!drop->wg || !is_peer(drop->peer))
		return;
	family = READ(drop->peer->endpoint.addr.sa_family);
	if (family == AF_INET ? !READ(drop->wg->sock4) : !READ(drop->wg->sock6)) {
		drop->reason = WGT_UDP_SOCK_NULL;
		drop->err = -64; /* -ENONET */
	}
}

/* prepare_skb_header(): which of its checks fails, 0 if none does. */
static __always_inline u8 bad_header(struct drop *drop, struct skb_view *view)
{
	u32 udp_len, available, type;
	u8 version = ip_version(view->network, view->tail);

	if (version == 0 || view->protocol != (version == 4 ? ETH_P_IP_BE : ETH_P_IPV6_BE) ||
	    view->transport < view->head || view->transport + UDP_HEADER_LEN > view->tail)
		return WGT_SUB_BOGUS_IP;
	udp_len = swap16(READ(((struct udphdr *)view->transport)->len));
	/* skb->data stands at the IP header, the UDP header or the message, by how far it got */
	available = view->len + (view->data - view->transport);
	if (udp_len < UDP_HEADER_LEN || udp_len > available)
		return WGT_SUB_UDP_LEN_LIES;
	drop->message = view->transport + UDP_HEADER_LEN;
	drop->payload_len = udp_len - UDP_HEADER_LEN;
	if (drop->payload_len < 4)
		return WGT_SUB_TOO_SHORT;
	if (drop->message + 4 > view->tail)
		return WGT_SUB_NONLINEAR_PULL_FAILED;
	type = read_u32(drop->message); /* little endian, reserved bytes included */
	if (type < MESSAGE_INITIATION || type > MESSAGE_DATA)
		return WGT_SUB_UNKNOWN_TYPE;
	drop->message_type = type;
	if ((type == MESSAGE_INITIATION && drop->payload_len != MESSAGE_INITIATION_LEN) ||
	    (type == MESSAGE_RESPONSE && drop->payload_len != MESSAGE_RESPONSE_LEN) ||
	    (type == MESSAGE_COOKIE && drop->payload_len != MESSAGE_COOKIE_LEN) ||
	    (type == MESSAGE_DATA && drop->payload_len < MESSAGE_DATA_LEN_MIN))
		return WGT_SUB_WRONG_LENGTH_FOR_TYPE;
	/* the header proper lies beyond the linear part and memory was short */
	return drop->message + MESSAGE_DATA_HEADER_LEN > view->tail ? WGT_SUB_NONLINEAR_PULL_FAILED : 0;
}

/*
 * __ptr_ring_full(): what was taken out is cleared in batches, so that a ring may be
 * full with a few less in it than it has room for.
 */
static __always_inline bool is_ring_full(struct ptr_ring *ring)
{
	void **queue = READ(ring->queue);

	return READ(queue[READ(ring->producer)]) != NULL;
}

/* wg_packet_receive() does not keep the datagram. */
static __always_inline void drop_in_receive(struct drop *drop, struct sk_buff *skb, struct skb_view *view)
{
	struct packet_cb *cb = (void *)skb->cb;
	u16 dport = swap16(READ(((struct udphdr *)view->transport)->dest));
	struct wg_peer *peer;

	/* First: the verifier walks this loop anew for each way out of what comes before it. */
	drop->wg = device_by_port(view->dev, dport);
	drop->sub_reason = bad_header(drop, view);
	drop->outer = view->network;
	if (drop->sub_reason) {
		drop->reason = WGT_BAD_HEADER;
		return;
	}
	if (drop->message_type != MESSAGE_DATA) {
		drop->queue_len = drop->wg ? READ(drop->wg->handshake_queue_len.counter) : 0;
		if (drop->wg && is_ring_full(&drop->wg->handshake_queue.ring))
			drop->reason = WGT_HANDSHAKE_QUEUE_FULL;
		else if (drop->queue_len > 2048)
			drop->reason = WGT_HANDSHAKE_QUEUE_CONTENDED;
		else
			drop->reason = WGT_RNG_NOT_READY;
		return;
	}
	/* wg_packet_consume_data() stores what the index lookup gave */
	drop->keypair = READ(cb->keypair);
	if (!drop->keypair) {
		drop->reason = WGT_UNKNOWN_RECEIVER_INDEX;
		return;
	}
	peer = READ(drop->keypair->entry.peer);
	drop->peer = peer;
	drop->wg = peer_device(peer);
	if (READ(peer->is_dead)) {
		drop->reason = WGT_PEER_DEAD_RX;
	} else {
		drop->reason = WGT_RX_QUEUE_FULL;
		drop->queue_len = READ(peer->rx_queue.count.counter);
	}
}

/* The IP and UDP header in front of a decrypted message are still there, though skb no longer points at them. */
static __always_inline const u8 *outer_before(const u8 *message, const u8 *head)
{
	const u8 *udp = message - UDP_HEADER_LEN;
	const u8 *ip4 = udp - sizeof(struct iphdr), *ip6 = udp - sizeof(struct ipv6hdr);

	if (ip4 >= head && read_u8(ip4) == 0x45 && READ(((struct iphdr *)ip4)->protocol) == IPPROTO_UDP)
		return ip4;
	if (ip6 >= head && read_u8(ip6) >> 4 == 6 && READ(((struct ipv6hdr *)ip6)->nexthdr) == IPPROTO_UDP)
		return ip6;
	return NULL;
}

/*
 * Whether skb_cow_data() failed, or left more pieces than decrypt_packet() takes:
 * where it succeeds, no piece is shared or has pages of its own.
 */
static __always_inline bool is_not_writable(struct sk_buff *skb)
{
	struct skb_shared_info *info = skb_info(skb);
	u32 most = sizeof(info->frags) / sizeof(info->frags[0]) + 8; /* ARRAY_SIZE(sg) */
	struct sk_buff *piece = READ(info->frag_list);

	for (u32 pieces = 1; pieces <= WGT_MAX_PIECES; pieces++) {
		if (pieces > most || READ(info->nr_frags) || (READ(info->dataref.counter) & 0xffff) > 1)
			return true;
		if (!piece)
			return false;
		info = skb_info(piece);
		piece = READ(piece->next);
	}
	return true;
}

/* decrypt_packet() said no, or never ran. */
static __always_inline void dead_packet(struct drop *drop, struct sk_buff *skb, struct skb_view *view)
{
	u64 birthdate = READ(drop->keypair->receiving.birthdate);

	drop->outer = view->network;
	/* it steps over the message header once the keypair was found good */
	if (view->data >= view->transport + UDP_HEADER_LEN + MESSAGE_DATA_HEADER_LEN) {
		drop->message = view->data - MESSAGE_DATA_HEADER_LEN;
		drop->reason = is_not_writable(skb) ? WGT_DECRYPT_NOMEM : WGT_DECRYPT_FAILED;
		return;
	}
	/* and back to the IP header when all but cutting off the tag is done */
	if (view->data < view->transport) {
		drop->message = view->transport + UDP_HEADER_LEN;
		drop->reason = WGT_DECRYPT_NOMEM;
		return;
	}
	drop->message = view->data;
	if (READ(drop->keypair->receiving.is_valid)) {
		drop->reason = WGT_DECRYPT_QUEUE_FULL;
		drop->queue_len = READ(drop->wg->decrypt_queue.ring.size); /* so many: it was full */
	} else if (bpf_ktime_get_boot_ns() - birthdate >= REJECT_AFTER_NS)
		drop->reason = WGT_KEYPAIR_EXPIRED;
	else if (READ(drop->keypair->receiving_counter.counter) >= REJECT_AFTER_MESSAGES)
		drop->reason = WGT_NONCE_LIMIT_RX;
	else
		drop->reason = WGT_KEYPAIR_INVALID;
}

/* counter_validate() said no. */
static __always_inline void replayed_packet(struct drop *drop, struct skb_view *view, u64 nonce)
{
	u64 max = READ(drop->keypair->receiving_counter.counter);

	drop->outer = view->network;
	if (view->protocol != ETH_P_IP_BE && view->protocol != ETH_P_IPV6_BE) {
		drop->reason = WGT_ENDPOINT_FROM_SKB_FAILED;
		return;
	}
	drop->reason = WGT_REPLAY_OR_OLD_COUNTER;
	if (nonce >= REJECT_AFTER_MESSAGES || max > REJECT_AFTER_MESSAGES)
		drop->sub_reason = WGT_SUB_EXHAUSTED;
	else if (nonce + 1 + COUNTER_WINDOW_SIZE < max)
		drop->sub_reason = WGT_SUB_TOO_OLD;
	else
		drop->sub_reason = WGT_SUB_DUPLICATE;
}

/* wg_packet_consume_data_done() does not deliver what it decrypted. */
static __always_inline void refused_inner(struct drop *drop, struct skb_view *view)
{
	u8 version = ip_version(view->data, view->tail);
	u32 len, saddr;

	drop->outer = outer_before(drop->message, view->head);
	if (!view->dev || version == 0 || !view->protocol) {
		drop->reason = WGT_BAD_INNER_HEADER;
		return;
	}
	drop->inner = view->data;
	if (version == 4) {
		len = swap16(READ(((struct iphdr *)view->data)->tot_len));
		saddr = offsetof(struct iphdr, saddr);
	} else {
		len = swap16(READ(((struct ipv6hdr *)view->data)->payload_len)) + sizeof(struct ipv6hdr);
		saddr = offsetof(struct ipv6hdr, saddr);
	}
	if (len < sizeof(struct iphdr) || len > view->len) {
		drop->reason = WGT_BAD_INNER_SIZE;
		return;
	}
	if (len < view->len) {
		drop->reason = WGT_INNER_TRIM_FAILED;
		return;
	}
	drop->reason = WGT_SRC_NOT_ALLOWED;
	drop->owner = allowedips_lookup(drop->wg, view->data + saddr, version);
	drop->sub_reason = drop->owner ? WGT_SUB_OWNED_BY_OTHER_PEER : WGT_SUB_OWNED_BY_NOBODY;
}

/*
 * wg_packet_rx_poll() frees what was not delivered. How far the packet came
 * shows in the skb: its state; then skb->dev, which wg_reset_packet() clears
 * once counter and endpoint are good and which is set to the interface once
 * the inner IP version is.
 */
static __always_inline void drop_in_rx_poll(struct drop *drop, struct sk_buff *skb, struct skb_view *view)
{
	struct packet_cb *cb = (void *)skb->cb;
	u32 state = READ(cb->state.counter);

	drop->keypair = READ(cb->keypair);
	drop->peer = READ(drop->keypair->entry.peer);
	drop->wg = peer_device(drop->peer);
	drop->message_type = MESSAGE_DATA;
	if (!drop->wg)
		return;
	if (state != 1) { /* PACKET_STATE_CRYPTED */
		dead_packet(drop, skb, view);
		return;
	}
	drop->message = view->data - MESSAGE_DATA_HEADER_LEN;
	if (view->dev && view->dev != READ(drop->wg->dev))
		replayed_packet(drop, view, READ(cb->nonce));
	else if (view->len) /* nothing inside: a keepalive, not a drop */
		refused_inner(drop, view);
}

/* skb:kfree_skb: a packet that WireGuard drops on the way out, or in wg_receive(). */
static __always_inline int handle_kfree_skb(struct sk_buff *skb, u64 location, u32 kernel_reason, void *ctx,
					    bool is_second)
{
	struct wgt_sites *known = known_sites();
	u64 place = caller_of_list_free(ctx, known, skb, location);
	u32 site = site_of(known, place);
	struct drop drop = {.location = place, .kernel_reason = kernel_reason};
	struct skb_view view = {};

	if (site == WGT_SITE_NONE || is_taken(skb, BY_KFREE_SKB, is_second))
		return 0;
	skb_view_init(&view, skb);
	drop.end = view.tail;
	drop.len = view.len;
	if (site == WGT_SITE_XMIT) {
		outgoing(&drop, &view);
		drop.reason = refused_by_xmit(&drop, skb, &view);
	} else if (site == WGT_SITE_SEND_STAGED) {
		drop_in_send_staged(&drop, skb, &view);
	} else if (site == WGT_SITE_TX_WORKER) {
		drop_in_tx_worker(&drop, skb, &view);
	} else if (site == WGT_SITE_SEND) {
		drop_in_send(&drop, &view);
	} else if (site == WGT_SITE_RECEIVE || site == WGT_SITE_STOP) {
		drop.wg = device_by_port(view.dev, swap16(READ(((struct udphdr *)view.transport)->dest)));
		drop.outer = view.network;
		drop.reason = WGT_SOCK_USER_DATA_NULL;
		if (site == WGT_SITE_STOP) {
			drop.reason = WGT_HANDSHAKE_PURGED_IFDOWN;
			drop.message = view.data;
			drop.message_type = read_u32(view.data);
		}
	} else if (site == WGT_SITE_PURGE) {
		u64 id = current_frame();
		struct purge *purge = purges.lookup(&id);

		if (purge) {
			drop.peer = purge->peer;
			drop.wg = peer_device(purge->peer);
			drop.reason = purge->reason;
			drop.queue_len = purge->queue_len;
			drop.inner = view.len ? view.network : NULL; /* else a keepalive that waited */
		}
	}
	if (!drop.reason && site == WGT_SITE_SEND)
		return 0;
	take(skb, BY_KFREE_SKB, is_second);
	if (drop.reason)
		drop_emit(&drop);
	else
		count_loss(WGT_LOST_UNCLASSIFIED);
	return 0;
}

/* skb:consume_skb, or the function itself: WireGuard's silent drops, and much that is none. */
static __always_inline int handle_consume_skb(struct sk_buff *skb, u64 location, bool is_second)
{
	u32 site = site_of(known_sites(), location);
	struct drop drop = {.location = location};
	struct skb_view view = {};
	struct wgt_drop_event *e;

	if (site == WGT_SITE_NONE || site == WGT_SITE_HANDSHAKE_WORKER ||
	    is_taken(skb, BY_CONSUME_SKB, is_second))
		return 0;
	/* somebody else still has it: not freed yet (skb_share_check() in wg_xmit()) */
	if (READ(skb->users.refs.counter) > 1)
		return 0;
	skb_view_init(&view, skb);
	drop.end = view.tail;
	drop.len = view.len;
	if (site == WGT_SITE_XMIT) {
		/* a super-packet that was cut into segments is no drop */
		if (!skb_is_gso(skb)) {
			drop.reason = WGT_STAGED_QUEUE_OVERFLOW;
			outgoing(&drop, &view);
			if (is_peer(drop.peer))
				drop.queue_len = READ(drop.peer->staged_packet_queue.qlen) + 1;
		}
	} else if (site == WGT_SITE_SEND_SKB) {
		/* of a handshake message it is told by handshake.bpf.c */
		if (read_u32(view.data) != MESSAGE_DATA)
			return 0;
		drop.reason = WGT_ENDPOINT_AF_INVALID;
		drop.err = -97; /* -EAFNOSUPPORT */
		drop.peer = peer_of_worker();
		drop.wg = peer_device(drop.peer);
	} else if (site == WGT_SITE_RECEIVE) {
		drop_in_receive(&drop, skb, &view);
	} else if (site == WGT_SITE_RX_POLL) {
		drop_in_rx_poll(&drop, skb, &view);
	}
	if (!drop.reason)
		return 0;
	take(skb, BY_CONSUME_SKB, is_second);
	e = drop_begin(&drop);
	if (!e)
		return 0;
	if (drop.reason == WGT_BAD_HEADER && drop.message) {
		u32 len = drop.payload_len;

		if (len >= WGT_PAYLOAD_LEN)
			bpf_probe_read_kernel(e->payload, WGT_PAYLOAD_LEN, drop.message);
		else
			bpf_probe_read_kernel(e->payload, len & (WGT_PAYLOAD_LEN - 1), drop.message);
	}
	events.ringbuf_submit(e, 0);
	return 0;
}

/*
 * Who calls shows in the peer: peer_make_dead() has marked one that is being
 * removed, and the attempts are counted to the end only by
 * wg_expired_retransmit_handshake(); else the interface goes down (wg_stop).
 */
static __always_inline int handle_purge(struct wg_peer *peer)
{
	u64 id = current_frame();
	struct purge purge = {.peer = peer};

	if (!is_peer(peer))
		return 0;
	if (READ(peer->is_dead))
		purge.reason = WGT_STAGED_PURGED_PEER_REMOVED;
	else if (READ(peer->timer_handshake_attempts) > MAX_TIMER_HANDSHAKES)
		purge.reason = WGT_STAGED_PURGED_GIVEUP;
	else
		purge.reason = WGT_STAGED_PURGED_IFDOWN;
	purge.queue_len = READ(peer->staged_packet_queue.qlen);
	purges.update(&id, &purge);
	return 0;
}

static __always_inline int handle_purge_return(void)
{
	u64 id = current_frame();

	purges.delete(&id);
	return 0;
}
