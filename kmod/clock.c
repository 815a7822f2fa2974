// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's own reader of stolen time. Where there is one, the kernel was
 * built to own the structures.
 */
#include <linux/kprobes.h>

#include "core.h"

/* A kprobe resolves what kallsyms no longer exports. It is never armed. */
static int guestpv_text_symbol(const char *name, void **addr)
{
	struct kprobe kp = { .symbol_name = name, .flags = KPROBE_FLAG_DISABLED };
	int err = register_kprobe(&kp);

	if (err)
		return err;
	*addr = kp.addr;
	unregister_kprobe(&kp);

	return 0;
}

/**
 * guestpv_kernel_clock() - find the kernel's own reader
 * @clock: where it goes
 *
 * Return: 0, or what register_kprobe() returned: -ENOENT if there is no such
 * function.
 */
int guestpv_kernel_clock(guestpv_clock_fn *clock)
{
	int err = guestpv_text_symbol("para_steal_clock", (void **)clock);

	if (err == -ENOENT)
		err = guestpv_text_symbol("pv_steal_clock", (void **)clock); /* before 5.13 */
	return err;
}
