"""Mount options: which are read, which are refused, and that a refusal names the option."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmpfsd import options, optionwords, sizes
from tmpfsd.options import Config, OptionError, parse, split
from tmpfsd.uvm.vm import RESERVE

PHYSICAL = 8 << 30


def read(text: str | list[str] = "") -> Config:
    """Parse for a machine of 8 GiB whose swap would go to /swap."""
    return parse(text, physical=PHYSICAL, swap=lambda: "/swap")


def test_defaults() -> None:
    config = read()
    assert (config.size_bytes, config.ram_bytes, config.mode) == (4 << 30, 128 << 20, 0o1777)
    assert (config.nr_inodes, config.swap, config.swap_size_bytes) == (0, "/swap", 4 << 30)
    assert (config.backend, config.submap, config.submap_sharing) == ("pageable-submap", "auto", "shared")
    assert (config.uid, config.gid) == (os.getuid(), os.getgid())
    assert (config.swap_io, config.spin, config.acl, config.xattr) == ("buffered", "auto", False, True)
    assert not config.warnings


def test_config_alone_has_the_same_defaults() -> None:
    config, parsed = Config(size_bytes=4 << 30, swap="/swap"), read()
    for name in set(Config.__slots__) - {"size_bytes"}:
        assert getattr(config, name) == getattr(parsed, name), name
    assert Config(size_bytes=1 << 20).swap_size_bytes == 1 << 20


@pytest.mark.parametrize("text, nbytes", [
    ("1048576", 1 << 20), ("2k", None), ("64k", 64 << 10), ("3M", 3 << 20), ("1g", 1 << 30), ("2t", 2 << 40),
    ("17t", 17 << 40), ("1P", 1 << 50), ("8e", 1 << 63),
    ("25%", 2 << 30), ("100%", 8 << 30), ("200%", 16 << 30), ("65537", (64 << 10) + 4096),
])
def test_sizes(text: str, nbytes: int | None) -> None:
    if nbytes is None:
        with pytest.raises(OptionError, match=f"^size={text}: "):
            read(f"size={text}")
    else:
        assert read(f"size={text}").size_bytes == nbytes


def test_ram_is_a_promise_and_rounds_down() -> None:
    assert read("ram=1048577").ram_bytes == 1 << 20
    assert read("ram=100%").ram_bytes == PHYSICAL


def test_values() -> None:
    config = read("nr_inodes=2k,mode=755,uid=5,gid=6,spin=20,swap_io=direct,swap_size=1g,submap=1m,"
                  "submap_sharing=per-pool,noxattr,writeback,noatime,ro,fsname=a\\,b")
    assert (config.nr_inodes, config.mode, config.uid, config.gid, config.spin) == (2048, 0o755, 5, 6, 20)
    assert (config.swap_io, config.swap_size_bytes, config.submap) == ("direct", 1 << 30, 1 << 20)
    assert (config.submap_sharing, config.xattr, config.writeback) == ("per-pool", False, True)
    assert (config.noatime, config.readonly, config.fsname) == (True, True, "a,b")
    assert config.generic == ("noatime", "ro")


def test_most_inodes() -> None:
    assert read("nr_inodes=2147483647").nr_inodes == optionwords.MAX_INODES


def test_what_mount_and_fstab_write_is_ignored() -> None:
    config = read([
        "rw,dev,suid,exec,noauto,nofail,user,_netdev", "x-systemd.automount,user=me,,comment=x,defaults"])
    assert config.generic == ("rw", "dev", "suid", "exec")


def test_swap_is_made_absolute(tmp_path: "os.PathLike[str]", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("swap=.").swap == os.path.realpath(tmp_path)


@pytest.mark.parametrize("text, why", [
    ("frobnicate", "unknown option"), ("frobnicate=1", "unknown option"), ("=", "unknown option"),
    ("Size=1g", "unknown option"), ("auto=1", "takes no value"), ("subtype=x", "always tmpfsd"),
    ("size", "needs a value"), ("size=", "needs a value"), ("ram", "needs a value"),
    ("acl=1", "takes no value"), ("ro=yes", "takes no value"), ("allow_other=1", "takes no value"),
    ("size=-1", "negative"), ("size=1x", "not a whole number"),
    ("size=1.5g", "not a whole"), ("size=1kk", "not a whole"), ("size=4k", "at least 64k"),
    ("size=16e", "less than 16e"), ("swap_size=9t", "at most 8t"),
    ("submap=17t", "at most 16t"), ("size=100%+", "not a whole"),
    ("size=١m", "not a whole"), ("size=99999999999999999999t", "less than"),
    ("size= 1m", "not a whole"), ("ram=0", "at least 1m"), ("ram=1023k", "at least 1m"),
    ("ram=-1m", "negative"), ("ram=9g", "physical memory"), ("ram=101%", "physical memory"),
    ("ram=lots", "not a whole number"), ("nr_inodes=x", "whole number"), ("nr_inodes=-1", "whole number"),
    ("nr_inodes=1t", "whole number"),
    ("nr_inodes=2147483648", "at most 2147483647"), ("nr_inodes=2g", "too many"),
    ("mode=8", "octal"), ("mode=10000", "octal"), ("mode=-1", "octal"),
    ("mode=rwx", "octal"), ("mode=0o755", "octal"), ("uid=-1", "number from 0"), ("uid=4294967295", "number from 0"),
    ("uid=nobody\\,", "no such user"), ("gid=no-such-group", "no such group"), ("gid=\0", "no such group"),
    ("uid=-1", "number from 0"), ("uid=4294967295", "number from 0"), ("gid=x", "no such group"),
    ("gid=4294967296", "number from 0"), ("swap_size=-5", "negative"), ("swap_size=x", "not a whole"),
    ("swap_size=0", "swap=none"), ("swap_io=mmap", "buffered or direct"), ("swap_io", "needs a value"),
    ("swap=", "needs a value"), ("swap=/a:", "an empty path"), ("swap=/a::/b", "an empty path"),
    ("swap=/a:/b:/a", "/a is given twice"), ("swap=" + ":".join(map("/{}".format, range(17))), "at most 16 places"),
    ("swap_crypt=yes", "must be on or off"), ("compress=lz4", "must be zstd or none"), ("zram=100%", "less than 100%"),
    ("zram=4k", "at least 1m"), ("zram=-1", "negative"), ("backend=magic", "must be wired or pageable-flag"),
    ("windows=1", "two records at once"), ("windows=63", "at least 64"),
    ("submap=0", "too small"), ("submap=big", "not a whole"), ("submap_sharing=none", "shared or per-pool"),
    ("windows=0", "number from 1"), ("windows=x", "number from 1"), ("windows=64", "backend=aobj"),
    ("spin=-1", "auto or a number"), ("spin=fast", "auto or a number"), ("spin=100001", "auto or a number"),
    ("fsname=\x01", "ASCII"), ("fsname=ä", "ASCII"), ("huge=always", "no huge pages"),
    ("huge", "no huge pages"), ("mpol=bind:0", "numactl"), ("nr_blocks=5", "at least 16"),
    ("nr_blocks=x", "whole number"), ("nr_blocks=-1", "whole number"), ("nr_blocks=50%", "whole number"),
    ("nr_blocks", "needs a value"), ("nr_blocks=4p", "less than 4p"), ("nr_blocks=99999999999999999999e", "less than"),
    ("noswap=1", "takes no value"), ("inode64=1", "takes no value"), ("huge=neverland", "no huge pages"),
    ("mpol=default:0", "numactl"),
    ("usrquota=1m", "takes no value"), ("usrquota_block_hardlimit=1m", "needs usrquota, or quota"),
    ("grpquota_inode_hardlimit=5", "needs grpquota, or quota"), ("usrquota_block_hardlimit=0", "above 0"),
    ("usrquota_block_hardlimit=8e", "less than 8e"), ("usrquota_inode_hardlimit=50%", "whole number"),
    ("prjquota", "unknown option"),
])
def test_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith(text.split("=")[0])
    assert why in message and "\n" not in message


@pytest.mark.parametrize("text, named, why", [
    ("size=1m,size=1m", "size=1m", "twice"),
    ("ram=1m,x-y,ram=2m", "ram=2m", "twice"),
    ("ro,rw", "ro", "contradicts rw"),
    ("acl,noacl", "acl", "contradicts noacl"),
    ("acl,noxattr", "noxattr", "contradicts acl"),
    ("allow_other,noperm", "noperm", "contradicts allow_other"),
    ("noperm,acl", "noperm", "contradicts acl"),
    ("noperm,default_permissions", "noperm", "contradicts default_permissions"),
    ("submap=2m,size=1m", "submap=2097152", "larger than size=1048576"),
    ("backend=wired,submap=1m", "submap=1048576", "backend=wired"),
    ("backend=wired,submap_sharing=shared", "submap_sharing=shared", "backend=wired"),
    ("backend=wired,windows=64", "windows=64", "backend=wired"),
    ("backend=pageable-flag,windows=64", "windows=64", "is for backend=aobj"),
    ("backend=aobj,submap=1m", "submap=1048576", "is for backend=pageable-submap"),
    ("backend=pageable-object,submap_sharing=shared", "submap_sharing=shared", "is for backend=pageable-submap"),
    ("size=1m,nr_blocks=256", "nr_blocks", "contradicts size"),
    ("swap=/x:/y:/z,swap_size=4t", "swap_size=4398046511104", "may have 6t together"),
    ("noswap,swap=none", "noswap", "contradicts swap"),
    ("swap=/x,noswap", "noswap", "contradicts swap"),
    ("noswap,swap_size=1g", "swap_size=1073741824", "there is no swap (noswap)"),
    ("swap=none,swap_size=1g", "swap_size=1073741824", "swap=none"),
    ("swap=none,swap_io=direct", "swap_io=direct", "swap=none"),
    ("swap=none,swap_crypt=on", "swap_crypt=on", "swap=none"),
    ("compress=zstd,ram=8m,zram=8m", "zram=8388608", "must leave 1m"),
    ("compress=zstd,ram=8m,zram=1g", "zram=1073741824", "is a part of ram"),
    ("compress=zstd,ram=1m", "compress=zstd", "no room for 1m of zram"),
    ("zram=4m", "zram=4194304", "compress=none"),
    ("image=/x,swap=none", "image=/x", "needs swap"), ("image=/x,backend=wired", "image=/x", "backend=wired"),
    ("image=/x,submap=4m", "image=/x", "submap=4194304"),
    ("image=/x,image_cache=4m", "image_cache=4194304", "on a server"),
    ("image_cache=4m", "image_cache=4194304", "on a server"),
    ("image=https://h/x,swap=none", "image=https://h/x", "needs swap"),
    ("swap=/x,swap_size=0", "swap_size=0", "pages out"),
])
def test_contradictions(text: str, named: str, why: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(text)
    assert str(caught.value).startswith(named + ":") and why in str(caught.value)


@pytest.mark.parametrize("uid", [0, 1000])
def test_noperm_is_for_root(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others' mounts may be entered by root, or with fusermount3 by nobody who is not stopped."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert not read().noperm
    if uid:
        with pytest.raises(OptionError, match="^noperm: is for root's own"):
            read("noperm")
    else:
        assert read("noperm").noperm
        with pytest.raises(OptionError, match="^noperm=1: "):
            read("noperm=1")


def test_no_swap_is_allowed_with_a_warning() -> None:
    config = read("swap=none")
    assert config.swap is None and len(config.warnings) == 1 and "swap=none" in config.warnings[0]
    config = read("swap_size=0,backend=wired")
    assert config.swap is None and "swap_size=0" in config.warnings[0]
    config = parse("", physical=PHYSICAL, swap=lambda: None)
    assert config.swap is None and "/var/tmp" in config.warnings[0]


@pytest.mark.parametrize("backend", options.BACKENDS)
def test_backends(backend: str) -> None:
    assert read(f"backend={backend}").backend == backend


def test_the_fewest_windows_are_the_reserve_of_an_operation() -> None:
    assert optionwords.MIN_WINDOWS == RESERVE
    assert read(f"backend=aobj,windows={RESERVE}").windows == RESERVE


def test_split_knows_escapes() -> None:
    assert split("a,b=c\\,d,,e\\\\") == ["a", "b=c,d", "e\\"]
    assert split(["a,b", "", "c"]) == ["a", "b", "c"]
    assert split(options.quote("x,y\\z")) == ["x,y\\z"]


WORDS = st.sampled_from([*options.VALUED, *options.FLAGS, *options.REFUSED, "x-", "windows"])
VALUES = st.one_of(st.text(max_size=8), st.integers(-3, 1 << 70).map(str), st.sampled_from(options.BACKENDS),
                   st.sampled_from(("1m", "64k", "50%", "none", "auto", "direct", "0")))


@given(st.lists(st.one_of(st.text(max_size=12), WORDS, st.tuples(WORDS, VALUES).map("=".join)), max_size=4))
def test_any_text_is_read_or_refused(words: list[str]) -> None:
    try:
        config = read(words)
    except OptionError:
        return
    assert sizes.MIN_RAM <= config.ram_bytes <= PHYSICAL and config.ram_bytes % sizes.PAGE_SIZE == 0
    assert sizes.MIN_SIZE <= config.size_bytes <= sizes.MAX_SIZE
    assert config.backend in options.BACKENDS and 0 <= config.mode <= 0o7777


# --- several places of swap ---

@pytest.mark.parametrize("text, places", [
    ("swap=none", ()), ("swap=/a", ("/a",)), ("swap=/a:/b:/c", ("/a", "/b", "/c")),
    ("swap=/tmp:/tmp", ("/tmp", "/tmp")),
    (r"swap=/a\:b", ("/a:b",)), (r"swap=/a\:b:/c\,d", ("/a:b", "/c,d")), ("", ("/swap",)),
])
def test_places_of_swap(text: str, places: tuple[str, ...]) -> None:
    assert read(text).places == places


def test_swap_is_encrypted_unless_it_is_said(tmp_path: Path) -> None:
    assert read("").swap_crypt and read("swap_crypt=on").swap_crypt and not read("swap_crypt=off").swap_crypt
    assert not read("swap=none,swap_crypt=off").swap_crypt


def test_a_colon_in_other_values_is_one() -> None:
    assert read(r"fsname=a\:b").fsname == "a:b"


@pytest.mark.parametrize("text, nbytes", [
    ("", 0), ("compress=none", 0), ("compress=zstd,ram=16m", 8 << 20), ("compress=zstd,ram=16m,zram=25%", 4 << 20),
    ("compress=zstd,ram=16m,zram=15m", 15 << 20), ("compress=zstd,ram=16m,zram=0", 0),
])
def test_zram_is_a_part_of_ram(text: str, nbytes: int) -> None:
    assert read(text).zram_bytes == nbytes


def test_compressed_pages_are_somewhere_to_page_to() -> None:
    assert not read("swap=none,compress=zstd,ram=16m").warnings


@pytest.mark.parametrize(("text", "image"), [
    ("image=https://host/a%20b?x=1", "https://host/a%20b?x=1"), ("image=s3://bucket/key/of", "s3://bucket/key/of"),
    ("image=/a/b,compress=zstd,ram=16m", "/a/b"),
])
def test_images(text: str, image: str) -> None:
    assert read(text).image == image


@pytest.mark.parametrize("text", ["image=https://user:secret@host/x", "image=https://", "image=https://host",
                                  "image=s3://bucket/a b", "image=https://host/x,image_cache=1m"])
def test_images_that_are_refused(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(text)
    assert str(caught.value).startswith("image") and "\n" not in str(caught.value)
