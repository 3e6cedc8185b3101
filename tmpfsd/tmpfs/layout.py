"""tmpfs/layout.py: every record of the file system, its offsets and accessors.

This is the only place that knows offsets.  A record is declared once; offsets, accessors and the checks of size and
alignment follow from the declaration.  Records are little-endian, without padding, read and written in place: `mem` is
the arena, `at` the offset of a record in it.
"""

import sys
from struct import Struct
from typing import Any, Callable, Final

from tmpfsd.uvm.param import PAGE_SIZE

_ALIGN = {"B": 1, "H": 2, "h": 2, "I": 4, "Q": 8, "q": 8}


class Record:
    """A record of `size` bytes made of (name, struct code) fields in order; 'Ns' is N bytes."""

    __slots__ = ("name", "size", "offset", "code")

    def __init__(self, name: str, size: int, fields: tuple[tuple[str, str], ...]) -> None:
        self.name = name
        self.size = size
        self.offset: dict[str, int] = {}
        self.code = dict(fields)
        at = 0
        for field, code in fields:
            assert at % _ALIGN.get(code, 1) == 0, f"{name}.{field} is not aligned"
            self.offset[field] = at
            at += Struct("<" + code).size
        assert at == size, f"{name}: fields have {at} bytes, declared {size}"

    def _struct(self, base: int, fields: tuple[str, ...]) -> Struct:
        """Fields in the order of the record, at their offsets from `base` bytes before it."""
        code, at = "<", -base
        for field in fields:
            gap = self.offset[field] - at
            assert gap >= 0, f"{self.name}: {field} is out of order"
            code += f"{gap}x" * (gap > 0) + self.code[field]
            at = self.offset[field] + Struct("<" + self.code[field]).size
        return Struct(code)

    def get(self, *fields: str, base: int = 0) -> Callable[[Any, int], tuple]:
        """Reads fields, in the order of the record: get(mem, at) -> values; the record is at at + base."""
        return self._struct(base, fields).unpack_from

    def get1(self, field: str, base: int = 0) -> Callable[[Any, int], Any]:
        """Reads one field: get1(mem, at) -> its value."""
        unpack = self._struct(base, (field,)).unpack_from
        return lambda mem, at: unpack(mem, at)[0]

    def field(self, field: str) -> tuple[Callable[[Any, int], Any], Callable[..., None]]:
        """Accessors of one field: get(mem, at) and put(mem, at, value)."""
        return self.get1(field), self.put(field)

    def put(self, *fields: str, base: int = 0) -> Callable[..., None]:
        """Writes fields that stand in a row: put(mem, at, *values)."""
        start = base + self.offset[fields[0]]
        record = self._struct(-self.offset[fields[0]], fields)
        assert "x" not in record.format, "pad bytes would be written as zeroes"
        pack = record.pack_into
        if not start:
            return pack
        if len(fields) == 1:
            return lambda mem, at, value: pack(mem, at + start, value)
        return lambda mem, at, *values: pack(mem, at + start, *values)


# --- tmpfs_node: an inode; its number is its index in the node pool plus one ---
#
# offset size field       meaning
#      0    2 tn_mode     type and permission bits, as st_mode
#      2    1 tn_kind     how the type-specific part is used (below)
#      3    1 tn_namelen  length of the name kept in the node, 0 when there is none
#      4    4 tn_links    st_nlink
#      8    4 tn_uid
#     12    4 tn_gid
#     16    8 tn_size     st_size in bytes; of a directory 20 for each name, as in the kernel's tmpfs
#     24    8 tn_gen      generation: no two lives of an inode number share it
#     32    8 tn_atime    nanoseconds since 1970, low 64 bits
#     40    8 tn_mtime    likewise
#     48    8 tn_ctime    nanoseconds since 1970, signed: from the machine's clock only
#     56    8 tn_btime    likewise
#     64    2 tn_atimehi  the bits above 64 of tn_atime, signed
#     66    2 tn_mtimehi  likewise of tn_mtime
#     68    4 tn_xattr    handle of the topmost extended attribute, 0 for none
#     72    4 tn_rdev     device number (character and block devices); for all others tn_flags: the flags of chattr(1)
#     76    4 tn_pages    data pages of a regular file, in 4 KiB
#     80   48 tn_spec     by tn_kind:
#               KIND_INLINE   the bytes of a small file or symlink, zeroes behind them
#               KIND_STRING   tn_string
#               KIND_TREE     tn_root, tn_height: extents of a file, or entries of a directory
#    128   32 tn_name     the name of one of the node's links, so that a lookup needs no other page

