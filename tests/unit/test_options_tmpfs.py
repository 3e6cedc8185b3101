"""Options of tmpfs(5) that have the same meaning here."""

import grp
import itertools
import os
import pwd
from pathlib import Path

import pytest

from tmpfsd.cli import preflight
from tmpfsd.options import Config, parse
from tmpfsd.server.refused import ControlError
from tmpfsd.server.remounting import changes
from tmpfsd.sizes import MOST_SWAP, UNLIMITED
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.mem import MAX_NODES

PHYSICAL = 8 << 30


def read(text: str) -> Config:
    """Parse for a machine of 8 GiB whose swap would go to /swap."""
    return parse(text, physical=PHYSICAL, swap=lambda: "/swap")


def test_noswap_is_swap_none() -> None:
    config, other = read("noswap,ram=2m"), read("swap=none,ram=2m")
    assert config.places == other.places == ()
    warning, = config.warnings
    assert warning.startswith("noswap: nothing can be paged out")
    assert not read("noswap,compress=zstd,ram=16m").warnings
    assert read("noswap,swap_crypt=off").swap is None


def test_noswap_in_a_remount_is_no_change_where_there_is_none() -> None:
    """As fstab has it."""
    for words in (["noswap"], ["swap=none"]):
        assert changes(words, read("noswap")) == []
        with pytest.raises(ControlError, match=f"^{words[0]}: cannot be changed"):
            changes(words, read(""))
    with pytest.raises(ControlError, match="^swap=/x: cannot be changed"):
        changes(["swap=/x"], read("noswap"))


@pytest.mark.parametrize("text, nbytes", [
    ("16", 64 << 10), ("17", 68 << 10), ("1k", 4 << 20), ("1M", 4 << 30), ("1t", 4 << 50), ("0", UNLIMITED),
])
def test_nr_blocks_is_the_size_in_pages(text: str, nbytes: int) -> None:
    config = read(f"nr_blocks={text}")
    assert config.size_bytes == nbytes and config.swap_size_bytes == min(nbytes, MOST_SWAP)


def test_nr_blocks_in_a_remount_is_the_size() -> None:
    assert changes(["nr_blocks=1k"], read("size=4m")) == []
    assert changes(["nr_blocks=1k"], read("size=5m")) == ["size=4194304"]
    assert changes(["size=5m"], read("nr_blocks=1k")) == ["size=5242880"]


@pytest.mark.parametrize("word", ["size=0", "size=0%", "nr_blocks=0"])
def test_no_limit_of_size(word: str) -> None:
    config = read(word)
    assert config.size_bytes == UNLIMITED and not config.warnings
    assert preflight.check_capacity(config) == config           # which warns of a size that can never be used
    assert changes([word], config) == [] and changes(["size=0"], read("size=1m")) == [f"size={UNLIMITED}"]
    assert read(f"size={UNLIMITED}").size_bytes == UNLIMITED


def test_swap_of_the_largest_sizes_has_numbers_for_all_its_slots(tmp_path: Path) -> None:
    """As many places as there may be; with the ring of the compressed tier, which has the last numbers."""
    for n, size in itertools.product((1, 2, 3, 4, 16), ("0", "16t", "8t")):
        places = ":".join([str(tmp_path)] * n)
        config = read(f"size={size},ram=4m,compress=zstd,swap={places}")
        mount = Mount(config)
        try:
            # As the kernel's tmpfs says it.
            _bsize, blocks, free, available, files, *_ = vnops.statfs(mount)
            assert files > 1 << 30 and (size != "0" or (blocks, free, available) == (0, 0, 0))
            assert len(mount.status()["swap"]["files"]) == n
            mount.vm.check()
        finally:
            mount.close()


def test_limited_again_it_says_so() -> None:
    mount = Mount(read("size=0,ram=1m,swap=none"))
    try:
        mount.vm.limit = 1 << 20
        assert vnops.statfs(mount)[1] == 1 << 20
    finally:
        mount.close()


def test_widths_of_inode_numbers_are_taken() -> None:
    """All numbers are below 2^31: this satisfies inode32, and inode64 only allows more."""
    assert MAX_NODES < 1 << 31
    assert read("inode32,swap=none") == read("swap=none") == read("swap=none,inode64,inode32")
    assert changes(["inode64"], read("")) == []


@pytest.mark.parametrize("word", ["huge=never", "mpol=default"])
def test_what_is_so_is_taken(word: str) -> None:
    assert read(f"{word},swap=none") == read("swap=none") and changes([word], read("")) == []


def test_owner_by_name() -> None:
    user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid())
    config = read(f"uid={user.pw_name},gid={group.gr_name}")
    assert (config.uid, config.gid) == (user.pw_uid, group.gr_gid)
    config = read("uid=4294967294,gid=0")
    assert (config.uid, config.gid) == (4294967294, 0)
    assert changes([f"uid={user.pw_name}"], read("")) == []


@pytest.mark.parametrize("text, shown", [("nr_inodes=0", False), ("", True), ("nr_inodes=7", True)])
def test_no_limit_of_inodes_is_shown_as_0_where_it_was_asked_for(text: str, shown: bool) -> None:
    mount = Mount(read(f"size=1m,ram=1m,swap=none,{text}"))
    try:
        assert [bool(n) for n in vnops.statfs(mount)[4:7]] == [shown] * 3
    finally:
        mount.close()


@pytest.mark.parametrize("text, users, groups", [
    ("usrquota", True, False), ("grpquota", False, True), ("quota", True, True), ("usrquota,grpquota", True, True),
    ("", False, False),
])
def test_quotas(text: str, users: bool, groups: bool) -> None:
    config = read(text)
    assert (config.user_quota, config.group_quota) == (users, groups)


def test_limits_of_quotas_are_those_of_a_new_account() -> None:
    config = read("quota,usrquota_block_hardlimit=1M,usrquota_inode_hardlimit=2k,grpquota_block_hardlimit=3g,"
                  "grpquota_inode_hardlimit=4")
    assert (config.usrquota_bytes, config.usrquota_inodes) == (1 << 20, 2048)
    assert (config.grpquota_bytes, config.grpquota_inodes) == (3 << 30, 4)


def test_quotas_cannot_be_changed_by_a_remount() -> None:
    """As in the kernel; to set the present value is no change."""
    now = read("usrquota,usrquota_block_hardlimit=1m")
    assert changes(["usrquota", "usrquota_block_hardlimit=1024k"], now) == []
    for word in ("grpquota", "quota", "usrquota_block_hardlimit=2m"):
        with pytest.raises(ControlError, match=f"^{word}: cannot be changed"):
            changes([word], now)


def test_an_image_has_no_quotas() -> None:
    with pytest.raises(ValueError, match="^image=/x: .*cannot have quotas"):
        read("image=/x,usrquota")
