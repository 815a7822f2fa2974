/* SPDX-License-Identifier: MIT */
#include "native.h"

#include <structmember.h>

/* Not a tuple: making four ints for it would take longer than the read. */
typedef struct {
	PyObject_HEAD
	uint32_t revision;
	uint32_t attributes;
	uint64_t stolen_ns;
	uint32_t epoch;
} Reading;

PyObject *reading_make(PyTypeObject *type, const struct sight *sight)
{
	Reading *reading = PyObject_New(Reading, type);

	if (!reading)
		return NULL;
	reading->revision = sight->word;
	reading->attributes = sight->word >> 32;
	reading->stolen_ns = sight->stolen_ns;
	reading->epoch = sight->epoch;
	return (PyObject *)reading;
}

static PyObject *reading_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "revision", "attributes", "stolen_ns", "epoch", NULL };
	unsigned int revision, attributes, epoch;
	unsigned long long stolen_ns;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "IIKI", names, &revision, &attributes,
					 &stolen_ns, &epoch))
		return NULL;
	return reading_make(type, &(struct sight) {
		.word = (uint64_t)attributes << 32 | revision,
		.stolen_ns = stolen_ns,
		.epoch = epoch,
	});
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

PyType_Spec reading_spec = {
	.name = "guestpv.Reading",
	.basicsize = sizeof(Reading),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = reading_slots,
};
