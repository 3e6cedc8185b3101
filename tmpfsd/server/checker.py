"""checker.py: the whole-file-system check, done by a frozen copy of the daemon while requests are served.

fork() makes the copy.  It sees everything as it was at one moment between two requests.  So its verdict is about that
moment, whatever changes meanwhile.  Checking the live mount in slices was rejected: the counts (links, users of an
item) would come from a different moment in each slice, and a false alarm makes a mount read-only.
uvm/frozen.py keeps swap as the copy saw it.

Picture     fork --> parent: serves requests, relays progress, waits        --> verdict, or why there is none
                 --> child: closes what is not its own, checks, reports     --> _exit

Invariants  J1 The child ends with the daemon, at the latest (PR_SET_PDEATHSIG), and when its client goes.
            J2 The child holds only the descriptors of the swap files and of its pipe.  With the mount's, the mount
               would outlive the daemon.  It writes to the pipe only.
            J3 The child is the first to be killed when memory is short (oom_score_adj), and the last to run (nice).

Limits      fork() copies page tables: 3 ms for 128 MiB of `ram` in use, 7 for 256, 20 for 1 GiB, and requests wait for
            that.  Pages that they change afterwards are copied, 4.6 us a page, up to `ram` once more.  Huge pages
            (MADV_HUGEPAGE) made the first fork ten times faster but later ones hardly; first touching one took 5 ms.
            The daemon learns only the first 1024 slots that the copy cannot read (uvm/lost.py); the answer counts all.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
from collections.abc import AsyncGenerator, Callable
from typing import Any

import trio

from tmpfsd.server.refused import ControlError
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.uvm.errors import Inconsistent, VmError
from tmpfsd.uvm.frozen import Hold, become_copy
from tmpfsd.uvm.lost import Unreadable, heed

ALIVE_SECONDS = 0.5         # between two words to the client, who takes a long silence for a hang
NICE = 19
PR_SET_PDEATHSIG = 1        # <linux/prctl.h>
MOST_LINE = 4096


# What a copy does.  It is given the pipe: it may say() how far it is, and returns its last word.
Work = Callable[[Mount, int], dict[str, Any]]


async def check(mount: Mount) -> AsyncGenerator[dict[str, Any], None]:
    """Check a copy of the mount; yields {"progress": ...} at least twice a second, and at last {"result": verdict}.

    => Inconsistent: an invariant does not hold.  => ControlError: it could not be checked.
    """
    def believe(word: dict[str, Any]) -> None:
        heed(mount.vm, word.get("pages", ()), word.get("healed", ()))

    async with contextlib.aclosing(in_copy(mount, _look, "checked", told=believe)) as parts:
        async for part in parts:
            yield part if "progress" in part else {"result": _verdict(part["said"], part["broken"])}


async def in_copy(mount: Mount, work: Work, done: str, keep: tuple[int, ...] = (),
                  told: Callable[[dict[str, Any]], None] | None = None) -> AsyncGenerator[dict[str, Any], None]:
    """Have a frozen copy of the daemon do something; yields {"progress": ...}, and at last its last word and whether
    the hold was broken.

    => keep: descriptors that it needs.  told(last word): called while the slots are still as the copy saw them.
    => ControlError: not done.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    daemon = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        raise ControlError(f"not {done}: no second process: {error.strerror}") from None
    if not pid:
        _be_child(mount, writer, daemon, work, keep)
    os.close(writer)
    hold = Hold(mount.vm, lambda: os.kill(pid, signal.SIGKILL))
    verdict: dict[str, Any] = {}
    try:
        async with contextlib.aclosing(_words(reader)) as words:
            async for word in words:
                if "progress" in word:
                    yield word
                else:
                    verdict = word
        if told is not None and not hold.broken:
            told(verdict)
    finally:
        hold.let_go()
        os.close(reader)
        os.kill(pid, signal.SIGKILL)        # it is a zombie, or no longer needed
        await _reap(pid)
    yield {"said": verdict, "broken": hold.broken}


async def _reap(pid: int) -> None:
    """Wait for a child that was killed: it may take a while to give its memory back."""
    pidfd = os.pidfd_open(pid)
    try:
        with trio.CancelScope(shield=True):
            await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)
        os.waitpid(pid, 0)


async def _words(reader: int) -> AsyncGenerator[dict[str, Any], None]:
    """What the child says, with its progress repeated while it says nothing."""
    pending, progress = b"", {"progress": {"done": 0, "of": 0}}
    while True:
        with trio.move_on_after(ALIVE_SECONDS):
            await trio.lowlevel.wait_readable(reader)
        try:
            data = os.read(reader, MOST_LINE)
        except BlockingIOError:
            yield progress
            continue
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            word = json.loads(line)
            if "progress" not in word:
                yield word
            progress = word if "progress" in word else progress
        yield progress


def _verdict(word: dict[str, Any], broken: bool) -> str:
    """What the child found.  => Inconsistent, ControlError."""
    if "broken" in word:
        raise Inconsistent(*word["broken"])
    if "error" in word:
        lost = f"{word['lost']} pages cannot be read back, of metadata too: " if word["lost"] else ""
        raise ControlError(f"not checked: {lost}{word['error']}")
    if "lost" not in word:
        raise ControlError("not checked: the mount needed swap space that the check kept from being used again"
                           if broken else "not checked: the checking process was killed: is memory short?")
    lost = word["lost"]
    return f"consistent, but {lost} pages cannot be read back" if lost else "consistent"


def _be_child(mount: Mount, writer: int, daemon: int, work: Work, keep: tuple[int, ...]) -> None:
    """Work and report the result.  Never returns."""
    try:
        _settle(mount, writer, keep)
        if os.getppid() == daemon:
            say(writer, work(mount, writer))
    finally:
        os._exit(0)


def _settle(mount: Mount, writer: int, more: tuple[int, ...]) -> None:
    """Leave to the daemon everything that is the daemon's own."""
    gc.disable()                        # nothing is finalized twice, and fewer pages are copied
    logging.disable()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    swap = mount.vm.swap
    image = mount.vm.image
    keep = {writer, *more, *(image.descriptors() if image is not None else ()),
            *(fd for file in (swap.files if swap is not None else []) for fd in file.store.descriptors())}
    below = 0
    for fd in sorted(keep):
        os.closerange(below, fd)
        below = fd + 1
    os.closerange(below, os.sysconf("SC_OPEN_MAX"))
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    os.set_blocking(writer, True)


def _look(mount: Mount, writer: int) -> dict[str, Any]:
    """Check; return what to report."""
    found = mount.vm.unreadable = Unreadable(mount.vm)
    try:
        mount.vm.check(deep=False)      # as it was, before there are more frames
        become_copy(mount.vm)
        mount.check(lambda done, of: say(writer, {"progress": {"done": done, "of": of}}))
    except Inconsistent as error:
        return {"broken": [error.invariant, str(error).removeprefix(f"{error.invariant}: "), error.dump]}
    except VmError as error:            # a page that cannot be read is no broken invariant
        return {"error": str(error), "lost": found.nlost, "pages": found.pages}
    except Exception as error:
        return {"broken": [type(error).__name__, f"the check itself failed: {error}", ""]}
    return {"lost": found.nlost, "pages": found.pages, "healed": found.healed}


def say(writer: int, word: dict[str, Any]) -> None:
    """Tell the daemon something, in a line."""
    data = json.dumps(word).encode() + b"\n"
    while data:
        data = data[os.write(writer, data):]
