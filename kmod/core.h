/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the parts of the module know of each other. The data flows one way:
 *
 *   discover -> adopt or claim -> pages -> index -> event, chardev, total -> pmu
 *
 * hotplug and monitor drive it, when a CPU comes or goes and from time to time;
 * main ties their lifetimes to that of the module.
 */
#ifndef _GUESTPV_CORE_H
#define _GUESTPV_CORE_H

#include <linux/cpumask.h>
#include <linux/mm_types.h>
#include <linux/types.h>
#include <linux/wait.h>

#include "uapi/guestpv.h"

/* discover.c: does this CPU's hypervisor offer PV-time? */
u32 guestpv_discover_conduit(void);
void guestpv_discover_nothing(struct guestpv_entry *entry);
int guestpv_discover(struct guestpv_entry *entry);

/* clock.c: the kernel's own reader of a CPU's stolen time */
typedef u64 (*guestpv_clock_fn)(int cpu);
int guestpv_kernel_clock(guestpv_clock_fn *clock);

/*
 * adopt.c or claim.c, by whether the kernel was built to own the structures.
 * learn: where is this CPU's structure? Runs on @cpu, in a context that can
 * sleep, reads nothing at the address, and fills in origin, fault and what was
 * learned: ipa, st_return.
 * provoke: is PV_TIME_ST refused where the query for it was? Runs like learn.
 * verify: is what stands at the address, which was checked, this CPU's count?
 * judge: does this one entry say that nothing of what was learned is right?
 */
int guestpv_owner_init(long adopt_offset, const char *adopt_build, bool probe);
void guestpv_owner_learn(unsigned int cpu, struct guestpv_entry *entry);
void guestpv_owner_provoke(struct guestpv_entry *entry);
u8 guestpv_owner_verify(unsigned int cpu, const struct guestpv_stolen_time *st);
int guestpv_owner_judge(const struct guestpv_entry *entry);

/* pages.c: the guest pages that hold structures, behind the index in the mapping */
int guestpv_pages_init(size_t index_bytes);
void guestpv_pages_exit(void);
u8 guestpv_pages_check(u64 ipa);
u8 guestpv_pages_place(u64 ipa, u32 *offset);
u32 guestpv_pages_offset(u64 ipa);
const struct guestpv_stolen_time *guestpv_pages_structure(u32 offset);
void guestpv_pages_sort(void);
unsigned int guestpv_pages_count(void);
bool guestpv_pages_pfn(pgoff_t nr, unsigned long *pfn);

/* One structure, as it was read. The count means something only where word is 0. */
struct guestpv_sample {
	u64 word; /* revision in the low half, attributes in the high one */
	u64 stolen_ns;
};

/* sample.c: the read protocol of uapi/guestpv.h, for the module itself */
bool guestpv_sample(const struct guestpv_stolen_time *st, struct guestpv_sample *sample);

/* index.c: which structure is where, and what it was last seen to say */
int guestpv_index_init(u32 smccc_version, u32 conduit, u64 flags);
void guestpv_index_exit(void);
int guestpv_index_seal(void);
void guestpv_index_online(unsigned int cpu, struct guestpv_entry *entry, u8 reason);
void guestpv_index_starting(unsigned int cpu, u8 reason);
void guestpv_index_leaving(unsigned int cpu);
bool guestpv_index_never_left(unsigned int cpu);
void guestpv_index_gone(unsigned int cpu);
void guestpv_index_check(u8 reason);
bool guestpv_index_probes(void);
u64 guestpv_index_size(void);
bool guestpv_index_pfn(pgoff_t pgoff, unsigned long *pfn);
u32 guestpv_index_sequence(void);
wait_queue_head_t *guestpv_index_changed(void);

/* total.c: what was stolen from a CPU, over all epochs, and of how much time nobody can tell */
struct guestpv_reading {
	u64 stolen_ns;
	u64 unknown_ns;
	u64 before; /* local_clock() before and after the count was read */
	u64 after;
	bool judged; /* whether what the count did since the last look makes sense */
};

bool guestpv_plausible(u64 stolen_ns, u64 elapsed_ns);
void guestpv_total_look(unsigned int cpu, const struct guestpv_entry *entry);
void guestpv_total_read(unsigned int cpu, struct guestpv_reading *reading);
bool guestpv_total_is_known(unsigned int cpu);

/* pmu.c: perf events */
void guestpv_pmu_init(void);
void guestpv_pmu_exit(void);

/* event.c: the uevents of the device, which is NULL while there is none */
struct device;
void guestpv_event_device(struct device *device);
void guestpv_event(const char *what, const char *reason, const struct cpumask *cpus);

/* hotplug.c: CPUs that come and go, and a machine that wakes up elsewhere */
int guestpv_hotplug_init(void);
void guestpv_hotplug_exit(void);

/* monitor.c: looks for what nobody announces, and listens to what is */
int guestpv_monitor_init(void);
void guestpv_monitor_exit(void);

/* chardev.c: /dev/guestpv */
int guestpv_chardev_init(void);
void guestpv_chardev_exit(void);

#endif /* _GUESTPV_CORE_H */
