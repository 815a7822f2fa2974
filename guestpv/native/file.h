/* SPDX-License-Identifier: MIT */
/*
 * A mapped file may be cut short by anyone who may write to it. Touching a page
 * that is gone raises SIGBUS; what is gone of a page that is left reads as zero.
 * Both are noticed here, at the price of one load for each read.
 *
 * The device needs none of this: its pages stay while it is mapped.
 */
#ifndef GUESTPV_FILE_H
#define GUESTPV_FILE_H

#include <endian.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The handler may run in any thread at any time, so these are never freed, but
 * used again: the list only grows, and .base says which of them count.
 */
struct file {
	_Atomic uintptr_t base; /* 0: not in use */
	size_t size;
	_Atomic bool lost_page;
	int fd;
	const uint64_t *witness;
	uint64_t witnessed;
	struct file *next;
};

/* Watch the mapping of @fd. Returns NULL when out of memory or file descriptors. */
struct file *file_watch(int fd, const void *base, size_t size);

/* To be called before the mapping goes. */
void file_forget(struct file *file);

/* The last count in the file: whatever is cut off, this goes with it. NULL if there is none. */
void file_set_witness(struct file *file, const uint64_t *count);

static inline uint64_t file_last_count(const struct file *file)
{
	return le64toh(atomic_load_explicit((const _Atomic uint64_t *)file->witness,
					    memory_order_acquire));
}

/*
 * Asked after a read: what was read is no remainder of the file. A cut before the
 * last count made it 0, and one within made it less. Counts rarely do so by
 * themselves: if false, the file itself has to be asked.
 */
static inline bool file_seems_whole(struct file *file)
{
	uint64_t count = file_last_count(file);

	if (!count || count < file->witnessed ||
	    atomic_load_explicit(&file->lost_page, memory_order_relaxed))
		return false;
	file->witnessed = count;
	return true;
}

/* The same with certainty: may what was read be a remainder of the file? */
bool file_is_cut(struct file *file);

#endif /* GUESTPV_FILE_H */
