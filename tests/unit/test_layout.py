"""Offsets of the records, and accessors that touch what they name and nothing else."""

import mmap
from collections.abc import Iterator

import pytest

from tmpfsd.tmpfs import layout
from tmpfsd.tmpfs.layout import Record

NODE = {"tn_mode": 0, "tn_kind": 2, "tn_namelen": 3, "tn_links": 4, "tn_uid": 8, "tn_gid": 12, "tn_size": 16,
        "tn_gen": 24, "tn_atime": 32, "tn_mtime": 40, "tn_ctime": 48, "tn_btime": 56, "tn_atimehi": 64,
        "tn_mtimehi": 66, "tn_xattr": 68, "tn_rdev": 72, "tn_pages": 76, "tn_spec": 80, "tn_name": 128}


@pytest.mark.parametrize("record, size, offsets", [
    (layout.TMPFS_NODE, 160, NODE),
    (layout.TN_TREE, 48, {"tn_root": 0, "tn_height": 4, "tn_parent": 8, "": 12}),
    (layout.TN_STRING, 48, {"tn_string": 0, "": 4}),
    (layout.TMPFS_DIRENT, 8, {"td_ino": 0, "td_namelen": 4, "": 5}),
    (layout.TMPFS_XATTR, 14,
     {"tx_left": 0, "tx_right": 4, "tx_vlen": 8, "tx_listed": 10, "tx_nlen": 12, "tx_nchunks": 13}),
    (layout.BTREE_NODE, 8, {"bt_count": 0, "bt_cap": 2, "bt_level": 4, "": 5}),
], ids=lambda value: value.name if isinstance(value, Record) else "")
def test_offsets(record: Record, size: int, offsets: dict) -> None:
    assert (record.size, record.offset) == (size, offsets)


AT = 64


@pytest.fixture
def mem() -> Iterator[mmap.mmap]:
    """A node full of ones, with ones around it: what is not written stays so."""
    with mmap.mmap(-1, 512) as ones:
        ones[:] = b"\xff" * 512
        yield ones


def changed(mem: mmap.mmap) -> set[int]:
    """Which bytes of the node are not ones; none outside it."""
    outside = mem[:AT] + mem[AT + 160:]
    assert not outside.strip(b"\xff")
    return {i for i in range(160) if mem[AT + i] != 0xFF}


@pytest.mark.parametrize("name, size", [("tn_mode", 2), ("tn_kind", 1), ("tn_links", 4), ("tn_size", 8),
                                        ("tn_ctime", 8), ("tn_xattr", 4), ("tn_pages", 4)])
def test_a_field(mem: mmap.mmap, name: str, size: int) -> None:
    get, put = getattr(layout, name), getattr(layout, "set_" + name)
    put(mem, AT, 0)
    assert changed(mem) == set(range(NODE[name], NODE[name] + size))
    for value in (-2, -(1 << 63), (1 << 63) - 1) if name == "tn_ctime" else ((1 << 8 * size) - 2,):
        put(mem, AT, value)
        assert get(mem, AT) == value


def test_groups(mem: mmap.mmap) -> None:
    layout.set_tn_owner(mem, AT, 0, 0)
    assert changed(mem) == set(range(8, 16))
    layout.set_tn_owner(mem, AT, 1000, 100)
    layout.set_tn_mode(mem, AT, 0o100644)
    assert layout.tn_owner(mem, AT) == (1000, 100)
    assert layout.tn_access(mem, AT) == (0o100644, 1000, 100)


def test_a_new_node(mem: mmap.mmap) -> None:
    layout.init_node(mem, AT, 0o100600, layout.KIND_INLINE, 1, 7, 8, 5, 9, 123, 0, 0, b"hello", b"name")
    assert not (mem[:AT] + mem[AT + 160:]).strip(b"\xff")
    assert layout.tn_stat(mem, AT) == (0o100600, 1, 7, 8, 0, 5, 1, 123, 123, 123, 9)
    assert layout.tn_name(mem, AT) == b"name"
    assert mem[AT + layout.SPEC:AT + layout.SPEC + 48] == b"hello".ljust(48, b"\0")
    assert layout.tn_xattr(mem, AT) == layout.tn_pages(mem, AT) == 0


@pytest.mark.parametrize("mode, kind, size, pages, blocks", [
    (0o100644, layout.KIND_INLINE, 0, 0, 0), (0o100644, layout.KIND_INLINE, 1, 0, 1),
    (0o100644, layout.KIND_STRING, 513, 0, 2), (0o100644, layout.KIND_TREE, 1 << 40, 0, 0),
    (0o100644, layout.KIND_TREE, 1, 3, 24), (0o040755, layout.KIND_TREE, 40, 0, 0),
    (0o120777, layout.KIND_INLINE, 9, 0, 0)])
