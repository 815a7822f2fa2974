// SPDX-License-Identifier: GPL-2.0-only
/*
 * The index: for each possible CPU what can be said of its structure, and how
 * far its count can be followed. An epoch ends where the count was seen to be
 * lower than before, whatever happened to the CPU: a hypervisor need not restart
 * a count when PV_TIME_ST is called again.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/errno.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/random.h>
#include <linux/ratelimit.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>

#include "core.h"

/* What a CPU's structure was last seen to say: the evidence for the next epoch */
struct guestpv_last {
	u64 ipa;
	u64 word;
	u64 stolen_ns; /* when word was last 0 */
	bool counted; /* whether that was in this epoch */
	bool leaving; /* on its way down, and not there yet */
};

static struct {
	struct mutex lock; /* for who changes the index; readers go by its sequence */
	struct guestpv_header *header;
	struct guestpv_entry *entries;
	size_t bytes;
	struct guestpv_last *last;
	wait_queue_head_t changed;
	/* Which CPUs a look found something at: too large for the stack */
	struct cpumask restarted;
	struct cpumask revised;
	bool sealed; /* there are users */
} guestpv_index = {
	.lock = __MUTEX_INITIALIZER(guestpv_index.lock),
	.changed = __WAIT_QUEUE_HEAD_INITIALIZER(guestpv_index.changed),
};

static const char *guestpv_fault_text(u8 fault)
{
	static const char *const text[] = {
		[GUESTPV_FAULT_NONE]		= "no fault",
		[GUESTPV_FAULT_NOT_SUPPORTED]	= "the hypervisor answered NOT_SUPPORTED",
		[GUESTPV_FAULT_NO_REGION]	= "the kernel mapped no structure",
		[GUESTPV_FAULT_UNALIGNED]	= "the address is zero or not 64-byte aligned",
		[GUESTPV_FAULT_OUT_OF_RANGE]	= "the address is beyond the physical address size",
		[GUESTPV_FAULT_SYSTEM_RAM]	= "the address is in System RAM",
		[GUESTPV_FAULT_OVERLAP]		= "another CPU has the same structure",
		[GUESTPV_FAULT_NO_SLOT]		= "no page of the mapping is left",
		[GUESTPV_FAULT_UNREADABLE]	= "the structure could not be mapped or read",
		[GUESTPV_FAULT_MISMATCH]	= "the count is not the one that the kernel reads",
		[GUESTPV_FAULT_SHARED_PAGE]	= "memory of a device is in the same page",
		[GUESTPV_FAULT_PROBED]		= "the module was loaded to probe only",
	};

	return fault < ARRAY_SIZE(text) ? text[fault] : "unknown fault";
}

static const char *guestpv_reason_text(u8 reason)
{
	static const char *const text[] = {
		[GUESTPV_REASON_NONE]		= "none",
		[GUESTPV_REASON_FIRST_SEEN]	= "first-seen",
		[GUESTPV_REASON_HOTPLUG]	= "hotplug",
		[GUESTPV_REASON_FOUND_LOWER]	= "found-lower",
		[GUESTPV_REASON_RESTORED]	= "restored",
		[GUESTPV_REASON_RELEARNED]	= "relearned",
	};

	return reason < ARRAY_SIZE(text) ? text[reason] : "unknown";
}

/*
 * Between the two stand nothing but stores: a reader that waits for the even
 * sequence may be of a higher priority, and have this CPU for itself.
 */
static void guestpv_change_begin(void)
{
	struct guestpv_header *header = guestpv_index.header;

	preempt_disable();
	WRITE_ONCE(header->sequence, header->sequence + 1);
	/*
	 * The odd count is seen before any change. Pairs with the acquire fence
	 * in a reader between what it read and its second load of sequence.
	 */
	smp_wmb();
}

static void guestpv_change_end(void)
{
	struct guestpv_header *header = guestpv_index.header;

	/*
	 * Every change is seen before the even count. Pairs with a reader's
	 * first, acquire, load of sequence.
	 */
	smp_store_release(&header->sequence, header->sequence + 1);
	preempt_enable();
	wake_up_interruptible(&guestpv_index.changed);
}

static void guestpv_publish(unsigned int cpu, const struct guestpv_entry *entry)
{
	guestpv_change_begin();
	guestpv_index.entries[cpu] = *entry;
	guestpv_change_end();
	guestpv_total_look(cpu, entry);
}

static void guestpv_publish_state(unsigned int cpu, u8 state)
{
	guestpv_change_begin();
	guestpv_index.entries[cpu].state = state;
	guestpv_change_end();
	guestpv_total_look(cpu, &guestpv_index.entries[cpu]);
}

static bool guestpv_is_readable(const struct guestpv_entry *entry)
{
	return entry->state == GUESTPV_STATE_ONLINE || entry->state == GUESTPV_STATE_OFFLINE;
}

