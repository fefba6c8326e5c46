// SPDX-License-Identifier: GPL-2.0-only
/*
 * Handshake messages: received and refused, sent and not answered.
 *
 * Every handshake message ends in consume_skb(), good or bad, so the verdict
 * is in return values. A kworker takes one message at a time and does not nest,
 * so what it does is gathered in one frame by its task, from the entry of
 * wg_receive_handshake_packet() to its return.
 */

/* TAI64N (12 bytes on the wire), as it is sent: big endian. */
struct tai64n {
	u64 seconds;
	u32 nanoseconds;
	u32 pad;
};

struct handshake_frame {
	struct wg_device *wg;
	struct wg_peer *peer; /* whom it turned out to be from, or whom we send to */
	const u8 *message;
	const u8 *datagram; /* its IP header */
	const u8 *end;
	u8 *plaintext; /* where the AEAD writes */
	u64 plaintext_len;
	u32 type;
	u32 sender_index;
	u32 receiver_index;
	s32 mac_state; /* enum cookie_mac_state, -1: not asked */
	u8 under_load;
	u8 consumed;  /* wg_noise_handshake_consume_*() was entered */
	u8 accepted;  /* 2: and that is told already */
	u8 looked_up; /* the public key was looked up */
	u8 dh_failed;
	u8 aead_calls;
	u8 aead_ok; /* of the last call */
	u8 has_timestamp;
	u8 known_index;
	u8 response_failed; /* no response made, or no session */
	u8 pad[2];
	u8 public_key[WGT_KEY_LEN];
	struct tai64n timestamp;
	struct tai64n latest_timestamp;
	u64 came_ns;
};

BPF_TABLE("lru_hash", u64, struct handshake_frame, receiving, 1024);

/* What a kworker sends, and whether it got as far as to make it. */
struct sent_handshake {
	struct wg_peer *peer;
	u64 made_ns; /* when the message was made, or a response begun; 0: not yet */
	u32 is_made;
	u32 pad;
};

BPF_TABLE("lru_hash", u64, struct sent_handshake, sending, 1024);

/* A keepalive about to be made: what sending it would change. */
struct keepalive {
	struct wg_peer *peer;
	struct noise_keypair *keypair;
	u64 sent;
};

BPF_TABLE("lru_hash", u64, struct keepalive, keepalives, 1024);

static __always_inline struct handshake_frame *receiving_frame(void)
{
	u64 id = bpf_get_current_pid_tgid();

	return receiving.lookup(&id);
}

/* wg_receive_handshake_packet(wg, skb); skb->data stands at the message. */
static __always_inline int handle_receive_handshake(struct wg_device *wg, struct sk_buff *skb)
{
	u64 id = bpf_get_current_pid_tgid();
	struct handshake_frame frame = {.wg = wg, .mac_state = -1, .came_ns = bpf_ktime_get_boot_ns()};
	struct skb_view view = {};

	skb_view_init(&view, skb);
	frame.message = view.data;
	frame.type = read_u32(view.data);
	if (frame.type == MESSAGE_COOKIE) {
		frame.receiver_index = read_u32(view.data + 4);
	} else {
		frame.sender_index = read_u32(view.data + 4);
		if (frame.type == MESSAGE_RESPONSE)
			frame.receiver_index = read_u32(view.data + 8);
	}
	frame.datagram = view.network;
	frame.end = view.tail;
	receiving.update(&id, &frame);
	return 0;
}

/* wg_cookie_validate_packet(checker, skb, check_cookie) */
static __always_inline int handle_cookie_validate(void *checker, struct sk_buff *skb, u64 check_cookie)
{
	struct handshake_frame *frame = receiving_frame();

	if (frame)
		frame->under_load = check_cookie & 1;
	return 0;
}

static __always_inline int handle_cookie_validate_return(s32 mac_state)
{
	struct handshake_frame *frame = receiving_frame();

	if (frame)
		frame->mac_state = mac_state;
	return 0;
}

