"""preflight.py: errors that can be seen before anything is mounted.

Each check raises CliError with one line for the user.  A mount can still fail after all of them passed (then the
daemon reports it); these give the simple cases a simple message.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import stat
import tempfile

from tmpfsd.mounts import alive, mountinfo
from tmpfsd.mounts.unmount import unmount
from tmpfsd.options import Config
from tmpfsd.sizes import UNLIMITED
from tmpfsd.stores.valkey import open_remote
from tmpfsd.swapplaces import MEMORY_FILESYSTEMS, remote
from tmpfsd.uvm.store import demand_private

DEVICE = "/dev/fuse"
ANSWER_SECONDS = 3.0
# What a regular file on them takes is not kept.
PSEUDO_FILESYSTEMS = frozenset(("proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "configfs", "securityfs",
                                "bpf", "pstore", "efivarfs", "binfmt_misc", "mqueue", "selinuxfs", "smackfs", "nsfs"))


class CliError(Exception):
    """Something is wrong; the text is one line for the user."""


def why(error: OSError) -> str:
    """Return the reason of an OSError, without the number and the path."""
    return error.strerror or str(error)


def check_fuse() -> None:
    """FUSE must be there, and for users other than root the helper that mounts."""
    if not os.path.exists(DEVICE):
        raise CliError(f"{DEVICE} is missing: load the kernel module (modprobe fuse), "
                       "or give the container the device")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise CliError("fusermount3 is missing: install the package fuse3, or mount as root")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise CliError(f"{DEVICE}: not permitted: this user may not use FUSE")


def clear_dead(path: str) -> str | None:
    """Unmount a tmpfsd mount at path whose server is gone; return what to tell the user about it.

    => CliError if it is another user's, or cannot be unmounted.
    """
    from tmpfsd.server import control  # which brings trio: a wrong option need not wait for it
    told = None
    resolved = mountinfo.resolve(path) if path else ""
    while (mounted := mountinfo.find(resolved)) and mounted.fstype == mountinfo.FSTYPE:
        if control.is_served(mounted.owner, mounted.major, mounted.minor):
            break
        if alive.state_of(mounted, ANSWER_SECONDS) != alive.DEAD:      # one that does not answer in time is not dead
            break
        if os.geteuid() not in (0, mounted.owner):
            raise CliError(f"{path}: a tmpfsd mount of another user, whose server is gone")
        error = unmount(mounted, lazy=True)
        if error:
            raise CliError(f"{path}: a tmpfsd mount whose server is gone, and it cannot be unmounted: {error}")
        control.forget(mounted.owner, mounted.major, mounted.minor)
        told = f"{path}: a tmpfsd mount whose server was gone is unmounted"
    return told


def check_mountpoint(path: str) -> str:
    """Return the mount point as an absolute path without symbolic links."""
    if not path:
        raise CliError("mount point: empty")        # it would be taken for the working directory
    resolved = mountinfo.resolve(path)
    mounted = mountinfo.find(resolved)
    if mounted and mounted.fstype == mountinfo.FSTYPE:
        raise CliError(f"{path}: already a tmpfsd mount (unmount it first)")
    try:
        status = os.stat(resolved)
    except OSError as error:
        raise CliError(f"mount point {path}: {why(error)}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise CliError(f"mount point {path}: not a directory")
    if os.geteuid() != 0 and not os.access(resolved, os.W_OK):
        raise CliError(f"mount point {path}: not permitted: this user may not write there")
    return resolved


def check_swap(config: Config, mountpoint: str) -> Config:
    """Check that swap can be used; return the Config with what was learned of its size."""
    for path in config.places:
        if remote(path):
            check_server(config, path)
        else:
            config = check_place(config, path, mountpoint)
    return config


def check_server(config: Config, path: str) -> None:
    """A server of swap must answer, let us in, and keep what it is given."""
    try:
        open_remote(path, config.swap_password_file, config.swap_ca_file).close()
    except OSError as error:
        raise CliError(f"swap={path}: {error.strerror or error}") from None


def check_place(config: Config, path: str, mountpoint: str) -> Config:
    """Check that a place of swap can be used."""
    if path == mountpoint or path.startswith(mountpoint.rstrip("/") + "/"):
        raise CliError(f"swap={path}: inside the mount point {mountpoint}")
    kind = mountinfo.type_above(path)
    if kind == mountinfo.FSTYPE:
        raise CliError(f"swap={path}: on a tmpfsd mount: the two could wait for each other for ever")
    try:
        mode = mode_of(path)
        if kind in PSEUDO_FILESYSTEMS and not stat.S_ISBLK(mode):
            raise CliError(f"swap={path}: nothing is kept there ({kind})")
        if kind in MEMORY_FILESYSTEMS and not stat.S_ISBLK(mode):
            config = warn(config, f"swap={path}: is itself in memory ({kind}): what is paged out there frees nothing")
        if not mode:                            # to be made
            return check_directory(os.path.dirname(path), config)
        if stat.S_ISDIR(mode):
            return check_directory(path, config)
        if stat.S_ISREG(mode):
            return check_file(path, config)
        if stat.S_ISBLK(mode):
            return check_device(path, config)
    except OSError as error:
        raise CliError(f"swap={path}: {why(error)}") from None
    raise CliError(f"swap={path}: must be a directory, a file or a block device")


def mode_of(path: str) -> int:
    """Return the mode of what is there; 0 if there is nothing, but its directory exists."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.isdir(os.path.dirname(path)):
            return 0
        raise


