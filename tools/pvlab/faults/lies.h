/* SPDX-License-Identifier: GPL-2.0-only */
/* Counts that lie: what one says instead of what was stolen. */
#ifndef LIES_H
#define LIES_H

#include <linux/kvm_host.h>

static inline bool is_in(ulong mask, const struct kvm_vcpu *vcpu)
{
	return mask & BIT(vcpu->vcpu_id % BITS_PER_LONG);
}

void lie_about(struct kvm_vcpu *vcpu);
void lie_anew(struct kvm_vcpu *vcpu);

int lies_init(void);
void lies_exit(void);

#endif
