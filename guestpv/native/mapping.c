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
		Py_CLEAR(mapping);
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
	Py_DECREF(type);
}

static int mapping_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
	struct mapping *mapping = (struct mapping *)self;

	return PyBuffer_FillInfo(view, self, (void *)mapping->base, mapping->size, 1, flags);
}

static PyType_Slot mapping_slots[] = {
	{ Py_tp_dealloc, mapping_dealloc },
	{ Py_bf_getbuffer, mapping_getbuffer },
	{ 0 },
};

PyType_Spec mapping_spec = {
	.name = "guestpv._native.Mapping",
	.basicsize = sizeof(struct mapping),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = mapping_slots,
};