def warn(config: Config, warning: str) -> Config:
    """Return the Config with one more warning."""
    return dataclasses.replace(config, warnings=(*config.warnings, warning))


def check_directory(path: str, config: Config) -> Config:
    """It must be possible to make a swap file in this directory."""
    with tempfile.TemporaryFile(dir=path, buffering=0) as file:
        check_direct(file.fileno(), path, config)
        return check_room(file.fileno(), path, config)


def check_room(descriptor: int, path: str, config: Config) -> Config:
    """Warn if a given swap_size is more than the disk under the swap file can hold now."""
    disk = os.fstatvfs(descriptor)
    free = disk.f_bavail * disk.f_frsize + 512 * os.fstat(descriptor).st_blocks
    if "swap_size" not in config.given or config.swap_size_bytes <= free:
        return config
    return warn(config, f"swap_size={config.swap_size_bytes}: the disk of {path} has only {free} bytes free")


def check_capacity(config: Config) -> Config:
    """Warn if size can never be used up."""
    most = config.ram_bytes + config.swap_size_bytes * len(config.places)
    if config.swap is None or config.size_bytes <= most or config.size_bytes == UNLIMITED:
        return config
    return warn(config, f"size={config.size_bytes}: ram and swap together hold {most} bytes: what is more "
                        "gets ENOSPC")


def check_file(path: str, config: Config) -> Config:
    """This file must be writable, and nobody else's; its contents will be lost."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        demand_private(descriptor, path)
        check_direct(descriptor, path, config)
        return check_room(descriptor, path, config)
    finally:
        os.close(descriptor)


def check_device(path: str, config: Config) -> Config:
    """This block device must be writable, not in use, large enough, and no file of a tmpfsd mount (losetup(8))."""
    backing = backing_file(os.stat(path).st_rdev)
    if backing and mountinfo.type_above(backing) == mountinfo.FSTYPE:
        raise CliError(f"swap={path}: a file on a tmpfsd mount, {backing}: the two could wait for each other for ever")
    descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)    # O_EXCL: busy if it is mounted
    try:
        check_direct(descriptor, path, config)
        size = os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
    if config.swap_size_bytes <= size or config.swap_more:
        return config
    if "swap_size" in config.given:
        raise CliError(f"swap_size={config.swap_size_bytes}: the device {path} has only {size} bytes")
    return dataclasses.replace(config, swap_size_bytes=size)


def backing_file(device: int) -> str:
    """Return the file that a loop device, or a partition of one, shows; "" where there is none."""
    place = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for above in ("", "/.."):
        with contextlib.suppress(OSError), open(f"{place}{above}/loop/backing_file", "rb") as file:
            return os.fsdecode(file.read().removesuffix(b"\n"))
    return ""


def check_direct(descriptor: int, path: str, config: Config) -> None:
    """O_DIRECT must be possible if it is asked for."""
    if config.swap_io != "direct":
        return
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        raise CliError(f"swap_io=direct: the file system of {path} has no O_DIRECT") from None
