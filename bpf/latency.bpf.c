// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long a packet is in each stage of WireGuard.
 *
 * Outwards: staged (waits for a key), queue (for a crypto worker), crypto, order (for older
 * packets of its peer, and the worker that sends), output (route and output, until it
 * returns). Inwards: queue, crypto, order (for older packets, and NAPI).
 *
 * A packet is known by the address of its skb from wg_prev_queue_enqueue() on, where it
 * comes into both queues, that of the workers and that of its peer. It counts once it is
 * through, in each stage of its way: what is lost on the way is what `drops` tells.
 *
 * Packets are encrypted in bundles, a list behind one skb: the segments of a
 * super-packet, or what waited for the same key. Each counts. Only the first is enqueued and
 * taken by a worker; the others learn its times when the one before them is through.
 *
 * One task at a time sends to a peer (transmit_packet_work), and one receives from it
 * (its NAPI), so nobody else writes to the same histograms.
 */

/* Packets that wait for a key are walked for each that joins them, so many at most. */
#define WGT_MOST_STAGED 256

struct packet {
	struct wg_peer *peer;
	u64 since[WGT_STAGE_TOTAL]; /* when it came into each stage, 0: not yet */
	u64 oldest;		    /* waiting since before that it cannot be, nor those of its bundle */
	u32 cpu;		    /* that does the crypto */
	u8 is_rx;
	u8 is_waiting; /* for a key: all that is known is since when */
	u8 has_waited; /* its bundle has */
	u8 is_keepalive;
};

/*
 * By address of the skb. An entry stays when its packet is through, as the address will come
 * again: to write into it costs a good packet less than to take it out and make it anew.
 */
BPF_TABLE("lru_hash", u64, struct packet, packets, 32768);

/* What a worker is sending: the skb is gone, or another's, when the output returns. */
BPF_TABLE("lru_hash", u64, struct packet, outputs, 1024);

/* What a worker is at, where only a kretprobe tells that it is done. */
BPF_TABLE("lru_hash", u64, u64, in_crypto, 1024);

/* Peers that have no key for what is staged: since when. */
BPF_TABLE("lru_hash", u64, u64, keyless, 4096);

/* Not made beforehand: there are as many as peers that have traffic. 1: BPF_F_NO_PREALLOC. */
BPF_F_TABLE("hash", struct wgt_latency_key, struct wgt_latency, latencies, 65536, 1);
BPF_ARRAY(blanks, struct wgt_latency, 1);
BPF_ARRAY(latency_config, struct wgt_latency_config, 1);

/* The clocks of two CPUs may differ by a little: no stage ends before it begins. */
static __always_inline u64 now_after(u64 before)
{
	u64 now = bpf_ktime_get_boot_ns();

	return now > before ? now : before;
}

/* Bits that it takes to write `value`: its bucket. */
static __always_inline u32 bucket_of(u64 value)
{
	u32 bits = 0, step;

	step = (value >> 32 != 0) << 5;
	value >>= step;
	bits += step;
	step = (value >> 16 != 0) << 4;
	value >>= step;
	bits += step;
	step = (value >> 8 != 0) << 3;
	value >>= step;
	bits += step;
	step = (value >> 4 != 0) << 2;
	value >>= step;
	bits += step;
	step = (value >> 2 != 0) << 1;
	value >>= step;
	bits += step;
	return bits + (value >> 1) + (value != 0);
}

static __always_inline void count_time(struct wgt_histogram *histogram, u64 took)
{
	u32 bucket = bucket_of(took);

	if (bucket >= WGT_BUCKETS)
		bucket = WGT_BUCKETS - 1;
	histogram->bucket[bucket]++;
	histogram->sum += took;
	if (took > histogram->max)
		histogram->max = took;
}

