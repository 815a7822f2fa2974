// SPDX-License-Identifier: GPL-2.0-only
/*
 * Adopt: this kernel was built with CONFIG_PARAVIRT and owns the structures.
 * PV_TIME_ST would reset the counts that its scheduler subtracts from each
 * other, so it is never called here. The kernel's own mapping is found instead,
 * through its static per-CPU variable stolen_time_region (arch/arm64/kernel/paravirt.c).
 * Its place is known to the kernel's BTF, which user space reads; what user
 * space says is checked before it is believed.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": not loaded: " fmt

#include <linux/errno.h>
#include <linux/kernel_stat.h>
#include <linux/mm.h>
#include <linux/printk.h>
#include <linux/sizes.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/utsname.h>

#include "core.h"

static struct {
	long region_offset;
	guestpv_clock_fn kernel_clock;
} guestpv_adopt;

static bool guestpv_is_this_build(const char *build)
{
	const struct new_utsname *uts = &init_uts_ns.name;
	size_t len = strlen(uts->release);

	return !strncmp(build, uts->release, len) && build[len] == ' ' &&
	       !strcmp(build + len + 1, uts->version);
}

int guestpv_owner_init(long adopt_offset, const char *adopt_build, bool probe)
{
	int err;

	/* What was answered can be shown without the addresses. */
	if (probe && !adopt_offset && !adopt_build)
		return 0;
	if (!adopt_offset || !adopt_build) {
		pr_err("this kernel owns the stolen-time structures: adopt_offset and adopt_build are needed to adopt them; 'guestpv load' finds them\n");
		return -EINVAL;
	}
	if (adopt_offset < -SZ_16M || adopt_offset > SZ_16M ||
	    adopt_offset % (long)sizeof(void *)) {
		pr_err("adopt_offset=%ld is not the distance of two per-CPU variables; 'guestpv load' finds the right one\n",
		       adopt_offset);
		return -EINVAL;
	}
	if (!guestpv_is_this_build(adopt_build)) {
		pr_err("adopt_offset belongs to the kernel '%s', and this is '%s %s'; 'guestpv load' finds the right one\n",
		       adopt_build, init_uts_ns.name.release, init_uts_ns.name.version);
		return -ESTALE;
	}

	err = guestpv_kernel_clock(&guestpv_adopt.kernel_clock);
	if (err) {
		pr_err("the kernel's own reader, para_steal_clock(), was not found (error %d), and without it the adopted structures can't be checked: the kernel lacks CONFIG_KPROBES, is locked down, or was built so that the function is inlined or has another name\n",
		       err);
		return -ENXIO;
	}

	guestpv_adopt.region_offset = adopt_offset;
	return 0;
}

/*
 * The kernel's hotplug callback maps the structure before ours runs and unmaps
 * it after ours ran, on this CPU: the mapping can't go while it is looked at.
 */
void guestpv_owner_learn(unsigned int cpu, struct guestpv_entry *entry)
{
	const void *region = (void *)per_cpu_ptr(&kernel_cpustat, cpu) +
			     guestpv_adopt.region_offset;
	const void *kaddr;

	if (!guestpv_adopt.region_offset) {
		entry->fault = GUESTPV_FAULT_PROBED;
		return;
	}
	entry->origin = GUESTPV_ORIGIN_ADOPTED;
	entry->fault = GUESTPV_FAULT_UNREADABLE;

	if (copy_from_kernel_nofault(&kaddr, region, sizeof(kaddr)))
		return;
	if (!kaddr) {
		/* The kernel's reader gives 0 where it has none; else the offset is wrong. */
		entry->fault = guestpv_adopt.kernel_clock(cpu) ? GUESTPV_FAULT_MISMATCH :
								 GUESTPV_FAULT_NO_REGION;
		return;
	}
	/* What the hypervisor put into RAM the kernel reads by the linear map. */
	if (is_vmalloc_addr(kaddr) && vmalloc_to_page(kaddr))
		entry->ipa = PFN_PHYS(vmalloc_to_pfn(kaddr)) | offset_in_page(kaddr);
	else if (virt_addr_valid(kaddr))
		entry->ipa = virt_to_phys(kaddr);
	else
		return;
	entry->fault = GUESTPV_FAULT_NONE;
}

/* The kernel may have a structure from before, whatever the query says now. */
void guestpv_owner_provoke(struct guestpv_entry *entry)
{
}

u8 guestpv_owner_verify(unsigned int cpu, const struct guestpv_stolen_time *st)
{
	u64 before = guestpv_adopt.kernel_clock(cpu);
	struct guestpv_sample sample;

	if (!guestpv_sample(st, &sample))
		return GUESTPV_FAULT_UNREADABLE;
	/* The kernel interprets every revision; here none but the first means anything. */
	if (sample.word)
		return GUESTPV_FAULT_NONE;
	if (sample.stolen_ns < before || sample.stolen_ns > guestpv_adopt.kernel_clock(cpu))
		return GUESTPV_FAULT_MISMATCH;
	return GUESTPV_FAULT_NONE;
}

/*
 * A CPU for which the kernel itself has no mapping is possible, and one that the
 * hypervisor refuses is. Anything else that does not check says that the offset
 * is wrong, and then it is wrong for every CPU.
 */
int guestpv_owner_judge(const struct guestpv_entry *entry)
{
	switch (entry->fault) {
	case GUESTPV_FAULT_NONE:
	case GUESTPV_FAULT_NO_REGION:
	case GUESTPV_FAULT_NOT_SUPPORTED:
		return 0;
	default:
		return -ENXIO;
	}
}
