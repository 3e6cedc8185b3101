"""fuse/lookahead.py: attributes come with listings where names are looked up afterwards, and only there."""

from tests.fs.wirelib import Dirent, Wire
from tmpfsd.fuse import abi
from tmpfsd.fuse.lookahead import KNOWN, PROBE, RECENT, WANTED, Lookahead
from tmpfsd.tmpfs import node

ROOT, NAMES, SIZE = abi.ROOT_ID, 200, 8192


def listed(lookahead: Lookahead, directory: int, replies: int, names: int) -> list[bool]:
    """List a directory: which replies have attributes."""
    found = []
    for number in range(replies):
        found.append(lookahead.wants(number == 0))
        if not found[-1]:
            lookahead.gave(directory, names)
    return found


def test_the_first_reply_always_has_them() -> None:
    lookahead = Lookahead()
    for directory in range(100):
        assert listed(lookahead, directory, 5, 100) == [True, False, False, False, False]


def test_who_looks_at_what_was_listed_gets_them() -> None:
    """find -size: a directory is read to its end, then each name is looked up."""
    lookahead = Lookahead()
    assert not any(listed(lookahead, 1, 5, 100)[1:])
    for _ in range(400):
        lookahead.looks(1)
    found = [each for directory in range(2, 20) for each in listed(lookahead, directory, 5, 100)[1:]]
    assert found.count(True) >= len(found) * (PROBE - 2) // PROBE


def test_who_stops_looking_does_not() -> None:
    lookahead = Lookahead()
    lookahead.gave(1, RECENT - 1)
    for _ in range(RECENT - 1):
        lookahead.looks(1)
    replies = 0
    while any(listed(lookahead, 2, 5, 100)[1:]):
        replies += 5
        assert replies < RECENT * WANTED * PROBE // 100
    assert not any(listed(lookahead, 3, 50, 100)[1:])


def test_only_names_that_were_given_count() -> None:
    """Nor does it keep more than it may."""
    lookahead = Lookahead()
    lookahead.gave(1, 10)
    for _ in range(1000):
        lookahead.looks(1)
    assert lookahead.looked == 10
    for directory in range(100):
        lookahead.gave(directory, 1)
        assert len(lookahead.plain) <= KNOWN and 0 <= lookahead.looked <= lookahead.given < RECENT


def test_on_the_wire() -> None:
    """Entries without attributes have no node, and count as no lookup; each is there once."""
    wire = Wire()
    made = {name: wire.mknod(ROOT, name) for name in (b"file%d" % number for number in range(NAMES))}
    for ino in made.values():
        wire.tell(abi.FORGET, ino, abi.FORGET_IN.pack(1))
    for looking in (False, True, True):
        entries: list[Dirent] = []
        while part := wire.listing(ROOT, True, entries[-1].cookie if entries else 0, SIZE):
            entries += part
        assert sorted(each.name for each in entries) == sorted([b".", b"..", *made])
        assert all(each.node in (0, made[each.name]) for each in entries if each.name in made)
        having = [each for each in entries if each.node]
        assert all(node.is_known(wire.mp, each.node) for each in having)
        known = sum(node.is_known(wire.mp, ino) for ino in made.values())
        assert known == len({each.node for each in having})
        for each in having:
            wire.tell(abi.FORGET, each.node, abi.FORGET_IN.pack(1))
        for each in entries if not looking else []:
            if not each.node and each.name in made:
                wire.tell(abi.FORGET, wire.lookup(ROOT, each.name), abi.FORGET_IN.pack(1))
        assert len(having) < NAMES / 2 if not looking else len(having) > NAMES / 2
        wire.mp.check()
    wire.close()
