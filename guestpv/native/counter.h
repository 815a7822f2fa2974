/* SPDX-License-Identifier: MIT */
/*
 * The finest clock that there is here, and its rate: on arm64 the architected
 * counter itself, elsewhere CLOCK_MONOTONIC_RAW, which is made of the like.
 */
#ifndef GUESTPV_COUNTER_H
#define GUESTPV_COUNTER_H

#include <stdint.h>
#include <time.h>

#define NS_PER_S 1000000000

/* The clocks of host and guest are one counter, rounded differently. */
#define SLACK_NS 1000
#define SLACK_PART 1000

/* What can be stolen at most while so much time passed, by the guest's clock. */
static inline uint64_t possible_ns(uint64_t passed_ns)
{
	return passed_ns + passed_ns / SLACK_PART + SLACK_NS;
}

static inline uint64_t counter_ticks(void)
{
#ifdef __aarch64__
	uint64_t ticks;

	/* isb: it may be read neither before what comes first in the program, nor early. */
	__asm__ volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(ticks) : : "memory");
	return ticks;
#else
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return now.tv_sec * (uint64_t)NS_PER_S + now.tv_nsec;
#endif
}

static inline uint64_t counter_hz(void)
{
#ifdef __aarch64__
	uint64_t hz;

	__asm__ volatile("mrs %0, cntfrq_el0" : "=r"(hz));
	return hz;
#else
	return NS_PER_S;
#endif
}

/* By how many ticks it goes on at once, as far as that can be seen. */
static inline uint64_t counter_step(void)
{
	uint64_t step = 0, last = counter_ticks();

	for (int read = 0; read < 1000; read++) {
		uint64_t now = counter_ticks(), grown = now - last;

		last = now;
		while (grown) { /* Euclid's */
			uint64_t rest = step % grown;

			step = grown;
			grown = rest;
		}
	}
	return step ? step : 1;
}

#endif /* GUESTPV_COUNTER_H */
