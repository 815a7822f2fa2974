// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's own reader of stolen time. Where there is one, the kernel was
 * built to own the structures.
 */
#include <linux/kprobes.h>

#include "core.h"

/* A kprobe resolves what kallsyms no longer exports. It is never armed. */
static void *text_symbol(const char *name)
{
	struct kprobe kp = { .symbol_name = name, .flags = KPROBE_FLAG_DISABLED };
	void *addr;

	if (register_kprobe(&kp))
		return NULL;
	addr = kp.addr;
	unregister_kprobe(&kp);

	return addr;
}

guestpv_clock_fn guestpv_kernel_clock(void)
{
	return text_symbol("para_steal_clock") ?:
	       text_symbol("pv_steal_clock"); /* its name before 5.13 */
}
