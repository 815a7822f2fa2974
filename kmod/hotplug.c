// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPUs that come and go. On the way up the kernel's own callback, or the claim
 * here, calls PV_TIME_ST, which may restart the count: so the entry can't be
 * read from before the CPU starts until its count was judged.
 */
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/errno.h>
#include <linux/platform_device.h>
#include <linux/pm.h>
#include <linux/smp.h>

#include "core.h"

static struct {
	int online_state;
	int prepare_state;
	struct platform_device *pdev;
} guestpv_hotplug;

static void guestpv_learn_and_map(unsigned int cpu, struct guestpv_entry *entry)
{
	if (guestpv_discover(entry))
		entry->fault = GUESTPV_FAULT_NOT_SUPPORTED;
	else
		guestpv_owner_learn(cpu, entry);
	if (!entry->fault)
		entry->fault = guestpv_pages_place(entry->ipa, &entry->offset);
	if (!entry->fault)
		entry->fault = guestpv_owner_verify(cpu, guestpv_pages_structure(entry->offset));
}

/* Nothing is mapped, and nothing read at the address. */
static void guestpv_learn_only(unsigned int cpu, struct guestpv_entry *entry)
{
	switch (guestpv_discover(entry)) {
	case 0:
		guestpv_owner_learn(cpu, entry);
		if (!entry->fault)
			entry->fault = guestpv_pages_check(entry->ipa);
		break;
	case -EOPNOTSUPP:
		guestpv_owner_provoke(entry);
		entry->fault = GUESTPV_FAULT_NOT_SUPPORTED;
		break;
	}
	if (!entry->fault)
		entry->fault = GUESTPV_FAULT_PROBED;
}

static void guestpv_learn(unsigned int cpu, u8 reason)
{
	struct guestpv_entry entry = { };

	if (guestpv_index_probes())
		guestpv_learn_only(cpu, &entry);
	else
		guestpv_learn_and_map(cpu, &entry);

	guestpv_index_online(cpu, &entry, reason);
}

static int guestpv_cpu_online(unsigned int cpu)
{
	/*
	 * Where its way down failed, a claim would reset the count that it has. The
	 * kernel, on the other hand, may have asked for its structure again.
	 */
	if (IS_ENABLED(CONFIG_PARAVIRT) || !guestpv_index_never_left(cpu))
		guestpv_learn(cpu, GUESTPV_REASON_HOTPLUG);

	/* A CPU without stolen time is still a CPU: never keep it from coming up. */
	return 0;
}

static int guestpv_cpu_offline(unsigned int cpu)
{
	guestpv_index_leaving(cpu);
	return 0;
}

static int guestpv_cpu_prepare(unsigned int cpu)
{
	guestpv_index_starting(cpu, GUESTPV_REASON_HOTPLUG);
	return 0;
}

static int guestpv_cpu_dead(unsigned int cpu)
{
	guestpv_index_gone(cpu);
	return 0;
}

static int guestpv_learn_restored(void *unused)
{
	unsigned int cpu = smp_processor_id();

	guestpv_index_starting(cpu, GUESTPV_REASON_RESTORED);
	guestpv_learn(cpu, GUESTPV_REASON_RESTORED);
	return 0;
}

/*
 * After a hibernation the other CPUs go through hotplug, but the first one wakes
 * up in a VM that may never have heard of its structure. An attempt that was
 * given up before there was an image does not come here, and leaves everything
 * as it was.
 */
static int guestpv_pm_restore(struct device *dev)
{
	cpus_read_lock();
	smp_call_on_cpu(cpumask_first(cpu_online_mask), guestpv_learn_restored, NULL, false);
	cpus_read_unlock();
	return 0;
}

static const struct dev_pm_ops guestpv_pm_ops = {
	.restore = guestpv_pm_restore,
};

static int guestpv_probe(struct platform_device *pdev)
{
	return 0;
}

/* There is no such hardware: this is how a module hears that an image was restored. */
static struct platform_driver guestpv_platform_driver = {
	.driver = {
		.name = KBUILD_MODNAME,
		.pm = &guestpv_pm_ops,
	},
};

int guestpv_hotplug_init(void)
{
	int err;

	/* First, so that no CPU that the next has seen comes or goes without it. */
	err = cpuhp_setup_state_nocalls(CPUHP_BP_PREPARE_DYN, "guestpv:prepare",
					guestpv_cpu_prepare, guestpv_cpu_dead);
	if (err < 0)
		return err;
	guestpv_hotplug.prepare_state = err;

	/* Registered after the kernel's own callback, so run after it on the way up. */
	err = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "guestpv:online", guestpv_cpu_online,
				guestpv_cpu_offline);
	if (err < 0)
		goto remove_prepare;
	guestpv_hotplug.online_state = err;

	guestpv_hotplug.pdev = platform_create_bundle(&guestpv_platform_driver, guestpv_probe,
						      NULL, 0, NULL, 0);
	if (IS_ERR(guestpv_hotplug.pdev)) {
		err = PTR_ERR(guestpv_hotplug.pdev);
		goto remove_online;
	}
	return 0;

remove_online:
	cpuhp_remove_state_nocalls(guestpv_hotplug.online_state);
remove_prepare:
	cpuhp_remove_state_nocalls(guestpv_hotplug.prepare_state);
	return err;
}

void guestpv_hotplug_exit(void)
{
	platform_device_unregister(guestpv_hotplug.pdev);
	platform_driver_unregister(&guestpv_platform_driver);
	cpuhp_remove_state_nocalls(guestpv_hotplug.online_state);
	cpuhp_remove_state_nocalls(guestpv_hotplug.prepare_state);
}
