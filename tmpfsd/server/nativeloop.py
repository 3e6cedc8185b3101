"""nativeloop.py: the request loop of edge=native: it reads requests from the device itself, and writes the replies.

One turn is plain Python, some milliseconds long; between two turns the other tasks of trio run.

Picture     SPIN (reads that fail) -nothing for a while-> BLOCK (epoll of 1 ms) -quiet for LINGER-> SLEEP (trio)
            READ (a blocking read) -no request between two ticks-> SLEEP
            A request ends any of them.  loop.py sizes the spin.  SPIN and READ cost two system calls a request, BLOCK
            three.  If no spin is left, READ follows.  With several cores the first request of each turn shows
            whether a spin would have paid.
            A turn ends after TURN, at a tick, or when nothing came for a millisecond: then trio runs once.
            What is answered later (fuse/later.py) gets a slice when no request waits, and each GAP when one does.
Ticks       Only in READ SIGALRM comes every TURN.  Its handler makes the descriptor non-blocking: the interpreter
            restarts an interrupted read, which then says EAGAIN.  Nothing is raised, so a request that was being read
            is not lost.
Ending      ENODEV from the device: it was unmounted, or aborted; or stop() was called.
Limits      A request whose caller was killed is gone between poll and read: the read says EAGAIN, and nothing is lost.
            A tick that comes just before a read is missed: other tasks wait up to two.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
from collections.abc import Callable
from time import perf_counter_ns

import trio

from tmpfsd.fuse import replies
from tmpfsd.fuse.init import BUFFER
from tmpfsd.fuse.session import Reply, Session
from tmpfsd.server.loop import LINGER, MILLISECOND, TURN, Loop, tick

log = logging.getLogger(__name__)

BLOCK = 0.001                                           # seconds
SLICE = MILLISECOND                                     # of what is answered later (fuse/later.py)
GAP = 8 * MILLISECOND                                   # between two slices while there are requests
ENDED = (errno.ENODEV, errno.ECONNABORTED)
AGAIN = (errno.EAGAIN, errno.ENOENT, errno.EINTR)       # ENOENT: the request was withdrawn while it was being read
UNIQUE = slice(8, 16)                                   # of the header of a reply, and of a request


class Reading:
    """A read that may block until the next tick."""

    __slots__ = ("fd", "blocks", "_ticking")

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.blocks = self._ticking = False

    def begin(self) -> None:
        """Let reads block until a tick; ticks come until end()."""
        if not self._ticking:
            signal.signal(signal.SIGALRM, self._tick)
            tick(TURN)
            self._ticking = True
        self.blocks = True
        os.set_blocking(self.fd, True)

    def _tick(self, _number: int, _frame: object) -> None:
        """SIGALRM: a turn is due."""
        self.blocks = False
        os.set_blocking(self.fd, False)

    def end(self) -> None:
        """Stop the ticks; reads do not block."""
        if self._ticking:
            tick(0)
            self._ticking = self.blocks = False
            os.set_blocking(self.fd, False)


class NativeLoop(Loop):
    """The loop of one mount."""

    def __init__(self, fd: int, session: Session, spin: str | int = "auto",
                 clock: Callable[[], int] = perf_counter_ns) -> None:
        super().__init__(spin, clock)
        self.fd, self.session = fd, session
        self._last = clock()                    # when the last request came
        self._sliced = 0                        # when work for a later answer was last done
        self._reading = Reading(fd)
        self._buffer = memoryview(bytearray(BUFFER))
        self._epoll = select.epoll()            # 2 to 7 us of CPU a request less than poll(2), on one core
        self._epoll.register(fd, select.EPOLLIN)
        self._poll = self._epoll.poll

    def close(self) -> None:
        """Close what waits; run() does so at its end."""
        self._epoll.close()

    def stop(self) -> None:
        """End the loop, whichever state it is in."""
        self.closed = True
        trio.lowlevel.notify_closing(self.fd)

    async def run(self) -> None:
        """Serve until the mount ends or stop() is called."""
        with contextlib.suppress(trio.ClosedResourceError), self._epoll:
            try:
                while not self.closed:
                    if self._may_read():
                        self._read_on()
                    else:
                        self._turn()
                    await trio.lowlevel.checkpoint()
                    if not self.closed and self._clock() - self._last > LINGER:
                        await self._sleep(self.fd)
            finally:
                self._reading.end()
                self.awake.release()

    def _may_read(self) -> bool:
        """Whether a read may block in this turn; with several cores, after waiting for its first request."""
        if self.adaptive and not self.spin and not self.session.later and not self.background and (
                self._alone or self._wait(self._clock()) and self._serve_one() and not self.spin):
            return True
        self._reading.end()
        return False

    def _read_on(self) -> None:
        """Serve until a tick; if no request came between two ticks, it is quiet enough."""
        reading, session, serve = self._reading, self.session, self._serve_one
        served = not self._alone
        reading.begin()
        while reading.blocks and not session.later and not self.background and not self.closed:
            if serve():
                served = True
        self._last = self._clock() if served else self._last - LINGER

    def _turn(self) -> None:
        """Serve for a turn, or until nothing comes."""
        clock = self._clock
        start = last = clock()
        while not self.closed and last - start < TURN:
            if self.session.later and (clock() - self._sliced > GAP or not self._poll(0)):
                last = self._last = self._go_on()
            elif self._spin_on(last) or self._wait(last) and self._serve_one():
                last = self._last = clock()
            else:
                return

    def _go_on(self) -> int:
        """Work for a slice on what is answered later; return when that ended."""
        session, clock = self.session, self._clock
        end = clock() + SLICE
        while session.later and clock() < end:
            reply = session.go_on()
            if reply is not None:
                self._send(reply)
        self._sliced = clock()
        return self._sliced

    def _spin_on(self, since: int) -> bool:
        """Serve a request that comes before the spin is over; return whether one did."""
        if self.background or not self.spin:
            return False
        clock, serve, end = self._clock, self._serve_one, since + self.spin
        while clock() < end and not self.closed:
            if serve():
                return True
        return False

    def _wait(self, since: int) -> bool:
        """Block for a millisecond at most; return whether a request can be read.  The spin grows, or shrinks."""
        if self.background:
            self.awake.release()            # there is no spin now
            return bool(self._poll(0))
        came = bool(self._poll(BLOCK))
        if self.adaptive and not self._alone:
            self._adapt(self._clock() - since)
        return came

    def _serve_one(self) -> bool:
        """Read a request, handle it, write its reply; return whether there was one."""
        try:
            nbytes = os.readv(self.fd, (self._buffer,))
        except OSError as error:
            if error.errno in ENDED:
                self.closed = True
            elif error.errno not in AGAIN:
                raise
            return False
        session = self.session
        reply = session.handle(self._buffer[:nbytes])
        if session.notices:
            self._tell()            # first: whoever gets the answer must not find stale data
        if reply is not None:
            self._send(reply)
        return True

    def _send(self, reply: Reply) -> None:
        """Write a reply; if the kernel does not take it, answer with EIO, so that nobody waits for ever."""
        assert reply is not None
        try:
            if isinstance(reply, bytes):
                os.write(self.fd, reply)
            else:
                os.writev(self.fd, reply)
        except OSError as error:
            if error.errno == errno.ENOENT or error.errno in ENDED:     # nobody waits for it any more
                return
            head = reply if isinstance(reply, bytes) else bytes(reply[0])
            log.error("a reply was not taken: %s: %r", error, head[:replies.HEADER_SIZE])
            unique = int.from_bytes(head[UNIQUE], "little")
            try:
                os.write(self.fd, replies.refused(unique, errno.EIO))
            except OSError:
                pass

    def refuse_all(self) -> None:
        """Refuse requests that come after the loop has ended, so that no thread of ours waits for them."""
        with contextlib.suppress(OSError):
            while True:
                os.readv(self.fd, (self._buffer,))
                with contextlib.suppress(OSError):              # requests without an answer
                    os.write(self.fd, replies.refused(int.from_bytes(self._buffer[UNIQUE], "little"), errno.EIO))

    def _tell(self) -> None:
        """Write the notices that belong to an answer."""
        notices = self.session.notices
        while notices:
            notice = notices.pop()
            try:
                os.write(self.fd, notice)
            except OSError as error:            # ENOENT: the kernel does not know it
                log.debug("a notice was not taken: %s", error)
                reply = self.session.not_told(notice)
                if reply is not None:
                    self._send(reply)

    async def _sleep(self, fd: int) -> None:
        """Sleep as Loop does; no ticks meanwhile."""
        self._reading.end()
        try:
            await super()._sleep(fd)
        finally:
            self._last = self._clock()
