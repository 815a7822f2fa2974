// SPDX-License-Identifier: GPL-2.0-only
/*
 * Stolen time as perf events. A vCPU can't switch tasks while it does not run, so
 * what its count grows by between a task's coming and its going was stolen from
 * that task, whole: no pinning, and migration does no harm.
 *
 * The PMU is one for software: its events are never refused a CPU, which the core
 * relies on, so what can't be known has an event of its own. Who may open what is
 * the core's affair (perf_event_paranoid, CAP_PERFMON, ptrace).
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/printk.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/sysfs.h>

#include "core.h"

static bool guestpv_pmu_registered;

/* Was anything known of the CPUs on which the event can count when it was opened? */
static bool guestpv_pmu_can_know(const struct perf_event *event)
{
	unsigned int cpu;

	/* Of a task's event the core has looked at no more than nr_cpu_ids so far. */
	if (event->cpu >= 0)
		return cpu_possible(event->cpu) && guestpv_total_is_known(event->cpu);
	for_each_online_cpu(cpu)
		if (guestpv_total_is_known(cpu))
			return true;

	return false;
}

#ifndef GUESTPV_HAVE_PMU_CONTEXT /* before 6.2; see Kbuild */
/*
 * There a task's context of software events keeps a pointer to the PMU of whose
 * event it was made, until the task ends, which may be long after this module was
 * removed. So have it made for an event of the kernel's own, which then goes.
 */
static int guestpv_pmu_prepare_task(struct task_struct *task)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.disabled = 1,
	};
	struct perf_event *event;

	event = perf_event_create_kernel_counter(&attr, -1, task, NULL, NULL);
	if (IS_ERR(event))
		return PTR_ERR(event);

	perf_event_release_kernel(event);
	return 0;
}
#else
static int guestpv_pmu_prepare_task(struct task_struct *task)
{
	return 0;
}
#endif

static void guestpv_pmu_destroy(struct perf_event *event)
{
	kfree(event->pmu_private);
}

static int guestpv_pmu_event_init(struct perf_event *event)
{
	const struct perf_event_attr *attr = &event->attr;
	struct guestpv_reading *last;
	int err;

	if (attr->type != event->pmu->type)
		return -ENOENT;
	if (attr->config > GUESTPV_EVENT_UNKNOWN || attr->config1 || attr->config2)
		return -EINVAL;
	/*
	 * A hypervisor takes a CPU whatever it is doing: user and kernel have no
	 * share of their own. Nor has idle, and there the count could be misread.
	 */
	if (attr->exclude_idle)
		return -EINVAL;
	if (is_sampling_event(event) || has_branch_stack(event))
		return -EOPNOTSUPP;
	/* Never of one that a child inherits: that would make fork(2) fail. */
	if (!event->parent && attr->config == GUESTPV_EVENT_STOLEN &&
	    !guestpv_pmu_can_know(event))
		return -ENODATA;

	/* What a child inherits goes into a context like its parent's. */
	if (!event->parent && event->hw.target) {
		err = guestpv_pmu_prepare_task(event->hw.target);
		if (err)
			return err;
	}

	last = kzalloc(sizeof(*last), GFP_KERNEL);
	if (!last)
		return -ENOMEM;
	event->pmu_private = last;
	event->destroy = guestpv_pmu_destroy;
	return 0;
}

/* Count what was stolen, or is unknown, since the last time; @ends: there will be no next. */
static void guestpv_pmu_update(struct perf_event *event, bool ends)
{
	struct guestpv_reading *last = event->pmu_private, now;
	u64 stolen_ns, unknown_ns, elapsed_ns;

	guestpv_total_read(smp_processor_id(), &now);
	/* The next look at the structure will say what to think of that. */
	if (!now.judged && !ends)
		return;

	/*
	 * A restart that came after the last look, but before the event was last
	 * read, sets the total back to what it was at that look. All that was stolen
	 * since then is within what is unknown.
	 */
	stolen_ns = max(now.stolen_ns, last->stolen_ns) - last->stolen_ns;
	elapsed_ns = now.after - last->before;
	if (now.judged && last->judged && guestpv_plausible(stolen_ns, elapsed_ns)) {
		stolen_ns = min(stolen_ns, elapsed_ns);
		unknown_ns = now.unknown_ns - last->unknown_ns;
	} else {
		stolen_ns = 0;
		unknown_ns = elapsed_ns;
	}

	local64_add(event->attr.config == GUESTPV_EVENT_STOLEN ? stolen_ns : unknown_ns,
		    &event->count);
	*last = now;
}

