// SPDX-License-Identifier: GPL-2.0-only
/*
 * guestpv_ask asks the hypervisor what it can be asked without a consequence, on
 * every CPU that is online, and shows what all registers were afterwards:
 * /dev/guestpv_ask. What the kernel's own arm_smccc_1_1_invoke() gives is x0 to
 * x3, and the compiler takes it that x4 to x17 are as they were (Arm DEN0028).
 *
 * PV_TIME_ST, under either number and in either calling convention, is never
 * called: it would restart a count that may be the kernel's.
 */
#include <linux/arm-smccc.h>
#include <linux/cpu.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/smp.h>
#include <linux/vmalloc.h>

#include "uapi/guestpv.h"
#include "uapi/guestpv_ask.h"

#define FEATURES	GUESTPV_PV_TIME_FEATURES
#define ST		GUESTPV_PV_TIME_ST
#define ST_DRAFT	GUESTPV_PV_TIME_ST_DRAFT

static const struct {
	u64 function;
	u64 argument;
} guestpv_ask_calls[] = {
	{ ARM_SMCCC_VERSION_FUNC_ID, 0 },
	{ ARM_SMCCC_ARCH_FEATURES_FUNC_ID, FEATURES },
	{ FEATURES, FEATURES },
	{ FEATURES, ST },
	{ FEATURES, ST_DRAFT },

	/* The same, with what must make no difference */
	{ ARM_SMCCC_ARCH_FEATURES_FUNC_ID | GUESTPV_ASK_SVE_HINT, FEATURES },
	{ FEATURES | GUESTPV_ASK_SVE_HINT, FEATURES },
	{ FEATURES | GUESTPV_ASK_SVE_HINT, ST },
	{ ARM_SMCCC_ARCH_FEATURES_FUNC_ID, GUESTPV_ASK_UPPER | FEATURES },
	{ FEATURES, GUESTPV_ASK_UPPER | FEATURES },
	{ FEATURES, GUESTPV_ASK_UPPER | ST },
	{ GUESTPV_ASK_UPPER | ARM_SMCCC_ARCH_FEATURES_FUNC_ID, FEATURES },
	{ GUESTPV_ASK_UPPER | FEATURES, ST },

	/* Queries for what PV-time does not define: others' numbers, and nobody's */
	{ FEATURES, 0 },
	{ FEATURES, 0xffffffff },
	{ FEATURES, ARM_SMCCC_VERSION_FUNC_ID },
	{ FEATURES, GUESTPV_PV_TIME_FEATURES_SMC32 },
	{ FEATURES, GUESTPV_PV_TIME_ST_SMC32 },
	{ FEATURES, 0xc4000021 },
	{ FEATURES, 0xc5000023 },
	{ FEATURES, 0xc500002a },
	{ FEATURES, GUESTPV_PV_TIME_UNDEFINED },
	{ FEATURES, 0xc5000121 },

	/* Calls of numbers of PV-time's range that nobody defined */
	{ GUESTPV_PV_TIME_FEATURES_SMC32, FEATURES },
	{ 0x85000023, 0 },
	{ 0x8500003f, 0 },
	{ 0xc5000023, 0 },
	{ 0xc500002a, 0 },
	{ GUESTPV_PV_TIME_UNDEFINED, 0 },
};

static struct {
	struct guestpv_ask_header *header;
	size_t size;
	bool smc;
} guestpv_ask;

/*
 * The registers are loaded from @x and stored there. Its own place is in none of
 * them: the compiler takes another for it, and those a hypervisor must keep, or
 * no kernel would run on it.
 */
