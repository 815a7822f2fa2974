// SPDX-License-Identifier: MIT
/* Includes the header alone, as a user's program would, and says what it says. */
#include "guestpv.h"

#include <stddef.h>
#include <stdio.h>

#define SIZE(type) printf(#type " %zu\n", sizeof(struct guestpv_##type))
#define FIELD(type, field) \
	printf(#type "." #field " %zu %zu\n", offsetof(struct guestpv_##type, field), \
	       sizeof(((struct guestpv_##type *)0)->field))
#define VALUE(name) printf(#name " %lld\n", (long long)(GUESTPV_##name))

int main(void)
{
	SIZE(header);
	FIELD(header, magic);
	FIELD(header, abi_version);
	FIELD(header, sequence);
	FIELD(header, header_size);
	FIELD(header, entry_size);
	FIELD(header, nr_entries);
	FIELD(header, page_size);
	FIELD(header, size);
	FIELD(header, smccc_version);
	FIELD(header, conduit);
	FIELD(header, reserved);

	SIZE(entry);
	FIELD(entry, state);
	FIELD(entry, origin);
	FIELD(entry, fault);
	FIELD(entry, reserved);
	FIELD(entry, epoch);
	FIELD(entry, ipa);
	FIELD(entry, offset);
	FIELD(entry, st_call);
	FIELD(entry, arch_features);
	FIELD(entry, features_self);
	FIELD(entry, features_st);
	FIELD(entry, features_st_draft);
	FIELD(entry, st_return);

	SIZE(stolen_time);
	FIELD(stolen_time, revision);
	FIELD(stolen_time, attributes);
	FIELD(stolen_time, stolen_time);

	VALUE(MAGIC);
	VALUE(ABI_VERSION);
	VALUE(PV_TIME_FEATURES);
	VALUE(PV_TIME_ST);
	VALUE(PV_TIME_ST_DRAFT);
	VALUE(NOT_CALLED);
	return 0;
}
