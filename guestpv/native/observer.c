/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* RUSAGE_THREAD */
#include "observer.h"

#include <stdbool.h>
#include <sys/resource.h>
#include <time.h>

#include "counter.h"

#define OTHER_EVERY 16 /* samples of the own count for one of another's */

/* Who writes a count in two parts may lose its CPU between them. */
#define BACK_WITHIN_NS 50000000

/*
 * A step that takes so little more than the shortest leaves time for a cache
 * miss, and none to leave the guest, run something else and come back.
 */
#define QUICK_NS 500
#define WARM_UP 1000 /* samples until the shortest is known */

/* Gaps of this part of a long one may be somebody else's turn. To ask is a system call. */
#define SWITCHED_PART 10

/* How long to wait for the end of the last gap where one follows upon the other. */
#define LAST_GAP_NS 1000000000

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
	struct jump up, down;
	struct gap {
		uint64_t began_ns;
		uint64_t length_ns; /* 0: there is none */
		uint64_t from; /* the count before it */
		bool broken; /* the count went back in it */
	} gap; /* that the last sample was taken in */
	uint64_t owed_ns; /* was missing in gaps, and is not in the count yet */
	uint64_t owed_since_ns; /* the end of the first of them */
	uint64_t switches; /* from the thread to something else of the guest, when the last gap ended */
	uint64_t random;
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

/* No more than what is owed? Then it was stolen, and is told only now. */
static void add_late(struct observer *observer, const struct point *now, uint64_t grown_ns)
{
	struct observation *sum = observer->sum;
	uint64_t late_ns = now->before_ns - observer->owed_since_ns;

	if (observer->owed_ns && grown_ns <= observer->owed_ns + SLACK_NS) {
		sum->late++;
		if (late_ns > sum->late_ns)
			sum->late_ns = late_ns;
	}
	observer->owed_ns = 0;
}

/* What the count grew by; 0 if that can't be. */
static uint64_t growth(struct observer *observer, const struct point *now, uint64_t bracket_ns)
{
	struct observation *sum = observer->sum;
	uint64_t grown_ns = now->count - observer->last.count;
	uint64_t most_ns = possible_ns(bracket_ns);

	sum->advances += grown_ns > 0;
	if (grown_ns <= most_ns)
		return grown_ns;
	sum->leaps++;
	add_late(observer, now, grown_ns);
	if (grown_ns - most_ns > sum->leap_ns) {
		sum->leap_ns = grown_ns - most_ns;
		sum->leap_within_ns = bracket_ns;
	}
	add_jump(observer, &observer->up, &observer->down, now);
	return 0;
}

/* How often this thread was switched out. */
static uint64_t switches(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_THREAD, &usage))
		return 0;
	return usage.ru_nvcsw + usage.ru_nivcsw;
}

/* Each has the same chance to be in the log, however many come (Vitter's algorithm R). */
static void log_gap(struct observer *observer, const struct long_gap *gap)
{
	const struct observe_args *args = observer->args;
	uint64_t place = observer->sum->long_gaps++;

	if (place >= args->log_size) {
		/* xorshift64: any will do that has no period the host's scheduler might share */
		observer->random ^= observer->random << 13;
		observer->random ^= observer->random >> 7;
		observer->random ^= observer->random << 17;
		place = observer->random % (place + 1);
	}
	if (place < args->log_size)
		args->log[place] = *gap;
}

/* A gap that is counted for the most part shows that nothing is owed. */
static void add_owed(struct observer *observer, const struct long_gap *gap)
{
	if (gap->stolen_ns >= gap->length_ns / 2) {
		observer->owed_ns = 0;
		return;
	}
	if (!observer->owed_ns)
		observer->owed_since_ns = gap->began_ns + gap->length_ns;
	observer->owed_ns += gap->length_ns - gap->stolen_ns;
}

/*
 * What was stolen in a gap may be in the count that was sampled in it, and is in
 * the first one after it, @count.
 */
