// SPDX-License-Identifier: GPL-2.0-only
/*
 * Packets of a tunnel that die outside of WireGuard.
 *
 * Every packet that the kernel drops comes here, and most are foreign: those leave
 * after a few reads. What is left is told apart by where it was on its way: the
 * plain packet before encryption or after decryption, or the datagram around it.
 */

#define NF_DROP		0
#define NFT_REG_VERDICT 0
#define NFPROTO_NETDEV	5
#define SKB_DST_NOREF	1UL
#define IS_LOCAL_ROUTE	0x80000000 /* RTCF_LOCAL of IPv4, RTF_LOCAL of IPv6 */

#define WGT_MAX_CHAINS 256
#define WGT_MAX_RULES  1024

/* By an skb's address: what nf_tables was evaluating when it decided to drop it. */
struct verdict {
	u64 expr;
	u8 hook; /* enum wgt_hook */
	u8 pad[7];
};

BPF_TABLE("lru_hash", u64, struct verdict, verdicts, 1024);
BPF_ARRAY(path_config, struct wgt_path_config, 1);
BPF_ARRAY(path_reasons, u32, WGT_PATH_REASONS);
BPF_TABLE("percpu_array", u32, struct wgt_stream, path_streams, WGT_PATH_REASONS);
/* Room for an event, which the stack has not; one for each of the tracepoint's two programs. */
BPF_TABLE("percpu_array", u32, struct wgt_path_event, path_room, 2);

static __always_inline struct wgt_path_config *path_settings(void)
{
	u32 slot = 0;

	return path_config.lookup(&slot);
}

/* -- which rule ------------------------------------------------------------------ */

static __always_inline void remember_verdict(const struct wgt_path_config *settings, u8 *expr, u8 *pkt)
{
	struct nf_hook_state *state = (void *)read_u64(pkt + settings->pkt_state);
	u64 skb = read_u64(pkt + settings->pkt_skb);
	struct verdict verdict = {.expr = (u64)expr};
	u8 hook = READ(state->hook);

	verdict.hook =
		READ(state->pf) == NFPROTO_NETDEV ? WGT_HOOK_INGRESS + hook : WGT_HOOK_PREROUTING + hook;
	verdicts.update(&skb, &verdict);
}

/* nft_immediate_eval(): runs for each `accept`, `drop` and `jump` of any packet. */
static __always_inline int handle_nft_immediate(u8 *expr, void *regs, u8 *pkt)
{
	struct wgt_path_config *settings = path_settings();

	if (!settings || !settings->verdict_code || read_u32(expr + settings->verdict_code) != NF_DROP ||
	    read_u8(expr + settings->verdict_dreg) != NFT_REG_VERDICT)
		return 0;
	remember_verdict(settings, expr, pkt);
	return 0;
}

/* nft_reject_*_eval(): runs for what is refused, and nothing else. */
static __always_inline int handle_nft_reject(u8 *expr, void *regs, u8 *pkt)
{
	struct wgt_path_config *settings = path_settings();

	if (settings && settings->verdict_code)
		remember_verdict(settings, expr, pkt);
	return 0;
}

/*
 * Where the rules at `blob` begin, if `expr` is among them, else 0. The loop around it
 * is verified once for each way through this, so there is but one: masks stand for
 * branches.
 */
static __always_inline u64 rules_with(const struct wgt_path_config *settings, u64 blob, u64 expr)
{
	u64 begin = blob + settings->blob_data, into = expr - begin;
	s64 is_before = into, is_inside = into - read_u64((u8 *)blob + settings->blob_size);

	return begin & (u64)(is_inside >> 63) & ~(u64)(is_before >> 63);
}

/*
 * The table, chain and rule that `expr` is in. Nobody has to be asked on the way of
 * a good packet for that: all chains of the namespace are looked through, once the
 * packet is lost, for the one whose rules lie around it.
 */
