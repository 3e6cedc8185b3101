"""tests/mount/test_broken.py: an invariant is broken by hand in a live mount (tmpfsd only).

The daemon is started by a script of the test, which adds a command to its control socket that breaks its memory.
Requests that need the broken part get EIO, the log has the invariant and a dump, nothing can be changed any more, and
all intact files can be read.
"""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mountlib import LIVE, REPOSITORY, Mounted, ctl, eventually, fails_with, is_mounted, new_mountpoint, touch

from tmpfsd.cli import client

SCRIPT = """
import sys
from tmpfsd import options
from tmpfsd.server import commands, daemon, process
from tmpfsd.uvm import pte

table = commands.Commands.table

def break_it(mount, what):
    mem, vm = mount.mem, mount.vm
    if what == "a page that is not there":          # V1: the page of the newest node
        vm.breathe()
        vm.daemon.evict_all()
        vpn = mem.nodes.pages[-1]
        vm.pte[vpn] = pte.NONE
    elif what == "an item that is free":            # P4: a node in use is given back
        mem.nodes.put(max(mem.nodes.held()))
    elif what == "two pages in one slot":           # V5, which only a check sees
        slots = [vpn for vpn, slot in enumerate(vm.slot_of) if slot]
        vm.slot_of[slots[0]] = vm.slot_of[slots[1]]
    return "broken"

commands.Commands.table = lambda self: {
    **table(self), "break": lambda request: break_it(self.mount, request["what"])}
process.start_log(sys.argv[1], True, False)
daemon.run(options.parse("ram=1m,size=64m,allow_other"), sys.argv[1], lambda: None)
"""


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """A mount with 500 files that can be broken."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("no /dev/fuse that can be opened")
    mnt, log = new_mountpoint(), tmp_path / "log"
    with open(log, "wb") as file:
        daemon = subprocess.Popen([sys.executable, "-c", SCRIPT, mnt], cwd=REPOSITORY, stdout=file, stderr=file)
    mounted = Mounted("tmpfsd", mnt, "", daemon, log)
    LIVE.add(mounted)
    assert eventually(lambda: is_mounted(mnt)), mounted.log_text()
    for number in range(500):
        touch(mnt / f"{number}", b"%d" % number * 1000)
    yield mounted
    mounted.close()


def broken_mount(mounted: Mounted) -> dict[str, Any]:
    """Check the rules of a broken mount; the status."""
    for change in (lambda: touch(mounted.mnt / "new"), lambda: os.mkdir(mounted.mnt / "dir"),
                   lambda: os.unlink(mounted.mnt / "5"), lambda: os.rename(mounted.mnt / "5", mounted.mnt / "6"),
                   lambda: os.truncate(mounted.mnt / "5", 0), lambda: os.setxattr(mounted.mnt / "5", "user.x", b"y"),
                   lambda: os.open(mounted.mnt / "5", os.O_WRONLY | os.O_TRUNC),
                   lambda: os.open(mounted.mnt / "5", os.O_RDONLY | os.O_TRUNC)):
        with fails_with(errno.EROFS):
            change()
    for command in (("set", str(mounted.mnt), "ram=2m"), ("flush", str(mounted.mnt)),
                    ("prefetch", str(mounted.mnt / "5")), ("discard", "--yes", str(mounted.mnt / "5"))):
        refused = ctl(*command, check=False)
        assert refused.returncode == 1 and "changes are refused" in refused.stderr, refused
    for number in range(20):
        assert (mounted.mnt / str(number)).read_bytes() == b"%d" % number * 1000
    status = mounted.status()
    assert status["broken"] and "does not hold" in ctl("status", str(mounted.mnt)).stdout
    return status


def dump_of(mounted: Mounted) -> dict[str, Any]:
    """The state in the log, as it was when it broke."""
    lines = [line for line in mounted.log_text().splitlines() if line.startswith("{")]
    dump: dict[str, Any] = json.loads(lines[0])
    return dump


def test_a_page_that_is_not_there(mounted: Mounted) -> None:
    assert client.ask(str(mounted.mnt), "break", what="a page that is not there") == "broken"
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("2")
    with fails_with(errno.EIO):
        for number in range(499, 470, -1):
            os.setxattr(mounted.mnt / str(number), "user.x", b"y")
    assert "V1: " in mounted.log_text() and dump_of(mounted)["inodes"] >= 500
    broken_mount(mounted)


def test_an_item_that_is_free(mounted: Mounted) -> None:
    """The node is given out again while its first owner has it: seen by the check, or when the first goes."""
    assert client.ask(str(mounted.mnt), "break", what="an item that is free") == "broken"
    with pytest.raises(client.ClientError, match="inconsistent"):
        client.ask(str(mounted.mnt), "check")
    assert dump_of(mounted)["inodes"] >= 500
    broken_mount(mounted)


def test_two_pages_in_one_slot(mounted: Mounted) -> None:
    assert client.ask(str(mounted.mnt), "break", what="two pages in one slot") == "broken"
    refused = ctl("check", str(mounted.mnt), check=False)
    assert refused.returncode == 1 and "V5" in refused.stderr
    assert "V5: two pages have one slot" in mounted.log_text() and "changes are refused" in mounted.log_text()
    broken_mount(mounted)
