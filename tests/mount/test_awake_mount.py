"""awake=: the device is open where it is wanted, and only there; the bound is gone with the traffic."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mountlib import Mounted, needs_root

from tmpfsd.server.awake import DEVICE

pytestmark = [needs_root, pytest.mark.skipif(not os.path.exists(DEVICE), reason=f"no {DEVICE}")]


def is_open(pid: int) -> bool:
    """Whether a process has the device open."""
    links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
    return Path(DEVICE) in links


@pytest.mark.parametrize("choice", ["on", "off"])
def test_the_device_is_open_where_it_is_wanted(tmpfsd: Callable[..., Mounted], choice: str) -> None:
    mounted = tmpfsd(f"ram=1m,awake={choice}")
    for number in range(200):
        (mounted.mnt / str(number)).touch()
    assert is_open(mounted.pid) == (choice == "on")
    assert "awake" not in mounted.log_text()
