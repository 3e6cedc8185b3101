"""Each numbered invariant of tmpfs/, and the leaks that P4 and R3 stand for, broken by hand: check() names it."""

import zlib
from typing import Any, Callable

import pytest

from tests import failpoints
from tests.fs.fslib import ROOT, Driver, make_mount
from tmpfsd.pool.strings import CLASSES
from tmpfsd.tmpfs import fsck, layout
from tmpfsd.tmpfs.directory import COOKIE_SHIFT, FIRST_KEY, REST_MASK, Directories
from tmpfsd.tmpfs.layout import ORPHAN, pack_extent, unpack_extent
from tmpfsd.uvm.errors import Inconsistent


class Scene:
    """A tree with one of everything, all resident, and ways to its bytes."""

    def __init__(self, fs: Driver) -> None:
        self.fs, self.mp, self.arena = fs, fs.mp, fs.mp.arena
        self.dir = fs.mkdir(ROOT, b"dir")
        self.sub = fs.mkdir(self.dir, b"sub")
        self.file, self.other = fs.create(self.dir, b"file"), fs.create(self.dir, b"other")
        self.packed, self.big, self.big2 = (fs.create(ROOT, name) for name in (b"packed", b"big", b"big2"))
        fs.write(self.file, 0, b"x" * 20)
        fs.write(self.packed, 0, b"x" * 100)
        fs.write(self.big, 0, b"x" * 10_000)
        fs.write(self.big, 20_480, b"x" * 100)
        fs.write(self.big2, 0, b"x" * 5000)
        fs.link(self.file, ROOT, b"second")
        fs.link(self.file, ROOT, b"third")
        fs.link(self.file, self.dir, b"second")
        fs.create(ROOT, b"other")
        self.symlink = fs.symlink(ROOT, b"symlink", b"t" * 100)
        self.fifo = fs.mknod(ROOT, b"fifo", 0o010600)
        fs.setxattr(self.file, b"user.a", b"v" * 5000)
        self.orphan = fs.create(ROOT, b"gone")
        fs.unlink(ROOT, b"gone")

    def node(self, ino: int) -> int:
        """The offset of a node."""
        return self.mp.mem.node_w(ino)

    def entry(self, dino: int, name: bytes) -> tuple[int, int]:
        """(key, value) of an entry."""
        found = self.mp.dirs.find(self.node(dino), name)
        assert found is not None
        return found[0], found[1]

    def set_word(self, ino: int, value: int) -> None:
        """The lookup word of a node."""
        self.mp.mem.u32[self.mp.mem.nlookup_word(ino)] = value

    def extent(self, ino: int) -> tuple[int, int, int]:
        """(index, page number, count) of a file's first extent."""
        found = self.mp.extents.first_from(self.node(ino), 0)
        assert found is not None
        return (found[0], *unpack_extent(found[1]))

    def point_to(self, ino: int, name: bytes, target: int) -> None:
        """Make an entry of the root lead to another value."""
        self.mp.dirs.set(self.node(ino), self.entry(ino, name)[0], target)

    def reset_name(self, ino: int, name: bytes) -> None:
        """The name kept in a node."""
        layout.set_tn_name(self.arena, self.node(ino), name)

    def leaf(self, ino: int) -> int:
        """The offset of the only leaf of a node's tree."""
        return self.mp.mem.string_w(layout.tn_tree(self.arena, self.node(ino))[0])


def _links(scene: Scene, ino: int, n: int) -> None:
    layout.set_tn_links(scene.arena, scene.node(ino), n)


def _size(scene: Scene, ino: int, n: int) -> None:
    layout.set_tn_size(scene.arena, scene.node(ino), n)


def _spoil(scene: Scene, at: int) -> None:
    scene.arena[at] = 0x77


def _swap_keys(scene: Scene) -> None:
    at = scene.leaf(ROOT) + layout.BT_HEAD >> 3
    u64 = scene.mp.mem.u64
    u64[at], u64[at + 1] = u64[at + 1], u64[at]