/* What a sample says that was not known */
struct guestpv_news {
	bool restarted;
	bool revised;
};

/*
 * Enter into @entry what was sampled at its structure, and for which @reason a
 * new epoch begins, should the count be lower than it was.
 */
static struct guestpv_news guestpv_judge(unsigned int cpu, struct guestpv_entry *entry,
					 const struct guestpv_sample *sample, u8 reason)
{
	struct guestpv_last *last = &guestpv_index.last[cpu];
	struct guestpv_news news = { .revised = entry->epoch && sample->word != last->word };

	if (news.revised || !entry->since_ns) {
		entry->since_ns = ktime_get_boottime_ns();
		entry->revision = lower_32_bits(sample->word);
		entry->attributes = upper_32_bits(sample->word);
	}
	if (!entry->epoch)
		reason = GUESTPV_REASON_FIRST_SEEN;
	else if (entry->ipa != last->ipa)
		reason = GUESTPV_REASON_RELEARNED;
	else if (sample->word || !last->counted || sample->stolen_ns >= last->stolen_ns)
		reason = GUESTPV_REASON_NONE;

	if (reason != GUESTPV_REASON_NONE) {
		news.restarted = reason != GUESTPV_REASON_FIRST_SEEN;
		entry->epoch++;
		entry->reason = reason;
		entry->epoch_stolen_ns = GUESTPV_NO_COUNT;
		last->counted = false;
	}
	last->ipa = entry->ipa;
	last->word = sample->word;
	/* Of what is unknown, the count is not interpreted. */
	if (!sample->word) {
		if (!last->counted)
			entry->epoch_stolen_ns = sample->stolen_ns;
		last->counted = true;
		last->stolen_ns = sample->stolen_ns;
	}
	return news;
}

static void guestpv_tell(unsigned int cpu, struct guestpv_news news, u8 reason)
{
	if (news.revised)
		guestpv_event("revision", NULL, cpumask_of(cpu));
	if (news.restarted)
		guestpv_event("restart", guestpv_reason_text(reason), cpumask_of(cpu));
}

static void guestpv_warn_refused(unsigned int cpu)
{
	const struct guestpv_entry *entry = &guestpv_index.entries[cpu];

	pr_warn_ratelimited("cpu%u: refused: %s (address %#llx)\n", cpu,
			    guestpv_fault_text(entry->fault), entry->ipa);
}

static bool guestpv_has_other(unsigned int cpu, u64 ipa)
{
	const struct guestpv_entry *entries = guestpv_index.entries;
	unsigned int other;

	for (other = 0; other < nr_cpu_ids; other++)
		if (other != cpu && entries[other].ipa == ipa &&
		    (entries[other].offset || entries[other].fault == GUESTPV_FAULT_PROBED))
			return true;

	return false;
}

/**
 * guestpv_index_online() - enter what was learned of a CPU that came online
 * @cpu: the CPU
 * @entry: what discovery and the owner learned; completed here
 * @reason: why its count may be lower than it was
 */
void guestpv_index_online(unsigned int cpu, struct guestpv_entry *entry, u8 reason)
{
	struct guestpv_entry *old = &guestpv_index.entries[cpu];
	bool had_one;
	struct guestpv_news news = { };
	struct guestpv_sample sample;

	mutex_lock(&guestpv_index.lock);

	had_one = old->offset;
	entry->epoch = old->epoch;
	entry->reason = old->reason;
	entry->epoch_stolen_ns = old->epoch_stolen_ns;

	if ((!entry->fault || entry->fault == GUESTPV_FAULT_PROBED) && entry->ipa &&
	    guestpv_has_other(cpu, entry->ipa))
		entry->fault = GUESTPV_FAULT_OVERLAP;
	if (!entry->fault && !guestpv_sample(guestpv_pages_structure(entry->offset), &sample))
		entry->fault = GUESTPV_FAULT_UNREADABLE;

	if (entry->fault) {
		entry->state = GUESTPV_STATE_REFUSED;
		entry->offset = 0;
	} else {
		entry->state = GUESTPV_STATE_ONLINE;
		news = guestpv_judge(cpu, entry, &sample, reason);
	}
	guestpv_index.last[cpu].leaving = false;
	guestpv_publish(cpu, entry);

	if (entry->fault && guestpv_index.sealed)
		guestpv_warn_refused(cpu);
	if (had_one != !!entry->offset)
		guestpv_event(had_one ? "lost" : "found", NULL, cpumask_of(cpu));
	guestpv_tell(cpu, news, entry->reason);

	mutex_unlock(&guestpv_index.lock);
}

/*
 * Sample a structure that can be read, and publish what is new of it. The states
 * of hotplug come from here, too: they change together with the epoch.
 */
