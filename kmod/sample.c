// SPDX-License-Identifier: GPL-2.0-only
/*
 * The ordered read of one structure: steps 3 to 5 of uapi/guestpv.h. The step
 * around them, the index's sequence, is for readers that do not hold its lock.
 */
#include <asm/barrier.h>

#include "core.h"

/* A hypervisor that changes revision or attributes all the time is not waited for. */
#define GUESTPV_SAMPLE_TRIES 100

/**
 * guestpv_sample() - read a structure
 * @st: where it is mapped
 * @sample: what it says
 *
 * Return: whether revision and attributes were the same before and after the
 * count was read; if not, @sample means nothing.
 */
bool guestpv_sample(const struct guestpv_stolen_time *st, struct guestpv_sample *sample)
{
	const __le64 *word = (const __le64 *)st;
	__le64 before, count;
	unsigned int tries;

	for (tries = 0; tries < GUESTPV_SAMPLE_TRIES; tries++) {
		/* Acquire: before the count. Pairs with the order of the hypervisor's stores. */
		before = smp_load_acquire(word);
		/* Acquire: before the second load of the word. Pairs with the same. */
		count = smp_load_acquire(&st->stolen_time);
		if (READ_ONCE(*word) != before)
			continue;
		sample->word = le64_to_cpu(before);
		sample->stolen_ns = le64_to_cpu(count);
		return true;
	}
	return false;
}