/* The histograms that `packet` counts in, NULL if it is not asked for. */
static __always_inline struct wgt_latency *latency_of(struct packet *packet)
{
	u32 slot = 0;
	struct wgt_latency_config *settings = latency_config.lookup(&slot);
	struct wgt_filter *filter = filters.lookup(&slot);
	struct wgt_latency *blank = blanks.lookup(&slot), *latency;
	struct wgt_latency_key key = {.is_rx = packet->is_rx};
	struct wgt_public_key public_key = {};
	struct wgt_device device = {};

	if (!settings || !filter || !blank)
		return NULL;
	key.peer_id = READ(packet->peer->internal_id);
	key.epoch = settings->epoch;
	key.cpu = settings->by_cpu ? packet->cpu : 0;
	latency = latencies.lookup(&key);
	if (latency)
		return latency;
	read_device(&device, peer_device(packet->peer));
	if (!device.ifindex || !is_traced(&device))
		return NULL;
	bpf_probe_read_kernel(public_key.bytes, sizeof(public_key.bytes),
			      packet->peer->handshake.remote_static);
	if (filter->has_peers && !wanted_peers.lookup(&public_key))
		return NULL;
	latencies.update(&key, blank);
	latency = latencies.lookup(&key);
	if (!latency) {
		count_loss(WGT_LOST_PEERS);
		return NULL;
	}
	latency->device = device;
	__builtin_memcpy(latency->public_key, public_key.bytes, sizeof(latency->public_key));
	return latency;
}

/* Puts a packet among the slowest, in the place of the quickest of them. */
static __always_inline void keep_slow(struct wgt_latency *latency, struct wgt_slow_packet *packet)
{
	struct wgt_slow_packet *quickest = &latency->slowest[0];
	u64 least = ~0ULL;

#pragma unroll
	for (int i = 1; i < WGT_SLOWEST; i++)
		if (latency->slowest[i].total < quickest->total)
			quickest = &latency->slowest[i];
	*quickest = *packet;
#pragma unroll
	for (int i = 0; i < WGT_SLOWEST; i++)
		if (latency->slowest[i].total < least)
			least = latency->slowest[i].total;
	latency->least = least;
}

/* Counts a packet that is through. */
static __always_inline void finish(struct packet *packet)
{
	u64 *since = packet->since;
	u64 end = now_after(since[packet->is_rx ? WGT_STAGE_ORDER : WGT_STAGE_OUTPUT]);
	struct wgt_latency *latency = latency_of(packet);
	struct wgt_slow_packet times = {.ts_ns = end, .cpu = packet->cpu};

	if (!latency)
		return;
	times.queue = since[WGT_STAGE_CRYPTO] - since[WGT_STAGE_QUEUE];
	times.crypto = since[WGT_STAGE_ORDER] - since[WGT_STAGE_CRYPTO];
	if (packet->is_rx) {
		times.order = end - since[WGT_STAGE_ORDER];
	} else {
		times.staged = since[WGT_STAGE_QUEUE] - since[WGT_STAGE_STAGED];
		times.order = since[WGT_STAGE_OUTPUT] - since[WGT_STAGE_ORDER];
		times.output = end - since[WGT_STAGE_OUTPUT];
		count_time(&latency->stage[WGT_STAGE_STAGED], times.staged);
		count_time(&latency->stage[WGT_STAGE_OUTPUT], times.output);
	}
	times.total = end - since[WGT_STAGE_STAGED];
	count_time(&latency->stage[WGT_STAGE_QUEUE], times.queue);
	count_time(&latency->stage[WGT_STAGE_CRYPTO], times.crypto);
	count_time(&latency->stage[WGT_STAGE_ORDER], times.order);
	count_time(&latency->stage[WGT_STAGE_TOTAL], times.total);
	if (times.total > latency->least)
		keep_slow(latency, &times);
}

/* Whether `packet` came through every stage up to its last before our eyes. */
static __always_inline bool is_whole(struct packet *packet, u8 is_rx)
{
	return packet && packet->is_rx == is_rx && !packet->is_waiting && packet->since[WGT_STAGE_QUEUE] &&
	       packet->since[WGT_STAGE_CRYPTO] && packet->since[WGT_STAGE_ORDER];
}