static __always_inline void find_rule(struct wgt_path_event *e, const struct wgt_path_config *settings,
				      struct net *net, u64 expr)
{
	u8 *tables =
		(u8 *)read_u64((u8 *)READ(net->gen) + read_u32((u8 *)settings->net_id) * sizeof(void *)) +
		settings->net_tables;
	u8 *table = tables, *chain = NULL, *chains = NULL;
	u64 rule = 0;

	for (int i = 0; i < WGT_MAX_CHAINS; i++) {
		chain = (u8 *)read_u64(chain);
		if (chain == chains) { /* the last one of its table, or the very first */
			table = (u8 *)read_u64(table);
			if (table == tables)
				return;
			chain = chains = table - settings->table_list + settings->table_chains;
			continue;
		}
		rule = rules_with(settings, read_u64(chain - settings->chain_list + settings->chain_blob_0),
				  expr) |
		       rules_with(settings, read_u64(chain - settings->chain_list + settings->chain_blob_1),
				  expr);
		if (rule)
			break;
	}
	if (!rule)
		return;
	table -= settings->table_list;
	chain -= settings->chain_list;
	e->table_handle = read_u64(table + settings->table_handle);
	e->table_family = read_u8(table + settings->table_family) & 0x3f;
	bpf_probe_read_kernel_str(e->table, sizeof(e->table), (void *)read_u64(table + settings->table_name));
	bpf_probe_read_kernel_str(e->chain, sizeof(e->chain), (void *)read_u64(chain + settings->chain_name));
	/* struct nft_rule_dp: is_last:1, dlen:12, handle:42, and dlen bytes of expressions */
	for (int i = 0; i < WGT_MAX_RULES; i++) {
		u64 header = read_u64((u8 *)rule), len = header >> 1 & 0xfff;

		if (header & 1)
			break;
		if (expr < rule + 8 + len) {
			e->rule_handle = header >> 13 & ((1ULL << 42) - 1);
			e->rule = WGT_RULE_EXACT;
			break;
		}
		rule += 8 + len;
	}
}

/* -- whose packet ---------------------------------------------------------------- */

/* What is looked at of a packet that was dropped. */
struct lost {
	struct wg_device *wg;
	struct net_device *dev;	 /* that it was at */
	struct net_device *into; /* that it was routed to, NULL: it was not yet */
	u8 *ip;
	u8 *message; /* NULL: it is no UDP, or not to be read */
	u32 iif;     /* that it came in by, 0: made here */
	u16 sport;
	u16 dport;
	u8 version;
	bool is_local; /* routed to this host */
	bool is_udp;
	u8 pad;
};

/* The interface with index `ifindex` in the namespace of `dev`, if it is WireGuard's. */
static __always_inline struct wg_device *device_by_index(struct net_device *dev, u32 ifindex)
{
	u32 slot = 0;
	struct wgt_config *settings = config.lookup(&slot);
	struct list_head *list, *entry;
	struct net *net = READ(dev->nd_net.net);

	if (!settings || !settings->device_list)
		return NULL;
	list = (void *)settings->device_list;
	entry = READ(list->next);
	for (int i = 0; i < WGT_MAX_DEVICES && entry && entry != list; i++) {
		struct wg_device *wg = container_of(entry, struct wg_device, device_list);
		struct net_device *its = READ(wg->dev);

		if (READ(its->ifindex) == ifindex && READ(its->nd_net.net) == net)
			return wg;
		entry = READ(entry->next);
	}
	return NULL;
}

static __always_inline bool is_at(struct wg_peer *peer, struct wg_device *wg, const u8 *address, u16 port,
				  u8 version)
{
	u8 *endpoint = (u8 *)&peer->endpoint.addr;

	if (!is_peer(peer) || READ(peer->device) != wg)
		return false;
	if (version == 4)
		return read_u32(endpoint) == ((u32)swap16(port) << 16 | AF_INET) &&
		       read_u32(endpoint + 4) == read_u32(address);
	return read_u32(endpoint) == ((u32)swap16(port) << 16 | AF_INET6) &&
	       read_u64(endpoint + 8) == read_u64(address) &&
	       read_u64(endpoint + 16) == read_u64(address + 8);
}

