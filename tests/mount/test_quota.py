"""Quotas on a mount, as two users and root; where the kernel's tmpfs has them (Linux 6.6), it is compared."""

import errno
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mountlib import NOBODY, OTHER, PAGE, Mounted, as_user, ctl, eventually, fails_with, needs_root, touch

from tmpfsd.tmpfs.caller import CAP_SYS_RESOURCE, Caller

pytestmark = needs_root
GROUP = 4321
# Root is held back by nobody's quota where it has CAP_SYS_RESOURCE, which is taken away in many containers.
EXEMPT = Caller(pid=os.getpid()).capable(CAP_SYS_RESOURCE)
MakeFs = Callable[..., Mounted]


@pytest.fixture(params=["pyfuse3", "native"])
def make(request: pytest.FixtureRequest, make_fs: MakeFs, kind: str) -> Callable[..., Path]:
    """make(usrquota_block_hardlimit="1m"): the top of a mount with such limits, open to all."""
    if kind == "kernel" and request.param == "native":
        pytest.skip("the kernel's tmpfs has no edge")

    def made(**limits: str) -> Path:
        words = ",".join(f"{name}={value}" for name, value in limits.items())
        mounted = make_fs(tmpfsd=f"ram=4m,edge={request.param}", mode=f"1777,size=64m,usrquota,grpquota,{words}")
        return mounted.mnt

    return made


def fill(path: Path, nbytes: int) -> int:
    """Write until it is refused: how many bytes were written."""
    done = 0
    with open(path, "ab", buffering=0) as file:
        try:
            while done < nbytes:
                done += file.write(bytes(min(64 << 10, nbytes - done)))
        except OSError as error:
            assert error.errno == errno.EDQUOT
    return done


def used(mnt: Path, number: int, kind: str = "user") -> list[int]:
    """What `tmpfsctl quota` says of an account: bytes and inodes."""
    answer = json.loads(ctl("quota", "--json", f"--{kind}", str(number), str(mnt)).stdout)[f"{kind}s"]
    return [answer[0]["used_bytes"], answer[0]["inodes"]] if answer else [0, 0]


def test_blocks_of_two_users(make: Callable[..., Path]) -> None:
    mnt = make(usrquota_block_hardlimit="1m")
    assert as_user(lambda: fill(mnt / "one", 3 << 20)) == 1 << 20
    with fails_with(errno.EDQUOT):
        as_user(lambda: touch(mnt / "second", bytes(PAGE)))
    assert as_user(lambda: fill(mnt / "other", 3 << 20), OTHER) == 1 << 20
    assert fill(mnt / "root", 3 << 20) == 3 << 20
    as_user(lambda: os.truncate(mnt / "one", 1 << 19))
    assert as_user(lambda: fill(mnt / "one", 3 << 20)) == 1 << 19
    assert fill(mnt / "one", 1 << 20) == (1 << 20 if EXEMPT else 0)
    as_user(lambda: os.unlink(mnt / "one"))
    assert eventually(lambda: as_user(lambda: fill(mnt / "again", PAGE)) == PAGE)


def test_inodes_of_a_user_and_a_group(make: Callable[..., Path]) -> None:
    mnt = make(usrquota_inode_hardlimit="3", grpquota_inode_hardlimit="4")
    for name in "abc":
        as_user(lambda name=name: touch(mnt / name), gid=GROUP)
    for maker in (touch, os.mkdir, os.mkfifo, lambda path: os.symlink("x", path)):
        with fails_with(errno.EDQUOT):
            as_user(lambda maker=maker: maker(mnt / "d"), gid=GROUP)
    as_user(lambda: touch(mnt / "e"), OTHER, GROUP)
    with fails_with(errno.EDQUOT):
        as_user(lambda: touch(mnt / "f"), OTHER, GROUP)
    as_user(lambda: touch(mnt / "f"), OTHER, OTHER)
    with fails_with(errno.EDQUOT):
        as_user(lambda: os.chown(mnt / "f", -1, GROUP), OTHER, OTHER, (GROUP,))
    if EXEMPT:
        os.chown(mnt / "f", -1, GROUP)
    touch(mnt / "root")


