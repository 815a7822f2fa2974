/* SPDX-License-Identifier: MIT */
/*
 * The base class of guestpv.source.mapped.MappedReader. Errors are raised there, by
 * _refuse(): the texts are there.
 */
#include "native.h"

#include <string.h>
#include <time.h>

#include "observer.h"

#define NAP_NS 1000000
#define MAX_NAPS 1000

struct reader {
	PyObject_HEAD
	struct mapping *mapping; /* NULL when closed */
	struct pages pages;
};

/* Raise what _refuse() of the subclass makes of it. */
static void refuse(struct reader *reader, const char *what, PyObject *cpu, uint64_t word)
{
	PyObject *none = PyObject_CallMethod((PyObject *)reader, "_refuse", "sOII", what, cpu,
					     (unsigned int)word, (unsigned int)(word >> 32));

	if (none)
		PyErr_Format(PyExc_SystemError, "_refuse() took '%s'", what);
	Py_XDECREF(none);
}

static void refuse_outcome(struct reader *reader, enum outcome outcome)
{
	static const char *const what[] = {
		[BUSY] = "busy",
		[HEADER_CHANGED] = "header",
		[BAD_OFFSET] = "offset",
		[CUT_SHORT] = "cut",
	};
	PyObject *cpu = PyLong_FromUnsignedLong(reader->pages.bad_cpu);

	if (cpu)
		refuse(reader, what[outcome], cpu, 0);
	Py_XDECREF(cpu);
}

static bool is_open(const struct reader *reader)
{
	if (!reader->mapping)
		PyErr_SetString(PyExc_ValueError, "the reader is closed");
	return reader->mapping;
}

/*
 * Whoever changes the index may have lost its CPU meanwhile: that is what stolen
 * time is. So it is given a second, in which others run. False when the second is
 * over, or with an exception set.
 */
static bool nap(const struct reader *reader, int *naps)
{
	const struct timespec time = { .tv_nsec = NAP_NS };

	if (++*naps > MAX_NAPS)
		return false;
	Py_BEGIN_ALLOW_THREADS
	nanosleep(&time, NULL);
	Py_END_ALLOW_THREADS
	return !PyErr_CheckSignals() && is_open(reader);
}

/* The number of a CPU that the index has; false with an exception set. */
static bool cpu_number(struct reader *reader, PyObject *cpu, uint32_t *nr)
{
	int overflow;
	long long number = PyLong_AsLongLongAndOverflow(cpu, &overflow);

	/* Asked here, because an __index__() written in Python may do anything. */
	if ((number == -1 && PyErr_Occurred()) || !is_open(reader))
		return false;
	if (number < 0 || number >= reader->pages.header.nr_entries) {
		refuse(reader, "no cpu", cpu, 0);
		return false;
	}
	*nr = number;
	return true;
}

/* One CPU's count, which may be interpreted; false with an exception set. */
static bool sight_of(struct reader *reader, PyObject *cpu, struct sight *sight)
{
	enum outcome outcome;
	int naps = 0;
	uint32_t nr;

	if (!cpu_number(reader, cpu, &nr))
		return false;
	do {
		outcome = pages_read(&reader->pages, nr, sight);
	} while (outcome == BUSY && nap(reader, &naps));

	if (outcome == OK && sight->present && !sight->word)
		return true;
	if (outcome == OK)
		refuse(reader, sight->present ? "unknown" : "no structure", cpu, sight->word);
	else if (!PyErr_Occurred())
		refuse_outcome(reader, outcome);
	return false;
}

static PyObject *reader_stolen_ns(PyObject *self, PyObject *cpu)
{
	struct sight sight;

	if (!sight_of((struct reader *)self, cpu, &sight))
		return NULL;
	return PyLong_FromUnsignedLongLong(sight.stolen_ns);
}

static PyObject *reader_read(PyObject *self, PyTypeObject *reader_type, PyObject *const *args,
			      Py_ssize_t nargs, PyObject *kwnames)
{
	struct native *native = PyType_GetModuleState(reader_type);
	struct sight sight;

	if (nargs != 1 || kwnames) {
		PyErr_SetString(PyExc_TypeError, "read() takes a CPU number");
		return NULL;
	}
	if (!sight_of((struct reader *)self, args[0], &sight))
		return NULL;
	return reading_make(native->reading_type, &sight);
}

static PyObject *reader_fill(PyObject *self, PyObject *rows)
{
	struct reader *reader = (struct reader *)self;
	enum outcome outcome;
	Py_buffer view;
	int naps = 0;

	if (PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE | PyBUF_ND) < 0)
		return NULL;
	if (!is_open(reader)) {
		PyBuffer_Release(&view);
		return NULL;
	}
	if (view.ndim != 1 || view.shape[0] != reader->pages.header.nr_entries ||
	    view.itemsize != sizeof(struct row) || (uintptr_t)view.buf % _Alignof(struct row)) {
		PyErr_Format(PyExc_ValueError,
			     "out is not one aligned row of SNAPSHOT for each of %u CPUs",
			     reader->pages.header.nr_entries);
		PyBuffer_Release(&view);
		return NULL;
	}
	do {
		outcome = pages_snapshot(&reader->pages, view.buf);
	} while (outcome == BUSY && nap(reader, &naps));
	PyBuffer_Release(&view);

	if (outcome == OK)
		Py_RETURN_NONE;
	if (!PyErr_Occurred())
		refuse_outcome(reader, outcome);
	return NULL;
}

