"""experiments/ready.py: ways to get a tree that is ready for use, for E11: an image, tar, squashfs, cp.

A Place has a tree of small files on a disk, a tar file of it, and images.  A way is a context manager that makes the
tree ready somewhere and says where, and which processes serve it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from time import perf_counter, sleep

from tools.experiments.cgroup import Unavailable
from tools.experiments.drive import PER_DIR, Tick
from tools.experiments.fuse import demand_fuse, kernel_tmpfs
from tools.mounts import NotMounted, end, is_mounted, unmount

RAM = "ram=1g,size=8g,noperm"
START_SECONDS = 60.0
POLL = 0.002
HOT_EACH = 50               # the recorded job reads every 50th file
Ready = tuple[str, list[int]]


class Place:
    """A directory with the tree, and everything made from it."""

    def __init__(self, top: str, files: int) -> None:
        self.top = Path(top)
        self.tree, self.tar = self.top / "tree", self.top / "tar"
        self.image, self.hot, self.squashfs = self.top / "image", self.top / "hot", self.top / "squashfs"
        self.files = files

    def name(self, number: int) -> str:
        """The path of a file within the tree."""
        return f"dir{number // PER_DIR:06d}/file{number:09d}"

    def content(self, number: int) -> bytes:
        """Its bytes: some hundred at most."""
        return b"%d " % number * (number % 40)

    def make_tree(self, tick: Tick) -> None:
        """Write all files."""
        for number in range(self.files):
            path = self.tree / self.name(number)
            if number % PER_DIR == 0:
                path.parent.mkdir(parents=True)
                tick(number / self.files)
            path.write_bytes(self.content(number))


def run(command: Sequence[object]) -> float:
    """Run a command; return its seconds.  => Unavailable: it is not there, or fails."""
    words = list(map(str, command))
    if shutil.which(words[0]) is None:
        raise Unavailable(f"{words[0]} is not installed")
    start = perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{os.path.basename(words[0])}: exit status {done.returncode}")
    return perf_counter() - start


def ctl(*words: object) -> float:
    """Run tmpfsctl; return its seconds."""
    return run([sys.executable, "-m", "tmpfsd.cli.ctl", *words])


@contextmanager
def tmpfsd(options: str) -> Iterator[Ready]:
    """A tmpfsd mount, as soon as it is mounted."""
    demand_fuse()
    with tempfile.TemporaryDirectory(prefix="tmpfsd-experiment-") as mnt:
        daemon = subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.mount", "tmpfsd", mnt, "-f", "-o", options],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until = perf_counter() + START_SECONDS
            while not is_mounted(mnt):
                if daemon.poll() is not None or perf_counter() > until:
                    raise NotMounted(f"-o {options.split(',image=')[0]}: it did not mount")
                sleep(POLL)
            yield mnt, [daemon.pid]
        finally:
            unmount(mnt)
            end(daemon)


def forget(path: Path) -> None:
    """Have the host's page cache forget a file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def image_cold(place: Place) -> Iterator[Ready]:
    """An image that is only on the disk."""
    with tmpfsd(f"{RAM},image={place.image}") as ready:
        yield ready


@contextmanager
def image_hot(place: Place) -> Iterator[Ready]:
    """An image that lists what a job has used, only on the disk."""
    with tmpfsd(f"{RAM},image={place.hot}") as ready:
        yield ready


@contextmanager
def tar_into_tmpfsd(place: Place) -> Iterator[Ready]:
    """tar x into an empty mount."""
    with tmpfsd(RAM) as ready:
        run(["tar", "xf", place.tar, "-C", ready[0]])
        yield ready


@contextmanager
def tar_into_kernel(place: Place) -> Iterator[Ready]:
    """tar x into the kernel's tmpfs."""
    demand_fuse()
    with kernel_tmpfs() as mnt:
        run(["tar", "xf", place.tar, "-C", mnt])
        yield mnt, []


@contextmanager
def squashfs_and_overlay(place: Place) -> Iterator[Ready]:
    """squashfs below, a tmpfs of the kernel above."""
    demand_fuse()
    if not place.squashfs.exists():
        raise Unavailable("mksquashfs is missing, or did not make it")
    with ExitStack() as stack:
        upper = stack.enter_context(kernel_tmpfs())
        lower, mnt = (stack.enter_context(tempfile.TemporaryDirectory(prefix="tmpfsd-experiment-")) for _ in range(2))
        run(["mount", "-o", "loop,ro", place.squashfs, lower])
        stack.callback(unmount, lower)
        for name in ("upper", "work"):
            os.mkdir(f"{upper}/{name}")
        run(["mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work",
             "overlay", mnt])
        stack.callback(unmount, mnt)
        yield mnt, []


@contextmanager
def copy_on_disk(place: Place) -> Iterator[Ready]:
    """cp -a on the disk that the tree is on."""
    run(["cp", "-a", place.tree, place.top / "copy"])
    try:
        yield str(place.top / "copy"), []
    finally:
        shutil.rmtree(place.top / "copy")


Way = Callable[[Place], AbstractContextManager[Ready]]
# Name, function, the file of the place that it needs, and whether the page cache is to forget that file.
WAYS: dict[str, tuple[Way, str, bool]] = {
    "image, cold": (image_cold, "image", True),
    "image, warm": (image_cold, "image", False),
    "image with a hot set, cold": (image_hot, "hot", True),
    "tar into tmpfsd": (tar_into_tmpfsd, "tar", False),
    "tar into the kernel's tmpfs": (tar_into_kernel, "tar", False),
    "squashfs and overlayfs": (squashfs_and_overlay, "squashfs", False),
    "cp -a": (copy_on_disk, "tree", False),
}
