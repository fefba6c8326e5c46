// SPDX-License-Identifier: GPL-2.0-only
/*
 * A handshake from the wish for it to the confirmed session, for `wgtrace handshakes`
 * only: who asks for one and why, by which route it goes, how long it takes, and what
 * becomes of the session's keys.
 *
 * Nothing here runs for a good packet: a session is confirmed once, and a route is
 * looked up where none is cached.
 */

#define REKEY_AFTER_NS	    (120 * NSEC_PER_SEC)
#define LAST_MINUTE_NS	    (165 * NSEC_PER_SEC) /* REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT */
#define WORK_STRUCT_PENDING 1
#define LINK_STATE_START    1
#define PF_WQ_WORKER	    0x20
#define WGT_STREAM_ICMP	    0 /* of `streams`: no reason has this number */

/* When the initiation was made, or came in, by peer and role. */
struct begun_key {
	struct wg_peer *peer;
	u64 role;
};

BPF_TABLE("lru_hash", struct begun_key, u64, begun, 4096);
BPF_TABLE("lru_hash", u64, u64, arrivals, 1024);  /* of the message that a kworker looks at, by its task */
BPF_TABLE("lru_hash", u64, u64, no_answer, 1024); /* peers whose timer has just run out */
BPF_TABLE("percpu_hash", struct wgt_handshake_time_key, struct wgt_handshake_time, handshake_times, 8192);

static __always_inline void count_handshake_time(struct wg_peer *peer, const struct wgt_device *device,
						 u8 role, u64 latency_ns)
{
	struct wgt_handshake_time_key key = {};
	u64 bucket = latency_ns ? bpf_log2l(latency_ns) : 0;
	struct wgt_handshake_time zero = {}, *sums;

	__builtin_memcpy(key.ifname, device->ifname, sizeof(key.ifname));
	key.netns = device->netns;
	key.role = role;
	key.bucket = bucket < WGT_BUCKETS ? bucket : WGT_BUCKETS - 1;
	bpf_probe_read_kernel(key.public_key, sizeof(key.public_key), peer->handshake.remote_static);
	handshake_times.insert(&key, &zero);
	sums = handshake_times.lookup(&key);
	if (!sums) {
		count_loss(WGT_LOST_HANDSHAKE_TIMES);
		return;
	}
	lock_xadd(&sums->count, 1);
	lock_xadd(&sums->sum, latency_ns);
	if (sums->max < latency_ns)
		sums->max = latency_ns;
}

/* A step of which nothing else is known. */
static __always_inline void tell(struct wg_peer *peer, u16 code, u8 sub_reason, u64 session_age_ns)
{
	struct wgt_device device = {};
	struct wgt_handshake_event *e;

	if (!count_handshake(peer, &device, code, sub_reason))
		return;
	e = handshake_record(peer, &device, code, sub_reason);
	if (!e)
		return;
	e->session_age_ns = session_age_ns;
	events.ringbuf_submit(e, 0);
}

/* Of the session that is sent with, 0 if there is none. */
static __always_inline u64 session_age(struct wg_peer *peer)
{
	struct noise_keypair *keypair = READ(peer->keypairs.current_keypair);
	u64 now = bpf_ktime_get_boot_ns(), birthdate;

	if (!keypair)
		return 0;
	birthdate = READ(keypair->sending.birthdate);
	return now > birthdate ? now - birthdate : 0;
}

/* wg_expired_new_handshake(timer): data was sent, and for 15 s nothing came; it asks for a handshake next. */
static __always_inline int handle_no_answer(struct timer_list *timer)
{
	struct wg_peer *peer = container_of(timer, struct wg_peer, timer_new_handshake);
	u64 key = (u64)peer, now = bpf_ktime_get_boot_ns();

	if (!is_peer(peer))
		return 0;
	no_answer.update(&key, &now);
	tell(peer, WGT_NO_ANSWER_15S, WGT_SUB_NONE, session_age(peer));
	return 0;
}

