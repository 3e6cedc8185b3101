"""Quotas: charges, refusals, and that charges are given back, however a file ends.

Each test ends with the whole check, which counts all accounts anew (Q1, Q2).
"""

import errno
import random
from typing import Any, Callable

import pytest

from tests import failpoints
from tests.fs.fslib import ROOT, Cred, Driver, failing, refused
from tmpfsd.tmpfs import accounts, cut, detach, fallocate, tmpfile, writeback
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import Inconsistent, VmError

PAGE, BLOCK = 4096, 512
MakeFs = Callable[..., Driver]
ALICE, BOB = Cred(1000, 1000), Cred(2000, 1000)


def as_user(fs: Driver, cred: Any) -> None:
    """Who asks from now on."""
    fs.mp.quota.caller = cred


def of(fs: Driver, number: int, kind: int = accounts.USER) -> tuple[int, int]:
    """The bytes and inodes that a user, or a group, is charged."""
    for charged in fs.mp.quota:
        if charged.which == kind and number in charged.table:
            return charged.table[number].blocks * BLOCK, charged.table[number].inodes
    return 0, 0


def both(make_fs: MakeFs, mode: str, **limits: int) -> Driver:
    """A file system that counts users and groups."""
    fs = make_fs(mode, tiny=mode == "thrash", quota=True, **limits)
    as_user(fs, ALICE)
    return fs


def test_everything_is_charged_as_stat_says(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode)
    assert of(fs, 0) == (0, 1)                                  # the root directory
    ino = fs.create(ROOT, b"file", cred=ALICE)
    for size in (0, 1, 48, 49, 512, 513, 2048, 2049, 4096, 10_000, 300_000):
        fs.write(ino, 0, b"x" * size)
        assert of(fs, 1000) == (fs.getattr(ino).blocks * BLOCK, 1), size
    for size in (299_999, 8192, 8191, 3, 5, 0, 100_000, 7, 2000, 2048, 2049, 0):
        fs.truncate(ino, size)
        assert of(fs, 1000) == (fs.getattr(ino).blocks * BLOCK, 1), size
    fs.mkdir(ROOT, b"dir", cred=ALICE)
    fs.symlink(ROOT, b"link", b"t" * 1000, cred=ALICE)
    fs.mknod(ROOT, b"fifo", 0o010644, cred=ALICE)
    fs.link(ino, ROOT, b"second")
    assert of(fs, 1000) == of(fs, 1000, accounts.GROUP) == (0, 4)
    fs.rename(ROOT, b"file", ROOT, b"fifo")                    # which ends the other
    assert of(fs, 1000) == (0, 3)
    fs.rename(ROOT, b"dir", ROOT, b"d", 4, cred=BOB)           # and leaves a whiteout of his
    assert of(fs, 1000) == (0, 3) and of(fs, 2000) == (0, 1) and of(fs, 1000, accounts.GROUP) == (0, 4)


def test_a_limit_of_blocks(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=10 * PAGE)
    one = fs.create(ROOT, b"one", cred=ALICE)
    assert fs.write(one, 0, bytes(20 * PAGE)) == 10 * PAGE     # what there is room for, as at a full disk
    with refused(errno.EDQUOT):
        fs.write(one, 10 * PAGE, b"x")
    small = fs.create(ROOT, b"small", cred=ALICE)
    with refused(errno.EDQUOT):
        fs.write(small, 0, b"x")
    with refused(errno.EDQUOT):
        fs.truncate(small, 100)
    fs.truncate(small, 1 << 40)                                # a hole: nothing is charged
    fs.write(one, 5000, b"over what is there")
    assert of(fs, 1000) == (10 * PAGE, 2)
    his = fs.create(ROOT, b"his", cred=BOB)
    fs.write(his, 0, bytes(10 * PAGE))                         # another's are his own
    fs.punch(one, 0, PAGE)
    fs.write(small, 0, b"x")
    assert of(fs, 1000) == (10 * PAGE, 2)
    assert fs.content(one)[PAGE:2 * PAGE].strip(b"\0") == b"over what is there"


