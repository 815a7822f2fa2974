/* SPDX-License-Identifier: MIT */
/*
 * What Python has no means for: memory order. A structure is shared with a
 * hypervisor and the index with the kernel module, and both write while we read.
 *
 *   pages.c    the protocol of guestpv.h: index, ordered loads, snapshot
 *   observer.c a thread that samples the clock and a count, for a while
 *   jitter.c   a thread that finds the gaps in its time, and whose they were
 *   tally.c    what is kept of them
 *   counter.h  the clock that it finds them by
 *   file.c     mapped files that are cut short
 *   mapping.c  the memory itself, and views of parts of it
 *   reading.c  what one read gave
 *   reader.c   the reads, for Python
 *   store.c    how a simulated hypervisor writes
 *   perf.c     perf events, which have no function in the C library
 *
 * All is done with the GIL held, also a snapshot: handing the GIL over would take
 * longer. It is let go only to wait for an index that is being changed, and for
 * the two threads, which are meant to last.
 */
#ifndef GUESTPV_NATIVE_H
#define GUESTPV_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <stdint.h>

#include "pages.h"

/* The state of the module */
struct native {
	PyTypeObject *mapping_type;
	PyTypeObject *view_type;
	PyTypeObject *reading_type;
};

/* A read-only mapping. It goes with the last who refers to it, and can't be copied as a whole. */
struct mapping {
	PyObject_HEAD
	const uint8_t *base;
	size_t size;
	struct file *file; /* NULL for the device */
};

/* NULL with an exception set; an OSError if @fd cannot be mapped */
struct mapping *mapping_make(PyTypeObject *type, int fd, size_t size);

/* A memoryview of a part of a mapping, which it keeps */
PyObject *view_make(PyTypeObject *type, struct mapping *mapping, const void *start, size_t size);

PyObject *reading_make(PyTypeObject *type, uint64_t word, uint64_t stolen_ns, uint32_t epoch);

/* As a reader's method jitter(), where there is no count to be read. */
PyObject *jitter_without_counts(PyObject *module, PyObject *tuple);

PyObject *perf_event_open(PyObject *module, PyObject *args);
extern const char perf_event_open_doc[];

extern PyType_Spec mapping_spec;
extern PyType_Spec view_spec;
extern PyType_Spec reading_spec;
extern PyType_Spec reader_spec;

#endif /* GUESTPV_NATIVE_H */