static __always_inline int handle_consume_initiation(void)
{
	struct handshake_frame *frame = receiving_frame();

	if (frame)
		frame->consumed = 1;
	return 0;
}

/* Both wg_noise_handshake_consume_*() give the peer, or NULL. */
static __always_inline int handle_consume_return(struct wg_peer *peer)
{
	struct handshake_frame *frame = receiving_frame();

	if (frame && is_peer(peer)) {
		frame->accepted = 1;
		frame->peer = peer;
	}
	return 0;
}

/* wg_noise_handshake_consume_response(message, wg): is there a handshake that it answers? */
static __always_inline int handle_consume_response(void)
{
	struct handshake_frame *frame = receiving_frame();
	struct index_hashtable_entry *entry;
	struct wg_peer *peer;

	if (!frame)
		return 0;
	frame->consumed = 1;
	entry = index_lookup(frame->wg, frame->receiver_index, INDEX_HASHTABLE_HANDSHAKE);
	if (!entry)
		return 0;
	peer = READ(entry->peer);
	if (!is_peer(peer))
		return 0;
	frame->known_index = 1;
	frame->peer = peer;
	return 0;
}

/* wg_cookie_message_consume(message, wg): does the cookie come from a peer that we spoke to? */
static __always_inline int handle_cookie_consume(void)
{
	struct handshake_frame *frame = receiving_frame();
	struct index_hashtable_entry *entry;

	if (!frame)
		return 0;
	frame->consumed = 1;
	entry = index_lookup(frame->wg, frame->receiver_index,
			     INDEX_HASHTABLE_HANDSHAKE | INDEX_HASHTABLE_KEYPAIR);
	if (entry) {
		frame->known_index = 1;
		frame->peer = READ(entry->peer);
	}
	return 0;
}

/* xchacha20poly1305_decrypt(), which is for cookies only. */
static __always_inline int handle_cookie_aead_return(u64 ok)
{
	struct handshake_frame *frame = receiving_frame();

	if (frame) {
		frame->aead_calls++;
		frame->aead_ok = ok & 1;
	}
	return 0;
}

/* wg_pubkey_hashtable_lookup(table, public_key), also called to configure a peer: hence the frame. */
static __always_inline int handle_pubkey_lookup(void *table, const u8 *public_key)
{
	struct handshake_frame *frame = receiving_frame();

	if (frame && frame->consumed) {
		frame->looked_up = 1;
		bpf_probe_read_kernel(frame->public_key, sizeof(frame->public_key), public_key);
	}
	return 0;
}

static __always_inline int handle_pubkey_lookup_return(struct wg_peer *peer)
{
	struct handshake_frame *frame = receiving_frame();

	if (frame && frame->consumed && is_peer(peer)) {
		frame->peer = peer;
		bpf_probe_read_kernel(&frame->latest_timestamp, WGT_TAI64N_LEN,
				      peer->handshake.latest_timestamp);
	}
	return 0;
}

static __always_inline int handle_mix_dh_return(u64 ok)
{
	struct handshake_frame *frame = receiving_frame();

	if (frame && !(ok & 1))
		frame->dh_failed = 1;
	return 0;
}

/*
 * chacha20poly1305_decrypt(dst, src, src_len, ...): the sender's public key,
 * then its time; in a response, nothing. The key argument is never touched.
 */
static __always_inline int handle_aead(u8 *dst, const u8 *src, u64 src_len)
{
	struct handshake_frame *frame = receiving_frame();

	if (frame) {
		frame->aead_calls++;
		frame->aead_ok = 0;
		frame->plaintext = dst;
		frame->plaintext_len = src_len - 16;
	}
	return 0;
}

static __always_inline int handle_aead_return(u64 ok)
{
	struct handshake_frame *frame = receiving_frame();

	if (!frame || !frame->aead_calls || !(ok & 1))
		return 0;
	frame->aead_ok = 1;
	if (frame->type == MESSAGE_INITIATION && frame->plaintext_len == WGT_TAI64N_LEN) {
		frame->has_timestamp = 1;
		bpf_probe_read_kernel(&frame->timestamp, WGT_TAI64N_LEN, frame->plaintext);
	}
	return 0;
}