static void end_gap(struct observer *observer, uint64_t count)
{
	struct observation *sum = observer->sum;
	struct long_gap gap = {
		.cpu = sum->cpu,
		.began_ns = observer->gap.began_ns,
		.length_ns = observer->gap.length_ns,
		.stolen_ns = count - observer->gap.from,
	};

	observer->gap.length_ns = 0;
	if (gap.length_ns > sum->longest_ns)
		sum->longest_ns = gap.length_ns;
	if (gap.length_ns >= observer->args->long_ns / SWITCHED_PART) {
		uint64_t now = switches();

		gap.switches = now - observer->switches;
		observer->switches = now;
	}
	if (observer->gap.broken)
		return;
	add_owed(observer, &gap);
	if (gap.length_ns > gap.stolen_ns && gap.length_ns - gap.stolen_ns > sum->unaccounted_ns)
		sum->unaccounted_ns = gap.length_ns - gap.stolen_ns;
	if (gap.length_ns >= observer->args->long_ns)
		log_gap(observer, &gap);
}

/*
 * From the last count to this one. The clock was read before the last
 * (.last.before_ns), between the two (@now.before_ns) and after this (@after_ns).
 * One gap after another is one.
 */
static void step(struct observer *observer, const struct point *now, uint64_t after_ns)
{
	struct observation *sum = observer->sum;
	struct gap *gap = &observer->gap;
	uint64_t bracket_ns = after_ns - observer->last.before_ns;
	uint64_t interval_ns = after_ns - now->before_ns;
	bool is_gap = interval_ns >= observer->args->gap_ns;
	uint64_t grown_ns = 0;

	if (bracket_ns < sum->step_ns)
		sum->step_ns = bracket_ns;
	if (now->count < observer->last.count)
		add_decrease(observer, now);
	else
		grown_ns = growth(observer, now, bracket_ns);

	if (is_gap || gap->length_ns)
		sum->gaps_stolen_ns += grown_ns;
	else if (grown_ns > bracket_ns - sum->step_ns)
		sum->quiet_excess_ns += grown_ns - (bracket_ns - sum->step_ns);

	if (bracket_ns < sum->step_ns + QUICK_NS && sum->looks > WARM_UP) {
		sum->quick_ns += interval_ns;
		sum->quick_advances += now->count > observer->last.count;
		sum->quick_grown_ns += grown_ns;
	}

	if (is_gap) {
		if (!gap->length_ns)
			*gap = (struct gap) { now->before_ns, 0, observer->last.count, false };
		gap->length_ns += interval_ns;
		sum->gaps++;
		sum->gaps_ns += interval_ns;
	} else {
		sum->quiet_ns += interval_ns;
	}
	gap->broken |= now->count < observer->last.count;
	if (!is_gap && gap->length_ns)
		end_gap(observer, now->count);
}

static void start_afresh(struct observer *observer)
{
	observer->have_last = false;
	observer->gap.length_ns = 0;
	observer->owed_ns = 0;
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

/* What was stolen in a gap at the end is in the sample after it. */
static bool is_over(const struct observer *observer, uint64_t now_ns, uint64_t until_ns)
{
	if (*observer->args->stop)
		return true;
	if (now_ns < until_ns)
		return false;
	return !observer->gap.length_ns || now_ns - until_ns > LAST_GAP_NS;
}

enum outcome observe(struct pages *pages, const struct observe_args *args,
		     struct observation *observation)
{
	struct observer observer = { .args = args, .sum = observation, .switches = switches() };
	uint64_t before_ns = raw_ns(), until_ns = before_ns + args->duration_ns;
	enum outcome outcome = OK;

	*observation = (struct observation) {
		.cpu = args->cpu,
		.other = args->other,
		.began_ns = before_ns,
		.step_ns = UINT64_MAX,
	};
	observer.random = before_ns | 1;
	for (uint64_t round = 1; !is_over(&observer, before_ns, until_ns); round++) {
		struct sample sample;
		uint64_t after_ns;

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
