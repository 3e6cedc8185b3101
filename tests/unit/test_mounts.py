"""The common part of the commands and the daemon about mounts: the table, paths, output."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile import HOSTILE_PATHS
from tmpfsd.mounts import mountinfo
from tmpfsd.mounts.mountinfo import MountPoint, Tree, locate, parse, parse_all
from tmpfsd.mounts.printable import printable
from tmpfsd.mounts.unmount import id_of, unmount

HOSTILE = pytest.mark.parametrize("name", HOSTILE_PATHS.values(), ids=HOSTILE_PATHS)
ROOT = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"


def escaped(name: bytes) -> bytes:
    """A name as the kernel writes it (seq_path() with " \\t\\n\\\\#")."""
    return re.sub(rb"[ \t\n\\#]", lambda match: b"\\%03o" % match[0][0], name)


def line_of(path: bytes, minor: int = 42, fstype: bytes = b"fuse.tmpfsd", parent: int = 27) -> bytes:
    """A line of the table."""
    return b"%d %d 0:%d / %s rw shared:7 - %s tmpfsd rw,user_id=7,group_id=8\n" % (
        minor, parent, minor, escaped(path), fstype)


# --- one line, one table ---

def test_a_line() -> None:
    mount = parse(b"45 27 0:42 /r\\040x /a\\040b rw sha:3 m:4 - fuse.tmpfsd s\\134 rw,user_id=7,group_id=8\n")
    assert mount == MountPoint(0, 42, "/a b", "fuse.tmpfsd", 7, "/r x", 45, 27, 8, "s\\", "rw",
                               "rw,user_id=7,group_id=8")
    assert mount.words == ["rw", "rw", "user_id=7", "group_id=8"]
    plain = parse(b"22 27 0:21 / /proc rw - proc proc rw")
    assert plain is not None and plain.owner == 0 and plain.device == (0, 21)
    empty = parse(b"22 27 0:21 / /x rw - fuse.x  rw,user_id=5")
    assert empty is not None and (empty.source, empty.owner) == ("", 5)


@HOSTILE
def test_a_name_is_its_bytes(name: bytes) -> None:
    mounts = parse_all(ROOT + line_of(b"/m/" + name) + line_of(b"/after", 43))
    assert [os.fsencode(mount.path) for mount in mounts] == [b"/", b"/m/" + name, b"/after"]


@pytest.mark.parametrize("junk", [
    b"", b"\n", b"junk", b"1 2 3", b"1 2 0:x / / rw - a b rw", b"1 2 3:4 / /x rw", b"x 2 3:4 / /x rw - a b rw",
    b"1 2 3:4 / /x rw -", b"1 2 3:4 / /x rw - ext4", b"\xff\xfe\x00", b"1 2 3:4:5 / /x rw - a b rw", b" " * 40,
])
def test_a_line_that_is_not_understood_is_skipped(junk: bytes) -> None:
    assert [mount.path for mount in parse_all(ROOT + junk + b"\n" + line_of(b"/m"))] == ["/", "/m"]


@given(st.binary(max_size=80), st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name))
def test_nothing_forges_another_line(junk: bytes, name: bytes) -> None:
    """No name and no line that cannot be read changes the other lines."""
    mounts = parse_all(ROOT + line_of(b"/m/" + name) + junk.replace(b"\n", b"") + b"\n" + line_of(b"/last", 43))
    assert [mounts[0].path, mounts[-1].path] == ["/", "/last"] and mounts[1].device == (0, 42)
    assert os.fsencode(mounts[1].path) == b"/m/" + name and mounts[-1].device == (0, 43)


# --- which mount a path leads to ---

TABLE = parse_all(b"""\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:27 / /tmp rw - tmpfs tmpfs rw
31 30 0:28 / /tmp/disk\\040here rw shared:5 - xfs /dev/vdb rw
32 27 0:29 / /var/tmp rw - ext4 /dev/vdc rw
33 32 0:30 / /var/tmp rw - tmpfs over rw
40 27 0:40 / /m rw - fuse.tmpfsd tmpfsd rw,user_id=0
41 27 0:40 /d/e /bound rw - fuse.tmpfsd tmpfsd rw,user_id=0
42 27 0:41 / /h rw - ext4 /dev/vdd rw
43 42 0:40 / /h/m rw - fuse.tmpfsd tmpfsd rw,user_id=0
44 42 0:44 / /h rw - ext4 /dev/vde rw
""")


@pytest.mark.parametrize("path, kind", [
    ("/", "ext4"), ("/tmp", "tmpfs"), ("/tmpx", "ext4"), ("/tmp/a", "tmpfs"), ("/tmp/disk here/a", "xfs"),
    ("/var/tmp", "tmpfs"), ("/var", "ext4"), ("/m/x", "fuse.tmpfsd"), ("/h/m", "ext4"),
])
def test_what_holds_a_path(path: str, kind: str) -> None:
    found = Tree(TABLE).holding(path)
    assert found is not None and found.fstype == kind


def test_what_is_covered_is_not_found() -> None:
    tree = Tree(TABLE)
    assert tree.at("/h/m") is None and tree.at("/mm") is None
    assert [mount.path for mount in tree.of((0, 40))] == ["/m", "/bound"]


def test_a_table_that_goes_round_in_circles_or_has_no_root() -> None:
    """It may change as it is read; in a chroot its root is not in it."""
    circle = [mount._replace(id=one, parent=two) for mount, one, two in zip(TABLE, (1, 2, 3), (3, 1, 2))]
    assert Tree(circle).holding("/tmp") is None
    assert Tree([TABLE[0]._replace(parent=27)]).at("/") is not None
    assert Tree(TABLE[5:6]).holding("/x") is None and Tree(TABLE[5:6]).at("/m") == TABLE[5]


@pytest.mark.parametrize("path, real, inside", [
    ("/m", "/m", ""), ("/m/", "/m", ""), ("/m/a/../b/.", "/m/b", "b"), ("/m/..", "/", ""), ("/m/../bound/x", "/bound/x",
                                                                                            "d/e/x"),
    ("//m//x", "/m/x", "x"), ("/bound", "/bound", "d/e"), ("/../m", "/m", ""),
])
def test_where_a_path_leads(path: str, real: str, inside: str) -> None:
    where = locate(path, TABLE)
    assert (where.path, where.inside) == (real, inside)


def test_links_are_followed_up_to_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("/proc")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "up").symlink_to("../link")
    (tmp_path / "loop").symlink_to("loop")
    assert mountinfo.resolve(str(tmp_path / "link")) == "/proc"
    monkeypatch.chdir(tmp_path)
    where = locate("deep/up/")
    assert where.path == "/proc" and where.links == (str(tmp_path / "deep/up"), str(tmp_path / "link"))
    assert where.at_mount and where.mount is not None and where.mount.fstype == "proc"
    with pytest.raises(OSError, match="loop"):
        locate("loop")
    found = mountinfo.find("/proc")
    assert found is not None and found.fstype == "proc" and found.id == id_of("/proc")
    assert mountinfo.find(str(tmp_path)) is None


def test_dots_after_a_link_are_those_of_what_it_leads_to(tmp_path: Path) -> None:
    """abspath() would take the link's own directory."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    assert mountinfo.resolve(f"{tmp_path}/link/../c") == f"{tmp_path}/a/c"


def test_a_directory_that_is_gone_does_not_matter_to_an_absolute_path(tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert mountinfo.resolve("/proc") == "/proc"


def test_what_is_not_there_any_more_is_not_unmounted() -> None:
    """Though something else is mounted there."""
    if os.geteuid() == 0:
        found = mountinfo.find("/proc")
        assert found is not None
        assert unmount(found._replace(id=found.id + 100_000)) == "another mount is there now"


# --- what is printed ---

@HOSTILE
def test_what_is_printed_is_one_line_that_can_be_encoded(name: bytes) -> None:
    shown = printable(name)
    assert shown.isprintable() and len(shown.splitlines()) == 1 and "\x1b" not in shown
    shown.encode()
    assert printable(shown) == shown and printable(os.fsdecode(name)) == shown


@pytest.mark.parametrize("text, shown", [
    ("plain é 漢", "plain é 漢"), ("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"), ("\u2028", "\\u2028"),
    ("\u00a0", "\\u00a0"), ("\U000e0001", "\\U000e0001"), (b"\xff", "\\xff"), ("\ud800", "\\ud800"), ("a\\b", "a\\b"),
])
def test_escapes(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown
