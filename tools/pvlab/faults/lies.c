// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts that lie: what one says instead of what was stolen.
 *
 * KVM adds to the count what the vCPU's thread waited since arch.steal.last_steal, and sets that to
 * what it has waited by now. So whoever moves last_steal right before that decides what is added,
 * and leaves nothing behind: the addition after the last lie is true again.
 */
#include <linux/kprobes.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched/clock.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <asm/pvclock-abi.h>

#include "lies.h"

#define VCPUS BITS_PER_LONG
#define UNPUBLISHED 512	/* counts that wait to be published: far more than change in a second */

static ulong liars;
module_param(liars, ulong, 0644);
MODULE_PARM_DESC(liars, "mask of the vCPUs whose count lies: to be written last");

/* Lies about what is stolen. */

static bool halted;
module_param(halted, bool, 0644);
MODULE_PARM_DESC(halted, "all the time in which the vCPU's thread does not run is stolen");

static bool summed;
module_param(summed, bool, 0644);
MODULE_PARM_DESC(summed, "what is stolen from any vCPU that lies is stolen from each of them");

static uint lose_every;
module_param(lose_every, uint, 0644);
MODULE_PARM_DESC(lose_every, "one slice in so many is not counted; 0: all are");

static ulong cap_ns;
module_param(cap_ns, ulong, 0644);
MODULE_PARM_DESC(cap_ns, "no more than this of a slice is counted; 0: all of it");

/* Lies about the count. */

static uint scale_ppb = NSEC_PER_SEC;
module_param(scale_ppb, uint, 0644);
MODULE_PARM_DESC(scale_ppb, "what is counted of what is stolen, in parts per billion");

static uint creep_ppb;
module_param(creep_ppb, uint, 0644);
MODULE_PARM_DESC(creep_ppb, "what is added of the time that passes, in parts per billion");

static ulong freeze_after_ns;
module_param(freeze_after_ns, ulong, 0644);
MODULE_PARM_DESC(freeze_after_ns, "after growing by so much the count stands still; 0: never");

static ulong late_ns;
module_param(late_ns, ulong, 0644);
MODULE_PARM_DESC(late_ns, "the count is published so much later");

static uint bits = 64;
module_param(bits, uint, 0644);
MODULE_PARM_DESC(bits, "how many bits the count has, from 1 to 64");

static bool swap_bytes;
module_param(swap_bytes, bool, 0644);
MODULE_PARM_DESC(swap_bytes, "the count is big-endian");

/* A count as it is told, and what it is made from. Only its vCPU's thread uses it. */
struct account {
	struct kvm_vcpu *vcpu;	/* NULL: there is none yet */
	u64 updated_ns;		/* when, by the host's clock; and at that time: */
	u64 run_delay_ns;	/* what the thread had waited to run */
	u64 exec_ns;		/* what it had run */
	u64 summed_ns;		/* what had been stolen from all vCPUs that lie */

	u64 start_ns;		/* the count when it began to lie, and from then on: */
	u64 began_ns;		/* when that was */
	u64 stolen_ns;		/* what was stolen, as far as that is counted */
	u64 slices;

	u64 published_ns;	/* of a count that is late; what is to come stands in a ring */
	u32 first, end;
	struct {
		u64 at_ns;
		u64 count_ns;
	} unpublished[UNPUBLISHED];
};

static struct account accounts[VCPUS];

static atomic64_t stolen_from_all_ns;

static struct account *account_of(const struct kvm_vcpu *vcpu)
{
	return &accounts[vcpu->vcpu_id % VCPUS];
}

/* What the thread of a vCPU did not run. Includes what it waited. */
static u64 not_run_ns(const struct account *account, u64 now_ns)
{
	u64 ran_ns = current->se.sum_exec_runtime - account->exec_ns;

	return now_ns - account->updated_ns - min(ran_ns, now_ns - account->updated_ns);
}

static u64 from_all_ns(struct account *account, u64 stolen_ns)
{
	u64 before_ns = account->summed_ns;

	account->summed_ns = atomic64_add_return(stolen_ns, &stolen_from_all_ns);
	return account->summed_ns - before_ns;
}

/* One in lose_every is lost, the last of them. What is no slice but a hiccup is never lost. */
static bool is_lost(struct account *account, u64 stolen_ns)
{
	if (!lose_every || stolen_ns < NSEC_PER_MSEC)
		return false;
	return ++account->slices % lose_every == 0;
}

/* What was stolen since the last update, as far as it is counted. */
static u64 counted_ns(struct account *account, u64 now_ns)
{
	u64 stolen_ns = current->sched_info.run_delay - account->run_delay_ns;

	if (halted)
		stolen_ns = not_run_ns(account, now_ns);
	if (summed)
		stolen_ns = from_all_ns(account, stolen_ns);
	if (is_lost(account, stolen_ns))
		return 0;
	return cap_ns ? min_t(u64, stolen_ns, cap_ns) : stolen_ns;
}

/* The count as it is now, if that is told late: what it was late_ns ago. */
static u64 late(struct account *account, u64 count_ns, u64 now_ns)
{
	u32 newest = (account->end - 1) % UNPUBLISHED;
	bool is_full = account->end - account->first == UNPUBLISHED;

	if (account->unpublished[newest].count_ns != count_ns && !is_full) {
		u32 place = account->end++ % UNPUBLISHED;

		account->unpublished[place].at_ns = now_ns;
		account->unpublished[place].count_ns = count_ns;
	}
	for (; account->first != account->end; account->first++) {
		u32 place = account->first % UNPUBLISHED;

		if (now_ns - account->unpublished[place].at_ns < late_ns)
			break;
		account->published_ns = account->unpublished[place].count_ns;
	}
	return account->published_ns;
}

/* What the count is to say. */
static u64 told(struct account *account, u64 now_ns)
{
	u64 growth_ns = mul_u64_u32_div(account->stolen_ns, scale_ppb, NSEC_PER_SEC);
	u64 count_ns;

	growth_ns += mul_u64_u32_div(now_ns - account->began_ns, creep_ppb, NSEC_PER_SEC);
	if (freeze_after_ns)
		growth_ns = min_t(u64, growth_ns, freeze_after_ns);
	count_ns = account->start_ns + growth_ns;
	if (late_ns)
		count_ns = late(account, count_ns, now_ns);
	if (bits < 64)
		count_ns &= BIT_ULL(bits) - 1;
	return swap_bytes ? swab64(count_ns) : count_ns;
}

/* Its first lie comes with the next update: what was stolen up to the last one is told. */
static void begin(struct account *account, struct kvm_vcpu *vcpu, u64 count_ns, u64 now_ns)
{
	account->vcpu = vcpu;
	account->updated_ns = now_ns;
	account->run_delay_ns = vcpu->arch.steal.last_steal;
	account->exec_ns = current->se.sum_exec_runtime;
	account->summed_ns = atomic64_read(&stolen_from_all_ns);
	account->start_ns = count_ns;
	account->began_ns = now_ns;
	account->stolen_ns = 0;
	account->slices = 0;
	account->published_ns = count_ns;
	account->first = 0;
	account->end = 0;
	account->unpublished[UNPUBLISHED - 1].count_ns = count_ns;
}

/* What stands in the structure. A probe must not sleep, and KVM's own way of reading it might. */
static bool read_count(struct kvm_vcpu *vcpu, u64 *count_ns)
{
	gpa_t place = vcpu->arch.steal.base;
	struct kvm_memory_slot *slot;
	bool is_read = false;
	__le64 stolen_time;
	int index;

	place += offsetof(struct pvclock_vcpu_stolen_time, stolen_time);
	index = srcu_read_lock(&vcpu->kvm->srcu);
	slot = __gfn_to_memslot(kvm_memslots(vcpu->kvm), gpa_to_gfn(place));
	if (slot) {
		ulong address = __gfn_to_hva_memslot(slot, gpa_to_gfn(place));

		address += offset_in_page(place);
		is_read = !copy_from_user_nofault(&stolen_time, (void __user *)address,
						  sizeof(stolen_time));
	}
	srcu_read_unlock(&vcpu->kvm->srcu, index);
	if (is_read)
		*count_ns = le64_to_cpu(stolen_time);
	return is_read;
}

/**
 * lie_about() - have KVM add something else to a count than what was stolen
 * @vcpu: whose it is; KVM is about to update it
 */
void lie_about(struct kvm_vcpu *vcpu)
{
	struct account *account = account_of(vcpu);
	u64 now_ns = ktime_get_mono_fast_ns();
	u64 count_ns;

	if (!is_in(liars, vcpu) || !read_count(vcpu, &count_ns)) {
		lie_anew(vcpu);
		return;
	}
	if (account->vcpu != vcpu)
		begin(account, vcpu, count_ns, now_ns);
	account->stolen_ns += counted_ns(account, now_ns);
	account->run_delay_ns = current->sched_info.run_delay;
	account->exec_ns = current->se.sum_exec_runtime;
	account->updated_ns = now_ns;
	vcpu->arch.steal.last_steal = account->run_delay_ns - (told(account, now_ns) - count_ns);
}

/**
 * lie_anew() - forget what a count said, and begin with what it says then
 * @vcpu: whose it is
 */
void lie_anew(struct kvm_vcpu *vcpu)
{
	account_of(vcpu)->vcpu = NULL;
}

/* KVM updates a count when the vCPU is loaded. What concerns time must not wait for that. */
static int exit_begins(struct kprobe *probe, struct pt_regs *regs)
{
	struct kvm_vcpu *vcpu = (void *)regs_get_kernel_argument(regs, 0);

	if (is_in(liars, vcpu))
		kvm_make_request(KVM_REQ_RECORD_STEAL, vcpu);
	return 0;
}

static struct kprobe exits = {
	.symbol_name = "handle_exit",
	.pre_handler = exit_begins,
	.flags = KPROBE_FLAG_DISABLED,
};

static bool at_exits;

static int set_at_exits(const char *value, const struct kernel_param *param)
{
	int error = param_set_bool(value, param);

	if (error)
		return error;
	return at_exits ? enable_kprobe(&exits) : disable_kprobe(&exits);
}

static const struct kernel_param_ops at_exits_ops = {
	.set = set_at_exits,
	.get = param_get_bool,
};

module_param_cb(at_exits, &at_exits_ops, &at_exits, 0644);
MODULE_PARM_DESC(at_exits, "update a count whenever its vCPU leaves the guest, too");

int lies_init(void)
{
	return register_kprobe(&exits);
}

void lies_exit(void)
{
	unregister_kprobe(&exits);
}
