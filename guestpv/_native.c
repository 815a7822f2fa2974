/* SPDX-License-Identifier: MIT */
/*
 * What Python has no means for: memory order. A structure is shared with a
 * hypervisor and the index with the kernel module, and both write while we read.
 *
 * Errors are raised in Python, by the subclass's _refuse(): the texts are there.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <endian.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guestpv.h"

#define STRUCTURE_ALIGNMENT 64 /* DEN0057A, 3.2.2 */
#define PATIENCE_NS 1000000000LL
#define NO_SEQUENCE UINT64_MAX /* not one of 32 bits */

/* A row of guestpv.SNAPSHOT; the first part is what the index says. */
struct row {
	struct {
		uint32_t cpu;
		uint32_t epoch;
		uint8_t state, origin, fault, valid;
		uint32_t revision;
	} known;
	uint32_t attributes;
	uint32_t padding;
	uint64_t stolen_ns;
	uint64_t monotonic_ns;
};

/* What is known of one CPU, from the index, as long as its sequence stands. */
struct cpu {
	const uint64_t *structure; /* revision and attributes; then stolen_time. NULL: none */
	__typeof__(((struct row *)0)->known) known; /* valid, unless the structure says otherwise */
};

typedef struct mapping {
	PyObject_HEAD
	const uint8_t *base; /* NULL when closed */
	size_t size;
	bool closed;
	_Atomic bool cut; /* a page was gone: the file was cut short */
	struct mapping *next; /* the mapped files, for the handler of SIGBUS */
	bool is_file;
	uint64_t sequence; /* for which .cpus is true, or NO_SEQUENCE */
	uint32_t nr_cpus;
	struct cpu *cpus;
	PyTypeObject *reading_type;
} Mapping;

enum outcome { OK, NO_STRUCTURE, UNKNOWN, BUSY, MALFORMED, CUT };

static uint64_t load_acquire(const uint64_t *word)
{
	return atomic_load_explicit((const _Atomic uint64_t *)word, memory_order_acquire);
}

static uint32_t sequence_acquire(const Mapping *map)
{
	const struct guestpv_header *header = (const void *)map->base;

	return atomic_load_explicit((const _Atomic uint32_t *)&header->sequence,
				    memory_order_acquire);
}

static uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/* Whether to go on trying; the clock is not asked each time. */
struct patience {
	uint32_t tries;
	uint64_t deadline_ns;
};

static bool patient(struct patience *patience)
{
	if (++patience->tries % 1024)
		return true;
	sched_yield();
	if (!patience->deadline_ns)
		patience->deadline_ns = monotonic_ns() + PATIENCE_NS;
	return monotonic_ns() < patience->deadline_ns;
}

/* ---- files that are cut short while they are mapped ---------------------- */

/*
 * Touching a page that a file no longer has raises SIGBUS. The handler puts a
 * page in its place in which every revision is unknown, and takes a note; who
 * reads looks at the note afterwards. The device needs none of this: a page of
 * it never goes while it is mapped.
 */
static Mapping *_Atomic mapped_files;
static struct sigaction previous_action;

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	uintptr_t page = (uintptr_t)info->si_addr & -(uintptr_t)sysconf(_SC_PAGESIZE);

	for (Mapping *map = mapped_files; map; map = map->next) {
		void *fresh;

		if (page - (uintptr_t)map->base >= map->size)
			continue;
		fresh = mmap((void *)page, sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE,
			     MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (fresh == MAP_FAILED)
			break;
		memset(fresh, 0xff, sysconf(_SC_PAGESIZE));
		atomic_store(&map->cut, true);
		return;
	}

	/* Not ours. */
	if (previous_action.sa_flags & SA_SIGINFO) {
		previous_action.sa_sigaction(signal, info, context);
	} else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
		previous_action.sa_handler(signal);
	} else {
		/* The instruction is run again, and this time it kills. */
		sigaction(SIGBUS, &previous_action, NULL);
	}
}

static void watch_file(Mapping *map)
{
	struct sigaction current, action = { .sa_flags = SA_SIGINFO | SA_ONSTACK };

	action.sa_sigaction = on_sigbus;
	sigaction(SIGBUS, NULL, &current);
	if (!(current.sa_flags & SA_SIGINFO) || current.sa_sigaction != on_sigbus)
		sigaction(SIGBUS, &action, &previous_action);

	map->next = mapped_files;
	mapped_files = map;
}

static void unwatch_file(Mapping *map)
{
	if (mapped_files == map) {
		mapped_files = map->next;
		return;
	}
	for (Mapping *other = mapped_files; other; other = other->next)
		if (other->next == map)
			other->next = map->next;
}

/* ---- the index ----------------------------------------------------------- */

