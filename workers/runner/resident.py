# SPDX-License-Identifier: Apache-2.0
"""Give a forked process the pages of code that its parent has in memory, as it would have had after the same imports.

A fork copies the table entries of a process's own data and leaves those of files to be found again by page faults. Its
resident memory would be smaller by the libraries' code, and the faults would fall into what is measured.
"""

import ctypes
import os
from typing import List, Tuple

#: Linux 5.14 and later; older kernels refuse it, and each page is read instead.
_MADV_POPULATE_READ = 22
_PRESENT = 0x80
_ENTRY = 8

#: Addresses from and up to.
Span = Tuple[int, int]


def resident_spans() -> List[Span]:
    """The parts of files that are mapped into this process and in its page tables."""
    page = os.sysconf("SC_PAGE_SIZE")
    found: List[Span] = []
    with open("/proc/self/pagemap", "rb") as pagemap:
        for start, end in _file_mappings():
            pagemap.seek(start // page * _ENTRY)
            entries = pagemap.read((end - start) // page * _ENTRY)
            _add_present(found, start, page, entries)
    return found


def take(spans: List[Span]) -> None:
    """Have the pages of `spans` in this process's tables, too."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = os.sysconf("SC_PAGE_SIZE")
    for start, end in spans:
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_POPULATE_READ) != 0:
            for address in range(start, end, page):
                ctypes.string_at(address, 1)


def _file_mappings() -> List[Span]:
    """Readable mappings of files; the kernel's own pages have no path that begins with a slash."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            words = line.split(None, 5)
            if len(words) == 6 and words[5].startswith("/") and words[1].startswith("r"):
                start, _, end = words[0].partition("-")
                found.append((int(start, 16), int(end, 16)))
    return found


def _add_present(found: List[Span], start: int, page: int, entries: bytes) -> None:
    flags = entries[_ENTRY - 1 :: _ENTRY]
    for index, flag in enumerate(flags):
        if not flag & _PRESENT:
            continue
        address = start + index * page
        if found and found[-1][1] == address:
            found[-1] = (found[-1][0], address + page)
        else:
            found.append((address, address + page))
