// SPDX-License-Identifier: GPL-2.0-only
/*
 * guestpv shows user space the stolen-time structures that a hypervisor shares
 * with this guest by Arm's PV-time interface (DEN0057A): /dev/guestpv maps them
 * read-only, behind an index. A structure lives as long as its CPU is online.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/module.h>
#include <linux/smp.h>
#include <linux/suspend.h>
#include <linux/workqueue.h>

#include "core.h"

static long adopt_offset;
module_param(adopt_offset, long, 0444);
MODULE_PARM_DESC(adopt_offset, "bytes from kernel_cpustat to stolen_time_region in the per-CPU section; 'guestpv load' reads it from the kernel's BTF");

static char *adopt_build;
module_param(adopt_build, charp, 0444);
MODULE_PARM_DESC(adopt_build, "the kernel that adopt_offset belongs to: uname's release, a space, and its version");

static unsigned int check_ms = 1000;
module_param(check_ms, uint, 0444);
MODULE_PARM_DESC(check_ms, "how often to look for counts that restarted and revisions that changed without notice; 0: never");

static int cpu_state;

static int guestpv_cpu_online(unsigned int cpu)
{
	struct guestpv_entry entry = { };

	if (guestpv_discover(&entry))
		entry.fault = GUESTPV_FAULT_NOT_SUPPORTED;
	else
		guestpv_owner_learn(cpu, &entry);
	guestpv_index_online(cpu, &entry);

	/* A CPU without stolen time is still a CPU: never keep it from coming up. */
	return 0;
}

static int guestpv_cpu_offline(unsigned int cpu)
{
	guestpv_index_offline(cpu);
	return 0;
}

static int relearn(void *unused)
{
	return guestpv_cpu_online(smp_processor_id());
}

/*
 * Over a hibernation the other CPUs go through hotplug, but the first one wakes
 * up in a VM that may never have heard of its structure.
 */
static int pm_event(struct notifier_block *nb, unsigned long event, void *unused)
{
	unsigned int cpu;

	if (event != PM_POST_HIBERNATION)
		return NOTIFY_DONE;

	cpus_read_lock();
	cpu = cpumask_first(cpu_online_mask);
	smp_call_on_cpu(cpu, relearn, NULL, false);
	cpus_read_unlock();
	return NOTIFY_OK;
}

static struct notifier_block pm_notifier = {
	.notifier_call = pm_event,
};

static void check(struct work_struct *work);

/* Deferrable: it wakes no idle CPU. Freezable: it sleeps when the machine does. */
static DECLARE_DEFERRABLE_WORK(check_work, check);

static void check_later(void)
{
	if (check_ms)
		queue_delayed_work(system_freezable_power_efficient_wq, &check_work,
				   msecs_to_jiffies(check_ms));
}

static void check(struct work_struct *work)
{
	guestpv_index_check();
	check_later();
}

static int __init discover_here(void *entry)
{
	return guestpv_discover(entry);
}

/*
 * Refuse at once, in one line, where the hypervisor offers nothing. One CPU to
 * which it does is enough: that it treats them unalike is for users to see.
 */
static int __init refuse_without_pv_time(void)
{
	struct guestpv_entry entry = { };
	int err = -EOPNOTSUPP;
	unsigned int cpu;

	cpus_read_lock();
	for_each_online_cpu(cpu) {
		err = smp_call_on_cpu(cpu, discover_here, &entry, false);
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
	u32 smccc_version, conduit;
	int err;

	err = guestpv_discover_conduit(&smccc_version, &conduit);
	if (err)
		return err;
	err = refuse_without_pv_time();
	if (err)
		return err;
	err = guestpv_owner_init(adopt_offset, adopt_build);
	if (err)
		return err;

	err = guestpv_index_init(smccc_version, conduit);
	if (err)
		return err;

	/* Registered after the kernel's own callback, so run after it on the way up. */
	cpu_state = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "guestpv:online", guestpv_cpu_online,
				      guestpv_cpu_offline);
	if (cpu_state < 0) {
		err = cpu_state;
		goto exit_index;
	}

	cpus_read_lock();
	err = guestpv_index_seal();
	cpus_read_unlock();
	if (err)
		goto remove_cpu_state;

	err = guestpv_chardev_init();
	if (err)
		goto remove_cpu_state;

	err = register_pm_notifier(&pm_notifier);
	if (err)
		goto exit_chardev;

	check_later();
	return 0;

exit_chardev:
	guestpv_chardev_exit();
remove_cpu_state:
	cpuhp_remove_state_nocalls(cpu_state);
exit_index:
	guestpv_index_exit();
	return err;
}
module_init(guestpv_init);

static void __exit guestpv_exit(void)
{
	cancel_delayed_work_sync(&check_work);
	unregister_pm_notifier(&pm_notifier);
	guestpv_chardev_exit();
	cpuhp_remove_state_nocalls(cpu_state);
	guestpv_index_exit();
}
module_exit(guestpv_exit);

MODULE_DESCRIPTION("Arm PV-time stolen time for user space");
MODULE_AUTHOR("the guestpv authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