static __always_inline void lost_init(struct lost *lost, struct sk_buff *skb, struct skb_view *view)
{
	struct dst_entry *dst = (void *)(READ(skb->_skb_refdst) & ~SKB_DST_NOREF);
	u8 *l4 = view->network + sizeof(struct ipv6hdr);
	u16 ports[2] = {};

	lost->ip = view->network;
	lost->dev = view->dev;
	lost->iif = READ(skb->skb_iif);
	if (dst) {
		lost->into = READ(dst->dev);
		lost->is_local = (lost->version == 4 ? READ(((struct rtable *)dst)->rt_flags)
						     : READ(((struct rt6_info *)dst)->rt6i_flags)) &
				 IS_LOCAL_ROUTE;
	}
	if (lost->version == 4) {
		l4 = lost->ip + (read_u8(lost->ip) & 0xf) * 4;
		lost->is_udp = read_u8(lost->ip + offsetof(struct iphdr, protocol)) == IPPROTO_UDP &&
			       !(READ(((struct iphdr *)lost->ip)->frag_off) & 0xff1f);
	} else {
		lost->is_udp = read_u8(lost->ip + offsetof(struct ipv6hdr, nexthdr)) == IPPROTO_UDP;
	}
	if (!lost->is_udp || l4 + UDP_HEADER_LEN > view->tail) {
		lost->is_udp = false;
		return;
	}
	bpf_probe_read_kernel(ports, sizeof(ports), l4);
	lost->sport = swap16(ports[0]);
	lost->dport = swap16(ports[1]);
	if (l4 + UDP_HEADER_LEN + MESSAGE_DATA_HEADER_LEN <= view->tail)
		lost->message = l4 + UDP_HEADER_LEN;
}

/*
 * Which tunnel a packet belongs to, and how; false: to none. WireGuard gives a
 * datagram of its own its interface as skb->dev, and the way out as its route; from
 * ip_output() on it is at the device below. What came in has an interface index.
 */
static __always_inline bool is_of_tunnel(struct wgt_path_event *e, struct lost *lost, u32 says)
{
	struct wg_device *at = device_of(lost->dev), *to = lost->is_local ? NULL : device_of(lost->into);
	u32 type = lost->message ? read_u32(lost->message) : 0;
	bool is_outgoing = !lost->iif && !(says & WGT_PATH_INCOMING);

	if (at && is_outgoing && lost->into && !to && lost->is_udp &&
	    lost->sport == READ(at->incoming_port)) {
		lost->wg = at;
		e->layer = WGT_OUTER;
	} else if (!at && !to && lost->is_udp && (is_outgoing || !lost->into || lost->is_local)) {
		lost->wg = device_by_port(lost->dev ? lost->dev : lost->into,
					  is_outgoing ? lost->sport : lost->dport);
		e->layer = WGT_OUTER;
	}
	if (lost->wg) {
		if (lost->message && (type < MESSAGE_INITIATION || type > MESSAGE_DATA))
			return false;
		e->message_type = type;
		e->outgoing = is_outgoing;
		return true;
	}
	e->layer = WGT_INNER;
	if (at && (lost->iif ? lost->iif == READ(lost->dev->ifindex) : !lost->into)) {
		lost->wg = at;
	} else if (to) {
		lost->wg = to;
		e->outgoing = 1;
	} else if (lost->dev && lost->iif && !lost->is_local && lost->iif != READ(lost->dev->ifindex)) {
		lost->wg = device_by_index(lost->dev, lost->iif);
	}
	return lost->wg;
}

/* Which hook of netfilter a packet was at, by how far it had come. */
static __always_inline u8 hook_of(const struct wgt_path_event *e, const struct lost *lost)
{
	if (!lost->into)
		return WGT_HOOK_PREROUTING;
	if (lost->is_local)
		return WGT_HOOK_INPUT;
	if (!lost->dev || (e->layer == WGT_OUTER && lost->dev != lost->into))
		return WGT_HOOK_OUTPUT;
	if (lost->dev == lost->into && (e->outgoing || lost->iif != READ(lost->dev->ifindex)))
		return WGT_HOOK_POSTROUTING;
	return WGT_HOOK_FORWARD;
}