/* Why it is asked for: what calls is not told, but only one of them can be the cause. */
static __always_inline u8 why_requested(struct wg_peer *peer, u64 age_ns)
{
	u64 key = (u64)peer;
	u8 why;

	if (no_answer.lookup(&key))
		return WGT_SUB_NO_ANSWER;
	why = bad_key(peer);
	if (why)
		return why;
	return age_ns >= LAST_MINUTE_NS && READ(peer->sent_lastminute_handshake) ? WGT_SUB_LAST_MINUTE
										 : WGT_SUB_KEY_OLD;
}

/* The first of those that will have an initiation sent: not soon after another, nor while that is on its way. */
static __always_inline void tell_request(struct wg_peer *peer)
{
	struct wgt_device device = {};
	struct wgt_handshake_event *e;
	struct skb_view view = {};
	struct sk_buff *first;
	u64 age_ns;
	u8 why;

	if (bpf_ktime_get_boot_ns() - READ(peer->last_sent_handshake.counter) < REKEY_TIMEOUT_NS ||
	    READ(peer->is_dead) || READ(peer->transmit_handshake_work.data.counter) & WORK_STRUCT_PENDING)
		return;
	age_ns = session_age(peer);
	why = why_requested(peer, age_ns);
	if (!count_handshake(peer, &device, WGT_REKEY_REQUESTED, why))
		return;
	e = handshake_record(peer, &device, WGT_REKEY_REQUESTED, why);
	if (!e)
		return;
	e->session_age_ns = age_ns;
	e->queue_len = READ(peer->staged_packet_queue.qlen);
	if (e->queue_len) {
		first = READ(peer->staged_packet_queue.next);
		skb_view_init(&view, first);
		if (view.len) /* a keepalive is empty */
			read_flow(&e->inner, view.data, view.tail);
	}
	events.ringbuf_submit(e, 0);
}

/* wg_packet_send_queued_handshake_initiation(peer, is_retry); a retry is told by its timer. */
static __always_inline int handle_story_queued_initiation(struct wg_peer *peer, u64 is_retry)
{
	u64 key = (u64)peer;

	if (is_peer(peer) && !(is_retry & 1))
		tell_request(peer);
	no_answer.delete(&key);
	return handle_queued_initiation(peer, is_retry);
}

/* wg_noise_handshake_create_initiation(): only the last one made can be answered. */
static __always_inline int handle_story_create_initiation_return(u64 ok)
{
	u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_boot_ns();
	struct sent_handshake *sent = sending.lookup(&id);
	struct begun_key key = {};

	if (sent && ok & 1) {
		key.peer = sent->peer;
		key.role = WGT_SUB_INITIATOR;
		begun.update(&key, &now);
	}
	return handle_create_initiation_return(ok);
}

/* dst_cache_set_ip4() and ..._ip6(): what is sent to a peer goes this way from now on. Other tunnels too. */
static __always_inline int tell_route(struct dst_cache *cache, struct dst_entry *dst, const void *source,
				      u32 source_len)
{
	struct wg_peer *peer = container_of(cache, struct wg_peer, endpoint_cache);
	struct wgt_device device = {};
	struct wgt_handshake_event *e;
	struct net_device *out;

	if (!count_handshake(peer, &device, WGT_ROUTE_FOUND, WGT_SUB_NONE))
		return 0;
	e = handshake_record(peer, &device, WGT_ROUTE_FOUND, WGT_SUB_NONE);
	if (!e)
		return 0;
	out = READ(dst->dev);
	bpf_probe_read_kernel_str(e->out_ifname, sizeof(e->out_ifname), out->name);
	bpf_probe_read_kernel(e->source, source_len, source);
	events.ringbuf_submit(e, 0);
	return 0;
}

static __always_inline int handle_route4(struct dst_cache *cache, struct dst_entry *dst, u32 source)
{
	return tell_route(cache, dst, &source, 4);
}

static __always_inline int handle_route6(struct dst_cache *cache, struct dst_entry *dst, const u8 *source)
{
	return tell_route(cache, dst, source, 16);
}

