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

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct file;

/* Watch the mapping of @fd. Returns NULL when out of memory or file descriptors. */
struct file *file_watch(int fd, const void *base, size_t size);

/* To be called before the mapping goes. */
void file_forget(struct file *file);

/* The last count in the file: whatever is cut off, this goes with it. NULL if there is none. */
void file_set_witness(struct file *file, const uint64_t *count);

/* Asked after a read: may what was read be a remainder of the file? */
bool file_is_cut(struct file *file);

#endif /* GUESTPV_FILE_H */
