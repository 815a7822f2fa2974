/* SPDX-License-Identifier: MIT */
/*
 * What guestpv.source.mapped.MappedReader is made on. It is made open, and once
 * closed it stays so. Errors are raised by a function that it is given: the texts
 * are in Python.
 */
#include "native.h"

#include <string.h>
#include <time.h>

#include "jitter.h"
#include "observer.h"

#define NAP_NS 1000000
#define MAX_NAPS 1000

#define always_inline inline __attribute__((always_inline))
#define cold __attribute__((cold, noinline))

struct reader {
	PyObject_HEAD
	struct mapping *mapping; /* NULL when closed */
	struct pages pages;
	PyObject *refuse;
	PyTypeObject *reading_type;
	PyTypeObject *view_type;
};

/* Raise what refuse(reader, what, cpu, *facts) makes of it. */
static cold void refuse(struct reader *reader, const char *what, PyObject *cpu, uint32_t first,
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

/*
 * The number of a CPU, as Python has it. May be called once only, and whatever is
 * asked of the reader is asked afterwards: an __index__() written in Python may do
 * anything. What is no number is -1, with an exception set.
 */
static long long cpu_number(PyObject *cpu)
{
	int overflow;

	return PyLong_AsLongLongAndOverflow(cpu, &overflow);
}

/* The sample of a CPU that has a structure; false with an exception set. */
static bool sample_present(struct reader *reader, PyObject *cpu, long long number,
			   struct sample *sample)
{
	enum outcome outcome;
	int naps = 0;

	if ((number == -1 && PyErr_Occurred()) || !is_open(reader))
		return false;
	if (number < 0 || number >= reader->pages.header.nr_entries) {
		refuse(reader, "no cpu", cpu, 0, 0);
		return false;
	}
	do {
		outcome = pages_read(&reader->pages, number, sample);
	} while (outcome == BUSY && nap(reader, &naps));

	if (outcome == OK && sample->present)
		return true;
	if (outcome == OK)
		refuse(reader, "no structure", cpu, reader->pages.cpus[number].head.state,
		       reader->pages.cpus[number].head.fault);
	else if (!PyErr_Occurred())
		refuse_outcome(reader, outcome);
	return false;
}

/* What a method makes of a sample whose count may be interpreted */
typedef PyObject *make_fn(const struct reader *reader, const struct sample *sample);

static cold PyObject *read_or_refuse(struct reader *reader, PyObject *cpu, long long number,
				     make_fn *make)
{
	struct sample sample;

	if (!sample_present(reader, cpu, number, &sample))
		return NULL;
	if (!sample.word)
		return make(reader, &sample);
	refuse(reader, "unknown", cpu, sample.word, sample.word >> 32);
	return NULL;
}

/* What there is to do in nearly all reads, in one piece; all else is elsewhere. */
static always_inline PyObject *read_cpu(PyObject *self, PyObject *cpu, make_fn *make)
{
	struct reader *reader = (struct reader *)self;
	struct sample sample;
	long long number = cpu_number(cpu);

	/* A reader that is closed has no CPUs. */
	if ((unsigned long long)number < reader->pages.header.nr_entries &&
	    pages_read_now(&reader->pages, number, &sample) && sample.present && !sample.word)
		return make(reader, &sample);
	return read_or_refuse(reader, cpu, number, make);
}

static PyObject *make_int(const struct reader *Py_UNUSED(reader), const struct sample *sample)
{
	return PyLong_FromUnsignedLongLong(sample->stolen_ns);
}

static PyObject *make_reading(const struct reader *reader, const struct sample *sample)
{
	return reading_make(reader->reading_type, sample->word, sample->stolen_ns, sample->epoch);
}

static PyObject *reader_stolen_ns(PyObject *self, PyObject *cpu)
{
	return read_cpu(self, cpu, make_int);
}

static PyObject *reader_read(PyObject *self, PyObject *cpu)
{
	return read_cpu(self, cpu, make_reading);
}

/* _header(), _entries() and _structure(cpu): memoryviews of all that is vouched for */
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
	long long number = cpu_number(cpu);
	struct sample sample;

	if (!sample_present(reader, cpu, number, &sample))
		return NULL;
	return view_make(reader->view_type, reader->mapping, reader->pages.cpus[number].structure,
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

/* What is meant to last */
typedef enum outcome lasting_fn(struct pages *pages, void *context);

/* It runs without the GIL, on an index decoded for it alone. False with an exception set. */
static bool run_lasting(struct reader *reader, lasting_fn *run, void *context)
{
	struct mapping *mapping = reader->mapping;
	enum outcome outcome;
	struct pages pages;

	/* A file's witness is under the GIL: the file is asked afterwards what became of it. */
	if (!pages_init(&pages, mapping->base, NULL, &reader->pages.header)) {
		PyErr_NoMemory();
		return false;
	}
	Py_INCREF((PyObject *)mapping); /* it outlasts a close() meanwhile */
	Py_BEGIN_ALLOW_THREADS
	outcome = run(&pages, context);
	Py_END_ALLOW_THREADS
	pages.file = mapping->file;
	if (pages.file && pages_verify_file(&pages) != OK)
		outcome = pages_verify_file(&pages);
	pages_exit(&pages);
	Py_DECREF((PyObject *)mapping);

	if (outcome == OK)
		return true;
	reader->pages.bad_cpu = pages.bad_cpu;
	refuse_outcome(reader, outcome);
	return false;
}

struct observe_context {
	struct observe_args args;
	struct observation observation;
};

static enum outcome run_observe(struct pages *pages, void *context)
{
	struct observe_context *observe_context = context;

	return observe(pages, &observe_context->args, &observe_context->observation);
}

/* observe(cpu, other, duration_ns, gap_ns, long_ns, stop, log): the bytes of an observation */
static PyObject *reader_observe(PyObject *self, PyObject *tuple)
{
	struct reader *reader = (struct reader *)self;
	struct observe_context context;
	struct observe_args *args = &context.args;
	unsigned long long duration_ns, gap_ns, long_ns;
	PyObject *result = NULL;
	Py_buffer stop, log;

	if (!PyArg_ParseTuple(tuple, "IIKKKy*w*", &args->cpu, &args->other, &duration_ns, &gap_ns,
			      &long_ns, &stop, &log))
		return NULL;
	args->duration_ns = duration_ns;
	args->gap_ns = gap_ns;
	args->long_ns = long_ns;
	args->stop = stop.buf;
	args->log = log.buf;
	args->log_size = log.len / sizeof(*args->log);
	if (!is_open(reader))
		goto release;
	if (args->cpu >= reader->pages.header.nr_entries ||
	    args->other >= reader->pages.header.nr_entries || !stop.len) {
		PyErr_SetString(PyExc_ValueError, "no such CPU, or nothing to stop it by");
		goto release;
	}
	if (run_lasting(reader, run_observe, &context))
		result = PyBytes_FromStringAndSize((const char *)&context.observation,
						   sizeof(context.observation));
release:
	PyBuffer_Release(&stop);
	PyBuffer_Release(&log);
	return result;
}

struct jitter_context {
	struct jitter_args args;
	struct tally tally;
};

static enum outcome run_jitter(struct pages *pages, void *context)
{
	struct jitter_context *jitter_context = context;

	return jitter(pages, &jitter_context->args, &jitter_context->tally);
}

/* @reader is NULL where there is none. */
static PyObject *watch_jitter(struct reader *reader, PyObject *tuple)
{
	struct jitter_context context = { 0 };
	struct jitter_args *args = &context.args;
	struct tally *tally = &context.tally;
	unsigned long long duration_ns, threshold, limit_ns;
	Py_buffer stop, noise, histogram, worst;
	PyObject *result = NULL;

	if (!PyArg_ParseTuple(tuple, "IKKKw*w*w*w*", &args->cpu, &duration_ns, &threshold,
			      &limit_ns, &stop, &noise, &histogram, &worst))
		return NULL;
	args->duration_ns = duration_ns;
	args->threshold = threshold;
	args->limit_ns = limit_ns;
	args->stop = stop.buf;
	tally->noise = noise.buf;
	tally->histogram = histogram.buf;
	tally->worst = worst.buf;
	tally->nr_worst = worst.len / sizeof(*tally->worst);
	if (reader && !is_open(reader))
		goto release;
	if ((reader && args->cpu >= reader->pages.header.nr_entries) || !stop.len ||
	    noise.len != sizeof(*tally->noise) ||
	    histogram.len != TALLY_BUCKETS * sizeof(*tally->histogram)) {
		PyErr_SetString(PyExc_ValueError, "no such CPU, or arrays that do not fit");
		goto release;
	}
	if (reader) {
		if (run_lasting(reader, run_jitter, &context))
			result = Py_NewRef(Py_None);
	} else {
		Py_BEGIN_ALLOW_THREADS
		run_jitter(NULL, &context);
		Py_END_ALLOW_THREADS
		result = Py_NewRef(Py_None);
	}
release:
	PyBuffer_Release(&stop);
	PyBuffer_Release(&noise);
	PyBuffer_Release(&histogram);
	PyBuffer_Release(&worst);
	return result;
}

static PyObject *reader_jitter(PyObject *self, PyObject *tuple)
{
	return watch_jitter((struct reader *)self, tuple);
}

PyObject *jitter_without_counts(PyObject *Py_UNUSED(module), PyObject *tuple)
{
	return watch_jitter(NULL, tuple);
}

static struct reader *reader_alloc(PyTypeObject *type, const struct native *native)
{
	allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
	struct reader *reader = (struct reader *)alloc(type, 0);

	if (!reader)
		return NULL;
	Py_INCREF((PyObject *)native->reading_type);
	Py_INCREF((PyObject *)native->view_type);
	reader->reading_type = native->reading_type;
	reader->view_type = native->view_type;
	return reader;
}

/* Of NativeReader, or of a class that Python made on it: that one has no module of its own. */
static struct native *native_of(PyTypeObject *type)
{
	struct native *native;

	while (!(native = PyType_GetModuleState(type))) {
		PyErr_Clear();
		type = PyType_GetSlot(type, Py_tp_base);
	}
	return native;
}

/* NativeReader(fd, header, refuse): the caller has checked the header, and says what is wrong. */
static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	struct native *native = native_of(type);
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
	reader = reader_alloc(type, native);
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

static PyObject *reader_own_reads(PyObject *cls, PyObject *unused);

#define NR_READS 3 /* those that are called the most; they come first */

static PyMethodDef reader_methods[] = {
	{ "stolen_ns", reader_stolen_ns, METH_O,
	  "stolen_ns($self, cpu, /)\n--\n\n"
	  "Raw stolen time of a CPU in nanoseconds. Raises as read does." },
	{ "read", reader_read, METH_O,
	  "read($self, cpu, /)\n--\n\n"
	  "One CPU's structure as a whole, with its epoch: a Reading.\n\n"
	  "Raises NoSuchCpuError, StructureError, BusyError, FormatError, and ValueError when closed." },
	{ "_fill", reader_fill, METH_O,
	  "_fill($self, rows, /)\n--\n\n"
	  "Fill an array of SNAPSHOT, a row for each CPU." },
	{ "close", reader_close, METH_NOARGS,
	  "close($self, /)\n--\n\n"
	  "Let go of the mapping, for good. May be called twice; reading afterwards is a ValueError.\n\n"
	  "What was got from header, entries and structure stays good, and keeps the mapping." },
	{ "observe", reader_observe, METH_VARARGS,
	  "observe($self, cpu, other, duration_ns, gap_ns, long_ns, stop, log, /)\n--\n\n"
	  "For guestpv.latency.observation: sample a CPU's count for so long.\n\n"
	  "Returns the bytes of an OBSERVATION without its last field." },
	{ "jitter", reader_jitter, METH_VARARGS,
	  "jitter($self, cpu, duration_ns, threshold, limit_ns, stop, noise, histogram, worst, /)\n--\n\n"
	  "For guestpv.latency.jitter: tally the gaps in the calling thread's time, into arrays." },
	{ "_header", reader_header, METH_NOARGS,
	  "_header($self, /)\n--\n\n"
	  "The index's header, live: a memoryview." },
	{ "_entries", reader_entries, METH_NOARGS,
	  "_entries($self, /)\n--\n\n"
	  "The index's entries, live: a memoryview." },
	{ "_structure", reader_structure, METH_O,
	  "_structure($self, cpu, /)\n--\n\n"
	  "The 64 bytes of a CPU's structure, live: a memoryview. Raises as read does." },
	{ "_own_reads", reader_own_reads, METH_NOARGS | METH_CLASS,
	  "_own_reads($type, /)\n--\n\n"
	  "Give a class stolen_ns, read and _fill as methods of its own: they are called faster so." },
	{ 0 },
};

/*
 * _own_reads(): the class itself gets the reads. From a base, too, it would have
 * them, but Python calls a method in C directly only if the object is of the very
 * type that the method is of.
 */
static PyObject *reader_own_reads(PyObject *cls, PyObject *Py_UNUSED(unused))
{
	for (int nr = 0; nr < NR_READS; nr++) {
		PyMethodDef *method = &reader_methods[nr];
		PyObject *own = PyDescr_NewMethod((PyTypeObject *)cls, method);
		int err = own ? PyObject_SetAttrString(cls, method->ml_name, own) : -1;

		Py_XDECREF(own);
		if (err)
			return NULL;
	}
	Py_RETURN_NONE;
}

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
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = reader_slots,
};