def _steal_pages(scene: Scene) -> None:
    """Both files have the same first page."""
    index, vpn, count = scene.extent(scene.big2)
    scene.mp.extents.set(scene.node(scene.big), 0, pack_extent(vpn, count))
    layout.set_tn_pages(scene.arena, scene.node(scene.big), count + 1)


def _lose_pages(scene: Scene) -> None:
    """A file forgets its pages."""
    scene.mp.extents.remove(scene.node(scene.big), 0)
    layout.set_tn_pages(scene.arena, scene.node(scene.big), 1)


def _overlap(scene: Scene) -> None:
    index, vpn, count = scene.extent(scene.big)
    scene.mp.extents.insert(scene.node(scene.big), 1, pack_extent(vpn + 1, 1))


def _tail_of_page(scene: Scene) -> None:
    _index, vpn, _count = scene.extent(scene.big2)
    _spoil(scene, scene.mp.mem.data_w(vpn + 1) + 1000)


def _foreign_page(scene: Scene) -> None:
    page = scene.mp.mem.nodes.pages[0]
    scene.mp.extents.set(scene.node(scene.big2), 0, pack_extent(page, 1))
    layout.set_tn_pages(scene.arena, scene.node(scene.big2), 1)


def _count_item(scene: Scene, nbytes: int, n: int) -> None:
    """Count n more items of a class as files'."""
    scene.mp.mem.data_items[CLASSES.index(nbytes)] += n


def _same_dirent(scene: Scene) -> None:
    scene.point_to(scene.dir, b"second", scene.entry(ROOT, b"second")[1])


def _free_dirent(scene: Scene) -> None:
    scene.mp.mem.strings.put(scene.entry(ROOT, b"second")[1] ^ layout.EXTERNAL)


def _free_xattr(scene: Scene) -> None:
    scene.mp.mem.strings.put(layout.tn_xattr(scene.arena, scene.node(scene.file)))


def _lose_xattr(scene: Scene) -> None:
    layout.set_tn_xattr(scene.arena, scene.node(scene.file), 0)


def _attribute(scene: Scene) -> int:
    """The offset of the topmost attribute."""
    return scene.mp.mem.string_w(layout.tn_xattr(scene.arena, scene.node(scene.file)))


def _misplace_xattr(scene: Scene) -> None:
    """The attributes below the topmost are on the wrong side."""
    scene.fs.setxattr(scene.file, b"user.b", b"v")
    layout.set_tx_below(scene.arena, _attribute(scene), *layout.tx_below(scene.arena, _attribute(scene))[::-1])


def _loop_of_xattrs(scene: Scene) -> None:
    top = layout.tn_xattr(scene.arena, scene.node(scene.file))
    layout.set_tx_below(scene.arena, _attribute(scene), top, 0)


def _dirent_to_free_node(scene: Scene) -> None:
    at = scene.mp.mem.string_w(scene.entry(ROOT, b"second")[1] ^ layout.EXTERNAL)
    layout.set_td_head(scene.arena, at, 24, len(b"second"))


def _second_name_of_directory(scene: Scene) -> None:
    value = scene.mp.dirs.new_value(scene.sub, b"third", False)
    scene.point_to(ROOT, b"third", value)


def _loop(scene: Scene) -> None:
    """`sub` is in itself, and so not below the root."""
    scene.point_to(scene.dir, b"sub", scene.entry(scene.dir, b"other")[1])
    value = scene.mp.dirs.new_value(scene.sub, b"loop", False)
    vacancy = scene.mp.dirs.vacancy(scene.node(scene.sub), b"loop")
    assert vacancy is not None
    scene.mp.dirs.insert(scene.node(scene.sub), vacancy, value)


def _two_of_one_name(scene: Scene) -> None:
    value = scene.mp.dirs.new_value(scene.file, b"second", False)
    key, _value = scene.entry(ROOT, b"second")
    scene.mp.dirs.tree.insert(scene.node(ROOT), key + (1 << COOKIE_SHIFT), value)
    _size(scene, ROOT, layout.tn_size(scene.arena, scene.node(ROOT)) + 20)


