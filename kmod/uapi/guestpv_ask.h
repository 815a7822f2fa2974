/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * What the hypervisor answers, register by register: /dev/guestpv_ask, which
 * the module guestpv_ask has while it is loaded.
 *
 * Read from its beginning, it is a struct guestpv_ask_header, and behind it
 * header.nr_calls times a struct guestpv_ask_call: the same calls for each CPU
 * that was online when the module was loaded, CPU by CPU. They were made then,
 * on that CPU. None of them changes anything: PV_TIME_ST is not among them.
 *
 * All numbers are in the CPU's byte order.
 */
#ifndef _UAPI_GUESTPV_ASK_H
#define _UAPI_GUESTPV_ASK_H

#include <linux/types.h>

/* "GPV-ASK\0" as a little-endian CPU loads it */
#define GUESTPV_ASK_MAGIC	0x004b53412d565047ULL
#define GUESTPV_ASK_VERSION	1

/* x0 to x17: those in which an answer may be, and those that a call must keep */
#define GUESTPV_ASK_REGISTERS	18

/* What register n, from x2 on, has before each call: this and n */
#define GUESTPV_ASK_SENTINEL	0x5ca1ab1e00000000ULL

/* What the upper half of x0 or x1 has where it must make no difference */
#define GUESTPV_ASK_UPPER	0x5e1ec7ed00000000ULL

/* Arm DEN0028, from SMCCC 1.3 on: of a function's number, it must make none */
#define GUESTPV_ASK_SVE_HINT	0x10000U

/**
 * struct guestpv_ask_header - the beginning of what is read
 * @magic: GUESTPV_ASK_MAGIC
 * @version: GUESTPV_ASK_VERSION; with another value, interpret nothing else
 * @header_size: bytes from the beginning to the first call
 * @call_size: bytes from one call to the next
 * @nr_calls: number of calls, those of all CPUs together
 */
struct guestpv_ask_header {
	__u64 magic;
	__u32 version;
	__u32 header_size;
	__u32 call_size;
	__u32 nr_calls;
};

/**
 * struct guestpv_ask_call - one call of one CPU
 * @cpu: the CPU
 * @reserved: zero
 * @function: x0 before the call
 * @argument: x1 before the call
 * @x: x0 to x17 after the call
 */
struct guestpv_ask_call {
	__u32 cpu;
	__u32 reserved;
	__u64 function;
	__u64 argument;
	__u64 x[GUESTPV_ASK_REGISTERS];
};

#endif /* _UAPI_GUESTPV_ASK_H */
