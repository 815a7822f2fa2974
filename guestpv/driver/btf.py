# SPDX-License-Identifier: MIT
"""Where the kernel keeps its per-CPU variables, from its own type information (BTF).

A kernel that owns the stolen-time structures reaches them through the static per-CPU variable
``stolen_time_region``. Few kernels list it in /proc/kallsyms, but each one built with
CONFIG_DEBUG_INFO_BTF describes it in /sys/kernel/btf/vmlinux, and that description belongs to
exactly the kernel that runs. The module can reach ``kernel_cpustat``, which stands in the same
section; the distance of the two is all that it needs.

Format: Documentation/bpf/btf.rst of the kernel.
"""

from __future__ import annotations

import struct
import sys

from guestpv.errors import FormatError

_HEADER = struct.Struct("=HBBIIIII")
_MAGIC = 0xEB9F
_VERSION = 1

_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _FUNC_PROTO = 1, 3, 4, 5, 6, 13
_VAR, _DATASEC, _DECL_TAG, _ENUM64 = 14, 15, 17, 19
_LAST_KIND = 19

# In 32-bit words: what follows the three words that begin every type, and that once per member.
_TAIL = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
_MEMBER = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, _DATASEC: 3, _ENUM64: 3}

_PERCPU_SECTION = b".data..percpu"


def adopt_offset(btf: bytes) -> int | None:
    """Bytes from ``kernel_cpustat`` to ``stolen_time_region``, which the module needs to adopt.

    None if this kernel has no such variable: it does not own the stolen-time structures.
    """
    variables = _percpu_variables(btf)
    if all(name != b"stolen_time_region" for name, _ in variables):
        return None
    region = _offset_of(variables, b"stolen_time_region")
    return region - _offset_of(variables, b"kernel_cpustat")


def percpu_offset(btf: bytes, name: str) -> int:
    """The offset in bytes of a per-CPU variable in its section.

    Raises FormatError if *btf* is not whole or not native, or if it does not have the variable
    exactly once.
    """
    return _offset_of(_percpu_variables(btf), name.encode())


def _offset_of(variables: list[tuple[bytes, int]], wanted: bytes) -> int:
    offsets = [offset for name, offset in variables if name == wanted]
    if len(offsets) != 1:
        raise _malformed(
            f"the per-CPU variable {wanted.decode(errors='replace')} is there "
            f"{len(offsets)} times instead of once"
        )
    return offsets[0]


def _percpu_variables(btf: bytes) -> list[tuple[bytes, int]]:
    """Name and offset of each variable in the per-CPU section."""
    types, strings = _sections(btf)
    try:
        names, datasecs = _walk(types)
    except IndexError:
        raise _malformed("a type goes beyond the end") from None

    variables = []
    for datasec in datasecs:
        if _string(strings, types[datasec]) != _PERCPU_SECTION:
            continue
        first = datasec + 3
        for member in range(first, first + 3 * (types[datasec + 1] & 0xFFFF), 3):
            variable, offset = types[member], types[member + 1]
            if variable not in names:
                raise _malformed(f"type {variable} in {_PERCPU_SECTION.decode()} is no variable")
            variables.append((_string(strings, names[variable]), offset))
    return variables


def _sections(btf: bytes) -> tuple[memoryview[int], bytes]:
    """The types, as 32-bit words, and the strings."""
    if len(btf) < _HEADER.size:
        raise _malformed(f"{len(btf)} bytes are less than a header")
    magic, version, _, header, type_at, type_size, string_at, string_size = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        raise _malformed(f"the magic number is {magic:#06x} instead of {_MAGIC:#06x}")
    if version != _VERSION:
        raise _malformed(f"the version is {version}, and only {_VERSION} is known")

    type_at += header
    string_at += header
    if max(type_at + type_size, string_at + string_size) > len(btf):
        raise _malformed(f"it is cut short: {len(btf)} bytes are less than its header says")
    if type_at % 4 or type_size % 4:
        raise _malformed("the types are not aligned")
    types = memoryview(btf)[type_at : type_at + type_size].cast("I")
    return types, btf[string_at : string_at + string_size]


def _walk(types: memoryview[int]) -> tuple[dict[int, int], list[int]]:
    """Name offsets of the variables by type id, and the positions of the sections.

    Types have no index: the id of one is known only by passing all before it. A kernel has more
    than a hundred thousand, so the loop does as little as it can for each.
    """
    names: dict[int, int] = {}
    datasecs: list[int] = []
    words = _WordsOfType()
    position, type_id, end = 0, 1, len(types)
    while position < end:
        info = types[position + 1]
        kind = info >> 24 & 0x1F
        if kind == _VAR:
            names[type_id] = types[position]
        elif kind == _DATASEC:
            datasecs.append(position)
        position += words[info]
        type_id += 1
    if position != end:
        raise IndexError
    return names, datasecs


class _WordsOfType(dict[int, int]):
    """How long a type is by its ``info`` word; there are only some hundred different ones."""

    def __missing__(self, info: int) -> int:
        kind, members = info >> 24 & 0x1F, info & 0xFFFF
        if not 0 < kind <= _LAST_KIND:
            raise _malformed(f"it has a type of the unknown kind {kind}")
        self[info] = words = 3 + _TAIL.get(kind, 0) + _MEMBER.get(kind, 0) * members
        return words


def _string(strings: bytes, at: int) -> bytes:
    end = strings.find(b"\0", at)
    if end < 0:
        raise _malformed("a name goes beyond the end")
    return strings[at:end]


def _malformed(why: str) -> FormatError:
    return FormatError(
        "The kernel's type information (BTF) can't be read",
        why[0].upper() + why[1:],
        f"it should be /sys/kernel/btf/vmlinux of this very kernel, {sys.byteorder}-endian",
    )
