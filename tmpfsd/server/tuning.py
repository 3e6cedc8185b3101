"""tuning.py: what can be changed while it is mounted: limits, memory, swap files.

Each of these is a command of the control socket that works in steps (control.py); requests are served in between.

Invariants  U1 All values of one `set` are applied, or none, however it ends.
            U2 One change at a time: a second one is refused, not queued.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import itertools
import logging
import os
import stat
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from tmpfsd import options, sizes
from tmpfsd.machine import memory_limit, physical_memory
from tmpfsd.options import OptionError
from tmpfsd.optionwords import Auto
from tmpfsd.server import inherited
from tmpfsd.server.control import Command, Progress
from tmpfsd.server.governor import Governor
from tmpfsd.server.loop import MICROSECOND, Loop
from tmpfsd.server.opening import is_server, opened
from tmpfsd.server.refused import ControlError
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.mem import MAX_NODES
from tmpfsd.uvm.codec import Zstd
from tmpfsd.uvm.errors import NoMemory, NoSwap, SwapIOError
from tmpfsd.uvm.param import atop, ptoa
from tmpfsd.uvm.queues import ACTIVE
from tmpfsd.uvm.resize import resize
from tmpfsd.uvm.seal import make_seal
from tmpfsd.uvm.store import FileStore, Store, open_store, own
from tmpfsd.uvm.swap import MOST_PRIORITY, UNSAID, Swap
from tmpfsd.uvm.swapset import RING_BASE, RING_WIDTH, free_base, swapoff, swapon
from tmpfsd.uvm.tier import compress_in
from tmpfsd.uvm.zlog import ZRAM, ZLog
from tmpfsd.uvm.zresize import resize_ring

log = logging.getLogger(__name__)

LOCAL = ("file", "unlinked", "device")      # kinds of stores of this machine
CLOSING = 0.0002            # between two looks whether a file is closed

SETTABLE = ("size", "nr_inodes", "ram", "spin", "swap_size", "zram")
REFUSALS = (NoMemory, NoSwap, SwapIOError)      # a broken invariant is for the gate (commands.py)
Steps = Generator[Progress, None, Any]


def parse(words: Any) -> dict[str, Any]:
    """Read "key=value" as mount options are read; return the values by key."""
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ControlError("no values: " + ", ".join(f"{name}=" for name in SETTABLE))
    values: dict[str, Any] = {}
    given: list[str] = []
    for word in words:
        name = word.partition("=")[0]
        if name not in SETTABLE:
            known = name in options.VALUED or name in options.FLAGS or name in options.GENERIC
            why = "cannot be changed while it is mounted" if known else "unknown option"
            raise ControlError(f"{word}: {why}; these can: {', '.join(SETTABLE)}")
        try:
            options.read_value(values, given, word, memory_limit())
            options.demand_memory(values.get("ram_bytes", 0), physical_memory())
        except OptionError as error:
            raise ControlError(str(error)) from None
        given.append(name)
    return {name: values[options.VALUED[name].field] for name in given}


class Tuning:
    """The changes of one mount."""

    def __init__(self, mount: Mount, dispatcher: Loop | None) -> None:
        self.mount = mount
        self.dispatcher = dispatcher
        self.ram_bytes = mount.config.ram_bytes         # frames and compressed pages share it; less while it changes
        swap = mount.vm.swap
        # The file that swap_size applies to.
        self.own_swap = swap.files[0] if swap is not None and swap.files else None
        self.busy = ""
        self.governor = Governor(mount.config.ram_auto) if mount.config.ram_auto is not None else None

    def table(self) -> dict[str, Command]:
        """Return the commands, by name."""
        return {"set": self.set, "swapon": self.swapon, "swapoff": self.swapoff, "flush": self.flush}

    @contextlib.contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Let no other change begin meanwhile (U2)."""
        if self.busy:
            raise ControlError(f"{self.busy} is under way on this mount")
        self.busy = what
        try:
            yield
        except REFUSALS as error:
            raise ControlError(str(error)) from None
        finally:
            self.busy = ""

    # set

    def set(self, request: Mapping[str, Any]) -> Steps:
        """Change limits; the result has the old and the new value of each key."""
        values = parse(request.get("values"))
        given = self.mount.config.given | values.keys() & {"swap_size"}
        with self.alone("set"):
            values |= self._swap_for(values)
            answer = {}
            undo: list[Iterator[Progress]] = []
            ram = values.get("ram", self.ram_bytes)
            if values.get("zram", 0) < 0:
                of = self.ram_bytes if isinstance(ram, Auto) else ram
                values["zram"] = -values["zram"] * of // 100 & -sizes.PAGE_SIZE
            try:
                for name in sorted(values, key=self._last(values).index):
                    change: Callable[[Any], Iterator[Progress]] = getattr(self, f"_set_{name}")
                    was = getattr(self, f"_{name}")()
                    if name == "ram":                   # it is undone last: putting ram back ends ram=auto
                        undo.insert(0, self._govern(self.governor))
                    undo.insert(0, put_back(change, was))
                    yield from change(values[name])
                    answer[name] = {"was": was, "is": values[name]}
            except GeneratorExit:               # the daemon ends: no step may follow
                for _ in itertools.chain(*undo):
                    pass
                raise
            except Exception:
                yield from itertools.chain(*undo)
                raise
        fields = {options.VALUED[name].field: value for name, value in values.items()}
        if "ram" in values:
            fields["ram_auto"] = self.governor.bounds if self.governor is not None else None
            fields["ram_bytes"] = self.ram_bytes
            answer["ram"]["is"] = self.ram_bytes
        if values.get("zram"):
            fields["compress"] = "zstd"
        fields["given"] = given
        self.mount.config = dataclasses.replace(self.mount.config, **fields)
        log.info("set %s", " ".join(f"{name}={each['is']} (was {each['was']})" for name, each in answer.items()))
        return answer

    def _swap_for(self, values: Mapping[str, Any]) -> dict[str, int]:
        """The swap_size that goes with a larger size, if nobody gave one: as at the mount, there is room for all."""
        swap = self.mount.vm.swap
        if ("size" not in values or {"swap_size"} & (self.mount.config.given | values.keys())
                or swap is None or self.own_swap not in swap.files):
            return {}
        most = ptoa(self.own_swap.width + 1)
        was, wanted = self._swap_size(), min(values["size"], most)
        if wanted <= was or was < min(self._size(), most):
            return {}
        try:
            demand_length(self.own_swap.store, f"swap_size={wanted}", wanted)
        except ControlError as error:
            log.warning("swap stays at %d bytes: %s", was, error)
            return {}
        return {"swap_size": wanted}

    def _govern(self, governor: Governor | None) -> Iterator[Progress]:
        """Have ram follow its previous governor."""
        self.governor = governor
        yield from ()

    def _last(self, values: Mapping[str, Any]) -> list[str]:
        """The order in which names are set: ram last, as it takes long and may need the others, but before a zram
        that needs more of it."""
        ram = values.get("ram", 0)
        larger = (ram.low if isinstance(ram, Auto) else ram) > self.ram_bytes
        return ["size", "nr_inodes", "spin", "swap_size", *(("ram", "zram") if larger else ("zram", "ram"))]

    def _size(self) -> int:
        return ptoa(self.mount.vm.limit)

    def _set_size(self, nbytes: int) -> Iterator[Progress]:
        self.mount.vm.limit = atop(nbytes)
        return iter(())

    def _nr_inodes(self) -> int:
        return self.mount.nr_inodes

    def _set_nr_inodes(self, inodes: int) -> Iterator[Progress]:
        self.mount.nr_inodes = inodes
        self.mount.mem.max_nodes = inodes or MAX_NODES
        return iter(())

    def _spin(self) -> str | int:
        dispatcher = self._need_dispatcher()
        return "auto" if dispatcher.adaptive else dispatcher.spin // MICROSECOND

    def _set_spin(self, spin: str | int) -> Iterator[Progress]:
        dispatcher = self._need_dispatcher()
        dispatcher.adaptive = spin == "auto"
        dispatcher.awake.release()
        dispatcher.spin = 0 if spin == "auto" else int(spin) * MICROSECOND
        return iter(())

    def _need_dispatcher(self) -> Loop:
        if self.dispatcher is None:
            raise ControlError("spin: this pyfuse3 waits for requests in its own way")
        return self.dispatcher

    def _need_own_swap(self) -> Swap:
        swap = self.mount.vm.swap
        for file in swap.files if swap is not None else []:
            if file is self.own_swap:
                return file
        raise ControlError("swap_size: the swap file of the mount is not in use; give swapon --size instead")

    def _swap_size(self) -> int:
        return ptoa(self._need_own_swap().nslots + 1)

    def _set_swap_size(self, nbytes: int) -> Iterator[Progress]:
        swap, nslots = self._need_own_swap(), max(atop(nbytes) - 1, 0)
        if nslots > swap.width:
            raise ControlError(f"swap_size={nbytes}: {swap.path} has room for {ptoa(swap.width + 1)} bytes only")
        demand_length(swap.store, f"swap_size={nbytes}", nbytes)
        swap.resize(nslots)
        return iter(())

    def _ram(self) -> int:
        return ptoa(self.mount.vm.phys.nframes) + self._zram()

    def _zram(self) -> int:
        tier = self.mount.vm.tier
        return tier.ring.nbytes if tier is not None else 0

    def least_ram(self) -> int:
        """The least that ram can be: the compressed pages, and 1 MiB."""
        return self._zram() + sizes.MIN_RAM

    def have_ram(self, nbytes: int) -> Iterator[Progress]:
        """As `set ram=`, for the governor.  => ControlError."""
        was = self.ram_bytes
        with self.alone("ram=auto"):
            try:
                yield from self._change_ram(nbytes)
            except GeneratorExit:               # the daemon ends: no step may follow
                for _ in put_back(self._change_ram, was):
                    pass
                raise
            except Exception:
                yield from put_back(self._change_ram, was)
                raise

    def _set_ram(self, wanted: int | Auto) -> Iterator[Progress]:
        """ram=auto begins with the present ram, within its bounds."""
        nbytes = min(max(self.ram_bytes, wanted.low), wanted.high) if isinstance(wanted, Auto) else wanted
        yield from self._change_ram(nbytes)
        self.governor = Governor(wanted) if isinstance(wanted, Auto) else None
        for warning in options.beyond(nbytes, memory_limit()):
            log.warning("%s", warning)

    def _change_ram(self, nbytes: int) -> Iterator[Progress]:
        wanted = atop(nbytes - self._zram())
        if wanted < atop(sizes.MIN_RAM):
            raise ControlError(f"ram={nbytes >> 20}m: zram={self._zram() >> 20}m is a part of it, and must leave 1m")
        try:
            yield from self._frames(wanted)
        except REFUSALS as error:
            raise ControlError(f"ram={nbytes >> 20}m: {error}") from None
        self.ram_bytes = nbytes

    def _set_zram(self, nbytes: int) -> Iterator[Progress]:
        """A larger ring is made after frames are released for it, a smaller one before frames are added."""
        word, ram = f"zram={nbytes >> 20}m", self.ram_bytes
        if nbytes and not sizes.MIN_ZRAM <= nbytes <= sizes.MOST_ZRAM:
            raise ControlError(f"{word}: must be 0, or from 1m to {sizes.MOST_ZRAM >> 30}g")
        if ram - nbytes < sizes.MIN_RAM:
            raise ControlError(f"{word}: is a part of ram={ram >> 20}m and must leave 1m of it")
        frames = atop(ram - nbytes)
        try:
            if frames < self.mount.vm.phys.nframes:
                yield from self._frames(frames)
            yield from self._set_ring(nbytes)
            if frames > self.mount.vm.phys.nframes:
                yield from self._frames(frames)
        except REFUSALS as error:
            raise ControlError(f"{word}: {error}") from None

    def _set_ring(self, nbytes: int) -> Iterator[Progress]:
        vm, was = self.mount.vm, self._zram()
        if vm.tier is None:
            if nbytes:
                compress_in(vm, ZLog(nbytes, RING_BASE, RING_WIDTH, Zstd()))
        elif not nbytes:
            ring = vm.tier.ring
            yield from self._drain(ring)
            yield from closed(ring, Progress(was, was))
        elif nbytes != was or vm.tier.ring.moving:
            with contextlib.closing(resize_ring(vm, nbytes)) as steps:
                for left in steps:
                    yield Progress(max(was - left, 0), was)

    def _drain(self, file: Swap | ZLog) -> Iterator[Progress]:
        held = file.nheld
        with contextlib.closing(swapoff(self.mount.vm, file)) as steps:
            for left in steps:
                yield Progress(max(held - left, 0), held)

    def _frames(self, wanted: int) -> Iterator[Progress]:
        was = self.mount.vm.phys.nframes
        with contextlib.closing(resize(self.mount.vm, wanted)) as steps:
            for nframes in steps:
                yield Progress(abs(was - nframes), abs(was - wanted))

    # swap

    def swapon(self, request: Mapping[str, Any]) -> dict[str, Any] | Steps:
        """Add a swap file; the client has checked it (cli/preflight.py), and opened it if needed.

        => If a descriptor comes with the request, that is paged to, and path is only the name that is shown: the daemon
        may have given up the right to open it (privileges.py).  Connecting to a server takes steps.
        """
        path, nbytes = request.get("path"), request.get("size_bytes")
        if not isinstance(path, str) or not (is_server(path) or os.path.isabs(path)):
            raise ControlError("path: must be an absolute path")
        if not isinstance(nbytes, int) or nbytes < 2 * sizes.PAGE_SIZE:
            raise ControlError(f"{path}: size: must be at least two pages")
        priority = request.get("priority", UNSAID)
        if not isinstance(priority, int) or not UNSAID <= priority <= MOST_PRIORITY:
            raise ControlError(f"{path}: priority: must be a number from 0 to {MOST_PRIORITY}")
        if is_server(path):
            return self._swapon_server(path, nbytes, priority, request)
        with self.alone("swapon"):
            return self._take_in(self._open(path, request.get("descriptors") or []), nbytes, priority)

    def _swapon_server(self, path: str, nbytes: int, priority: int, request: Mapping[str, Any]) -> Steps:
        with self.alone("swapon"):
            store = yield from opened(path, request)
            return self._take_in(store, nbytes, priority)

    def _open(self, path: str, descriptors: list[int]) -> Store:
        direct = self.mount.config.swap_io == "direct"
        try:
            return take_swap(descriptors, path, direct) if descriptors else open_store(path, direct)
        except OSError as error:
            why = "its file system has no O_DIRECT (swap_io=direct)" if direct and error.errno == errno.EINVAL else ""
            raise ControlError(f"{path}: {why or error.strerror or error}") from None

    def _take_in(self, store: Store, nbytes: int, priority: int) -> dict[str, Any]:
        """Have a store used; it is closed if that is refused.  What goes to a server is always encrypted."""
        vm, nslots = self.mount.vm, min(atop(nbytes) - 1, store.most or atop(nbytes) - 1)
        encrypt = self.mount.config.swap_crypt or store.kind not in LOCAL
        try:
            demand_length(store, store.path, ptoa(nslots + 1))
            base = free_base(vm.swap.files if vm.swap is not None else [], nslots, vm.image)
            swap = Swap(store, nslots, base, nslots, make_seal(encrypt), priority)
            swapon(vm, swap)
        except (NoSwap, ControlError):
            store.close()
            raise
        log.info("swapon %s: %d bytes", store.path, ptoa(swap.nslots))
        return swap.stats()

    def swapoff(self, request: Mapping[str, Any]) -> Steps:
        """Drain a swap file and release it; its pages go elsewhere."""
        path, swap = request.get("path"), self.mount.vm.swap
        files: list[Swap | ZLog] = list(swap.files) if swap is not None else []
        if self.mount.vm.tier is not None:
            files.append(self.mount.vm.tier.ring)
        found = [file for file in files if file.path == path]
        if not found:
            known = ", ".join(file.path for file in files) or "none"
            raise ControlError(f"{path}: no swap file of this mount; there are: {known}")
        with self.alone(f"swapoff {path}"):
            held, zram = found[-1].nheld, self._zram()
            try:
                yield from self._drain(found[-1])
            except REFUSALS as error:
                raise ControlError(f"{path}: {error}") from None
            yield from closed(found[-1], Progress(held, held))
        if path == ZRAM:
            yield from self._change_ram(self._ram() + zram)      # its memory is for frames now
            self.mount.config = dataclasses.replace(self.mount.config, compress="none")
        log.info("swapoff %s: %d bytes moved", path, ptoa(held))
        answer = {"path": path, "moved_bytes": ptoa(held)}
        if self.mount.vm.swap is None:
            answer["warning"] = (f"no swap is left: nothing is paged out, ram={self._ram() >> 20}m is all there is; "
                                 "tmpfsctl swapon gives it another")
            log.warning("swapoff %s: %s", path, answer["warning"])
        return answer

    def flush(self, _request: Mapping[str, Any]) -> Steps:
        """Page out everything that may leave."""
        vm = self.mount.vm
        if vm.swap is None:
            raise ControlError("there is no swap (swap=none): nothing can be paged out")
        with self.alone("flush"):
            before, steps = vm.daemon.reclaims, vm.daemon.flush()
            while True:
                try:
                    yield Progress(next(steps), vm.phys.nframes)
                except StopIteration as end:
                    stayed = end.value
                    break
        return {"evicted_bytes": ptoa(vm.daemon.reclaims - before), "stayed_bytes": ptoa(stayed),
                "resident_bytes": ptoa(vm.phys.nused),
                "pageable_bytes": ptoa(sum(vm.daemon.count[ACTIVE:])), "wired_bytes": ptoa(vm.nwired + vm.nunowned)}