/* wg_noise_handshake_create_response() and wg_noise_handshake_begin_session() */
static __always_inline int handle_session_return(u64 ok)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sent_handshake *sent = sending.lookup(&id);
	struct handshake_frame *frame = receiving_frame();

	if (frame && !(ok & 1))
		frame->response_failed = 1;
	if (sent)
		sent->made_ns = bpf_ktime_get_boot_ns();
	return 0;
}

static __always_inline bool is_newer(const struct tai64n *time, const struct tai64n *than)
{
	u64 seconds = __builtin_bswap64(time->seconds), than_seconds = __builtin_bswap64(than->seconds);

	if (seconds != than_seconds)
		return seconds > than_seconds;
	return __builtin_bswap32(time->nanoseconds) > __builtin_bswap32(than->nanoseconds);
}

static __always_inline u16 refused_initiation(struct handshake_frame *frame)
{
	if (!READ(frame->wg->static_identity.has_identity))
		return WGT_NO_PRIVATE_KEY;
	if (!frame->looked_up)
		return frame->aead_calls ? WGT_INIT_STATIC_DECRYPT_FAILED : WGT_INIT_DH_FAILED;
	if (!frame->peer)
		return WGT_UNKNOWN_PEER_PUBKEY;
	if (frame->aead_calls < 2)
		return WGT_INIT_PRECOMPUTED_ZERO;
	if (!frame->aead_ok)
		return WGT_INIT_TIMESTAMP_DECRYPT_FAILED;
	return is_newer(&frame->timestamp, &frame->latest_timestamp) ? WGT_HANDSHAKE_FLOOD
								     : WGT_HANDSHAKE_INIT_REPLAY;
}

static __always_inline u16 refused_response(struct handshake_frame *frame)
{
	if (!READ(frame->wg->static_identity.has_identity))
		return WGT_NO_PRIVATE_KEY;
	if (!frame->known_index)
		return WGT_RESP_UNKNOWN_INDEX;
	if (frame->aead_calls)
		return frame->aead_ok ? WGT_RESP_SUPERSEDED : WGT_RESP_DECRYPT_FAILED;
	return frame->dh_failed ? WGT_RESP_DH_FAILED : WGT_RESP_BAD_STATE;
}

static __always_inline u16 refused_cookie(struct handshake_frame *frame)
{
	if (!frame->known_index)
		return WGT_COOKIE_UNKNOWN_INDEX;
	if (!frame->aead_calls)
		return WGT_COOKIE_UNSOLICITED;
	return frame->aead_ok ? 0 : WGT_COOKIE_DECRYPT_FAILED;
}

/* Why the message was refused, 0 if it was not. */
static __always_inline u16 handshake_verdict(struct handshake_frame *frame)
{
	if (frame->type == MESSAGE_COOKIE)
		return frame->consumed ? refused_cookie(frame) : 0;
	if (frame->mac_state == 0) /* INVALID_MAC, also without any key of ours */
		return READ(frame->wg->static_identity.has_identity) ? WGT_INVALID_MAC1 : WGT_NO_PRIVATE_KEY;
	if (frame->mac_state == 2) /* VALID_MAC_WITH_COOKIE_BUT_RATELIMITED */
		return WGT_RATELIMITED;
	if (frame->mac_state == 1 && frame->under_load)
		return WGT_COOKIE_UNDER_LOAD;
	if (!frame->consumed)
		return 0;
	if (!frame->accepted)
		return frame->type == MESSAGE_INITIATION ? refused_initiation(frame)
							 : refused_response(frame);
	if (frame->response_failed)
		return frame->type == MESSAGE_INITIATION ? WGT_RESPONSE_NOT_SENT : WGT_SESSION_NOT_STARTED;
	return 0;
}

