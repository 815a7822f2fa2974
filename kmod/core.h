/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of the module know of each other. The data flows one way:
 *
 *   discover -> adopt or claim -> index -> chardev
 *
 * and main ties their lifetimes to those of the CPUs and of the module.
 */
#ifndef _GUESTPV_CORE_H
#define _GUESTPV_CORE_H

#include <linux/mm_types.h>
#include <linux/types.h>

#include "uapi/guestpv.h"

/* discover.c: does this CPU's hypervisor offer PV-time? */
int guestpv_discover_conduit(u32 *smccc_version, u32 *conduit);
int guestpv_discover(struct guestpv_entry *entry);

/* clock.c: the kernel's own reader of a CPU's stolen time; NULL if it has none */
typedef u64 (*guestpv_clock_fn)(int cpu);
guestpv_clock_fn guestpv_kernel_clock(void);

/*
 * adopt.c or claim.c, by whether the kernel was built to own the structures:
 * where is this CPU's structure? Runs on @cpu, in a context that can sleep.
 * Fills in origin, fault and what was learned: ipa, st_return.
 */
int guestpv_owner_init(long adopt_offset, const char *adopt_build);
void guestpv_owner_learn(unsigned int cpu, struct guestpv_entry *entry);
int guestpv_owner_judge(const struct guestpv_entry *entry);

/* index.c: the mapping: which structure is where, and what it was last seen to say */
int guestpv_index_init(u32 smccc_version, u32 conduit);
void guestpv_index_exit(void);
int guestpv_index_seal(void);
void guestpv_index_online(unsigned int cpu, struct guestpv_entry *entry);
void guestpv_index_offline(unsigned int cpu);
void guestpv_index_check(void);
u64 guestpv_index_size(void);
bool guestpv_index_pfn(pgoff_t pgoff, unsigned long *pfn);
const char *guestpv_fault_text(u8 fault);

/* chardev.c: /dev/guestpv and its uevents */
int guestpv_chardev_init(void);
void guestpv_chardev_exit(void);
void guestpv_event(const char *what, unsigned int cpu, u32 epoch, u64 word);

#endif /* _GUESTPV_CORE_H */
