// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sizes: what of a tunnel's packets is too big for its way, who says so, and what
 * size is known to pass.
 *
 * Two programs run for each packet, one outwards for each super-packet and one
 * inwards, and most of them end at a comparison: a packet that is no larger than
 * one that was answered before tells nothing new. A larger one is tried: it is
 * remembered until the other end's TCP acknowledges it, or its echo comes back. All
 * other programs run only where something is fragmented, refused or lost.
 */

#define SKB_DST_NOREF	    1UL
#define EMSGSIZE	    90
#define IPPROTO_FRAGMENT    44
#define ICMP_DEST_UNREACH   3
#define ICMP_FRAG_NEEDED    4
#define ICMPV6_PKT_TOOBIG   2
#define ICMP_HEADER_LEN	    8
#define TCP_ACK		    0x10
#define RTF_CACHE	    0x01000000 /* of IPv6: a route exception */
#define RTAX_MTU	    2
#define MESSAGE_PADDING	    16
#define UNANSWERED_AFTER_NS NSEC_PER_SEC

BPF_TABLE("lru_hash", u64, struct wgt_sizes, sizes, 16384);
BPF_ARRAY(no_sizes, struct wgt_sizes, 1);
BPF_HASH(endpoints, struct wgt_endpoint_key, struct wgt_endpoint, 16384);
BPF_ARRAY(mtu_config, struct wgt_mtu_config, 1);
BPF_TABLE("percpu_array", u32, struct wgt_stream, mtu_streams, WGT_MTU_CODES);

/* Whom an ICMP message is about that this host just sent: by what is the same of it and its packet. */
struct blamed {
	u64 wg;
	u64 peer;
};

BPF_TABLE("lru_hash", u64, struct blamed, too_bigs, 1024);

/* What is to be told of one packet. */
struct sizing {
	struct wg_device *wg;
	struct wg_peer *peer;
	struct wgt_endpoint *endpoint; /* instead of both: of a fragment, or what a router told */
	struct net_device *dev;
	u8 *inner; /* IP header, NULL: not known */
	u8 *outer;
	u8 *end;
	u8 *from; /* address of who says so */
	u64 location;
	u32 kernel_reason;
	u32 mtu;
	u32 size;
	u16 code;
	u8 of;
	u8 layer;
	u8 outgoing;
	u8 family; /* of `from` */
	u8 pad[6];
};

/* -- telling ------------------------------------------------------------------------- */

static __always_inline u32 netns_of(struct net_device *dev)
{
	struct net *net = READ(dev->nd_net.net);

	return READ(net->ns.inum);
}

static __always_inline void sizing_fill(struct wgt_mtu_event *e, struct sizing *sizing)
{
	e->location = sizing->location;
	e->kernel_reason = sizing->kernel_reason;
	e->mtu = sizing->mtu;
	e->size = sizing->size;
	e->code = sizing->code;
	e->of = sizing->of;
	e->layer = sizing->layer;
	e->outgoing = sizing->outgoing;
	if (sizing->inner)
		read_flow(&e->inner, sizing->inner, sizing->end);
	if (sizing->outer)
		read_flow(&e->outer, sizing->outer, sizing->end);
	if (sizing->from && sizing->family == 4)
		bpf_probe_read_kernel(e->origin, 4, sizing->from);
	else if (sizing->from)
		bpf_probe_read_kernel(e->origin, 16, sizing->from);
	if (sizing->dev) {
		bpf_probe_read_kernel_str(e->ifname, sizeof(e->ifname), sizing->dev->name);
		e->netns = netns_of(sizing->dev);
	}
}

