/* SPDX-License-Identifier: MIT */
/*
 * A thread that does nothing but read the counter, and for each gap in its time
 * finds out whose it was: the hypervisor's, by the count of the vCPU; the guest's
 * own run queue's, by what the scheduler says; or neither's.
 *
 * observer.c has a loop, too, by which `validate` judges the counts themselves.
 * Here the counts are taken as they are, and the loop is as tight as it can be.
 */
#ifndef GUESTPV_JITTER_H
#define GUESTPV_JITTER_H

#include <stdint.h>

#include "pages.h"
#include "tally.h"

struct jitter_args {
	uint32_t cpu; /* that the thread is pinned to */
	uint64_t duration_ns;
	uint64_t threshold; /* ticks between two looks from which on it is a gap */
	uint64_t limit_ns; /* the first gap as long as this ends all; 0: none does */
	volatile char *stop; /* of all threads; not zero: come back at once */
};

/*
 * What is not OK ended it early. @pages is of the calling thread alone, or NULL
 * where there is nothing to know what was stolen by. The tally begins with zeros, and
 * is written while others look at it: each figure is one aligned word, and together
 * they are of one time when this is over.
 */
enum outcome jitter(struct pages *pages, const struct jitter_args *args, struct tally *tally);

#endif /* GUESTPV_JITTER_H */
