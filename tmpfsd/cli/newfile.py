"""newfile.py: a file that gets its name when all of it is on disk; otherwise nothing of it is left.

Picture     unnamed (O_TMPFILE), or .NAME.PID if the file system cannot --commit(): sync, link, rename--> NAME
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

NONE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)      # of a file system without O_TMPFILE


class NewFile:
    """The file while it has no name."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.directory = os.path.dirname(self.path)
        self.passing = os.path.join(self.directory, f".{os.path.basename(self.path)[:200]}.{os.getpid()}")
        self.named = False
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.fd = os.open(self.directory, flags | os.O_TMPFILE, 0o600)
        except OSError as error:
            if error.errno not in NONE:
                raise
            self.fd = os.open(self.passing, flags | os.O_CREAT | os.O_EXCL, 0o600)
            self.named = True

    def commit(self) -> None:
        """Give it its name, replacing what has it now.  => OSError."""
        os.fsync(self.fd)
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not self.named:          # with a descriptor, because only then linkat(2) is called, which can follow
                os.link(f"/proc/self/fd/{self.fd}", os.path.basename(self.passing), dst_dir_fd=directory)
                self.named = True
            os.rename(self.passing, self.path)
            self.named = False
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Close it; nothing is left of it if it was not committed."""
        os.close(self.fd)
        if self.named:
            with contextlib.suppress(OSError):
                os.unlink(self.passing)


@contextlib.contextmanager
def new_file(path: str) -> Iterator[NewFile]:
    """A NewFile; if the name exists already, it must be a regular file's.  => OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "is there, and is no regular file", path)
    file = NewFile(path)
    try:
        yield file
    finally:
        file.close()
