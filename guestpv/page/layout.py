# SPDX-License-Identifier: MIT
"""The layout of /dev/guestpv as NumPy dtypes: kmod/uapi/guestpv.h, which documents it, in Python.

The index (`HEADER`, `ENTRY`) is in the CPU's byte order, the structures are little-endian.
"""

import numpy as np

HEADER = np.dtype(
    [
        ("magic", "u8"),
        ("abi_version", "u4"),
        ("sequence", "u4"),
        ("header_size", "u4"),
        ("entry_size", "u4"),
        ("nr_entries", "u4"),
        ("page_size", "u4"),
        ("size", "u8"),
        ("smccc_version", "u4"),
        ("conduit", "u4"),
        ("instance", "u8"),
        ("flags", "u8"),
    ]
)
"""struct guestpv_header"""

ENTRY = np.dtype(
    [
        ("state", "u1"),
        ("origin", "u1"),
        ("fault", "u1"),
        ("reason", "u1"),
        ("epoch", "u4"),
        ("ipa", "u8"),
        ("offset", "u4"),
        ("st_call", "u4"),
        ("arch_features", "i8"),
        ("features_self", "i8"),
        ("features_st", "i8"),
        ("features_st_draft", "i8"),
        ("st_return", "i8"),
        ("features_undefined", "i8"),
        ("features_st_smc32", "i8"),
        ("features_smc32", "i8"),
        ("since_ns", "u8"),
        ("revision", "u4"),
        ("attributes", "u4"),
        ("epoch_stolen_ns", "u8"),
        ("reserved", "u8", (2,)),
    ]
)
"""struct guestpv_entry"""

STOLEN_TIME = np.dtype([("revision", "<u4"), ("attributes", "<u4"), ("stolen_time", "<u8")])
"""struct guestpv_stolen_time (DEN0057A, 3.2.2): what the hypervisor writes"""