def _count_beyond_cap(scene: Scene) -> None:
    at = scene.leaf(ROOT)
    n, cap, level = layout.bt_head(scene.arena, at)
    layout.set_bt_head(scene.arena, at, n, cap + 1, level)


def _wrong_level(scene: Scene) -> None:
    at = scene.leaf(ROOT)
    n, cap, _level = layout.bt_head(scene.arena, at)
    layout.set_bt_head(scene.arena, at, n, cap, 1)


BREAKS: dict[str, tuple[str, Callable[[Scene], Any]]] = {
    "orphan mark without a reason": ("N1", lambda s: s.set_word(s.other, ORPHAN | 1)),
    "no orphan mark": ("N1", lambda s: s.set_word(s.orphan, 1)),
    "too many links": ("N1", lambda s: _links(s, s.file, 5)),
    "too few links": ("N1", lambda s: _links(s, s.file, 3)),
    "links of a directory": ("N1", lambda s: _links(s, s.dir, 2)),
    "neither link nor reference": ("N2", lambda s: s.set_word(s.orphan, ORPHAN)),
    "orphans miscounted": ("N3", lambda s: setattr(s.mp.mem, "norphans", 9)),
    "size of a directory": ("E1", lambda s: _size(s, s.dir, 40)),
    "name under another's hash": ("E2", lambda s: s.reset_name(s.other, b"othes")),
    "empty name": ("E2", lambda s: s.reset_name(s.other, b"")),
    "two entries of one name": ("E2", _two_of_one_name),
    "an inner name used twice": ("E3", lambda s: s.point_to(ROOT, b"other", s.other)),
    "an inner name nobody uses": ("E3", lambda s: s.reset_name(s.orphan, b"ghost")),
    "a dirent used twice": ("P4", _same_dirent),
    "a dirent that is free": ("P4", _free_dirent),
    "a dirent of a free node": ("E4", _dirent_to_free_node),
    "an entry of a free node": ("E4", lambda s: s.point_to(ROOT, b"fifo", 24)),
    "two names of a directory": ("E4", _second_name_of_directory),
    "another parent": ("E4", lambda s: layout.set_tn_parent(s.arena, s.node(s.sub), ROOT)),
    "bytes behind the end, inline": ("R1", lambda s: _spoil(s, s.node(s.file) + layout.SPEC + 30)),
    "bytes behind the end, packed": ("R1", lambda s: _spoil(
        s, s.mp.mem.string_w(layout.tn_string(s.arena, s.node(s.packed))) + 110)),
    "bytes behind the end, in a page": ("R1", _tail_of_page),
    "more bytes than there is room": ("R1", lambda s: _size(s, s.packed, 5000)),
    "number of pages": ("R2", lambda s: layout.set_tn_pages(s.arena, s.node(s.big), 9)),
    "pages beyond the size": ("R2", lambda s: _size(s, s.big, 4096)),
    "extents overlap": ("R2", _overlap),
    "a fifo with bytes": ("R2", lambda s: _size(s, s.fifo, 1)),
    "a symlink with pages": ("R2", lambda s: layout.set_tn_kind(s.arena, s.node(s.symlink), layout.KIND_TREE)),
    "a page in two files": ("R3", _steal_pages),
    "a page of nodes in a file": ("R3", _foreign_page),
    "pages in no file": ("R3", _lose_pages),
    "an item of a file is not counted": ("R5", lambda s: _count_item(s, 128, -1)),
    "the target of a symlink is counted": ("R5", lambda s: _count_item(s, 128, 1)),
    "items of a class without any are counted": ("R5", lambda s: _count_item(s, 2048, 1)),
    "an attribute that is free": ("P4", _free_xattr),
    "attributes of nobody": ("P4", _lose_xattr),
    "an attribute where nobody looks": ("X1", _misplace_xattr),
    "an attribute below itself": ("P4", _loop_of_xattrs),
    "bytes of names miscounted": ("X2", lambda s: layout.set_tx_listed(s.arena, _attribute(s), 9)),
    "keys out of order": ("B1", _swap_keys),
    "capacity": ("B2", _count_beyond_cap),
    "level": ("B2", _wrong_level),
}