/* The peer of a datagram: by the session that it names, or by where the peer is. */
static __always_inline struct wg_peer *peer_of_datagram(struct wgt_path_event *e, struct lost *lost)
{
	const u8 *address = lost->ip + (lost->version == 4 ? offsetof(struct iphdr, saddr)
							   : offsetof(struct ipv6hdr, saddr));
	struct index_hashtable_entry *entry;
	struct wg_peer *peer;
	u16 port = lost->sport;

	if (e->outgoing) {
		address += lost->version == 4 ? 4 : 16;
		port = lost->dport;
		peer = peer_of_worker();
		if (is_at(peer, lost->wg, address, port, lost->version))
			return peer;
	}
	if (e->message_type > MESSAGE_INITIATION)
		e->receiver_index = read_u32(lost->message + (e->message_type == MESSAGE_RESPONSE ? 8 : 4));
	if (!e->outgoing && e->receiver_index) {
		entry = index_lookup(lost->wg, e->receiver_index,
				     e->message_type == MESSAGE_DATA ? INDEX_HASHTABLE_KEYPAIR
								     : INDEX_HASHTABLE_HANDSHAKE);
		peer = entry ? READ(entry->peer) : NULL;
		if (peer)
			return peer;
	}
	return peer_by_endpoint(lost->wg, address, port, lost->version);
}

/* -- telling ----------------------------------------------------------------------- */

static __always_inline u32 path_slot(u32 reason)
{
	u32 subsystem = reason >> 16;

	if (subsystem)
		return WGT_PATH_SUBSYSTEM_0 + (subsystem & 15);
	return reason < WGT_PATH_SUBSYSTEM_0 ? reason : 0;
}

/* Whether the filter asks for `e`, of which the total's key is filled but for this. */
static __always_inline bool is_path_wanted(const struct wgt_filter *filter, u32 says,
					   const struct wgt_path_event *e, struct wgt_total_key *key)
{
	if (says & (e->outgoing ? WGT_PATH_HIDE_TX : WGT_PATH_HIDE_RX))
		return false;
	if (filter->has_peers && !(key->peer_known && wanted_peers.lookup((void *)key->public_key)))
		return false;
	return !filter->terms || is_flow_wanted(filter, &e->inner, &e->outer);
}

/* Counts the drop, and shows it if it may be. */
static __always_inline void path_emit(struct wgt_path_event *e, u32 says, u32 slot)
{
	u32 first = 0;
	struct wgt_filter *filter = filters.lookup(&first);
	struct wgt_stream *stream = path_streams.lookup(&slot);
	struct wgt_total_key key = {};

	if (!filter || !stream)
		return;
	__builtin_memcpy(key.ifname, e->device.ifname, sizeof(key.ifname));
	key.netns = e->device.netns;
	key.kind = WGT_EVENT_PATH;
	key.code = e->kernel_reason;
	key.subsystem = e->kernel_reason >> 16;
	key.sub_reason = e->layer == WGT_INNER ? e->inner.family : e->outer.family;
	key.layer = e->layer;
	key.outgoing = e->outgoing;
	key.hook = e->hook;
	key.rule = e->rule;
	key.peer_known = e->peer.known;
	__builtin_memcpy(key.public_key, e->peer.public_key, sizeof(key.public_key));
	e->matched = key.matched = is_path_wanted(filter, says, e, &key);
	count_total(&key);
	if (!key.matched && filter->has_peers && key.peer_known &&
	    !wanted_peers.lookup((void *)key.public_key))
		return;
	if (!may_stream_in(stream, e->hdr.ts_ns, key.matched, filter->samples_per_second))
		return;
	if (events.ringbuf_output(e, sizeof(*e), 0))
		count_loss(WGT_LOST_EVENTS);
}

