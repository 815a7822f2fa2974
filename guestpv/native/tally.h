/* SPDX-License-Identifier: MIT */
/*
 * What is kept of the gaps of a thread, in memory that does not grow: each is in
 * the sums and in a log-linear histogram, and the worst are kept as they were.
 */
#ifndef GUESTPV_TALLY_H
#define GUESTPV_TALLY_H

#include <stddef.h>
#include <stdint.h>

/* Each power of two is divided into so many buckets, as HdrHistogram does. */
#define TALLY_LINEAR_BITS 5
#define TALLY_BUCKETS ((65 - TALLY_LINEAR_BITS) << TALLY_LINEAR_BITS)

/* A row of guestpv.latency.jitter.GAP, which says what each figure is. */
struct noise_gap {
	uint64_t cpu, number;
	uint64_t began_ns, length_ns;
	uint64_t stolen_least_ns, stolen_most_ns;
	uint64_t waited_least_ns, waited_most_ns;
	uint64_t queue_least_ns, queue_most_ns;
	uint64_t other_least_ns, other_most_ns;
	uint64_t voluntary, involuntary;
};

/* A row of guestpv.latency.jitter.NOISE, which says what each figure is. */
struct noise {
	uint64_t cpu;
	uint64_t began_ns, ended_ns;
	uint64_t looks, shortest_ns, measuring_ns;
	uint64_t gaps, gaps_ns, longest_ns;
	uint64_t stolen_least_ns, stolen_most_ns;
	uint64_t queue_least_ns, queue_most_ns;
	uint64_t other_least_ns, other_most_ns;
	uint64_t voluntary, involuntary;
	uint64_t unknown, restarts, late, late_ns;
	uint64_t short_stolen_ns;
	uint64_t left_ns;
};

struct tally {
	struct noise *noise;
	uint64_t *histogram; /* TALLY_BUCKETS of them */
	struct noise_gap *worst; /* the longest first; those of no length are free */
	size_t nr_worst;
	uint64_t owed_ns; /* was missing in gaps, and is not in the count yet */
	uint64_t owed_since; /* the number of the first of them */
};

/* In which bucket a length is: itself while it is small, else by its leading bits. */
static inline unsigned int tally_bucket(uint64_t ns)
{
	unsigned int highest = 63 - __builtin_clzll(ns | 1);
	unsigned int shift = highest > TALLY_LINEAR_BITS ? highest - TALLY_LINEAR_BITS : 0;

	return (shift << TALLY_LINEAR_BITS) + (ns >> shift);
}

/*
 * Add a gap of which length, stolen time, waiting and switches are known or bounded;
 * its number and its other parts are set here.
 */
void tally_add(struct tally *tally, struct noise_gap *gap);

/* The count grew by more than can have been stolen just then: some may be of gaps before. */
void tally_add_late(struct tally *tally, uint64_t grown_ns);

#endif /* GUESTPV_TALLY_H */
