"""tmpfs/layout.py: every record of the file system, its offsets and accessors.

The only place that knows an offset.  A record is declared once; offsets, accessors and the checks of
size and alignment follow from the declaration.  Records are little-endian, without padding, read and
written in place: `mem` is the arena, `at` the offset of a record in it.
"""

from struct import Struct
from typing import Any, Callable

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

    def field(self, field: str) -> tuple[Callable[[Any, int], Any], Callable[[Any, int, Any], None]]:
        """Accessors of one field: get(mem, at) and set(mem, at, value)."""
        record, offset = Struct("<" + self.code[field]), self.offset[field]
        unpack, pack = record.unpack_from, record.pack_into

        def get(mem: Any, at: int) -> Any:
            return unpack(mem, at + offset)[0]

        def put(mem: Any, at: int, value: Any) -> None:
            pack(mem, at + offset, value)

        return get, put

    def group(self, *fields: str) -> tuple[Callable[[Any, int], tuple], Callable[..., None]]:
        """Accessors of several fields at once, in the order of the record: get(mem, at) and set(mem, at, *values)."""
        code, at = "<", self.offset[fields[0]]
        for field in fields:
            gap = self.offset[field] - at
            assert gap >= 0, f"{self.name}: {field} is out of order"
            code += f"{gap}x" * (gap > 0) + self.code[field]
            at = self.offset[field] + Struct("<" + self.code[field]).size
        record, offset = Struct(code), self.offset[fields[0]]
        unpack, pack = record.unpack_from, record.pack_into

        def get(mem: Any, at: int) -> tuple:
            return unpack(mem, at + offset)

        def put(mem: Any, at: int, *values: Any) -> None:
            assert "x" not in code, "pad bytes would be written as zeroes"
            pack(mem, at + offset, *values)

        return get, put


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
#     72    4 tn_rdev     device number (character and block devices)
#     76    4 tn_pages    data pages of a regular file, in 4 KiB
#     80   48 tn_spec     by tn_kind:
#               KIND_INLINE   the bytes of a small file or symlink, zeroes behind them
#               KIND_STRING   tn_string
#               KIND_TREE     tn_root, tn_height: extents of a file, or entries of a directory
#    128   32 tn_name     the name of one of the node's links, so that a look-up needs no other page

TMPFS_NODE = Record("tmpfs_node", 160, (
    ("tn_mode", "H"), ("tn_kind", "B"), ("tn_namelen", "B"), ("tn_links", "I"), ("tn_uid", "I"), ("tn_gid", "I"),
    ("tn_size", "Q"), ("tn_gen", "Q"), ("tn_atime", "Q"), ("tn_mtime", "Q"), ("tn_ctime", "q"), ("tn_btime", "q"),
    ("tn_atimehi", "h"), ("tn_mtimehi", "h"), ("tn_xattr", "I"), ("tn_rdev", "I"), ("tn_pages", "I"),
    ("tn_spec", "48s"), ("tn_name", "32s")))

ROOT_INO = 1
NAME_MAX = 255
KIND_NONE, KIND_INLINE, KIND_STRING, KIND_TREE = range(4)
INLINE_MAX = 48
NAME_INLINE_MAX = 32

tn_mode, set_tn_mode = TMPFS_NODE.field("tn_mode")
tn_kind, set_tn_kind = TMPFS_NODE.field("tn_kind")
tn_links, set_tn_links = TMPFS_NODE.field("tn_links")
tn_size, set_tn_size = TMPFS_NODE.field("tn_size")
tn_ctime, set_tn_ctime = TMPFS_NODE.field("tn_ctime")
tn_xattr, set_tn_xattr = TMPFS_NODE.field("tn_xattr")
tn_pages, set_tn_pages = TMPFS_NODE.field("tn_pages")
tn_owner, set_tn_owner = TMPFS_NODE.group("tn_uid", "tn_gid")
tn_access = TMPFS_NODE.group("tn_mode", "tn_uid", "tn_gid")[0]
tn_gen = TMPFS_NODE.field("tn_gen")[0]
tn_life = TMPFS_NODE.group("tn_mode", "tn_kind", "tn_namelen", "tn_links")[0]
tn_holdings = TMPFS_NODE.group("tn_mode", "tn_kind", "tn_xattr")[0]
_tn_atime, _set_tn_atime = TMPFS_NODE.group("tn_atime", "tn_atimehi")
_tn_mtime, _set_tn_mtime = TMPFS_NODE.group("tn_mtime", "tn_mtimehi")
_set_tn_mctime = TMPFS_NODE.group("tn_mtime", "tn_ctime")[1]
_tn_mtimehi, _set_tn_mtimehi = TMPFS_NODE.field("tn_mtimehi")
_tn_stat = TMPFS_NODE.group("tn_mode", "tn_kind", "tn_links", "tn_uid", "tn_gid", "tn_size", "tn_gen", "tn_atime",
                            "tn_mtime", "tn_ctime", "tn_atimehi", "tn_mtimehi", "tn_rdev", "tn_pages")[0]
_init_node = TMPFS_NODE.group(*TMPFS_NODE.code)[1]

SPEC = TMPFS_NODE.offset["tn_spec"]
NAME = TMPFS_NODE.offset["tn_name"]
NAMELEN = TMPFS_NODE.offset["tn_namelen"]
_LOW = (1 << 64) - 1
_HIGHEST = (1 << 79) - 1
_PER_PAGE = PAGE_SIZE // 512


