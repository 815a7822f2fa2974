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

#include <stdbool.h>
#include <stdint.h>

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

#endif /* GUESTPV_PAGES_H */
