"""Trees of the differential test, through images: build, mount, compare, snapshot, mount, compare."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount import mountlib
from tests.mount.mountlib import Mounted, ctl
from tests.stress.allowed import unexplained
from tests.stress.differential import CHECKED, CONFIGURATIONS, ROOT, SIZE, THRASHING, Side, mounts, play
from tests.stress.looks import Answer

pytestmark = mountlib.needs_root
SEED = int(os.environ.get("TMPFSD_SEED", "1"))
STEPS = 1_500
MOUNTS = {"starving": ("ram=1m,acl", CHECKED), "thrash": ("ram=2m,acl", THRASHING),
          "tier": ("ram=2m,compress=zstd,zram=1m,acl", THRASHING)}


def dump(mnt: Path) -> Answer:
    """All that can be seen, as root sees it.  Twice: to look at a symlink may change its atime, once."""
    side = Side(str(mnt))
    try:
        for _ in range(2):
            side.connections[ROOT].send([("dump",)])
            answer: Answer = side.connections[ROOT].recv()[0]
        assert not answer["errno"]
        return answer
    finally:
        side.close()


@contextmanager
def mounted(image: Path, how: str) -> Iterator[Mounted]:
    """A mount of an image, checked at the end."""
    options, environment = MOUNTS[how]
    fs = mountlib.mount_tmpfsd(f"{SIZE},{options},image={image}", **environment)
    try:
        yield fs
        fs.check()
    finally:
        fs.close()


@pytest.mark.parametrize(("seed", "how"), list(enumerate(MOUNTS, SEED)))
def test_round_trip(seed: int, how: str, tmp_path: Path) -> None:
    image, second, third = tmp_path / "built", tmp_path / "saved", tmp_path / "live"
    with mounts(CONFIGURATIONS["acl"]) as pair:
        play(seed, STEPS, pair)
        kernel = dump(pair.roots[0])
        ctl("image", "build", str(pair.roots[0]), str(image))
        ours = dump(pair.roots[1])
        ctl("snapshot", str(pair.roots[1]), str(third))
        assert dump(pair.roots[1]) == ours
    seen = str([kernel[field] for field in kernel if field.endswith(".attributes")])
    assert len(kernel) > 200 and "posix_acl_" in seen and any(name in seen for name in ("user.", "trusted."))
    for path in (image, third):
        ctl("image", "verify", str(path))
    with mounted(image, how) as fs:
        built = dump(fs.mnt)
        assert unexplained(("dump",), kernel, built) == []
        ctl("snapshot", "--hot", str(fs.mnt), str(second))
    with mounted(second, how) as fs:
        assert dump(fs.mnt) == built
    with mounted(third, how) as fs:
        assert dump(fs.mnt) == ours
