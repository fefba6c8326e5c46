/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets that WireGuard frees on the way out: which of its checks failed, read
 * off the skb and the peer.
 */
#pragma once

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
