// SPDX-License-Identifier: GPL-2.0-only
/*
 * The index and the guest pages behind it: what /dev/guestpv maps. An address
 * enters only through check_address() and place(), so nothing is ever mapped to
 * users that was not checked. A page that was given a slot keeps it until the
 * module goes: a mapping made before a hotplug stays good.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/errno.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/timekeeping.h>

#include <asm/cpufeature.h>

#include "core.h"

/* A guest page that holds structures */
struct slot {
	phys_addr_t phys;
	void *kaddr;
};

/* What the last check saw of a CPU's structure */
struct seen {
	u64 word;
	u64 count;
};

static DEFINE_MUTEX(lock);
static struct guestpv_header *header;
static struct guestpv_entry *entries;
static size_t index_bytes;
static struct slot *slots;
static unsigned int nr_slots;
static struct seen *seen;

const char *guestpv_fault_text(u8 fault)
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
	};

	return fault < ARRAY_SIZE(text) ? text[fault] : "unknown fault";
}

static void change_begin(void)
{
	WRITE_ONCE(header->sequence, header->sequence + 1);
	/*
	 * The odd count is seen before any change. Pairs with the acquire fence
	 * in a reader between what it read and its second load of sequence.
	 */
	smp_wmb();
}

static void change_end(void)
{
	/*
	 * Every change is seen before the even count. Pairs with a reader's
	 * first, acquire, load of sequence.
	 */
	smp_store_release(&header->sequence, header->sequence + 1);
}