def test_blocks(mem: mmap.mmap, mode: int, kind: int, size: int, pages: int, blocks: int) -> None:
    layout.init_node(mem, AT, mode, kind, 1, 0, 0, size, 1, 0)
    layout.set_tn_pages(mem, AT, pages)
    assert layout.tn_stat(mem, AT)[6] == blocks


@pytest.mark.parametrize("ns, kept", [
    (0, 0), (1, 1), (-1, -1), ((1 << 64) - 1, (1 << 64) - 1), (1 << 64, 1 << 64), (-(1 << 70), -(1 << 70)),
    (1 << 90, (1 << 79) - 1), (-(1 << 90), -(1 << 79) + 1)])
def test_times(mem: mmap.mmap, ns: int, kept: int) -> None:
    layout.init_node(mem, AT, 0o100600, layout.KIND_INLINE, 1, 0, 0, 0, 9, 5)
    layout.set_tn_atime(mem, AT, ns)
    assert layout.tn_atime(mem, AT) == layout.tn_stat(mem, AT)[7] == kept
    assert layout.tn_mtime(mem, AT) == 5
    layout.set_tn_mtime(mem, AT, ns)
    assert layout.tn_mtime(mem, AT) == layout.tn_stat(mem, AT)[8] == kept
    layout.touch(mem, AT, 77)
    assert layout.tn_stat(mem, AT)[7:10] == (kept, 77, 77)


def test_the_type_specific_part(mem: mmap.mmap) -> None:
    layout.clear_spec(mem, AT)
    assert changed(mem) == set(range(80, 128))
    layout.set_tn_tree(mem, AT, 5, 2)
    layout.set_tn_parent(mem, AT, 9)
    assert (layout.tn_tree(mem, AT), layout.tn_parent(mem, AT)) == ((5, 2), 9)
    layout.set_tn_string(mem, AT, 1 << 30)
    assert layout.tn_string(mem, AT) == 1 << 30
    assert mem[AT + 80 + 12:AT + 128] == bytes(36)


def test_specs_of_new_nodes(mem: mmap.mmap) -> None:
    layout.init_node(mem, AT, 0o040755, layout.KIND_TREE, 2, 0, 0, 0, 1, 0, 0, 0, layout.directory_spec(44))
    assert (layout.tn_tree(mem, AT), layout.tn_parent(mem, AT)) == ((0, 0), 44)
    layout.init_node(mem, AT, 0o120777, layout.KIND_STRING, 1, 0, 0, 60, 1, 0, 0, 0, layout.string_spec(77))
    assert layout.tn_string(mem, AT) == 77


@pytest.mark.parametrize("name", (b"", b"x", b"\xff" * 31, b"n" * 32))
def test_the_name_in_a_node(mem: mmap.mmap, name: bytes) -> None:
    layout.set_tn_name(mem, AT, name)
    assert layout.tn_name(mem, AT) == name
    assert not (mem[:AT] + mem[AT + 160:]).strip(b"\xff")


def test_dirents_and_attributes(mem: mmap.mmap) -> None:
    layout.init_dirent(mem, AT, 17, b"n" * 255)
    assert layout.td_head(mem, AT) == (17, 255)
    assert layout.td_name(mem, AT, 255) == b"n" * 255
    for vlen, nchunks in ((0, 0), (7, 0), (65_535, 16), (65_536, 16)):
        layout.init_xattr(mem, AT, vlen, 255, nchunks)
        mem[AT + 14:AT + 269] = b"n" * 255
        assert layout.tx_below(mem, AT) == (0, 0) and layout.tx_listed(mem, AT) == 0
        layout.set_tx_below(mem, AT, 1, (1 << 32) - 1)
        layout.set_tx_listed(mem, AT, 65_535)
        assert layout.tx_head(mem, AT) == (vlen, 255, nchunks)
        assert layout.tx_below(mem, AT) == (1, (1 << 32) - 1) and layout.tx_listed(mem, AT) == 65_535
        assert layout.tx_name(mem, AT) == b"n" * 255


@pytest.mark.parametrize("vpn, count", ((1, 1), ((1 << 31) - 1, (1 << 24) - 1)))
def test_extents(vpn: int, count: int) -> None:
    packed = layout.pack_extent(vpn, count)
    assert packed < 1 << 64 and layout.unpack_extent(packed) == (vpn, count)


@pytest.mark.parametrize("size, fields", ((8, (("a", "I"),)), (6, (("a", "H"), ("b", "I"))), (3, (("a", "I"),))))
def test_a_wrong_declaration_is_refused(size: int, fields) -> None:
    with pytest.raises(AssertionError):
        Record("wrong", size, fields)


def test_a_group_with_a_gap_is_read_only() -> None:
    record = Record("r", 12, (("a", "I"), ("b", "I"), ("c", "I")))
    assert record.get("a", "c")(bytes(range(12)), 0) == (0x03020100, 0x0B0A0908)
    with pytest.raises(AssertionError):
        record.put("a", "c")
    with pytest.raises(AssertionError):
        record.get("c", "a")
