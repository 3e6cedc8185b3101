"""tests/unit/tuninglib.py: the tuning of mounts, and files whose content is known, for the tests of `set` and swap."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.fs.fslib import CRED, ROOT
from tmpfsd.options import Config
from tmpfsd.server.dispatch import Dispatcher
from tmpfsd.server.tuning import Tuning
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.filesystem import Mount

MB = 1 << 20
BACKENDS = ("wired", "pageable-flag", "pageable-submap", "aobj", "pageable-object")


def do(steps: Any) -> Any:
    """Run a command to its end; its result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@contextmanager
def tunings(tmp_path: Path) -> Iterator[Callable[..., Tuning]]:
    """Make the tuning of a mount; each is checked at its end."""
    made: list[Mount] = []

    def tuning(dispatcher: Dispatcher | None = None, **given: Any) -> Tuning:
        settings = {"ram_bytes": 4 * MB, "size_bytes": 64 * MB, "swap": str(tmp_path), "uid": 0, "gid": 0}
        mount = Mount(Config(**{**settings, **given}))
        mount.vm.check_level = 1
        made.append(mount)
        return Tuning(mount, dispatcher)

    yield tuning
    for mount in made:
        mount.check()
        with suppress(BufferError):
            mount.close()


def store(mp: Mount, count: int, stem: bytes = b"file") -> dict[bytes, int]:
    """Make files of 9,000 bytes; their inode numbers by name."""
    files = {}
    for number in range(count):
        name = b"%s %d" % (stem, number)
        mp.breathe()
        files[name] = vnops.create(mp, ROOT, name, 0o600, CRED)
        mp.breathe()
        vnops.write(mp, files[name], 0, name * (9000 // len(name)))
    return files


def demand_content(mp: Mount, files: dict[bytes, int]) -> None:
    """All files have their content."""
    for name, ino in files.items():
        mp.breathe()
        assert vnops.lookup(mp, ROOT, name) == ino
        mp.breathe()
        text = name * (9000 // len(name))
        assert bytes(vnops.read(mp, ino, 0, len(text))) == text
