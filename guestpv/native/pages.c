/* SPDX-License-Identifier: MIT */
#include "pages.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TRIES 1000
#define NO_SEQUENCE UINT64_MAX /* wider than any sequence */

/* In the place of one that is not there, so that a read need not ask. */
static const uint64_t no_structure[2];

_Static_assert(__atomic_always_lock_free(sizeof(uint64_t), NULL),
	       "a lock would have to write to the mapping");
_Static_assert(sizeof(struct row_head) == offsetof(struct row, revision), "a row begins with it");

static bool header_stands(const struct pages *pages)
{
	const struct guestpv_header *live = (const void *)pages->base;
	const struct guestpv_header *checked = &pages->header;

	return LOAD(live->magic) == checked->magic &&
	       LOAD(live->abi_version) == checked->abi_version &&
	       LOAD(live->header_size) == checked->header_size &&
	       LOAD(live->entry_size) == checked->entry_size &&
	       LOAD(live->nr_entries) == checked->nr_entries &&
	       LOAD(live->size) == checked->size &&
	       LOAD(live->instance) == checked->instance;
}

static uint64_t index_size(const struct guestpv_header *header)
{
	return header->header_size + (uint64_t)header->nr_entries * header->entry_size;
}

static bool is_readable(uint8_t state)
{
	return state == GUESTPV_STATE_ONLINE || state == GUESTPV_STATE_OFFLINE;
}

static bool fits(const struct guestpv_header *header, uint32_t offset)
{
	return offset % STRUCTURE_SIZE == 0 && offset >= index_size(header) &&
	       (uint64_t)offset + STRUCTURE_SIZE <= header->size;
}

static enum outcome decode_entry(struct pages *pages, uint32_t nr)
{
	const struct guestpv_header *header = &pages->header;
	const struct guestpv_entry *entry = (const void *)
		(pages->base + header->header_size + (size_t)nr * header->entry_size);
	struct cpu cpu = {
		.structure = no_structure,
		.head.cpu = nr,
		.head.epoch = LOAD(entry->epoch),
		.head.state = LOAD(entry->state),
		.head.origin = LOAD(entry->origin),
		.head.fault = LOAD(entry->fault),
		.head.reason = LOAD(entry->reason),
		.epoch_stolen_ns = LOAD(entry->epoch_stolen_ns),
	};
	uint32_t offset = LOAD(entry->offset);

	if (offset && is_readable(cpu.head.state)) {
		if (!fits(header, offset)) {
			pages->bad_cpu = nr;
			return BAD_OFFSET;
		}
		cpu.structure = (const void *)(pages->base + offset);
		cpu.head.valid = true;
	}
	pages->cpus[nr] = cpu;
	return OK;
}

static enum outcome decode_index(struct pages *pages)
{
	const uint64_t *last = NULL;

	if (!header_stands(pages))
		return HEADER_CHANGED;
	for (uint32_t nr = 0; nr < pages->header.nr_entries; nr++) {
		enum outcome outcome = decode_entry(pages, nr);

		if (outcome != OK)
			return outcome;
		if (pages->cpus[nr].head.valid && pages->cpus[nr].structure > last)
			last = pages->cpus[nr].structure;
	}
	if (pages->file)
		file_set_witness(pages->file, last ? last + 1 : NULL);
	return OK;
}

static enum outcome refresh(struct pages *pages, uint32_t sequence)
{
	enum outcome outcome;

	pages->sequence = NO_SEQUENCE;
	if (sequence & 1)
		return BUSY;
	outcome = decode_index(pages);
	/*
	 * The index is loaded before the sequence is loaded again. Pairs with the
	 * module's barrier after it made the sequence odd (change_begin()).
	 */
	atomic_thread_fence(memory_order_acquire);
	if (sequence_acquire(pages) != sequence)
		return BUSY;
	if (pages->file && outcome != OK && file_is_cut(pages->file))
		return CUT_SHORT;
	if (outcome == OK)
		pages->sequence = sequence;
	return outcome;
}

