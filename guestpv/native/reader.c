/* SPDX-License-Identifier: MIT */
/*
 * What guestpv.source.mapped.MappedReader reads with. It is made open, and once
 * closed it stays so. Errors are raised by a function that it is given: the texts
 * are in Python.
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
	PyObject *refuse;
	PyTypeObject *reading_type;
	PyTypeObject *view_type;
};

/* Raise what refuse(reader, what, cpu, *facts) makes of it. */
static void refuse(struct reader *reader, const char *what, PyObject *cpu, uint32_t first,
		   uint32_t second)
{
	PyObject *none = PyObject_CallFunction(reader->refuse, "OsOII", reader, what, cpu, first,
					       second);

	if (none)
		PyErr_Format(PyExc_SystemError, "nothing was raised for '%s'", what);
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
		refuse(reader, what[outcome], cpu, 0, 0);
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
		refuse(reader, "no cpu", cpu, 0, 0);
		return false;
	}
	*nr = number;
	return true;
}

/* The sample of a CPU that has a structure; false with an exception set. */
static bool sample_present(struct reader *reader, PyObject *cpu, struct sample *sample,
			   uint32_t *nr)
{
	enum outcome outcome;
	int naps = 0;

	if (!cpu_number(reader, cpu, nr))
		return false;
	do {
		outcome = pages_read(&reader->pages, *nr, sample);
	} while (outcome == BUSY && nap(reader, &naps));

	if (outcome == OK && sample->present)
		return true;
	if (outcome == OK)
		refuse(reader, "no structure", cpu, reader->pages.cpus[*nr].head.state,
		       reader->pages.cpus[*nr].head.fault);
	else if (!PyErr_Occurred())
		refuse_outcome(reader, outcome);
	return false;
}

/* A sample whose count may be interpreted; false with an exception set. */
static bool sample_known(struct reader *reader, PyObject *cpu, struct sample *sample)
{
	uint32_t nr;

	if (!sample_present(reader, cpu, sample, &nr))
		return false;
	if (!sample->word)
		return true;
	refuse(reader, "unknown", cpu, sample->word, sample->word >> 32);
	return false;
}

static PyObject *reader_stolen_ns(PyObject *self, PyObject *cpu)
{
	struct sample sample;

	if (!sample_known((struct reader *)self, cpu, &sample))
		return NULL;
	return PyLong_FromUnsignedLongLong(sample.stolen_ns);
}

static PyObject *reader_read(PyObject *self, PyObject *cpu)
{
	struct reader *reader = (struct reader *)self;
	struct sample sample;

	if (!sample_known(reader, cpu, &sample))
		return NULL;
	return reading_make(reader->reading_type, &sample);
}

/* header(), entries() and structure(cpu): memoryviews of all that is vouched for */
static PyObject *reader_header(PyObject *self, PyObject *Py_UNUSED(unused))
{
	struct reader *reader = (struct reader *)self;

	if (!is_open(reader))
		return NULL;
	return view_make(reader->view_type, reader->mapping, reader->mapping->base,
			 sizeof(struct guestpv_header));
}

static PyObject *reader_entries(PyObject *self, PyObject *Py_UNUSED(unused))
{
	struct reader *reader = (struct reader *)self;
	const struct guestpv_header *header = &reader->pages.header;

	if (!is_open(reader))
		return NULL;
	return view_make(reader->view_type, reader->mapping,
			 reader->mapping->base + header->header_size,
			 (size_t)header->nr_entries * header->entry_size);
}

