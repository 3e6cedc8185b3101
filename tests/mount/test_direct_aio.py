"""tests/mount/test_direct_aio.py: asynchronous direct writes beside buffered reads of the same file.

After a write has ended, its bytes are read back by any kind of read, whatever others read meanwhile.
"""

import ctypes
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from mountlib import PAGE, libc

CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}       # <asm/unistd.h>: setup destroy getevents submit
IOCB = struct.Struct("=QIiHhIQQqQII")                                   # <linux/aio_abi.h>
EVENT = struct.Struct("=QQqq")
PWRITE, SIZE, ROUNDS, READERS = 1, 640 << 10, 2000, 3


class Aio:
    """A context of io_setup(2) for one write at a time."""

    def __init__(self) -> None:
        if platform.machine() not in CALLS:
            pytest.skip(f"the numbers of io_setup(2) and others on {platform.machine()} are not known here")
        self.setup, self.destroy, self.getevents, self.submit = CALLS[platform.machine()]
        self.context = ctypes.c_ulong()
        assert libc.syscall(self.setup, 4, ctypes.byref(self.context)) == 0

    def write(self, fd: int, address: int, size: int) -> int:
        """Write at the start of a file, wait for the end of it; the result."""
        block = ctypes.create_string_buffer(IOCB.pack(0, 0, 0, PWRITE, 0, fd, address, size, 0, 0, 0, 0), IOCB.size)
        blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))
        assert libc.syscall(self.submit, self.context, 1, blocks) == 1
        event = ctypes.create_string_buffer(EVENT.size)
        assert libc.syscall(self.getevents, self.context, 1, 1, event, None) == 1
        result: int = EVENT.unpack(event.raw)[2]
        return result

    def close(self) -> None:
        """io_destroy(2)."""
        libc.syscall(self.destroy, self.context)


@contextmanager
def read_meanwhile(path: Path) -> Iterator[None]:
    """Threads that read the file again and again."""
    ended = Event()

    def read() -> None:
        fd = os.open(path, os.O_RDONLY)
        while not ended.is_set():
            os.pread(fd, SIZE, 0)
        os.close(fd)

    threads = [Thread(target=read) for _ in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_what_was_written_is_read(d: Path) -> None:
    path = d / "file"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, SIZE)
    try:
        direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError:
        pytest.skip("no O_DIRECT here")
    aio, stale = Aio(), []
    with mmap.mmap(-1, SIZE) as memory, read_meanwhile(path):
        start = ctypes.c_char.from_buffer(memory)
        for number in range(ROUNDS):
            memory[:] = bytes([number % 251]) * SIZE
            assert aio.write(direct, ctypes.addressof(start), SIZE) == SIZE
            found = os.pread(fd, SIZE, 0)
            if found != memory[:]:
                stale.append((number, sum(found[i] != memory[i] for i in range(0, SIZE, PAGE))))
        del start
    aio.close()
    os.close(direct)
    os.close(fd)
    assert not stale, f"{len(stale)} of {ROUNDS} rounds read old pages: (round, pages) {stale[:5]}"