/*
 * Whether `packet` waits for the key of `peer` since `oldest` or later. An skb that was
 * thrown away meanwhile was older than all that still wait; another may be at its address.
 */
static __always_inline bool is_waiting(struct packet *packet, struct wg_peer *peer, u64 oldest)
{
	return packet && packet->is_waiting && packet->peer == peer &&
	       packet->since[WGT_STAGE_STAGED] >= oldest;
}

/*
 * wg_packet_send_queued_handshake_initiation(peer): there is no key for what is staged. All
 * of it is looked at, as packets come to the queue by several CPUs, and go from its head.
 */
static __always_inline int handle_no_key(struct wg_peer *peer)
{
	u64 id = (u64)peer, oldest = bpf_ktime_get_boot_ns();
	struct packet packet = {.peer = peer, .is_waiting = 1};
	u64 now = oldest, *since;
	struct sk_buff *skb;

	if (!is_peer(peer) || !READ(peer->staged_packet_queue.qlen))
		return 0;
	since = keyless.lookup(&id);
	if (since)
		oldest = *since;
	else
		keyless.update(&id, &oldest);
	skb = READ(peer->staged_packet_queue.next);
	for (int i = 0; i < WGT_MOST_STAGED && skb != (void *)&peer->staged_packet_queue; i++) {
		u64 key = (u64)skb;
		struct packet *before = packets.lookup(&key);

		if (!is_waiting(before, peer, oldest)) {
			packet.since[WGT_STAGE_STAGED] = now + i; /* none is as old as another */
			packets.update(&key, &packet);
		} else if (!i) {
			oldest = before->since[WGT_STAGE_STAGED];
		}
		skb = READ(skb->next);
	}
	return 0;
}

/* wg_packet_purge_staged_packets(peer): none waits any more. */
static __always_inline int handle_no_more_staged(struct wg_peer *peer)
{
	u64 id = (u64)peer;

	keyless.delete(&id);
	return 0;
}

/* wg_prev_queue_enqueue(queue, skb): a packet, or a bundle behind its first, is to be encrypted or decrypted. */
static __always_inline int handle_enqueue(void *queue, struct sk_buff *skb)
{
	struct packet_cb *cb = (void *)skb->cb;
	struct noise_keypair *keypair = READ(cb->keypair);
	struct packet packet = {.peer = READ(keypair->entry.peer)};
	u64 key = (u64)skb, id = (u64)packet.peer, *since;
	struct packet *before = packets.lookup(&key);
	u64 now = bpf_ktime_get_boot_ns();
	u32 len = READ(skb->len);

	packet.is_rx = queue == &packet.peer->rx_queue;
	if (!packet.is_rx && queue != &packet.peer->tx_queue)
		return 0;
	packet.since[WGT_STAGE_STAGED] = now;
	packet.since[WGT_STAGE_QUEUE] = now;
	if (packet.is_rx) {
		packet.is_keepalive = len == MESSAGE_DATA_LEN_MIN;
	} else {
		packet.is_keepalive = !len;
		since = keyless.lookup(&id);
		if (since) {
			packet.has_waited = 1;
			packet.oldest = *since;
			if (is_waiting(before, packet.peer, packet.oldest)) {
				packet.oldest = before->since[WGT_STAGE_STAGED];
				packet.since[WGT_STAGE_STAGED] = packet.oldest;
			}
			keyless.delete(&id);
		}
	}
	if (before)
		*before = packet;
	else
		packets.update(&key, &packet);
	return 0;
}

/* encrypt_packet(skb, keypair) and decrypt_packet(skb, keypair) */
static __always_inline int handle_crypto(struct sk_buff *skb, bool remember)
{
	u64 key = (u64)skb, id;
	struct packet *packet = packets.lookup(&key);

	if (remember) {
		id = bpf_get_current_pid_tgid();
		in_crypto.update(&id, &key);
	}
	if (packet && !packet->since[WGT_STAGE_CRYPTO]) { /* else its bundle has begun */
		packet->since[WGT_STAGE_CRYPTO] = now_after(packet->since[WGT_STAGE_QUEUE]);
		packet->cpu = bpf_get_smp_processor_id();
	}
	return 0;
}