static __always_inline int handle_receive_handshake_return(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct handshake_frame *frame = receiving.lookup(&id);
	struct wgt_drop_event *e;
	struct drop drop = {};

	if (!frame) {
		count_loss(WGT_LOST_FRAMES);
		return 0;
	}
	drop.reason = handshake_verdict(frame);
	if (!drop.reason) {
		if (frame->type == MESSAGE_COOKIE)
			emit_handshake(frame->peer, WGT_COOKIE_RECEIVED, 0, frame->receiver_index, 0,
				       frame->came_ns);
		else if (frame->accepted == 1)
			emit_handshake(frame->peer,
				       frame->type == MESSAGE_INITIATION ? WGT_INIT_ACCEPTED
									 : WGT_RESPONSE_ACCEPTED,
				       frame->sender_index, frame->receiver_index, 0, frame->came_ns);
		goto out;
	}
	drop.wg = frame->wg;
	drop.peer = frame->peer;
	drop.message_type = frame->type;
	drop.message = frame->message;
	drop.outer = frame->datagram; /* the worker frees it after this */
	drop.end = frame->end;
	e = drop_begin(&drop);
	if (!e)
		goto out;
	if (drop.reason == WGT_UNKNOWN_PEER_PUBKEY)
		__builtin_memcpy(e->other_key, frame->public_key, sizeof(e->other_key));
	if (frame->has_timestamp) {
		__builtin_memcpy(e->timestamp, &frame->timestamp, sizeof(e->timestamp));
		__builtin_memcpy(e->latest_timestamp, &frame->latest_timestamp, sizeof(e->latest_timestamp));
	}
	events.ringbuf_submit(e, 0);
out:
	receiving.delete(&id);
	return 0;
}

/* wg_packet_send_handshake_initiation(peer) and ..._response(peer) */
static __always_inline int handle_send_handshake(struct wg_peer *peer)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sent_handshake sent = {.peer = peer};

	sending.update(&id, &sent);
	return 0;
}

/* wg_noise_handshake_create_initiation() */
static __always_inline int handle_create_initiation_return(u64 ok)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sent_handshake *sent = sending.lookup(&id);
	struct drop drop = {.reason = WGT_INIT_CREATE_FAILED, .message_type = MESSAGE_INITIATION};

	if (!sent)
		return 0;
	sent->is_made = 1;
	sent->made_ns = bpf_ktime_get_boot_ns();
	if (ok & 1)
		return 0;
	drop.peer = sent->peer;
	drop.wg = peer_device(sent->peer);
	drop_emit(&drop);
	return 0;
}

/* wg_packet_send_handshake_initiation(): another one, or a response, was sent in the last five seconds. */
static __always_inline int handle_send_initiation_return(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sent_handshake *sent = sending.lookup(&id);
	struct wgt_device device = {};

	if (sent && !sent->is_made)
		count_handshake(sent->peer, &device, WGT_INIT_SUPPRESSED_5S, WGT_SUB_NONE);
	sending.delete(&id);
	return 0;
}

static __always_inline int handle_send_handshake_return(void)
{
	u64 id = bpf_get_current_pid_tgid();

	sending.delete(&id);
	return 0;
}

/* wg_socket_send_buffer_to_peer(): 0, or -errno of a handshake message that did not leave. */
static __always_inline int handle_send_buffer_return(s32 err)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sent_handshake *sent = sending.lookup(&id);
	struct handshake_frame *frame = receiving_frame();
	struct drop drop = {};

	if (!sent)
		return 0;
	if (!err) {
		emit_handshake(sent->peer, frame ? WGT_RESPONSE_SENT : WGT_INIT_SENT,
			       READ(sent->peer->handshake.entry.index), 0, 0, sent->made_ns);
		return 0;
	}
	drop.peer = sent->peer;
	drop.wg = peer_device(sent->peer);
	drop.err = err;
	drop.message_type = frame ? MESSAGE_RESPONSE : MESSAGE_INITIATION;
	if (err == -12) /* -ENOMEM */
		drop.reason = WGT_HANDSHAKE_TX_NOMEM;
	else if (err == -64) /* -ENONET */
		drop.reason = WGT_UDP_SOCK_NULL;
	else if (err == -97) /* -EAFNOSUPPORT */
		drop.reason = WGT_ENDPOINT_AF_INVALID;
	else
		drop.reason = WGT_NO_ROUTE_TO_ENDPOINT;
	drop_emit(&drop);
	return 0;
}