# Numbers that a hot path computes with are Final: mypyc puts them into the code, others are looked up by name.
NODE_SIZE: Final = 160
TMPFS_NODE = Record("tmpfs_node", NODE_SIZE, (
    ("tn_mode", "H"), ("tn_kind", "B"), ("tn_namelen", "B"), ("tn_links", "I"), ("tn_uid", "I"), ("tn_gid", "I"),
    ("tn_size", "Q"), ("tn_gen", "Q"), ("tn_atime", "Q"), ("tn_mtime", "Q"), ("tn_ctime", "q"), ("tn_btime", "q"),
    ("tn_atimehi", "h"), ("tn_mtimehi", "h"), ("tn_xattr", "I"), ("tn_rdev", "I"), ("tn_pages", "I"),
    ("tn_spec", "48s"), ("tn_name", "32s")))

# tn_flags: those of <linux/fs.h> that tmpfs has, and one of ours: a file of O_TMPFILE that may be linked.
FL_IMMUTABLE: Final = 0x10
FL_APPEND: Final = 0x20
FL_NODUMP: Final = 0x40
FL_NOATIME: Final = 0x80
LINKABLE: Final = 1 << 31
_DEVICES: Final = (0o020000, 0o060000)

ROOT_INO: Final = 1
S_IFMT: Final = 0o170000         # of a mode: which type; Python has it as a function only
S_IFDIR: Final = 0o040000
NAME_MAX: Final = 255
KIND_NONE: Final = 0
KIND_INLINE: Final = 1
KIND_STRING: Final = 2
KIND_TREE: Final = 3
INLINE_MAX: Final = 48
NAME_INLINE_MAX: Final = 32

tn_mode: Final = TMPFS_NODE.get1("tn_mode")
set_tn_mode: Final = TMPFS_NODE.put("tn_mode")
tn_kind: Final = TMPFS_NODE.get1("tn_kind")
set_tn_kind: Final = TMPFS_NODE.put("tn_kind")
tn_links: Final = TMPFS_NODE.get1("tn_links")
set_tn_links: Final = TMPFS_NODE.put("tn_links")
tn_size: Final = TMPFS_NODE.get1("tn_size")
set_tn_size: Final = TMPFS_NODE.put("tn_size")
tn_ctime: Final = TMPFS_NODE.get1("tn_ctime")
set_tn_ctime: Final = TMPFS_NODE.put("tn_ctime")
tn_xattr: Final = TMPFS_NODE.get1("tn_xattr")
set_tn_xattr: Final = TMPFS_NODE.put("tn_xattr")
tn_pages: Final = TMPFS_NODE.get1("tn_pages")
set_tn_pages: Final = TMPFS_NODE.put("tn_pages")
tn_flags: Final = TMPFS_NODE.get1("tn_rdev")            # valid if the node is not a device
set_tn_flags: Final = TMPFS_NODE.put("tn_rdev")
tn_btime: Final = TMPFS_NODE.get1("tn_btime")
tn_owner: Final = TMPFS_NODE.get("tn_uid", "tn_gid")
set_tn_owner: Final = TMPFS_NODE.put("tn_uid", "tn_gid")
tn_access: Final = TMPFS_NODE.get("tn_mode", "tn_uid", "tn_gid")
tn_gen: Final = TMPFS_NODE.get1("tn_gen")
tn_life: Final = TMPFS_NODE.get("tn_mode", "tn_kind", "tn_namelen", "tn_links")
tn_holdings: Final = TMPFS_NODE.get("tn_mode", "tn_kind", "tn_xattr")
_tn_atime: Final = TMPFS_NODE.get("tn_atime", "tn_atimehi")
_tn_mtime: Final = TMPFS_NODE.get("tn_mtime", "tn_mtimehi")
_set_tn_mctime: Final = TMPFS_NODE.put("tn_mtime", "tn_ctime")
_tn_mtimehi: Final = TMPFS_NODE.get1("tn_mtimehi")
_set_tn_mtimehi: Final = TMPFS_NODE.put("tn_mtimehi")
_tn_stat: Final = TMPFS_NODE.get("tn_mode", "tn_kind", "tn_links", "tn_uid", "tn_gid", "tn_size", "tn_gen", "tn_atime",
                                 "tn_mtime", "tn_ctime", "tn_atimehi", "tn_mtimehi", "tn_rdev", "tn_pages")
