"""daemon.py: the life of one mount, from an empty process to the last unmount.

run() builds the Mount, has libfuse mount it, and serves it until it is unmounted or a signal ends it.  One
nursery owns all tasks; README.md beside this file lists them.

Picture     BUILD -> MOUNTED (pyfuse3.init) -> READY (INIT served, told to report) -> ENDING -> CLOSED
            umount by a user: the descriptor says ENODEV, the loop ends by itself.
            TERM, INT, QUIT: umount; if busy, detach, and the loop is told to end.  HUP does the same when the
            terminal of a daemon in the foreground is gone.  Otherwise it is ignored.
            USR1: the status is logged.  Other signals that would kill are ignored.
Invariants  L1 Only the mount with our own device number is unmounted, wherever it is now.
            L2 Signals are blocked from before the mount until the watcher is there: nothing is left half made.
            L3 However run() ends, swap is released, the socket removed, and nothing of ours stays mounted.
            L4 No request is served with more privileges than privileges.py says.
Limits      A signal ends the mount even if files are open there: their users get ENOTCONN.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyfuse3
import trio

from tmpfsd import mountflags, privileges
from tmpfsd.fuse.notify import Notifier
from tmpfsd.fuse.session import Session
from tmpfsd.image.thaw import thaw
from tmpfsd.mounts import mountinfo, placelock
from tmpfsd.mounts.printable import printable
from tmpfsd.mounts.unmount import unmount
from tmpfsd.options import Config, quote
from tmpfsd.server import control, edge, governor, inherited, metrics, process
from tmpfsd.server.awake import open_awake
from tmpfsd.server.commands import Commands
from tmpfsd.server.control import ControlServer
from tmpfsd.server.dispatch import install
from tmpfsd.server.inforce import InForce
from tmpfsd.server.loop import Loop, tick
from tmpfsd.server.nativeloop import NativeLoop
from tmpfsd.server.operations import Operations
from tmpfsd.server.pressure import Pressure, shares
from tmpfsd.server.refused import ControlError, MountError
from tmpfsd.server.trees import Trees
from tmpfsd.tmpfs.filesystem import Mount

log = logging.getLogger(__name__)

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
SIGNALS = (*ENDING, signal.SIGHUP, signal.SIGUSR1)
# They end a process that does not handle them, and mean nothing here.  (An edge that wants SIGALRM handles it later.)
MEANINGLESS = (signal.SIGUSR2, signal.SIGALRM, signal.SIGPROF, signal.SIGVTALRM, signal.SIGXCPU, signal.SIGIO,
               signal.SIGPWR, signal.SIGSTKFLT,
               *range(signal.SIGRTMIN, signal.SIGRTMAX + 1))
GRACE = 1.0         # seconds
UNCOVERED_SECONDS, AGAIN_SECONDS = 2.0, 0.02
MEANWHILE = "another tmpfsd was mounted there meanwhile (unmount it first)"


def fuse_options(config: Config) -> set[str]:
    """Return the options for libfuse.

    To check permissions the kernel needs a directory's attributes, and each change in it makes them stale.  That costs
    one request in four, and a quarter of the time of a create.  noperm saves it.  It is not the default even if only
    root enters: FUSE would check only a process's user, neither the one that it set for files with setfsuid(2) nor its
    capabilities.
    """
    options = set(config.generic) & (mountflags.LIBFUSE | {"allow_other", "default_permissions"})
    options |= {"subtype=tmpfsd", f"fsname={quote(config.fsname)}"}
    if not config.noperm:
        options.add("default_permissions")
    if os.geteuid() == 0:       # as the kernel's tmpfs; libfuse's own default is nosuid,nodev
        options |= {flag for flag in ("suid", "dev") if "no" + flag not in options}
    else:                       # only root may have them; mount.fuse always asks for them
        options -= {"suid", "dev"}
    return options


@contextlib.contextmanager
def captured_stderr() -> Iterator[Callable[[], str]]:
    """Collect what C code and child processes write to descriptor 2.

    => yields a function that returns it as one line.
    """
    saved = os.dup(2)
    collected = os.memfd_create("stderr")
    os.dup2(collected, 2)

    def text() -> str:
        data = os.pread(collected, 4096, 0)
        return "; ".join(printable(line.strip()) for line in data.split(b"\n") if line.strip())

    try:
        yield text
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(collected)


def take_away(place: mountinfo.MountPoint, lazy: bool = False) -> str | None:
    """Unmount with the rights that root's daemon has kept (privileges.py); return what went wrong, or None."""
    with privileges.admin():
        return unmount(place, lazy)