/* What keeps the packets of `peer` waiting: enum wgt_sub_reason, 0 if its key is good. */
static __always_inline u8 bad_key(struct wg_peer *peer)
{
	struct noise_keypair *keypair = READ(peer->keypairs.current_keypair);

	if (!keypair)
		return WGT_SUB_KEY_ABSENT;
	if (READ(keypair->sending.is_valid))
		return WGT_SUB_NONE;
	if (bpf_ktime_get_boot_ns() - READ(keypair->sending.birthdate) >= REJECT_AFTER_NS)
		return WGT_SUB_KEYPAIR_EXPIRED;
	if ((u64)READ(keypair->sending_counter.counter) > REJECT_AFTER_MESSAGES)
		return WGT_SUB_NONCE_EXHAUSTED;
	return WGT_SUB_KEY_INVALIDATED;
}

/*
 * wg_packet_send_queued_handshake_initiation(peer, is_retry): a handshake is wanted,
 * by wg_packet_send_staged_packets() for each packet that finds no key to go with.
 * Counted and not shown: it is how every session begins.
 */
static __always_inline int handle_queued_initiation(struct wg_peer *peer, u64 is_retry)
{
	struct wgt_device device = {};
	u64 last;
	u8 why;

	if (!is_peer(peer))
		return 0;
	why = is_retry & 1 ? WGT_SUB_NONE : bad_key(peer);
	if (why && READ(peer->staged_packet_queue.qlen))
		count_handshake(peer, &device, WGT_STAGED_WAIT, why);
	last = READ(peer->last_sent_handshake.counter);
	if (bpf_ktime_get_boot_ns() - last < REKEY_TIMEOUT_NS)
		count_handshake(peer, &device, WGT_INIT_SUPPRESSED_5S, WGT_SUB_NONE);
	else if (READ(peer->is_dead))
		count_handshake(peer, &device, WGT_INIT_PEER_DEAD, WGT_SUB_NONE);
	return 0;
}

/*
 * wg_packet_send_keepalive(peer) makes a packet only where none waits, and tells
 * nobody if it cannot. Else it is sent, which counts the key up, or waits for a key.
 */
static __always_inline int handle_keepalive(struct wg_peer *peer)
{
	u64 id = current_frame();
	struct keepalive keepalive = {.peer = peer};

	if (!is_peer(peer) || READ(peer->staged_packet_queue.qlen)) {
		keepalives.delete(&id);
		return 0;
	}
	keepalive.keypair = READ(peer->keypairs.current_keypair);
	keepalive.sent = READ(keepalive.keypair->sending_counter.counter);
	keepalives.update(&id, &keepalive);
	return 0;
}

static __always_inline int handle_keepalive_return(void)
{
	u64 id = current_frame();
	struct keepalive *keepalive = keepalives.lookup(&id);
	struct drop drop = {.reason = WGT_KEEPALIVE_NOMEM, .message_type = MESSAGE_DATA, .err = -12};

	if (!keepalive)
		return 0;
	drop.peer = keepalive->peer;
	drop.wg = peer_device(keepalive->peer);
	if (drop.wg && !READ(drop.peer->staged_packet_queue.qlen) &&
	    READ(drop.peer->keypairs.current_keypair) == keepalive->keypair &&
	    READ(keepalive->keypair->sending_counter.counter) == keepalive->sent)
		drop_emit(&drop);
	keepalives.delete(&id);
	return 0;
}

