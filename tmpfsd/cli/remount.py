"""remount.py: mount -o remount,...: what mount(8) hands to its helper to change a mount.

ro, rw, noatime and their friends go to the kernel; size=, nr_inodes=, ram= and the other values of `tmpfsctl set` go to
the daemon.  Anything else is refused by name, unless it is in force already: mount(8) adds the options of fstab and
those in force.  `remount,bind` never comes here: mount(8) does that by itself.

Picture     words --sort_out--> ours --daemon: all, or refused--> done
                                  `-> the kernel's --mount(2): refused--> the daemon's change is undone
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from tmpfsd import mountflags, options
from tmpfsd.cli import client
from tmpfsd.cli.client import ClientError

NOT_HERE = ("bind", "rbind", "move")


def is_remount(words: Sequence[str]) -> bool:
    """Tell whether a mount is to be changed, not made."""
    return "remount" in words


def sort_out(words: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the kernel's words and ours; ours without those that have no effect or are in force already."""
    kernels: list[str] = []
    ours: list[str] = []
    for word in words:
        name = word.partition("=")[0]
        if word in mountflags.BY_NAME:
            kernels.append(word)
        elif word in NOT_HERE:
            raise ClientError(f"{word}: does not go with remount here")
        elif word != "remount" and word not in known and name not in options.IGNORED \
                and not word.startswith(options.IGNORED_VALUED):
            ours.append(word)
    return kernels, ours


def remount(path: str, words: Sequence[str], keep: bool) -> None:
    """Change a mount, all of it or nothing.

    => keep: kernel flags that are not named stay as they are (otherwise mount(8) has named them already).
    """
    mounted = client.find(path)
    device = f"{mounted.major}:{mounted.minor}".encode()
    with open("/proc/self/mountinfo", "rb", buffering=0) as file:
        now = mountflags.in_force(device, os.fsencode(mounted.path), file.readall())
    kernels, ours = sort_out(words, now)
    answer: dict[str, Any] = client.ask(path, "remount", words=ours) if ours else {}
    try:
        if kernels:
            mountflags.remount(device, mounted.path, mountflags.bits(kernels, mountflags.bits(now) if keep else 0))
    except OSError as error:
        if answer:
            # A swap_size that followed size stays: if it were given, it would follow no more.
            followed = not any(word.startswith("swap_size=") for word in ours)
            client.ask(path, "set", values=[f"{name}={each['was']}" for name, each in answer.items()
                                            if not (followed and name == "swap_size")])
        raise ClientError(f"{path}: {','.join(kernels)}: {error.strerror or error}") from None
    with contextlib.suppress(ClientError):      # the daemon notices by itself, a little later
        client.ask(path, "flags")