@pytest.mark.parametrize("case", BREAKS)
def test_check_names_it(tmp_path, case: str) -> None:
    mp = make_mount(str(tmp_path))
    scene = Scene(Driver(mp))
    mp.check()
    invariant, break_it = BREAKS[case]
    break_it(scene)
    with pytest.raises(Inconsistent) as info:
        mp.check()
    assert info.value.invariant == invariant, info.value
    mp.close()


def _below_itself(scene: Scene) -> None:
    """`sub` moves into itself as rename would do it: each count and each parent is right, but it is a loop."""
    dirs, arena = scene.mp.dirs, scene.arena
    key, value = scene.entry(scene.dir, b"sub")
    dirs.remove(scene.node(scene.dir), key)
    vacancy = dirs.vacancy(scene.node(scene.sub), b"sub")
    assert vacancy is not None
    dirs.insert(scene.node(scene.sub), vacancy, value)
    layout.set_tn_parent(arena, scene.node(scene.sub), scene.sub)
    _links(scene, scene.dir, 2)
    _links(scene, scene.sub, 3)


def test_a_directory_below_itself(tmp_path) -> None:
    mp = make_mount(str(tmp_path))
    scene = Scene(Driver(mp))
    _below_itself(scene)
    with pytest.raises(Inconsistent, match=f"directory {scene.sub} is below itself") as info:
        mp.check()
    assert info.value.invariant == "E4"
    mp.close()


def test_a_way_up_that_ends_nowhere(tmp_path) -> None:
    """A way up that ends where nobody has a name: N1 and K2 come first in a check, so the last line alone is asked."""
    mp = make_mount(str(tmp_path))
    seen = fsck._Seen()
    seen.parents |= {5: ROOT, 6: 5}
    fsck._check_reachable(mp, seen)
    seen.parents |= {7: 9}
    with pytest.raises(Inconsistent, match="directory 7 is cut off") as info:
        fsck._check_reachable(mp, seen)
    assert info.value.invariant == "E4"
    seen.ends.add(9)                # it was discarded
    fsck._check_reachable(mp, seen)
    mp.close()


def test_a_directory_cut_off_from_the_root(tmp_path) -> None:
    mp = make_mount(str(tmp_path))
    scene = Scene(Driver(mp))
    _loop(scene)
    with pytest.raises(Inconsistent):
        mp.check()
    mp.close()


def test_two_entries_with_one_cookie(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    failpoints.interpreted_only()
    monkeypatch.setattr(Directories, "hash", lambda self, name: FIRST_KEY | zlib.crc32(name))
    mp = make_mount(str(tmp_path))
    fs = Driver(mp)
    for name in (b"a", b"b"):
        fs.create(ROOT, name)
    mp.check()
    tree, at = mp.dirs.tree, mp.mem.node_w(ROOT)
    (_key, _value), (key, value) = tree.batch_from(at, 0)
    tree.remove(at, key)
    tree.insert(at, FIRST_KEY | key & REST_MASK, value)
    with pytest.raises(Inconsistent, match="has the cookie of another") as info:
        mp.check()
    assert info.value.invariant == "E2"
    mp.close()


def test_an_item_put_twice(tmp_path) -> None:
    mp = make_mount(str(tmp_path))
    handle = mp.mem.strings.get(100)
    mp.mem.strings.get(100)
    mp.mem.strings.put(handle)
    with pytest.raises(Inconsistent) as info:
        mp.mem.strings.put(handle)
    assert info.value.invariant == "P4"
    mp.close()


def test_a_leaked_item(tmp_path) -> None:
    mp = make_mount(str(tmp_path))
    mp.mem.strings.get(100)
    with pytest.raises(Inconsistent) as info:
        mp.check()
    assert info.value.invariant == "P4"
    mp.close()
