"""tests/mount/test_32bit.py: what a 32-bit program without large-file support sees: off_t and ino_t have 32 bits.

Its C library reads with getdents64() and refuses, or leaves out, an entry whose cookie does not fit.
"""

import os
import subprocess
from pathlib import Path

import pytest
from mountlib import getdents

PROGRAM = r"""
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* With a name: seek to behind it, and list the rest.  With a second one: remove that in between. */
int main(int argc, char **argv)
{
    DIR *dir = opendir(argv[1]);
    struct dirent *entry;
    long place = 0;

    while (dir && argc > 2 && (entry = readdir(dir)) && strcmp(entry->d_name, argv[2]))
        ;
    if (argc > 2) {
        place = telldir(dir);
        while (readdir(dir))
            ;
        if (argc > 3 && remove(argv[3]))
            return 3;
        seekdir(dir, place);
    }
    errno = 0;
    while (dir && (entry = readdir(dir)))
        puts(entry->d_name);
    if (!dir || errno) {
        perror("readdir");
        return 1;
    }
    return sizeof(off_t) == 4 ? 0 : 2;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled for 32 bits."""
    path = tmp_path_factory.mktemp("m32") / "list"
    try:
        subprocess.run(["gcc", "-m32", "-o", path, "-x", "c", "-"], input=PROGRAM.encode(), check=True, timeout=60,
                       capture_output=True)
        subprocess.run([path, "/"], check=True, timeout=10, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no gcc that makes 32-bit programs (gcc-multilib), or a kernel that runs none")
    return path


def listed(program: Path, d: Path, *more: str) -> list[str]:
    """What the program prints."""
    return subprocess.run([program, d, *more], check=True, timeout=50, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize("count", [0, 1, 100, 20_000])
def test_it_sees_all(program: Path, d: Path, count: int) -> None:
    for number in range(count):
        os.mknod(d / f"name{number}")
    assert sorted(listed(program, d)) == sorted([".", "..", *(f"name{number}" for number in range(count))])


def test_it_finds_back(program: Path, d: Path) -> None:
    for number in range(3000):
        os.mknod(d / f"name{number}")
    names = listed(program, d)
    for place in (0, 1, 2, 500, 2999, 3001):
        assert listed(program, d, names[place]) == names[place + 1:]


def test_it_finds_back_when_the_entry_is_gone(program: Path, d: Path) -> None:
    for number in range(3000):
        os.mknod(d / f"name{number}")
    names = listed(program, d)
    for place in (2, 700, 3001):
        assert listed(program, d, names[place], str(d / names[place])) == names[place + 1:]
        os.mknod(d / names[place])


def test_cookies_have_31_bits(d: Path) -> None:
    """What the program needs, where there is no such program."""
    for number in range(300):
        os.mknod(d / f"name{number}")
    fd = os.open(d, os.O_RDONLY)
    try:
        assert all(0 < entry.offset < 1 << 31 for entry in getdents(fd, 1 << 16)[:-1])
    finally:
        os.close(fd)
