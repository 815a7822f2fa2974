/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The layout of /dev/guestpv: Arm PV-time stolen time, one structure per vCPU.
 *
 * The device gives one read-only mapping. It begins with the index: a
 * struct guestpv_header, then header.nr_entries times a struct guestpv_entry,
 * one for each possible CPU, in the order of CPU numbers. After the index come
 * the guest pages that hold the structures, each page once, in the order of
 * their addresses, so that structures which stand 64 bytes apart stay so.
 * A page that is first seen later comes last.
 *
 * Everything needed to read is in the mapping; there is no ioctl. To map it
 * whole, map the first page, take header.size, and map again. To read a CPU's
 * stolen time:
 *
 *  1. load header.sequence with acquire order; if odd, the index is changing:
 *     start again, a bounded number of times
 *  2. take entry.state, .epoch and .offset; where the state is neither online
 *     nor offline there is no count: stop, once step 5 has found no change
 *  3. load the structure's revision and attributes as one aligned 64-bit word
 *     with acquire order; if it is not zero, do not interpret what follows
 *  4. load stolen_time as one aligned 64-bit word with acquire order
 *  5. load step 3's word again, then header.sequence, with an acquire fence
 *     between them, which keeps all loads of the steps before ahead of the
 *     last; if one of the two changed, start again
 *
 * The index is in the CPU's byte order, the structures are little-endian.
 *
 * Vouched for are the index, and of each structure that an entry's offset leads
 * to its 64 bytes. Nothing else of the mapping is: a page of it may be empty
 * until a CPU that needs it appears, and what else lies in a guest page is the
 * hypervisor's affair, and need not even be backed. A load from there may end
 * in SIGBUS, so never copy the mapping as a whole.
 *
 * A module that was loaded with probe=1 shows what was answered and which
 * addresses were given, and no structure: GUESTPV_FLAG_PROBE is set,
 * entry.offset is always 0, and no entry's state is online or offline.
 *
 * poll(2) reports POLLIN and POLLPRI once the index has changed since the file
 * was opened or last read: read(2) of four bytes gives header.sequence, made
 * even, and has poll(2) wait for the next change.
 */
#ifndef _UAPI_GUESTPV_H
#define _UAPI_GUESTPV_H

#include <linux/types.h>

/* "GUESTPV\0" as a little-endian CPU loads it */
#define GUESTPV_MAGIC		0x0056505453455547ULL
#define GUESTPV_ABI_VERSION	1

/* Arm DEN0057A: the calls of PV-time, and the draft's number of PV_TIME_ST */
#define GUESTPV_PV_TIME_FEATURES	0xc5000020U
#define GUESTPV_PV_TIME_ST		0xc5000021U
#define GUESTPV_PV_TIME_ST_DRAFT	0xc5000022U

/* Numbers that must be refused: the last of PV-time's, and the 32-bit calls */
#define GUESTPV_PV_TIME_UNDEFINED	0xc500003fU
#define GUESTPV_PV_TIME_FEATURES_SMC32	0x85000020U
#define GUESTPV_PV_TIME_ST_SMC32	0x85000021U

/* In header.flags: nothing but the index is mapped */
#define GUESTPV_FLAG_PROBE	1ULL

/*
 * In header.flags, never in the device's: no hypervisor wrote this, and nothing was
 * stolen: it is a file that a simulation fills. Say so wherever its counts are shown.
 */
#define GUESTPV_FLAG_SIMULATED	2ULL

/* In place of the first count of an epoch: none was seen that can be interpreted */
#define GUESTPV_NO_COUNT	(~0ULL)

/* In place of a return value: the call was not made. No call returns this. */
#define GUESTPV_NOT_CALLED	(-0x7fffffffffffffffLL - 1)

/**
 * enum guestpv_conduit - how SMCCC calls reach the hypervisor
 * @GUESTPV_CONDUIT_NONE: not at all
 * @GUESTPV_CONDUIT_SMC: by the SMC instruction
 * @GUESTPV_CONDUIT_HVC: by the HVC instruction
 */
enum guestpv_conduit {
	GUESTPV_CONDUIT_NONE	= 0,
	GUESTPV_CONDUIT_SMC	= 1,
	GUESTPV_CONDUIT_HVC	= 2,
};

/**
 * enum guestpv_state - what can be said of a CPU's structure
 * @GUESTPV_STATE_ABSENT: the CPU is offline, and without a structure: it was
 *	not online since the module was loaded, or was refused when it was
 * @GUESTPV_STATE_ONLINE: the CPU is online and its structure is live
 * @GUESTPV_STATE_OFFLINE: the CPU is offline; the structure can still be read
 *	and holds the last count
 * @GUESTPV_STATE_REFUSED: the CPU is online, but has no structure that can be
 *	trusted; &guestpv_entry.fault says why
 * @GUESTPV_STATE_STARTING: the CPU is on its way up or down, and its count may
 *	be starting again: it can't be read until the state is another
 */