def test_packed_files_count_by_512_bytes(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=PAGE)
    inos = [fs.create(ROOT, b"%d" % i, cred=ALICE) for i in range(8)]
    for ino in inos:
        fs.write(ino, 0, b"x" * BLOCK)
    for n in (BLOCK, 2 * PAGE):                                # from packed to packed, and to pages
        with refused(errno.EDQUOT):
            fs.write(inos[0], BLOCK, b"y" * n)
        assert fs.content(inos[0]) == b"x" * BLOCK
    fs.truncate(inos[1], 0)
    fs.write(inos[0], BLOCK, b"y" * BLOCK)
    assert of(fs, 1000) == (PAGE, 8)


def test_a_limit_of_inodes(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_inodes=4, grpquota_inodes=6)
    for i in range(4):
        fs.create(ROOT, b"%d" % i, cred=ALICE)
    for make in (fs.create, fs.mkdir):
        with refused(errno.EDQUOT):
            make(ROOT, b"new", cred=ALICE)
    with refused(errno.EDQUOT):
        fs.symlink(ROOT, b"new", b"t", cred=ALICE)
    with refused(errno.EDQUOT):
        fs.rename(ROOT, b"1", ROOT, b"new", 4, cred=ALICE)
    with refused(errno.EDQUOT):
        fs.do(tmpfile.make, ROOT, 0o600, ALICE, True)
    fs.link(fs.lookup(ROOT, b"1"), ROOT, b"new")               # is no inode
    for i in range(2):
        fs.create(ROOT, b"bob-%d" % i, cred=BOB)
    with refused(errno.EDQUOT):                                # the group they share
        fs.create(ROOT, b"bob-2", cred=BOB)
    fs.create(ROOT, b"elsewhere", cred=BOB._replace(gid=7))
    fs.unlink(ROOT, b"2")
    fs.create(ROOT, b"again", cred=ALICE)
    assert of(fs, 1000) == (0, 4) and of(fs, 1000, accounts.GROUP) == (0, 6)


def test_root_has_no_limits_and_privileged_heed_none(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=PAGE, usrquota_inodes=1, grpquota_bytes=PAGE, grpquota_inodes=1)
    for i in range(3):
        fs.write(fs.create(ROOT, b"root-%d" % i), 0, bytes(3 * PAGE))      # whoever asks: they are root's
    ino = fs.create(ROOT, b"hers", cred=ALICE)
    assert fs.write(ino, PAGE, bytes(2 * PAGE)) == PAGE
    with refused(errno.EDQUOT):
        fs.write(ino, 2 * PAGE, b"x")
    as_user(fs, Cred())                                        # CAP_SYS_RESOURCE
    fs.write(ino, 0, bytes(9 * PAGE))
    fs.create(ROOT, b"second", cred=ALICE)
    assert of(fs, 1000) == (9 * PAGE, 2)
    as_user(fs, None)                                          # nobody in particular
    with refused(errno.EDQUOT):
        fs.write(ino, 9 * PAGE, b"x")
    as_user(fs, ALICE)
    fs.truncate(ino, 0)
    assert of(fs, 1000) == (0, 2)


def test_the_page_cache_is_nobody(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=PAGE)
    ino = fs.create(ROOT, b"mapped", cred=ALICE)
    as_user(fs, Cred())
    with refused(errno.EDQUOT):
        fs.do(writeback.write, ino, 0, bytes(3 * PAGE))
    assert fs.mp.gate.lost_writes == 1 and of(fs, 1000) == (PAGE, 1)


