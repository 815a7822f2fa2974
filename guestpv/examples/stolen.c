// SPDX-License-Identifier: MIT
// Prints each vCPU's stolen time in nanoseconds: cc -std=c11 -I. stolen.c (with guestpv.h beside it)
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include "guestpv.h"

#define LOAD(type, address) \
	atomic_load_explicit((const _Atomic type *)(address), memory_order_acquire)

/* Returns 1 with the count, 0 if there is none, and -1 if the index kept changing. */
static int stolen_ns(const struct guestpv_header *map, __u32 cpu, __u64 *count)
{
	const char *page = (const char *)map;
	const struct guestpv_entry *entry =
		(const void *)(page + map->header_size + (__u64)cpu * map->entry_size);

	for (int tries = 0; tries < 10000; tries++) {
		__u32 sequence = LOAD(__u32, &map->sequence);
		if (sequence & 1)
			continue;
		__u8 state = LOAD(__u8, &entry->state);
		__u32 offset = LOAD(__u32, &entry->offset);
		int counts = state == GUESTPV_STATE_ONLINE || state == GUESTPV_STATE_OFFLINE;
		/* revision and attributes: 0, or the count means something else */
		__u64 known = counts ? LOAD(__u64, page + offset) : 0;
		*count = counts ? LOAD(__u64, page + offset + 8) : 0;
		if ((!counts || LOAD(__u64, page + offset) == known) &&
		    LOAD(__u32, &map->sequence) == sequence)
			return counts && !known;
	}
	return -1;
}

int main(int argc, char **argv)
{
	int fd = open(argc > 1 ? argv[1] : "/dev/guestpv", O_RDONLY);
	const struct guestpv_header *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED || map->magic != GUESTPV_MAGIC ||
	    map->abi_version != GUESTPV_ABI_VERSION)
		return fputs("not a page of guestpv that this program knows\n", stderr), 1;
	map = mmap(NULL, map->size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return perror("mmap"), 1;
	for (__u32 cpu = 0; cpu < map->nr_entries; cpu++) {
		__u64 count;
		int known = stolen_ns(map, cpu, &count);
		if (known > 0)
			printf("%u %" PRIu64 "\n", cpu, (uint64_t)count);
		else
			printf("%u %s\n", cpu, known ? "busy" : "none");
	}
	return 0;
}
