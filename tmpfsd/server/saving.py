"""saving.py: saves a mount in an image, from a frozen copy of the daemon while requests are served.

It works as Redis saves: fork() copies frames and tables, and what is in swap stays there until the copy is done
(uvm/frozen.py).  The client opens the file, because it has the right to, and names it when all of it is on disk.

Picture     wait until nothing is doomed -> fork (checker.py) -> child: frees what has no name, writes, syncs -> _exit

Limits      Requests wait only for the fork (checker.py).  What they change meanwhile exists twice.
            If swap is so full that a slot of the snapshot is needed, the snapshot ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import trio

from tmpfsd.image.format import Writer
from tmpfsd.image.freeze import freeze
from tmpfsd.server.checker import ALIVE_SECONDS, in_copy, say
from tmpfsd.server.refused import ControlError
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.uvm.errors import Inconsistent, VmError
from tmpfsd.uvm.frozen import become_copy
from tmpfsd.uvm.used import used_pages

REAP_SECONDS = 0.02         # between two looks whether the reaper is done


async def snapshot(mount: Mount, descriptors: list[int], hot: bool = False) -> AsyncGenerator[dict[str, Any], None]:
    """Save a copy of the mount in the file that came with the request; yields progress, at last {"result": ...}.

    => hot: with the pages that were used.  => ControlError: not saved, and the file's content is undefined.
    """
    if not descriptors:
        raise ControlError("snapshot: no file was handed over")
    fd = descriptors.pop()
    try:
        mode, flags = os.fstat(fd).st_mode, fcntl.fcntl(fd, fcntl.F_GETFL)
        if not stat.S_ISREG(mode) or flags & os.O_ACCMODE == os.O_RDONLY:
            raise ControlError("snapshot: what was handed over is no file to be written")
        while mount.doomed:
            yield {"progress": {"done": 0, "of": 0}}
            with trio.move_on_after(ALIVE_SECONDS):
                while mount.doomed:
                    await trio.sleep(REAP_SECONDS)
        async with contextlib.aclosing(in_copy(mount, partial(_save, fd, hot), "saved", (fd,))) as parts:
            async for part in parts:
                yield part if "progress" in part else {"result": _result(part["said"], part["broken"])}
    finally:
        os.close(fd)


def _result(word: dict[str, Any], broken: bool) -> dict[str, Any]:
    """What the copy has written.  => ControlError."""
    if "error" in word:
        raise ControlError(f"not saved: {word['error']}")
    if "bytes" not in word:
        raise ControlError("not saved: the mount needed swap space that the snapshot kept from being used again"
                           if broken else "not saved: the saving process was killed: is memory short?")
    return word


def _save(fd: int, hot: bool, mount: Mount, pipe: int) -> dict[str, Any]:
    """Be the copy, and write; return the last word."""
    mount.on_doomed = lambda: None
    try:
        pages = used_pages(mount.vm) if hot else None
        become_copy(mount.vm)
        nbytes = freeze(mount, Writer(fd), lambda done, of: say(pipe, {"progress": {"done": done, "of": of}}),
                        int(time.time()), pages)
        os.fsync(fd)
    except OSError as error:
        return {"error": error.strerror or str(error)}
    except (Inconsistent, VmError) as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"bytes": nbytes, "pages": mount.vm.npages, "inodes": mount.mem.ninodes()}
