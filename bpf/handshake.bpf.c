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
	u8 consumed; /* wg_noise_handshake_consume_*() was entered */
	u8 accepted;
	u8 looked_up; /* the public key was looked up */
	u8 dh_failed;
	u8 aead_calls;
	u8 aead_ok; /* of the last call */
	u8 has_timestamp;
	u8 known_index;
	u8 bad_state;
	u8 response_failed; /* no response made, or no session */
	u8 pad;
	u8 public_key[WGT_KEY_LEN];
	struct tai64n timestamp;
	struct tai64n latest_timestamp;
};

BPF_TABLE("lru_hash", u64, struct handshake_frame, receiving, 1024);
/* The peer that a kworker sends a handshake message to. */
BPF_TABLE("lru_hash", u64, struct wg_peer *, sending, 1024);

static __always_inline struct handshake_frame *receiving_frame(void)
{
	u64 id = bpf_get_current_pid_tgid();

	return receiving.lookup(&id);
}

/* wg_receive_handshake_packet(wg, skb); skb->data stands at the message. */
static __always_inline int handle_receive_handshake(struct wg_device *wg, struct sk_buff *skb)
{
	u64 id = bpf_get_current_pid_tgid();
	struct handshake_frame frame = {.wg = wg, .mac_state = -1};
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
	struct noise_handshake *handshake;
	struct wg_peer *peer;

	if (!frame)
		return 0;
	frame->consumed = 1;
	entry = index_lookup(frame->wg, frame->receiver_index, 1); /* INDEX_HASHTABLE_HANDSHAKE */
	if (!entry)
		return 0;
	peer = READ(entry->peer);
	if (!is_peer(peer))
		return 0;
	handshake = container_of(entry, struct noise_handshake, entry);
	frame->known_index = 1;
	frame->peer = peer;
	frame->bad_state = READ(handshake->state) != 1; /* HANDSHAKE_CREATED_INITIATION */
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
	struct handshake_frame *frame = receiving_frame();

	if (frame && !(ok & 1))
		frame->response_failed = 1;
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
	return frame->bad_state ? WGT_RESP_BAD_STATE : WGT_RESP_SUPERSEDED;
}

/* Why the message was refused, 0 if it was not. */
static __always_inline u16 handshake_verdict(struct handshake_frame *frame)
{
	if (frame->type == MESSAGE_COOKIE)
		return 0;
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
		if (frame->accepted)
			emit_handshake(frame->peer,
				       frame->type == MESSAGE_INITIATION ? WGT_INIT_ACCEPTED
									 : WGT_RESPONSE_ACCEPTED,
				       frame->sender_index, frame->receiver_index, 0);
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

	sending.update(&id, &peer);
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
	struct wg_peer **peer = sending.lookup(&id);
	struct handshake_frame *frame = receiving_frame();
	struct drop drop = {};

	if (!peer)
		return 0;
	if (!err) {
		emit_handshake(*peer, frame ? WGT_RESPONSE_SENT : WGT_INIT_SENT,
			       READ((*peer)->handshake.entry.index), 0, 0);
		return 0;
	}
	drop.peer = *peer;
	drop.wg = peer_device(*peer);
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

/* wg_expired_retransmit_handshake(timer): no answer for five seconds. */
static __always_inline int handle_retransmit(struct timer_list *timer)
{
	struct wg_peer *peer = container_of(timer, struct wg_peer, timer_retransmit_handshake);
	u32 attempts;

	if (!is_peer(peer))
		return 0;
	attempts = READ(peer->timer_handshake_attempts);
	emit_handshake(peer, attempts > MAX_TIMER_HANDSHAKES ? WGT_GIVE_UP : WGT_RETRY, 0, 0, attempts + 1);
	return 0;
}

static __always_inline int handle_handshake_complete(struct wg_peer *peer)
{
	emit_handshake(peer, WGT_HANDSHAKE_COMPLETE, 0, 0, 0);
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