def init_node(mem, at: int, mode: int, kind: int, links: int, uid: int, gid: int, size: int, gen: int, now: int,
              attributes: int = 0, rdev: int = 0, spec: bytes = b"", name: bytes = b"") -> None:
    """A new node, all of it.  => Cannot fail: a clock before 1970 is one too."""
    low, high = (now, 0) if now >= 0 else (now & _LOW, now >> 64)
    _init_node(mem, at, mode, kind, len(name), links, uid, gid, size, gen, low, low, now, now, high, high, attributes,
               rdev, 0, spec, name)


def tn_stat(mem, at: int) -> tuple:
    """(mode, nlink, uid, gid, rdev, size, blocks, atime_ns, mtime_ns, ctime_ns, generation)."""
    (mode, kind, links, uid, gid, size, gen, atime, mtime, ctime,
     atimehi, mtimehi, rdev, pages) = _tn_stat(mem, at)
    if atimehi or mtimehi:
        atime += atimehi << 64
        mtime += mtimehi << 64
    # What is packed takes no page of its own, but st_blocks must not be 0: tar and cp would take it for a hole.
    blocks = pages * _PER_PAGE if kind == KIND_TREE or mode & 0o170000 != 0o100000 else (size + 511) >> 9
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


_TIMES = {name: (TMPFS_NODE.field(name)[1], TMPFS_NODE.field(name + "hi")[1]) for name in ("tn_atime", "tn_mtime")}


def _set_tn_time(mem, at: int, name: str, ns: int) -> None:
    low, high = _TIMES[name]
    low(mem, at, ns & _LOW)
    high(mem, at, ns >> 64)


def touch(mem, at: int, now: int) -> None:
    """mtime and ctime are now.  => Cannot fail."""
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


def _in_spec(record: Record, name: str):
    get, put = record.field(name)
    return (lambda mem, at: get(mem, at + SPEC)), (lambda mem, at, value: put(mem, at + SPEC, value))


tn_string, set_tn_string = _in_spec(TN_STRING, "tn_string")
tn_parent, set_tn_parent = _in_spec(TN_TREE, "tn_parent")
_tree_root, _set_tree_root = TN_TREE.group("tn_root", "tn_height")


def tn_tree(mem, at: int) -> tuple[int, int]:
    """(handle of the root node of the B+tree or 0, levels above the leaves)."""
    return _tree_root(mem, at + SPEC)


def set_tn_tree(mem, at: int, root: int, height: int) -> None:
    """See tn_tree()."""
    _set_tree_root(mem, at + SPEC, root, height)


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

TMPFS_DIRENT = Record("tmpfs_dirent", 8, (("td_ino", "I"), ("td_namelen", "B"), ("", "3s")))
TD_NAME = TMPFS_DIRENT.size
td_head, set_td_head = TMPFS_DIRENT.group("td_ino", "td_namelen")


def td_name(mem, at: int, namelen: int) -> bytes:
    """The name of a dirent."""
    return mem[at + TD_NAME:at + TD_NAME + namelen]


def init_dirent(mem, at: int, ino: int, name: bytes) -> None:
    """Write a dirent of TD_NAME + len(name) bytes."""
    set_td_head(mem, at, ino, len(name))
    mem[at + TD_NAME:at + TD_NAME + len(name)] = name


# --- the directory's value of a name: the inode number, or the handle of a dirent with EXTERNAL set ---

EXTERNAL = 1 << 31

# --- tmpfs_xattr: an extended attribute; its name follows, then its value or the handles of the value's chunks ---
#
# offset size field       meaning
#      0    4 tx_left     handle of the attribute below whose names have a 0 bit here (xattr.py), 0 for none
#      4    4 tx_right    likewise, a 1 bit
#      8    2 tx_vlen     bytes of the value, the low 16 bits; 0 with chunks is 65,536
#     10    2 tx_listed   of the topmost: what listxattr(2) says of all, in bytes; of others 0
#     12    1 tx_nlen     bytes of the name
#     13    1 tx_nchunks  items that hold the value; 0 when it follows the name

TMPFS_XATTR = Record("tmpfs_xattr", 14, (("tx_left", "I"), ("tx_right", "I"), ("tx_vlen", "H"), ("tx_listed", "H"),
                                         ("tx_nlen", "B"), ("tx_nchunks", "B")))
TX_NAME = TMPFS_XATTR.size
_tx_head, _set_tx_head = TMPFS_XATTR.group("tx_vlen", "tx_listed", "tx_nlen", "tx_nchunks")
tx_below, set_tx_below = TMPFS_XATTR.group("tx_left", "tx_right")
tx_listed, set_tx_listed = TMPFS_XATTR.field("tx_listed")
_tx_nlen = TMPFS_XATTR.field("tx_nlen")[0]


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
#      2    2 bt_cap      entries there is room for
#      4    1 bt_level    0 in a leaf
#      5    3             0

BTREE_NODE = Record("btree_node", 8, (("bt_count", "H"), ("bt_cap", "H"), ("bt_level", "B"), ("", "3s")))
bt_head, set_bt_head = BTREE_NODE.group("bt_count", "bt_cap", "bt_level")
BT_HEAD = BTREE_NODE.size
BT_KEY = 8

# --- the value of an extent: which pages hold it ---

EXTENT_COUNT_BITS = 24


def pack_extent(vpn: int, count: int) -> int:
    """Page number and number of pages as one value."""
    return vpn << EXTENT_COUNT_BITS | count


def unpack_extent(value: int) -> tuple[int, int]:
    """(page number, number of pages)."""
    return value >> EXTENT_COUNT_BITS, value & (1 << EXTENT_COUNT_BITS) - 1


# --- nlookup: the kernel's references, one word for each node; ORPHAN is set when the last link is gone ---

ORPHAN = 1 << 31
NLOOKUP_MAX = ORPHAN - 1    # sticks there: such a node stays until unmount

assert PAGE_SIZE // TMPFS_NODE.size == 25
