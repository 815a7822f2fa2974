// SPDX-License-Identifier: MIT
/*
 * Changes a page image as fast as it can, as the module and a hypervisor would
 * do together at their worst. What is written gives away a read that is not
 * whole:
 *
 * - each count carries its epoch in bits 63:48, and in the rest a number twice,
 *   so halves of two counts, or one epoch with another's count, do not fit
 * - a count is written as poison while revision and attributes are not zero
 * - each CPU moves between two structures, with its epoch, under the sequence
 */
#include <fcntl.h>
#include <stdatomic.h>
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

int main(int argc, char **argv)
{
	int fd = open(argv[1], O_RDWR);
	struct stat status;
	struct guestpv_header *header;
	struct guestpv_entry *entries;
	uint32_t epoch = 1, number = 0;

	if (argc != 2 || fd < 0 || fstat(fd, &status))
		return 1;
	header = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (header == MAP_FAILED)
		return 1;
	entries = (void *)((char *)header + header->header_size);
	puts("ready");
	fflush(stdout);

	while (getppid() != 1) {
		/* The module: all structures move, and begin a new epoch. */
		_Atomic uint32_t *sequence = (_Atomic uint32_t *)&header->sequence;

		epoch++;
		atomic_store_explicit(sequence, *sequence + 1, memory_order_relaxed);
		atomic_thread_fence(memory_order_release);
		for (uint32_t cpu = 0; cpu < header->nr_entries; cpu++) {
			/* an even structure, then the odd one beside it, and back */
			entries[cpu].offset ^= 64;
			entries[cpu].epoch = epoch;
			store((char *)header + entries[cpu].offset + 8, count(epoch, number));
		}
		atomic_store_explicit(sequence, *sequence + 1, memory_order_release);

		/* The hypervisor: counts go on, and the revision comes and goes. */
		for (int round = 0; round < 64; round++, number++) {
			for (uint32_t cpu = 0; cpu < header->nr_entries; cpu++) {
				char *structure = (char *)header + entries[cpu].offset;

				if (round % 8 == 7) {
					store(structure, 1ULL << 32 | 1);
					store(structure + 8, POISON);
					store(structure + 8, count(epoch, number));
					store(structure, 0);
				} else {
					store(structure + 8, count(epoch, number));
				}
			}
		}
	}
	return 0;
}
