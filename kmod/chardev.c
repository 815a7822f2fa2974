// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/guestpv: one read-only mapping, which says everything, and poll(2), which
 * tells of changes of the index until read(2) has taken note of them, as with
 * UIO. There is no write(2) and no ioctl(2).
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/poll.h>
#include <linux/uaccess.h>

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

/* The sequence up to which whoever has opened the file has taken note of changes. */
static void guestpv_set_noted(struct file *file, u32 sequence)
{
	WRITE_ONCE(file->private_data, (void *)(unsigned long)sequence);
}

static int guestpv_open(struct inode *inode, struct file *file)
{
	guestpv_set_noted(file, guestpv_index_sequence());
	return 0;
}

static ssize_t guestpv_read(struct file *file, char __user *buf, size_t count, loff_t *ppos)
{
	u32 sequence = guestpv_index_sequence();

	if (count != sizeof(sequence))
		return -EINVAL;
	if (copy_to_user(buf, &sequence, sizeof(sequence)))
		return -EFAULT;

	guestpv_set_noted(file, sequence);
	return sizeof(sequence);
}

static __poll_t guestpv_poll(struct file *file, poll_table *wait)
{
	u32 noted;

	poll_wait(file, guestpv_index_changed(), wait);
	noted = (unsigned long)READ_ONCE(file->private_data);

	return guestpv_index_sequence() == noted ? 0 : EPOLLIN | EPOLLPRI;
}

static const struct file_operations guestpv_fops = {
	.owner = THIS_MODULE,
	.open = guestpv_open,
	.read = guestpv_read,
	.mmap = guestpv_mmap,
	.poll = guestpv_poll,
};

static struct miscdevice guestpv_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = KBUILD_MODNAME,
	.fops = &guestpv_fops,
	.mode = 0400,
};

int guestpv_chardev_init(void)
{
	int err = misc_register(&guestpv_misc);

	if (err)
		return err;

	guestpv_event_device(guestpv_misc.this_device);
	return 0;
}

void guestpv_chardev_exit(void)
{
	guestpv_event_device(NULL);
	misc_deregister(&guestpv_misc);
}