static struct guestpv_news guestpv_resample(unsigned int cpu, u8 state, u8 reason)
{
	struct guestpv_entry entry = guestpv_index.entries[cpu];
	struct guestpv_news news = { };
	struct guestpv_sample sample;

	if (guestpv_sample(guestpv_pages_structure(entry.offset), &sample))
		news = guestpv_judge(cpu, &entry, &sample, reason);
	if (news.restarted || news.revised || state != entry.state) {
		entry.state = state;
		guestpv_publish(cpu, &entry);
	} else {
		guestpv_total_look(cpu, &entry);
	}
	return news;
}

static void guestpv_change_state(unsigned int cpu, u8 state, u8 reason)
{
	struct guestpv_news news = guestpv_resample(cpu, state, reason);

	guestpv_tell(cpu, news, guestpv_index.entries[cpu].reason);
}

/**
 * guestpv_index_starting() - a CPU's count may be about to start again
 * @cpu: the CPU
 * @reason: why
 *
 * Its count is taken as it is before that, which is what it will be judged by.
 */
void guestpv_index_starting(unsigned int cpu, u8 reason)
{
	mutex_lock(&guestpv_index.lock);
	if (guestpv_index.entries[cpu].offset)
		guestpv_change_state(cpu, GUESTPV_STATE_STARTING, reason);
	mutex_unlock(&guestpv_index.lock);
}

/* A CPU is on its way down: if that fails, its count may start again. */
void guestpv_index_leaving(unsigned int cpu)
{
	mutex_lock(&guestpv_index.lock);
	guestpv_index.last[cpu].leaving = true;
	if (guestpv_index.entries[cpu].offset)
		guestpv_change_state(cpu, GUESTPV_STATE_STARTING, GUESTPV_REASON_FOUND_LOWER);
	mutex_unlock(&guestpv_index.lock);
}

/**
 * guestpv_index_never_left() - has a CPU that comes online never gone?
 * @cpu: the CPU
 *
 * Then it is entered as online again, with what it had.
 *
 * Return: whether it has not.
 */
bool guestpv_index_never_left(unsigned int cpu)
{
	struct guestpv_last *last = &guestpv_index.last[cpu];
	bool never_left;

	mutex_lock(&guestpv_index.lock);
	never_left = last->leaving;
	last->leaving = false;
	if (never_left && guestpv_index.entries[cpu].offset)
		guestpv_change_state(cpu, GUESTPV_STATE_ONLINE, GUESTPV_REASON_HOTPLUG);
	mutex_unlock(&guestpv_index.lock);

	return never_left;
}

/* A CPU is offline: it went, or it failed on its way up. */
void guestpv_index_gone(unsigned int cpu)
{
	mutex_lock(&guestpv_index.lock);
	guestpv_index.last[cpu].leaving = false;
	if (guestpv_index.entries[cpu].offset)
		guestpv_change_state(cpu, GUESTPV_STATE_OFFLINE, GUESTPV_REASON_HOTPLUG);
	else
		guestpv_publish_state(cpu, GUESTPV_STATE_ABSENT);
	mutex_unlock(&guestpv_index.lock);
}

/**
 * guestpv_index_check() - look at all structures for what has changed
 * @reason: why counts may be lower than they were
 */
void guestpv_index_check(u8 reason)
{
	struct guestpv_entry *entries = guestpv_index.entries;
	unsigned int cpu;

	mutex_lock(&guestpv_index.lock);
	cpumask_clear(&guestpv_index.restarted);
	cpumask_clear(&guestpv_index.revised);
	for_each_possible_cpu(cpu) {
		struct guestpv_news news;

		if (!guestpv_is_readable(&entries[cpu]))
			continue;
		news = guestpv_resample(cpu, entries[cpu].state, reason);
		if (news.restarted)
			cpumask_set_cpu(cpu, &guestpv_index.restarted);
		if (news.revised)
			cpumask_set_cpu(cpu, &guestpv_index.revised);
	}
	if (!cpumask_empty(&guestpv_index.revised))
		guestpv_event("revision", NULL, &guestpv_index.revised);
	if (!cpumask_empty(&guestpv_index.restarted))
		guestpv_event("restart", guestpv_reason_text(reason), &guestpv_index.restarted);
	mutex_unlock(&guestpv_index.lock);
}

/**
 * guestpv_index_seal() - judge what was found at load, before users see it
 *
 * Puts the pages in the order of their addresses. A load that only probes has none,
 * and takes everything as it is.
 *
 * Return: 0; -EOPNOTSUPP if the hypervisor gave no structure to any CPU, though
 * it vouched for the call; or -ENXIO if none was found that can be trusted.
 */
