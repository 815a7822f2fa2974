// SPDX-License-Identifier: GPL-2.0-only
/*
 * pvfault - break, on purpose, what KVM promises its guests about PV-time.
 *
 * It runs on the host. Probes on KVM's own functions change a hypercall's answer after KVM has
 * given it, keep a count from moving or from being reset, or have it say something else than what
 * was stolen (lies.c). Every parameter may be changed at any time; with the values that they have
 * at first, and after removal, KVM is as it was.
 */
#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <asm/kvm_emulate.h>

#include "lies.h"

#define ANSWERS 8
#define CONCURRENT 64	/* vCPUs that may be in a hypercall at once: one can sleep in PSCI */
#define ANY (-1)

/* Wrong answers. The one in place i is given if call[i] isn't 0: it's to be written last. */
static uint call[ANSWERS];
module_param_array(call, uint, NULL, 0644);
MODULE_PARM_DESC(call, "function identifiers of hypercalls to answer wrongly; 0: none");

static long arg[ANSWERS] = { [0 ... ANSWERS - 1] = ANY };
module_param_array(arg, long, NULL, 0644);
MODULE_PARM_DESC(arg, "their first argument, 32 bits, or 64 where the upper ones matter; -1: any");

static int vcpu[ANSWERS] = { [0 ... ANSWERS - 1] = ANY };
module_param_array(vcpu, int, NULL, 0644);
MODULE_PARM_DESC(vcpu, "the vCPU that calls; -1: any");

static ulong answer[ANSWERS];
module_param_array(answer, ulong, NULL, 0644);
MODULE_PARM_DESC(answer, "what to answer, 64 bits");

static uint reg[ANSWERS];
module_param_array(reg, uint, NULL, 0644);
MODULE_PARM_DESC(reg, "in which register, 0 to 17, to answer");

static ulong freeze;
module_param(freeze, ulong, 0644);
MODULE_PARM_DESC(freeze, "mask of the vCPUs whose count doesn't move");

static ulong keep;
module_param(keep, ulong, 0644);
MODULE_PARM_DESC(keep, "mask of the vCPUs whose count isn't reset by PV_TIME_ST");

struct hypercall {
	struct kvm_vcpu *caller;
	u32 function;
	u64 arg;
};

/* Only the handler's caller knows the arguments: the answer overwrites the first register. */
static int hypercall_begins(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct hypercall *hypercall = (void *)instance->data;

	hypercall->caller = (void *)regs_get_kernel_argument(regs, 0);
	hypercall->function = vcpu_get_reg(hypercall->caller, 0);
	hypercall->arg = vcpu_get_reg(hypercall->caller, 1);
	return 0;
}

static bool is_meant(int place, const struct hypercall *hypercall)
{
	if (!call[place] || hypercall->function != call[place])
		return false;
	if (arg[place] != ANY &&
	    (arg[place] >> 32 ? hypercall->arg : (u32)hypercall->arg) != arg[place])
		return false;
	return vcpu[place] == ANY || hypercall->caller->vcpu_id == vcpu[place];
}

static int hypercall_ends(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct hypercall *hypercall = (void *)instance->data;

	for (int place = 0; place < ANSWERS; place++)
		if (is_meant(place, hypercall))
			vcpu_set_reg(hypercall->caller, reg[place], answer[place]);
	return 0;
}

/* What KVM calls it since 6.4, and before. */
static const char * const handlers[] = { "kvm_smccc_call_handler", "kvm_hvc_call_handler" };

static struct kretprobe answers = {
	.entry_handler = hypercall_begins,
	.handler = hypercall_ends,
	.data_size = sizeof(struct hypercall),
	.maxactive = CONCURRENT,
};

/* At a function's first instruction: go back to its caller as if it had returned this. */
static int return_at_once(struct pt_regs *regs, u64 value)
{
	regs_set_return_value(regs, value);
	instruction_pointer_set(regs, procedure_link_pointer(regs));
	return 1;
}

static int update_begins(struct kprobe *probe, struct pt_regs *regs)
{
	struct kvm_vcpu *vcpu = (void *)regs_get_kernel_argument(regs, 0);

	if (is_in(freeze, vcpu))
		return return_at_once(regs, 0);
	lie_about(vcpu);
	return 0;
}

static struct kprobe updates = {
	.symbol_name = "kvm_update_stolen_time",
	.pre_handler = update_begins,
};

static int reset_begins(struct kprobe *probe, struct pt_regs *regs)
{
	struct kvm_vcpu *vcpu = (void *)regs_get_kernel_argument(regs, 0);

	if (is_in(keep, vcpu))
		return return_at_once(regs, vcpu->arch.steal.base);
	lie_anew(vcpu);
	return 0;
}

static struct kprobe resets = {
	.symbol_name = "kvm_init_stolen_time",
	.pre_handler = reset_begins,
};

static struct kprobe *probes[] = { &updates, &resets };

static int __init pvfault_init(void)
{
	int error = -ENOENT;

	for (int i = 0; error == -ENOENT && i < ARRAY_SIZE(handlers); i++) {
		answers.kp.symbol_name = handlers[i];
		error = register_kretprobe(&answers);
	}
	if (error)
		return error;
	error = lies_init();
	if (error)
		goto no_lies;
	error = register_kprobes(probes, ARRAY_SIZE(probes));
	if (error)
		goto no_probes;
	return 0;

no_probes:
	lies_exit();
no_lies:
	unregister_kretprobe(&answers);
	return error;
}
module_init(pvfault_init);

static void __exit pvfault_exit(void)
{
	unregister_kprobes(probes, ARRAY_SIZE(probes));
	lies_exit();
	unregister_kretprobe(&answers);
}
module_exit(pvfault_exit);

MODULE_DESCRIPTION("Breaks what KVM promises its guests about PV-time");
MODULE_LICENSE("GPL");
