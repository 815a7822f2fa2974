// SPDX-License-Identifier: GPL-2.0-only
/*
 * What nobody announces: a hypervisor may restart a count or change a revision
 * without a word, so all structures are sampled from time to time. That the VM was
 * restored or cloned is announced by vmgenid, where there is one: then they are
 * sampled immediately.
 */
#include <linux/moduleparam.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/random.h>
#include <linux/workqueue.h>

#include "core.h"

static void guestpv_monitor_work(struct work_struct *work);
static void guestpv_restored_work(struct work_struct *work);

static struct {
	unsigned int check_ms;
	bool running; /* under kernel_param_lock(): check_ms comes earlier and goes later */
	struct workqueue_struct *wq;
	struct work_struct restored;
	struct delayed_work work;
} guestpv_monitor = {
	.check_ms = 1000,
	.restored = __WORK_INITIALIZER(guestpv_monitor.restored, guestpv_restored_work),
	/* Not deferrable: one CPU that is idle would put it off for all. */
	.work = __DELAYED_WORK_INITIALIZER(guestpv_monitor.work, guestpv_monitor_work, 0),
};

static void guestpv_monitor_again(void)
{
	unsigned int check_ms = READ_ONCE(guestpv_monitor.check_ms);

	if (check_ms)
		queue_delayed_work(guestpv_monitor.wq, &guestpv_monitor.work,
				   msecs_to_jiffies(check_ms));
}

static void guestpv_monitor_work(struct work_struct *work)
{
	guestpv_index_check(GUESTPV_REASON_FOUND_LOWER);
	guestpv_monitor_again();
}

static void guestpv_restored_work(struct work_struct *work)
{
	guestpv_index_check(GUESTPV_REASON_RESTORED);
	guestpv_event("restored", NULL, NULL);
}

static int guestpv_set_check_ms(const char *val, const struct kernel_param *kp)
{
	int err = param_set_uint(val, kp);

	if (err || !guestpv_monitor.running)
		return err;

	cancel_delayed_work_sync(&guestpv_monitor.work);
	guestpv_monitor_again();
	return 0;
}

static const struct kernel_param_ops guestpv_check_ms_ops = {
	.set = guestpv_set_check_ms,
	.get = param_get_uint,
};

module_param_cb(check_ms, &guestpv_check_ms_ops, &guestpv_monitor.check_ms, 0644);
__MODULE_PARM_TYPE(check_ms, "uint");
MODULE_PARM_DESC(check_ms, "how often to look for counts that restarted and revisions that changed without notice; 0: never");

#ifdef GUESTPV_HAVE_VMFORK /* 5.19 and later; see Kbuild */
/* vmgenid of a device tree calls from its interrupt handler: nothing here may sleep. */
static int guestpv_vm_forked(struct notifier_block *nb, unsigned long action, void *data)
{
	queue_work(guestpv_monitor.wq, &guestpv_monitor.restored);
	return NOTIFY_DONE;
}

static struct notifier_block guestpv_vmfork_nb = {
	.notifier_call = guestpv_vm_forked,
};
#endif

static int guestpv_vmfork_register(void)
{
#ifdef GUESTPV_HAVE_VMFORK
	return register_random_vmfork_notifier(&guestpv_vmfork_nb);
#else
	return 0;
#endif
}

static void guestpv_vmfork_unregister(void)
{
#ifdef GUESTPV_HAVE_VMFORK
	unregister_random_vmfork_notifier(&guestpv_vmfork_nb);
#endif
}

int guestpv_monitor_init(void)
{
	int err;

	/* Unbound: no CPU is asked for. Freezable: it sleeps when the machine does. */
	guestpv_monitor.wq = alloc_workqueue("guestpv", WQ_UNBOUND | WQ_FREEZABLE, 0);
	if (!guestpv_monitor.wq)
		return -ENOMEM;
	err = guestpv_vmfork_register();
	if (err) {
		destroy_workqueue(guestpv_monitor.wq);
		return err;
	}

	kernel_param_lock(THIS_MODULE);
	guestpv_monitor.running = true;
	guestpv_monitor_again();
	kernel_param_unlock(THIS_MODULE);
	return 0;
}

void guestpv_monitor_exit(void)
{
	kernel_param_lock(THIS_MODULE);
	guestpv_monitor.running = false;
	cancel_delayed_work_sync(&guestpv_monitor.work);
	kernel_param_unlock(THIS_MODULE);

	guestpv_vmfork_unregister();
	destroy_workqueue(guestpv_monitor.wq); /* after what is queued, as by a restore */
}
