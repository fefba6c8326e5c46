/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether a flow filter asks for a drop. Nothing of the kernel is needed here:
 * tests/unit/events/test_flow_filter.py compiles it for the host.
 */
#pragma once

static __always_inline bool is_in_net(const struct wgt_flow_term *term, const u8 *address)
{
	const u32 *has = (const u32 *)address, *wanted = (const u32 *)term->addr,
		  *mask = (const u32 *)term->mask;

	return !(((has[0] & mask[0]) ^ wanted[0]) | ((has[1] & mask[1]) ^ wanted[1]) |
		 ((has[2] & mask[2]) ^ wanted[2]) | ((has[3] & mask[3]) ^ wanted[3]));
}

/* Whether a packet has what `term` looks for; one that is not known has nothing. */
static __always_inline bool has_term(const struct wgt_flow_term *term, const struct wgt_flow *flow)
{
	u8 ends = term->ends;

	if (!flow->family)
		return false;
	if (term->kind == WGT_TERM_NET)
		return flow->family == term->family &&
		       ((ends & WGT_SOURCE && is_in_net(term, flow->saddr)) ||
			(ends & WGT_DESTINATION && is_in_net(term, flow->daddr)));
	if (term->kind == WGT_TERM_PORT) {
		/* the port of other protocols is an identifier, or none */
		if (term->proto ? flow->proto != term->proto : flow->proto != 6 && flow->proto != 17)
			return false;
		return (ends & WGT_SOURCE && flow->sport == term->port) ||
		       (ends & WGT_DESTINATION && flow->dport == term->port);
	}
	if (term->kind == WGT_TERM_PROTO)
		return flow->proto == term->proto;
	return flow->family == term->family;
}

/* Whether all terms of the filter hold. */
static __always_inline bool is_flow_wanted(const struct wgt_filter *filter, const struct wgt_flow *inner,
					   const struct wgt_flow *outer)
{
	for (u64 i = 0; i < WGT_MAX_TERMS; i++) {
		const struct wgt_flow_term *term;
		bool holds;

		asm volatile("" : "+r"(i)); /* not unrolled: eight times this would not fit on the stack */
		if (i >= WGT_MAX_TERMS || i >= filter->terms)
			break;
		term = &filter->term[i];
		holds = (term->layers & WGT_INNER && has_term(term, inner)) ||
			(term->layers & WGT_OUTER && has_term(term, outer));
		if (holds == !!term->negated)
			return false;
	}
	return true;
}
