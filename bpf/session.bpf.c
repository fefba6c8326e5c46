// SPDX-License-Identifier: GPL-2.0-only
/* The good messages of each session: session.bpf.h says what is counted. And how much of each peer's waits. */

/* By wg_peer.internal_id. 1: BPF_F_NO_PREALLOC. */
BPF_F_TABLE("hash", u64, struct wgt_queues, queues, 8192, 1);

/* wg_timers_session_derived(peer): from its first message on all is seen. */
static __always_inline int handle_counted_session(struct wg_peer *peer)
{
	struct noise_keypair *next, *keypair;

	if (!is_peer(peer))
		return 0;
	next = READ(peer->keypairs.next_keypair);
	keypair = next ?: READ(peer->keypairs.current_keypair);
	if (keypair)
		session_of(keypair, 0);
	return handle_session_derived(peer);
}

/*
 * wg_socket_endpoint_from_skb(endpoint, skb): wg_packet_rx_poll() has taken the counter for
 * good, which it does but once for each. Handshake messages come here too, and have no
 * keypair; the header of a data message is still in front of what was decrypted.
 */
static __always_inline int handle_accepted(void *endpoint, struct sk_buff *skb)
{
	struct packet_cb *cb = (void *)skb->cb;
	struct noise_keypair *keypair = READ(cb->keypair);
	const u8 *header = READ(skb->data) - MESSAGE_DATA_HEADER_LEN;
	struct wgt_session *session;
	u64 nonce;

	if (read_u32(header) != MESSAGE_DATA || read_u32(header + 4) != READ(keypair->entry.index))
		return 0;
	nonce = READ(cb->nonce);
	session = session_of(keypair, nonce);
	if (!session || nonce < session->first) /* the latter was sent before we looked */
		return 0;
	session->received++;
	if (nonce < session->next)
		session->late++;
	else
		session->next = nonce + 1;
	return 0;
}

/*
 * wg_allowedips_read_node(node, ip, cidr): somebody has the peers of an interface listed, as
 * user space does for each frame; it is called for each prefix of each of them.
 */
static __always_inline int handle_listed(struct allowedips_node *node)
{
	struct wg_peer *peer = READ(node->peer);
	struct wgt_queues found = {};
	u64 id;

	if (!is_peer(peer))
		return 0;
	read_device(&found.device, peer_device(peer));
	if (!is_traced(&found.device))
		return 0;
	id = READ(peer->internal_id);
	found.ts_ns = bpf_ktime_get_boot_ns();
	found.staged = READ(peer->staged_packet_queue.qlen);
	found.outgoing = READ(peer->tx_queue.count.counter);
	found.incoming = READ(peer->rx_queue.count.counter);
	bpf_probe_read_kernel(found.public_key, sizeof(found.public_key), peer->handshake.remote_static);
	queues.update(&id, &found);
	return 0;
}