static u8 check_address(unsigned int cpu, u64 ipa)
{
	u64 mmfr0 = read_sanitised_ftr_reg(SYS_ID_AA64MMFR0_EL1);
	/* PARange is bits 3:0 of every version of the register */
	u32 bits = min_t(u32, id_aa64mmfr0_parange_to_phys_shift(mmfr0 & 0xf),
			 CONFIG_ARM64_PA_BITS);
	unsigned int other;

	if (!ipa || !IS_ALIGNED(ipa, 64))
		return GUESTPV_FAULT_UNALIGNED;
	if (ipa >> bits)
		return GUESTPV_FAULT_OUT_OF_RANGE;
	/* The whole page is mapped to users, so the whole page must not be RAM. */
	if (region_intersects(ALIGN_DOWN(ipa, PAGE_SIZE), PAGE_SIZE, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT)
		return GUESTPV_FAULT_SYSTEM_RAM;

	for (other = 0; other < nr_cpu_ids; other++)
		if (other != cpu && entries[other].offset && entries[other].ipa == ipa)
			return GUESTPV_FAULT_OVERLAP;

	return GUESTPV_FAULT_NONE;
}

/* Give the page of a checked address its slot, if it does not have one yet. */
static u8 place(u64 ipa, unsigned int *nr)
{
	phys_addr_t phys = ALIGN_DOWN(ipa, PAGE_SIZE);
	void *kaddr;

	for (*nr = 0; *nr < nr_slots; (*nr)++)
		if (slots[*nr].phys == phys)
			return GUESTPV_FAULT_NONE;

	if (nr_slots == nr_cpu_ids)
		return GUESTPV_FAULT_NO_SLOT;

	/* Normal, inner and outer write-back, inner shareable: what DEN0057A asks for. */
	kaddr = memremap(phys, PAGE_SIZE, MEMREMAP_WB);
	if (!kaddr)
		return GUESTPV_FAULT_UNREADABLE;

	slots[nr_slots].phys = phys;
	slots[nr_slots].kaddr = kaddr;
	/* The slot is whole before it counts. Pairs with guestpv_index_pfn(). */
	smp_store_release(&nr_slots, nr_slots + 1);

	return GUESTPV_FAULT_NONE;
}

static u32 offset_of(unsigned int slot, u64 ipa)
{
	return index_bytes + slot * PAGE_SIZE + offset_in_page(ipa);
}

static struct guestpv_stolen_time *structure(const struct guestpv_entry *entry)
{
	const struct slot *slot = &slots[(entry->offset - index_bytes) / PAGE_SIZE];

	return slot->kaddr + offset_in_page(entry->ipa);
}

static struct seen look(const struct guestpv_entry *entry)
{
	const struct guestpv_stolen_time *st = structure(entry);

	return (struct seen) {
		.word = le64_to_cpu(READ_ONCE(*(const __le64 *)st)),
		.count = le64_to_cpu(READ_ONCE(st->stolen_time)),
	};
}

static void note_word(struct guestpv_entry *entry, u64 word)
{
	entry->since_ns = ktime_get_boottime_ns();
	entry->revision = lower_32_bits(word);
	entry->attributes = upper_32_bits(word);
}

/**
 * guestpv_index_online() - enter what was learned of a CPU that came online
 * @cpu: the CPU
 * @entry: what discovery and the owner learned; completed here
 *
 * The kernel, or the claim, has called PV_TIME_ST on the way here, so a CPU
 * that had a structure before begins a new epoch.
 */
void guestpv_index_online(unsigned int cpu, struct guestpv_entry *entry)
{
	struct guestpv_entry *old = &entries[cpu];
	const char *what;
	unsigned int slot;

	mutex_lock(&lock);

	if (!entry->fault)
		entry->fault = check_address(cpu, entry->ipa);
	if (!entry->fault)
		entry->fault = place(entry->ipa, &slot);

	if (entry->fault) {
		entry->state = GUESTPV_STATE_REFUSED;
		entry->epoch = old->epoch;
		what = old->offset ? "lost" : NULL;
	} else {
		entry->state = GUESTPV_STATE_ONLINE;
		entry->offset = offset_of(slot, entry->ipa);
		entry->epoch = old->epoch + 1;
		entry->reason = old->epoch ? GUESTPV_REASON_HOTPLUG : GUESTPV_REASON_FIRST_SEEN;
		what = old->epoch ? "restart" : "found";
		seen[cpu] = look(entry);
		note_word(entry, seen[cpu].word);
		entry->epoch_stolen_ns = seen[cpu].count;
	}

	change_begin();
	*old = *entry;
	change_end();

	if (what)
		guestpv_event(what, cpu, entry->epoch, seen[cpu].word);

	mutex_unlock(&lock);
}

void guestpv_index_offline(unsigned int cpu)
{
	mutex_lock(&lock);
	change_begin();
	entries[cpu].state = entries[cpu].offset ? GUESTPV_STATE_OFFLINE : GUESTPV_STATE_ABSENT;
	change_end();
	mutex_unlock(&lock);
}

/**
 * guestpv_index_check() - look for what nobody announces
 *
 * A hypervisor may restart a count (a restored VM) or change the revision (a
 * migrated one) without a word. Users are told by a uevent, and by a new epoch.
 */
void guestpv_index_check(void)
{
	unsigned int cpu;

	mutex_lock(&lock);
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		struct guestpv_entry *entry = &entries[cpu];
		struct seen now;

		if (entry->state != GUESTPV_STATE_ONLINE)
			continue;

		now = look(entry);
		if (now.word != seen[cpu].word) {
			change_begin();
			note_word(entry, now.word);
			change_end();
			guestpv_event("revision", cpu, entry->epoch, now.word);
		}
		if (now.word) {
			/* Unknown, so the count is not interpreted. */
			seen[cpu].word = now.word;
			continue;
		}
		if (now.count < seen[cpu].count) {
			change_begin();
			entry->epoch++;
			entry->reason = GUESTPV_REASON_FOUND_LOWER;
			entry->epoch_stolen_ns = now.count;
			change_end();
			guestpv_event("restart", cpu, entry->epoch, now.word);
		}
		seen[cpu] = now;
	}
	mutex_unlock(&lock);
}

