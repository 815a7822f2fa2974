/* SPDX-License-Identifier: MIT */
#include "native.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "file.h"

static bool map(struct mapping *mapping, int fd, size_t size)
{
	struct stat status;
	void *base;

	if (fstat(fd, &status))
		return false;
	base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		return false;
	mapping->base = base;
	mapping->size = size;
	if (!S_ISREG(status.st_mode))
		return true;
	mapping->file = file_watch(fd, base, size);
	return mapping->file;
}

struct mapping *mapping_make(PyTypeObject *type, int fd, size_t size)
{
	struct mapping *mapping = PyObject_New(struct mapping, type);

	if (!mapping)
		return NULL;
	mapping->base = NULL;
	mapping->file = NULL;
	if (!map(mapping, fd, size)) {
		PyErr_SetFromErrno(PyExc_OSError);
		Py_DECREF((PyObject *)mapping);
		return NULL;
	}
	return mapping;
}

static void mapping_dealloc(PyObject *self)
{
	struct mapping *mapping = (struct mapping *)self;
	PyTypeObject *type = Py_TYPE(self);

	if (mapping->file)
		file_forget(mapping->file);
	if (mapping->base)
		munmap((void *)mapping->base, mapping->size);
	PyObject_Free(self);
	Py_DECREF((PyObject *)type);
}

static PyType_Slot mapping_slots[] = {
	{ Py_tp_dealloc, mapping_dealloc },
	{ 0 },
};

PyType_Spec mapping_spec = {
	.name = "guestpv._native.Mapping",
	.basicsize = sizeof(struct mapping),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = mapping_slots,
};

/*
 * What Python gets to see: bytes that are vouched for. Whoever follows a view to
 * where its memory comes from finds this, and not the mapping, of which other
 * pages may raise SIGBUS.
 */
struct view {
	PyObject_HEAD
	struct mapping *mapping;
	const void *start;
	size_t size;
};

PyObject *view_make(PyTypeObject *type, struct mapping *mapping, const void *start, size_t size)
{
	struct view *view = PyObject_New(struct view, type);
	PyObject *memory;

	if (!view)
		return NULL;
	Py_INCREF((PyObject *)mapping);
	view->mapping = mapping;
	view->start = start;
	view->size = size;
	memory = PyMemoryView_FromObject((PyObject *)view);
	Py_DECREF((PyObject *)view);
	return memory;
}

static void view_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	Py_DECREF((PyObject *)((struct view *)self)->mapping);
	PyObject_Free(self);
	Py_DECREF((PyObject *)type);
}

static int view_getbuffer(PyObject *self, Py_buffer *buffer, int flags)
{
	struct view *view = (struct view *)self;

	return PyBuffer_FillInfo(buffer, self, (void *)view->start, view->size, 1, flags);
}

static PyType_Slot view_slots[] = {
	{ Py_tp_dealloc, view_dealloc },
	{ Py_bf_getbuffer, view_getbuffer },
	{ 0 },
};

PyType_Spec view_spec = {
	.name = "guestpv._native.View",
	.basicsize = sizeof(struct view),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = view_slots,
};
