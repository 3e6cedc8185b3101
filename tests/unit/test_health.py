"""`tmpfsctl status` begins with the health of the mount, the worst first, and tells what helps."""

import copy
import os
from typing import Any

import pytest

from tests.fs.fslib import CRED, ROOT
from tmpfsd.cli import status as status_command
from tmpfsd.options import parse
from tmpfsd.server.health import STATES, health, summary, troubles
from tmpfsd.sizes import UNLIMITED
from tmpfsd.tmpfs import vnops
from tmpfsd.tmpfs.filesystem import Mount
from tmpfsd.tmpfs.fserror import FsError
from tmpfsd.uvm.errors import VmError

WELL: dict[str, Any] = {
    "mountpoint": "/mnt/x", "backend": "pageable-submap", "used_bytes": 10, "size_bytes": 100, "inodes": 1,
    "inodes_max": 0, "resident_bytes": 99, "ram_bytes": 100, "wired_bytes": 0, "dirty_bytes": 0, "submap": {},
    "swap": {"path": "/var/tmp", "size_bytes": 100, "used_bytes": 10, "bad_slots": 0, "disk_full": False, "files": []},
    "paging": {"lost_pages": 0, "scans": 0}, "pools": [], "requests": {},
    "data": {"pages": 0, "resident_pages": 0, "swapped_pages": 0}}


def state(**changed: Any) -> dict[str, Any]:
    """A status in which this is not as it should be: swap_bad_slots is bad_slots of swap."""
    found = copy.deepcopy(WELL)
    for name, value in changed.items():
        room, _, key = name.partition("_")
        if room in ("swap", "paging"):
            found[room][key] = value
        else:
            found[name] = value
    return found


NO_SWAP = {"swap": {"path": "none", "size_bytes": 0, "used_bytes": 0, "bad_slots": 0, "disk_full": False, "files": []}}
ZRAM = {"size_bytes": 50, "used_bytes": 9, "stored_bytes": 20, "ratio": 2.2, "hits": 0, "writebacks": 0}
CASES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "ok", ""),
    ({"used_bytes": 79}, "ok", ""),
    ({"used_bytes": 80}, "under pressure", "`tmpfsctl set /mnt/x size=SIZE`"),
    ({"used_bytes": 100}, "full", "`tmpfsctl set /mnt/x size=SIZE`"),
    ({"inodes": 9, "inodes_max": 10}, "under pressure", "`tmpfsctl set /mnt/x nr_inodes=N`"),
    ({"inodes": 10, "inodes_max": 10}, "full", "nr_inodes=N"),
    ({"swap_used_bytes": 100}, "full", "`tmpfsctl swapon /mnt/x PATH`"),
    ({"swap_used_bytes": 85, "used_bytes": 95}, "under pressure", "size=SIZE"),
    ({"swap_disk_full": True, "used_bytes": 100}, "disk full", "free space there"),
    ({"swap_bad_slots": 3, "swap_disk_full": True}, "swap failing", "swapoff"),
    ({"paging_lost_pages": 3, "swap_bad_slots": 1}, "swap failing", "mount anew"),
    ({"broken": True, "paging_lost_pages": 3}, "broken", "unmount"),
    ({"mountpoint": "/mnt/a b", "used_bytes": 100}, "full", "'/mnt/a b' size=SIZE"),
    # of 1 MiB, 320 KiB are kept
    ({**NO_SWAP, "ram_bytes": 1 << 20, "resident_bytes": 620 << 10}, "under pressure", "set /mnt/x ram=SIZE`"),
    ({**NO_SWAP, "ram_bytes": 1 << 20, "resident_bytes": 704 << 10}, "full", "ram=SIZE"),
    ({**NO_SWAP, "ram_bytes": 1 << 20, "resident_bytes": 10 << 10}, "ok", ""),
    ({**NO_SWAP, "zram": ZRAM, "resident_bytes": 100}, "ok", ""),
    ({"used_bytes": 1 << 40, "size_bytes": UNLIMITED}, "ok", ""),
]


@pytest.mark.parametrize("changed, word, helps", CASES, ids=lambda each: str(each)[:40])
def test_the_worst_is_said(changed: dict[str, Any], word: str, helps: str) -> None:
    found = state(**changed) if "swap" not in changed else {**state(), **changed}
    assert health(found).state == word and helps in "; ".join(health(found).what_helps)
    first = status_command.format_status(found).splitlines()[0]
    assert first.split(None, 1) == ["health", str(health(found))]
    assert all(f"\n             {line}\n" in status_command.format_status(found) for line in health(found).what_helps)
    assert (first == "health       ok") == (word == "ok")


def test_all_that_is_the_matter_is_told() -> None:
    assert {word for _, word, _ in CASES} == set(STATES)
    found = [each.state for each in troubles(state(broken=True, swap_bad_slots=1, swap_disk_full=True, used_bytes=100,
                                                   swap_used_bytes=90))]
    assert found == ["broken", "swap failing", "disk full", "full", "under pressure"]


def test_json_has_all() -> None:
    """The worst state in a word, and each reason; what helps is told once."""
    found = summary(state(swap_disk_full=True, used_bytes=100, swap_used_bytes=90))
    assert found["state"] == "disk full"
    assert found["reasons"] == ["the disk under the swap file is full", "size is used up", "90 % of swap is used"]
    assert len(found["what_helps"]) == len(set(found["what_helps"])) == 5
    assert summary(state()) == {"state": "ok", "reasons": [], "what_helps": []}


def test_no_limit_is_shown_as_none() -> None:
    text = status_command.format_status(state(size_bytes=UNLIMITED))
    assert "used         10, no limit\n" in text


@pytest.mark.parametrize("options", ["ram=1m,swap=none", "ram=16m,swap=none", "ram=4m,size=1m,swap=none",
                                     "ram=4m,swap=none,nr_inodes=20",
                                     "ram=4m,zram=2m,compress=zstd,swap=none"])
def test_a_mount_that_refuses_is_full(options: str) -> None:
    """Until there is room for no more: and all is well before."""
    mount = Mount(parse(options))
    try:
        assert health({**mount.status(), "mountpoint": "/x"}).state == "ok"
        with pytest.raises((FsError, VmError)):
            for i in range(10_000):
                mount.breathe()
                ino = vnops.create(mount, ROOT, b"%d" % i, 0o644, CRED)
                vnops.write(mount, ino, 0, os.urandom(16384))
        assert health({**mount.status(), "mountpoint": "/x"}).state == "full"
    finally:
        mount.close()
