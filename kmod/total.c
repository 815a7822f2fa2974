// SPDX-License-Identifier: GPL-2.0-only
/*
 * What was stolen from each CPU, as two totals that never fall: the nanoseconds
 * that its counts vouch for, and those of which nobody can tell, since its count
 * started again, or meant nothing. Whatever was stolen in between two readings
 * is at least what the first grew by, and at most what both did.
 *
 * The index looks at a structure from time to time and says whether its count
 * went on. A reading goes on from the last look, and believes a count only if it
 * has grown since then, and by no more than time has passed: what is beyond that
 * the next look will judge.
 *
 * A look comes from any CPU. While the CPU that it is at waits for the host, its
 * count stands still, and has all of the wait in it when the CPU runs again. So
 * the time that may have passed is not that since the look, but that since the
 * count was true.
 */
#include <linux/percpu.h>
#include <linux/sched/clock.h>
#include <linux/seqlock.h>
#include <linux/time64.h>

#include "core.h"

/* Counts and the guest's clock are two clocks: across a migration they need not agree. */
#define GUESTPV_SLACK_NS NSEC_PER_MSEC

/* A CPU as it was at the last look */
struct guestpv_look {
	const struct guestpv_stolen_time *st; /* NULL: there was no count to be had */
	u64 clock; /* when that was, not later than count was read */
	u64 count;
	u64 true_at; /* or later: when all that was stolen was in count */
	u64 stolen_ns; /* the totals */
	u64 unknown_ns;
	u32 epoch;
};

/* A reader may have interrupted the writer: it takes the look that is not being written. */
struct guestpv_total {
	seqcount_latch_t sequence;
	struct guestpv_look looks[2];
};

static DEFINE_PER_CPU(struct guestpv_total, guestpv_totals) = {
	.sequence = SEQCNT_LATCH_ZERO(guestpv_totals.sequence),
};

static u64 guestpv_since(u64 then, u64 now)
{
	return now > then ? now - then : 0;
}

/**
 * guestpv_plausible() - can so much have been stolen in that time?
 * @stolen_ns: by how much a count has grown; as good as infinite if it fell
 * @elapsed_ns: the time
 *
 * Return: whether it can.
 */
bool guestpv_plausible(u64 stolen_ns, u64 elapsed_ns)
{
	return stolen_ns <= elapsed_ns + GUESTPV_SLACK_NS;
}

static bool guestpv_count(const struct guestpv_stolen_time *st, u64 *count)
{
	struct guestpv_sample sample;

	/* Of what is unknown, the count is not interpreted. */
	if (!st || !guestpv_sample(st, &sample) || sample.word)
		return false;

	*count = sample.stolen_ns;
	return true;
}

/* The index's lock is held: there is one writer. */
static void guestpv_total_publish(struct guestpv_total *total, const struct guestpv_look *look)
{
	/* Each orders the stores around it. Pairs with guestpv_total_last(). */
	raw_write_seqcount_latch(&total->sequence);
	total->looks[0] = *look;
	raw_write_seqcount_latch(&total->sequence);
	total->looks[1] = *look;
}

static struct guestpv_look guestpv_total_last(const struct guestpv_total *total)
{
	struct guestpv_look look;
	unsigned int sequence;

	do {
		/* Ordered before and after the copy. Pairs with guestpv_total_publish(). */
		sequence = raw_read_seqcount_latch(&total->sequence);
		look = total->looks[sequence & 1];
	} while (read_seqcount_latch_retry(&total->sequence, sequence));

	return look;
}

/**
 * guestpv_total_look() - judge what a CPU's count did since the last look
 * @cpu: the CPU
 * @entry: what the index now says of it
 *
 * Called by the index, with its lock held, whenever it has looked at the structure.
 */
void guestpv_total_look(unsigned int cpu, const struct guestpv_entry *entry)
{
	struct guestpv_total *total = per_cpu_ptr(&guestpv_totals, cpu);
	struct guestpv_look last = total->looks[0], look = last;
	const struct guestpv_stolen_time *st = NULL;
	bool counted;
	u64 now;

	if (entry->state == GUESTPV_STATE_ONLINE || entry->state == GUESTPV_STATE_OFFLINE)
		st = guestpv_pages_structure(entry->offset);

	look.clock = local_clock();
	/* Where there will be no count from now on, the last one is still worth having. */
	counted = guestpv_count(st ?: last.st, &look.count);
	now = local_clock();

	if (counted && last.st && (!st || st == last.st) && entry->epoch == last.epoch &&
	    guestpv_plausible(look.count - last.count, guestpv_since(last.true_at, now)))
		look.stolen_ns += look.count - last.count;
	else
		look.unknown_ns += guestpv_since(last.clock, now);
	/* If it has changed, the CPU ran since the last look. */
	if (look.count != last.count || st != last.st)
		look.true_at = last.clock;

	look.st = counted ? st : NULL;
	look.epoch = entry->epoch;
	guestpv_total_publish(total, &look);
}

/**
 * guestpv_total_read() - read a CPU's totals
 * @cpu: the CPU
 * @reading: where they go
 *
 * From any context. There is no waiting, not even for a look that is under way.
 */
void guestpv_total_read(unsigned int cpu, struct guestpv_reading *reading)
{
	struct guestpv_look last = guestpv_total_last(per_cpu_ptr(&guestpv_totals, cpu));
	bool counted;
	u64 count;

	reading->before = local_clock();
	counted = guestpv_count(last.st, &count);
	reading->after = local_clock();

	reading->stolen_ns = last.stolen_ns;
	reading->unknown_ns = last.unknown_ns;
	reading->judged = true;
	if (!last.st)
		reading->unknown_ns += guestpv_since(last.clock, reading->after);
	else if (counted &&
		 guestpv_plausible(count - last.count,
				   guestpv_since(last.true_at, reading->after)))
		reading->stolen_ns += count - last.count;
	else
		reading->judged = false;
}

/* Had this CPU a count that means something at the last look? */
bool guestpv_total_is_known(unsigned int cpu)
{
	return guestpv_total_last(per_cpu_ptr(&guestpv_totals, cpu)).st;
}
