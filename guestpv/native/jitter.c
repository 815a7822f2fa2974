/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* RUSAGE_THREAD, sched_getcpu() */
#include "jitter.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "counter.h"

/* How often to look at what changes seldom, or is for those who watch. */
#define SELDOM 65536

/* How many looks to wait for the end of the last gap, where one follows upon the other. */
#define LAST_GAP 1000

/* Of how many measurements the shortest says what one takes: caches and clock rates change. */
#define RECENT 8

/* What the scheduler says of this thread. */
struct usage {
	uint64_t voluntary, involuntary;
	uint64_t waited_ns;
};

/* A look: the count was read between these ticks and the next look's. */
struct look {
	uint64_t ticks;
	uint64_t count;
	uint64_t breaks; /* another one: the two counts are not of one piece */
};

/* What it takes to measure a gap, lately. */
struct cost {
	uint64_t ticks[RECENT];
	unsigned int next;
};

struct loop {
	struct pages *pages;
	const struct jitter_args *args;
	struct tally *tally;
	uint64_t hz;
	uint64_t anchor_ticks, anchor_ns; /* one time by both clocks */
	struct look before, last;
	uint64_t breaks;
	uint32_t epoch;
	bool countable;
	struct {
		uint64_t began;
		uint64_t length; /* 0: there is none */
		struct look from; /* before it */
	} gap;
	int schedstat;
	struct usage usage; /* when the last gap ended */
	struct cost costs[2]; /* without and with a file to be read */
};

static uint64_t to_ns(const struct loop *loop, uint64_t ticks)
{
	return (unsigned __int128)ticks * NS_PER_S / loop->hz;
}

static uint64_t to_ticks(const struct loop *loop, uint64_t ns)
{
	return (unsigned __int128)ns * loop->hz / NS_PER_S;
}

/* CLOCK_MONOTONIC at a time by the counter, which runs at nearly the same rate. */
static uint64_t monotonic_ns(const struct loop *loop, uint64_t ticks)
{
	if (ticks < loop->anchor_ticks)
		return loop->anchor_ns - to_ns(loop, loop->anchor_ticks - ticks);
	return loop->anchor_ns + to_ns(loop, ticks - loop->anchor_ticks);
}

/* Unless this is interrupted itself; then the last anchor is the better one. */
static void set_anchor(struct loop *loop)
{
	uint64_t before = counter_ticks(), after;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	after = counter_ticks();
	if (loop->anchor_ns && after - before >= loop->args->threshold)
		return;
	loop->anchor_ticks = before + (after - before) / 2;
	loop->anchor_ns = now.tv_sec * (uint64_t)NS_PER_S + now.tv_nsec;
}

/* UINT64_MAX if the kernel does not say (CONFIG_SCHED_INFO). */
static uint64_t waited_ns(const struct loop *loop)
{
	char text[80], *end;
	ssize_t size = pread(loop->schedstat, text, sizeof(text) - 1, 0);

	if (size <= 0)
		return UINT64_MAX;
	text[size] = '\0';
	strtoull(text, &end, 10); /* how long it ran */
	return strtoull(end, NULL, 10);
}

/* A thread that was not switched out did not wait, so that most gaps need no file to be read. */
static bool update_usage(struct loop *loop, bool read_anyway)
{
	struct usage *usage = &loop->usage;
	struct rusage now;
	bool switched;

	if (getrusage(RUSAGE_THREAD, &now))
		return false;
	switched = read_anyway || usage->voluntary != (uint64_t)now.ru_nvcsw ||
		   usage->involuntary != (uint64_t)now.ru_nivcsw;
	usage->voluntary = now.ru_nvcsw;
	usage->involuntary = now.ru_nivcsw;
	if (switched)
		usage->waited_ns = waited_ns(loop);
	return switched;
}

static void add_cost(struct cost *cost, uint64_t ticks)
{
	cost->ticks[cost->next++ % RECENT] = ticks;
}