static bool fits(const Mapping *map, uint64_t offset, uint64_t index_size)
{
	return offset % STRUCTURE_ALIGNMENT == 0 && offset >= index_size &&
	       offset <= map->size - sizeof(struct guestpv_stolen_time);
}

/* Copy what is of use from the index; false if it says what cannot be. */
static bool copy_index(Mapping *map)
{
	const struct guestpv_header *header = (const void *)map->base;
	uint64_t index_size = header->header_size + (uint64_t)map->nr_cpus * header->entry_size;

	for (uint32_t cpu = 0; cpu < map->nr_cpus; cpu++) {
		struct guestpv_entry entry;

		memcpy(&entry, map->base + header->header_size + (size_t)cpu * header->entry_size,
		       sizeof(entry));
		if (entry.offset && !fits(map, entry.offset, index_size))
			return false;
		map->cpus[cpu] = (struct cpu) {
			.structure = entry.offset ? (const void *)(map->base + entry.offset) : NULL,
			.known.cpu = cpu,
			.known.epoch = entry.epoch,
			.known.state = entry.state,
			.known.origin = entry.origin,
			.known.fault = entry.fault,
			.known.valid = entry.offset != 0,
		};
	}
	return true;
}

static enum outcome refresh(Mapping *map)
{
	struct patience patience = { 0 };

	map->sequence = NO_SEQUENCE;
	do {
		/* Pairs with the module's release of the even count (change_end()). */
		uint32_t before = sequence_acquire(map);
		bool good;

		if (map->cut)
			return CUT;
		if (before & 1)
			continue;
		good = copy_index(map);
		/* What was copied was loaded before the count is loaded again. Pairs with
		 * the module's barrier after the odd count (change_begin()). */
		atomic_thread_fence(memory_order_acquire);
		if (sequence_acquire(map) != before)
			continue;
		if (map->cut)
			return CUT;
		if (!good)
			return MALFORMED;
		map->sequence = before;
		return OK;
	} while (patient(&patience));
	return BUSY;
}

/* ---- reading ------------------------------------------------------------- */

/* Revision and attributes as one word, and the count that they stand for. */
struct sight {
	uint64_t word;
	uint64_t stolen_ns;
};

/*
 * The hypervisor changes stolen_time alone and with one store; revision and
 * attributes it sets before the guest knows of the structure, and again when
 * the VM goes on elsewhere. So the count is loaded between two loads of them.
 */
static bool look(const uint64_t *structure, struct sight *sight)
{
	/* Acquire: before the count. Pairs with the hypervisor's order of stores. */
	sight->word = load_acquire(&structure[0]);
	/* Acquire: before the second look. */
	sight->stolen_ns = le64toh(load_acquire(&structure[1]));
	/* Acquire: before the sequence is loaded again, by our caller. */
	return load_acquire(&structure[0]) == sight->word;
}

static enum outcome read_cpu(Mapping *map, uint32_t nr, struct sight *sight)
{
	const struct cpu *cpu = &map->cpus[nr];
	struct patience patience = { 0 };

	do {
		if (sequence_acquire(map) != map->sequence) {
			enum outcome outcome = refresh(map);

			if (outcome != OK)
				return outcome;
		}
		if (!cpu->structure)
			return NO_STRUCTURE;
		/* Pairs with the module's barrier after the odd count (change_begin()). */
		if (look(cpu->structure, sight) && sequence_acquire(map) == map->sequence) {
			if (map->cut)
				return CUT;
			return sight->word ? UNKNOWN : OK;
		}
	} while (patient(&patience));
	return BUSY;
}

static void mark_unknown(struct row *row, uint64_t word)
{
	row->known.valid = false;
	row->known.revision = word;
	row->attributes = word >> 32;
	row->stolen_ns = 0;
}

static enum outcome read_all(Mapping *map, struct row *rows)
{
	struct patience patience = { 0 };

	do {
		uint64_t now = monotonic_ns();
		bool whole = true;

		if (sequence_acquire(map) != map->sequence) {
			enum outcome outcome = refresh(map);

			if (outcome != OK)
				return outcome;
		}
		for (uint32_t nr = 0; nr < map->nr_cpus; nr++) {
			const struct cpu *cpu = &map->cpus[nr];
			struct row *row = &rows[nr];
			struct sight sight = { 0 };

			if (cpu->structure)
				whole &= look(cpu->structure, &sight);
			row->known = cpu->known;
			row->attributes = 0;
			row->padding = 0;
			row->stolen_ns = sight.stolen_ns;
			row->monotonic_ns = now;
			if (sight.word)
				mark_unknown(row, le64toh(sight.word));
		}
		/* Pairs with the module's barrier after the odd count (change_begin()). */
		if (whole && sequence_acquire(map) == map->sequence)
			return map->cut ? CUT : OK;
	} while (patient(&patience));
	return BUSY;
}

/* ---- Reading ------------------------------------------------------------- */

