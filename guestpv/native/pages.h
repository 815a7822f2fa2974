/* SPDX-License-Identifier: MIT */
/*
 * A mapping of the device or of a page image: its index, decoded and checked,
 * and the ordered loads of the structures that it points to. This is the
 * protocol of guestpv.h, and knows nothing of Python.
 *
 * One thread at a time may use a struct pages; the caller's GIL sees to that.
 */
#ifndef GUESTPV_PAGES_H
#define GUESTPV_PAGES_H

#include <endian.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "file.h"
#include "guestpv.h"

#define STRUCTURE_SIZE 64 /* and alignment: DEN0057A, 3.2.2 */

/* What came of a read; if not OK, nothing that was read may be used. */
enum outcome {
	OK,
	BUSY, /* what was read kept changing */
	HEADER_CHANGED,
	BAD_OFFSET, /* of the structure of pages.bad_cpu */
	CUT_SHORT,
};

/* A row of guestpv.SNAPSHOT, which says what each field is. */
struct row {
	uint32_t cpu;
	uint32_t epoch;
	uint8_t state, origin, fault, valid;
	uint8_t reason;
	uint32_t revision;
	uint32_t attributes;
	uint64_t stolen_ns;
	uint64_t epoch_stolen_ns;
	uint64_t instance;
	uint64_t monotonic_ns;
};

/* One CPU's structure: revision and attributes as one word, and their count. */
struct sample {
	uint64_t word;
	uint64_t stolen_ns;
	uint32_t epoch;
	bool present; /* if not, there is no structure */
	bool online; /* if not, the count is the last one */
};

/* Half a cache line, since a snapshot goes through all of them */
struct cpu {
	const uint64_t *structure; /* zeros if there is none */
	uint64_t epoch_stolen_ns;
	struct row_head { /* how its row begins; valid if there is a structure */
		uint32_t cpu;
		uint32_t epoch;
		uint8_t state, origin, fault, valid;
		uint8_t reason;
	} head;
};

struct pages {
	const uint8_t *base;
	struct file *file; /* NULL for the device */
	struct guestpv_header header; /* as it was checked; the live one must be the same */
	struct cpu *cpus;
	uint64_t sequence; /* for which .cpus is true */
	uint32_t bad_cpu;
};

/* Whether the sizes in a header belong together */
bool pages_header_fits(const struct guestpv_header *header);

/* @base is a mapping of header.size bytes. Returns whether there was memory for it. */
bool pages_init(struct pages *pages, const uint8_t *base, struct file *file,
		const struct guestpv_header *header);
void pages_exit(struct pages *pages);

/* Both try a bounded number of times. @cpu is below header.nr_entries, @rows has as many. */
enum outcome pages_read(struct pages *pages, uint32_t cpu, struct sample *sample);
enum outcome pages_snapshot(struct pages *pages, struct row *rows);

/* Asked after a read of a file: is it still the one that was opened, and whole? */
enum outcome pages_verify_file(const struct pages *pages);

/* In the index each load is one load, and the sequence says whether they belong together. */
#define LOAD(field) atomic_load_explicit((const _Atomic __typeof__(field) *)&(field), \
					 memory_order_relaxed)

static inline uint64_t load_acquire(const uint64_t *word)
{
	return atomic_load_explicit((const _Atomic uint64_t *)word, memory_order_acquire);
}

static inline uint32_t sequence_acquire(const struct pages *pages)
{
	const struct guestpv_header *header = (const void *)pages->base;

	return atomic_load_explicit((const _Atomic uint32_t *)&header->sequence,
				    memory_order_acquire);
}

static inline bool instance_stands(const struct pages *pages)
{
	const struct guestpv_header *live = (const void *)pages->base;

	return LOAD(live->instance) == pages->header.instance;
}

/*
 * The hypervisor changes stolen_time alone and with one store. Revision and
 * attributes it sets before the guest knows of the structure, and again when the
 * VM goes on elsewhere. So the count is loaded between two loads of them.
 * Returns whether they were the same.
 */
static inline bool load_structure(const uint64_t *structure, uint64_t *word, uint64_t *count)
{
	/* Acquire: before the count. Pairs with the order of the hypervisor's stores. */
	*word = load_acquire(&structure[0]);
	/* Acquire: before the word is loaded again. Pairs with the same. */
	*count = load_acquire(&structure[1]);
	/* Acquire: before the sequence is loaded again, in read_end(). */
	return load_acquire(&structure[0]) == *word;
}

/* The index being decoded. Returns whether the structure was read whole. */
static inline bool load_sample(const struct pages *pages, uint32_t nr, struct sample *sample)
{
	const struct cpu *cpu = &pages->cpus[nr];
	uint64_t word, count;
	bool whole = load_structure(cpu->structure, &word, &count);

	*sample = (struct sample) {
		.word = le64toh(word),
		.stolen_ns = le64toh(count),
		.epoch = cpu->head.epoch,
		.present = cpu->head.valid,
		.online = cpu->head.state == GUESTPV_STATE_ONLINE,
	};
	return whole;
}

/*
 * A read that finds nothing changed, as nearly all do, without a call. If false,
 * nothing that was read may be used, and pages_read() has to find out.
 */
static inline bool pages_read_now(const struct pages *pages, uint32_t nr, struct sample *sample)
{
	/* As read_begin(), read_end() and pages_verify_file(), and paired with the same. */
	return sequence_acquire(pages) == pages->sequence && load_sample(pages, nr, sample) &&
	       sequence_acquire(pages) == pages->sequence &&
	       (!pages->file || (file_seems_whole(pages->file) && instance_stands(pages)));
}

#endif /* GUESTPV_PAGES_H */