/* Tells the packet behind `first` of a bundle what it has in common with it. */
static __always_inline void pass_on(struct packet *first, struct sk_buff *skb)
{
	u64 key = (u64)skb;
	struct packet packet = {}, *before = packets.lookup(&key);

	packet.peer = first->peer;
	packet.cpu = first->cpu;
	packet.oldest = first->oldest;
	packet.has_waited = first->has_waited;
	packet.is_keepalive = !READ(skb->len);
	packet.since[WGT_STAGE_QUEUE] = first->since[WGT_STAGE_QUEUE];
	packet.since[WGT_STAGE_CRYPTO] = first->since[WGT_STAGE_CRYPTO];
	packet.since[WGT_STAGE_STAGED] = packet.since[WGT_STAGE_QUEUE];
	if (packet.has_waited && is_waiting(before, packet.peer, packet.oldest))
		packet.since[WGT_STAGE_STAGED] = before->since[WGT_STAGE_STAGED];
	if (before)
		*before = packet;
	else
		packets.update(&key, &packet);
}

/* encrypt_packet() and decrypt_packet() are done; where a kretprobe tells it, `skb` is NULL. */
static __always_inline int handle_crypto_return(struct sk_buff *skb, u64 ok)
{
	u64 id = bpf_get_current_pid_tgid(), key = (u64)skb, *remembered;
	struct packet *packet;
	struct sk_buff *next;

	if (!skb) {
		remembered = in_crypto.lookup(&id);
		if (!remembered)
			return 0;
		key = *remembered;
		skb = (void *)key;
	}
	packet = packets.lookup(&key);
	if (!packet)
		return 0;
	if (!(ok & 1)) {
		packet->since[WGT_STAGE_QUEUE] = 0; /* lost: it is known no more */
		return 0;
	}
	packet->since[WGT_STAGE_ORDER] = now_after(packet->since[WGT_STAGE_CRYPTO]);
	if (packet->is_rx)
		return 0;
	next = READ(skb->next);
	if (next)
		pass_on(packet, next);
	return 0;
}

/* wg_socket_send_skb_to_peer(peer, skb): also for handshake messages, which are in no queue. */
static __always_inline int handle_send(struct wg_peer *peer, struct sk_buff *skb)
{
	u64 key = (u64)skb, id = bpf_get_current_pid_tgid();
	struct packet *packet = packets.lookup(&key), *output = outputs.lookup(&id);
	struct packet sent = {};

	if (output && output->peer)
		count_loss(WGT_LOST_PACKETS); /* its end was not seen */
	if (!is_whole(packet, 0) || packet->peer != peer) {
		if (read_u32(READ(skb->data)) == MESSAGE_DATA)
			count_loss(WGT_LOST_PACKETS);
	} else {
		if (!packet->is_keepalive) {
			sent = *packet;
			sent.since[WGT_STAGE_OUTPUT] = now_after(sent.since[WGT_STAGE_ORDER]);
		}
		packet->since[WGT_STAGE_QUEUE] = 0;
	}
	if (output)
		*output = sent;
	else
		outputs.update(&id, &sent);
	return 0;
}

static __always_inline int handle_send_return(s32 err)
{
	u64 id = bpf_get_current_pid_tgid();
	struct packet *output = outputs.lookup(&id);

	if (!output || !output->peer)
		return 0;
	if (!err)
		finish(output);
	output->peer = NULL;
	return 0;
}

/* wg_allowedips_lookup_src(table, skb): wg_packet_rx_poll() is about to hand a packet up. */
static __always_inline int handle_deliver(void *table, struct sk_buff *skb)
{
	u64 key = (u64)skb;
	struct packet *packet = packets.lookup(&key);

	if (!is_whole(packet, 1)) {
		count_loss(WGT_LOST_PACKETS);
		return 0;
	}
	finish(packet);
	packet->since[WGT_STAGE_QUEUE] = 0;
	return 0;
}