class Daemon:
    """One mount being served."""

    def __init__(self, config: Config, mountpoint: str, report: Callable[[], None]) -> None:
        self.mountpoint = mountpoint
        self.report = report
        self.hangup = hangup_ends()
        self.awake = open_awake(config.awake)
        self.mount = thaw(config, config.image) if config.image else Mount(config)
        self.config = config = self.mount.config        # an image may need more room
        self.operations = Operations(self.mount, config)
        self.trees = Trees(self.mount, self.operations)
        self.dispatcher: Loop | None = None      # what waits for requests
        self.native: NativeLoop | None = None
        self.place: mountinfo.MountPoint | None = None
        self.in_force: InForce | None = None
        self.mounts = open(mountinfo.TABLE, "rb", buffering=0)       # it may end when no descriptor is left to open
        self.stopping = False
        self.socket_path = ""
        self.socket_made: tuple[int, int, int] | None = None
        self.metrics = metrics.listen(config.metrics) if config.metrics else None
        self.metrics_made = control.identity(config.metrics) if config.metrics.startswith("/") else None

    # Mounting and its undoing

    def attach(self) -> None:
        """Have libfuse mount; MountError with its message when it cannot."""
        with placelock.locked(self.mountpoint) as taken:
            if taken:
                raise MountError(MEANWHILE)
            self.attach_alone()

    def attach_alone(self) -> None:
        """attach(), while no other tmpfsd mounts there."""
        native = edge.is_native(self.config.edge)
        if not native:
            self.dispatcher = install(self.config.spin, dont_mask=self.config.acl)
        before = edge.devices()
        with captured_stderr() as text:
            try:
                pyfuse3.init(self.operations, self.mountpoint, fuse_options(self.config))
            except RuntimeError as error:
                raise MountError(text() or str(error)) from None
        try:
            self.settle_in(before, native)
        except BaseException:           # whatever it is: nothing stays mounted
            self.detach()
            raise

    def settle_in(self, before: set[int], native: bool) -> None:
        """Find out where we are mounted, and by which new descriptor; set what libfuse cannot set.  => MountError."""
        self.place = self.find_place(edge.devices() - before)
        if self.place is None:
            raise MountError("mounted, but /proc/self/mountinfo does not show it")
        self.demand_first(self.place)
        self.in_force = InForce(self.mount, self.mounts, f"{self.place.major}:{self.place.minor}", self.mountpoint)
        try:
            self.in_force.set(self.config.generic)
        except OSError as error:
            raise MountError(f"{','.join(self.config.generic)}: {error.strerror or error}") from None
        if native:
            self.take_over(edge.new_device(before))
        if self.dispatcher is not None:
            self.dispatcher.awake = self.awake

    def demand_first(self, ours: mountinfo.MountPoint) -> None:
        """See that no tmpfsd is below ours, if the place could not be locked.  => MountError."""
        for mount in mountinfo.table(self.mounts):
            # By number: the same path may also lead to a mount that something between has hidden since.
            if mount.id == ours.parent and mount.path == ours.path and mount.fstype == mountinfo.FSTYPE:
                raise MountError(MEANWHILE)

    def take_over(self, fd: int) -> None:
        """Serve the descriptor of pyfuse3's session ourselves."""
        session = Session(self.mount, self.config, self.operations)
        session.on_init = self.operations.init
        self.dispatcher = self.native = NativeLoop(fd, session, self.config.spin)
        self.trees.kernel = Notifier(fd)

    def find_place(self, fds: set[int]) -> mountinfo.MountPoint | None:
        """Return the mount that was made now: another tmpfsd may have mounted at the same place meanwhile."""
        device = process.fuse_device(fds)
        if device is None:
            found = mountinfo.find(self.mountpoint, self.mounts)
            return found if found is not None and found.fstype == mountinfo.FSTYPE else None
        found_there = [mount for mount in mountinfo.table(self.mounts) if mount.device == device]
        return found_there[-1] if found_there else None

    def places(self) -> list[mountinfo.MountPoint]:
        """Return where this mount can be reached now, even if it was moved or bound elsewhere (L1)."""
        return mountinfo.mounted_at(self.place.device, self.mounts) if self.place is not None else []

    def where(self) -> tuple[str, bool]:
        """Return where it is mounted now, or was last, and whether no path leads there any more."""
        places = self.places()
        return (places[0].path if places else self.mountpoint), not places

    def detach(self) -> None:
        """End the session and unmount what is ours, wherever it is and even if busy."""
        # First, because umount must not wait for a server that no longer answers.  libfuse would unmount by path alone:
        # only if we know no better.
        pyfuse3.close(unmount=self.place is None)
        deadline = time.monotonic() + UNCOVERED_SECONDS
        while True:
            places = self.places()          # several may be stacked
            if places and not all([take_away(place, lazy=True) for place in places]):
                continue
            # Above may be one that started at the same time.  It goes too: left below it, we would hide the first.
            if not self.is_covered() or time.monotonic() > deadline:
                return
            time.sleep(AGAIN_SECONDS)

    def is_covered(self) -> bool:
        """Tell whether another tmpfsd is mounted above one of our mounts, at the same place."""
        if self.place is None:
            return False
        table = list(mountinfo.table(self.mounts))
        ours = {(mount.id, mount.path) for mount in table if mount.device == self.place.device}
        return any((mount.parent, mount.path) in ours and mount.fstype == mountinfo.FSTYPE for mount in table)

    # Tasks

    async def serve(self) -> None:
        """Serve until the request loop ends."""
        self.trees.turns.loop = self.dispatcher
        async with trio.open_nursery() as nursery:
            await nursery.start(self.watch_signals)
            ready = trio.Event()
            self.operations.on_init = ready.set
            commands = Commands(self.mount, self.operations, self.where, self.dispatcher, self.trees, self.in_force)
            self.open_control(nursery, commands)
            privileges.drop(self.mountpoint)
            nursery.start_soon(self.idle_worker)
            nursery.start_soon(self.trees.reaper)
            nursery.start_soon(self.trees.warmer)
            nursery.start_soon(self.operations.forgetter)
            nursery.start_soon(Pressure(commands.figures, commands.journal.look).watch, self.dispatcher)
            assert self.in_force is not None
            self.in_force.look()
            nursery.start_soon(self.in_force.watch, self.dispatcher)
            nursery.start_soon(self.tell_ready, ready)
            try:
                await (self.native.run() if self.native else pyfuse3.main(min_tasks=1, max_tasks=1))
            finally:
                tick(0)     # trio closes its wake-up descriptor before it resets the signal handler
                self.say_stopping()
            nursery.cancel_scope.cancel()
        if self.native and self.native.session.refusal:
            raise MountError(self.native.session.refusal)

    def open_control(self, nursery: trio.Nursery, commands: Commands) -> None:
        """Open the control socket (a mount without it still serves files), and serve the socket of metrics=."""
        assert self.place is not None
        logging.getLogger().addHandler(commands.journal)
        if self.metrics is not None:
            nursery.start_soon(metrics.MetricsServer(commands.status).serve, self.metrics)
        try:
            path, listener = control.open_socket(os.geteuid(), control.socket_name(*self.place.device))
        except ControlError as error:
            log.warning("no control socket: %s", error)
            return
        self.socket_path, self.socket_made = path, control.identity(path)
        nursery.start_soon(ControlServer(commands.table(), os.geteuid(), self.trees.turns).serve, listener)
        nursery.start_soon(commands.latency.run)
        nursery.start_soon(commands.advice.run)
        nursery.start_soon(governor.follow, commands.tuning, self.trees.turns)

    async def tell_ready(self, ready: trio.Event) -> None:
        """Report once the kernel's INIT was served."""
        await ready.wait()
        assert self.place is not None
        process.set_caching(self.place.major, self.place.minor)     # INIT has just set it to the default
        process.still_garbage()
        log.info("mounted: backend=%s ram=%d MiB size=%d MiB swap=%s", self.config.backend,
                 self.config.ram_bytes >> 20, self.config.size_bytes >> 20, ":".join(self.config.places) or None)
        self.report()

    async def watch_signals(self, task_status: trio.TaskStatus[None]) -> None:
        """Act on signals."""
        with trio.open_signal_receiver(*SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            task_status.started()
            async for number in signals:
                if number in ENDING or number == signal.SIGHUP and self.hangup:
                    await self.end(number)
                elif number == signal.SIGHUP:
                    log.info("SIGHUP: ignored; SIGTERM unmounts")
                else:
                    log.info("status: %s", summary(self.mount.status()))

    async def end(self, number: int) -> None:
        """End the mount."""
        self.say_stopping()
        log.info("%s: unmounting", signal.Signals(number).name)
        if await self.try_unmount():
            await trio.sleep(GRACE)     # the loop ends by itself, if nobody bound the mount elsewhere
        with contextlib.suppress(trio.TooSlowError):
            await self.settle()
        self.end_loop()

    def say_stopping(self) -> None:
        """Tell systemd, once, that the mount ends, by a signal or an unmount: the rest may take a while."""
        if not self.stopping:
            self.stopping = True
            process.tell_supervisor(b"STOPPING=1")

    def end_loop(self) -> None:
        """Tell the request loop to end."""
        if self.native:
            self.native.stop()
        else:
            pyfuse3.terminate()

    async def try_unmount(self) -> bool:
        """Unmount cleanly while requests are served; False when it is busy or no longer there."""
        places = self.places()
        for place in places:
            error = await trio.to_thread.run_sync(take_away, place)
            if error:
                log.warning("%s: %s: ending all the same", place.path, error)
                return False
        return bool(places)

    async def settle(self, refuse: Callable[[], object] = lambda: None) -> None:
        """Wait for threads that tell the kernel something.  => refuse(): what they wait for, when nobody serves.

        => TooSlowError: one waits for an earlier request.
        """
        with trio.fail_after(GRACE):
            await self.trees.settled(refuse)

    async def settle_ended(self) -> None:
        """settle() when the request loop has ended."""
        await self.settle(*([self.native.refuse_all] if self.native else []))

    async def idle_worker(self) -> None:
        """Do background work in slices while there are no requests."""
        traffic = self.dispatcher
        while traffic is not None:
            await traffic.wait_quiet()
            try:
                while traffic.quiet and self.mount.idle():
                    await trio.lowlevel.checkpoint()
            except Exception as error:
                self.mount.gate.errno_of(error, "background work")
            await traffic.wait_traffic()


def ignore(numbers: Iterable[int]) -> None:
    """Ignore signals that would kill a daemon but are not meant to; unlike handlers, this lasts to the very end."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def heed_none() -> None:
    """Have signals do nothing when nobody waits for them: after the watcher has ended, until the process ends."""
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: None)


def hangup_ends() -> bool:
    """Tell whether SIGHUP means that the terminal is gone: there is one, and nobody (nohup) has it ignored.

    Otherwise it is what administrators send after a log rotation.
    """
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def summary(status: dict[str, Any]) -> str:
    """Write the status in one line."""
    paging = status["paging"]
    parts = [f"{'size' if name == 'used' else name} {share}" for name, share in shares(status)]
    parts += [f"{status['inodes']:,} inodes"] if not status["inodes_max"] else []
    parts.append(" ".join(f"{name} {paging[name]:,}" for name in ("faults", "pageins", "pageouts", "lost_pages")))
    return ", ".join(parts)


def run(config: Config, mountpoint: str, report: Callable[[], None]) -> None:
    """Mount and serve until the end; report() is called once the mount answers.

    => raises MountError, VmError or OSError when it cannot be mounted: nothing is left mounted then.
    """
    inherited.set_limits(config)
    inherited.spare_me()
    ignore(MEANINGLESS)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)       # L2
    daemon = Daemon(config, mountpoint, report)
    heed_none()
    try:
        process.harden()
        process.keep_buffers()
        daemon.attach()
        try:
            trio.run(daemon.serve)
        finally:
            ignore((*SIGNALS, *MEANINGLESS))        # it is ending: that answers any signal now
            with contextlib.suppress(trio.TooSlowError):        # a thread may still use the session
                trio.run(daemon.settle_ended)
            tick(0)             # a later tick, when the interpreter has restored its handlers, would kill
            daemon.detach()
    finally:
        control.remove(daemon.socket_path, daemon.socket_made)
        control.remove(config.metrics, daemon.metrics_made)
        daemon.awake.close()
        daemon.mounts.close()
        daemon.mount.close()
    log.info("unmounted")
