"""tests/mount/test_programs.py: real programs in the mount, with far less `ram` than they use."""

import filecmp
import os
import random
import shutil
import sqlite3
import subprocess
import sysconfig
import tarfile
from pathlib import Path

import pytest
from mountlib import needs_root, touch

pytestmark = pytest.mark.timeout(240)
ENVIRONMENT = {"LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null",
               "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
               "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org"}
LEFT_OUT = ("site-packages", "dist-packages", "__pycache__", "test", "config")


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where the program is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program} here")


def run(*command: object, cwd: "Path | None" = None, seconds: int = 120) -> str:
    """Run a program that must succeed; its output."""
    result = subprocess.run([str(word) for word in command], cwd=cwd, env={**os.environ, **ENVIRONMENT},
                            timeout=seconds, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            errors="replace")
    assert result.returncode == 0, f"{command}: exit {result.returncode}\n{result.stdout[-4000:]}"
    return result.stdout


@pytest.fixture
def mnt(make_fs) -> Path:
    """A mount with 2 MB of memory, where there is such a thing."""
    return make_fs(size="1g", mode="755", tmpfsd="ram=2m").mnt


@pytest.fixture
def library(tmp_path) -> Path:
    """A tar file of Python's standard library (which is everywhere that these tests run)."""
    source = Path(sysconfig.get_path("stdlib"))
    with tarfile.open(tmp_path / "library.tar", "w") as tar:
        for name in sorted(os.listdir(source)):
            if name not in LEFT_OUT:
                tar.add(source / name, name, filter=lambda m: None if "__pycache__" in m.name else m)
    return tmp_path / "library.tar"


@needs("git")
class TestGit:
    """git."""

    COMMITS = ("set -e; git init -q .; git config gc.auto 0; i=0; while [ $i -lt 500 ]; do "
               "mkdir -p d$((i % 20)); echo line $i >>d$((i % 20))/f$((i % 37)); echo $i >last; "
               "if [ $((i % 10)) = 0 ]; then git add -A; fi; git commit -qam commit$i; i=$((i+1)); done; "
               "git add -A; git commit -qm all")

    def test_500_commits(self, mnt):
        os.mkdir(mnt / "repository")
        run("sh", "-c", self.COMMITS, cwd=mnt / "repository", seconds=200)
        assert run("git", "rev-list", "--count", "HEAD", cwd=mnt / "repository").strip() == "501"
        run("git", "gc", "-q", "--prune=now", cwd=mnt / "repository")
        run("git", "fsck", "--full", "--strict", cwd=mnt / "repository")
        run("git", "clone", "-q", "--no-local", "repository", "clone", cwd=mnt)
        assert run("git", "status", "--porcelain", cwd=mnt / "clone") == ""
        run("diff", "-r", "-x", ".git", "repository", "clone", cwd=mnt)


class TestSqlite:
    """SQLite in WAL mode: locks, shared memory and many small writes."""

    def test_100000_rows(self, mnt):
        database = sqlite3.connect(mnt / "database")
        assert database.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, value BLOB)")
        database.execute("CREATE INDEX i ON t (name)")
        rng = random.Random(1)
        for start in range(0, 100_000, 2_000):
            with database:
                database.executemany("INSERT INTO t VALUES (?, ?, ?)", [
                    (number, f"name{number * 7919 % 100_000}", rng.randbytes(40))
                    for number in range(start, start + 2_000)])
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*), sum(id) FROM t").fetchone() == (100_000, 4_999_950_000)
        with database:
            database.execute("DELETE FROM t WHERE id % 3 = 0")
        database.execute("VACUUM")
        database.close()
        self.check_again(mnt / "database")

    @staticmethod
    def check_again(path: Path) -> None:
        """A new connection sees all of it."""
        database = sqlite3.connect(path)
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM t").fetchone() == (66_666,)
        database.close()


class TestTar:
    """tar and diff."""

    @needs("tar")
    @needs("diff")
    def test_standard_library(self, mnt, library, tmp_path):
        for place in (mnt, tmp_path):
            os.mkdir(place / "library")
            run("tar", "-xf", library, "-C", place / "library")
        run("diff", "-r", "--no-dereference", tmp_path / "library", mnt / "library")
        run("tar", "-cf", mnt / "again.tar", "--sort=name", "-C", mnt / "library", ".")
        run("tar", "-df", mnt / "again.tar", "-C", tmp_path / "library")


