"""dispatch.py: the request loop, which waits for requests faster than trio does.

pyfuse3 takes two trips through trio's scheduler for each request, one for a lock and one to wait for its
descriptor, some 20 us together.  It looks its event library up in the module variable pyfuse3.trio, which
its own pyfuse3/asyncio.py replaces; a Dispatcher goes there.  Its Lock is trivial, for there is one reader
(main(max_tasks=1)), and its wait_readable polls the descriptor itself while there is traffic.  All else it
hands to trio.

Picture     SPIN (poll(0)) -nothing for a while-> BLOCK (poll of 1 ms) -quiet for LINGER-> SLEEP (trio)
            READ (no poll: pyfuse3's read waits) -no request between two ticks-> SLEEP
            A request ends a SPIN and a BLOCK.  spin=auto grows the spin when a request came just after it ended, and
            halves it when none came for long, as the kernel's haltpoll governor does.  Where that leaves none, READ
            follows: it costs one system call, which there must be anyway.  Each tick looks anew whether a spin would
            have paid.  In SLEEP the spin is 0: an idle mount costs no CPU.  With one core there is no spin: it
            would hold the client up.
Ticks       While there is traffic SIGALRM comes every TURN.  It gives the other tasks (control socket, signals) their
            turn, and ends a read that blocks: pyfuse3 takes it for EINTR and asks again.  SPIN and BLOCK need that as
            well: a request whose caller is killed between our poll() and pyfuse3's read() is gone (seen 15 times in
            1,573 kills).  A descriptor that does not block was tried: pyfuse3 raises at EAGAIN and leaks its buffer
            of 1 MiB each time.
Limits      pyfuse3 reads with the interpreter lock held: there is no READ while this process has another thread.
            A tick that comes just before a read is missed: other tasks wait up to two.
            Where pyfuse3 does not look as expected install() returns None, and plain pyfuse3 serves: slower,
            and without idle work.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import pyfuse3
import trio

from tmpfsd.server.negotiate import Negotiation

log = logging.getLogger(__name__)

MICROSECOND, MILLISECOND = 1_000, 1_000_000
FIRST_SPIN = 10 * MICROSECOND
MOST_SPIN = 50 * MICROSECOND            # more does not catch more requests: the waking of a core is in it
LINGER = 4 * MILLISECOND
TURN = 0.004                            # seconds
EXPECTED = ("init", "main", "terminate", "close", "Operations", "EntryAttributes", "readdir_reply")


def tick(seconds: float) -> None:
    """Have SIGALRM come every so many seconds from now on; 0 for never."""
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def one_core() -> bool:
    """Tell whether this process has one core only, which its clients then need to send a request."""
    return len(os.sched_getaffinity(0)) == 1


class OneReader:
    """A lock for the one task that ever takes it."""

    __slots__ = ()

    async def __aenter__(self) -> None:
        """Take it."""

    async def __aexit__(self, *_args: object) -> None:
        """Give it back."""


class Dispatcher:
    """What pyfuse3 sees as trio (and as trio.lowlevel): the names that it uses, no more."""

    ClosedResourceError = trio.ClosedResourceError
    Lock = OneReader
    open_nursery = staticmethod(trio.open_nursery)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    current_task = staticmethod(trio.lowlevel.current_task)

    def __init__(self, spin: str | int = "auto", clock: Callable[[], int] = perf_counter_ns) -> None:
        self.adaptive = spin == "auto"
        self.spin = 0 if self.adaptive else int(spin) * MICROSECOND
        self.closed = False
        self.background = 0                 # how many have work for the time between requests (turns.py)
        self.lowlevel = self
        self.negotiation: Negotiation | None = None
        self._clock = clock
        self._alone = one_core()            # spinning would keep the client from running
        self._fd = -1
        self._poll: Callable[[int], Any] = lambda _timeout: []
        self._ticked = self._served = False     # since the last turn
        self._read = False                      # no spin, and no other thread that needs the interpreter
        self._quiet, self._traffic = trio.Event(), trio.Event()

    @property
    def quiet(self) -> bool:
        """Whether the loop sleeps in trio, with no request in sight."""
        return self._quiet.is_set()

    def waits(self) -> bool:
        """Whether a request waits."""
        return bool(self._poll(0))

    async def wait_quiet(self) -> None:
        """Wait until there is no traffic."""
        await self._quiet.wait()

    async def wait_traffic(self) -> None:
        """Wait until there is traffic again."""
        await self._traffic.wait()

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
        """See the handshake through, if there is to be one, then watch."""
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
        """Let the other tasks run once; sleep if there was no request since the last turn, else see how to wait."""
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
        """Wait in the kernel while traffic may go on, then in trio; not in the kernel where others have work."""
        clock, poll = self._clock, self._poll
        while clock() < start + LINGER:
            if poll(0 if self.background else 1):
                self._adapt(clock() - start)
                return
            await self._yield()
        await self._sleep(fd)

    def _adapt(self, waited: int) -> None:
        """Size the spin by how long the request took to come."""
        if not self.adaptive:
            return
        if waited <= 2 * MOST_SPIN and not self._alone:
            self.spin = min(max(FIRST_SPIN, 2 * self.spin), MOST_SPIN)
        else:
            self.spin = self.spin >> 1 if self.spin > FIRST_SPIN else 0

    async def _sleep(self, fd: int) -> None:
        """Wait in trio; idle work is done meanwhile."""
        if self.adaptive:
            self.spin = 0
        self._read = False
        tick(0)
        self._traffic = trio.Event()
        self._quiet.set()
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            tick(TURN)
            self._alone = one_core()
            self._quiet = trio.Event()
            self._traffic.set()


def as_expected() -> bool:
    """Tell whether the installed pyfuse3 looks its event library up where this module puts it."""
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
