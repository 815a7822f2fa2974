/* SPDX-License-Identifier: MIT */
#include "tally.h"

#include <string.h>

static uint64_t min(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t less(uint64_t from, uint64_t ns)
{
	return from > ns ? from - ns : 0;
}

/*
 * Who waits in the guest's run queue while the vCPU is stolen waits, too: the
 * overlap of the two lies in [max(0, stolen + waited - length), min(stolen, waited)].
 * What was only waited is the queue's, and what neither explains is the rest.
 */
static void divide(struct noise_gap *gap)
{
	uint64_t length_ns = gap->length_ns;

	gap->queue_least_ns = less(gap->waited_least_ns, gap->stolen_most_ns);
	gap->queue_most_ns = min(gap->waited_most_ns, less(length_ns, gap->stolen_least_ns));
	gap->other_least_ns = less(length_ns, gap->stolen_most_ns + gap->waited_most_ns);
	gap->other_most_ns = less(length_ns, max(gap->stolen_least_ns, gap->waited_least_ns));
}

static void keep_worst(struct tally *tally, const struct noise_gap *gap)
{
	struct noise_gap *worst = tally->worst;
	size_t place = tally->nr_worst;

	while (place && worst[place - 1].length_ns < gap->length_ns)
		place--;
	if (place == tally->nr_worst)
		return;
	memmove(&worst[place + 1], &worst[place], (tally->nr_worst - place - 1) * sizeof(*worst));
	worst[place] = *gap;
}

/* A gap that is counted for the most part shows that nothing is owed. */
static void add_owed(struct tally *tally, const struct noise_gap *gap)
{
	if (gap->stolen_least_ns >= gap->length_ns / 2) {
		tally->owed_ns = 0;
		return;
	}
	if (!tally->owed_ns)
		tally->owed_since = gap->number;
	tally->owed_ns += gap->length_ns - gap->stolen_least_ns;
}

void tally_add(struct tally *tally, struct noise_gap *gap)
{
	struct noise *noise = tally->noise;

	gap->cpu = noise->cpu;
	gap->number = noise->gaps++;
	divide(gap);
	noise->gaps_ns += gap->length_ns;
	noise->longest_ns = max(noise->longest_ns, gap->length_ns);
	noise->stolen_least_ns += gap->stolen_least_ns;
	noise->stolen_most_ns += gap->stolen_most_ns;
	noise->queue_least_ns += gap->queue_least_ns;
	noise->queue_most_ns += gap->queue_most_ns;
	noise->other_least_ns += gap->other_least_ns;
	noise->other_most_ns += gap->other_most_ns;
	noise->voluntary += gap->voluntary;
	noise->involuntary += gap->involuntary;
	tally->histogram[tally_bucket(gap->length_ns)]++;
	keep_worst(tally, gap);
	add_owed(tally, gap);
}

void tally_add_late(struct tally *tally, uint64_t grown_ns)
{
	struct noise *noise = tally->noise;
	uint64_t more_ns = min(grown_ns, tally->owed_ns);

	noise->late++;
	noise->late_ns += grown_ns;
	noise->stolen_most_ns += more_ns;
	noise->queue_least_ns = less(noise->queue_least_ns, more_ns);
	noise->other_least_ns = less(noise->other_least_ns, more_ns);
	for (size_t nr = 0; nr < tally->nr_worst && tally->owed_ns; nr++) {
		struct noise_gap *gap = &tally->worst[nr];

		if (!gap->length_ns || gap->number < tally->owed_since)
			continue;
		gap->stolen_most_ns = min(gap->length_ns, gap->stolen_most_ns + more_ns);
		divide(gap);
	}
	tally->owed_ns = 0;
}