def test_chown_moves_the_charge(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=10 * PAGE, grpquota_bytes=10 * PAGE, usrquota_inodes=3)
    inos = [fs.create(ROOT, b"%d" % i, cred=ALICE) for i in range(3)]
    for ino in inos:
        fs.write(ino, 0, bytes(3 * PAGE))
    as_user(fs, BOB)
    fs.setattr(inos[0], BOB, uid=2000)
    assert of(fs, 1000) == (6 * PAGE, 2) and of(fs, 2000) == (3 * PAGE, 1)
    assert of(fs, 1000, accounts.GROUP) == (9 * PAGE, 3)
    fs.setattr(inos[0], BOB, uid=2000, gid=3000)               # from a number to itself: no charge
    fs.setattr(inos[1], BOB, gid=3000)
    fs.setattr(inos[2], BOB, gid=3000)
    assert of(fs, 1000, accounts.GROUP) == (0, 0) and of(fs, 3000, accounts.GROUP) == (9 * PAGE, 3)
    other = fs.create(ROOT, b"other", cred=BOB)
    fs.write(other, 0, bytes(2 * PAGE))
    before = fs.getattr(other)
    with refused(errno.EDQUOT):
        fs.setattr(other, BOB, gid=3000)                       # blocks of the group
    assert fs.getattr(other) == before
    for i in range(2):
        fs.setattr(fs.create(ROOT, b"b%d" % i, cred=BOB._replace(uid=4000)), BOB, uid=4000)
    fs.create(ROOT, b"b2", cred=BOB._replace(uid=4000))
    with refused(errno.EDQUOT):
        fs.setattr(inos[1], BOB, uid=4000)                     # inodes of the user
    as_user(fs, Cred())
    fs.setattr(inos[1], uid=4000)
    assert of(fs, 4000) == (3 * PAGE, 4) and of(fs, 1000) == (3 * PAGE, 1)


@pytest.mark.parametrize("npages", [0, 1, 3000])
def test_what_is_open_and_removed_is_charged_to_the_last_close(make_fs: MakeFs, mode: str, npages: int) -> None:
    fs = both(make_fs, mode)
    ino = fs.create(ROOT, b"file", cred=ALICE)
    fs.write(ino, 0, b"small" if not npages else bytes(npages * PAGE))
    nbytes = fs.getattr(ino).blocks * BLOCK
    fs.unlink(ROOT, b"file")
    assert of(fs, 1000) == (nbytes, 0)
    fs.setattr(ino, Cred(), uid=2000)
    assert of(fs, 1000) == (0, 0) and of(fs, 2000) == (nbytes, 0)
    fs.forget(ino)
    assert of(fs, 2000) == (0, 0)                              # though its pages may still be freed
    assert bool(fs.mp.doomed) == (npages == 3000)
    fs.check()
    fs.reap_all(check=mode == "roomy")


def test_a_tail_that_is_freed_later_is_charged_to_nobody(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=3000 * PAGE)
    ino = fs.create(ROOT, b"file", cred=ALICE)
    for i in range(0, 2000, 2):                                # many extents
        fs.write(ino, i * PAGE, b"x")
    fs.write(ino, 4000 * PAGE, bytes(2000 * PAGE))
    with refused(errno.EDQUOT):
        fs.write(ino, 7000 * PAGE, b"x")
    fs.truncate(ino, 100 * PAGE)
    assert fs.mp.doomed and of(fs, 1000) == (50 * PAGE, 1)
    fs.write(ino, 4000 * PAGE, bytes(100 * PAGE))
    fs.check()
    fs.reap_all()


def test_a_discarded_tree_makes_room_when_it_is_needed(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=40 * PAGE, usrquota_inodes=30)
    top = fs.mkdir(ROOT, b"top", cred=ALICE)
    below = fs.mkdir(top, b"below", cred=ALICE)
    for i in range(28):
        ino = fs.create((top, below)[i % 2], b"%d" % i, cred=ALICE)
        fs.write(ino, 0, b"x" * (PAGE if i % 3 else 300))
        if i % 4:
            fs.forget(ino)
    fs.do(detach.detach, ROOT, b"top")
    assert of(fs, 1000)[1] == 29
    for i in range(28):
        fs.write(fs.create(ROOT, b"%d" % i, cred=ALICE), 0, bytes(PAGE))
    fs.reap_all(check=mode == "roomy")
    fs.forget_all()
    assert of(fs, 1000) == (28 * PAGE, 28) and not fs.mp.quota.ntrees
    assert fs.write(fs.lookup(ROOT, b"1"), PAGE, bytes(20 * PAGE)) == 12 * PAGE


