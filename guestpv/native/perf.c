/* SPDX-License-Identifier: MIT */
/* perf_event_open(2), for which the C library has no function. */
#include "native.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

const char perf_event_open_doc[] =
	"perf_event_open(type, config, pid, cpu, group, inherit, on_exec, cgroup, /)\n--\n\n"
	"Count an event for a thread (pid; 0: the calling one), or on a CPU of which not -1: all that\n"
	"runs there (pid -1), or that of a cgroup (pid is a descriptor of its directory). Returns a\n"
	"descriptor; raises OSError.";

PyObject *perf_event_open(PyObject *Py_UNUSED(module), PyObject *args)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING |
			       PERF_FORMAT_GROUP,
		/* Without these it takes a privilege; and the kernel has no share in stolen time. */
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};
	unsigned int type;
	unsigned long long config;
	int pid, cpu, group, inherit, on_exec, cgroup;
	unsigned long flags = PERF_FLAG_FD_CLOEXEC;
	long fd;

	if (!PyArg_ParseTuple(args, "IKiiippp", &type, &config, &pid, &cpu, &group, &inherit,
			      &on_exec, &cgroup))
		return NULL;
	if (cgroup)
		flags |= PERF_FLAG_PID_CGROUP;
	attr.type = type;
	attr.config = config;
	attr.inherit = inherit;
	/* A group begins with its leader: its other events are enabled by themselves. */
	attr.disabled = on_exec && group < 0;
	attr.enable_on_exec = attr.disabled;

	fd = syscall(SYS_perf_event_open, &attr, pid, cpu, group, flags);
	if (fd < 0)
		return PyErr_SetFromErrno(PyExc_OSError);
	return PyLong_FromLong(fd);
}