static __always_inline bool is_quiet(const struct wgt_path_config *settings, u64 location)
{
	for (int i = 0; i < WGT_QUIET_ENDS; i += 2)
		if (location >= settings->quiet[i] && location < settings->quiet[i + 1])
			return true;
	return false;
}

/* skb:kfree_skb: a packet that somebody drops. */
static __always_inline int handle_path(struct sk_buff *skb, u64 location, u32 kernel_reason, void *ctx,
				       bool is_second)
{
	u32 slot = path_slot(kernel_reason), room = is_second;
	u32 *says = path_reasons.lookup(&slot);
	struct wgt_path_config *settings = path_settings();
	struct wgt_sites *known = known_sites();
	u64 address = (u64)skb;
	struct verdict verdict = {}, *found = NULL;
	struct skb_view view = {};
	struct lost lost = {};
	struct wgt_path_event *e;
	struct net_device *dev;
	struct net *net;

	if (!says || !settings || *says & WGT_PATH_NEVER)
		return 0;
	if (*says & WGT_PATH_NETFILTER)
		found = verdicts.lookup(&address);
	if (found) {
		verdict = *found;
		verdicts.delete(&address); /* the address is soon another packet's */
	}
	skb_view_init(&view, skb);
	lost.version = ip_version(view.network, view.tail);
	e = path_room.lookup(&room);
	if (!lost.version || !e)
		return 0;
	lost_init(&lost, skb, &view);
	__builtin_memset(e, 0, sizeof(*e));
	FORGET(lost);
	if (!is_of_tunnel(e, &lost, *says))
		return 0;
	FORGET(lost);
	if (e->layer == WGT_INNER && !e->outgoing && lost.is_local && !(*says & WGT_PATH_DELIVERED))
		return 0; /* the tunnel did its work: what a socket makes of it is not its matter */
	location = caller_of_list_free(ctx, known, skb, location);
	if (site_of(known, location) != WGT_SITE_NONE || is_quiet(settings, location) ||
	    is_taken(skb, BY_PATH, is_second))
		return 0;
	read_device(&e->device, lost.wg);
	if (!is_traced(&e->device))
		return 0;
	take(skb, BY_PATH, is_second);

	header_init(&e->hdr, WGT_EVENT_PATH, sizeof(*e));
	e->location = location;
	e->kernel_reason = kernel_reason;
	e->mark = READ(skb->mark);
	/* WireGuard's datagram still says its interface on its way to the device below. */
	dev = lost.dev && !(e->layer == WGT_OUTER && e->outgoing && lost.into) ? lost.dev : lost.into;
	if (dev) {
		bpf_probe_read_kernel_str(e->ifname, sizeof(e->ifname), dev->name);
		net = READ(dev->nd_net.net);
		e->netns = READ(net->ns.inum);
		if (*says & WGT_PATH_NETFILTER) {
			e->hook = verdict.hook ? verdict.hook : hook_of(e, &lost);
			FORGET(verdict);
			FORGET(dev);
			if (settings->verdict_code)
				e->rule = verdict.expr ? WGT_RULE_SOMEWHERE : WGT_RULE_IMPLICIT;
			if (verdict.expr)
				find_rule(e, settings, READ(dev->nd_net.net), verdict.expr);
		}
	}
	if (e->layer == WGT_INNER) {
		u32 at = lost.version == 4 ? offsetof(struct iphdr, saddr) : offsetof(struct ipv6hdr, saddr);

		if (e->outgoing)
			at += lost.version == 4 ? 4 : 16;
		read_peer(&e->peer, allowedips_lookup(lost.wg, lost.ip + at, lost.version));
		read_flow(&e->inner, lost.ip, view.tail);
	} else {
		read_peer(&e->peer, peer_of_datagram(e, &lost));
		read_flow(&e->outer, lost.ip, view.tail);
		/* It may only pass through to the same port of another host: that is not known yet. */
		if (!e->outgoing && !lost.into && !e->peer.known)
			return 0;
	}
	path_emit(e, *says, slot);
	return 0;
}
