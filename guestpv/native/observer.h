/* SPDX-License-Identifier: MIT */
/*
 * A thread that does nothing but sample the clock and the count of the vCPU that
 * it is pinned to. Time that passes between two samples was taken from it, and
 * what the count grew by meanwhile must fit into that time. This needs nobody's
 * word on the host.
 */
#ifndef GUESTPV_OBSERVER_H
#define GUESTPV_OBSERVER_H

#include <stdint.h>

#include "pages.h"

struct observe_args {
	uint32_t cpu; /* that the thread is pinned to */
	uint32_t other; /* whose count is sampled from here now and then */
	uint64_t duration_ns;
	uint64_t gap_ns; /* time between two samples from which on it is called a gap */
	uint64_t long_ns; /* how long a gap must be to be logged */
	const volatile char *stop; /* not zero: come back at once */
	struct long_gap *log; /* if there are more of them, a random choice of all */
	uint64_t log_size;
};

/* A row of guestpv.latency.observation.LONG_GAP, which says what each figure is. */
struct long_gap {
	uint64_t cpu;
	uint64_t began_ns, length_ns;
	uint64_t stolen_ns;
	uint64_t switches;
};

/* A row of guestpv.latency.observation.OBSERVATION, which says what each figure is. */
struct observation {
	uint64_t cpu, other;
	uint64_t began_ns, ended_ns;
	uint64_t looks, step_ns;
	uint64_t first_ns, last_ns, advances;
	uint64_t decreases, decrease_from_ns, decrease_to_ns;
	uint64_t leaps, leap_ns, leap_within_ns;
	uint64_t torn, torn_ns;
	uint64_t unknown, unknown_word;
	uint64_t absent, busy, restarts;
	uint64_t gaps, gaps_ns, gaps_stolen_ns;
	uint64_t longest_ns, unaccounted_ns, long_gaps;
	uint64_t quiet_ns, quiet_excess_ns;
	uint64_t quick_ns, quick_advances, quick_grown_ns;
	uint64_t late, late_ns;
	uint64_t other_looks, other_advances, other_decreases;
};

/* What is not OK ended it early. @pages is of the calling thread alone. */
enum outcome observe(struct pages *pages, const struct observe_args *args,
		     struct observation *observation);

#endif /* GUESTPV_OBSERVER_H */
