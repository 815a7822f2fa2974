/* SPDX-License-Identifier: MIT */
#include "file.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct file *_Atomic files;
static uintptr_t page_size;
static struct sigaction previous;

/* Put a page in the place of the lost one, so that the load goes on, and take a note of it. */
static bool replace_page(uintptr_t address)
{
	for (struct file *file = files; file; file = file->next) {
		uintptr_t base = atomic_load(&file->base);

		if (!base || address - base >= file->size)
			continue;
		atomic_store(&file->lost_page, true);
		return mmap((void *)(address & -page_size), page_size, PROT_READ,
			    MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED;
	}
	return false;
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	/* Above 0 it comes from the kernel, for an address; else somebody sent it. */
	if (info->si_code > 0 && replace_page((uintptr_t)info->si_addr))
		return;

	if (previous.sa_flags & SA_SIGINFO) {
		previous.sa_sigaction(signal, info, context);
	} else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
		previous.sa_handler(signal);
	} else {
		/* As if we had never been here, when we return. */
		sigaction(SIGBUS, &previous, NULL);
		raise(SIGBUS);
	}
}

/*
 * Once, and not again when another handler was put before it since: that one
 * calls this one, and the two must not call each other.
 */
static void install_handler(void)
{
	struct sigaction action = { .sa_flags = SA_SIGINFO | SA_ONSTACK };

	if (page_size)
		return;
	page_size = sysconf(_SC_PAGESIZE);
	action.sa_sigaction = on_sigbus;
	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, &action, &previous);
}

static struct file *unused_file(void)
{
	struct file *file;

	for (file = files; file; file = file->next)
		if (!file->base)
			return file;
	file = calloc(1, sizeof(*file));
	if (!file)
		return NULL;
	file->next = files;
	atomic_store(&files, file);
	return file;
}

struct file *file_watch(int fd, const void *base, size_t size)
{
	struct file *file = unused_file();

	if (!file)
		return NULL;
	file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (file->fd < 0)
		return NULL;
	install_handler();
	file->size = size;
	file->lost_page = false;
	file_set_witness(file, NULL);
	/* Last: now the handler takes it for what it is. */
	atomic_store(&file->base, (uintptr_t)base);
	return file;
}

void file_forget(struct file *file)
{
	atomic_store(&file->base, 0);
	close(file->fd);
}

void file_set_witness(struct file *file, const uint64_t *count)
{
	static const uint64_t none;

	file->witness = count ? count : &none;
	file->witnessed = UINT64_MAX; /* so that the file is asked once */
}

bool file_is_cut(struct file *file)
{
	uint64_t count = file_last_count(file); /* before the file is asked */
	struct stat status;

	if (file_seems_whole(file))
		return false;
	if (atomic_load(&file->lost_page) || fstat(file->fd, &status) ||
	    (uint64_t)status.st_size < file->size)
		return true;
	file->witnessed = count;
	return false;
}