/* Before a read: .cpus is what the index says. */
static enum outcome read_begin(struct pages *pages)
{
	/* Pairs with the module's release of the even sequence (change_end()). */
	uint32_t sequence = sequence_acquire(pages);

	return sequence == pages->sequence ? OK : refresh(pages, sequence);
}

enum outcome pages_verify_file(const struct pages *pages)
{
	if (file_is_cut(pages->file))
		return CUT_SHORT;
	/* Who writes over a file need not mind the sequence, but each has its instance. */
	return instance_stands(pages) ? OK : HEADER_CHANGED;
}

/* After a read whose loads were acquire loads: does the index still say so? */
static enum outcome read_end(const struct pages *pages)
{
	/* Pairs with the module's barrier after the odd sequence (change_begin()). */
	if (sequence_acquire(pages) != pages->sequence)
		return BUSY;
	return pages->file ? pages_verify_file(pages) : OK;
}

enum outcome pages_read(struct pages *pages, uint32_t nr, struct sample *sample)
{
	enum outcome outcome = BUSY;

	for (int tries = 0; outcome == BUSY && tries < TRIES; tries++) {
		outcome = read_begin(pages);
		if (outcome == OK)
			outcome = load_sample(pages, nr, sample) ? read_end(pages) : BUSY;
	}
	return outcome;
}

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/* Rare, and out of the loop's way */
static __attribute__((cold, noinline)) void mark_unknown(struct row *row, uint64_t word)
{
	row->valid = false;
	row->revision = word;
	row->attributes = word >> 32;
	row->stolen_ns = 0;
}

/* How a row ends: a vector is one store, which shows in a warm snapshot. */
typedef uint64_t row_tail __attribute__((vector_size(16)));

_Static_assert(offsetof(struct row, instance) + sizeof(row_tail) == sizeof(struct row) &&
	       offsetof(struct row, monotonic_ns) == offsetof(struct row, instance) + 8,
	       "a row ends with it");

/* Returns whether each structure was read whole; if not, the rows are not all filled. */
static bool load_all(const struct pages *pages, struct row *row)
{
	const struct cpu *cpu = pages->cpus, *end = cpu + pages->header.nr_entries;
	const row_tail tail = { pages->header.instance, monotonic_ns() };

	/* So does it if four rows are one turn of the loop. */
#pragma GCC unroll 4
	for (; cpu < end; cpu++, row++) {
		uint64_t word, count;

		if (!load_structure(cpu->structure, &word, &count))
			return false;
		memcpy(row, &cpu->head, sizeof(cpu->head));
		row->revision = 0;
		row->attributes = 0;
		row->stolen_ns = le64toh(count);
		row->epoch_stolen_ns = cpu->epoch_stolen_ns;
		memcpy(&row->instance, &tail, sizeof(tail));
		/* A count is not interpreted unless revision and attributes are known. */
		if (word)
			mark_unknown(row, le64toh(word));
	}
	return true;
}

enum outcome pages_snapshot(struct pages *pages, struct row *rows)
{
	enum outcome outcome = BUSY;

	for (int tries = 0; outcome == BUSY && tries < TRIES; tries++) {
		outcome = read_begin(pages);
		if (outcome == OK)
			outcome = load_all(pages, rows) ? read_end(pages) : BUSY;
	}
	return outcome;
}

bool pages_header_fits(const struct guestpv_header *header)
{
	return header->header_size >= sizeof(*header) && header->header_size % 8 == 0 &&
	       header->entry_size >= sizeof(struct guestpv_entry) && header->entry_size % 8 == 0 &&
	       header->size >= index_size(header);
}

bool pages_init(struct pages *pages, const uint8_t *base, struct file *file,
		const struct guestpv_header *header)
{
	*pages = (struct pages) {
		.base = base,
		.file = file,
		.header = *header,
		.sequence = NO_SEQUENCE,
		.cpus = calloc(header->nr_entries, sizeof(*pages->cpus)),
	};
	return pages->cpus;
}

void pages_exit(struct pages *pages)
{
	free(pages->cpus);
	pages->cpus = NULL;
	pages->header.nr_entries = 0;
}
