// SPDX-License-Identifier: GPL-2.0-only
/*
 * vmfork - tell a guest's kernel that its VM was forked, as the driver of vmgenid does when a
 * hypervisor says so. QEMU has no such device on arm64: this stands in for the device, and all
 * that follows is the kernel's own.
 */
#include <linux/kprobes.h>
#include <linux/module.h>

static int __init vmfork_init(void)
{
	/* Exported only where vmgenid's driver is a module: a kprobe, never armed, finds it. */
	struct kprobe found = {
		.symbol_name = "add_vmfork_randomness",
		.flags = KPROBE_FLAG_DISABLED,
	};
	static const u8 id[16] = "another VM's id";
	void (*fork)(const void *unique_vm_id, size_t len);
	int err;

	err = register_kprobe(&found);
	if (err)
		return err;
	fork = (void *)found.addr;
	unregister_kprobe(&found);

	fork(id, sizeof(id));
	return 0;
}
module_init(vmfork_init);

static void __exit vmfork_exit(void)
{
}
module_exit(vmfork_exit);

MODULE_DESCRIPTION("Tells the kernel that its VM was forked");
MODULE_LICENSE("GPL");