static uint64_t least_cost(const struct cost *cost)
{
	uint64_t least = cost->ticks[0];

	for (int nr = 1; nr < RECENT; nr++)
		if (cost->ticks[nr] < least)
			least = cost->ticks[nr];
	return least;
}

static void learn_costs(struct loop *loop)
{
	for (int nr = 0; nr < 2 * RECENT; nr++) {
		uint64_t began = counter_ticks();

		set_anchor(loop);
		update_usage(loop, nr % 2);
		add_cost(&loop->costs[nr % 2], counter_ticks() - began);
	}
}

/*
 * How long it waited in the gap that has just ended. A wait that is shorter than
 * a gap is seen only with the next one: so much of what was waited may be from before.
 */
static void set_waited(struct loop *loop, struct noise_gap *gap, const struct usage *before)
{
	const struct usage *now = &loop->usage;
	uint64_t waited = now->waited_ns - before->waited_ns, from_before;

	gap->voluntary = now->voluntary - before->voluntary;
	gap->involuntary = now->involuntary - before->involuntary;
	if (!gap->voluntary && !gap->involuntary)
		return;
	if (now->waited_ns == UINT64_MAX || before->waited_ns == UINT64_MAX) {
		gap->waited_most_ns = gap->length_ns;
		return;
	}
	from_before = (gap->voluntary + gap->involuntary) * to_ns(loop, loop->args->threshold);
	gap->waited_most_ns = waited < gap->length_ns ? waited : gap->length_ns;
	gap->waited_least_ns = waited > from_before ? waited - from_before : 0;
	if (gap->waited_least_ns > gap->length_ns)
		gap->waited_least_ns = gap->length_ns;
}

static bool is_possible(const struct loop *loop, uint64_t grown_ns, uint64_t ticks)
{
	return grown_ns <= possible_ns(to_ns(loop, ticks));
}

/* What was stolen in a gap is in the count after it, which was read before @now. */
static void set_stolen(struct loop *loop, struct noise_gap *gap, uint64_t now)
{
	const struct look *from = &loop->gap.from, *to = &loop->last;
	uint64_t grown_ns = to->count - from->count;

	if (loop->pages && !loop->tally->noise->left_ns && from->breaks == to->breaks) {
		if (is_possible(loop, grown_ns, now - from->ticks)) {
			gap->stolen_most_ns = grown_ns < gap->length_ns ? grown_ns : gap->length_ns;
			gap->stolen_least_ns = gap->stolen_most_ns;
			return;
		}
		tally_add_late(loop->tally, grown_ns);
	}
	loop->tally->noise->unknown++;
	gap->stolen_most_ns = gap->length_ns;
}

static void check_cpu(struct loop *loop, uint64_t now)
{
	struct noise *noise = loop->tally->noise;
	int cpu = sched_getcpu();

	if (cpu >= 0 && (uint32_t)cpu != loop->args->cpu && !noise->left_ns)
		noise->left_ns = monotonic_ns(loop, now);
}

/* Returns which of the costs this will have had. */
static int end_gap(struct loop *loop, uint64_t now)
{
	struct usage before = loop->usage;
	struct noise_gap gap = { .length_ns = to_ns(loop, loop->gap.length) };
	bool switched;

	set_anchor(loop);
	switched = update_usage(loop, false);
	check_cpu(loop, now);
	gap.began_ns = monotonic_ns(loop, loop->gap.began);
	set_waited(loop, &gap, &before);
	set_stolen(loop, &gap, now);
	loop->gap.length = 0;
	tally_add(loop->tally, &gap);
	if (loop->args->limit_ns && gap.length_ns >= loop->args->limit_ns)
		*loop->args->stop = 1;
	return switched;
}

/* The count grew while nothing was missing: within a time that is shorter than a gap, or late. */
static void add_growth(struct loop *loop, uint64_t now)
{
	uint64_t grown_ns = loop->last.count - loop->before.count;

	if (loop->last.breaks != loop->before.breaks)
		return;
	if (is_possible(loop, grown_ns, now - loop->before.ticks))
		loop->tally->noise->short_stolen_ns += grown_ns;
	else
		tally_add_late(loop->tally, grown_ns);
}

