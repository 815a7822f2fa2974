/* SPDX-License-Identifier: MIT */
/*
 * How a simulated hypervisor writes: each word by one aligned store, after all
 * that was stored before it. This knows nothing of Python.
 */
#ifndef GUESTPV_STORE_H
#define GUESTPV_STORE_H

#include <stdbool.h>
#include <stddef.h>

/* A row of words in memory */
struct words {
	void *first;
	ptrdiff_t stride; /* bytes from one to the next */
	size_t count;
	size_t size; /* of each, in bytes */
};

/* Whether each is of 4 or 8 bytes, and aligned: only then can one be stored at once. */
bool words_are_storable(const struct words *words);

/* Both have as many words, of one size; @to is storable. */
void words_store(const struct words *to, const struct words *from);

#endif /* GUESTPV_STORE_H */