_init_node: Final = TMPFS_NODE.put(*TMPFS_NODE.code)

SPEC: Final = 80
NAME: Final = 128
NAMELEN: Final = 3
assert (SPEC, NAME, NAMELEN) == tuple(TMPFS_NODE.offset[field] for field in ("tn_spec", "tn_name", "tn_namelen"))
_LOW: Final = (1 << 64) - 1
_HIGHEST = (1 << 79) - 1
BLOCK: Final = 512                  # the unit of st_blocks
BLOCKS_PER_PAGE: Final = PAGE_SIZE // BLOCK


def init_node(mem, at: int, mode: int, kind: int, links: int, uid: int, gid: int, size: int, gen: int, now: int,
              attributes: int = 0, rdev: int = 0, spec: bytes = b"", name: bytes = b"") -> None:
    """Write all of a new node.  => Cannot fail, even with a clock before 1970."""
    low, high = (now, 0) if now >= 0 else (now & _LOW, now >> 64)
    _init_node(mem, at, mode, kind, len(name), links, uid, gid, size, gen, low, low, now, now, high, high, attributes,
               rdev, 0, spec, name)


def packed_blocks(size: int) -> int:
    """st_blocks of a packed file."""
    return (size + BLOCK - 1) // BLOCK


def tn_blocks(mem, at: int) -> int:
    """st_blocks."""
    blocks: int = tn_stat(mem, at)[6]
    return blocks


def tn_stat(mem, at: int) -> tuple:
    """(mode, nlink, uid, gid, rdev, size, blocks, atime_ns, mtime_ns, ctime_ns, generation)."""
    (mode, kind, links, uid, gid, size, gen, atime, mtime, ctime,
     atimehi, mtimehi, rdev, pages) = _tn_stat(mem, at)
    if atimehi or mtimehi:
        atime += atimehi << 64
        mtime += mtimehi << 64
    # A packed file takes no page of its own, but st_blocks must not be 0: tar and cp would take it for a hole.
    blocks = pages * BLOCKS_PER_PAGE if kind == KIND_TREE or mode & S_IFMT != 0o100000 else packed_blocks(size)
    if rdev and mode & S_IFMT not in _DEVICES:
        rdev = 0
    return mode, links, uid, gid, rdev, size, blocks, atime, mtime, ctime, gen


def tn_atime(mem, at: int) -> int:
    """Nanoseconds since 1970."""
    low, high = _tn_atime(mem, at)
    return low + (high << 64)


def tn_mtime(mem, at: int) -> int:
    """Nanoseconds since 1970."""
    low, high = _tn_mtime(mem, at)
    return low + (high << 64)


def set_tn_atime(mem, at: int, ns: int) -> None:
    """Times that do not fit are clamped, as the kernel does (19 million years either way)."""
    ns = max(-_HIGHEST, min(ns, _HIGHEST))
    _set_tn_time(mem, at, "tn_atime", ns)


def set_tn_mtime(mem, at: int, ns: int) -> None:
    """See set_tn_atime()."""
    ns = max(-_HIGHEST, min(ns, _HIGHEST))
    _set_tn_time(mem, at, "tn_mtime", ns)


_TIMES = {name: (TMPFS_NODE.put(name), TMPFS_NODE.put(name + "hi")) for name in ("tn_atime", "tn_mtime")}


def _set_tn_time(mem, at: int, name: str, ns: int) -> None:
    low, high = _TIMES[name]
    low(mem, at, ns & _LOW)
    high(mem, at, ns >> 64)