/* Not a tuple: making four ints of it would take longer than the read. */
typedef struct {
	PyObject_HEAD
	uint32_t revision;
	uint32_t attributes;
	uint64_t stolen_ns;
	uint32_t epoch;
} Reading;

static PyObject *reading_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "revision", "attributes", "stolen_ns", "epoch", NULL };
	unsigned int revision, attributes, epoch;
	unsigned long long stolen_ns;
	Reading *reading;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IIKI", names, &revision, &attributes,
					 &stolen_ns, &epoch))
		return NULL;
	reading = PyObject_New(Reading, type);
	if (!reading)
		return NULL;
	reading->revision = revision;
	reading->attributes = attributes;
	reading->stolen_ns = stolen_ns;
	reading->epoch = epoch;
	return (PyObject *)reading;
}

static void reading_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	PyObject_Free(self);
	Py_DECREF(type);
}

static PyObject *reading_repr(PyObject *self)
{
	Reading *reading = (Reading *)self;

	return PyUnicode_FromFormat("Reading(revision=%u, attributes=%u, stolen_ns=%llu, epoch=%u)",
				    reading->revision, reading->attributes,
				    (unsigned long long)reading->stolen_ns, reading->epoch);
}

static PyMemberDef reading_members[] = {
	{ "revision", T_UINT, offsetof(Reading, revision), READONLY, "revision: 0" },
	{ "attributes", T_UINT, offsetof(Reading, attributes), READONLY, "attributes: 0" },
	{ "stolen_ns", T_ULONGLONG, offsetof(Reading, stolen_ns), READONLY,
	  "raw stolen time in nanoseconds" },
	{ "epoch", T_UINT, offsetof(Reading, epoch), READONLY,
	  "goes up each time the count is known to have started again; 0: unknown" },
	{ NULL },
};

static PyType_Slot reading_slots[] = {
	{ Py_tp_doc, "What one read of a CPU's structure gave (DEN0057A, 3.2.2), with its epoch." },
	{ Py_tp_new, reading_new },
	{ Py_tp_dealloc, reading_dealloc },
	{ Py_tp_repr, reading_repr },
	{ Py_tp_members, reading_members },
	{ 0 },
};

static PyType_Spec reading_spec = {
	.name = "guestpv.Reading",
	.basicsize = sizeof(Reading),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = reading_slots,
};

/* ---- Mapping ------------------------------------------------------------- */

/* Raise what _refuse() of the subclass makes of it. */
static PyObject *refuse(Mapping *map, const char *outcome, PyObject *cpu, uint64_t word)
{
	PyObject *none = PyObject_CallMethod((PyObject *)map, "_refuse", "sOII", outcome, cpu,
					     (unsigned int)word, (unsigned int)(word >> 32));

	if (none) {
		Py_DECREF(none);
		PyErr_Format(PyExc_SystemError, "_refuse() took %s", outcome);
	}
	return NULL;
}

static PyObject *refuse_outcome(Mapping *map, enum outcome outcome, PyObject *cpu,
				const struct sight *sight)
{
	static const char *const names[] = {
		[NO_STRUCTURE] = "no structure", [UNKNOWN] = "unknown", [BUSY] = "busy",
		[MALFORMED] = "malformed", [CUT] = "cut",
	};

	return refuse(map, names[outcome], cpu, outcome == UNKNOWN ? le64toh(sight->word) : 0);
}

static bool is_closed(const Mapping *map)
{
	if (!map->closed)
		return false;
	PyErr_SetString(PyExc_ValueError, "the reader is closed");
	return true;
}

/* One CPU's sight; false with an exception set. */
static bool sight_of(Mapping *map, PyObject *cpu, struct sight *sight)
{
	enum outcome outcome;
	size_t nr;

	if (is_closed(map))
		return false;
	nr = PyLong_AsSize_t(cpu);
	if (nr >= map->nr_cpus) {
		if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_OverflowError))
			return false;
		PyErr_Clear();
		refuse(map, "no cpu", cpu, 0);
		return false;
	}
	outcome = read_cpu(map, nr, sight);
	if (outcome == OK)
		return true;
	refuse_outcome(map, outcome, cpu, sight);
	return false;
}

static PyObject *mapping_stolen_ns(PyObject *self, PyObject *cpu)
{
	struct sight sight;

	if (!sight_of((Mapping *)self, cpu, &sight))
		return NULL;
	return PyLong_FromUnsignedLongLong(sight.stolen_ns);
}

static PyObject *mapping_read(PyObject *self, PyObject *cpu)
{
	Mapping *map = (Mapping *)self;
	struct sight sight;
	Reading *reading;
	uint64_t word;

	if (!sight_of(map, cpu, &sight))
		return NULL;

	reading = PyObject_New(Reading, map->reading_type);
	if (!reading)
		return NULL;
	word = le64toh(sight.word);
	reading->revision = word;
	reading->attributes = word >> 32;
	reading->stolen_ns = sight.stolen_ns;
	reading->epoch = map->cpus[PyLong_AsSize_t(cpu)].known.epoch;
	return (PyObject *)reading;
}

