"""The stress tool's questions about its file system: where it is mounted, and the status of a tmpfsd."""

import sys
from pathlib import Path

import pytest

from tools.stresskit import probe

MOUNTINFO = """\
20 1 8:1 / / rw - ext4 /dev/sda1 rw
30 20 0:30 / /mnt rw shared:1 - tmpfs tmpfs rw
this is no line of it

29 30 0:29 / /mnt/no\u00a0break\u2028line rw - tmpfs none rw
31 30 0:31 / /mnt/with\\040blank rw - fuse.tmpfsd tmpfsd rw
32 30 0:32 / /mnt/two rw - tmpfs below rw
33 30 0:33 / /mnt/two rw - fuse.tmpfsd above rw
"""


@pytest.mark.parametrize("path, mountpoint, fstype", [
    ("/home", "/", "ext4"), ("/mnt", "/mnt", "tmpfs"), ("/mntx", "/", "ext4"),
    ("/mnt/two/x", "/mnt/two", "fuse.tmpfsd"),
    ("/mnt/with blank/x", "/mnt/with blank", "fuse.tmpfsd"),
    ("/mnt/no\u00a0break\u2028line/x", "/mnt/no\u00a0break\u2028line", "tmpfs"),
])
def test_mounted_at(tmp_path: Path, path: str, mountpoint: str, fstype: str) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    found = probe.mounted_at(path, str(tmp_path / "mountinfo"))
    assert (found.mountpoint, found.fstype) == (mountpoint, fstype)


def test_a_failing_status_is_no_status() -> None:
    mounted = probe.Mounted("/mnt", probe.TMPFSD, "tmpfsd")
    assert probe.Probe(mounted, status_of=lambda mountpoint: {}).read() is None
    assert probe.Probe(probe.Mounted("/mnt", "tmpfs", "tmpfs")).read() is None


def test_status_by_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "tmpfsctl"
    command.write_text('#!/bin/sh\nprintf \'{"argv": "%s"}\' "$*"\n')
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert probe.status_by_command("/mnt") == {"argv": "status /mnt --json"}
