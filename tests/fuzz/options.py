"""fuzz/options.py: mount options made of bytes: a Config that keeps its promises, or an OptionError in one line."""

from __future__ import annotations

from tests.fuzz import fuzzlib
from tmpfsd import options, optionwords, sizes
from tmpfsd.options import OptionError
from tmpfsd.owners import MAX_ID

PHYSICAL = 8 << 30
WORDS = [name for table in (options.VALUED, options.FLAGS, options.REFUSED) for name in table]
WORDS += [*sorted(options.GENERIC | options.IGNORED), *options.IGNORED_VALUED, *options.BACKENDS]
WORDS += ["=", ",", "=", ",", "\\", "0", "1", "64", "1777", "k", "m", "g", "t", "%", "-1", "99999999"]
WORDS += ["auto", "none", "shared", "per-pool", "direct"]


def text_of(data: bytes) -> str:
    """Options mostly of words that mean something; or the bytes themselves."""
    source = fuzzlib.Source(data)
    if source.byte() % 4 == 0:
        return data[1:].decode("utf-8", "surrogateescape")
    pieces = []
    while source:
        choice = source.byte()
        pieces.append(WORDS[choice % len(WORDS)] if choice < 250 else source.bytes().decode("latin-1"))
    return "".join(pieces)


def one(data: bytes) -> None:
    """Parse, and check the result."""
    text = text_of(data)
    try:
        config = options.parse(text, physical=PHYSICAL, swap=lambda: "/var/tmp")
    except OptionError as error:
        assert str(error)
        return
    for nbytes in (config.size_bytes, config.ram_bytes, config.swap_size_bytes):
        assert nbytes % sizes.PAGE_SIZE == 0 and 0 <= nbytes <= sizes.MAX_SIZE
    assert sizes.MIN_RAM <= config.ram_bytes <= PHYSICAL and config.size_bytes >= sizes.MIN_SIZE
    assert 0 <= config.mode <= 0o7777 and 0 <= config.nr_inodes <= optionwords.MAX_INODES
    assert 0 <= config.uid <= MAX_ID and 0 <= config.gid <= MAX_ID
    assert config.backend in options.BACKENDS and config.fsname.isprintable()
    assert config.swap is None or "\0" not in config.swap and config.swap.startswith("/")
    assert set(config.generic) <= options.GENERIC
    assert not (config.acl and not config.xattr and {"acl", "noxattr"} <= config.given)
    # What was taken apart can be put together again.
    words = options.split(text)
    assert options.split(",".join(map(options.quote, words))) == words
    assert options.parse(map(options.quote, words), physical=PHYSICAL, swap=lambda: "/var/tmp") == config


if __name__ == "__main__":
    fuzzlib.main("tests.fuzz.options")
