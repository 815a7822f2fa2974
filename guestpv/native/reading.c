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

PyObject *reading_make(PyTypeObject *type, uint64_t word, uint64_t stolen_ns, uint32_t epoch)
{
	Reading *reading = PyObject_New(Reading, type);

	if (!reading)
		return NULL;
	reading->revision = word;
	reading->attributes = word >> 32;
	reading->stolen_ns = stolen_ns;
	reading->epoch = epoch;
	return (PyObject *)reading;
}

/* Converters for PyArg_Parse: its own "I" and "K" wrap. */
static int to_u64(PyObject *number, void *to)
{
	unsigned long long value = PyLong_AsUnsignedLongLong(number);

	if (PyErr_Occurred())
		return 0;
	*(uint64_t *)to = value;
	return 1;
}

static int to_u32(PyObject *number, void *to)
{
	uint64_t value;

	if (!to_u64(number, &value))
		return 0;
	if (value > UINT32_MAX) {
		PyErr_SetString(PyExc_OverflowError, "more than 32 bits");
		return 0;
	}
	*(uint32_t *)to = value;
	return 1;
}

static PyObject *reading_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	static char *names[] = { "revision", "attributes", "stolen_ns", "epoch", NULL };
	uint32_t revision, attributes, epoch;
	uint64_t stolen_ns;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&O&O&", names, to_u32, &revision,
					 to_u32, &attributes, to_u64, &stolen_ns, to_u32, &epoch))
		return NULL;
	return reading_make(type, (uint64_t)attributes << 32 | revision, stolen_ns, epoch);
}

static void reading_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	PyObject_Free(self);
	Py_DECREF((PyObject *)type);
}

static PyObject *reading_repr(PyObject *self)
{
	Reading *reading = (Reading *)self;

	return PyUnicode_FromFormat("Reading(revision=%u, attributes=%u, stolen_ns=%llu, epoch=%u)",
				    reading->revision, reading->attributes,
				    (unsigned long long)reading->stolen_ns, reading->epoch);
}

static PyObject *reading_fields(const Reading *reading)
{
	return Py_BuildValue("IIKI", reading->revision, reading->attributes,
			     (unsigned long long)reading->stolen_ns, reading->epoch);
}

static PyObject *reading_compare(PyObject *self, PyObject *other, int operation)
{
	const Reading *a = (Reading *)self, *b = (Reading *)other;
	bool equal;

	if ((operation != Py_EQ && operation != Py_NE) || Py_TYPE(self) != Py_TYPE(other))
		Py_RETURN_NOTIMPLEMENTED;
	equal = a->revision == b->revision && a->attributes == b->attributes &&
		a->stolen_ns == b->stolen_ns && a->epoch == b->epoch;
	return PyBool_FromLong(equal == (operation == Py_EQ));
}

static Py_hash_t reading_hash(PyObject *self)
{
	PyObject *fields = reading_fields((Reading *)self);
	Py_hash_t hash = fields ? PyObject_Hash(fields) : -1;

	Py_XDECREF(fields);
	return hash;
}

/* For copy and pickle */
static PyObject *reading_reduce(PyObject *self, PyObject *Py_UNUSED(unused))
{
	PyObject *fields = reading_fields((Reading *)self);

	return fields ? Py_BuildValue("ON", Py_TYPE(self), fields) : NULL;
}

static PyMethodDef reading_methods[] = {
	{ "__reduce__", reading_reduce, METH_NOARGS, NULL },
	{ 0 },
};

static PyMemberDef reading_members[] = {
	{ "revision", T_UINT, offsetof(Reading, revision), READONLY, "revision: 0" },
	{ "attributes", T_UINT, offsetof(Reading, attributes), READONLY, "attributes: 0" },
	{ "stolen_ns", T_ULONGLONG, offsetof(Reading, stolen_ns), READONLY,
	  "raw stolen time in nanoseconds" },
	{ "epoch", T_UINT, offsetof(Reading, epoch), READONLY,
	  "goes up each time the count is known to have started again; 0: unknown" },
	{ 0 },
};

static PyType_Slot reading_slots[] = {
	{ Py_tp_doc, "Reading(revision, attributes, stolen_ns, epoch)\n--\n\n"
		     "What one read of a CPU's structure gave (DEN0057A, 3.2.2), with its epoch." },
	{ Py_tp_new, reading_new },
	{ Py_tp_dealloc, reading_dealloc },
	{ Py_tp_repr, reading_repr },
	{ Py_tp_richcompare, reading_compare },
	{ Py_tp_hash, reading_hash },
	{ Py_tp_methods, reading_methods },
	{ Py_tp_members, reading_members },
	{ 0 },
};

PyType_Spec reading_spec = {
	.name = "guestpv.Reading",
	.basicsize = sizeof(Reading),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = reading_slots,
};
