// SPDX-License-Identifier: MIT
/*
 * What no reader in C can be faster than: a method that returns a fresh int and
 * does nothing else, and a loop over the lines of the structures that does no
 * more than fill the rows of a snapshot with what it finds there.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>

static PyObject *fresh_int(PyObject *self, PyObject *cpu)
{
	(void)self;
	(void)cpu;
	return PyLong_FromUnsignedLongLong(1000000000000);
}

struct structure {
	uint64_t word;
	uint64_t stolen_ns;
	uint64_t unused[6];
};

/* A row of SNAPSHOT: what is not the count is the same for all */
struct row {
	uint64_t index[4];
	uint64_t stolen_ns;
	uint64_t rest[2];
};

/* loop(structures, rows): both as buffers, as many of one as of the other */
static PyObject *loop(PyObject *self, PyObject *args)
{
	Py_buffer structures, rows;
	const struct structure *structure;
	struct row *row, *end;
	uint64_t words = 0;

	(void)self;
	if (!PyArg_ParseTuple(args, "y*w*", &structures, &rows))
		return NULL;
	structure = structures.buf;
	end = (struct row *)rows.buf + rows.len / sizeof(*row);
	for (row = rows.buf; row < end; row++, structure++) {
		words |= structure->word;
		*row = (struct row) { .stolen_ns = structure->stolen_ns };
	}
	PyBuffer_Release(&structures);
	PyBuffer_Release(&rows);
	return PyBool_FromLong(!words);
}

static PyMethodDef methods[] = {
	{ "fresh_int", fresh_int, METH_O, NULL },
	{ 0 },
};

static PyType_Slot slots[] = {
	{ Py_tp_methods, methods },
	{ 0 },
};

static PyType_Spec spec = {
	.name = "limit.Limit",
	.basicsize = sizeof(PyObject),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = slots,
};

static int exec(PyObject *module)
{
	PyObject *type = PyType_FromSpec(&spec);

	return type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
}

static PyMethodDef functions[] = {
	{ "loop", loop, METH_VARARGS, NULL },
	{ 0 },
};

static PyModuleDef_Slot module_slots[] = {
	{ Py_mod_exec, exec },
	{ 0 },
};

static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "limit",
	.m_methods = functions,
	.m_slots = module_slots,
};

PyMODINIT_FUNC PyInit_limit(void)
{
	return PyModuleDef_Init(&module);
}
