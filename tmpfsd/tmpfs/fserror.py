"""tmpfs/fserror.py: the error of an operation that is refused."""

import errno
import os


class FsError(Exception):
    """An operation is refused; `errno` is what the system call returns."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.errno = number

    def __str__(self) -> str:
        return f"{errno.errorcode.get(self.errno, self.errno)}: {os.strerror(self.errno)}"
