"""`make install` into an empty directory, `make uninstall`, and `make deb`.

Libraries are not fetched: those that the tests run with are linked to where they would be.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Iterator

import pytest

from tests import sandbox
from tests.sandbox import REPOSITORY
from tmpfsd.cli import completion, install

LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "mnt", ".*cache", ".hypothesis",
                                  "__pycache__", "_compiled", "tests", "*.png")
HELPER, UNIT = "sbin/mount.fuse.tmpfsd", "etc/systemd/system/tmpfsd@.service"
PREFIX = "/opt/some-prefix"
FILES = {"sbin/tmpfsd", "sbin/tmpfsctl", "share/man/man8/tmpfsd.8", "share/man/man8/tmpfsctl.8",
         "share/bash-completion/completions/tmpfsd", "share/bash-completion/completions/tmpfsctl",
         "share/zsh/site-functions/_tmpfsd", "share/fish/vendor_completions.d/tmpfsd.fish",
         "share/fish/vendor_completions.d/tmpfsctl.fish"}
ENV = {**os.environ, "TMPFSD_PURE": "1", "PIP_NO_DEPS": "1"}


def run(*command: object, cwd: Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=ENV, capture_output=True, text=True,
                          timeout=120, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def files_below(root: Path) -> set[str]:
    """All that is no directory, but the package itself."""
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
    return {name for name in found if "/lib/tmpfsd/" not in name}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, because pip writes into the tree that it builds."""
    pytest.importorskip("setuptools", minversion="64")
    pytest.importorskip("wheel")
    copy = tmp_path_factory.mktemp("tree") / "copy"
    shutil.copytree(REPOSITORY, copy, ignore=LEFT_OUT)
    (copy / ".venv").symlink_to(sys.prefix)
    return copy


@pytest.fixture(scope="module")
def stage(tree: Path) -> Iterator[Path]:
    """The files that `make install` makes below DESTDIR; it runs twice, as after a change."""
    stage = tree.parent / "a stage"
    for _ in range(2):
        run("tools/install.sh", "install", PREFIX, stage, cwd=tree)
    yield stage
    shutil.rmtree(stage, ignore_errors=True)


def test_the_makefile_calls_it(tree: Path) -> None:
    words = ("PREFIX=/p", "DESTDIR=/d", "DEB=/x")
    ends = {"install": 'install "/p" "/d"', "uninstall": 'uninstall "/p" "/d"', "deb": 'deb.sh "/x"'}
    for target, line in ends.items():
        assert run("make", "--no-print-directory", "-n", target, *words, cwd=tree).stdout.rstrip().endswith(line)


def test_everything_has_its_place(stage: Path) -> None:
    assert files_below(stage) == {HELPER, UNIT} | {f"{PREFIX[1:]}/{name}" for name in FILES}
    assert os.readlink(stage / HELPER) == f"{PREFIX}/sbin/tmpfsd"
    assert f"ExecStart={PREFIX}/sbin/tmpfsd tmpfsd %f -f" in (stage / UNIT).read_text()
    prefix = stage / PREFIX[1:]
    for name in FILES:
        assert (prefix / name).stat().st_size > 300 or name.startswith("sbin")
        assert (prefix / name).stat().st_mode & 0o777 == (0o755 if name.startswith("sbin") else 0o644)
    for shell, name in (("bash", "bash-completion/completions/tmpfsctl"), ("zsh", "zsh/site-functions/_tmpfsd"),
                        ("fish", "fish/vendor_completions.d/tmpfsctl.fish")):
        assert (prefix / "share" / name).read_text() == completion.script(shell) + "\n"
    assert not [path.name for path in (prefix / "lib").iterdir() if path.name != "tmpfsd"]


