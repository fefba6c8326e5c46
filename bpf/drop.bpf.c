// SPDX-License-Identifier: GPL-2.0-only
/*
 * Packets that WireGuard frees.
 *
 * Nothing here runs for a good packet but the first lines of handle_kfree_skb
 * and handle_consume_skb: the reason is read off the skb when WireGuard frees
 * it, from where it is freed and from what was already done to it. Every drop
 * on receive is a consume_skb(), which other tools take for a normal end.
 * What each of WireGuard's functions frees is told in drop_tx.bpf.h and
 * drop_rx.bpf.h.
 */

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
#ifdef WGT_COUNTS_SESSIONS
	count_refused(&drop);
#endif
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
