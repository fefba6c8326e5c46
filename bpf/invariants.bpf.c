// SPDX-License-Identifier: GPL-2.0-only
/*
 * What cannot fail on a sound kernel, looked at where it would: with --invariants
 * only, as two of these programs run for each packet. Each look is counted, held or
 * violated, so that "never violated" says of how many; a violation is told with the
 * stack that led to it. `INVARIANTS` in events/reasons.py says which kernels violate
 * what, and which commit mended it.
 */

#define CLOCK_IS_NEAR_NS (1ULL << 36) /* 68 s: further ahead no qdisc lets a packet leave */
#define PADDING_LEN	 16

BPF_TABLE("percpu_array", u32, struct wgt_stream, invariant_streams, WGT_INVARIANTS);

/* Counts a look; gives the record of a violation, all filled but for what only the caller knows. */
static __always_inline struct wgt_invariant_event *looked_at(struct wg_peer *peer, u32 code, bool holds,
							     void *ctx)
{
	struct wgt_total_key key = {};
	struct wgt_device device = {};
	struct wgt_invariant_event *e;

	read_device(&device, peer_device(peer));
	if (!is_traced(&device) || !is_peer(peer))
		return NULL;
	__builtin_memcpy(key.ifname, device.ifname, sizeof(key.ifname));
	key.netns = device.netns;
	key.kind = WGT_EVENT_INVARIANT;
	key.code = code;
	key.matched = holds;
	key.peer_known = 1;
	bpf_probe_read_kernel(key.public_key, sizeof(key.public_key), peer->handshake.remote_static);
	count_total(&key);
	if (holds || !may_stream_in(invariant_streams.lookup(&code), bpf_ktime_get_boot_ns(), true, 0))
		return NULL;
	e = events.ringbuf_reserve(sizeof(struct wgt_invariant_event));
	if (!e) {
		count_loss(WGT_LOST_EVENTS);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	header_init(&e->hdr, WGT_EVENT_INVARIANT, sizeof(*e));
	e->device = device;
	read_peer(&e->peer, peer);
	e->code = code;
	bpf_get_stack(ctx, e->stack, sizeof(e->stack), 0);
	return e;
}

/* The response that a task takes: the index that it names. */
BPF_TABLE("lru_hash", u64, u32, taking, 1024);
/* Indices that a response came for. */
BPF_TABLE("lru_hash", u32, u32, answered, 4096);

/* wg_noise_handshake_consume_response(message, wg) */
static __always_inline int handle_take_response(const u8 *message)
{
	u64 id = current_frame();
	u32 index = read_u32(message + 8), yes = 1;

	taking.update(&id, &index);
	answered.update(&index, &yes);
	return 0;
}

/*
 * It gives the peer whose handshake the response completed. By then that may be under
 * way anew, which its state says; or even completed anew, and then a response came for
 * the new index: neither says anything about this one.
 */
static __always_inline int handle_take_response_return(struct wg_peer *peer, void *ctx)
{
	u64 id = current_frame();
	u32 *named = taking.lookup(&id), index, expected;
	struct wgt_invariant_event *e;

	if (!named)
		return 0;
	expected = *named;
	taking.delete(&id);
	if (!is_peer(peer))
		return 0;
	index = READ(peer->handshake.entry.index);
	if (READ(peer->handshake.state) != HANDSHAKE_CONSUMED_RESPONSE)
		return 0;
	if (index != expected && answered.lookup(&index))
		return 0;
	e = looked_at(peer, WGT_RESPONSE_INDEX, index == expected, ctx);
	if (!e)
		return 0;
	e->expected = expected;
	e->found = index;
	events.ringbuf_submit(e, 0);
	return 0;
}

/*
 * wg_allowedips_lookup_src(table, skb): the packet is decrypted and cut to the length
 * that its IP header says. What was cut off is still behind it, and the UDP header in
 * front of it says how much that was.
 */
static __always_inline int handle_padding(void *table, struct sk_buff *skb, void *ctx)
{
	struct packet_cb *cb = (void *)skb->cb;
	struct noise_keypair *keypair = READ(cb->keypair);
	u8 bytes[PADDING_LEN] = {};
	struct wgt_invariant_event *e;
	struct skb_view view = {};
	const u8 *message;
	u32 padded, len;
	u64 found = 0;

	if (READ(skb->data_len))
		return 0;
	skb_view_init(&view, skb);
	message = view.data - MESSAGE_DATA_HEADER_LEN;
	if (message - UDP_HEADER_LEN < view.head || read_u32(message) != MESSAGE_DATA)
		return 0;
	padded = swap16(READ(((struct udphdr *)(message - UDP_HEADER_LEN))->len));
	padded -= UDP_HEADER_LEN + MESSAGE_DATA_LEN_MIN;
	len = padded - view.len;
	if (!len || len >= PADDING_LEN)
		return 0;
	/* behind the padding is the tag, of the same length: no read of it leaves the skb's memory */
	if (bpf_probe_read_kernel(bytes, sizeof(bytes), view.data + view.len))
		return 0;
#pragma unroll
	for (u32 i = 0; i < PADDING_LEN; i++)
		found += i < len && bytes[i];
	e = looked_at(READ(keypair->entry.peer), WGT_PADDING_ZERO, !found, ctx);
	if (!e)
		return 0;
	read_flow(&e->inner, view.data, view.tail);
	e->found = found;
	e->len = len;
	events.ringbuf_submit(e, 0);
	return 0;
}

/*
 * wg_socket_send_skb_to_peer(peer, skb, ds): a time of the monotonic clock that the packet
 * says is of the real one, which is 0. The two are never near each other.
 */
static __always_inline int handle_tstamp(struct wg_peer *peer, struct sk_buff *skb, void *ctx)
{
	u64 time = READ(skb->tstamp), now = bpf_ktime_get_ns();
	struct wgt_invariant_event *e;
	u8 type;

	if (!WGT_TSTAMP_TYPE_BITS || !time || time + CLOCK_IS_NEAR_NS < now || time > now + CLOCK_IS_NEAR_NS)
		return 0;
	type = read_u8((u8 *)skb + WGT_TSTAMP_TYPE_BIT / 8) >> (WGT_TSTAMP_TYPE_BIT % 8);
	type &= (1 << WGT_TSTAMP_TYPE_BITS) - 1;
	e = looked_at(peer, WGT_TSTAMP_TYPE, type, ctx);
	if (!e)
		return 0;
	e->expected = time;
	e->found = type;
	events.ringbuf_submit(e, 0);
	return 0;
}
