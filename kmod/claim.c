// SPDX-License-Identifier: GPL-2.0-only
/*
 * Claim: this kernel was built without CONFIG_PARAVIRT, so nobody owns the
 * structures, and calling PV_TIME_ST, which restarts the count, harms nobody.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": not loaded: " fmt

#include <linux/arm-smccc.h>
#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/printk.h>

#include "core.h"

int guestpv_owner_init(long adopt_offset, const char *adopt_build, bool probe)
{
	guestpv_clock_fn clock;

	/* A kernel rebuilt under the same name takes a module that is not for it. */
	if (!guestpv_kernel_clock(&clock)) {
		pr_err("this kernel owns the stolen-time structures, but the module was built for one that does not: build it again\n");
		return -ESTALE;
	}
	if (!adopt_offset && !adopt_build)
		return 0;

	pr_err("adopt_offset and adopt_build are for kernels that own the structures, and this one was built without CONFIG_PARAVIRT: load without them\n");
	return -EINVAL;
}

void guestpv_owner_learn(unsigned int cpu, struct guestpv_entry *entry)
{
	struct arm_smccc_res res;

	arm_smccc_1_1_invoke(entry->st_call, &res);
	entry->st_return = res.a0;
	entry->origin = GUESTPV_ORIGIN_CLAIMED;

	/* NOT_SUPPORTED is an int64, and was an int32 in the draft: no address is like either. */
	if (entry->st_return < 0 || res.a0 == U32_MAX)
		entry->fault = GUESTPV_FAULT_NOT_SUPPORTED;
	else
		entry->ipa = res.a0;
}

void guestpv_owner_provoke(struct guestpv_entry *entry)
{
	struct arm_smccc_res res;

	arm_smccc_1_1_invoke(GUESTPV_PV_TIME_ST, &res);
	entry->st_return = res.a0;
}

u8 guestpv_owner_verify(unsigned int cpu, const struct guestpv_stolen_time *st)
{
	/* There is nobody to ask. */
	return GUESTPV_FAULT_NONE;
}

/* One CPU's bad answer is that CPU's: the others stay of use. */
int guestpv_owner_judge(const struct guestpv_entry *entry)
{
	return 0;
}
