// SPDX-License-Identifier: GPL-2.0-only
/*
 * guestpv shows user space the stolen-time structures that a hypervisor shares
 * with this guest by Arm's PV-time interface (DEN0057A): /dev/guestpv maps them
 * read-only, behind an index. A structure lives as long as its CPU is online.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/arm-smccc.h>
#include <linux/cpu.h>
#include <linux/module.h>
#include <linux/smp.h>

#include "core.h"

static long guestpv_adopt_offset;
module_param_named(adopt_offset, guestpv_adopt_offset, long, 0444);
MODULE_PARM_DESC(adopt_offset, "bytes from kernel_cpustat to stolen_time_region in the per-CPU section; 'guestpv load' reads it from the kernel's BTF");

static char *guestpv_adopt_build;
module_param_named(adopt_build, guestpv_adopt_build, charp, 0444);
MODULE_PARM_DESC(adopt_build, "the kernel that adopt_offset belongs to: uname's release, a space, and its version");

static bool guestpv_probe;
module_param_named(probe, guestpv_probe, bool, 0444);
MODULE_PARM_DESC(probe, "load whatever the hypervisor answers, show that, and map no structure; 'guestpv validate' does so where nothing else can be judged");

static int __init guestpv_discover_here(void *entry)
{
	return guestpv_discover(entry);
}

/*
 * Refuse at once, in one line, where the hypervisor offers nothing. One CPU to
 * which it does is enough: that it treats them unalike is for users to see.
 */
static int __init guestpv_refuse_without_pv_time(void)
{
	struct guestpv_entry entry = { };
	u32 version = arm_smccc_get_version();
	int err = -EOPNOTSUPP;
	unsigned int cpu;

	if (guestpv_discover_conduit() == GUESTPV_CONDUIT_NONE) {
		pr_err("not loaded: SMCCC version %u.%u without a conduit: PV-time needs 1.1 or later and firmware that describes it (PSCI in the device tree or ACPI)\n",
		       version >> 16, version & 0xffff);
		return -ENODEV;
	}

	cpus_read_lock();
	for_each_online_cpu(cpu) {
		err = smp_call_on_cpu(cpu, guestpv_discover_here, &entry, false);
		if (!err)
			break;
	}
	cpus_read_unlock();
	if (!err)
		return 0;

	if (entry.features_st == GUESTPV_NOT_CALLED)
		pr_err("not loaded: SMCCC_ARCH_FEATURES(%#x) returned %lld (%#llx): the hypervisor offers no PV-time\n",
		       GUESTPV_PV_TIME_FEATURES, entry.arch_features, entry.arch_features);
	else
		pr_err("not loaded: PV_TIME_FEATURES(%#x) returned %lld (%#llx): the hypervisor offers PV-time, but no stolen time\n",
		       GUESTPV_PV_TIME_ST, entry.features_st, entry.features_st);
	return -EOPNOTSUPP;
}

static int __init guestpv_init(void)
{
	int err;

	if (!guestpv_probe) {
		err = guestpv_refuse_without_pv_time();
		if (err)
			return err;
	}
	err = guestpv_owner_init(guestpv_adopt_offset, guestpv_adopt_build, guestpv_probe);
	if (err)
		return err;

	err = guestpv_index_init(arm_smccc_get_version(), guestpv_discover_conduit(),
				 guestpv_probe ? GUESTPV_FLAG_PROBE : 0);
	if (err)
		return err;
	err = guestpv_hotplug_init();
	if (err)
		goto exit_index;

	cpus_read_lock();
	err = guestpv_index_seal();
	cpus_read_unlock();
	if (err)
		goto exit_hotplug;

	err = guestpv_monitor_init();
	if (err)
		goto exit_hotplug;

	/* From here on there are users: nothing may fail any more. */
	err = guestpv_chardev_init();
	if (err)
		goto exit_monitor;
	guestpv_pmu_init();

	return 0;

exit_monitor:
	guestpv_monitor_exit();
exit_hotplug:
	guestpv_hotplug_exit();
exit_index:
	guestpv_index_exit();
	return err;
}
module_init(guestpv_init);

static void __exit guestpv_exit(void)
{
	guestpv_pmu_exit();
	guestpv_chardev_exit();
	guestpv_monitor_exit();
	guestpv_hotplug_exit();
	guestpv_index_exit();
}
module_exit(guestpv_exit);

MODULE_DESCRIPTION("Arm PV-time stolen time for user space");
MODULE_AUTHOR("the guestpv authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