#define guestpv_ask_by(instruction, x)						\
({										\
	asm volatile("ldp x0, x1, [%0]\n"					\
		     "ldp x2, x3, [%0, #16]\n"					\
		     "ldp x4, x5, [%0, #32]\n"					\
		     "ldp x6, x7, [%0, #48]\n"					\
		     "ldp x8, x9, [%0, #64]\n"					\
		     "ldp x10, x11, [%0, #80]\n"				\
		     "ldp x12, x13, [%0, #96]\n"				\
		     "ldp x14, x15, [%0, #112]\n"				\
		     "ldp x16, x17, [%0, #128]\n"				\
		     instruction "\n"						\
		     "stp x0, x1, [%0]\n"					\
		     "stp x2, x3, [%0, #16]\n"					\
		     "stp x4, x5, [%0, #32]\n"					\
		     "stp x6, x7, [%0, #48]\n"					\
		     "stp x8, x9, [%0, #64]\n"					\
		     "stp x10, x11, [%0, #80]\n"				\
		     "stp x12, x13, [%0, #96]\n"				\
		     "stp x14, x15, [%0, #112]\n"				\
		     "stp x16, x17, [%0, #128]\n"				\
		     : : "r" (x)						\
		     : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8",	\
		       "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",	\
		       "x17", "cc", "memory");					\
})

/* On the CPU that is asked, uninterrupted. */
static void guestpv_ask_here(void *calls)
{
	struct guestpv_ask_call *call = calls;
	unsigned int nr, n;

	for (nr = 0; nr < ARRAY_SIZE(guestpv_ask_calls); nr++, call++) {
		call->cpu = smp_processor_id();
		call->function = guestpv_ask_calls[nr].function;
		call->argument = guestpv_ask_calls[nr].argument;
		call->x[0] = call->function;
		call->x[1] = call->argument;
		for (n = 2; n < GUESTPV_ASK_REGISTERS; n++)
			call->x[n] = GUESTPV_ASK_SENTINEL | n;

		if (guestpv_ask.smc)
			guestpv_ask_by("smc #0", call->x);
		else
			guestpv_ask_by("hvc #0", call->x);
	}
}

static int __init guestpv_ask_all(void)
{
	struct guestpv_ask_call *call = (void *)(guestpv_ask.header + 1);
	unsigned int cpu;
	int err = 0;

	for_each_online_cpu(cpu) {
		err = smp_call_function_single(cpu, guestpv_ask_here, call, true);
		if (err)
			break;
		call += ARRAY_SIZE(guestpv_ask_calls);
	}
	return err;
}

static ssize_t guestpv_ask_read(struct file *file, char __user *buf, size_t count, loff_t *ppos)
{
	return simple_read_from_buffer(buf, count, ppos, guestpv_ask.header, guestpv_ask.size);
}

static const struct file_operations guestpv_ask_fops = {
	.owner = THIS_MODULE,
	.read = guestpv_ask_read,
};

static struct miscdevice guestpv_ask_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &guestpv_ask_fops,
	.mode = 0400,
};

static int __init guestpv_ask_init(void)
{
	unsigned int nr_calls;
	int err;

	switch (arm_smccc_1_1_get_conduit()) {
	case SMCCC_CONDUIT_SMC:
		guestpv_ask.smc = true;
		break;
	case SMCCC_CONDUIT_HVC:
		break;
	default:
		return -ENODEV;
	}

	cpus_read_lock();
	nr_calls = num_online_cpus() * ARRAY_SIZE(guestpv_ask_calls);
	guestpv_ask.size = sizeof(struct guestpv_ask_header) +
			   nr_calls * sizeof(struct guestpv_ask_call);
	guestpv_ask.header = vzalloc(guestpv_ask.size);
	err = guestpv_ask.header ? guestpv_ask_all() : -ENOMEM;
	cpus_read_unlock();
	if (err)
		goto free;

	*guestpv_ask.header = (struct guestpv_ask_header) {
		.magic = GUESTPV_ASK_MAGIC,
		.version = GUESTPV_ASK_VERSION,
		.header_size = sizeof(struct guestpv_ask_header),
		.call_size = sizeof(struct guestpv_ask_call),
		.nr_calls = nr_calls,
	};
	err = misc_register(&guestpv_ask_misc);
	if (err)
		goto free;
	return 0;

free:
	vfree(guestpv_ask.header);
	return err;
}
module_init(guestpv_ask_init);

static void __exit guestpv_ask_exit(void)
{
	misc_deregister(&guestpv_ask_misc);
	vfree(guestpv_ask.header);
}
module_exit(guestpv_ask_exit);

MODULE_DESCRIPTION("What a hypervisor answers to SMCCC calls, register by register");
MODULE_AUTHOR("the guestpv authors");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