static void guestpv_pmu_start(struct perf_event *event, int flags)
{
	guestpv_total_read(smp_processor_id(), event->pmu_private);
}

static void guestpv_pmu_stop(struct perf_event *event, int flags)
{
	guestpv_pmu_update(event, true);
}

static int guestpv_pmu_add(struct perf_event *event, int flags)
{
	if (flags & PERF_EF_START)
		guestpv_pmu_start(event, flags);
	perf_event_update_userpage(event);
	return 0;
}

static void guestpv_pmu_del(struct perf_event *event, int flags)
{
	guestpv_pmu_stop(event, PERF_EF_UPDATE);
}

static void guestpv_pmu_read(struct perf_event *event)
{
	guestpv_pmu_update(event, false);
}

PMU_FORMAT_ATTR(event, "config:0-7");

static struct attribute *guestpv_pmu_format_attrs[] = {
	&format_attr_event.attr,
	NULL
};

static const struct attribute_group guestpv_pmu_format = {
	.name = "format",
	.attrs = guestpv_pmu_format_attrs,
};

/* The numbers of enum guestpv_event */
PMU_EVENT_ATTR_STRING(stolen, guestpv_pmu_stolen, "event=0x0");
PMU_EVENT_ATTR_STRING(stolen.unit, guestpv_pmu_stolen_unit, "ns");
PMU_EVENT_ATTR_STRING(stolen.scale, guestpv_pmu_stolen_scale, "1");
PMU_EVENT_ATTR_STRING(unknown, guestpv_pmu_unknown, "event=0x1");
PMU_EVENT_ATTR_STRING(unknown.unit, guestpv_pmu_unknown_unit, "ns");
PMU_EVENT_ATTR_STRING(unknown.scale, guestpv_pmu_unknown_scale, "1");

static struct attribute *guestpv_pmu_events_attrs[] = {
	&guestpv_pmu_stolen.attr.attr,
	&guestpv_pmu_stolen_unit.attr.attr,
	&guestpv_pmu_stolen_scale.attr.attr,
	&guestpv_pmu_unknown.attr.attr,
	&guestpv_pmu_unknown_unit.attr.attr,
	&guestpv_pmu_unknown_scale.attr.attr,
	NULL
};

static const struct attribute_group guestpv_pmu_events = {
	.name = "events",
	.attrs = guestpv_pmu_events_attrs,
};

static const struct attribute_group *guestpv_pmu_groups[] = {
	&guestpv_pmu_format,
	&guestpv_pmu_events,
	NULL
};

static struct pmu guestpv_pmu = {
	.module = THIS_MODULE, /* which stays while an event is open */
	.task_ctx_nr = perf_sw_context,
	.capabilities = PERF_PMU_CAP_NO_INTERRUPT,
	.attr_groups = guestpv_pmu_groups,
	.event_init = guestpv_pmu_event_init,
	.add = guestpv_pmu_add,
	.del = guestpv_pmu_del,
	.start = guestpv_pmu_start,
	.stop = guestpv_pmu_stop,
	.read = guestpv_pmu_read,
};

/* Without it there are no events, and everything else there is. */
void guestpv_pmu_init(void)
{
	int err = perf_pmu_register(&guestpv_pmu, KBUILD_MODNAME, -1);

	if (err)
		pr_warn("no perf events: the PMU was not registered (error %d)\n", err);
	guestpv_pmu_registered = !err;
}

void guestpv_pmu_exit(void)
{
	if (guestpv_pmu_registered)
		perf_pmu_unregister(&guestpv_pmu);
}
