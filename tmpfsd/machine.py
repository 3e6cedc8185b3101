"""machine.py: how much memory there is for this process: the machine's, or less if a memory cgroup limits it.

A container sees the whole machine's memory in sysconf(3) and /proc/meminfo, and is killed at the limit of its cgroup.
Both kinds of hierarchy are asked.  Each group has a limit, from this process's own up to the highest that can be seen
here, and the smallest limit counts.

    version 1   memory.stat itself gives the smallest limit on the way up, including groups that cannot be seen from
                inside a container (hierarchical_memory_limit); memory.limit_in_bytes of each, in case it does not
    version 2   memory.max of each group, and memory.high: beyond that a group is slowed down to a standstill

Picture     /proc/self/cgroup "4:memory:/docker/x" and mountinfo "/docker/x /sys/fs/cgroup/memory cgroup ...memory"
            give /sys/fs/cgroup/memory; a path outside the mounted root ("/../..", of another namespace) gives the
            mounted root itself, which is the nearest that can be seen
Limits      A limit that is set later is not seen; `tmpfsctl set` changes ram.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from tmpfsd.mounts.mountinfo import parse_all

OWN_MEMORY = 32 << 20           # of the daemon beside ram: the interpreter, buffers, tables
CGROUPS, MOUNTS = "/proc/self/cgroup", "/proc/self/mountinfo"
MOST_BYTES = 1 << 16            # of a control file: they are short


def physical_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_memory() -> int:
    """Bytes of memory that this process has."""
    return int(read("/proc/self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory_limit() -> int:
    """Return how many bytes of memory this process may have at most."""
    return min([physical_memory(), *limits()])


def limits(cgroups: str = CGROUPS, mounts: str = MOUNTS) -> Iterator[int]:
    """Return the limits of the cgroups that this process is in, in bytes."""
    ours = dict(memberships(read(cgroups)))
    for root, point, version in hierarchies(read(mounts)):
        if version in ours:
            for directory in way_up(ours[version], root, point):
                yield from limits_of(directory)


def read(path: str | bytes) -> bytes:
    """Return a file's content; nothing if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError:
        return b""


def memberships(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Read /proc/self/cgroup: the version of a hierarchy that may limit memory, and our path in it."""
    for line in text.split(b"\n"):
        fields = line.split(b":", 2)
        if len(fields) == 3 and fields[1] == b"" and fields[0] == b"0":
            yield 2, fields[2]
        elif len(fields) == 3 and b"memory" in fields[1].split(b","):
            yield 1, fields[2]


def hierarchies(text: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Read mountinfo: the root within the hierarchy, the mount point and the version of each that may limit memory."""
    for mount in parse_all(text):
        version = {"cgroup": 1, "cgroup2": 2}.get(mount.fstype, 0)
        if version == 2 or version == 1 and "memory" in mount.super_options.split(","):
            yield os.fsencode(mount.root), os.fsencode(mount.path), version


def way_up(ours: bytes, root: bytes, point: bytes) -> Iterator[bytes]:
    """Return the directories of our group and of those above it, as far as they are mounted at point."""
    root = root.rstrip(b"/")
    below = ours[len(root):] if ours == root or ours.startswith(root + b"/") else b""
    parts = [part for part in below.split(b"/") if part]
    if b".." in parts:
        parts = []
    for count in range(len(parts), -1, -1):
        yield b"/".join([point.rstrip(b"/"), *parts[:count]])


def limits_of(directory: bytes) -> Iterator[int]:
    """Return what one group says; a group without a limit says "max", or nothing."""
    for name in (b"memory.max", b"memory.high", b"memory.limit_in_bytes"):
        text = read(directory + b"/" + name)[:MOST_BYTES].strip()
        if re.fullmatch(rb"[0-9]{1,20}", text):
            yield int(text)
    found = re.search(rb"^hierarchical_memory_limit ([0-9]{1,20})$", read(directory + b"/memory.stat"), re.MULTILINE)
    if found:
        yield int(found[1])


def groups(cgroups: str = CGROUPS, mounts: str = MOUNTS) -> Iterator[tuple[int, bytes]]:
    """Return the directories of the groups that this process is in, with the version of their hierarchy."""
    ours = dict(memberships(read(cgroups)))
    for root, point, version in hierarchies(read(mounts)):
        if version in ours:
            yield from ((version, directory) for directory in way_up(ours[version], root, point))


def pressure_files(cgroups: str = CGROUPS, mounts: str = MOUNTS) -> list[bytes]:
    """Return the files that say how long tasks stalled for lack of memory: the machine's, and our own group's."""
    own = [directory for version, directory in groups(cgroups, mounts) if version == 2]
    return [b"/proc/pressure/memory", *(directory + b"/memory.pressure" for directory in own[:1])]


def available_memory(cgroups: str = CGROUPS, mounts: str = MOUNTS, meminfo: str = "/proc/meminfo") -> tuple[int, int]:
    """Return how many bytes can be had without harm to others, and of how many: the machine's, or a group's if less."""
    fields = dict(re.findall(rb"^(MemTotal|MemAvailable): *([0-9]{1,18}) kB$", read(meminfo), re.MULTILINE))
    found = [(int(fields.get(b"MemAvailable", 0)) << 10, int(fields.get(b"MemTotal", 0)) << 10)]
    for version, directory in groups(cgroups, mounts):
        most = min([1 << 62, *limits_of(directory)])
        text = read(directory + (b"/memory.current" if version == 2 else b"/memory.usage_in_bytes")).strip()
        cache = re.search(rb"^(?:total_)?inactive_file ([0-9]{1,20})$", read(directory + b"/memory.stat"), re.MULTILINE)
        if most < found[0][1] and text.isdigit():
            found.append((max(most - int(text) + (int(cache[1]) if cache else 0), 0), most))
    return min(found, key=lambda each: each[0] / max(each[1], 1))
