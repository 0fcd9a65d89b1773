"""The heap in huge pages: which addresses are the heap's, and that a service starts with or without them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli import huge_pages
from app.cli.huge_pages import KERNEL, collapse_heap, heap_ranges

MAPS = """\
5581a2c00000-5581a2c01000 r-xp 00000000 fe:00 131 /usr/bin/python3
5581a3e00000-5581a4600000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
7f0000400000-7f0000500000 ---p 00000000 00:00 0
7f0000500000-7f0000600000 rw-s 00000000 00:01 77 /memfd:shared (deleted)
7f0000600000-7f0000700000 rw-p 00001000 fe:00 19 /usr/lib/libc.so.6
7f0000700000-7f0000900000 rw-p 00000000 00:00 0 [anon: glibc: malloc]
7ffd00000000-7ffd00100000 rw-p 00000000 00:00 0 [stack]
"""
COLLAPSED = """
import re
from pathlib import Path
from app.cli.huge_pages import collapse_heap

def huge() -> int:
    return 1024 * int(re.search(r"AnonHugePages: *([0-9]+) kB", Path("/proc/self/smaps_rollup").read_text())[1])

heap, before = [bytearray(100) for _ in range(300_000)], huge()
print(collapse_heap(), huge() - before, all(len(part) == 100 and not any(part) for part in heap))
"""


def test_the_heap_is_what_is_private_and_of_no_file() -> None:
    assert list(heap_ranges(MAPS)) == [
        (0x5581A3E00000, 0x5581A4600000),
        (0x7F0000000000, 0x7F0000400000),
        (0x7F0000700000, 0x7F0000900000),
    ]


def test_what_is_collapsed_lies_in_huge_pages_and_is_as_it_was() -> None:
    ran = subprocess.run([sys.executable, "-c", COLLAPSED], capture_output=True, text=True, check=True)
    collapsed, became_huge, same = ran.stdout.split()

    assert same == "True"
    # 0 of 0 on a kernel that cannot, or was told not to.
    assert int(collapsed) >= int(became_huge) >= 0
    assert (int(collapsed) > 0) is (int(became_huge) > 0)


@pytest.mark.parametrize("enabled", ["always madvise [never]", None])
def test_a_kernel_that_has_none_is_not_asked(
    enabled: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "KERNEL", tmp_path)
    (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    if enabled is not None:
        (tmp_path / "enabled").write_text(enabled)

    assert collapse_heap() == 0


def test_what_the_kernel_says_of_itself_is_read_as_it_is_written() -> None:
    if KERNEL.exists():
        assert re.fullmatch(r"\d+\n", (KERNEL / "hpage_pmd_size").read_text())
        assert "[" in (KERNEL / "enabled").read_text()


def test_what_cannot_be_read_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "maps").write_bytes(b"7f00-7f01 r--p 00000000 fe:00 9 /opt/caf\xe9/lib.so\nno line of maps\n")
    monkeypatch.setattr(huge_pages, "MAPS", tmp_path / "maps")

    assert collapse_heap() == 0


def test_a_page_of_no_size_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hpage_pmd_size").write_text("0\n")
    (tmp_path / "enabled").write_text("[always] madvise never\n")
    monkeypatch.setattr(huge_pages, "KERNEL", tmp_path)

    assert collapse_heap() == 0
