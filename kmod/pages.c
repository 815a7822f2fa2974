// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest pages that hold structures. An address enters only through
 * guestpv_pages_place(), so nothing is ever read, or mapped to users, that was
 * not checked. A page that was given a slot keeps it until the module goes: a
 * mapping made before a hotplug stays good.
 *
 * CPU hotplug sees to it that pages are placed one after the other.
 */
#include <linux/errno.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/sort.h>

#include <asm/cpufeature.h>

#include "core.h"

struct guestpv_slot {
	phys_addr_t phys;
	void *kaddr;
};

static struct {
	size_t index_bytes; /* of the mapping, before the first slot */
	struct guestpv_slot *slots; /* as many as there are possible CPUs */
	unsigned int nr_slots; /* that are in use */
} guestpv_pages;

static bool guestpv_page_is(phys_addr_t page, unsigned long flags)
{
	return region_intersects(page, PAGE_SIZE, flags, IORES_DESC_NONE) != REGION_DISJOINT;
}

/**
 * guestpv_pages_check() - may a structure be there?
 * @ipa: what the owner says of its place
 *
 * Return: one of &enum guestpv_fault.
 */
u8 guestpv_pages_check(u64 ipa)
{
	u64 mmfr0 = read_sanitised_ftr_reg(SYS_ID_AA64MMFR0_EL1);
	/* PARange is bits 3:0 of every version of the register */
	u32 bits = min_t(u32, id_aa64mmfr0_parange_to_phys_shift(mmfr0 & 0xf),
			 CONFIG_ARM64_PA_BITS);
	phys_addr_t page = ALIGN_DOWN(ipa, PAGE_SIZE);

	if (!ipa || !IS_ALIGNED(ipa, 64))
		return GUESTPV_FAULT_UNALIGNED;
	if (ipa >> bits)
		return GUESTPV_FAULT_OUT_OF_RANGE;
	/* The whole page is mapped to users, so the whole page must be neither of these. */
	if (guestpv_page_is(page, IORESOURCE_SYSTEM_RAM))
		return GUESTPV_FAULT_SYSTEM_RAM;
	/*
	 * Memory that firmware reserved and told the kernel not to map is a resource,
	 * too, and a good place for structures. It has a struct page (from 5.14 on),
	 * and a device has none unless RAM is in the same section.
	 */
	if (guestpv_page_is(page, IORESOURCE_MEM) && !pfn_valid(PHYS_PFN(page)))
		return GUESTPV_FAULT_SHARED_PAGE;

	return GUESTPV_FAULT_NONE;
}

/* Where a structure is in the mapping; 0 if its page has no slot. */
u32 guestpv_pages_offset(u64 ipa)
{
	phys_addr_t page = ALIGN_DOWN(ipa, PAGE_SIZE);
	unsigned int nr;

	for (nr = 0; nr < guestpv_pages.nr_slots; nr++)
		if (guestpv_pages.slots[nr].phys == page)
			return guestpv_pages.index_bytes + nr * PAGE_SIZE + offset_in_page(ipa);

	return 0;
}

/**
 * guestpv_pages_place() - check an address, and give its page a slot
 * @ipa: what the owner says of a structure's place
 * @offset: of the structure in the mapping
 *
 * Return: one of &enum guestpv_fault.
 */
u8 guestpv_pages_place(u64 ipa, u32 *offset)
{
	struct guestpv_slot slot = { .phys = ALIGN_DOWN(ipa, PAGE_SIZE) };
	unsigned int nr = guestpv_pages.nr_slots;
	u8 fault;

	fault = guestpv_pages_check(ipa);
	if (fault)
		return fault;

	*offset = guestpv_pages_offset(ipa);
	if (*offset)
		return GUESTPV_FAULT_NONE;

	if (nr == nr_cpu_ids)
		return GUESTPV_FAULT_NO_SLOT;

	/* Normal, inner and outer write-back, inner shareable: what DEN0057A asks for. */
	slot.kaddr = memremap(slot.phys, PAGE_SIZE, MEMREMAP_WB);
	if (!slot.kaddr)
		return GUESTPV_FAULT_UNREADABLE;

	guestpv_pages.slots[nr] = slot;
	/* The slot is whole before it counts. Pairs with guestpv_pages_pfn(). */
	smp_store_release(&guestpv_pages.nr_slots, nr + 1);

	*offset = guestpv_pages_offset(ipa);
	return GUESTPV_FAULT_NONE;
}

const struct guestpv_stolen_time *guestpv_pages_structure(u32 offset)
{
	size_t behind_index = offset - guestpv_pages.index_bytes;

	return guestpv_pages.slots[behind_index / PAGE_SIZE].kaddr + behind_index % PAGE_SIZE;
}

static int guestpv_by_address(const void *a, const void *b)
{
	const struct guestpv_slot *x = a, *y = b;

	return x->phys < y->phys ? -1 : x->phys > y->phys;
}

/* Puts the pages in the order of their addresses: every offset has to be asked for again. */
void guestpv_pages_sort(void)
{
	sort(guestpv_pages.slots, guestpv_pages.nr_slots, sizeof(*guestpv_pages.slots),
	     guestpv_by_address, NULL);
}

unsigned int guestpv_pages_count(void)
{
	return guestpv_pages.nr_slots;
}

/* The page frame in a slot; false where none is (yet). */
bool guestpv_pages_pfn(pgoff_t nr, unsigned long *pfn)
{
	/* Pairs with the release in guestpv_pages_place(): a slot that counts is whole. */
	if (nr >= smp_load_acquire(&guestpv_pages.nr_slots))
		return false;

	*pfn = PHYS_PFN(guestpv_pages.slots[nr].phys);
	return true;
}

int guestpv_pages_init(size_t index_bytes)
{
	guestpv_pages.index_bytes = index_bytes;
	guestpv_pages.slots = kvcalloc(nr_cpu_ids, sizeof(*guestpv_pages.slots), GFP_KERNEL);

	return guestpv_pages.slots ? 0 : -ENOMEM;
}

void guestpv_pages_exit(void)
{
	while (guestpv_pages.nr_slots)
		memunmap(guestpv_pages.slots[--guestpv_pages.nr_slots].kaddr);
	kvfree(guestpv_pages.slots);
}