/*
 * _observe(cpu, other, duration_ns, gap_ns, stop): the bytes of an observation. It
 * lasts, so it runs without the GIL, on an index decoded for it alone.
 */
static PyObject *reader_observe(PyObject *self, PyObject *args)
{
	struct reader *reader = (struct reader *)self;
	struct observation observation;
	struct mapping *mapping;
	struct errand errand;
	struct pages pages;
	unsigned long long duration_ns, gap_ns;
	enum outcome outcome;
	Py_buffer stop;

	if (!PyArg_ParseTuple(args, "IIKKy*", &errand.cpu, &errand.other, &duration_ns, &gap_ns,
			      &stop))
		return NULL;
	errand.duration_ns = duration_ns;
	errand.gap_ns = gap_ns;
	errand.stop = stop.buf;
	if (!is_open(reader))
		goto release_stop;
	if (errand.cpu >= reader->pages.header.nr_entries ||
	    errand.other >= reader->pages.header.nr_entries || !stop.len) {
		PyErr_SetString(PyExc_ValueError, "no such CPU, or nothing to stop it by");
		goto release_stop;
	}
	mapping = reader->mapping;
	/* A file's witness is the reader's own; the reader finds out afterwards what became of it. */
	if (!pages_init(&pages, mapping->base, NULL, &reader->pages.header)) {
		PyErr_NoMemory();
		goto release_stop;
	}

	Py_INCREF((PyObject *)mapping); /* it outlasts a close() meanwhile */
	Py_BEGIN_ALLOW_THREADS
	outcome = observe(&pages, &errand, &observation);
	Py_END_ALLOW_THREADS
	Py_DECREF(mapping);
	PyBuffer_Release(&stop);
	pages_exit(&pages);

	if (outcome != OK) {
		reader->pages.bad_cpu = pages.bad_cpu;
		refuse_outcome(reader, outcome);
		return NULL;
	}
	return PyBytes_FromStringAndSize((const char *)&observation, sizeof(observation));

release_stop:
	PyBuffer_Release(&stop);
	return NULL;
}

/* _map(fd, header): the caller has checked the header, and can say what is wrong with it. */
static PyObject *reader_map(PyObject *self, PyTypeObject *reader_type, PyObject *const *args,
			    Py_ssize_t nargs, PyObject *kwnames)
{
	struct native *native = PyType_GetModuleState(reader_type);
	struct reader *reader = (struct reader *)self;
	struct guestpv_header header;
	struct mapping *mapping;
	char *bytes;
	Py_ssize_t size;
	long fd;

	if (nargs != 2 || kwnames || reader->mapping) {
		PyErr_SetString(PyExc_TypeError, "_map() takes a file and its header, once");
		return NULL;
	}
	fd = PyLong_AsLong(args[0]);
	if (PyErr_Occurred() || PyBytes_AsStringAndSize(args[1], &bytes, &size) < 0)
		return NULL;
	if (size != sizeof(header) || !pages_header_fits(memcpy(&header, bytes, size))) {
		PyErr_SetString(PyExc_ValueError, "the header is not consistent");
		return NULL;
	}

	mapping = mapping_make(native->mapping_type, fd, header.size);
	if (!mapping)
		return NULL;
	if (!pages_init(&reader->pages, mapping->base, mapping->file, &header)) {
		Py_DECREF(mapping);
		return PyErr_NoMemory();
	}
	reader->mapping = mapping;
	Py_RETURN_NONE;
}

static PyObject *reader_close(PyObject *self, PyObject *unused)
{
	struct reader *reader = (struct reader *)self;

	(void)unused;
	pages_exit(&reader->pages);
	Py_CLEAR(reader->mapping);
	Py_RETURN_NONE;
}

static void reader_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);
	freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);

	Py_XDECREF(reader_close(self, NULL));
	free_object(self);
	Py_DECREF(type);
}

static PyObject *reader_memory(PyObject *self, void *unused)
{
	struct reader *reader = (struct reader *)self;

	(void)unused;
	return is_open(reader) ? PyMemoryView_FromObject((PyObject *)reader->mapping) : NULL;
}

static PyMethodDef reader_methods[] = {
	{ "stolen_ns", reader_stolen_ns, METH_O, NULL },
	{ "read", (PyCFunction)(void (*)(void))reader_read,
	  METH_METHOD | METH_FASTCALL | METH_KEYWORDS, NULL },
	{ "close", reader_close, METH_NOARGS, NULL },
	{ "_fill", reader_fill, METH_O, NULL },
	{ "_observe", reader_observe, METH_VARARGS, NULL },
	{ "_map", (PyCFunction)(void (*)(void))reader_map,
	  METH_METHOD | METH_FASTCALL | METH_KEYWORDS, NULL },
	{ NULL },
};

static PyGetSetDef reader_getset[] = {
	{ "memory", reader_memory, NULL, NULL, NULL },
	{ NULL },
};

static PyType_Slot reader_slots[] = {
	{ Py_tp_doc, "The ordered loads from a mapping of the device or of a page image." },
	{ Py_tp_dealloc, reader_dealloc },
	{ Py_tp_methods, reader_methods },
	{ Py_tp_getset, reader_getset },
	{ 0 },
};

PyType_Spec reader_spec = {
	.name = "guestpv._native.NativeReader",
	.basicsize = sizeof(struct reader),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = reader_slots,
};