def touch(mem, at: int, now: int) -> None:
    """Set mtime and ctime to now.  => Cannot fail."""
    _set_tn_mctime(mem, at, now & _LOW, now)
    if now < 0 or _tn_mtimehi(mem, at):
        _set_tn_mtimehi(mem, at, now >> 64)


# --- the type-specific parts of a node ---

TN_TREE = Record("tn_spec, KIND_TREE", 48, (("tn_root", "I"), ("tn_height", "I"), ("tn_parent", "I"), ("", "36s")))
TN_STRING = Record("tn_spec, KIND_STRING", 48, (("tn_string", "I"), ("", "44s")))


def directory_spec(parent: int) -> bytes:
    """The type-specific part of an empty directory."""
    return Struct("<" + "".join(TN_TREE.code.values())).pack(0, 0, parent, b"")


def string_spec(handle: int) -> bytes:
    """The type-specific part of a node whose bytes are in a string."""
    return Struct("<" + "".join(TN_STRING.code.values())).pack(handle, b"")


tn_string: Final = TN_STRING.get1("tn_string", base=SPEC)
set_tn_string: Final = TN_STRING.put("tn_string", base=SPEC)
tn_parent: Final = TN_TREE.get1("tn_parent", base=SPEC)
set_tn_parent: Final = TN_TREE.put("tn_parent", base=SPEC)
# (handle of the root node of the B+tree or 0, levels above the leaves)
tn_tree: Final = TN_TREE.get("tn_root", "tn_height", base=SPEC)
set_tn_tree: Final = TN_TREE.put("tn_root", "tn_height", base=SPEC)


def clear_spec(mem, at: int) -> None:
    """Zero the type-specific part."""
    mem[at + SPEC:at + SPEC + INLINE_MAX] = bytes(INLINE_MAX)


def tn_name(mem, at: int) -> bytes:
    """The name kept in the node, b"" when there is none."""
    start = at + NAME
    return mem[start:start + mem[at + NAMELEN]]


def set_tn_name(mem, at: int, name: bytes) -> None:
    """Keep a name of at most NAME_INLINE_MAX bytes in the node."""
    mem[at + NAMELEN] = len(name)
    mem[at + NAME:at + NAME + len(name)] = name


# --- tmpfs_dirent: an entry whose name is not in its node (a long name, or a further link) ---

TD_NAME: Final = 8
TMPFS_DIRENT = Record("tmpfs_dirent", TD_NAME, (("td_ino", "I"), ("td_namelen", "B"), ("", "3s")))
td_head: Final = TMPFS_DIRENT.get("td_ino", "td_namelen")
set_td_head: Final = TMPFS_DIRENT.put("td_ino", "td_namelen")


def td_name(mem, at: int, namelen: int) -> bytes:
    """The name of a dirent."""
    return mem[at + TD_NAME:at + TD_NAME + namelen]


def init_dirent(mem, at: int, ino: int, name: bytes) -> None:
    """Write a dirent of TD_NAME + len(name) bytes."""
    set_td_head(mem, at, ino, len(name))
    mem[at + TD_NAME:at + TD_NAME + len(name)] = name


# --- the directory's value of a name: the inode number, or the handle of a dirent with EXTERNAL set ---

EXTERNAL: Final = 1 << 31

# --- tmpfs_xattr: an extended attribute; its name follows, then its value or the handles of the value's chunks ---
#
# offset size field       meaning
#      0    4 tx_left     handle of the attribute below whose names have a 0 bit here (xattr.py), 0 for none
#      4    4 tx_right    likewise, a 1 bit
#      8    2 tx_vlen     bytes of the value, the low 16 bits; 0 with chunks is 65,536
#     10    2 tx_listed   of the topmost: bytes that listxattr(2) returns for all; of others 0
#     12    1 tx_nlen     bytes of the name
#     13    1 tx_nchunks  items that hold the value; 0 when it follows the name

TMPFS_XATTR = Record("tmpfs_xattr", 14, (("tx_left", "I"), ("tx_right", "I"), ("tx_vlen", "H"), ("tx_listed", "H"),
                                         ("tx_nlen", "B"), ("tx_nchunks", "B")))
