// SPDX-License-Identifier: MIT
/* The stores of store.c, one by one: how wide each is, with which order, and where. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

static uint64_t row[4];

static void note(volatile void *at, size_t size, memory_order order)
{
	printf("%zu %zu %s\n", (size_t)((volatile char *)at - (volatile char *)row), size,
	       order == memory_order_release ? "release" : "?");
}

#undef atomic_store_explicit
#define atomic_store_explicit(address, value, order)	\
	(note(address, sizeof(*(address)), order), (void)(*(address) = (value)))

#include "store.c"

int main(void)
{
	uint64_t counts[2] = { 1, 2 };
	uint32_t sequence[1] = { 3 };

	words_store(&(struct words){ row, 16, 2, 8 }, &(struct words){ counts, 8, 2, 8 });
	words_store(&(struct words){ (char *)row + 12, 4, 1, 4 }, &(struct words){ sequence, 4, 1, 4 });
	return row[0] != 1 || row[2] != 2 || row[1] != 3ULL << 32;
}
