// SPDX-License-Identifier: MIT
/*
 * Changes a page image as fast as it can, as the module and a hypervisor would
 * do together at their worst. What is written gives away a read that is not
 * whole:
 *
 * - each count carries its epoch in bits 63:48, and in the rest a number twice,
 *   so halves of two counts, or one epoch with another's count, do not fit
 * - a count is poison while revision and attributes are not zero
 * - each CPU moves between two structures, with its epoch, under the sequence
 *
 * A structure becomes known again only after its CPU has left it: a reader can
 * not tell one that was unknown between its two looks from one that never was,
 * and no hypervisor goes to another revision and back within nanoseconds.
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guestpv.h"

#define POISON 0xdeadbeefdeadbeefULL

static void store(void *at, uint64_t value)
{
	atomic_store_explicit((_Atomic uint64_t *)at, value, memory_order_release);
}

static uint64_t count(uint32_t epoch, uint32_t number)
{
	number &= 0xffffff;
	return (uint64_t)(epoch & 0xffff) << 48 | (uint64_t)number << 24 | number;
}

static void *structure(struct guestpv_header *header, const struct guestpv_entry *entry)
{
	return (char *)header + entry->offset;
}

/* The module: a CPU gets its other structure, which begins a new epoch. */
static void move(struct guestpv_header *header, struct guestpv_entry *entry, uint64_t first)
{
	entry->offset ^= 64;
	entry->epoch++;
	store(structure(header, entry), 0);
	store(structure(header, entry) + 8, first);
}

static void move_all(struct guestpv_header *header, struct guestpv_entry *entries, uint32_t number)
{
	_Atomic uint32_t *sequence = (_Atomic uint32_t *)&header->sequence;

	atomic_store_explicit(sequence, *sequence + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	for (uint32_t cpu = 0; cpu < header->nr_entries; cpu++)
		move(header, &entries[cpu], count(entries[cpu].epoch + 1, number));
	atomic_store_explicit(sequence, *sequence + 1, memory_order_release);
}

/* The hypervisor: a count goes on, and in the end has an unknown meaning. */
static void run_all(struct guestpv_header *header, struct guestpv_entry *entries, uint32_t number,
		    bool unknown)
{
	for (uint32_t cpu = 0; cpu < header->nr_entries; cpu++) {
		char *at = structure(header, &entries[cpu]);

		if (unknown)
			store(at, 1ULL << 32 | 1);
		store(at + 8, unknown ? POISON : count(entries[cpu].epoch, number));
	}
}

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;
	struct guestpv_header *header;
	struct guestpv_entry *entries;
	struct stat status;

	if (fd < 0 || fstat(fd, &status))
		return 1;
	header = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (header == MAP_FAILED)
		return 1;
	entries = (void *)((char *)header + header->header_size);
	puts("ready");
	fflush(stdout);

	for (uint32_t number = 0; getppid() != 1;) {
		move_all(header, entries, number);
		for (int round = 0; round < 32; round++)
			run_all(header, entries, number++, false);
		run_all(header, entries, number, true);
	}
	return 0;
}
