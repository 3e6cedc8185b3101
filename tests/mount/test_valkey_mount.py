"""A real mount whose swap is a server: filled, checked, the server killed, the daemon killed."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from mountlib import Mounted, ctl, eventually, mount_tmpfsd, needs_root

from tests.servers import Certificates, Server, need_server

pytestmark = [needs_root, pytest.mark.timeout(120)]
SIZE = 20_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    need_server()
    made = Server(tmp_path)
    yield made
    made.kill()


@contextmanager
def mount(server: Server, ends: int = 0) -> Iterator[Mounted]:
    """A mount of 2 MiB that pages to the server; nothing is checked at its end, as pages may be lost."""
    mounted = mount_tmpfsd(f"ram=2m,size=64m,swap={server.place}")
    try:
        yield mounted
    finally:
        with pytest.raises(AssertionError, match=f"ended with {ends}") if ends else nullcontext():
            mounted.close()


def content(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


def fill(mnt: Path, count: int) -> None:
    for number in range(count):
        (mnt / str(number)).write_bytes(content(number))


def good(mnt: Path, count: int) -> int:
    """How many files have their content; for all others the error is EIO."""
    found = 0
    for number in range(count):
        try:
            with open(mnt / str(number), "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert file.read() == content(number)
            found += 1
        except OSError:
            pass
    return found


def test_filled_checked_and_unmounted(server: Server) -> None:
    with mount(server) as mounted:
        fill(mounted.mnt, 500)
        assert mounted.status()["stores"][0]["used_bytes"] > 4 << 20 and server.keys()
        assert good(mounted.mnt, 500) == 500
        assert "consistent" in ctl("check", str(mounted.mnt)).stdout    # by a copy, with a connection of its own
        assert good(mounted.mnt, 500) == 500
    assert server.keys() == []


def test_a_server_that_is_killed_and_comes_back(server: Server) -> None:
    with mount(server) as mounted:
        fill(mounted.mnt, 300)
        server.kill()
        assert good(mounted.mnt, 300) < 300
        assert mounted.status()["stores"][0]["state"] == "unreachable" and "Connection refused" in mounted.log_text()
        server.start()
        assert eventually(lambda: mounted.status()["stores"][0]["state"] != "unreachable")
        assert good(mounted.mnt, 300) < 300 and mounted.alive()
        assert "the server has lost pages" in mounted.log_text()
    assert server.keys() == []


def test_a_check_after_a_server_came_back_empty(server: Server) -> None:
    """Lost pages are counted and reported; they break no invariant, and the mount can be written to as before."""
    with mount(server) as mounted:
        fill(mounted.mnt, 300)
        server.kill()
        server.start()
        done = ctl("check", str(mounted.mnt), check=False)
        assert "pages cannot be read back" in done.stdout + done.stderr, done
        status = mounted.status()
        assert status["paging"]["lost_pages"] > 100 and not status["broken"] and mounted.alive()
        assert "cannot be read back" in ctl("status", str(mounted.mnt)).stdout
        (mounted.mnt / "299").write_bytes(b"written")        # the node of a file that was just made is in memory
        assert (mounted.mnt / "299").read_bytes() == b"written"


def test_a_check_while_the_server_is_away_ends_soon(server: Server) -> None:
    with mount(server) as mounted:
        fill(mounted.mnt, 300)
        server.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            done = ctl("check", str(mounted.mnt), check=False)
            assert "pages cannot be read back" in done.stdout + done.stderr and time.monotonic() - began < 20, done
        finally:
            server.signal(signal.SIGCONT)
        assert not mounted.status()["broken"]
        assert eventually(lambda: good(mounted.mnt, 300) == 300)
        assert mounted.status()["paging"]["lost_pages"] == 0 or "consistent" in ctl("check", str(mounted.mnt)).stdout


def test_swapon_of_a_server_with_tls(tmp_path: Path) -> None:
    """A live mount is given a server, pages to it, and lets it go."""
    need_server()
    known, secret = Certificates(tmp_path / "known"), tmp_path / "password"
    secret.write_text("correct")
    secret.chmod(0o600)
    server = Server(tmp_path, "--requirepass", "correct", tls=known)
    mounted = mount_tmpfsd("ram=2m,size=64m,swap=/var/tmp,swap_size=64m,swap_crypt=off")
    mnt, files = str(mounted.mnt), ("--password-file", str(secret), "--ca-file", str(known.authority))
    try:
        for words, why in (((), "CERTIFICATE_VERIFY_FAILED"), (files[2:], "Authentication"),
                           (("--ca-file", "/nowhere"), "No such file"),
                           (("--ca-file", "/etc/hostname"), "certificates")):
            done = ctl("swapon", mnt, server.place, *words, check=False)
            assert done.returncode == 1 and why.lower() in done.stderr.lower() and done.stderr.count("\n") == 1, done
        done = ctl("swapon", mnt, "/var/tmp", "--ca-file", "/x", check=False)
        assert done.returncode == 1 and "is only for a server" in done.stderr
        ctl("swapon", mnt, server.place, "--size", "32m", "-p", "7", *files)
        store, = [each for each in mounted.status()["stores"] if each["kind"] == "valkey"]
        assert store["encrypted"] and store["priority"] == 7 and store["size_bytes"] <= 32 << 20
        fill(mounted.mnt, 500)
        assert good(mounted.mnt, 500) == 500 and server.keys(password="correct")
        ctl("check", mnt)
        ctl("swapoff", mnt, server.place)
        assert [each["kind"] for each in mounted.status()["stores"]] == ["unlinked"]
        assert server.keys(password="correct") == [] and good(mounted.mnt, 500) == 500
    finally:
        mounted.close()
        server.kill()


def test_what_a_killed_daemon_leaves_has_a_lifetime(server: Server) -> None:
    with mount(server, ends=-9) as mounted:
        fill(mounted.mnt, 300)
        mounted.daemon.kill()
        mounted.daemon.wait(10)
        keys = server.keys()
        assert keys and all(0 < server.ask("TTL", key) <= 3600 for key in keys)
