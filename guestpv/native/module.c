/* SPDX-License-Identifier: MIT */
#include "native.h"

#include <errno.h>
#include <sched.h>

#include "counter.h"
#include "store.h"

/*
 * pin(cpu): os.sched_setaffinity() for one CPU, but without the GIL: whoever
 * moves waits for the CPU, for ever if a real-time task keeps it.
 */
static PyObject *pin(PyObject *Py_UNUSED(module), PyObject *arg)
{
	unsigned long cpu = PyLong_AsUnsignedLong(arg);
	size_t size;
	cpu_set_t *set;
	int err;

	if (PyErr_Occurred())
		return NULL;
	size = CPU_ALLOC_SIZE(cpu + 1);
	set = CPU_ALLOC(cpu + 1);
	if (!set)
		return PyErr_NoMemory();
	CPU_ZERO_S(size, set);
	CPU_SET_S(cpu, size, set);
	Py_BEGIN_ALLOW_THREADS
	err = sched_setaffinity(0, size, set) ? errno : 0;
	Py_END_ALLOW_THREADS
	CPU_FREE(set);
	if (err) {
		errno = err;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	Py_RETURN_NONE;
}

static PyObject *counter(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused))
{
	return Py_BuildValue("KK", (unsigned long long)counter_hz(),
			     (unsigned long long)counter_step());
}

static struct words words_of(const Py_buffer *view)
{
	return (struct words){
		.first = view->buf,
		.stride = view->strides[0],
		.count = view->shape[0],
		.size = view->itemsize,
	};
}

/* Whether both are one row, of as many words of one size, which can be stored at once. */
static bool is_storable(const Py_buffer *to, const Py_buffer *from)
{
	struct words words;

	if (to->ndim != 1 || from->ndim != 1 || to->shape[0] != from->shape[0] ||
	    to->itemsize != from->itemsize)
		return false;
	words = words_of(to);
	return words_are_storable(&words);
}

static PyObject *store(PyObject *Py_UNUSED(module), PyObject *args)
{
	PyObject *to, *from, *result = NULL;
	Py_buffer to_view, from_view;

	if (!PyArg_ParseTuple(args, "OO:store", &to, &from) ||
	    PyObject_GetBuffer(to, &to_view, PyBUF_STRIDED) < 0)
		return NULL;
	if (PyObject_GetBuffer(from, &from_view, PyBUF_STRIDED_RO) < 0)
		goto release_to;
	if (is_storable(&to_view, &from_view)) {
		struct words to_words = words_of(&to_view), from_words = words_of(&from_view);

		words_store(&to_words, &from_words);
		result = Py_NewRef(Py_None);
	} else {
		PyErr_SetString(PyExc_ValueError,
				"not two rows of as many words, of 4 or 8 bytes each and aligned");
	}
	PyBuffer_Release(&from_view);
release_to:
	PyBuffer_Release(&to_view);
	return result;
}

static PyMethodDef native_methods[] = {
	{ "pin", pin, METH_O,
	  "pin(cpu, /)\n--\n\n"
	  "Have the calling thread run on a CPU alone. Raises OSError where that can't be." },
	{ "store", store, METH_VARARGS,
	  "store(to, words, /)\n--\n\n"
	  "Store each of a row of words at its place in *to*: by one aligned store each, in their\n"
	  "order, and after all that was stored before (release order). Both are of one dimension\n"
	  "and have words of 4 or 8 bytes; ValueError if they do not fit, or are not aligned." },
	{ "counter", counter, METH_NOARGS,
	  "counter()\n--\n\n"
	  "The rate of the finest clock that there is, in ticks a second, and the ticks of its step." },
	{ "jitter", jitter_without_counts, METH_VARARGS,
	  "jitter(cpu, duration_ns, threshold, limit_ns, stop, noise, histogram, worst, /)\n--\n\n"
	  "As a reader's jitter, where there is none: nothing is known of what is stolen." },
	{ "perf_event_open", perf_event_open, METH_VARARGS, perf_event_open_doc },
	{ 0 },
};

static PyTypeObject *make_type(PyObject *module, PyType_Spec *spec)
{
	return (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
}

static int native_exec(PyObject *module)
{
	struct native *native = PyModule_GetState(module);
	PyTypeObject *reader_type;
	int err;

	native->mapping_type = make_type(module, &mapping_spec);
	native->view_type = make_type(module, &view_spec);
	native->reading_type = make_type(module, &reading_spec);
	if (!native->mapping_type || !native->view_type || !native->reading_type)
		return -1;
	reader_type = make_type(module, &reader_spec);
	if (!reader_type)
		return -1;
	err = PyModule_AddType(module, reader_type);
	Py_DECREF((PyObject *)reader_type);
	return err ? err : PyModule_AddType(module, native->reading_type);
}

static int native_traverse(PyObject *module, visitproc visit, void *arg)
{
	struct native *native = PyModule_GetState(module);

	Py_VISIT(native->mapping_type);
	Py_VISIT(native->view_type);
	Py_VISIT(native->reading_type);
	return 0;
}

static int native_clear(PyObject *module)
{
	struct native *native = PyModule_GetState(module);

	Py_CLEAR(native->mapping_type);
	Py_CLEAR(native->view_type);
	Py_CLEAR(native->reading_type);
	return 0;
}

static PyModuleDef_Slot native_slots[] = {
	{ Py_mod_exec, native_exec },
	{ 0 },
};

static struct PyModuleDef native_module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "guestpv._native",
	.m_doc = "Ordered loads from memory that a hypervisor writes.",
	.m_size = sizeof(struct native),
	.m_methods = native_methods,
	.m_slots = native_slots,
	.m_traverse = native_traverse,
	.m_clear = native_clear,
};

PyMODINIT_FUNC PyInit__native(void)
{
	return PyModuleDef_Init(&native_module);
}