@needs("gcc")
class TestCompiler:
    """A program of several files is compiled, linked and run there."""

    def test_compile_and_run(self, mnt):
        for n in range(6):
            (mnt / f"part{n}.c").write_text(f'#include "all.h"\nint part{n}(void) {{ return {n}; }}\n')
        declarations = "".join(f"int part{n}(void);\n" for n in range(6))
        (mnt / "all.h").write_text("#include <stdio.h>\n" + declarations)
        total = " + ".join(f"part{n}()" for n in range(6))
        (mnt / "main.c").write_text('#include "all.h"\n'
                                    f'int main(void) {{ printf("%d\\n", {total}); return 0; }}\n')
        for source in sorted(mnt.glob("*.c")):
            run("gcc", "-pipe", "-g", "-O1", "-c", source.name, cwd=mnt)
        run("sh", "-c", "ar rcs libparts.a part*.o && gcc -o program main.o -L. -lparts", cwd=mnt)
        assert run(mnt / "program", cwd=mnt) == "15\n"


@needs("rsync")
@needs("setfacl")
@needs_root
class TestRsync:
    """rsync with everything it can compare."""

    @staticmethod
    def source(place: Path) -> Path:
        """A tree with every kind of file, links, attributes, modes, owners and odd times."""
        rng = random.Random(4)
        for number in range(300):
            directory = place / f"d{number % 12}" / f"e{number % 5}"
            directory.mkdir(parents=True, exist_ok=True)
            file = directory / f"file{number}"
            touch(file, rng.randbytes(rng.choice((0, 10, 3000, 50_000))), mode=0o600 | number % 64)
            os.utime(file, ns=(10**18 + number, 10**18 + number * 1001))
            os.chown(file, number, number + 1)
        os.link(place / "d0" / "e0" / "file0", place / "link")
        os.symlink("d0/e0/file0", place / "symlink")
        os.mkfifo(place / "fifo")
        os.mknod(place / "null", 0o020666, os.makedev(1, 3))
        os.setxattr(place / "link", "user.attribute", b"value" * 500)
        os.setxattr(place / "d1", "user.attribute", b"on a directory")
        os.chmod(place / "d2", 0o2750)
        run("setfacl", "-m", "u:65534:rwx,g:100:r,d:u:65534:rx", place / "d3")
        run("setfacl", "-m", "u:65534:rw", place / "link")
        return place

    def test_there_and_back(self, make_fs, tmp_path):
        mnt = make_fs(size="1g", tmpfsd="ram=4m,acl").mnt
        (tmp_path / "source").mkdir()
        source, there, back = self.source(tmp_path / "source"), mnt / "there", tmp_path / "back"
        options = ["-aHAX", "--checksum", "--itemize-changes"]
        run("rsync", *options, f"{source}/", f"{there}/")
        run("rsync", *options, f"{there}/", f"{back}/")
        for one, other in ((source, there), (there, back), (source, back)):
            assert run("rsync", *options, "--delete", "--dry-run", f"{one}/", f"{other}/") == ""
        assert filecmp.dircmp(source, back).diff_files == []


@needs("fio")
class TestFio:
    """fio checks what it has written, through write() and through mmap()."""

    FIO = ("fio", "--name=job", "--directory=.", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
           "--randseed=7", "--fallocate=none")

    @pytest.mark.parametrize("engine", ["psync", "mmap"])
    def test_random_writes(self, mnt, engine):
        run(*self.FIO, f"--ioengine={engine}", "--rw=randwrite", "--bs=4k", "--size=24m", cwd=mnt)

    def test_mixed_sizes(self, mnt):
        run(*self.FIO, "--ioengine=psync", "--rw=randrw", "--bsrange=512-128k", "--bs_unaligned=1",
            "--size=16m", cwd=mnt)


@needs("stress-ng")
class TestStressNg:
    """stress-ng's file stressors, each bounded in time.  Not fpunch: its own processes disturb each other."""

    GROUPS = {
        "names": "access chdir dentry dir filename getdent link mknod open rename symlink",
        "attributes": "chmod chown fcntl file-ioctl flock fstat lockf touch utime xattr",
        "data": "hdd mmap seek sendfile lockofd revio iomix readahead",
    }
    BOUNDS = ("--hdd-bytes", "4m", "--mmap-file", "--mmap-bytes", "4m", "--seek-size", "4m", "--revio-bytes",
              "4m", "--iomix-bytes", "4m", "--readahead-bytes", "4m", "--sendfile-size", "4m")

    @pytest.mark.parametrize("group", GROUPS)
    def test_group(self, mnt, group):
        os.chmod(mnt, 0o777)
        known = set(run("stress-ng", "--stressors", cwd=mnt).split())
        names = [name for name in self.GROUPS[group].split() if name in known]
        stressors = [word for name in names for word in (f"--{name}", "1")]
        run("stress-ng", *stressors, *(self.BOUNDS if group == "data" else ()), "--timeout", "2s", "--verify",
            "--temp-path", mnt, "--oomable", cwd=mnt)
        for name in os.listdir(mnt):
            # Its open stressor forgets the file when open() makes it and then fails, on every file system.
            assert name.startswith("stress-open-")
            os.unlink(mnt / name)
        assert os.listdir(mnt) == []
