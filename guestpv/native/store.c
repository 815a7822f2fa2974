/* SPDX-License-Identifier: MIT */
#include "store.h"

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

_Static_assert(__atomic_always_lock_free(sizeof(uint64_t), NULL), "one store, and no lock");

bool words_are_storable(const struct words *words)
{
	return (words->size == sizeof(uint32_t) || words->size == sizeof(uint64_t)) &&
	       (uintptr_t)words->first % words->size == 0 &&
	       (words->count < 2 || words->stride % (ptrdiff_t)words->size == 0);
}

/*
 * Release order, for each: what guestpv.h promises a reader (an odd sequence
 * before a change, an even one after it, a count after its revision) then holds
 * by the order of the calls alone.
 */
static void store(void *to, const void *from, size_t size)
{
	if (size == sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, from, sizeof(word));
		atomic_store_explicit((_Atomic uint64_t *)to, word, memory_order_release);
	} else {
		uint32_t word;

		memcpy(&word, from, sizeof(word));
		atomic_store_explicit((_Atomic uint32_t *)to, word, memory_order_release);
	}
}

void words_store(const struct words *to, const struct words *from)
{
	for (size_t nr = 0; nr < to->count; nr++)
		store((char *)to->first + (ptrdiff_t)nr * to->stride,
		      (const char *)from->first + (ptrdiff_t)nr * from->stride, to->size);
}