def test_nothing_is_reaped_for_a_quota_that_reaping_does_not_help(make_fs: MakeFs) -> None:
    """Else one user who is over his quota would have all others wait for a large file of anybody's."""
    fs = both(make_fs, "roomy", usrquota_bytes=PAGE)
    big = fs.create(ROOT, b"big")
    fs.write(big, 0, bytes(5000 * PAGE))
    fs.unlink(ROOT, b"big")
    fs.forget(big)
    doomed = fs.mp.doomed_pages
    ino = fs.create(ROOT, b"hers", cred=ALICE)
    fs.write(ino, 0, bytes(PAGE))
    for _ in range(5):
        with refused(errno.EDQUOT):
            fs.write(ino, PAGE, b"x")
    assert fs.mp.doomed_pages == doomed


def test_fallocate(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=100 * PAGE)
    ino = fs.create(ROOT, b"file", cred=ALICE)
    fs.write(ino, 0, b"packed")
    with refused(errno.EDQUOT):
        fs.do(fallocate.reserve, ino, 0, 101 * PAGE, False)
    assert fs.content(ino) == b"packed" and of(fs, 1000) == (BLOCK, 1)
    fs.do(fallocate.reserve, ino, 0, 60 * PAGE, True)
    assert of(fs, 1000) == (60 * PAGE, 1)
    fs.write(ino, 0, bytes(60 * PAGE))                         # what is reserved is charged already
    with refused(errno.EDQUOT):
        fs.do(fallocate.reserve, ino, 50 * PAGE, 51 * PAGE, False)
    assert of(fs, 1000) == (60 * PAGE, 1)
    fs.do(fallocate.reserve, ino, 50 * PAGE, 50 * PAGE, False)
    fs.do(cut.punch, ino, 10 * PAGE, 20 * PAGE)
    assert of(fs, 1000) == (80 * PAGE, 1)
    as_user(fs, Cred())
    fs.do(fallocate.reserve, ino, 0, 200 * PAGE, False)
    assert of(fs, 1000) == (200 * PAGE, 1)


def test_fallocate_is_undone_where_others_take_the_room(make_fs: MakeFs) -> None:
    fs = both(make_fs, "roomy", usrquota_bytes=40_000 * PAGE)
    ino, other = fs.create(ROOT, b"file", cred=ALICE), fs.create(ROOT, b"other", cred=ALICE)
    fs.mp.breathe()
    reservation = fallocate.Reservation(fs.mp, ino, 0, 30_000 * PAGE, False)
    assert reservation.step()
    fs.write(other, 0, bytes(200 * PAGE))
    fs.do(fallocate.reserve, other, 0, 15_000 * PAGE, False)
    as_user(fs, Cred())                                        # whose request is served meanwhile is not asked
    with refused(errno.EDQUOT):
        while reservation.step():
            fs.mp.breathe()
    assert of(fs, 1000) == (15_000 * PAGE, 2)


def test_a_file_without_a_name_gets_one(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_inodes=2, usrquota_bytes=2 * PAGE)
    first, second = [fs._hold(fs.do(tmpfile.make, ROOT, 0o600, ALICE, True)) for _ in range(2)]
    fs.write(first, 0, bytes(2 * PAGE))
    with refused(errno.EDQUOT):
        fs.write(second, 0, b"x")
    assert of(fs, 1000) == (2 * PAGE, 0)                       # inodes count by names, as for nr_inodes
    fs.link(first, ROOT, b"a")
    fs.create(ROOT, b"b", cred=ALICE)
    with refused(errno.EDQUOT):
        fs.link(second, ROOT, b"c")
    fs.unlink(ROOT, b"b")
    fs.link(second, ROOT, b"c")
    assert of(fs, 1000) == (2 * PAGE, 2)