static int by_address(const void *a, const void *b)
{
	const struct slot *x = a, *y = b;

	return x->phys < y->phys ? -1 : x->phys > y->phys;
}

/**
 * guestpv_index_seal() - judge what was found at load, before users see it
 *
 * Puts the pages in the order of their addresses.
 *
 * Return: 0, or -ENXIO if no structure was found that can be trusted.
 */
int guestpv_index_seal(void)
{
	unsigned int cpu, slot, found = 0;
	phys_addr_t page;
	u8 fault = GUESTPV_FAULT_NONE;

	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		if (guestpv_owner_judge(&entries[cpu])) {
			pr_err("not loaded: cpu%u: %s (address %#llx): adopt_offset is wrong, or the hypervisor put this structure where none may be\n",
			       cpu, guestpv_fault_text(entries[cpu].fault), entries[cpu].ipa);
			return -ENXIO;
		}
		if (entries[cpu].offset)
			found++;
		else if (entries[cpu].fault)
			fault = entries[cpu].fault;
	}
	if (!found) {
		pr_err("not loaded: no CPU has a usable structure: %s\n",
		       guestpv_fault_text(fault));
		return -ENXIO;
	}

	sort(slots, nr_slots, sizeof(*slots), by_address, NULL);
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		if (!entries[cpu].offset)
			continue;
		page = ALIGN_DOWN(entries[cpu].ipa, PAGE_SIZE);
		for (slot = 0; slots[slot].phys != page; slot++)
			;
		entries[cpu].offset = offset_of(slot, entries[cpu].ipa);
	}

	pr_info("%u stolen-time structures in %u pages\n", found, nr_slots);
	return 0;
}

u64 guestpv_index_size(void)
{
	return header->size;
}

/* The page frame at a page of the mapping; false where nothing is (yet). */
bool guestpv_index_pfn(pgoff_t pgoff, unsigned long *pfn)
{
	pgoff_t index_pages = index_bytes >> PAGE_SHIFT;

	if (pgoff < index_pages) {
		*pfn = page_to_pfn(virt_to_page(header)) + pgoff;
		return true;
	}

	/* Pairs with the release in place(): a slot that counts is whole. */
	if (pgoff - index_pages >= smp_load_acquire(&nr_slots))
		return false;

	*pfn = PHYS_PFN(slots[pgoff - index_pages].phys);
	return true;
}

int guestpv_index_init(u32 smccc_version, u32 conduit)
{
	index_bytes = PAGE_ALIGN(sizeof(*header) + nr_cpu_ids * sizeof(*entries));

	header = alloc_pages_exact(index_bytes, GFP_KERNEL | __GFP_ZERO);
	if (!header)
		return -ENOMEM;
	slots = kcalloc(nr_cpu_ids, sizeof(*slots), GFP_KERNEL);
	if (!slots)
		goto free_header;
	seen = kcalloc(nr_cpu_ids, sizeof(*seen), GFP_KERNEL);
	if (!seen)
		goto free_slots;

	entries = (struct guestpv_entry *)(header + 1);
	*header = (struct guestpv_header) {
		.magic = GUESTPV_MAGIC,
		.abi_version = GUESTPV_ABI_VERSION,
		.header_size = sizeof(*header),
		.entry_size = sizeof(*entries),
		.nr_entries = nr_cpu_ids,
		.page_size = PAGE_SIZE,
		.size = index_bytes + (u64)nr_cpu_ids * PAGE_SIZE,
		.smccc_version = smccc_version,
		.conduit = conduit,
		.instance = get_random_long() | 1,
	};
	return 0;

free_slots:
	kfree(slots);
free_header:
	free_pages_exact(header, index_bytes);
	return -ENOMEM;
}

void guestpv_index_exit(void)
{
	while (nr_slots)
		memunmap(slots[--nr_slots].kaddr);
	kfree(seen);
	kfree(slots);
	free_pages_exact(header, index_bytes);
}