/* wg_expired_retransmit_handshake(timer): no answer for five seconds. */
static __always_inline int handle_retransmit(struct timer_list *timer)
{
	struct wg_peer *peer = container_of(timer, struct wg_peer, timer_retransmit_handshake);
	u32 attempts;

	if (!is_peer(peer))
		return 0;
	attempts = READ(peer->timer_handshake_attempts);
	emit_handshake(peer, attempts > MAX_TIMER_HANDSHAKES ? WGT_GIVE_UP : WGT_RETRY, 0, 0, attempts + 1,
		       0);
	return 0;
}

static __always_inline int handle_handshake_complete(struct wg_peer *peer)
{
	emit_handshake(peer, WGT_HANDSHAKE_COMPLETE, 0, 0, 0, 0);
	return 0;
}

/* The netlink call that configures an interface, done: what was known of it is stale. */
static __always_inline int handle_set_device_return(void)
{
	struct wgt_config_event *e = events.ringbuf_reserve(sizeof(struct wgt_config_event));

	if (!e) {
		count_loss(WGT_LOST_EVENTS);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	header_init(&e->hdr, WGT_EVENT_CONFIG, sizeof(*e));
	e->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	events.ringbuf_submit(e, 0);
	return 0;
}

/*
 * udp_err() and udpv6_err(): an ICMP message about a datagram, which skb->data points
 * to. That it does not fit is for `wgtrace mtu`.
 */
static __always_inline int unreachable(struct sk_buff *skb, u8 version, u8 why)
{
	struct skb_view view = {};
	struct wgt_device device = {};
	struct wgt_handshake_event *e;
	struct wg_device *wg;
	struct wg_peer *peer;
	u16 ports[2] = {};
	u8 *ip, *address;

	skb_view_init(&view, skb);
	ip = view.data;
	bpf_probe_read_kernel(ports, sizeof(ports),
			      ip + (version == 4 ? (read_u8(ip) & 0xf) * 4 : sizeof(struct ipv6hdr)));
	wg = view.dev ? device_by_port(view.dev, swap16(ports[0])) : NULL;
	if (!wg)
		return 0;
	address = ip + (version == 4 ? offsetof(struct iphdr, daddr) : offsetof(struct ipv6hdr, daddr));
	peer = peer_by_endpoint(wg, address, swap16(ports[1]), version);
	if (!count_handshake(peer, &device, WGT_UNREACHABLE, why) ||
	    !may_stream(0, bpf_ktime_get_boot_ns(), true, 0))
		return 0;
	e = handshake_record(peer, &device, WGT_UNREACHABLE, why);
	if (!e)
		return 0;
	address = view.network +
		  (version == 4 ? offsetof(struct iphdr, saddr) : offsetof(struct ipv6hdr, saddr));
	if (version == 4)
		bpf_probe_read_kernel(e->source, 4, address);
	else
		bpf_probe_read_kernel(e->source, 16, address);
	events.ringbuf_submit(e, 0);
	return 0;
}

/* udp_err(skb, info) */
static __always_inline int handle_unreachable(struct sk_buff *skb)
{
	struct skb_view view = {};
	u8 code;

	skb_view_init(&view, skb);
	if (read_u8(view.transport) != 3) /* ICMP_DEST_UNREACH */
		return 0;
	code = read_u8(view.transport + 1);
	if (code == 3)
		return unreachable(skb, 4, WGT_SUB_PORT_UNREACHABLE);
	if (code == 4) /* ICMP_FRAG_NEEDED */
		return 0;
	return unreachable(skb, 4,
			   code == 9 || code == 10 || code == 13 ? WGT_SUB_PROHIBITED
								 : WGT_SUB_HOST_UNREACHABLE);
}

/* udpv6_err(skb, opt, type, code) */
static __always_inline int handle_unreachable6(struct sk_buff *skb, void *opt, u8 type, u8 code)
{
	if (type != 1) /* ICMPV6_DEST_UNREACH */
		return 0;
	if (code == 4)
		return unreachable(skb, 6, WGT_SUB_PORT_UNREACHABLE);
	return unreachable(skb, 6, code == 1 || code > 4 ? WGT_SUB_PROHIBITED : WGT_SUB_HOST_UNREACHABLE);
}
