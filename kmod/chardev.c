// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/guestpv: one read-only mapping, and the uevents of its device. There is
 * no read(2), no write(2) and no ioctl(2): the mapping says everything.
 */
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>

#include "core.h"

#ifndef GUESTPV_HAVE_VM_FLAGS_MOD /* before 6.3; see Kbuild */
static void vm_flags_mod(struct vm_area_struct *vma, unsigned long set, unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#endif

static vm_fault_t guestpv_vm_fault(struct vm_fault *vmf)
{
	unsigned long pfn;

	if (!guestpv_index_pfn(vmf->pgoff, &pfn))
		return VM_FAULT_SIGBUS;

	return vmf_insert_pfn(vmf->vma, vmf->address, pfn);
}

static const struct vm_operations_struct guestpv_vm_ops = {
	.fault = guestpv_vm_fault,
};

static int guestpv_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long pages = guestpv_index_size() >> PAGE_SHIFT;

	if (vma->vm_flags & VM_WRITE)
		return -EACCES;
	if (vma->vm_flags & VM_EXEC)
		return -EPERM;
	if (vma->vm_pgoff > pages || vma_pages(vma) > pages - vma->vm_pgoff)
		return -EINVAL;

	/* mprotect() can't turn it into what mmap() refused */
	vm_flags_mod(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP, VM_MAYWRITE | VM_MAYEXEC);
	vma->vm_ops = &guestpv_vm_ops;

	return 0;
}

static const struct file_operations guestpv_fops = {
	.owner = THIS_MODULE,
	.mmap = guestpv_mmap,
};

static struct miscdevice guestpv_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &guestpv_fops,
	.mode = 0400,
};

/* Events come from CPUs, suspend and the check, while the device may be leaving. */
static DEFINE_MUTEX(event_lock);
static struct device *device;

/**
 * guestpv_event() - tell user space by a uevent
 * @what: found, lost, restart or revision
 * @cpu: whose structure
 * @epoch: its epoch from now on
 * @word: revision (low half) and attributes (high half)
 *
 * What is found while the module loads is not news: there is no device yet.
 */
void guestpv_event(const char *what, unsigned int cpu, u32 epoch, u64 word)
{
	char env[5][40];
	char *envp[ARRAY_SIZE(env) + 1] = { };
	unsigned int i;

	snprintf(env[0], sizeof(env[0]), "GUESTPV_EVENT=%s", what);
	snprintf(env[1], sizeof(env[1]), "GUESTPV_CPU=%u", cpu);
	snprintf(env[2], sizeof(env[2]), "GUESTPV_EPOCH=%u", epoch);
	snprintf(env[3], sizeof(env[3]), "GUESTPV_REVISION=%u", lower_32_bits(word));
	snprintf(env[4], sizeof(env[4]), "GUESTPV_ATTRIBUTES=%u", upper_32_bits(word));
	for (i = 0; i < ARRAY_SIZE(env); i++)
		envp[i] = env[i];

	/* An event that is lost for want of memory still stands in the index. */
	mutex_lock(&event_lock);
	if (device)
		kobject_uevent_env(&device->kobj, KOBJ_CHANGE, envp);
	mutex_unlock(&event_lock);
}

int guestpv_chardev_init(void)
{
	int err = misc_register(&guestpv_misc);

	if (err)
		return err;

	mutex_lock(&event_lock);
	device = guestpv_misc.this_device;
	mutex_unlock(&event_lock);
	return 0;
}

void guestpv_chardev_exit(void)
{
	mutex_lock(&event_lock);
	device = NULL;
	mutex_unlock(&event_lock);

	misc_deregister(&guestpv_misc);
}