def take_swap(descriptors: list[int], path: str, direct: bool) -> FileStore:
    """As open_store(), for a file that was passed; it is taken from the list if it is suitable.  => OSError."""
    fd = descriptors[0]
    flags, mode = fcntl.fcntl(fd, fcntl.F_GETFL), os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise OSError(errno.EINVAL, "must be a file or a block device", path)
    if flags & os.O_ACCMODE != os.O_RDWR:
        raise OSError(errno.EBADF, "must be open for reading and writing", path)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | (os.O_DIRECT if direct else 0))
    limit = own(fd, path)
    return FileStore(descriptors.pop(), path, limit)


def demand_length(store: Store, what: str, nbytes: int) -> None:
    """Check that this process may have a file of that length (setrlimit(2)).  => ControlError."""
    most = inherited.largest_file()
    if store.kind in ("file", "unlinked") and inherited.below(most, nbytes):
        raise ControlError(f"{what}: the daemon may write {most} bytes of a file only: RLIMIT_FSIZE (ulimit -f)")


def closed(swap: Swap | ZLog, word: Progress) -> Iterator[Progress]:
    """Close what is no longer used, in a thread: cutting a file of 2 GiB takes ext4 0.1 s, and 0.4 were seen."""
    thread = threading.Thread(target=swap.close, name="swapoff")
    thread.start()
    while thread.is_alive():
        thread.join(CLOSING)
        yield word


def put_back(change: Callable[[Any], Iterator[Progress]], was: Any) -> Iterator[Progress]:
    """Restore a value.  Cannot be refused: there was room for it before."""
    try:
        yield from change(was)
    except ControlError as error:       # ram had just grown, and meanwhile filled up with wired pages
        log.error("%s", error)
