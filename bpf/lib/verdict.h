/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The end of every packet's judgement: count, tell of a drop, decide. */
#ifndef ESPALIER_BPF_LIB_VERDICT_H_
#define ESPALIER_BPF_LIB_VERDICT_H_

#include "bpf/lib/kernel.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/parse.h"

/* To whoever comes after in the hook: the guard only ever takes away. */
#define NEXT TC_ACT_UNSPEC
#define DROP TC_ACT_SHOT

static __always_inline int is_drop(enum espalier_verdict verdict) {
  switch (verdict) {
#define ESPALIER_VERDICT_CASE(name, drop, hook, key, text) \
  case ESPALIER_V_##name:                                  \
    return drop;
    ESPALIER_VERDICTS(ESPALIER_VERDICT_CASE)
#undef ESPALIER_VERDICT_CASE
    default:
      return 1;
  }
}

static __noinline int report(struct __sk_buff* skb, const struct packet* p,
                             __u32 slot, __u32 verdict, __u32 hook) {
  struct espalier_event_budget* budget =
      bpf_map_lookup_elem(&esp_budgets, &slot);
  if (!budget) return 0;
  const __u64 now = bpf_ktime_get_coarse_ns();
  const __u64 second = now / 1000000000ull;
  if (budget->second != second) {
    budget->second = second;
    budget->sent = 0;
  }
  if (budget->sent >= ESPALIER_EVENTS_PER_SECOND) {
    __sync_fetch_and_add(&budget->suppressed, 1);
    return 0;
  }
  __sync_fetch_and_add(&budget->sent, 1);
  struct espalier_event* event =
      bpf_ringbuf_reserve(&esp_events, sizeof(*event), 0);
  if (!event) {
    __sync_fetch_and_add(&budget->suppressed, 1);
    return 0;
  }
  event->time_ns = now;
  event->ifindex = skb->ifindex;
  event->input_ifindex = skb->ingress_ifindex;
  event->slot = slot;
  event->mark = skb->mark;
  event->length = skb->len > p->l3 ? skb->len - p->l3 : 0;
  event->suppressed = budget->suppressed;
  budget->suppressed = 0;
  event->source = p->source;
  event->destination = p->destination;
  event->source_port = bpf_ntohs(p->source_port);
  event->destination_port = bpf_ntohs(p->destination_port);
  event->verdict = verdict;
  event->hook = hook;
  event->family = p->family;
  event->protocol = p->protocol;
  bpf_ringbuf_submit(event, 0);
  return 0;
}

/* A packet that segmentation will cut counts as what it becomes. */
static __always_inline int finish(struct __sk_buff* skb, const struct packet* p,
                                  __u32 slot, enum espalier_verdict verdict,
                                  enum espalier_hook hook) {
  struct espalier_counters* counters =
      bpf_map_lookup_elem(&esp_counters, &slot);
  if (counters) {
    const __u32 segments = skb->gso_segs;
    counters->packets[verdict & (ESPALIER_VERDICT_SLOTS - 1)] +=
        segments > 1 ? segments : 1;
  }
  if (!is_drop(verdict)) return NEXT;
  report(skb, p, slot, verdict, hook);
  return DROP;
}

#endif /* ESPALIER_BPF_LIB_VERDICT_H_ */
