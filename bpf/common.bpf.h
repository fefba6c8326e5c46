/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every program uses: maps, exact totals, the rate-limited stream, and
 * the one place where a drop leaves the kernel.
 */
#pragma once

#define NSEC_PER_SEC 1000000000ULL

/* A field of a kernel object, read safely whatever the pointer: 0 if it cannot be. */
#define READ(field)                                                                                          \
	({                                                                                                   \
		typeof(field) value__;                                                                       \
		bpf_probe_read_kernel(&value__, sizeof(value__), &(field));                                  \
		value__;                                                                                     \
	})

BPF_RINGBUF_OUTPUT(events, WGT_RING_PAGES);
BPF_TABLE("percpu_hash", struct wgt_total_key, u64, totals, 8192); /* or as `Settings.totals` says */
BPF_TABLE("percpu_array", u32, struct wgt_stream, streams, WGT_REASONS);
BPF_TABLE("percpu_array", u32, u64, losses, WGT_LOSSES);
BPF_ARRAY(config, struct wgt_config, 1);
BPF_HASH(traced, struct wgt_traced_key, u32, 1024);
BPF_ARRAY(sites, struct wgt_sites, 1);
BPF_ARRAY(filters, struct wgt_filter, 1);
BPF_HASH(wanted_peers, struct wgt_public_key, u32, 1024);

/* The task, or the CPU where it is the idle task: pid 0 is on every CPU. */
static __always_inline u64 current_frame(void)
{
	u64 id = bpf_get_current_pid_tgid();

	return (u32)id ? id : (1ULL << 63) | bpf_get_smp_processor_id();
}

/* Atomic, because an interrupt may run another program on this very CPU. */
static __always_inline void count_loss(u32 cause)
{
	u64 *count = losses.lookup(&cause);

	if (count)
		lock_xadd(count, 1);
}

static __always_inline void count_total(struct wgt_total_key *key)
{
	u64 zero = 0, *count = totals.lookup(key);

	if (!count) {
		totals.insert(key, &zero);
		count = totals.lookup(key);
	}
	if (count)
		lock_xadd(count, 1);
	else
		count_loss(WGT_LOST_TOTALS);
}

/* Whether the user asked for this interface. */
static __always_inline bool is_traced(const struct wgt_device *device)
{
	u32 slot = 0;
	struct wgt_config *settings = config.lookup(&slot);
	struct wgt_traced_key key = {};

	if (!settings)
		return false;
	if (settings->all)
		return true;
	key.netns = device->netns;
	if (traced.lookup(&key))
		return true;
	key.ifindex = device->ifindex;
	if (traced.lookup(&key))
		return true;
	key.ifindex = 0;
	__builtin_memcpy(key.ifname, device->ifname, sizeof(key.ifname));
	return traced.lookup(&key) != NULL;
}

/*
 * Whether this drop gets a record; the rest is counted. What the filter does not
 * ask for has a small share of its own, so that it takes nothing from the rest.
 */
static __always_inline bool may_stream_in(struct wgt_stream *stream, u64 now_ns, bool matched,
					  u32 samples_per_second)
{
	u32 slot = 0;
	struct wgt_config *settings = config.lookup(&slot);
	u64 second = now_ns / NSEC_PER_SEC;

	if (!settings || !stream)
		return false;
	lock_xadd(&stream->total, 1);
	if (stream->second != second) {
		stream->second = second;
		stream->shown = 0;
		stream->sampled = 0;
	}
	if (!matched) {
		if (stream->sampled >= samples_per_second)
			return false;
		stream->sampled++;
		return true;
	}
	if (stream->shown >= settings->events_per_second) {
		lock_xadd(&stream->limited, 1);
		return false;
	}
	stream->shown++;
	return true;
}

static __always_inline bool may_stream(u32 reason, u64 now_ns, bool matched, u32 samples_per_second)
{
	return may_stream_in(streams.lookup(&reason), now_ns, matched, samples_per_second);
}

static __always_inline void header_init(struct wgt_event_header *hdr, u16 kind, u16 len)
{
	hdr->ts_ns = bpf_ktime_get_boot_ns();
	hdr->cpu = bpf_get_smp_processor_id();
	hdr->kind = kind;
	hdr->len = len;
}