static enum outcome read_sample(struct loop *loop, struct sample *sample)
{
	if (pages_read_now(loop->pages, loop->args->cpu, sample))
		return OK;
	return pages_read(loop->pages, loop->args->cpu, sample);
}

/* The count as it is now; where it does not go on from the last, nothing is known of between. */
static enum outcome look(struct loop *loop, uint64_t now)
{
	struct look *last = &loop->last;
	enum outcome outcome;
	struct sample sample;
	bool countable;

	loop->before = *last;
	last->ticks = now;
	if (!loop->pages)
		return OK;
	outcome = read_sample(loop, &sample);
	if (outcome != OK && outcome != BUSY)
		return outcome;
	countable = outcome == OK && sample.present && sample.online && !sample.word;
	if (!countable || !loop->countable || sample.epoch != loop->epoch ||
	    sample.stolen_ns < last->count) {
		loop->tally->noise->restarts += countable && loop->countable;
		last->breaks = ++loop->breaks;
	}
	loop->countable = countable;
	if (countable) {
		loop->epoch = sample.epoch;
		last->count = sample.stolen_ns;
	}
	return OK;
}

static void publish(struct loop *loop, uint64_t looks, uint64_t shortest)
{
	struct noise *noise = loop->tally->noise;

	noise->looks = looks;
	noise->shortest_ns = shortest == UINT64_MAX ? 0 : to_ns(loop, shortest);
	noise->ended_ns = monotonic_ns(loop, loop->last.ticks);
}

static enum outcome run(struct loop *loop)
{
	const uint64_t threshold = loop->args->threshold;
	uint64_t until, looks = 0, shortest = UINT64_MAX, own = 0;
	struct cost *measured = NULL; /* if this look comes after the measurement of a gap */
	enum outcome outcome;
	int waiting = 0;

	outcome = look(loop, counter_ticks());
	if (outcome == OK) /* so that there is one before the last from the beginning */
		outcome = look(loop, counter_ticks());
	loop->tally->noise->began_ns = monotonic_ns(loop, loop->last.ticks);
	until = loop->last.ticks + to_ticks(loop, loop->args->duration_ns);
	while (outcome == OK) {
		uint64_t now = counter_ticks();
		uint64_t taken = now - loop->last.ticks;
		uint64_t length = taken > own ? taken - own : 0;

		looks++;
		if (measured) {
			loop->tally->noise->measuring_ns += to_ns(loop, taken - length);
			add_cost(measured, taken);
		} else if (taken < shortest) {
			shortest = taken;
		}
		measured = NULL;
		own = 0;

		if (length >= threshold) {
			if (!loop->gap.length) {
				loop->gap.began = loop->last.ticks;
				loop->gap.from = loop->before;
			}
			loop->gap.length += length;
		} else if (loop->gap.length) {
			measured = &loop->costs[end_gap(loop, now)];
			own = least_cost(measured);
		} else if (loop->last.count != loop->before.count) {
			add_growth(loop, now);
		}

		if (looks % SELDOM == 0 || measured) {
			check_cpu(loop, now);
			publish(loop, looks, shortest);
		}
		if ((now >= until || *loop->args->stop || loop->tally->noise->left_ns) &&
		    (!loop->gap.length || ++waiting > LAST_GAP))
			break;
		outcome = look(loop, now);
	}
	if (loop->gap.length)
		end_gap(loop, counter_ticks());
	publish(loop, looks, shortest);
	return outcome;
}

enum outcome jitter(struct pages *pages, const struct jitter_args *args, struct tally *tally)
{
	struct loop loop = {
		.pages = pages,
		.args = args,
		.tally = tally,
		.hz = counter_hz(),
		.schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC),
	};
	enum outcome outcome;

	tally->noise->cpu = args->cpu;
	learn_costs(&loop);
	outcome = run(&loop);
	if (loop.schedstat >= 0)
		close(loop.schedstat);
	return outcome;
}