def test_nodes_with_many_attributes(make_fs: MakeFs, mode: str) -> None:
    """Nodes of any kind are doomed when they end."""
    fs = both(make_fs, mode)
    inos = [fs.create(ROOT, b"inline", cred=ALICE), fs.create(ROOT, b"string", cred=ALICE),
            fs.symlink(ROOT, b"link", b"t" * 500, cred=ALICE), fs.mkdir(ROOT, b"dir", cred=ALICE)]
    fs.write(inos[0], 0, b"x" * 40)
    fs.write(inos[1], 0, b"x" * 1500)
    for ino in inos:
        for i in range(30):
            fs.setxattr(ino, b"user.%d" % i, b"v" * 300)
    assert of(fs, 1000) == (4 * BLOCK, 4)
    for name in (b"inline", b"string", b"link"):
        fs.unlink(ROOT, name)
    fs.rmdir(ROOT, b"dir")
    fs.forget_all()
    assert of(fs, 1000) == (0, 0) and fs.mp.doomed
    fs.check()
    fs.reap_all(check=mode == "roomy")


def test_limits_of_one(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=PAGE)
    users, groups = fs.mp.quota.kinds
    users.limit(1000, 3 * PAGE, None)
    users.limit(0, None, 1)
    groups.limit(1000, 2 * PAGE, 5)
    ino = fs.create(ROOT, b"file", cred=ALICE)
    with refused(errno.EDQUOT):
        fs.create(ROOT, b"root's")
    assert fs.write(ino, 0, bytes(9 * PAGE)) == 2 * PAGE
    assert users.rows() == [[0, 0, 0, 1, 1], [1000, 2 * PAGE, 3 * PAGE, 1, 0]]
    assert groups.rows() == [[0, 0, 0, 1, 0], [1000, 2 * PAGE, 2 * PAGE, 1, 5]]
    groups.limit(1000, 0, 0)
    assert fs.write(ino, 0, bytes(9 * PAGE)) == 3 * PAGE
    fs.unlink(ROOT, b"file")
    fs.forget_all()
    assert users.rows()[1] == [1000, 0, 3 * PAGE, 0, 0]        # what was set stays, without any file
    users.limit(1000, PAGE, None)