enum guestpv_state {
	GUESTPV_STATE_ABSENT	= 0,
	GUESTPV_STATE_ONLINE	= 1,
	GUESTPV_STATE_OFFLINE	= 2,
	GUESTPV_STATE_REFUSED	= 3,
	GUESTPV_STATE_STARTING	= 4,
};

/**
 * enum guestpv_origin - how the structure's address was learned
 * @GUESTPV_ORIGIN_NONE: it was not
 * @GUESTPV_ORIGIN_ADOPTED: the kernel owns the structure; its mapping is used
 *	and PV_TIME_ST was not called
 * @GUESTPV_ORIGIN_CLAIMED: nobody owned the structure; the module called
 *	PV_TIME_ST
 */
enum guestpv_origin {
	GUESTPV_ORIGIN_NONE	= 0,
	GUESTPV_ORIGIN_ADOPTED	= 1,
	GUESTPV_ORIGIN_CLAIMED	= 2,
};

/**
 * enum guestpv_fault - why a structure was refused
 * @GUESTPV_FAULT_NONE: it was not
 * @GUESTPV_FAULT_NOT_SUPPORTED: PV_TIME_ST or the query for it was answered
 *	with NOT_SUPPORTED
 * @GUESTPV_FAULT_NO_REGION: the kernel owns PV-time but mapped no structure
 *	for this CPU
 * @GUESTPV_FAULT_UNALIGNED: the address is zero or not 64-byte aligned
 * @GUESTPV_FAULT_OUT_OF_RANGE: the address is beyond the physical address size
 * @GUESTPV_FAULT_SYSTEM_RAM: the page is in the guest's own memory
 * @GUESTPV_FAULT_OVERLAP: another CPU was given the same structure
 * @GUESTPV_FAULT_NO_SLOT: no page of the mapping is left for it
 * @GUESTPV_FAULT_UNREADABLE: the structure could not be mapped or read
 * @GUESTPV_FAULT_MISMATCH: the count is not the one that the kernel reads
 * @GUESTPV_FAULT_SHARED_PAGE: memory of a device is in the same page, and would
 *	be mapped with it
 * @GUESTPV_FAULT_PROBED: there was no other, but nothing is mapped, as the module
 *	was loaded with probe=1; where the origin is none, the address is not known
 */
enum guestpv_fault {
	GUESTPV_FAULT_NONE		= 0,
	GUESTPV_FAULT_NOT_SUPPORTED	= 1,
	GUESTPV_FAULT_NO_REGION		= 2,
	GUESTPV_FAULT_UNALIGNED		= 3,
	GUESTPV_FAULT_OUT_OF_RANGE	= 4,
	GUESTPV_FAULT_SYSTEM_RAM	= 5,
	GUESTPV_FAULT_OVERLAP		= 6,
	GUESTPV_FAULT_NO_SLOT		= 7,
	GUESTPV_FAULT_UNREADABLE	= 8,
	GUESTPV_FAULT_MISMATCH		= 9,
	GUESTPV_FAULT_SHARED_PAGE	= 10,
	GUESTPV_FAULT_PROBED		= 11,
};

/**
 * enum guestpv_reason - why an epoch began
 * @GUESTPV_REASON_NONE: there is none yet
 * @GUESTPV_REASON_FIRST_SEEN: the structure was seen for the first time
 * @GUESTPV_REASON_HOTPLUG: the CPU came online, and the count was lower
 * @GUESTPV_REASON_FOUND_LOWER: the count was lower than at an earlier look, and
 *	nothing is known to have happened
 * @GUESTPV_REASON_RESTORED: the count was lower after the VM was restored or
 *	cloned, or after the machine was resumed from hibernation
 * @GUESTPV_REASON_RELEARNED: the structure is at another address
 */
enum guestpv_reason {
	GUESTPV_REASON_NONE		= 0,
	GUESTPV_REASON_FIRST_SEEN	= 1,
	GUESTPV_REASON_HOTPLUG		= 2,
	GUESTPV_REASON_FOUND_LOWER	= 3,
	GUESTPV_REASON_RESTORED		= 4,
	GUESTPV_REASON_RELEARNED	= 5,
};

/**
 * enum guestpv_event - perf_event_attr.config of the PMU "guestpv"
 * @GUESTPV_EVENT_STOLEN: nanoseconds that were stolen, as far as they are known
 * @GUESTPV_EVENT_UNKNOWN: nanoseconds of which nobody can tell how many were
 *	stolen: a count started again, or meant nothing
 *
 * perf_event_attr.type is what /sys/bus/event_source/devices/guestpv/type says.
 * What was stolen is at least the first, and at most the sum of both.
 */
