// SPDX-License-Identifier: GPL-2.0-only
/*
 * pvwake - give a host that QEMU started from a saved state its timers back.
 *
 * The host's kernel runs at EL2 (VHE) and keeps time by the EL2 physical timer. QEMU saves that
 * timer's registers, but not its own deadline for them: on each CPU the timer that was armed when
 * the state was saved never fires. No tick comes, and nothing that waits for one goes on.
 * Writing a compare value makes QEMU compute the deadline anew, so each CPU writes its own back.
 * It is asked for by the console, whose interrupts come without a timer.
 */
#include <linux/module.h>
#include <linux/smp.h>
#include <asm/barrier.h>
#include <asm/sysreg.h>

/* In VHE mode these are the names of the EL2 timers; otherwise QEMU had forgotten nothing. */
static void pvwake_rearm(void *unused)
{
	write_sysreg(read_sysreg(cntp_cval_el0), cntp_cval_el0);
	write_sysreg(read_sysreg(cntv_cval_el0), cntv_cval_el0);
	isb();
}

static int pvwake_set(const char *value, const struct kernel_param *param)
{
	on_each_cpu(pvwake_rearm, NULL, 1);
	return 0;
}

static const struct kernel_param_ops pvwake_ops = { .set = pvwake_set };
module_param_cb(wake, &pvwake_ops, NULL, 0200);
MODULE_PARM_DESC(wake, "written: re-arm the timers of every CPU");

static int __init pvwake_init(void)
{
	return 0;
}
module_init(pvwake_init);

static void __exit pvwake_exit(void)
{
}
module_exit(pvwake_exit);

MODULE_DESCRIPTION("Gives a host that was started from a saved state its timers back");
MODULE_LICENSE("GPL");
