"""tmpfsctl discard, du, prefetch, trace and umount on real mounts, compared with rm and walks through the kernel."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from mountlib import (
    NOBODY, Mounted, as_user, ctl, eventually, fails_with, inodes_held, is_mounted, need_others_to_run, needs_root,
    touch
)

Make = Callable[..., Mounted]


def grow(top: Path, width: int = 40, depth: int = 2) -> int:
    """A tree; how many names it has."""
    top.mkdir()
    names = 0
    for i in range(width):
        touch(top / f"file-{i}", b"x" * (i * 50))
        names += 1
    touch(top / "big", b"b" * 50_000)
    os.link(top / "big", top / ("long-" * 30))
    os.symlink("target", top / "link")
    names += 3
    for i in range(2 if depth else 0):
        names += 1 + grow(top / f"dir-{i}", width, depth - 1)
    return names


def refusal(*arguments: str) -> str:
    """The message of a refused command: one line."""
    done = ctl(*arguments, check=False)
    assert done.returncode == 1 and not done.stdout and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


# --- discard ---

@pytest.mark.parametrize("options", ["ram=64m", "ram=1m", "ram=1m,backend=aobj"])
def test_discard_removes_as_rm_does(tmpfsd: Make, options: str) -> None:
    fs = tmpfsd(options, TMPFSD_CHECK="1")
    names = grow(fs.mnt / "tree")
    touch(fs.mnt / "stays", b"s")
    for root, _dirs, files in os.walk(fs.mnt):              # the kernel knows all of it
        for name in files:
            os.lstat(os.path.join(root, name))
    links = os.stat(fs.mnt).st_nlink
    done = ctl("discard", "--yes", str(fs.mnt / "tree"))
    assert f"{names + 1:,} names removed" in done.stdout and not done.stderr
    assert os.listdir(fs.mnt) == ["stays"] and os.stat(fs.mnt).st_nlink == links - 1
    assert not os.path.lexists(fs.mnt / "tree" / "dir-0")
    assert eventually(lambda: inodes_held(fs) == 2)
    fs.check()
    (fs.mnt / "tree").mkdir()
    assert os.listdir(fs.mnt / "tree") == []


def test_discard_of_a_file_and_a_link(tmpfsd: Make) -> None:
    fs = tmpfsd("ram=4m")
    touch(fs.mnt / "file", b"data")
    os.symlink("file", fs.mnt / "link")
    ctl("discard", "-y", "-q", str(fs.mnt / "link"))
    assert os.listdir(fs.mnt) == ["file"]
    ctl("discard", "-y", str(fs.mnt / "file"))
    assert os.listdir(fs.mnt) == [] and eventually(lambda: inodes_held(fs) == 1)


def test_what_is_open_lives_on(tmpfsd: Make) -> None:
    fs = tmpfsd("ram=4m")
    grow(fs.mnt / "tree")
    outside = fs.mnt / "outside"
    os.link(fs.mnt / "tree" / "file-7", outside)
    assert os.stat(outside).st_nlink == 2
    with open(fs.mnt / "tree" / "dir-0" / "file-9", "r+b") as file:
        directory = os.open(fs.mnt / "tree" / "dir-1", os.O_RDONLY | os.O_DIRECTORY)
        try:
            ctl("discard", "-y", str(fs.mnt / "tree"))
            assert file.read() == b"x" * 450 and os.fstat(file.fileno()).st_nlink == 0
            file.write(b"more")
            assert os.listdir(directory) == [] and os.fstat(directory).st_nlink == 0
            with fails_with(2):
                os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=directory)
            with fails_with(2):
                os.stat("file-1", dir_fd=directory)
        finally:
            os.close(directory)
        fs.check()
    assert os.stat(outside).st_nlink == 1 and outside.read_bytes() == b"x" * 350
    assert eventually(lambda: inodes_held(fs) == 2)


def test_discard_while_others_work(tmpfsd: Make) -> None:
    """The parent is busy all the time: no notice may wait for a request that waits for it."""
    fs = tmpfsd("ram=4m", TMPFSD_CHECK="1")
    stop, errors = threading.Event(), []

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                path = fs.mnt / f"work-{number}"
                path.mkdir()
                touch(path / "file", b"x")
                os.listdir(fs.mnt)
                (path / "file").unlink()
                path.rmdir()
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            grow(fs.mnt / "tree", depth=1)
            ctl("discard", "-y", str(fs.mnt / "tree"))
            assert not os.path.lexists(fs.mnt / "tree")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert eventually(lambda: inodes_held(fs) == 1)


def test_discard_below_which_others_work(tmpfsd: Make) -> None:
    """A process makes files in the tree while it goes: it gets ENOENT, and none of its files are left."""
    fs = tmpfsd("ram=4m")
    grow(fs.mnt / "tree")
    deep = os.open(fs.mnt / "tree" / "dir-0" / "dir-0", os.O_RDONLY | os.O_DIRECTORY)
    process = ctl_in_background("discard", "-y", str(fs.mnt / "tree"))
    try:
        with fails_with(2):
            for i in range(1_000_000):
                os.close(os.open(f"new-{i}", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    finally:
        os.close(deep)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert eventually(lambda: inodes_held(fs) == 1)


@pytest.mark.parametrize("pause", [0.15, 0.25, 0.35])
def test_the_daemon_ends_in_the_middle(tmpfsd: Make, pause: float) -> None:
    """Neither waits for the other: the daemon ends by itself and well at any point of the discard."""
    fs = tmpfsd("ram=4m")
    grow(fs.mnt / "tree", 150, 2)
    with open(fs.mnt / "open", "w", encoding="ascii"):
        process = ctl_in_background("discard", "-y", str(fs.mnt / "tree"))
        time.sleep(pause)
        fs.daemon.send_signal(signal.SIGTERM)
        assert fs.daemon.wait(timeout=20) == 0, fs.log_text()
        process.communicate(timeout=20)
        assert process.returncode in (0, 1)


def ctl_in_background(*arguments: str) -> "subprocess.Popen[bytes]":
    """Start tmpfsctl."""
    return subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.ctl", *arguments], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def test_refusals(tmpfsd: Make, tmp_path: Path) -> None:
    fs = tmpfsd("ram=4m")
    tree = fs.mnt / "tree"
    tree.mkdir()
    os.symlink("tree", fs.mnt / "link")
    assert "there is no terminal" in refusal("discard", str(tree))
    assert "the root of the mount" in refusal("discard", "-y", str(fs.mnt))
    assert "No such file" in refusal("discard", "-y", str(fs.mnt / "absent"))
    assert "symbolic link" in refusal("du", str(fs.mnt / "link" / "x"))
    assert "not on a tmpfsd mount" in refusal("discard", "-y", str(tmp_path))
    assert "not on a tmpfsd mount" in refusal("du", "/proc")
    assert "empty" in refusal("du", "")
    assert tree.is_dir()


@needs_root
def test_a_mount_inside_keeps_it(tmpfsd: Make) -> None:
    fs = tmpfsd("ram=4m")
    inner = fs.mnt / "tree" / "inner"
    inner.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(inner)], check=True, timeout=20)
    try:
        assert "busy" in refusal("discard", "-y", str(fs.mnt / "tree"))
        assert "not on a tmpfsd mount" in refusal("du", str(inner))
    finally:
        subprocess.run(["umount", str(inner)], check=True, timeout=20)
    ctl("discard", "-y", str(fs.mnt / "tree"))


@needs_root
def test_read_only_is_refused(tmpfsd: Make) -> None:
    fs = tmpfsd("ram=4m,ro")
    assert "Read-only" in refusal("discard", "-y", str(fs.mnt / "tree"))


def test_asks_on_a_terminal(tmpfsd: Make) -> None:
    fs = tmpfsd("ram=4m")
    (fs.mnt / "tree").mkdir()
    for answer, left in ((b"n\n", True), (b"y\n", False)):
        master, slave = pty.openpty()
        process = subprocess.Popen([sys.executable, "-m", "tmpfsd.cli.ctl", "discard", str(fs.mnt / "tree")],
                                   stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   cwd=Path(__file__).parents[2])
        os.close(slave)
        os.write(master, answer)
        _out, err = process.communicate(timeout=30)
        os.close(master)
        assert b"[y/N]" in err and process.returncode == int(left)
        assert (fs.mnt / "tree").is_dir() == left


@needs_root
def test_others_may_not(tmpfsd: Make) -> None:
    need_others_to_run()
    fs = tmpfsd("ram=4m")
    (fs.mnt / "tree").mkdir()
    with pytest.raises(AssertionError):
        as_user(lambda: ctl("discard", "-y", str(fs.mnt / "tree")), NOBODY)
    assert (fs.mnt / "tree").is_dir()


@needs_root
def test_through_a_bind_mount_and_links(tmpfsd: Make, tmp_path: Path) -> None:
    """The path is the one below the root of the file system, however it was come by."""
    fs = tmpfsd("ram=4m")
    grow(fs.mnt / "a", depth=0)
    grow(fs.mnt / "a" / "b", depth=0)
    bound = tmp_path / "bound"
    bound.mkdir()
    (tmp_path / "link").symlink_to(fs.mnt)
    whole = json.loads(ctl("du", "--json", str(fs.mnt / "a" / "b")).stdout)
    assert json.loads(ctl("du", "--json", f"{tmp_path}/link/a/../a/./b/").stdout) == whole
    subprocess.run(["mount", "--bind", str(fs.mnt / "a"), str(bound)], check=True, timeout=20)
    try:
        assert json.loads(ctl("du", "--json", str(bound / "b")).stdout) == whole
        ctl("discard", "-y", str(bound / "b"))
        assert not (fs.mnt / "a" / "b").exists()
    finally:
        subprocess.run(["umount", str(bound)], check=True, timeout=20)


# --- du, prefetch ---

def walked(top: Path) -> dict[str, int]:
    """The counts of a walk through the kernel: names, directories, files, bytes of data in pages."""
    seen: dict[int, Any] = {}
    names = 0
    for root, dirs, files in os.walk(top):
        names += len(dirs) + len(files)
        for path in (root, *(os.path.join(root, name) for name in files)):
            status = os.lstat(path)
            seen[status.st_ino] = status
    regular = [status for status in seen.values() if status.st_mode & 0o170000 == 0o100000]
    return {"names": names, "files": len(regular),
            "directories": sum(status.st_mode & 0o170000 == 0o040000 for status in seen.values()),
            "data": sum(status.st_blocks * 512 for status in regular if status.st_size > 2048)}


@pytest.mark.parametrize("options", ["ram=64m", "ram=1m"])
def test_du_counts_what_a_walk_counts(tmpfsd: Make, options: str) -> None:
    fs = tmpfsd(options)
    grow(fs.mnt / "tree")
    expected = walked(fs.mnt / "tree")
    total = json.loads(ctl("du", "--json", str(fs.mnt / "tree")).stdout)
    assert {key: total[key] for key in ("names", "files", "directories")} == {
        key: expected[key] for key in ("names", "files", "directories")}
    assert total["data"]["bytes"] == expected["data"] and total["others"] == 7
    for part in (total["metadata"], total["data"]):
        assert part["bytes"] == part["resident_bytes"] + part["swapped_bytes"]
    text = ctl("du", str(fs.mnt / "tree")).stdout
    assert "metadata" in text and max(map(len, text.splitlines())) <= 80


def test_du_and_prefetch_ask_the_kernel_nothing(tmpfsd: Make) -> None:
    fs = tmpfsd("ram=4m")
    grow(fs.mnt / "tree")
    before = {key: n for key, n in fs.status()["requests"].items() if key not in ("forget", "release")}
    ctl("du", str(fs.mnt / "tree"))
    ctl("prefetch", str(fs.mnt / "tree"))
    assert {key: n for key, n in fs.status()["requests"].items() if key not in ("forget", "release")} == before


def test_prefetch_saves_page_ins(tmpfsd: Make) -> None:
    fs = tmpfsd("ram=8m")
    grow(fs.mnt / "tree")
    touch(fs.mnt / "filler", b"f" * (16 << 20))
    told = json.loads(ctl("prefetch", "--json", str(fs.mnt / "tree")).stdout)
    assert told["pageins"] > 50 and not told["full"]
    before = fs.status()["paging"]["pageins"]
    for root, _dirs, files in os.walk(fs.mnt / "tree"):
        for name in files:
            if name != "link":
                (Path(root) / name).read_bytes()
    assert fs.status()["paging"]["pageins"] - before < told["pageins"] // 4
    assert "names" in ctl("prefetch", "--metadata", str(fs.mnt / "tree")).stdout


# --- trace, umount ---

def test_trace(tmpfsd: Make) -> None:
    fs = tmpfsd("ram=1m")
    process = ctl_in_background("trace", "--json", "--count", "300", str(fs.mnt))

    def told_enough() -> bool:
        for i in range(50):
            touch(fs.mnt / f"file-{i}", b"x" * 20_000)
        return process.poll() is not None

    assert eventually(told_enough, 30)
    out, _err = process.communicate(timeout=30)
    events = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 0 and sum("event" in event for event in events) == 300
    assert {event.get("event", "out") for event in events} <= {"in", "out", "drop"}
    assert "data" in {event.get("owner") for event in events}
    assert "not a mount point" in refusal("trace", str(fs.mnt / "file-1"))


def test_events(tmpfsd: Make) -> None:
    """A mount that fills up, and is emptied again: told while it happens, and afterwards with what came before."""
    fs = tmpfsd("ram=1m,size=2m")
    process = ctl_in_background("events", "--json", str(fs.mnt))
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "ok"
        with pytest.raises(OSError):
            touch(fs.mnt / "all", b"x" * (4 << 20))
        seen = [json.loads(process.stdout.readline())]
        while seen[-1].get("state") not in ("full", "under pressure"):
            seen.append(json.loads(process.stdout.readline()))
        (fs.mnt / "all").unlink()
        while seen[-1].get("state") != "ok":
            seen.append(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert any(each["event"] == "log" and "size is" in each["text"] for each in seen)
    past = ctl("events", "--past", "--count", str(seen[-1]["number"]), str(fs.mnt)).stdout
    assert "health   ok (was " in past and "size is" in past
    assert [each["number"] for each in seen] == list(range(seen[0]["number"], seen[0]["number"] + len(seen)))
    assert "not a mount point" in refusal("events", str(fs.mnt / "file"))
    assert "above zero" in refusal("events", "--count", "0", str(fs.mnt))


def test_every_command_has_json(tmpfsd: Make, tmp_path: Path) -> None:
    fs = tmpfsd("ram=4m")
    for name in ("one", "two", "three"):
        (fs.mnt / name).mkdir()
        touch(fs.mnt / name / "file", b"x")
    one, two, three = (str(fs.mnt / name) for name in ("one", "two", "three"))
    image, out = str(tmp_path / "image"), str(tmp_path / "out")

    def told(*words: str) -> Any:
        return json.loads(ctl(*words, "--json").stdout)

    assert told("check", str(fs.mnt))["mountpoint"] == str(fs.mnt)
    assert told("snapshot", str(fs.mnt), image)["inodes"] == 7
    assert told("image", "verify", image)["inodes"] == 7
    assert told("image", "extract", image, out) == {"directory": out, "files": 6}
    assert told("image", "build", out, image)["bytes"] == os.path.getsize(image)
    assert told("discard", "--yes", one) == {"path": one, "names": 2, "lost": 0}
    assert [each["names"] for each in told("discard", "--yes", two, three)] == [2, 2]
    assert told("install", "--root", str(tmp_path), "--program", "/opt/tmpfsd")["command"] == "/opt/tmpfsd"
    assert len(told("install", "--root", str(tmp_path), "--remove")["removed"]) == 2


def test_several_paths(tmpfsd: Make) -> None:
    """Each is done, even if one before it failed; a failure is reported, and makes the status 1."""
    fs = tmpfsd("ram=4m")
    for name in ("one", "two"):
        grow(fs.mnt / name, 3, 0)
    one, two, no = (str(fs.mnt / name) for name in ("one", "two", "no"))
    text = ctl("du", one, two).stdout
    assert text.startswith(f"{one}:\n") and f"\n\n{two}:\n" in text and text.count("together") == 2
    both = json.loads(ctl("du", "--json", one, two).stdout)
    assert [each["path"] for each in both] == [one, two] and both[0]["names"] == both[1]["names"]
    assert {"path": one, **json.loads(ctl("du", "--json", one).stdout)} == both[0]
    done = ctl("prefetch", "--json", no, two, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and ": no: " in done.stderr
    assert [each["path"] for each in json.loads(done.stdout)] == [two]
    done = ctl("discard", "-y", no, one, no, str(fs.mnt), two, check=False)
    assert done.returncode == 1 and done.stdout.count("names removed") == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3 and all(": no: " in line for line in lines[:2]) and "the root of the mount" in lines[2]
    assert os.listdir(fs.mnt) == []


def test_umount(tmpfsd: Make, tmp_path: Path) -> None:
    fs = tmpfsd("ram=4m")
    assert "not a mount point" in refusal("umount", str(tmp_path))
    assert "not of tmpfsd" in refusal("umount", "/proc")
    with open(fs.mnt / "file", "w", encoding="ascii"):
        assert "busy" in refusal("umount", str(fs.mnt)).lower()
    ctl("umount", str(fs.mnt))
    assert not is_mounted(fs.mnt)