enum guestpv_event {
	GUESTPV_EVENT_STOLEN	= 0,
	GUESTPV_EVENT_UNKNOWN	= 1,
};

/**
 * struct guestpv_header - the beginning of the mapping
 * @magic: GUESTPV_MAGIC
 * @abi_version: GUESTPV_ABI_VERSION; with another value, interpret nothing else
 * @sequence: odd while the index changes, another even number afterwards
 * @header_size: bytes from the beginning of the mapping to the first entry
 * @entry_size: bytes from one entry to the next
 * @nr_entries: number of entries: CPU numbers are below it
 * @page_size: the kernel's page size in bytes
 * @size: bytes of the whole mapping
 * @smccc_version: of the firmware interface: major in bits 30:16, minor in 15:0
 * @conduit: one of &enum guestpv_conduit; none only with GUESTPV_FLAG_PROBE, and
 *	then nothing was called
 * @instance: a random number of this load of the module, never zero: epochs and
 *	counts of two instances can't be compared
 * @flags: GUESTPV_FLAG_PROBE, GUESTPV_FLAG_SIMULATED in a file, or zero
 */
struct guestpv_header {
	__u64 magic;
	__u32 abi_version;
	__u32 sequence;
	__u32 header_size;
	__u32 entry_size;
	__u32 nr_entries;
	__u32 page_size;
	__u64 size;
	__u32 smccc_version;
	__u32 conduit;
	__u64 instance;
	__u64 flags;
};

/**
 * struct guestpv_entry - what is known of one CPU
 * @state: one of &enum guestpv_state
 * @origin: one of &enum guestpv_origin
 * @fault: one of &enum guestpv_fault
 * @reason: why the epoch began: one of &enum guestpv_reason
 * @epoch: goes up each time the count was seen to have started again; counts of
 *	two epochs have no difference
 * @ipa: the structure's guest physical address; with a fault, the refused one
 * @offset: bytes from the beginning of the mapping to the structure; 0 if none
 * @st_call: the number of PV_TIME_ST that the feature query vouched for, or 0
 * @arch_features: returned by SMCCC_ARCH_FEATURES(PV_TIME_FEATURES)
 * @features_self: returned by PV_TIME_FEATURES(PV_TIME_FEATURES)
 * @features_st: returned by PV_TIME_FEATURES(PV_TIME_ST)
 * @features_st_draft: returned by PV_TIME_FEATURES(PV_TIME_ST_DRAFT)
 * @st_return: returned by the last PV_TIME_ST; where @st_call is 0, by one that
 *	was made though the query for it was refused, which must be, too
 * @features_undefined: returned by PV_TIME_FEATURES(PV_TIME_UNDEFINED)
 * @features_st_smc32: returned by PV_TIME_FEATURES(PV_TIME_ST_SMC32)
 * @features_smc32: returned by PV_TIME_FEATURES_SMC32(PV_TIME_FEATURES)
 * @since_ns: CLOCK_BOOTTIME at which the module first saw the next two
 * @revision: the structure's revision when the module last looked
 * @attributes: the structure's attributes when the module last looked
 * @epoch_stolen_ns: the count when the module first saw it in this epoch: what
 *	it has grown by since then was stolen since then; or GUESTPV_NO_COUNT
 * @reserved: zero
 *
 * The eight returned values are those of the CPU's x0 register, as signed
 * numbers, or GUESTPV_NOT_CALLED. The last three are of calls that a hypervisor
 * must refuse.
 */
struct guestpv_entry {
	__u8  state;
	__u8  origin;
	__u8  fault;
	__u8  reason;
	__u32 epoch;
	__u64 ipa;
	__u32 offset;
	__u32 st_call;
	__s64 arch_features;
	__s64 features_self;
	__s64 features_st;
	__s64 features_st_draft;
	__s64 st_return;
	__s64 features_undefined;
	__s64 features_st_smc32;
	__s64 features_smc32;
	__u64 since_ns;
	__u32 revision;
	__u32 attributes;
	__u64 epoch_stolen_ns;
	__u64 reserved[2];
};

/**
 * struct guestpv_stolen_time - what the hypervisor writes (DEN0057A, 3.2.2)
 * @revision: 0
 * @attributes: 0
 * @stolen_time: nanoseconds for which this vCPU did not run though it could
 */
struct guestpv_stolen_time {
	__le32 revision;
	__le32 attributes;
	__le64 stolen_time;
};

#endif /* _UAPI_GUESTPV_H */