def test_commands_run_from_there(stage: Path, tmp_path: Path) -> None:
    """They ignore the caller's PYTHONPATH and directory, because root runs them."""
    prefix = stage / PREFIX[1:]
    for path in Path(sysconfig.get_paths()["platlib"]).iterdir():
        link = prefix / "lib/tmpfsd" / path.name
        if not link.exists() and not path.name.startswith(("tmpfsd", "__editable__")):
            link.symlink_to(path)
    (tmp_path / "tmpfsd.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "os.py").write_text("raise SystemExit('the wrong one')")
    for command in ("tmpfsd", "tmpfsctl"):
        assert run(prefix / "sbin" / command, "--version", cwd=tmp_path).stdout.startswith(f"{command} ")
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return
    with sandbox.directory() as here:
        mnt = here / "mnt"
        mnt.mkdir(exist_ok=True)
        (here / "mount.fuse.tmpfsd").symlink_to(prefix / "sbin" / "tmpfsd")
        run(here / "mount.fuse.tmpfsd", "none", mnt, "-o", "ram=1m,swap=none", cwd=tmp_path)
        try:
            assert run(prefix / "sbin" / "tmpfsctl", "status", mnt, cwd=tmp_path).stdout
        finally:
            run(prefix / "sbin" / "tmpfsctl", "umount", mnt, cwd=tmp_path)


def test_uninstall_leaves_what_is_of_others(tree: Path, tmp_path: Path) -> None:
    run("tools/install.sh", "install", "/usr/local", tmp_path, cwd=tree)
    other = tmp_path / "usr/local/share/man/man8/other.8"
    other.touch()
    for _ in range(2):
        run("tools/install.sh", "uninstall", "/usr/local", tmp_path, cwd=tree)
        assert files_below(tmp_path) == {str(other.relative_to(tmp_path))}
        assert not (tmp_path / "usr/local/lib/tmpfsd").exists()


def test_a_failed_install_leaves_what_was_there(tree: Path, tmp_path: Path) -> None:
    """A package that cannot be built leaves nothing, and the version installed before stays whole."""
    broken = tmp_path / "broken"
    (broken / "tools").mkdir(parents=True)
    shutil.copytree(tree / "tools/man", broken / "tools/man")
    shutil.copy(tree / "tools/install.sh", broken / "tools")
    (broken / ".venv").symlink_to(sys.prefix)
    old = tmp_path / "stage/usr/lib/tmpfsd/old"
    old.parent.mkdir(parents=True)
    old.touch()
    assert run("tools/install.sh", "install", "/usr", tmp_path / "stage", cwd=broken, check=False).returncode
    assert [path.name for path in (tmp_path / "stage/usr/lib").iterdir()] == ["tmpfsd"] and old.exists()


@pytest.mark.parametrize("prefix, why", [("usr", "must be an absolute path"), ("", "must be an absolute path"),
                                         ("/opt/a b", "with blanks")])
def test_a_prefix_that_cannot_be(tree: Path, tmp_path: Path, prefix: str, why: str) -> None:
    done = run("tools/install.sh", "install", prefix, tmp_path / "stage", cwd=tree, check=False)
    assert done.returncode == 1 and f"PREFIX={prefix}: " in done.stderr and why in done.stderr
    assert not (tmp_path / "stage").exists()


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb")
def test_the_package_of_debian(tree: Path, tmp_path: Path) -> None:
    run("tools/deb.sh", tmp_path, cwd=tree)
    package, = tmp_path.glob("tmpfsd_*.deb")
    assert run("dpkg-deb", "-f", package, "Package", cwd=tmp_path).stdout.strip().endswith("tmpfsd")
    run("dpkg-deb", "-x", package, tmp_path / "root", cwd=tmp_path)
    root = tmp_path / "root"
    assert {path.name for path in root.iterdir()} == {"usr"}
    assert os.readlink(root / "usr/sbin/mount.fuse.tmpfsd") == "/usr/sbin/tmpfsd"
    assert "ExecStart=/usr/sbin/tmpfsd " in (root / "usr/lib/systemd/system/tmpfsd@.service").read_text()
    assert {path.name for path in (root / "usr/share/man/man8").iterdir()} == {"tmpfsd.8.gz", "tmpfsctl.8.gz"}
    assert (root / "usr/lib/tmpfsd/tmpfsd/cli/mount.py").exists() and not list(root.rglob("__pycache__"))
    listed = run("dpkg-deb", "-c", package, cwd=tmp_path).stdout.splitlines()
    assert listed and all(line.split()[1] == "root/root" for line in listed)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_command_that_others_can_write(tmp_path: Path) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    command = place / "tmpfsd"
    command.touch()
    assert install.writable_by_others(str(command)) == ""
    for path, mode, owner in ((command, 0o757, 0), (command, 0o755, 1), (place, 0o757, 0), (place, 0o700, 1)):
        before = path.stat()
        path.chmod(mode)
        os.chown(path, owner, 0)
        assert install.writable_by_others(str(command)) == str(path)
        (tmp_path / "link").symlink_to(command)
        assert install.writable_by_others(str(tmp_path / "link")) == str(path)
        (tmp_path / "link").unlink()
        path.chmod(before.st_mode & 0o7777)
        os.chown(path, 0, 0)
    place.chmod(0o1777)     # as /tmp: what is of root's in it can be taken away by root alone
    assert install.writable_by_others(str(command)) == ""
