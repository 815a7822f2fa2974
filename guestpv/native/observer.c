/* SPDX-License-Identifier: MIT */
#include "observer.h"

#include <stdbool.h>
#include <time.h>

#define OTHER_EVERY 16 /* samples of the own count for one of another's */

/* The clocks of host and guest are one counter, rounded differently. */
#define SLACK_NS 1000
#define SLACK_PART 1000

/* Who writes a count in two parts may lose its CPU between them. */
#define BACK_WITHIN_NS 50000000

/* A count between two readings of the clock: it was read in [.before_ns, next one's .before_ns] */
struct point {
	uint64_t before_ns;
	uint64_t count;
	uint32_t epoch;
};

/* A step that can't be: from which count, and when. */
struct jump {
	uint64_t from;
	uint64_t at_ns; /* 0: there was none */
};

struct observer {
	const struct observe_args *args;
	struct observation *sum;
	struct point last; /* the last count that may be interpreted */
	bool have_last;
	uint64_t last_grown_ns; /* in the step that ended with .last */
	struct jump up, down;
	uint64_t open_gap_ns; /* ended with .last's step; what was stolen in it is not all known yet */
	struct sample other;
};

static uint64_t raw_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_RAW, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/*
 * Up or down by more than can be, and soon back to where it was, or on from there: between the
 * two stood half of one value and half of another. Takes note of a jump for the one that may follow.
 */
static void add_jump(struct observer *observer, struct jump *this, struct jump *opposite,
		     const struct point *now)
{
	struct observation *sum = observer->sum;

	if (opposite->at_ns && now->before_ns - opposite->at_ns < BACK_WITHIN_NS &&
	    now->count >= opposite->from) {
		if (!sum->torn++)
			sum->torn_ns = observer->last.count;
		opposite->at_ns = 0;
		return;
	}
	*this = (struct jump) { observer->last.count, now->before_ns };
}

static void add_decrease(struct observer *observer, const struct point *now)
{
	struct observation *sum = observer->sum;

	if (!sum->decreases++) {
		sum->decrease_from_ns = observer->last.count;
		sum->decrease_to_ns = now->count;
	}
	add_jump(observer, &observer->down, &observer->up, now);
}

/* What the count grew by; 0 if that can't be. */
static uint64_t growth(struct observer *observer, const struct point *now, uint64_t bracket_ns)
{
	struct observation *sum = observer->sum;
	uint64_t grown_ns = now->count - observer->last.count;
	uint64_t possible_ns = bracket_ns + bracket_ns / SLACK_PART + SLACK_NS;

	sum->advances += grown_ns > 0;
	if (grown_ns <= possible_ns)
		return grown_ns;
	sum->leaps++;
	if (grown_ns - possible_ns > sum->leap_ns) {
		sum->leap_ns = grown_ns - possible_ns;
		sum->leap_within_ns = bracket_ns;
	}
	add_jump(observer, &observer->up, &observer->down, now);
	return 0;
}

/* What was stolen in a gap is in the count before its end, or in the one after. */
static void close_gap(struct observer *observer, uint64_t grown_ns)
{
	struct observation *sum = observer->sum;
	uint64_t gap_ns = observer->open_gap_ns;
	uint64_t stolen_ns = observer->last_grown_ns + grown_ns;

	if (gap_ns > sum->longest_ns)
		sum->longest_ns = gap_ns;
	if (gap_ns > stolen_ns && gap_ns - stolen_ns > sum->unaccounted_ns)
		sum->unaccounted_ns = gap_ns - stolen_ns;
	observer->open_gap_ns = 0;
}

/*
 * From the last count to this one. The clock was read before the last
 * (.last.before_ns), between the two (@now.before_ns) and after this (@after_ns).
 */
