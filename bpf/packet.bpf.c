// SPDX-License-Identifier: GPL-2.0-only
/*
 * Data messages that leave and arrive, one in so many: for `wgtrace record --sample`
 * only, as these programs run for each packet. What is told is chosen by the counter
 * of the message, so that both ends tell of the same ones without asking each other.
 */

BPF_ARRAY(sampling, u64, 1); /* one in so many; 0: none */

/* A message that is about to leave. */
struct leaving {
	struct wg_peer *peer;
	u64 ts_ns;
	u64 nonce;
	u32 receiver_index;
	u32 len;
};

BPF_TABLE("lru_hash", u64, struct leaving, leaving, 1024);

/* Whether the message at `message` is data, and one of those that are told; `nonce` is its counter. */
static __always_inline bool is_sampled(const u8 *message, u64 *nonce)
{
	u32 slot = 0;
	u64 *one_in = sampling.lookup(&slot);

	if (!one_in || !*one_in || read_u32(message) != MESSAGE_DATA)
		return false;
	*nonce = read_u64(message + 8);
	return *nonce % *one_in == 0;
}

static __always_inline struct wgt_packet_event *packet_begin(struct wg_device *wg, struct wg_peer *peer,
							     u8 way)
{
	struct wgt_device device = {};
	struct wgt_packet_event *e;

	read_device(&device, wg);
	if (!is_traced(&device))
		return NULL;
	e = events.ringbuf_reserve(sizeof(struct wgt_packet_event));
	if (!e) {
		count_loss(WGT_LOST_EVENTS);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	header_init(&e->hdr, WGT_EVENT_PACKET, sizeof(*e));
	e->device = device;
	read_peer(&e->peer, peer);
	e->way = way;
	return e;
}

/* wg_socket_send_skb_to_peer(peer, skb, ds): skb->data stands at the message. */
static __always_inline int handle_send_skb(struct wg_peer *peer, struct sk_buff *skb)
{
	u64 id = current_frame();
	const u8 *message = READ(skb->data);
	struct leaving it = {.peer = peer};

	if (!is_sampled(message, &it.nonce))
		return 0;
	it.ts_ns = bpf_ktime_get_boot_ns();
	it.receiver_index = read_u32(message + 4);
	it.len = READ(skb->len);
	leaving.update(&id, &it);
	return 0;
}

/* 0: it left. */
static __always_inline int handle_send_skb_return(s32 err)
{
	u64 id = current_frame();
	struct leaving *it = leaving.lookup(&id);
	struct wgt_packet_event *e;

	if (!it)
		return 0;
	e = err ? NULL : packet_begin(peer_device(it->peer), it->peer, WGT_LEFT);
	if (e) {
		e->hdr.ts_ns = it->ts_ns;
		e->nonce = it->nonce;
		e->receiver_index = it->receiver_index;
		e->len = it->len;
		events.ringbuf_submit(e, 0);
	}
	leaving.delete(&id);
	return 0;
}

/* wg_packet_receive(wg, skb), which finds the message behind the UDP header. */
static __always_inline int handle_packet_receive(struct wg_device *wg, struct sk_buff *skb)
{
	struct index_hashtable_entry *entry;
	struct wg_peer *peer = NULL;
	struct skb_view view = {};
	struct wgt_packet_event *e;
	const u8 *message;
	u32 index;
	u64 nonce;

	skb_view_init(&view, skb);
	message = view.transport + UDP_HEADER_LEN;
	if (message + MESSAGE_DATA_HEADER_LEN > view.tail || !is_sampled(message, &nonce))
		return 0;
	index = read_u32(message + 4);
	entry = index_lookup(wg, index, INDEX_HASHTABLE_KEYPAIR);
	if (entry)
		peer = READ(entry->peer);
	e = packet_begin(wg, peer, WGT_ARRIVED);
	if (!e)
		return 0;
	read_flow(&e->outer, view.network, view.tail);
	e->nonce = nonce;
	e->receiver_index = index;
	e->len = swap16(READ(((struct udphdr *)view.transport)->len)) - UDP_HEADER_LEN;
	events.ringbuf_submit(e, 0);
	return 0;
}
