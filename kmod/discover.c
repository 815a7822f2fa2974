// SPDX-License-Identifier: GPL-2.0-only
/*
 * Discovery: SMCCC 1.1 -> ARCH_FEATURES -> PV_TIME_FEATURES -> the number of
 * PV_TIME_ST (Arm DEN0028 and DEN0057A). Every raw return value is kept.
 */
#include <linux/arm-smccc.h>
#include <linux/errno.h>

#include "core.h"

u32 guestpv_discover_conduit(void)
{
	switch (arm_smccc_1_1_get_conduit()) {
	case SMCCC_CONDUIT_SMC:
		return GUESTPV_CONDUIT_SMC;
	case SMCCC_CONDUIT_HVC:
		return GUESTPV_CONDUIT_HVC;
	default:
		return GUESTPV_CONDUIT_NONE;
	}
}

static s64 guestpv_call(u32 function, u32 argument)
{
	struct arm_smccc_res res;

	arm_smccc_1_1_invoke(function, argument, &res);
	return res.a0;
}

static s64 guestpv_features(u32 number)
{
	return guestpv_call(GUESTPV_PV_TIME_FEATURES, number);
}

/*
 * ARCH_FEATURES returns an int32; the upper half of the register is not defined.
 * PV_TIME_FEATURES returned an int32 in the draft and an int64 as merged: only a
 * zero register is a success in both, whatever form a refusal has.
 */
static bool guestpv_arch_features_ok(s64 ret)
{
	return (s32)ret >= 0;
}

static bool guestpv_pv_features_ok(s64 ret)
{
	return ret == 0;
}

/* What is known of a CPU whose hypervisor was not asked. */
void guestpv_discover_nothing(struct guestpv_entry *entry)
{
	entry->st_call = 0;
	entry->arch_features = GUESTPV_NOT_CALLED;
	entry->features_self = GUESTPV_NOT_CALLED;
	entry->features_st = GUESTPV_NOT_CALLED;
	entry->features_st_draft = GUESTPV_NOT_CALLED;
	entry->st_return = GUESTPV_NOT_CALLED;
	entry->features_undefined = GUESTPV_NOT_CALLED;
	entry->features_st_smc32 = GUESTPV_NOT_CALLED;
	entry->features_smc32 = GUESTPV_NOT_CALLED;
}

/**
 * guestpv_discover() - ask the hypervisor of this CPU for PV-time
 * @entry: where the raw return values go, and the number of PV_TIME_ST
 *
 * Return: 0; -EOPNOTSUPP if the hypervisor refused; -ENODEV if it can't be asked.
 */
int guestpv_discover(struct guestpv_entry *entry)
{
	guestpv_discover_nothing(entry);
	if (guestpv_discover_conduit() == GUESTPV_CONDUIT_NONE)
		return -ENODEV;

	entry->arch_features = guestpv_call(ARM_SMCCC_ARCH_FEATURES_FUNC_ID,
					    GUESTPV_PV_TIME_FEATURES);
	if (!guestpv_arch_features_ok(entry->arch_features))
		return -EOPNOTSUPP;

	entry->features_self = guestpv_features(GUESTPV_PV_TIME_FEATURES);
	entry->features_st = guestpv_features(GUESTPV_PV_TIME_ST);
	entry->features_st_draft = guestpv_features(GUESTPV_PV_TIME_ST_DRAFT);
	entry->features_undefined = guestpv_features(GUESTPV_PV_TIME_UNDEFINED);
	entry->features_st_smc32 = guestpv_features(GUESTPV_PV_TIME_ST_SMC32);
	entry->features_smc32 = guestpv_call(GUESTPV_PV_TIME_FEATURES_SMC32,
					     GUESTPV_PV_TIME_FEATURES);

	if (guestpv_pv_features_ok(entry->features_st))
		entry->st_call = GUESTPV_PV_TIME_ST;
	else if (guestpv_pv_features_ok(entry->features_st_draft))
		entry->st_call = GUESTPV_PV_TIME_ST_DRAFT;
	else
		return -EOPNOTSUPP;

	return 0;
}
