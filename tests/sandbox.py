"""tests/sandbox.py: scripts that install, mount and unmount, in a mount namespace of their own.

/etc and /sbin are overlays there, so that nothing that a script installs stays behind.  Mounts that it left below its
directory are unmounted.  A new namespace has a copy of each mount, which would keep the daemons of other tests from
ending: it lets go of those first.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
UNSHARE = ["unshare", "-m", "--propagation", "private", "bash", "-c"]
PRELUDE = """
set -e
umount -a -l -t fuse.tmpfsd
mount -t tmpfs none "$HERE/over" && mkdir "$HERE"/over/{a,b,c,d}
mount -t overlay none -o "lowerdir=/etc,upperdir=$HERE/over/a,workdir=$HERE/over/b" /etc
mount -t overlay none -o "lowerdir=$SBIN,upperdir=$HERE/over/c,workdir=$HERE/over/d" "$SBIN"
left() { awk -v here="$HERE/" 'index($5, here) == 1 && $5 != here "over" { print $5 }' /proc/self/mountinfo; }
trap 'left | xargs -r umount -l' EXIT
"""


def write_command(path: Path, module: str, repository: Path) -> None:
    """A command as a wheel would install it."""
    path.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(repository)!r})\n"
                    f"from {module} import main\nsys.exit(main())\n")
    path.chmod(0o755)


def write_commands(place: Path, repository: Path = REPOSITORY) -> None:
    """The commands of a repository, and its Python."""
    place.mkdir(parents=True)
    write_command(place / "tmpfsd", "tmpfsd.cli.mount", repository)
    write_command(place / "tmpfsctl", "tmpfsd.cli.ctl", repository)
    for name in ("python", "python3"):
        (place / name).write_text(f'#!/bin/sh\nPYTHONPATH="{repository}" exec {sys.executable} "$@"\n')
        (place / name).chmod(0o755)


@contextmanager
def directory() -> Iterator[Path]:
    """A directory that every user can reach, with the commands in bin, and mount points."""
    place = Path(tempfile.mkdtemp(prefix="tmpfsd-test-"))
    place.chmod(0o755)
    for name in ("over", "mnt", "mnt2"):
        (place / name).mkdir()
    write_commands(place / "bin")
    try:
        yield place
    finally:
        shutil.rmtree(place)


def run(here: Path, script: str, cwd: str = "/", seconds: float = 50) -> "subprocess.CompletedProcess[str]":
    """Run a script; skips where there are no such namespaces."""
    env = {**os.environ, "HERE": str(here), "SBIN": os.path.realpath("/sbin"), "LC_ALL": "C.UTF-8",
           "PATH": f"{here / 'bin'}:{os.environ['PATH']}"}

    def call(text: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*UNSHARE, PRELUDE + text], env=env, capture_output=True, text=True, timeout=seconds,
                              cwd=cwd, check=False, stdin=subprocess.DEVNULL)

    probe = call("")
    if probe.returncode:
        pytest.skip(f"no mount namespace with overlays here: {probe.stderr.strip()[:200]}")
    return call(script)
