/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets that WireGuard frees on the way in: which of its checks failed, read
 * off the skb and the keypair.
 */
#pragma once

#define WGT_MAX_PIECES 32

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