static void step(struct observer *observer, const struct point *now, uint64_t after_ns)
{
	struct observation *sum = observer->sum;
	uint64_t bracket_ns = after_ns - observer->last.before_ns;
	uint64_t interval_ns = after_ns - now->before_ns;
	uint64_t gap_ns = observer->args->gap_ns;
	uint64_t grown_ns = 0;

	if (bracket_ns < sum->step_ns)
		sum->step_ns = bracket_ns;
	if (now->count < observer->last.count)
		add_decrease(observer, now);
	else
		grown_ns = growth(observer, now, bracket_ns);

	if (interval_ns >= gap_ns || observer->open_gap_ns)
		sum->gaps_stolen_ns += grown_ns;
	else if (grown_ns > bracket_ns - sum->step_ns)
		sum->quiet_excess_ns += grown_ns - (bracket_ns - sum->step_ns);
	if (observer->open_gap_ns)
		close_gap(observer, grown_ns);
	if (interval_ns >= gap_ns) {
		sum->gaps++;
		sum->gaps_ns += interval_ns;
		observer->open_gap_ns = interval_ns;
	} else {
		sum->quiet_ns += interval_ns;
	}
	observer->last_grown_ns = grown_ns;
}

static void start_afresh(struct observer *observer)
{
	observer->have_last = false;
	observer->open_gap_ns = 0;
	observer->last_grown_ns = 0;
	observer->up.at_ns = 0;
	observer->down.at_ns = 0;
}

static void add_sample(struct observer *observer, const struct sample *sample, uint64_t before_ns,
		       uint64_t after_ns)
{
	struct point now = { before_ns, sample->stolen_ns, sample->epoch };
	struct observation *sum = observer->sum;

	if (!sample->present || !sample->online || sample->word) {
		sum->absent += !sample->present || !sample->online;
		sum->unknown += sample->word != 0;
		/* The first of each, revision and attributes: no mixture. */
		if (!(uint32_t)sum->unknown_word)
			sum->unknown_word |= (uint32_t)sample->word;
		if (!(sum->unknown_word >> 32))
			sum->unknown_word |= sample->word >> 32 << 32;
		start_afresh(observer);
		return;
	}
	if (observer->have_last && now.epoch != observer->last.epoch) {
		sum->restarts++;
		start_afresh(observer);
	}
	if (observer->have_last)
		step(observer, &now, after_ns);
	else if (!sum->looks)
		sum->first_ns = now.count;
	observer->last = now;
	observer->have_last = true;
	sum->last_ns = now.count;
	sum->looks++;
}

static enum outcome sample_other(struct observer *observer, struct pages *pages)
{
	struct observation *sum = observer->sum;
	struct sample now, *last = &observer->other;
	enum outcome outcome = pages_read(pages, observer->args->other, &now);

	if (outcome != OK)
		return outcome;
	if (!now.online) {
		/* Only while it is online can its own thread be looking, too. */
		last->present = false;
	} else if (now.present && !now.word) {
		sum->other_looks++;
		if (last->present && last->epoch == now.epoch) {
			sum->other_advances += now.stolen_ns > last->stolen_ns;
			sum->other_decreases += now.stolen_ns < last->stolen_ns;
		}
		*last = now;
	}
	return OK;
}

enum outcome observe(struct pages *pages, const struct observe_args *args,
		     struct observation *observation)
{
	struct observer observer = { .args = args, .sum = observation };
	uint64_t before_ns = raw_ns(), until_ns = before_ns + args->duration_ns;
	enum outcome outcome = OK;
	bool over = false;

	*observation = (struct observation) {
		.cpu = args->cpu,
		.other = args->other,
		.began_ns = before_ns,
		.step_ns = UINT64_MAX,
	};
	for (uint64_t round = 1; !over && !*args->stop; round++) {
		struct sample sample;
		uint64_t after_ns;

		/* What was stolen in a gap at the end is in the sample after it. */
		over = before_ns >= until_ns;
		if (over && !observer.open_gap_ns)
			break;
		outcome = pages_read(pages, args->cpu, &sample);
		after_ns = raw_ns();
		if (outcome == OK)
			add_sample(&observer, &sample, before_ns, after_ns);
		before_ns = after_ns;
		if (outcome == OK && round % OTHER_EVERY == 0)
			outcome = sample_other(&observer, pages);
		if (outcome == BUSY)
			observation->busy++;
		else if (outcome != OK)
			return outcome;
	}
	observation->ended_ns = before_ns;
	return OK;
}