/* Counts it, and shows it if it may be. */
static __always_inline void sizing_emit(struct sizing *sizing)
{
	u32 slot = 0, code = sizing->code;
	struct wgt_filter *filter = filters.lookup(&slot);
	struct wgt_total_key key = {};
	struct wgt_device device = {};
	struct wgt_mtu_event *e;

	/* Onto itself: the verifier forgets what it knew of each field. */
	if (sizing->endpoint) {
		device = sizing->endpoint->device;
		key.peer_known = 1;
		__builtin_memcpy(key.public_key, sizing->endpoint->peer.public_key, sizeof(key.public_key));
	} else {
		read_device(&device, sizing->wg);
		if (is_peer(sizing->peer)) {
			key.peer_known = 1;
			bpf_probe_read_kernel(key.public_key, sizeof(key.public_key),
					      sizing->peer->handshake.remote_static);
		}
	}
	if (!filter || !device.ifindex || !is_traced(&device))
		return;
	if (filter->has_peers && !(key.peer_known && wanted_peers.lookup((void *)key.public_key)))
		return;
	__builtin_memcpy(key.ifname, device.ifname, sizeof(key.ifname));
	key.netns = device.netns;
	key.kind = WGT_EVENT_MTU;
	key.code = code;
	key.layer = sizing->layer;
	key.outgoing = sizing->outgoing;
	key.matched = 1;
	count_total(&key);
	if (!may_stream_in(mtu_streams.lookup(&code), bpf_ktime_get_boot_ns(), true, 0))
		return;
	e = events.ringbuf_reserve(sizeof(struct wgt_mtu_event));
	if (!e) {
		count_loss(WGT_LOST_EVENTS);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	header_init(&e->hdr, WGT_EVENT_MTU, sizeof(*e));
	e->device = device;
	if (sizing->endpoint)
		e->peer = sizing->endpoint->peer;
	else
		read_peer(&e->peer, sizing->peer);
	sizing_fill(e, sizing);
	events.ringbuf_submit(e, 0);
}

/* -- whose ------------------------------------------------------------------------------ */

/* The interface that has this UDP socket. */
static __always_inline struct wg_device *device_by_sock(void *sk)
{
	u32 slot = 0;
	struct wgt_config *settings = config.lookup(&slot);
	struct list_head *list, *entry;

	if (!settings || !settings->device_list || !sk)
		return NULL;
	list = (void *)settings->device_list;
	entry = READ(list->next);
	for (int i = 0; i < WGT_MAX_DEVICES && entry && entry != list; i++) {
		struct wg_device *wg = container_of(entry, struct wg_device, device_list);

		if ((void *)READ(wg->sock4) == sk || (void *)READ(wg->sock6) == sk)
			return wg;
		entry = READ(entry->next);
	}
	return NULL;
}

static __always_inline struct wgt_endpoint *endpoint_at(u32 netns, const u8 *address, u8 version)
{
	struct wgt_endpoint_key key = {.netns = netns, .family = version};

	if (version == 4)
		bpf_probe_read_kernel(key.addr, 4, address);
	else
		bpf_probe_read_kernel(key.addr, 16, address);
	return endpoints.lookup(&key);
}

static __always_inline u8 *address_in(u8 *ip, u8 version, bool is_destination)
{
	if (version == 4)
		return ip + (is_destination ? offsetof(struct iphdr, daddr) : offsetof(struct iphdr, saddr));
	return ip + (is_destination ? offsetof(struct ipv6hdr, daddr) : offsetof(struct ipv6hdr, saddr));
}

/* Of a datagram that `wg` sends. */
static __always_inline void find_peer(struct sizing *sizing, u32 netns, u8 version)
{
	struct wg_peer *peer = peer_of_worker();

	if (is_peer(peer) && READ(peer->device) == sizing->wg)
		sizing->peer = peer;
	else
		sizing->endpoint = endpoint_at(netns, address_in(sizing->outer, version, true), version);
}

static __always_inline struct dst_entry *dst_of(struct sk_buff *skb)
{
	return (void *)(READ(skb->_skb_refdst) & ~SKB_DST_NOREF);
}

/* What a packet that is sent by `dst` has to fit: ip_dst_mtu_maybe_forward(), ip6_dst_mtu_maybe_forward(). */
static __always_inline void read_mtu(struct sizing *sizing, struct dst_entry *dst, u8 version)
{
	u32 *metrics = (u32 *)(READ(dst->_metrics) & ~3UL), learned = 0, route;
	struct net_device *dev = READ(dst->dev);

	/* rt_mtu_locked:1, rt_pmtu:31 follow the gateway. */
	if (version == 4)
		learned = read_u32((u8 *)dst + offsetof(struct rtable, rt_gw6) + 16) >> 1;
	route = READ(metrics[RTAX_MTU - 1]);
	sizing->mtu = READ(dev->mtu);
	sizing->of = WGT_MTU_OF_DEVICE;
	if (route) {
		sizing->mtu = route;
		sizing->of = version == 6 && READ(((struct rt6_info *)dst)->rt6i_flags) & RTF_CACHE
				     ? WGT_MTU_OF_ICMP
				     : WGT_MTU_OF_ROUTE;
	}
	if (learned) {
		sizing->mtu = learned;
		sizing->of = WGT_MTU_OF_ICMP;
	}
}

/* -- what passes -------------------------------------------------------------------------- */

/* Where a peer is that begins to have traffic; user space sees to it that this stays right. */
static __always_inline void learn_endpoint(struct wg_device *wg, struct wg_peer *peer,
					   const struct wgt_device *device)
{
	struct wgt_endpoint endpoint = {.device = *device};
	struct wgt_endpoint_key key = {};
	struct net *net = READ(wg->creating_net);

	read_peer(&endpoint.peer, peer);
	if (!endpoint.peer.endpoint_family)
		return;
	key.family = endpoint.peer.endpoint_family;
	key.netns = READ(net->ns.inum);
	__builtin_memcpy(key.addr, endpoint.peer.endpoint_addr, sizeof(key.addr));
	endpoints.update(&key, &endpoint);
}

static __always_inline struct wgt_sizes *sizes_of(struct wg_peer *peer)
{
	u64 id = READ(peer->internal_id);
	struct wgt_sizes *found = sizes.lookup(&id), *blank;
	struct wgt_device device = {};
	struct wg_device *wg;
	u32 slot = 0;

	if (found)
		return found;
	wg = peer_device(peer);
	read_device(&device, wg);
	blank = no_sizes.lookup(&slot);
	if (!device.ifindex || !blank || !is_traced(&device))
		return NULL;
	sizes.update(&id, blank);
	found = sizes.lookup(&id);
	if (!found)
		return NULL;
	bpf_probe_read_kernel(found->public_key, sizeof(found->public_key), peer->handshake.remote_static);
	found->mtu = READ(READ(wg->dev)->mtu);
	found->device = device;
	learn_endpoint(wg, peer, &device);
	return found;
}

/* What of a TCP segment or an echo its answer has too; false: it is neither. */
static __always_inline bool read_trial(struct wgt_size_trial *trial, u8 *ip, u8 *end, bool is_answer)
{
	u8 version = ip_version(ip, end), *l4, type, request, reply;
	u32 words[8] = {}, header;
	u16 ports[2] = {};

	if (version == 4) {
		header = (read_u8(ip) & 0xf) * 4;
		trial->proto = read_u8(ip + offsetof(struct iphdr, protocol));
		trial->len = swap16(READ(((struct iphdr *)ip)->tot_len));
		if (READ(((struct iphdr *)ip)->frag_off) & 0xff3f)
			return false;
		bpf_probe_read_kernel(words, 8, ip + offsetof(struct iphdr, saddr));
	} else if (version == 6) {
		header = sizeof(struct ipv6hdr);
		trial->proto = read_u8(ip + offsetof(struct ipv6hdr, nexthdr));
		trial->len = swap16(READ(((struct ipv6hdr *)ip)->payload_len)) + header;
		bpf_probe_read_kernel(words, 32, ip + offsetof(struct ipv6hdr, saddr));
	} else {
		return false;
	}
	trial->ends = words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
	l4 = ip + header;
	if (l4 + 20 > end)
		return false;
	if (trial->proto == IPPROTO_TCP) {
		bpf_probe_read_kernel(ports, sizeof(ports), l4);
		trial->sport = ports[is_answer];
		trial->dport = ports[!is_answer];
		trial->number = __builtin_bswap32(read_u32(l4 + (is_answer ? 8 : 4)));
		if (is_answer)
			return read_u8(l4 + 13) & TCP_ACK;
		trial->number += trial->len - header - (read_u8(l4 + 12) >> 4) * 4;
		return true;
	}
	request = trial->proto == IPPROTO_ICMP ? 8 : 128;
	reply = trial->proto == IPPROTO_ICMP ? 0 : 129;
	if (trial->proto != IPPROTO_ICMP && trial->proto != IPPROTO_ICMPV6)
		return false;
	type = read_u8(l4);
	trial->number = read_u32(l4 + 4);
	return type == (is_answer ? reply : request);
}

static __always_inline struct wgt_size_trial *trial_at(struct wgt_sizes *of, u32 len)
{
	return &of->trial[(len / MESSAGE_PADDING) & (WGT_SIZE_TRIALS - 1)];
}

/* Waits for the answer to a packet that is larger than any that had one. */
static __always_inline void try_size(struct wgt_sizes *of, u8 *ip, u8 *end)
{
	struct wgt_size_trial trial = {.sent_ns = bpf_ktime_get_boot_ns()}, *before;

	if (!read_trial(&trial, ip, end, false))
		return;
	before = trial_at(of, trial.len);
	if (before->proto && before->len > of->passed) {
		if (trial.sent_ns - before->sent_ns < UNANSWERED_AFTER_NS)
			return;
		if (!of->failed)
			of->first_failed_ns = before->sent_ns;
		if (!of->failed || before->len < of->failed)
			of->failed = before->len;
		of->failures++;
		of->failed_ns = trial.sent_ns;
	}
	*before = trial;
	of->waiting = 1;
}

/* wg_packet_send_staged_packets(peer): what wg_xmit() just queued is the last. */
static __always_inline int handle_staged(struct wg_peer *peer)
{
	struct sk_buff *skb = READ(peer->staged_packet_queue.prev);
	struct packet_cb *cb;
	struct wgt_sizes *of;
	struct skb_view view = {};
	u32 len, mtu, padded;

	if (!skb || skb == (void *)&peer->staged_packet_queue)
		return 0;
	len = READ(skb->len);
	of = len ? sizes_of(peer) : NULL;
	if (!of)
		return 0;
	cb = (void *)skb->cb;
	mtu = READ(cb->mtu);
	if (len > of->sent)
		of->sent = len;
	if (mtu > of->mtu) {
		padded = (len + MESSAGE_PADDING - 1) & ~(MESSAGE_PADDING - 1);
		if (padded > mtu)
			padded = mtu;
		if (padded > of->mtu) {
			struct sizing sizing = {.wg = peer_device(peer), .peer = peer, .size = len};
			struct net_device *dev = READ(sizing.wg->dev);

			of->mtu = READ(dev->mtu);
			skb_view_init(&view, skb);
			sizing.code = WGT_MTU_PADDING_BEYOND_MTU;
			sizing.inner = view.network;
			sizing.end = view.tail;
			sizing.dev = dev;
			sizing.mtu = mtu;
			sizing.of = WGT_MTU_OF_ROUTE;
			sizing.layer = WGT_INNER;
			sizing.outgoing = 1;
			if (padded > of->mtu)
				sizing_emit(&sizing);
		}
	}
	if (len <= of->passed || !READ(peer->keypairs.current_keypair))
		return 0;
	skb_view_init(&view, skb);
	try_size(of, view.network, view.tail);
	return 0;
}

/* wg_allowedips_lookup_src(table, skb): wg_packet_rx_poll() is about to hand a packet up. */
static __always_inline int handle_received(void *table, struct sk_buff *skb)
{
	struct packet_cb *cb = (void *)skb->cb;
	struct noise_keypair *keypair = READ(cb->keypair);
	struct wg_peer *peer = READ(keypair->entry.peer);
	struct wgt_sizes *of = peer ? sizes_of(peer) : NULL;
	struct wgt_size_trial answer = {};
	struct skb_view view = {};
	u32 len = READ(skb->len), left = 0;

	if (!of)
		return 0;
	if (len > of->received)
		of->received = len;
	if (!of->waiting)
		return 0;
	skb_view_init(&view, skb);
	if (!read_trial(&answer, view.network, view.tail, true))
		return 0;
	of->heard_ns = bpf_ktime_get_boot_ns();
#pragma unroll
	for (int i = 0; i < WGT_SIZE_TRIALS; i++) {
		struct wgt_size_trial *trial = &of->trial[i];

		if (trial->proto == answer.proto && trial->ends == answer.ends &&
		    trial->sport == answer.sport && trial->dport == answer.dport &&
		    (answer.proto == IPPROTO_TCP ? (s32)(answer.number - trial->number) >= 0
						 : answer.number == trial->number)) {
			if (trial->len > of->passed)
				of->passed = trial->len;
			trial->proto = 0;
		}
		left |= trial->proto;
	}
	if (of->failed && of->failed <= of->passed) { /* it was lost for another reason */
		of->failed = 0;
		of->failures = 0;
	}
	of->waiting = left != 0;
	return 0;
}

/* -- what does not fit ---------------------------------------------------------------------- */

/* ip_do_fragment(net, sk, skb) and ip6_fragment(net, sk, skb) */
static __always_inline int handle_fragment(void *net, void *sk, struct sk_buff *skb)
{
	struct dst_entry *dst = dst_of(skb);
	struct sizing sizing = {.code = WGT_MTU_OUTER_FRAGMENTED, .layer = WGT_OUTER, .outgoing = 1};
	struct skb_view view = {};
	u8 version;

	if (!dst)
		return 0;
	skb_view_init(&view, skb);
	version = ip_version(view.network, view.tail);
	sizing.dev = READ(dst->dev);
	sizing.size = view.len;
	sizing.end = view.tail;
	if (!version)
		return 0;
	sizing.wg = device_of(sizing.dev);
	if (sizing.wg) {
		sizing.code = WGT_MTU_INNER_FRAGMENTED;
		sizing.layer = WGT_INNER;
		sizing.inner = view.network;
		sizing.peer = allowedips_lookup(sizing.wg, address_in(view.network, version, true), version);
	} else {
		sizing.wg = device_by_sock(sk);
		if (!sizing.wg)
			return 0;
		sizing.outer = view.network;
		find_peer(&sizing, netns_of(sizing.dev), version);
	}
	read_mtu(&sizing, dst, version);
	sizing_emit(&sizing);
	return 0;
}

/* -- who says so --------------------------------------------------------------------------- */

/* udp_err(skb, mtu), udpv6_err(skb, ...): an ICMP message about a datagram, which skb->data points to. */
static __always_inline void too_big_received(struct sk_buff *skb, u32 mtu, u8 version)
{
	struct sizing sizing = {.code = WGT_MTU_TOO_BIG_RECEIVED, .layer = WGT_OUTER, .outgoing = 1};
	struct skb_view view = {};
	u8 *l4;

	skb_view_init(&view, skb);
	if (!view.dev)
		return;
	sizing.endpoint = endpoint_at(netns_of(view.dev), address_in(view.data, version, true), version);
	l4 = view.data + (version == 4 ? (read_u8(view.data) & 0xf) * 4 : sizeof(struct ipv6hdr));
	if (!sizing.endpoint || !device_by_port(view.dev, __builtin_bswap32(read_u32(l4)) >> 16))
		return;
	sizing.dev = view.dev;
	sizing.outer = view.data;
	sizing.end = view.tail;
	sizing.from = address_in(view.network, version, false);
	sizing.family = version;
	sizing.mtu = mtu;
	sizing.of = WGT_MTU_OF_ICMP;
	sizing.size = version == 4 ? swap16(READ(((struct iphdr *)view.data)->tot_len))
				   : swap16(READ(((struct ipv6hdr *)view.data)->payload_len)) + 40;
	sizing_emit(&sizing);
}

static __always_inline int handle_udp_err(struct sk_buff *skb, u32 info)
{
	struct skb_view view = {};

	skb_view_init(&view, skb);
	if (read_u8(view.transport) == ICMP_DEST_UNREACH && read_u8(view.transport + 1) == ICMP_FRAG_NEEDED)
		too_big_received(skb, info, 4);
	return 0;
}

static __always_inline int handle_udpv6_err(struct sk_buff *skb, void *opt, u8 type, u8 code, s32 offset,
					    u32 info)
{
	if (type == ICMPV6_PKT_TOOBIG)
		too_big_received(skb, __builtin_bswap32(info), 6);
	return 0;
}

/* The kernel takes note of what it was told: of the way to an endpoint, or of one through the tunnel. */
static __always_inline void path_mtu_changed(struct dst_entry *dst, u8 *daddr, u32 mtu, u8 version)
{
	struct sizing sizing = {.code = WGT_MTU_PATH_MTU_CHANGED, .layer = WGT_OUTER, .outgoing = 1};

	sizing.dev = READ(dst->dev);
	sizing.mtu = mtu;
	sizing.of = WGT_MTU_OF_ICMP;
	sizing.wg = device_of(sizing.dev);
	if (sizing.wg) {
		sizing.layer = WGT_INNER;
		sizing.peer = allowedips_lookup(sizing.wg, daddr, version);
	} else {
		sizing.endpoint = endpoint_at(netns_of(sizing.dev), daddr, version);
		if (!sizing.endpoint)
			return;
	}
	sizing_emit(&sizing);
}

/* __ip_rt_update_pmtu(rt, fl4, mtu) */
static __always_inline int handle_pmtu(struct dst_entry *dst, struct flowi4 *flow, u32 mtu)
{
	path_mtu_changed(dst, (u8 *)&flow->daddr, mtu, 4);
	return 0;
}

/* __ip6_rt_update_pmtu(dst, sk, iph, mtu) */
static __always_inline int handle_pmtu6(struct dst_entry *dst, void *sk, u8 *iph, u32 mtu)
{
	if (iph)
		path_mtu_changed(dst, iph + offsetof(struct ipv6hdr, daddr), mtu, 6);
	return 0;
}

/* What an ICMP message and the packet that it is about have in common. */
static __always_inline u64 blame_key(u8 *ip, u8 version)
{
	u64 at = (u64)address_in(ip, version, false);

	if (version == 4)
		return read_u64((u8 *)at) ^ (u64)read_u32(ip + 4) << 16;
	return read_u64((u8 *)at) ^ read_u64((u8 *)at + 8) ^ read_u64((u8 *)at + 16) ^
	       read_u64((u8 *)at + 24) ^ read_u64(ip + 40);
}

static __always_inline void too_big_sent(struct sk_buff *skb, u32 mtu, u8 version)
{
	struct sizing sizing = {.code = WGT_MTU_TOO_BIG_SENT, .layer = WGT_INNER, .outgoing = 1};
	struct dst_entry *dst = dst_of(skb);
	struct skb_view view = {};
	struct blamed blamed = {};
	u64 key;

	sizing.dev = dst ? READ(dst->dev) : NULL;
	sizing.wg = device_of(sizing.dev);
	if (!sizing.wg)
		return;
	skb_view_init(&view, skb);
	if (ip_version(view.network, view.tail) != version)
		return;
	sizing.peer = allowedips_lookup(sizing.wg, address_in(view.network, version, true), version);
	sizing.inner = view.network;
	sizing.end = view.tail;
	sizing.mtu = mtu;
	sizing.of = mtu == READ(sizing.dev->mtu) ? WGT_MTU_OF_DEVICE : WGT_MTU_OF_ROUTE;
	sizing.size = view.len;
	key = blame_key(view.network, version);
	blamed.wg = (u64)sizing.wg;
	blamed.peer = (u64)sizing.peer;
	too_bigs.update(&key, &blamed);
	sizing_emit(&sizing);
}

/* __icmp_send(skb, type, code, info) */
static __always_inline int handle_icmp_send(struct sk_buff *skb, u32 type, u32 code, u32 info)
{
	if (type == ICMP_DEST_UNREACH && code == ICMP_FRAG_NEEDED)
		too_big_sent(skb, __builtin_bswap32(info), 4);
	return 0;
}

/* icmp6_send(skb, type, code, info) */
static __always_inline int handle_icmp6_send(struct sk_buff *skb, u8 type, u8 code, u32 info)
{
	if (type == ICMPV6_PKT_TOOBIG)
		too_big_sent(skb, info, 6);
	return 0;
}

/* A program of this host sends what does not fit. Which way it goes is not told here: user space finds out. */
static __always_inline void sender_refused(struct sock_common *sk, u8 *daddr, u32 mtu, u8 version)
{
	u32 code = WGT_MTU_SENDER_REFUSED;
	struct wgt_mtu_event *e;
	struct net *net = READ(sk->skc_net.net);

	if (!may_stream_in(mtu_streams.lookup(&code), bpf_ktime_get_boot_ns(), true, 0))
		return;
	e = events.ringbuf_reserve(sizeof(struct wgt_mtu_event));
	if (!e) {
		count_loss(WGT_LOST_EVENTS);
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	header_init(&e->hdr, WGT_EVENT_MTU, sizeof(*e));
	e->code = code;
	e->layer = WGT_INNER;
	e->outgoing = 1;
	e->mtu = mtu;
	e->netns = READ(net->ns.inum);
	e->inner.family = version;
	if (version == 4)
		bpf_probe_read_kernel(e->inner.daddr, 4, daddr);
	else
		bpf_probe_read_kernel(e->inner.daddr, 16, daddr);
	events.ringbuf_submit(e, 0);
}

/* ip_local_error(sk, err, daddr, port, info) */
static __always_inline int handle_local_error(struct sock_common *sk, s32 err, u32 daddr, u16 port, u32 info)
{
	if (err == EMSGSIZE)
		sender_refused(sk, (u8 *)&daddr, info, 4);
	return 0;
}

/* ipv6_local_error(sk, err, fl6, info) */
static __always_inline int handle_local_error6(struct sock_common *sk, s32 err, struct flowi6 *flow, u32 info)
{
	if (err == EMSGSIZE)
		sender_refused(sk, (u8 *)&flow->daddr, info, 6);
	return 0;
}

/* -- what is lost ------------------------------------------------------------------------- */

/* Whether an ICMP message at `icmp` tells a sender that its packet was too big. */
static __always_inline bool is_too_big(u8 *icmp, u8 version)
{
	u16 type = read_u8(icmp) << 8 | read_u8(icmp + 1);

	return type == (version == 4 ? ICMP_DEST_UNREACH << 8 | ICMP_FRAG_NEEDED : ICMPV6_PKT_TOOBIG << 8);
}

static __always_inline bool is_cut_short_at(const struct wgt_mtu_config *settings, u64 location)
{
	for (int i = 0; i < WGT_FORWARD_ENDS; i += 2)
		if (location >= settings->forward[i] && location < settings->forward[i + 1])
			return true;
	return false;
}

/* skb:kfree_skb: a packet that somebody drops; most are foreign, and leave after a few reads. */
static __always_inline int handle_size_free(struct sk_buff *skb, u64 location, u32 kernel_reason,
					    bool is_second)
{
	u32 slot = 0;
	struct wgt_mtu_config *settings = mtu_config.lookup(&slot);
	struct sizing sizing = {.layer = WGT_OUTER, .location = location, .kernel_reason = kernel_reason};
	struct skb_view view = {};
	struct dst_entry *dst;
	struct blamed *blamed;
	u8 version, proto, *l4, *quoted;
	bool is_fragment;
	u64 key;

	skb_view_init(&view, skb);
	version = ip_version(view.network, view.tail);
	if (!version || !settings)
		return 0;
	if (!view.dev) { /* what this host sends has none before ip_output() */
		dst = dst_of(skb);
		view.dev = dst ? READ(dst->dev) : NULL;
	}
	if (!view.dev)
		return 0;
	if (version == 4) {
		proto = read_u8(view.network + offsetof(struct iphdr, protocol));
		is_fragment = READ(((struct iphdr *)view.network)->frag_off) & 0xff3f;
		l4 = view.network + (read_u8(view.network) & 0xf) * 4;
		sizing.size = swap16(READ(((struct iphdr *)view.network)->tot_len));
	} else {
		proto = read_u8(view.network + offsetof(struct ipv6hdr, nexthdr));
		is_fragment = proto == IPPROTO_FRAGMENT;
		l4 = view.network + sizeof(struct ipv6hdr);
		if (is_fragment)
			proto = read_u8(l4);
		sizing.size = swap16(READ(((struct ipv6hdr *)view.network)->payload_len)) + 40;
	}
	sizing.dev = view.dev;
	sizing.end = view.tail;
	sizing.outer = view.network;
	sizing.outgoing = !READ(skb->skb_iif);
	if (proto == IPPROTO_UDP && is_fragment) {
		sizing.code = WGT_MTU_FRAGMENT_LOST;
		sizing.endpoint = endpoint_at(netns_of(view.dev),
					      address_in(view.network, version, sizing.outgoing), version);
		if (!sizing.endpoint)
			return 0;
	} else if (proto == IPPROTO_UDP) {
		if (!sizing.outgoing || !is_cut_short_at(settings, location) ||
		    read_u32(l4 + UDP_HEADER_LEN) != MESSAGE_DATA)
			return 0;
		sizing.wg = device_by_port(view.dev, __builtin_bswap32(read_u32(l4)) >> 16);
		if (!sizing.wg)
			return 0;
		sizing.code = WGT_MTU_DATAGRAM_LOST;
		find_peer(&sizing, netns_of(view.dev), version);
	} else if ((proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) && is_too_big(l4, version)) {
		quoted = l4 + ICMP_HEADER_LEN;
		key = blame_key(quoted, version);
		blamed = too_bigs.lookup(&key);
		sizing.code = WGT_MTU_TOO_BIG_LOST;
		sizing.outer = NULL;
		sizing.mtu = __builtin_bswap32(read_u32(l4 + 4)) & (version == 4 ? 0xffff : ~0);
		sizing.of = WGT_MTU_OF_ICMP;
		if (blamed) {
			sizing.wg = (void *)blamed->wg;
			sizing.peer = (void *)blamed->peer;
			sizing.layer = WGT_INNER;
			sizing.inner = quoted;
		} else {
			sizing.endpoint =
				endpoint_at(netns_of(view.dev), address_in(quoted, version, true), version);
			sizing.outer = quoted;
			sizing.from = address_in(view.network, version, false);
			sizing.family = version;
			if (!sizing.endpoint)
				return 0;
		}
		sizing.size = version == 4 ? swap16(READ(((struct iphdr *)quoted)->tot_len))
					   : swap16(READ(((struct ipv6hdr *)quoted)->payload_len)) + 40;
	} else {
		return 0;
	}
	if (is_taken(skb, BY_PATH, is_second))
		return 0;
	take(skb, BY_PATH, is_second);
	sizing_emit(&sizing);
	return 0;
}
