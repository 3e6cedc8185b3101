"""tests/mount/test_top_live.py: tmpfsctl top on a live mount, for scripts and on a terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from typing import Callable

from mountlib import Mounted, ctl, touch


def busy(mounted: Mounted, ended: threading.Event) -> None:
    """Create and remove files until told to stop."""
    number = 0
    while not ended.is_set():
        touch(mounted.mnt / str(number % 50), b"x" * 5000)
        (mounted.mnt / str((number + 25) % 50)).unlink(missing_ok=True)
        number += 1


def test_once_as_json_has_rates_and_latencies(tmpfsd: Callable[..., Mounted]) -> None:
    mounted, ended = tmpfsd("ram=1m,size=64m"), threading.Event()
    thread = threading.Thread(target=busy, args=(mounted, ended))
    thread.start()
    try:
        found = json.loads(ctl("top", str(mounted.mnt), "--once", "--json", "--delay", "0.5").stdout)
    finally:
        ended.set()
        thread.join()
    for name in ("lookup", "mknod" if mounted.edge == "native" else "create", "write", "unlink", "forget"):
        each = found["requests"][name]
        assert each["per_second"] > 0 and each["latency_us"] > 0, name
    assert found["mountpoint"] == str(mounted.mnt)


def test_lines_and_all_mounts(tmpfsd: Callable[..., Mounted]) -> None:
    one, two = tmpfsd("ram=1m,size=64m"), tmpfsd("ram=1m,size=64m")
    touch(one.mnt / "file", b"x" * 100_000)
    heading, *lines = ctl("top", str(one.mnt), "0.2", "3").stdout.splitlines()
    assert heading.split()[:2] == ["time", "req/s"] and len(lines) == 3 and all(each.endswith("ok") for each in lines)
    found = {each["mountpoint"]: each for each in json.loads(ctl("top", "--once", "--json", "--delay", "0.2").stdout)}
    for mounted in (one, two):
        each = found[str(mounted.mnt)]
        assert each["health"] == "ok" and each["daemon"]["rss_bytes"] > 1 << 20
    assert one.status()["io"]["written_bytes"] == 100_000


def run_on_terminal(mounted: Mounted, keys: bytes, columns: int) -> tuple[int, str]:
    """Run top on a terminal of its own, press keys: its exit status, and all that it wrote."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "24", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.ctl", "top", str(mounted.mnt), "--delay", "0.2"],
                               stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    text, deadline, pressed = b"", time.monotonic() + 30, False
    try:
        while time.monotonic() < deadline:
            if not select.select([leader], [], [], 0.1)[0]:
                continue
            try:
                text += os.read(leader, 65536)
            except OSError:                 # the other end is closed
                break
            if b"REQUEST" in text and not pressed:
                os.write(leader, keys)
                pressed = True
        return process.wait(10), text.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_on_a_terminal(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=1m,size=64m")
    status, text = run_on_terminal(mounted, b"lhx q", 80)
    assert status == 0 and "Traceback" not in text
    assert "LATENCY" in text and "\x1b[?1049h" in text and "\x1b[?1049l" in text     # its own screen, and back


def test_it_ends_with_the_mount(tmpfsd: Callable[..., Mounted]) -> None:
    mounted = tmpfsd("ram=1m,size=64m")
    assert ctl("top", str(mounted.mnt) + "/missing", "--once", check=False).returncode == 1
    result = ctl("top", str(mounted.mnt), check=False)
    assert result.returncode == 1 and "needs a terminal" in result.stderr