static PyObject *mapping_fill(PyObject *self, PyObject *rows)
{
	Mapping *map = (Mapping *)self;
	enum outcome outcome;
	Py_buffer view;

	if (is_closed(map))
		return NULL;
	if (PyObject_GetBuffer(rows, &view, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0)
		return NULL;
	if ((size_t)view.len != map->nr_cpus * sizeof(struct row)) {
		PyBuffer_Release(&view);
		PyErr_SetString(PyExc_ValueError, "the array has not one row of SNAPSHOT for each CPU");
		return NULL;
	}
	outcome = read_all(map, view.buf);
	PyBuffer_Release(&view);
	if (outcome != OK)
		return refuse_outcome(map, outcome, Py_None, NULL);
	Py_RETURN_NONE;
}

static PyObject *mapping_close(PyObject *self, PyObject *unused)
{
	(void)unused;
	((Mapping *)self)->closed = true;
	Py_RETURN_NONE;
}

/* Mapping(reading_type, fd, size, nr_cpus): the caller has checked the header's sizes against each other. */
static int mapping_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
	Mapping *map = (Mapping *)self;
	unsigned int nr_cpus;
	unsigned long long size;
	PyObject *reading_type;
	struct stat status;
	void *base;
	int fd;

	if (kwargs || !PyArg_ParseTuple(args, "OiKI", &reading_type, &fd, &size, &nr_cpus))
		return -1;
	if (map->base) {
		PyErr_SetString(PyExc_TypeError, "the mapping is there already");
		return -1;
	}
	base = fstat(fd, &status) ? MAP_FAILED : mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED) {
		PyErr_SetFromErrno(PyExc_OSError);
		return -1;
	}
	map->cpus = PyMem_Calloc(nr_cpus, sizeof(*map->cpus));
	if (!map->cpus) {
		munmap(base, size);
		PyErr_NoMemory();
		return -1;
	}
	map->reading_type = (PyTypeObject *)Py_NewRef(reading_type);
	map->base = base;
	map->size = size;
	map->nr_cpus = nr_cpus;
	map->sequence = NO_SEQUENCE;
	map->is_file = S_ISREG(status.st_mode);
	if (map->is_file)
		watch_file(map);
	return 0;
}

static void mapping_dealloc(PyObject *self)
{
	Mapping *map = (Mapping *)self;
	PyTypeObject *type = Py_TYPE(self);
	freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);

	if (map->base) {
		if (map->is_file)
			unwatch_file(map);
		munmap((void *)map->base, map->size);
	}
	PyMem_Free(map->cpus);
	Py_XDECREF(map->reading_type);
	free_object(self);
	Py_DECREF(type);
}

/* NumPy's view. It holds a reference, so the mapping outlives it. */
static int mapping_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
	Mapping *map = (Mapping *)self;

	return PyBuffer_FillInfo(view, self, (void *)map->base, map->size, 1, flags);
}

static PyMethodDef mapping_methods[] = {
	{ "stolen_ns", mapping_stolen_ns, METH_O, NULL },
	{ "read", mapping_read, METH_O, NULL },
	{ "_fill", mapping_fill, METH_O, NULL },
	{ "close", mapping_close, METH_NOARGS, NULL },
	{ NULL },
};

static PyType_Slot mapping_slots[] = {
	{ Py_tp_doc, "A mapping of the device or of a page image, and the ordered loads from it." },
	{ Py_tp_init, mapping_init },
	{ Py_tp_dealloc, mapping_dealloc },
	{ Py_tp_methods, mapping_methods },
	{ Py_bf_getbuffer, mapping_getbuffer },
	{ 0 },
};

static PyType_Spec mapping_spec = {
	.name = "guestpv._native.Mapping",
	.basicsize = sizeof(Mapping),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
	.slots = mapping_slots,
};

static int add_type(PyObject *module, const char *name, PyObject *type)
{
	int err = type ? PyModule_AddObjectRef(module, name, type) : -1;

	Py_XDECREF(type);
	return err;
}

static int native_exec(PyObject *module)
{
	if (add_type(module, "Reading", PyType_FromSpec(&reading_spec)))
		return -1;
	return add_type(module, "Mapping", PyType_FromModuleAndSpec(module, &mapping_spec, NULL));
}

static PyModuleDef_Slot native_slots[] = {
	{ Py_mod_exec, native_exec },
	{ 0 },
};

static struct PyModuleDef native_module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "guestpv._native",
	.m_doc = "Ordered loads from memory that a hypervisor writes.",
	.m_slots = native_slots,
};

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModuleDef_Init(&native_module);
}
