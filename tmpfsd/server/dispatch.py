"""dispatch.py: the request loop, which waits for requests faster than trio does.

pyfuse3 takes two trips through trio's scheduler for each request, one for a lock and one to wait for its
descriptor, some 20 us together.  It finds its event library in the module variable pyfuse3.trio, which its own
pyfuse3/asyncio.py replaces.  A Dispatcher goes there.  Its Lock is trivial, because there is only one reader
(main(max_tasks=1)), and its wait_readable polls the descriptor itself while there is traffic.  It passes everything
else to trio.

Picture     SPIN (poll(0)) -nothing for a while-> BLOCK (poll of 1 ms) -quiet for LINGER-> SLEEP (trio)
            READ (no poll: pyfuse3's read waits) -no request between two ticks-> SLEEP
            A request ends a SPIN and a BLOCK.  loop.py sizes the spin.  If no spin is left, READ follows: it costs
            only one system call, which is needed anyway.  Each tick checks whether a spin would have paid.
Ticks       While there is traffic SIGALRM comes every TURN.  It gives the other tasks (control socket, signals) their
            turn, and ends a blocking read: pyfuse3 takes it for EINTR and asks again.  SPIN and BLOCK need that as
            well: a request whose caller is killed between our poll() and pyfuse3's read() is gone (seen 15 times in
            1,573 kills).  A non-blocking descriptor was tried: pyfuse3 raises at EAGAIN and leaks its buffer of 1 MiB
            each time.
Limits      pyfuse3 reads with the interpreter lock held: there is no READ while this process has another thread.
            A tick that comes just before a read is missed: other tasks wait up to two.
            If pyfuse3 does not look as expected install() returns None, and plain pyfuse3 serves: slower,
            and without idle work.
"""

from __future__ import annotations

import logging
import select
import signal
import threading
from collections.abc import Callable
from time import perf_counter_ns

import pyfuse3
import trio

from tmpfsd.server.loop import LINGER, TURN, Loop, tick
from tmpfsd.server.negotiate import Negotiation

log = logging.getLogger(__name__)

EXPECTED = ("init", "main", "terminate", "close", "Operations", "EntryAttributes", "readdir_reply")


class OneReader:
    """A lock that only one task ever takes."""

    __slots__ = ()

    async def __aenter__(self) -> None:
        """Take it."""

    async def __aexit__(self, *_args: object) -> None:
        """Give it back."""


class Dispatcher(Loop):
    """What pyfuse3 sees as trio (and as trio.lowlevel): the names that it uses."""

    ClosedResourceError = trio.ClosedResourceError
    Lock = OneReader
    open_nursery = staticmethod(trio.open_nursery)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    current_task = staticmethod(trio.lowlevel.current_task)

    def __init__(self, spin: str | int = "auto", clock: Callable[[], int] = perf_counter_ns) -> None:
        super().__init__(spin, clock)
        self.lowlevel = self
        self.negotiation: Negotiation | None = None
        self._fd = -1
        self._ticked = self._served = False     # since the last turn
        self._read = False                      # no spin, and no other thread that needs the interpreter

    def notify_closing(self, fd: int) -> None:
        """End the wait of the request loop, whichever state it is in."""
        self.closed = True
        trio.lowlevel.notify_closing(fd)

    async def wait_readable(self, fd: int) -> None:
        """Return once a request can be read; called by pyfuse3 before each."""
        if fd != self._fd:
            await self._begin(fd)
            if fd != self._fd:
                return
        if self._ticked:
            await self._turn(fd)
        else:
            self._served = True
        if self._read:
            return
        clock, poll = self._clock, self._poll
        if poll(0):
            return
        now = clock()
        end = now + self.spin if not self.background else now
        while clock() < end:
            if poll(0):
                return
        await self._block(fd, now)

    async def _begin(self, fd: int) -> None:
        """Handle the handshake, if one is due, then watch."""
        handshake = self.negotiation
        if handshake is not None and not handshake.asked:
            await trio.lowlevel.wait_readable(fd)
            handshake.ask(fd)
            return
        if handshake is not None:
            handshake.tell(fd)
        self._watch(fd)

    def _watch(self, fd: int) -> None:
        """Poll this descriptor from now on, in the main thread."""
        signal.signal(signal.SIGALRM, self._tick)
        tick(TURN)
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        self._fd, self._poll = fd, poller.poll

    def _tick(self, _number: int, _frame: object) -> None:
        """SIGALRM: a turn is due."""
        self._ticked = True

    async def _turn(self, fd: int) -> None:
        """Let the other tasks run once; sleep if there was no request since the last turn, else choose how to wait."""
        await self._yield()
        if not self._served:
            await self._sleep(fd)
            return
        self._served = False
        if self.adaptive and not self.spin and not self._alone:
            start = self._clock()
            if self._poll(1):
                self._adapt(self._clock() - start)
        self._read = not self.spin and not self.background and threading.active_count() == 1

    async def _yield(self) -> None:
        """Let the other tasks run once."""
        self._ticked = False
        await trio.lowlevel.checkpoint()
        if self.closed:
            raise trio.ClosedResourceError("the request loop ends")

    async def _block(self, fd: int, start: int) -> None:
        """Wait in the kernel while traffic may go on, then in trio; not in the kernel while other tasks have work."""
        clock, poll = self._clock, self._poll
        while clock() < start + LINGER:
            if poll(0 if self.background else 1):
                self._adapt(clock() - start)
                return
            await self._yield()
        await self._sleep(fd)

    async def _sleep(self, fd: int) -> None:
        """Sleep as Loop does; no ticks meanwhile."""
        self._read = False
        tick(0)
        try:
            await super()._sleep(fd)
        finally:
            tick(TURN)


def as_expected() -> bool:
    """Tell whether the installed pyfuse3 finds its event library where this module puts it."""
    return getattr(pyfuse3, "trio", None) is trio and all(hasattr(pyfuse3, name) for name in EXPECTED)


def install(spin: str | int, dont_mask: bool = False) -> Dispatcher | None:
    """Put a Dispatcher into pyfuse3; None when this pyfuse3 is not the known one.

    => dont_mask: the server is to apply umasks (negotiate.py).
    => must be called before pyfuse3.init() and main(), which make the lock.
    """
    if not as_expected():
        log.warning("pyfuse3 %s is not as expected: served by its own loop, slower",
                    getattr(pyfuse3, "__version__", "?"))
        return None
    dispatcher = Dispatcher(spin)
    dispatcher.negotiation = Negotiation(dont_mask)
    setattr(pyfuse3, "trio", dispatcher)
    return dispatcher