def test_accounts_are_bounded(make_fs: MakeFs, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """Each file has another owner: the heap does not grow with the files."""
    failpoints.interpreted_only()
    monkeypatch.setattr(accounts, "MOST_ACCOUNTS", 10)
    fs = both(make_fs, "roomy")
    as_user(fs, Cred())
    for i in range(9):
        fs.create(ROOT, b"%d" % i, cred=Cred(i + 1, 1))
    for i in range(9, 12):
        with refused(errno.EDQUOT):
            fs.create(ROOT, b"%d" % i, cred=Cred(i + 1, 1))
    ino = fs.create(ROOT, b"old", cred=Cred(5, 1))
    with refused(errno.EDQUOT):
        fs.setattr(ino, uid=99)
    assert len(fs.mp.quota.kinds[0].table) == 10 and caplog.text.count("no more can be counted") == 1
    fs.unlink(ROOT, b"0")
    fs.setattr(ino, uid=99)


@pytest.mark.parametrize("corrupt, number", [
    (lambda users: setattr(users.table[1000], "blocks", 7), "Q1"),
    (lambda users: setattr(users.table[1000], "inodes", 7), "Q1"),
    (lambda users: users.add(77, 1, 0), "Q1"), (lambda users: users.table.pop(1000), "Q2"),
    (lambda users: users.table.setdefault(77, users.fresh(77)), "Q2"),
])
def test_check_finds_what_is_wrong(make_fs: MakeFs, corrupt: Callable[[Any], Any], number: str) -> None:
    fs = both(make_fs, "roomy")
    fs.write(fs.create(ROOT, b"file", cred=ALICE), 0, b"x")
    before = fs.mp.quota.kinds[0].table.copy()
    blocks, inodes = before[1000].blocks, before[1000].inodes
    corrupt(fs.mp.quota.kinds[0])
    with pytest.raises(Inconsistent) as caught:
        fs.check()
    assert caught.value.invariant == number
    fs.mp.quota.kinds[0].table = before
    before[1000].blocks, before[1000].inodes = blocks, inodes


@pytest.mark.parametrize("point", ["page", "data", "item", "pagein"])
def test_a_failure_charges_nothing(make_fs: MakeFs, mode: str, point: str) -> None:
    """Each operation with its n-th allocation or page-in failing, for every n; the check counts anew."""
    fs = both(make_fs, mode)

    def operations(i: int) -> list[Callable[[], Any]]:
        """Some that charge."""
        name = b"n%d" % i
        ino = fs.create(ROOT, b"file%d" % i, cred=ALICE)
        return [lambda: fs.create(ROOT, name, cred=ALICE), lambda: fs.write(ino, 0, b"x" * 600),
                lambda: fs.write(ino, 0, bytes(5000)), lambda: fs.write(ino, 9 * PAGE, bytes(3 * PAGE)),
                lambda: fs.do(fallocate.reserve, ino, 20 * PAGE, 5 * PAGE, False),
                lambda: fs.truncate(ino, 100), lambda: fs.truncate(ino, 4000),
                lambda: fs.setattr(ino, Cred(), uid=2000),
                lambda: fs.rename(ROOT, name, ROOT, name + b"x" * 40, 4, cred=BOB),
                lambda: fs.unlink(ROOT, b"file%d" % i)]

    for step in range(len(operations(-1))):
        for n in range(40):
            todo = operations(n + 100 * step)
            for operation in todo[:step]:
                operation()
            with failing(point, n) as fuse:
                try:
                    todo[step]()
                except (FsError, VmError):
                    pass
            fs.check()
            if fuse.calls <= n:
                break


def test_at_random(make_fs: MakeFs, mode: str) -> None:
    fs = both(make_fs, mode, usrquota_bytes=200 * PAGE, usrquota_inodes=40, grpquota_bytes=300 * PAGE)
    rng = random.Random(mode)
    creds = [Cred(uid, gid) for uid in (1, 2, 3) for gid in (1, 2)]
    pairs: list[int] = []
    for step in range(600):
        ino = rng.choice(pairs) if pairs else 0
        as_user(fs, rng.choice([None, *creds]))
        try:
            what = rng.randrange(-3, 9) if ino and fs.entries(ROOT) else 0
            if what <= 0:
                pairs.append(fs.create(ROOT, b"%d" % step, cred=rng.choice(creds)))
            elif what == 1:
                fs.write(ino, rng.choice((0, 100, 5000, 100_000)), bytes(rng.choice((1, 600, 3000, 50_000))))
            elif what == 2:
                fs.truncate(ino, rng.choice((0, 1, 700, 3000, 60_000)))
            elif what == 3:
                fs.setattr(ino, Cred(), uid=rng.choice((1, 2, 3)), gid=rng.choice((1, 2, None)))
            elif what == 4:
                fs.do(fallocate.reserve, ino, rng.choice((0, 30 * PAGE)), 20 * PAGE, rng.random() < 0.5)
            elif what == 5:
                fs.punch(ino, rng.choice((0, 4000, 9000)), rng.choice((100, 5000, 90_000)))
            elif what == 6:
                names = list(fs.entries(ROOT))
                fs.rename(ROOT, rng.choice(names), ROOT, rng.choice(names), rng.choice((0, 0, 2)))
            elif what == 7:
                fs.unlink(ROOT, rng.choice(list(fs.entries(ROOT))))
            else:
                pairs.remove(ino)
                fs.forget(ino)
        except (FsError, VmError) as error:
            assert error.errno in (errno.EDQUOT, errno.ENOENT), error
        if not step % 10:
            fs.check()
            for number in (1, 2, 3):
                assert of(fs, number)[0] <= 200 * PAGE and of(fs, number)[1] <= 40
