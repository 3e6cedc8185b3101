"""experiments/creator.py: creates empty files and lists them: the process in the cgroup.

    python -S creator.py ROOT FILES PER_DIR [PROCS]      joins the cgroup of PROCS before the first file

It imports only os and sys, so that nearly everything that the group is charged for is the file system.  Each line of
its output is a word and a number of files: "created" as it goes, "listed" at the end, or an errno.
"""

import os
import sys


def create(root: str, files: int, per_dir: int) -> None:
    """Create all files; print a line for each thousand."""
    directory = ""
    for number in range(files):
        if number % per_dir == 0:
            directory = os.path.join(root, "dir%09d" % (number // per_dir))
            os.mkdir(directory)
        os.close(os.open("%s/file%09d" % (directory, number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        if number % 1000 == 999:
            print("created", number + 1, flush=True)
    print("created", files, flush=True)


def listed(root: str) -> int:
    """List all files; return how many."""
    return sum(sum(1 for _ in os.scandir(directory.path)) for directory in os.scandir(root))


def main(root: str, files: str, per_dir: str, procs: str = "") -> int:
    """Create, then list."""
    if procs:
        with open(procs, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
    try:
        create(root, int(files), int(per_dir))
        print("listed", listed(root), flush=True)
    except OSError as error:
        print("errno", error.errno, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
