/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What came by each session, for `wgtrace top` only. A sender numbers the messages of a
 * session from 0 on, so who receives them knows alone which are missing: a counter that
 * never came was lost, one that came after a larger one was overtaken.
 *
 * One NAPI at a time receives from a peer, so nobody else writes to a session's numbers,
 * but for `unread`.
 */
#pragma once

#define WGT_COUNTS_SESSIONS

/* By the keypair's internal_id, which is never used again. 1: BPF_F_NO_PREALLOC. */
BPF_F_TABLE("hash", u64, struct wgt_session, sessions, 8192, 1);

/* The session of `keypair`, made if it is asked for; NULL: it is not, or there is no room. */
static __always_inline struct wgt_session *session_of(struct noise_keypair *keypair, u64 first)
{
	u64 id = READ(keypair->internal_id);
	struct wgt_session *session = sessions.lookup(&id);
	struct wg_peer *peer;
	struct wgt_session new = {};
	struct wgt_public_key public_key = {};
	struct wgt_filter *filter;
	u32 slot = 0;

	if (session)
		return session;
	peer = READ(keypair->entry.peer);
	read_device(&new.device, peer_device(peer));
	filter = filters.lookup(&slot);
	if (!filter || !new.device.ifindex || !is_traced(&new.device))
		return NULL;
	bpf_probe_read_kernel(public_key.bytes, sizeof(public_key.bytes), peer->handshake.remote_static);
	if (filter->has_peers && !wanted_peers.lookup(&public_key))
		return NULL;
	__builtin_memcpy(new.public_key, public_key.bytes, sizeof(new.public_key));
	new.born_ns = READ(keypair->receiving.birthdate);
	new.index = READ(keypair->entry.index);
	new.is_initiator = READ(keypair->i_am_the_initiator);
	new.first = first;
	new.next = first;
	sessions.update(&id, &new);
	session = sessions.lookup(&id);
	if (!session)
		count_loss(WGT_LOST_SESSIONS);
	return session;
}

/* A message of a session was refused: for its counter, or before that was looked at. */
static __always_inline void count_refused(struct drop *drop)
{
	struct wgt_session *session;
	u64 id;

	if (!drop->keypair)
		return;
	id = READ(drop->keypair->internal_id);
	session = sessions.lookup(&id);
	if (!session)
		return;
	if (drop->reason == WGT_RX_QUEUE_FULL || drop->reason == WGT_DECRYPT_QUEUE_FULL ||
	    drop->reason == WGT_DECRYPT_NOMEM)
		lock_xadd(&session->unread, 1);
	else if (drop->reason == WGT_REPLAY_OR_OLD_COUNTER && drop->sub_reason == WGT_SUB_DUPLICATE)
		session->duplicates++;
	else if (drop->reason == WGT_REPLAY_OR_OLD_COUNTER && drop->sub_reason == WGT_SUB_TOO_OLD)
		session->too_old++;
}