def test_chown_and_a_file_that_is_open(make: Callable[..., Path], kind: str) -> None:
    mnt = make(usrquota_block_hardlimit="1m")
    as_user(lambda: fill(mnt / "one", 1 << 20))
    os.chown(mnt / "one", OTHER, OTHER)
    assert as_user(lambda: fill(mnt / "new", 1 << 20)) == 1 << 20
    with fails_with(errno.EDQUOT):
        as_user(lambda: touch(mnt / "no", b"x" * PAGE), OTHER)
    descriptor = os.open(mnt / "one", os.O_RDONLY)
    try:
        os.unlink(mnt / "one")
        with fails_with(errno.EDQUOT):                          # charged to the last close
            as_user(lambda: touch(mnt / "no", b"x" * PAGE), OTHER)
    finally:
        os.close(descriptor)
    assert eventually(lambda: as_user(lambda: fill(mnt / "no", 1 << 20), OTHER) == 1 << 20)


def test_a_mapping_of_roots_heeds_the_owners_limit(make: Callable[..., Path], kind: str) -> None:
    """The kernel's page cache does not say whose bytes it writes."""
    if kind == "kernel":
        pytest.skip("there it is known who stores")
    mnt = make(usrquota_block_hardlimit="64k")
    as_user(lambda: fill(mnt / "file", PAGE))
    as_user(lambda: os.truncate(mnt / "file", 1 << 20))
    with open(mnt / "file", "r+b") as file, mmap.mmap(file.fileno(), 1 << 20) as mapped:
        mapped[:] = b"x" * (1 << 20)
        with fails_with(errno.EIO, errno.EDQUOT):
            mapped.flush()
            os.fsync(file.fileno())
    assert used(mnt, NOBODY)[0] <= 64 << 10


def test_the_command(make: Callable[..., Path], kind: str) -> None:
    if kind == "kernel":
        pytest.skip("it has repquota(8)")
    mnt = make(usrquota_block_hardlimit="1m", usrquota_inode_hardlimit="2k")
    as_user(lambda: fill(mnt / "one", 100_000))
    text = ctl("quota", str(mnt)).stdout
    assert "USER" in text and "GROUP" in text and "2,048" in text and "none" in text
    assert used(mnt, NOBODY) == [os.stat(mnt / "one").st_blocks * 512, 1] == used(mnt, NOBODY, "group")
    ctl("quota", str(mnt), "--user", str(NOBODY), "--blocks", "2m", "--inodes", "0")
    assert as_user(lambda: fill(mnt / "two", 3 << 20)) == (2 << 20) - os.stat(mnt / "one").st_blocks * 512
    for words, why in ((("--blocks", "2m"), "whose limit"), (("--group", "1", "--inodes", "x"), "whole number"),
                       (("--user", "no-such"), "no such user"), (("--user", "1", "--blocks", "9e"), "too large")):
        done = ctl("quota", str(mnt), *words, check=False)
        assert done.returncode == 1 and why in done.stderr and done.stderr.count("\n") == 1


def test_a_mount_without_quotas_says_so(tmpfsd: MakeFs) -> None:
    mounted = tmpfsd("ram=1m,size=4m")
    done = ctl("quota", str(mounted.mnt), check=False)
    assert done.returncode == 1 and "mount with usrquota" in done.stderr
    ours = tmpfsd("ram=1m,size=4m,grpquota")
    done = ctl("quota", str(ours.mnt), "--user", "0", check=False)
    assert done.returncode == 1 and "not counted" in done.stderr
    assert json.loads(ctl("quota", str(ours.mnt), "--json").stdout)["users"] is None