static PyObject *reader_structure(PyObject *self, PyObject *cpu)
{
	struct reader *reader = (struct reader *)self;
	struct sample sample;
	uint32_t nr;

	if (!sample_present(reader, cpu, &sample, &nr))
		return NULL;
	return view_make(reader->view_type, reader->mapping, reader->pages.cpus[nr].structure,
			 STRUCTURE_SIZE);
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
 * observe(cpu, other, duration_ns, gap_ns, long_ns, stop, log): the bytes of an
 * observation; the long gaps go into log. It lasts, so it runs without the GIL,
 * on an index decoded for it alone.
 */
static PyObject *reader_observe(PyObject *self, PyObject *tuple)
{
	struct reader *reader = (struct reader *)self;
	struct observation observation;
	struct mapping *mapping;
	struct observe_args args;
	struct pages pages;
	unsigned long long duration_ns, gap_ns, long_ns;
	enum outcome outcome;
	Py_buffer stop, log;

	if (!PyArg_ParseTuple(tuple, "IIKKKy*w*", &args.cpu, &args.other, &duration_ns, &gap_ns,
			      &long_ns, &stop, &log))
		return NULL;
	args.duration_ns = duration_ns;
	args.gap_ns = gap_ns;
	args.long_ns = long_ns;
	args.stop = stop.buf;
	args.log = log.buf;
	args.log_size = log.len / sizeof(*args.log);
	if (!is_open(reader))
		goto release;
	if (args.cpu >= reader->pages.header.nr_entries ||
	    args.other >= reader->pages.header.nr_entries || !stop.len) {
		PyErr_SetString(PyExc_ValueError, "no such CPU, or nothing to stop it by");
		goto release;
	}
	mapping = reader->mapping;
	/* A file's witness is under the GIL: the file is asked afterwards what became of it. */
	if (!pages_init(&pages, mapping->base, NULL, &reader->pages.header)) {
		PyErr_NoMemory();
		goto release;
	}

	Py_INCREF((PyObject *)mapping); /* it outlasts a close() meanwhile */
	Py_BEGIN_ALLOW_THREADS
	outcome = observe(&pages, &args, &observation);
	Py_END_ALLOW_THREADS
	pages.file = mapping->file;
	if (pages.file && pages_verify_file(&pages) != OK)
		outcome = pages_verify_file(&pages);
	pages_exit(&pages);
	Py_DECREF((PyObject *)mapping);
	PyBuffer_Release(&stop);
	PyBuffer_Release(&log);

	if (outcome != OK) {
		reader->pages.bad_cpu = pages.bad_cpu;
		refuse_outcome(reader, outcome);
		return NULL;
	}
	return PyBytes_FromStringAndSize((const char *)&observation, sizeof(observation));

release:
	PyBuffer_Release(&stop);
	PyBuffer_Release(&log);
	return NULL;
}

static struct reader *reader_alloc(PyTypeObject *type)
{
	allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	struct native *native = PyType_GetModuleState(type);
	struct reader *reader = (struct reader *)alloc(type, 0);

	if (!reader)
		return NULL;
	Py_INCREF((PyObject *)native->reading_type);
	Py_INCREF((PyObject *)native->view_type);
	reader->reading_type = native->reading_type;
	reader->view_type = native->view_type;
	return reader;
}

/* NativeReader(fd, header, refuse): the caller has checked the header, and says what is wrong. */
static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	struct native *native = PyType_GetModuleState(type);
	struct guestpv_header header;
	struct reader *reader;
	PyObject *refuse;
	const char *bytes;
	Py_ssize_t size;
	int fd;

	if (kwargs && PyDict_Size(kwargs)) {
		PyErr_SetString(PyExc_TypeError, "NativeReader takes no keywords");
		return NULL;
	}
	if (!PyArg_ParseTuple(args, "iy#O", &fd, &bytes, &size, &refuse))
		return NULL;
	if (size != sizeof(header) || !pages_header_fits(memcpy(&header, bytes, size))) {
		PyErr_SetString(PyExc_ValueError, "the header is not consistent");
		return NULL;
	}
	reader = reader_alloc(type);
	if (!reader)
		return NULL;
	Py_INCREF(refuse);
	reader->refuse = refuse;
	reader->mapping = mapping_make(native->mapping_type, fd, header.size);
	if (!reader->mapping)
		goto fail;
	if (!pages_init(&reader->pages, reader->mapping->base, reader->mapping->file, &header)) {
		PyErr_NoMemory();
		goto fail;
	}
	return (PyObject *)reader;

fail:
	Py_DECREF((PyObject *)reader);
	return NULL;
}

static PyObject *reader_close(PyObject *self, PyObject *Py_UNUSED(unused))
{
	struct reader *reader = (struct reader *)self;

	pages_exit(&reader->pages);
	Py_CLEAR(reader->mapping);
	Py_RETURN_NONE;
}

static void reader_dealloc(PyObject *self)
{
	struct reader *reader = (struct reader *)self;
	PyTypeObject *type = Py_TYPE(self);
	freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);

	Py_XDECREF(reader_close(self, NULL));
	Py_XDECREF(reader->refuse);
	Py_DECREF((PyObject *)reader->reading_type);
	Py_DECREF((PyObject *)reader->view_type);
	free_object(self);
	Py_DECREF((PyObject *)type);
}

static PyMethodDef reader_methods[] = {
	{ "stolen_ns", reader_stolen_ns, METH_O,
	  "stolen_ns($self, cpu, /)\n--\n\n"
	  "Raw stolen time of a CPU in nanoseconds. Raises as read does." },
	{ "read", reader_read, METH_O,
	  "read($self, cpu, /)\n--\n\n"
	  "One CPU's structure as a whole, with its epoch: a Reading.\n\n"
	  "Raises NoSuchCpuError, StructureError, BusyError, FormatError, and ValueError when closed." },
	{ "fill", reader_fill, METH_O,
	  "fill($self, rows, /)\n--\n\n"
	  "Fill an array of SNAPSHOT, a row for each CPU." },
	{ "observe", reader_observe, METH_VARARGS,
	  "observe($self, cpu, other, duration_ns, gap_ns, long_ns, stop, log, /)\n--\n\n"
	  "Sample a CPU's count for so long: the bytes of an OBSERVATION without its last field." },
	{ "header", reader_header, METH_NOARGS,
	  "header($self, /)\n--\n\n"
	  "The index's header, live: a memoryview." },
	{ "entries", reader_entries, METH_NOARGS,
	  "entries($self, /)\n--\n\n"
	  "The index's entries, live: a memoryview." },
	{ "structure", reader_structure, METH_O,
	  "structure($self, cpu, /)\n--\n\n"
	  "The 64 bytes of a CPU's structure, live: a memoryview. Raises as read does." },
	{ "close", reader_close, METH_NOARGS,
	  "close($self, /)\n--\n\n"
	  "Let go of the mapping, for good. Views of it keep it." },
	{ 0 },
};

static PyType_Slot reader_slots[] = {
	{ Py_tp_doc, "NativeReader(fd, header, refuse, /)\n--\n\n"
		     "The ordered loads from a mapping of the device or of a page image.\n\n"
		     "refuse(reader, what, cpu, *facts) raises what was found to be wrong." },
	{ Py_tp_new, reader_new },
	{ Py_tp_dealloc, reader_dealloc },
	{ Py_tp_methods, reader_methods },
	{ 0 },
};

PyType_Spec reader_spec = {
	.name = "guestpv._native.NativeReader",
	.basicsize = sizeof(struct reader),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = reader_slots,
};
