# SPDX-License-Identifier: MIT
"""Where the kernel keeps its per-CPU variables, from its own type information (BTF).

A kernel that owns the stolen-time structures reaches them through the static per-CPU variable
``stolen_time_region``. Few kernels list it in /proc/kallsyms, but each one built with
CONFIG_DEBUG_INFO_BTF describes it in /sys/kernel/btf/vmlinux, and that description belongs to
exactly the kernel that runs. The module can reach ``kernel_cpustat``, which stands in the same
section; the distance of the two is all that it needs.

Format: Documentation/bpf/btf.rst and include/uapi/linux/btf.h of the kernel. Linux 7.1 gave vlen
and kind bits that were zero before, and a section that says how long each kind of type is.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

from guestpv.errors import FormatError

_HEADER = struct.Struct("=HBBIIIII")
_LAYOUT_IN_HEADER = struct.Struct("=II")  # follows the header, if its length says so
_LAYOUT = struct.Struct("=BBH")  # for each kind, from 0 on: bytes once, bytes per member, flags
_MAGIC = 0xEB9F
_VERSION = 1

_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _FUNC_PROTO = 1, 3, 4, 5, 6, 13
_VAR, _DATASEC, _DECL_TAG, _ENUM64 = 14, 15, 17, 19
_KNOWN_KINDS = range(1, 20)

# In 32-bit words: what follows the three words that begin every type, and that once per member.
_TAIL = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
_MEMBER = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, _DATASEC: 3, _ENUM64: 3}

_PERCPU_SECTION = b".data..percpu"


def adopt_offset(btf: bytes) -> int | None:
    """Bytes from ``kernel_cpustat`` to ``stolen_time_region``, which the module needs to adopt.

    None if this kernel has no such variable: it does not own the stolen-time structures.

    Raises FormatError if *btf* is not whole or not native, or if it has one of the two more than
    once, or only the latter.
    """
    variables = _percpu_variables(btf)
    if all(name != b"stolen_time_region" for name, _ in variables):
        return None
    region = _offset_of(variables, b"stolen_time_region")
    return region - _offset_of(variables, b"kernel_cpustat")


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
    sections = _sections(btf)
    types, strings = sections.types, sections.strings
    try:
        names, datasecs = _walk(sections)
    except IndexError:
        raise _malformed("a type goes beyond the end") from None

    variables = []
    for datasec in datasecs:
        if _string(strings, types[datasec]) != _PERCPU_SECTION:
            continue
        first = datasec + 3
        for member in range(first, first + 3 * _vlen(types[datasec + 1]), 3):
            variable, offset = types[member], types[member + 1]
            if variable not in names:
                raise _malformed(f"type {variable} in {_PERCPU_SECTION.decode()} is no variable")
            variables.append((_string(strings, names[variable]), offset))
    return variables


@dataclass(frozen=True, slots=True)
class _Sections:
    types: memoryview[int]  # as 32-bit words
    strings: bytes
    layout: tuple[tuple[int, int], ...]  # by kind: bytes once and per member; empty: not there


def _sections(btf: bytes) -> _Sections:
    if len(btf) < _HEADER.size:
        raise _malformed(f"{len(btf)} bytes are less than a header")
    magic, version, _, header, type_at, type_size, string_at, string_size = _HEADER.unpack_from(btf)
    if magic != _MAGIC:
        raise _malformed(f"the magic number is {magic:#06x} instead of {_MAGIC:#06x}")
    if version != _VERSION:
        raise _too_new(f"it has version {version}, and only {_VERSION} is known")

    layout_at, layout_size = 0, 0
    if min(header, len(btf)) >= _HEADER.size + _LAYOUT_IN_HEADER.size:
        layout_at, layout_size = _LAYOUT_IN_HEADER.unpack_from(btf, _HEADER.size)
    ends = type_at + type_size, string_at + string_size, layout_at + layout_size
    if header + max(ends) > len(btf):
        raise _malformed(f"it is cut short: {len(btf)} bytes are less than its header says")
    if (header + type_at) % 4 or type_size % 4 or layout_size % _LAYOUT.size:
        raise _malformed("its sections are not aligned")

    data = memoryview(btf)[header:]
    layout = _LAYOUT.iter_unpack(data[layout_at : layout_at + layout_size])
    return _Sections(
        data[type_at : type_at + type_size].cast("I"),
        bytes(data[string_at : string_at + string_size]),
        tuple((once, member) for once, member, _ in layout),
    )


def _walk(sections: _Sections) -> tuple[dict[int, int], list[int]]:
    """Name offsets of the variables by type id, and the positions of the sections.

    Types have no index: the id of one is known only by passing all before it. A kernel has more
    than a hundred thousand, so the loop does as little as it can for each.
    """
    names: dict[int, int] = {}
    datasecs: list[int] = []
    words = _WordsOfType(sections.layout)
    types = sections.types
    position, type_id, end = 0, 1, len(types)
    while position < end:
        info = types[position + 1]
        kind = info >> 24 & 0x7F
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

    def __init__(self, layout: tuple[tuple[int, int], ...]) -> None:
        self._layout = layout

    def __missing__(self, info: int) -> int:
        kind = info >> 24 & 0x7F
        if kind in _KNOWN_KINDS:
            once, member = _TAIL.get(kind, 0), _MEMBER.get(kind, 0)
        else:
            once, member = self._unknown(kind)
        self[info] = words = 3 + once + member * _vlen(info)
        return words

    def _unknown(self, kind: int) -> tuple[int, int]:
        if kind == 0:
            raise _malformed("it has a type of kind 0, which is none")
        if kind >= len(self._layout):
            raise _too_new(f"it has a type of the unknown kind {kind}, and not how long that is")
        once, member = self._layout[kind]
        if once % 4 or member % 4:
            raise _malformed(f"it says of kind {kind} that it has {once} and {member} bytes")
        return once // 4, member // 4


def _vlen(info: int) -> int:
    return info & 0xFFFFFF


def _string(strings: bytes, at: int) -> bytes:
    end = strings.find(b"\0", at)
    if end < 0:
        raise _malformed("a name goes beyond the end")
    return strings[at:end]


_WHAT = "The kernel's type information (BTF) can't be read"


def _too_new(why: str) -> FormatError:
    return FormatError(
        _WHAT, f"It is newer than this guestpv: {why}", "update guestpv; the kernel is all right"
    )


def _malformed(why: str) -> FormatError:
    return FormatError(
        _WHAT,
        why[0].upper() + why[1:],
        f"it should be /sys/kernel/btf/vmlinux of this very kernel, {sys.byteorder}-endian",
    )
