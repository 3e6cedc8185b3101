"""bench/client.py: a client process, which does an operation on a mount and times it.

    python -S client.py        reads a request (a line of JSON) and writes an answer, until its input ends

An operation is a loop over names relative to a directory that was opened before the clock starts, so that a file system
that caches nothing is not asked for the directory again and again.  The loops do little beside the system calls.

Limits      A call that is stuck in FUSE ignores the alarm: then the benchmark kills the server.
"""

import gc
import json
import os
import signal
import subprocess
import sys
import time

CREATE_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
clock = time.perf_counter_ns


class TooSlow(Exception):
    """The time limit is over."""


def names(n):
    """Thirteen characters each."""
    return ["file%09d" % number for number in range(n)]


def create(at, n):
    """Empty files."""
    open_, close, files = os.open, os.close, names(n)
    start = clock()
    for name in files:
        close(open_(name, CREATE_FLAGS, 0o644, dir_fd=at))
    return start, clock()


def stat(at, n):
    """Their attributes."""
    lstat, files = os.lstat, names(n)
    start = clock()
    for name in files:
        lstat(name, dir_fd=at)
    return start, clock()


def open_close(at, n):
    """Open for reading, and close."""
    open_, close, files = os.open, os.close, names(n)
    start = clock()
    for name in files:
        close(open_(name, os.O_RDONLY, dir_fd=at))
    return start, clock()


def rename(at, n):
    """Half of them to another name, and back."""
    rename_, files = os.rename, names(n // 2)
    pairs = [(name, "new" + name) for name in files]
    start = clock()
    for old, new in pairs:
        rename_(old, new, src_dir_fd=at, dst_dir_fd=at)
    for old, new in pairs:
        rename_(new, old, src_dir_fd=at, dst_dir_fd=at)
    return start, clock()


def unlink(at, n):
    """Remove the files."""
    unlink_, files = os.unlink, names(n)
    start = clock()
    for name in files:
        unlink_(name, dir_fd=at)
    return start, clock()


def mkdir(at, n):
    """Directories; they are removed after the clock has stopped."""
    mkdir_, dirs = os.mkdir, ["dir" + name for name in names(n)]
    start = clock()
    for name in dirs:
        mkdir_(name, 0o755, dir_fd=at)
    end = clock()
    for name in dirs:
        os.rmdir(name, dir_fd=at)
    return start, end


def symlink(at, n):
    """Symbolic links; they are removed after the clock has stopped."""
    symlink_, links = os.symlink, ["link" + name for name in names(n)]
    start = clock()
    for name in links:
        symlink_("target", name, dir_fd=at)
    end = clock()
    for name in links:
        os.unlink(name, dir_fd=at)
    return start, end


OPERATIONS = {"create": create, "stat cold": stat, "open-close": open_close, "rename": rename, "unlink": unlink,
              "mkdir": mkdir, "symlink": symlink}


def operate(request):
    """One operation n times in a directory."""
    at = os.open(request["directory"], os.O_PATH | os.O_DIRECTORY)
    try:
        start, end = OPERATIONS[request["operation"]](at, request["n"])
    finally:
        os.close(at)
    return {"start": start, "end": end, "n": request["n"]}


def make(request):
    """Make a directory, unless it exists; optionally with files, whose numbers may begin anywhere."""
    os.makedirs(request["make"], exist_ok=True)
    first, n = request.get("first", 0), request.get("n", 0)
    at = os.open(request["make"], os.O_PATH | os.O_DIRECTORY)
    try:
        start = clock()
        for number in range(first, first + n):
            os.close(os.open("file%09d" % number, CREATE_FLAGS, 0o644, dir_fd=at))
        end = clock()
    finally:
        os.close(at)
    return {"start": start, "end": end, "n": n}


def run(request):
    """A program; its output goes to memory, because some programs do less when they write to /dev/null."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    try:
        start = clock()
        status = subprocess.run(request["run"], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                timeout=request["limit"], check=False).returncode
        end = clock()
        if status:
            said = os.pread(err, 4096, 0).decode(errors="replace").strip().splitlines()
            return {"error": said[-1].rpartition(": ")[2] if said else "exit status %d" % status}
        output = os.pread(out, os.fstat(out).st_size, 0).decode(errors="surrogateescape")
    finally:
        os.close(out)
        os.close(err)
    answer = {"start": start, "end": end, "n": 1, "lines": output.count("\n")}
    return {**answer, "output": output} if request.get("output") else answer


def answer_to(request):
    """Do it within its limit of time."""
    limit = request["limit"]
    signal.setitimer(signal.ITIMER_REAL, 0 if "run" in request else limit)
    try:
        if "run" in request:
            return run(request)
        return make(request) if "make" in request else operate(request)
    except OSError as error:
        return {"error": os.strerror(error.errno) if error.errno else str(error)}
    except (TooSlow, subprocess.TimeoutExpired):
        return {"error": "more than %g s" % limit}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def too_slow(*_args):
    """The handler of SIGALRM."""
    raise TooSlow


def main():
    """Answer requests."""
    gc.disable()
    signal.signal(signal.SIGALRM, too_slow)
    for line in sys.stdin:
        print(json.dumps(answer_to(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
