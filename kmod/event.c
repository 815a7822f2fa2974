// SPDX-License-Identifier: GPL-2.0-only
/*
 * What happened to the structures, as uevents of the device: one for each kind
 * and look, with a list of CPUs. Details, and all that a rate limit withholds,
 * stand in the index.
 */
#include <linux/cpumask.h>
#include <linux/device.h>
#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/mutex.h>
#include <linux/ratelimit.h>
#include <linux/string.h>

#include "core.h"

/* A uevent has 2048 bytes for all its variables. */
#define GUESTPV_EVENT_LIST 1024

static struct {
	struct mutex lock; /* protects the rest; events come from CPUs, suspend and the monitor */
	struct device *device;
	struct ratelimit_state ratelimit;
	unsigned int missed; /* since the last that was sent */
	char cpus[GUESTPV_EVENT_LIST];
} guestpv_events = {
	.lock = __MUTEX_INITIALIZER(guestpv_events.lock),
	.ratelimit = RATELIMIT_STATE_INIT_FLAGS(guestpv_events.ratelimit, 60 * HZ, 10,
						RATELIMIT_MSG_ON_RELEASE),
};

/* @device: whose uevents they are; NULL: there is none, and what happens is not told. */
void guestpv_event_device(struct device *device)
{
	mutex_lock(&guestpv_events.lock);
	guestpv_events.device = device;
	mutex_unlock(&guestpv_events.lock);
}

/* Returns whether the list had to be cut, which is done between two ranges. */
static bool guestpv_list_cpus(const struct cpumask *cpus)
{
	char *list = guestpv_events.cpus;
	size_t size = sizeof(guestpv_events.cpus);

	if (snprintf(list, size, "GUESTPV_CPUS=%*pbl", cpumask_pr_args(cpus)) < size)
		return false;
	*strrchr(list, ',') = '\0';
	return true;
}

static void guestpv_event_send(const char *what, const char *reason, const struct cpumask *cpus)
{
	char event[32], why[40], missed[40];
	char *envp[6] = { };
	unsigned int n = 0;

	snprintf(event, sizeof(event), "GUESTPV_EVENT=%s", what);
	envp[n++] = event;
	if (reason) {
		snprintf(why, sizeof(why), "GUESTPV_REASON=%s", reason);
		envp[n++] = why;
	}
	if (cpus) {
		bool cut = guestpv_list_cpus(cpus);

		envp[n++] = guestpv_events.cpus;
		if (cut)
			envp[n++] = "GUESTPV_MORE=1";
	}
	if (guestpv_events.missed) {
		snprintf(missed, sizeof(missed), "GUESTPV_MISSED=%u", guestpv_events.missed);
		envp[n++] = missed;
	}
	/* An event that is lost for want of memory still stands in the index. */
	kobject_uevent_env(&guestpv_events.device->kobj, KOBJ_CHANGE, envp);
	guestpv_events.missed = 0;
}

/**
 * guestpv_event() - tell user space by a uevent
 * @what: found, lost, restart, revision or restored
 * @reason: why counts restarted, or NULL
 * @cpus: whose structures, or NULL
 */
void guestpv_event(const char *what, const char *reason, const struct cpumask *cpus)
{
	mutex_lock(&guestpv_events.lock);
	if (guestpv_events.device) {
		/* What concerns no CPU stands nowhere else, and is as rare as restores are. */
		if (!cpus || __ratelimit(&guestpv_events.ratelimit))
			guestpv_event_send(what, reason, cpus);
		else
			guestpv_events.missed++;
	}
	mutex_unlock(&guestpv_events.lock);
}