int guestpv_index_seal(void)
{
	struct guestpv_entry *entry;
	u8 fault = GUESTPV_FAULT_NONE;
	unsigned int cpu, found = 0;
	bool given = false;
	u32 st_call = 0;

	if (guestpv_index_probes()) {
		pr_info("probed: no structure is mapped, and none can be read\n");
		return 0;
	}

	for_each_possible_cpu(cpu) {
		entry = &guestpv_index.entries[cpu];
		if (guestpv_owner_judge(entry)) {
			pr_err("not loaded: cpu%u: %s (address %#llx): adopt_offset is wrong, or the hypervisor put this structure where none may be\n",
			       cpu, guestpv_fault_text(entry->fault), entry->ipa);
			return -ENXIO;
		}
		if (entry->offset)
			found++;
		else if (entry->fault)
			fault = entry->fault;
		st_call = st_call ?: entry->st_call;
		given |= entry->state != GUESTPV_STATE_ABSENT &&
			 entry->fault != GUESTPV_FAULT_NOT_SUPPORTED &&
			 entry->fault != GUESTPV_FAULT_NO_REGION;
	}
	if (!given) {
		pr_err("not loaded: PV_TIME_FEATURES vouches for PV_TIME_ST(%#x), but %s\n",
		       st_call, fault == GUESTPV_FAULT_NO_REGION ?
		       "this kernel got no structure by it when it booted" :
		       "the call was refused");
		return -EOPNOTSUPP;
	}
	if (!found) {
		pr_err("not loaded: no CPU has a usable structure: %s\n",
		       guestpv_fault_text(fault));
		return -ENXIO;
	}

	guestpv_pages_sort();
	for_each_possible_cpu(cpu) {
		entry = &guestpv_index.entries[cpu];
		if (entry->offset)
			entry->offset = guestpv_pages_offset(entry->ipa);
		if (entry->fault)
			guestpv_warn_refused(cpu);
	}
	guestpv_index.sealed = true;

	pr_info("%u stolen-time structures in %u pages\n", found, guestpv_pages_count());
	return 0;
}

/* Whether nothing but the index is to be mapped. */
bool guestpv_index_probes(void)
{
	return guestpv_index.header->flags & GUESTPV_FLAG_PROBE;
}

u64 guestpv_index_size(void)
{
	return guestpv_index.header->size;
}

/* The page frame at a page of the mapping; false where nothing is (yet). */
bool guestpv_index_pfn(pgoff_t pgoff, unsigned long *pfn)
{
	pgoff_t index_pages = guestpv_index.bytes >> PAGE_SHIFT;

	if (pgoff >= index_pages)
		return guestpv_pages_pfn(pgoff - index_pages, pfn);

	*pfn = vmalloc_to_pfn((void *)guestpv_index.header + (pgoff << PAGE_SHIFT));
	return true;
}

/* Of the index as it was before a change that is under way. */
u32 guestpv_index_sequence(void)
{
	return READ_ONCE(guestpv_index.header->sequence) & ~1U;
}

wait_queue_head_t *guestpv_index_changed(void)
{
	return &guestpv_index.changed;
}

int guestpv_index_init(u32 smccc_version, u32 conduit, u64 flags)
{
	struct guestpv_header *header;
	unsigned int cpu;
	int err;

	guestpv_index.bytes = PAGE_ALIGN(sizeof(*header) +
					 nr_cpu_ids * sizeof(struct guestpv_entry));

	/* Not of one piece: 512 CPUs make it 17 pages of 4 KiB. */
	header = vzalloc(guestpv_index.bytes);
	if (!header)
		return -ENOMEM;
	guestpv_index.last = kvcalloc(nr_cpu_ids, sizeof(*guestpv_index.last), GFP_KERNEL);
	if (!guestpv_index.last) {
		err = -ENOMEM;
		goto free_header;
	}
	err = guestpv_pages_init(guestpv_index.bytes);
	if (err)
		goto free_last;

	*header = (struct guestpv_header) {
		.magic = GUESTPV_MAGIC,
		.abi_version = GUESTPV_ABI_VERSION,
		.header_size = sizeof(*header),
		.entry_size = sizeof(struct guestpv_entry),
		.nr_entries = nr_cpu_ids,
		.page_size = PAGE_SIZE,
		.size = guestpv_index.bytes + (u64)nr_cpu_ids * PAGE_SIZE,
		.smccc_version = smccc_version,
		.conduit = conduit,
		.instance = get_random_long() | 1,
		.flags = flags,
	};
	guestpv_index.header = header;
	guestpv_index.entries = (struct guestpv_entry *)(header + 1);
	for (cpu = 0; cpu < nr_cpu_ids; cpu++)
		guestpv_discover_nothing(&guestpv_index.entries[cpu]);
	return 0;

free_last:
	kvfree(guestpv_index.last);
free_header:
	vfree(header);
	return err;
}

void guestpv_index_exit(void)
{
	guestpv_pages_exit();
	kvfree(guestpv_index.last);
	vfree(guestpv_index.header);
}
