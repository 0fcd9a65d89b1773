"""Have the kernel keep the heap in huge pages, where it can.

A decision touches little of each of thousands of pages, and the processor remembers where only so many of them lie: in
a virtual machine it looks each of the others up twice. In pages of 2 MiB the same heap has a few score of them
(docs/adr/0018-the-heap-in-huge-pages.md).
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

MADV_COLLAPSE: Final = 25
"""Linux 6.1 and later: make the pages of a range huge ones, now. Older kernels refuse it."""
KERNEL: Final = Path("/sys/kernel/mm/transparent_hugepage")
MAPS: Final = Path("/proc/self/maps")


def collapse_heap() -> int:
    """Make huge pages of what lies on the heap; give how many bytes are in such now, 0 where none can be.

    Nothing else of the process changes, and what the kernel cannot do it leaves as it was. Where it was told to have
    no huge pages (`never`) it is not asked.
    """
    if sys.platform != "linux":
        return 0
    try:
        size = int((KERNEL / "hpage_pmd_size").read_text())
        if size <= 0 or "[never]" in (KERNEL / "enabled").read_text():
            return 0
        advise = ctypes.CDLL(None).madvise
    except (OSError, ValueError, AttributeError):
        return 0
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    collapsed = 0
    with suppress(OSError, ValueError):
        for begin, end in heap_ranges(MAPS.read_text(errors="replace")):
            for page in range(-(-begin // size) * size, end - size + 1, size):
                if advise(page, size, MADV_COLLAPSE) == 0:
                    collapsed += size
    return collapsed


def heap_ranges(maps: str) -> Iterator[tuple[int, int]]:
    """Give the ranges of addresses that hold private data of no file, from the text of `/proc/<pid>/maps`."""
    for line in maps.splitlines():
        addresses, permissions, _, _, inode, *name = line.split(maxsplit=5)
        anonymous = not name or name[0] == "[heap]" or name[0].startswith("[anon:")
        if permissions == "rw-p" and inode == "0" and anonymous:
            begin, _, end = addresses.partition("-")
            yield int(begin, 16), int(end, 16)