static __always_inline int handle_story_receive_handshake(struct wg_device *wg, struct sk_buff *skb)
{
	u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_boot_ns();

	arrivals.update(&id, &now);
	return handle_receive_handshake(wg, skb);
}

/* An accepted message is told here and not in the end: it comes before the session and the response. */
static __always_inline int handle_story_consume_return(struct wg_peer *peer)
{
	u64 id = bpf_get_current_pid_tgid();
	struct begun_key key = {.peer = peer, .role = WGT_SUB_RESPONDER};
	struct handshake_frame *frame;
	u64 *arrived;

	handle_consume_return(peer);
	frame = receiving_frame();
	if (!frame || !frame->accepted)
		return 0;
	frame->accepted = 2;
	arrived = arrivals.lookup(&id);
	if (arrived && frame->type == MESSAGE_INITIATION)
		begun.update(&key, arrived);
	emit_handshake(peer, frame->type == MESSAGE_INITIATION ? WGT_INIT_ACCEPTED : WGT_RESPONSE_ACCEPTED,
		       frame->sender_index, frame->receiver_index, 0, frame->came_ns);
	return 0;
}

static __always_inline void tell_session(struct wg_peer *peer, struct noise_keypair *keypair, u16 code,
					 u8 role)
{
	struct begun_key key = {.peer = peer, .role = role};
	struct wgt_device device = {};
	struct wgt_handshake_event *e;
	u64 latency_ns = 0, *since;

	if (!count_handshake(peer, &device, code, role))
		return;
	if (code == WGT_HANDSHAKE_COMPLETE) {
		since = begun.lookup(&key);
		if (since) {
			latency_ns = bpf_ktime_get_boot_ns() - *since;
			count_handshake_time(peer, &device, role, latency_ns);
			begun.delete(&key);
		}
	}
	e = handshake_record(peer, &device, code, role);
	if (!e)
		return;
	e->sender_index = READ(keypair->entry.index);
	e->receiver_index = READ(keypair->remote_index);
	e->latency_ns = latency_ns;
	events.ringbuf_submit(e, 0);
}

/* wg_timers_session_derived(peer): who answers has it as the next one, until it is confirmed. */
static __always_inline int handle_session_derived(struct wg_peer *peer)
{
	struct noise_keypair *next, *keypair;

	if (!is_peer(peer))
		return 0;
	next = READ(peer->keypairs.next_keypair);
	keypair = next ?: READ(peer->keypairs.current_keypair);
	tell_session(peer, keypair, WGT_SESSION_DERIVED, next ? WGT_SUB_RESPONDER : WGT_SUB_INITIATOR);
	return 0;
}

/*
 * wg_timers_handshake_complete(peer): the response was accepted, or, for who sent
 * it, the first packet of the session came.
 */
static __always_inline int handle_story_complete(struct wg_peer *peer)
{
	struct noise_keypair *keypair;

	if (!is_peer(peer))
		return 0;
	keypair = READ(peer->keypairs.current_keypair);
	tell_session(peer, keypair, WGT_HANDSHAKE_COMPLETE,
		     READ(keypair->i_am_the_initiator) ? WGT_SUB_INITIATOR : WGT_SUB_RESPONDER);
	return 0;
}

static __always_inline int handle_story_retransmit(struct timer_list *timer)
{
	struct wg_peer *peer = container_of(timer, struct wg_peer, timer_retransmit_handshake);
	struct wgt_device device = {};
	struct wgt_handshake_event *e;
	u32 attempts;
	u16 code;

	if (!is_peer(peer))
		return 0;
	attempts = READ(peer->timer_handshake_attempts);
	code = attempts > MAX_TIMER_HANDSHAKES ? WGT_GIVE_UP : WGT_RETRY;
	if (!count_handshake(peer, &device, code, WGT_SUB_NONE))
		return 0;
	e = handshake_record(peer, &device, code, WGT_SUB_NONE);
	if (!e)
		return 0;
	e->attempt = attempts + 1;
	e->queue_len = READ(peer->staged_packet_queue.qlen);
	events.ringbuf_submit(e, 0);
	return 0;
}

