/* SPDX-License-Identifier: GPL-2.0-only */
/* What all programs on the skb tracepoints need: who frees a packet, and taking it only once. */
#pragma once

/* Packets that the first program of a tracepoint has taken, for the second: the last, and the one before. */
struct taken {
	struct sk_buff *skb[2];
};

enum { BY_KFREE_SKB, BY_CONSUME_SKB, BY_PATH, TRACEPOINTS };

BPF_TABLE("percpu_array", u32, struct taken, taken, TRACEPOINTS);

/*
 * Each tracepoint runs two programs of ours, one after the other. The kernel skips
 * a program that is interrupted on this CPU by an event of its own (a softirq that
 * frees packets, prog->active in __bpf_trace_run()), and then those drops would be
 * missing; but never both, as no softirq interrupts a softirq. The first takes
 * every drop and says so; the second takes what the first did not. Never by the
 * address alone: the packets of a burst follow each other at the same one.
 */
static __always_inline bool is_taken(struct sk_buff *skb, u32 slot, bool is_second)
{
	struct taken *marks = is_second ? taken.lookup(&slot) : NULL;

	if (!marks || (marks->skb[0] != skb && marks->skb[1] != skb))
		return false;
	marks->skb[0] = marks->skb[0] == skb ? marks->skb[1] : NULL;
	marks->skb[1] = NULL;
	return true;
}

/* A softirq may do all of this between the two programs of the task that it interrupts. */
static __always_inline void take(struct sk_buff *skb, u32 slot, bool is_second)
{
	struct taken *marks = is_second ? NULL : taken.lookup(&slot);

	if (!marks)
		return;
	marks->skb[1] = marks->skb[0];
	marks->skb[0] = skb;
}

static __always_inline struct wgt_sites *known_sites(void)
{
	u32 slot = 0;

	return sites.lookup(&slot);
}

/* Which of WireGuard's functions holds `address`: enum wgt_site. */
static __always_inline u32 site_of(struct wgt_sites *known, u64 address)
{
	if (!known || address < known->start || address >= known->end)
		return WGT_SITE_NONE;
	for (int i = 0; i < WGT_MAX_SITES; i++) {
		struct wgt_site_range *range = &known->range[i];

		if (address >= range->start && address < range->end)
			return range->site;
	}
	return WGT_SITE_NONE;
}

#define WGT_STACK_DEPTH 16

/*
 * Who called kfree_skb_list(), where the tracepoint tells that function itself as the
 * place: Linux 6.1 does, later ones tell its caller. Unwinding the stack is dear: it is
 * done only for a packet that is WireGuard's by its interface, or that has none and is
 * freed by a worker of a peer.
 */
static __always_inline u64 caller_of_list_free(void *ctx, struct wgt_sites *known, struct sk_buff *skb,
					       u64 location)
{
	u64 frames[WGT_STACK_DEPTH] = {};
	struct net_device *dev;
	bool inside = false;

	if (!known || location < known->list_start || location >= known->list_end)
		return location;
	dev = READ(skb->dev);
	if (dev ? !device_of(dev) : !peer_of_worker())
		return location;
	bpf_get_stack(ctx, frames, sizeof(frames), 0);
	for (int i = 0; i < WGT_STACK_DEPTH; i++) {
		if (frames[i] >= known->list_start && frames[i] < known->list_end)
			inside = true;
		else if (inside)
			return frames[i];
	}
	return location;
}