TX_NAME = TMPFS_XATTR.size
_tx_head: Final = TMPFS_XATTR.get("tx_vlen", "tx_listed", "tx_nlen", "tx_nchunks")
_set_tx_head: Final = TMPFS_XATTR.put("tx_vlen", "tx_listed", "tx_nlen", "tx_nchunks")
tx_below: Final = TMPFS_XATTR.get("tx_left", "tx_right")
set_tx_below: Final = TMPFS_XATTR.put("tx_left", "tx_right")
tx_listed: Final = TMPFS_XATTR.get1("tx_listed")
set_tx_listed: Final = TMPFS_XATTR.put("tx_listed")
_tx_nlen: Final = TMPFS_XATTR.get1("tx_nlen")


def tx_head(mem, at: int) -> tuple[int, int, int]:
    """(bytes of the value, bytes of the name, chunks) of an attribute."""
    vlen, _listed, nlen, nchunks = _tx_head(mem, at)
    return vlen or nchunks and 1 << 16, nlen, nchunks


def init_xattr(mem, at: int, vlen: int, nlen: int, nchunks: int) -> None:
    """The head of an attribute without one below it."""
    set_tx_below(mem, at, 0, 0)
    _set_tx_head(mem, at, vlen & 0xFFFF, 0, nlen, nchunks)


def tx_name(mem, at: int) -> bytes:
    """The name of an attribute."""
    return mem[at + TX_NAME:at + TX_NAME + _tx_nlen(mem, at)]


# --- a node of a B+tree: 8 bytes of head, `cap` keys of 8 bytes, `cap` values; read as words (btree.py) ---
#
# offset size field       meaning
#      0    2 bt_count    entries in use
#      2    2 bt_cap      entries that it has room for
#      4    1 bt_level    0 in a leaf
#      5    3             0

BT_HEAD: Final = 8
BT_KEY: Final = 8
BTREE_NODE = Record("btree_node", BT_HEAD, (("bt_count", "H"), ("bt_cap", "H"), ("bt_level", "B"), ("", "3s")))
bt_head: Final = BTREE_NODE.get("bt_count", "bt_cap", "bt_level")
set_bt_head: Final = BTREE_NODE.put("bt_count", "bt_cap", "bt_level")
# Both in one word, which is read as the machine reads words.
assert (BTREE_NODE.offset["bt_count"], BTREE_NODE.offset["bt_cap"]) == (0, 2)
assert sys.byteorder == "little", "records are little-endian, and words of pages are read as they stand"


def bt_count(u32, node: int) -> int:
    """Entries in use."""
    return u32[node >> 2] & 0xFFFF


def bt_cap(u32, node: int) -> int:
    """Entries there is room for."""
    return u32[node >> 2] >> 16


def bt_counts(u32, node: int) -> tuple[int, int]:
    """(bt_count, bt_cap)."""
    word: int = u32[node >> 2]
    return word & 0xFFFF, word >> 16


def add_bt_count(u32, node: int, n: int) -> None:
    """There are n more entries in use, or fewer; the level and the room are as they were."""
    u32[node >> 2] += n


def bt_keys(node: int, i: int = 0) -> int:
    """The offset of key i."""
    return node + BT_HEAD + BT_KEY * i


def bt_values(node: int, cap: int) -> int:
    """The offset of the first value of a node that has room for `cap`."""
    return node + BT_HEAD + BT_KEY * cap


def bt_capacity(nbytes: int, value_size: int) -> int:
    """Entries that a node of nbytes has room for."""
    return (nbytes - BT_HEAD) // (BT_KEY + value_size)


# --- the value of an extent: which pages hold it ---

EXTENT_COUNT_BITS: Final = 24


def pack_extent(vpn: int, count: int) -> int:
    """Page number and number of pages as one value."""
    return vpn << EXTENT_COUNT_BITS | count


def unpack_extent(value: int) -> tuple[int, int]:
    """(page number, number of pages)."""
    return value >> EXTENT_COUNT_BITS, value & (1 << EXTENT_COUNT_BITS) - 1


# --- nlookup: the kernel's references, one word for each node; ORPHAN is set when the last link is gone ---

ORPHAN: Final = 1 << 31
NLOOKUP_MAX: Final = ORPHAN - 1    # a count stops there: such a node stays until unmount

assert PAGE_SIZE // TMPFS_NODE.size == 25