/* Whether this kworker runs the peer's clear_peer_work: nothing used the session for 540 s. */
static __always_inline bool is_clearing_unused(struct wg_peer *peer)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct kthread *kthread;
	struct worker *worker;

	if (!(READ(task->flags) & PF_WQ_WORKER))
		return false;
	kthread = READ(task->worker_private);
	worker = READ(kthread->data);
	return READ(worker->current_work) == &peer->clear_peer_work;
}

/* wg_noise_keypairs_clear(keypairs) */
static __always_inline int handle_keypairs_clear(struct noise_keypairs *keypairs)
{
	struct wg_peer *peer = container_of(keypairs, struct wg_peer, keypairs);
	struct wg_device *wg = peer_device(peer);
	struct net_device *dev;
	u8 why = WGT_SUB_SUSPENDED;

	if (!wg || (!READ(keypairs->current_keypair) && !READ(keypairs->next_keypair)))
		return 0;
	dev = READ(wg->dev);
	if (READ(peer->is_dead))
		why = WGT_SUB_PEER_REMOVED;
	else if (!(READ(dev->state) & LINK_STATE_START))
		why = WGT_SUB_INTERFACE_DOWN;
	else if (is_clearing_unused(peer))
		why = WGT_SUB_UNUSED_540S;
	tell(peer, WGT_KEYS_CLEARED, why, session_age(peer));
	return 0;
}

/* wg_noise_expire_current_peer_keypairs(peer): a new private key, or this machine was cloned. */
static __always_inline int handle_keypairs_expire(struct wg_peer *peer)
{
	if (is_peer(peer) && (READ(peer->keypairs.current_keypair) || READ(peer->keypairs.next_keypair)))
		tell(peer, WGT_KEYS_EXPIRED, WGT_SUB_NONE, session_age(peer));
	return 0;
}

/*
 * udp_err(skb, ...) and udpv6_err(): an ICMP error came for a datagram that was sent from a port
 * of WireGuard's, which takes no notice of it. skb->data is the IP header that it quotes.
 */
static __always_inline int tell_icmp_error(struct sk_buff *skb, u32 source_offset, u32 source_len)
{
	struct skb_view view = {};
	struct wgt_device device = {};
	struct wgt_flow sent = {};
	struct wgt_handshake_event *e;
	struct wg_device *wg;
	const u8 *udp;

	skb_view_init(&view, skb);
	read_flow(&sent, view.data, view.tail);
	if (sent.proto != IPPROTO_UDP)
		return 0;
	wg = device_by_port(view.dev, sent.sport);
	read_device(&device, wg);
	if (!device.ifindex || !is_traced(&device) ||
	    !may_stream(WGT_STREAM_ICMP, bpf_ktime_get_boot_ns(), true, 0))
		return 0;
	e = handshake_record(NULL, &device, WGT_ICMP_ERROR, WGT_SUB_NONE);
	if (!e)
		return 0;
	e->inner = sent;
	bpf_probe_read_kernel(e->source, source_len, view.network + source_offset);
	e->icmp_type = read_u8(view.transport);
	e->icmp_code = read_u8(view.transport + 1);
	udp = view.data + (sent.family == 4 ? (read_u8(view.data) & 0xf) * 4 : sizeof(struct ipv6hdr));
	if (udp + UDP_HEADER_LEN + 4 <= view.tail) /* many quote no more than the UDP header */
		e->message_type = read_u8(udp + UDP_HEADER_LEN);
	events.ringbuf_submit(e, 0);
	return 0;
}

static __always_inline int handle_icmp_error4(struct sk_buff *skb)
{
	return tell_icmp_error(skb, offsetof(struct iphdr, saddr), 4);
}

static __always_inline int handle_icmp_error6(struct sk_buff *skb)
{
	return tell_icmp_error(skb, offsetof(struct ipv6hdr, saddr), 16);
}
