/* SPDX-License-Identifier: GPL-2.0-only */
/* Reading packets out of an skb: linear data only, never past its end. */
#pragma once

#define ETH_P_IP_BE    0x0008 /* htons(ETH_P_IP) */
#define ETH_P_IPV6_BE  0xdd86 /* htons(ETH_P_IPV6) */
#define IPPROTO_ICMP   1
#define IPPROTO_TCP    6
#define IPPROTO_UDP    17
#define IPPROTO_ICMPV6 58

#define CHECKSUM_NONE	 0
#define CHECKSUM_PARTIAL 3

/* What is looked at of an skb, read once. */
struct skb_view {
	u8 *head;
	u8 *data;
	u8 *tail; /* end of the linear part */
	u8 *network;
	u8 *transport;
	struct net_device *dev;
	u32 len;
	u16 protocol; /* network order */
	u16 pad;
	u32 pad2;
};

static __always_inline u16 swap16(u16 value)
{
	return __builtin_bswap16(value);
}

/* The members that end a struct sk_buff, from `protocol` on, lie together: one read instead of six. */
#define SKB_END_START (offsetof(struct sk_buff, protocol) & ~7UL)
#define SKB_END_LEN   (offsetof(struct sk_buff, data) + sizeof(u8 *) - SKB_END_START)
#define IN_SKB_END(member)                                                                                   \
	(*(typeof(((struct sk_buff *)0)->member) *)(end + offsetof(struct sk_buff, member) - SKB_END_START))

static __always_inline void skb_view_init(struct skb_view *view, struct sk_buff *skb)
{
	u8 end[SKB_END_LEN] __attribute__((aligned(8))) = {};

	bpf_probe_read_kernel(end, sizeof(end), (u8 *)skb + SKB_END_START);
	view->head = IN_SKB_END(head);
	view->data = IN_SKB_END(data);
	view->tail = view->head + IN_SKB_END(tail);
	view->network = view->head + IN_SKB_END(network_header);
	view->transport = view->head + IN_SKB_END(transport_header);
	view->protocol = IN_SKB_END(protocol);
	view->dev = READ(skb->dev);
	view->len = READ(skb->len);
}

/* skb_shinfo() */
static __always_inline struct skb_shared_info *skb_info(struct sk_buff *skb)
{
	return (void *)(READ(skb->head) + READ(skb->end));
}

static __always_inline bool skb_is_gso(struct sk_buff *skb)
{
	return READ(skb_info(skb)->gso_size) != 0;
}

static __always_inline u8 read_u8(const u8 *at)
{
	u8 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), at);
	return value;
}

static __always_inline u32 read_u32(const u8 *at)
{
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), at);
	return value;
}

static __always_inline u64 read_u64(const u8 *at)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), at);
	return value;
}

/* The version nibble that an IP header starts with, 0 if there is none. */
static __always_inline u8 ip_version(const u8 *ip, const u8 *end)
{
	u8 version;

	if (ip + sizeof(struct iphdr) > end)
		return 0;
	version = read_u8(ip) >> 4;
	if (version == 6 && ip + sizeof(struct ipv6hdr) > end)
		return 0;
	return version == 4 || version == 6 ? version : 0;
}

/* Ports, or the identifier of an ICMP echo request or reply. */
static __always_inline void read_ports(struct wgt_flow *flow, const u8 *l4, const u8 *end)
{
	u16 ports[2] = {};
	u8 type;

	if (l4 + 8 > end)
		return;
	if (flow->proto == IPPROTO_TCP || flow->proto == IPPROTO_UDP) {
		bpf_probe_read_kernel(ports, sizeof(ports), l4);
		flow->sport = swap16(ports[0]);
		flow->dport = swap16(ports[1]);
	} else if (flow->proto == IPPROTO_ICMP || flow->proto == IPPROTO_ICMPV6) {
		type = read_u8(l4);
		if (type == 0 || type == 8 || type == 128 || type == 129) {
			bpf_probe_read_kernel(ports, sizeof(ports[0]), l4 + 4);
			flow->sport = swap16(ports[0]);
		}
	}
}

/* Fills `flow`, which is all zero, from the IP header at `ip`. */
static __always_inline void read_flow(struct wgt_flow *flow, const u8 *ip, const u8 *end)
{
	u8 version = ip_version(ip, end);

	if (version == 4) {
		struct iphdr header = {};

		bpf_probe_read_kernel(&header, sizeof(header), ip);
		flow->family = 4;
		flow->proto = header.protocol;
		flow->len = swap16(header.tot_len);
		bpf_probe_read_kernel(flow->saddr, 4, ip + offsetof(struct iphdr, saddr));
		bpf_probe_read_kernel(flow->daddr, 4, ip + offsetof(struct iphdr, daddr));
		/* Only the first fragment has ports. */
		if (!(header.frag_off & 0xff1f))
			read_ports(flow, ip + (read_u8(ip) & 0xf) * 4, end);
	} else if (version == 6) {
		struct ipv6hdr header = {};

		bpf_probe_read_kernel(&header, sizeof(header), ip);
		flow->family = 6;
		flow->proto = header.nexthdr;
		flow->len = swap16(header.payload_len) + sizeof(header);
		bpf_probe_read_kernel(flow->saddr, 16, ip + offsetof(struct ipv6hdr, saddr));
		bpf_probe_read_kernel(flow->daddr, 16, ip + offsetof(struct ipv6hdr, daddr));
		read_ports(flow, ip + sizeof(header), end);
	}
}
