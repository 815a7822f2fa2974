// SPDX-License-Identifier: MIT
/*
 * The loads of pages.c, one by one: each is printed with its order, and before
 * each the test may play the hypervisor. So what no run on one machine shows can
 * be said of all: which loads there are, in which order, and what any store
 * between two of them leads to.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t hooked_load(const volatile void *address, size_t size, memory_order order);

#undef atomic_load_explicit
#undef atomic_thread_fence
#define atomic_load_explicit(address, order) \
	((typeof(*(address) + 0))hooked_load(address, sizeof(*(address)), order))
#define atomic_thread_fence(order) note("fence", order)

static void note(const char *what, memory_order order);

#include "pages.c"

static struct {
	struct guestpv_header header;
	struct guestpv_entry entry;
	_Alignas(64) uint64_t structure[8];
} page;

static int printing, loads, act_at = -1;
static void (*act)(void);

/* The device: no file. */
bool file_is_cut(struct file *file) { (void)file; return false; }
void file_set_witness(struct file *file, const uint64_t *count) { (void)file; (void)count; }

static void note(const char *what, memory_order order)
{
	if (printing)
		printf("%s %s\n", what, order == memory_order_acquire ? "acquire" :
					order == memory_order_relaxed ? "relaxed" : "?");
}

static const char *name_of(const volatile void *address)
{
	if (address == &page.header.sequence)
		return "sequence";
	if (address == &page.structure[0])
		return "word";
	if (address == &page.structure[1])
		return "count";
	return "index";
}

static uint64_t hooked_load(const volatile void *address, size_t size, memory_order order)
{
	uint64_t value = 0;

	if (loads++ == act_at)
		act();
	note(name_of(address), order);
	memcpy(&value, (const void *)address, size);
	return value;
}

#define POISON 0xdeadULL

/* A revision that is not known, and a count that must not be interpreted */
static void revise(void)
{
	page.structure[0] = 1;
	page.structure[1] = POISON;
}

/* ... and back */
static void know(void)
{
	page.structure[0] = 0;
	page.structure[1] = 7;
}

/* Another structure's epoch, under the sequence */
static void restart(void)
{
	page.header.sequence += 2;
	page.entry.epoch++;
	page.structure[1] = 1000 + page.entry.epoch;
}

static void reset(struct pages *pages)
{
	memset(&page, 0, sizeof(page));
	page.header = (struct guestpv_header) {
		.magic = GUESTPV_MAGIC,
		.abi_version = GUESTPV_ABI_VERSION,
		.sequence = 2,
		.header_size = sizeof(page.header),
		.entry_size = sizeof(page.entry),
		.nr_entries = 1,
		.size = sizeof(page),
		.instance = 1,
	};
	page.entry.state = GUESTPV_STATE_ONLINE;
	page.entry.offset = (char *)page.structure - (char *)&page;
	page.structure[1] = 7;
	loads = 0;
	act_at = -1;
	pages_init(pages, (const void *)&page, NULL, &page.header);
}

/* As reader.c does */
static enum outcome read_sample(struct pages *pages, struct sample *sample)
{
	return pages_read_now(pages, 0, sample) ? OK : pages_read(pages, 0, sample);
}

/* Do @before, read, and @act before load @at; returns whether what was read may be so. */
static int try_at(int snapshot, void (*before)(void), void (*then)(void), int at)
{
	struct pages pages;
	struct sample sample = { 0 };
	struct row row = { 0 };
	enum outcome outcome;
	int fine;

	reset(&pages);
	pages_read(&pages, 0, &sample);
	if (before)
		before();
	loads = 0;
	act_at = at;
	act = then;
	if (snapshot) {
		outcome = pages_snapshot(&pages, &row);
		sample = (struct sample) {
			.word = (uint64_t)row.attributes << 32 | row.revision,
			.stolen_ns = row.stolen_ns, .epoch = row.epoch, .present = true,
		};
	} else {
		outcome = read_sample(&pages, &sample);
	}
	fine = outcome == OK && (sample.word || sample.stolen_ns != POISON) &&
	       (then != restart || sample.stolen_ns == (sample.epoch ? 1000 + sample.epoch : 7));
	pages_exit(&pages);
	return fine;
}

int main(void)
{
	struct sample sample;
	struct pages pages;

	reset(&pages);
	printing = 1;
	read_sample(&pages, &sample);
	printf("again\n");
	read_sample(&pages, &sample);
	printing = 0;
	pages_exit(&pages);

	for (int snapshot = 0; snapshot < 2; snapshot++)
		for (int at = 0; at < 40; at++) {
			if (!try_at(snapshot, NULL, revise, at))
				printf("revised before load %d: interpreted\n", at);
			if (!try_at(snapshot, revise, know, at))
				printf("known again before load %d: interpreted\n", at);
			if (!try_at(snapshot, NULL, restart, at))
				printf("restarted before load %d: of another epoch\n", at);
		}
	return 0;
}
