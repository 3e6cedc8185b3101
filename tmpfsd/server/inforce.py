"""inforce.py: which options of mount(8) are in force for the mount that is served.

The kernel itself obeys most of them.  The server must obey those about atime, because FUSE leaves the times to it.
Commands that change files without the kernel must respect `ro`.  Options change by `mount -o remount`, through the
helper (which then tells us) or past it (remount,bind).  So mountinfo is read again when poll(2) says that some mount
changed.

Picture     attach: set() --> serving: look() at a command, or once a second while there is traffic, if anything changed
Limits      A change past the helper takes effect up to a second later; in an idle mount, at its next traffic.
            If one mount is at several places, the one at the mount point counts.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import select
from collections.abc import Mapping
from typing import Any

from tmpfsd import mountflags
from tmpfsd.server.loop import Loop
from tmpfsd.tmpfs.filesystem import Mount

log = logging.getLogger(__name__)

SECONDS = 1.0


class InForce:
    """The options of one mount; `table` is mountinfo, open and unbuffered."""

    def __init__(self, mount: Mount, table: io.FileIO, device: str, mountpoint: str) -> None:
        self.mount = mount
        self.table = table
        self.device = os.fsencode(device)
        self.mountpoint = mountpoint
        self.poller = select.poll()
        self.poller.register(table, select.POLLPRI)

    def set(self, words: tuple[str, ...]) -> None:
        """Set the options that libfuse does not know; for root, once it is mounted.  => OSError."""
        flags = mountflags.bits(words)
        if flags & mountflags.LATE:
            mountflags.remount(self.device, self.mountpoint, flags)

    def look(self) -> list[str]:
        """Read what is in force and have the file system obey it; do nothing if the mount is no longer there."""
        self.poller.poll(0)                 # this clears the event
        self.table.seek(0)
        words = mountflags.in_force(self.device, os.fsencode(self.mountpoint), self.table.readall())
        if words:
            readonly = "ro" in words
            # norelatime has no word in mountinfo: without noatime and relatime the kernel has strictatime in force.
            strict = not {"noatime", "relatime"} & set(words)
            self.mount.set_atime("noatime" in words or readonly, "nodiratime" in words, strict)
            if readonly != self.mount.config.readonly:
                self.mount.config = dataclasses.replace(self.mount.config, readonly=readonly)
        return words

    def ask(self, _request: Mapping[str, Any]) -> list[str]:
        """The command `flags`: look now."""
        return self.look()

    def changed(self) -> bool:
        """Tell whether some mount was changed since the last look; 1 us."""
        return bool(self.poller.poll(0))

    async def watch(self, traffic: Loop | None) -> None:
        """Look now and then while there is traffic, until cancelled."""
        import trio
        while True:
            try:
                if self.changed():
                    self.look()
            except Exception:
                log.exception("options in force")
            if traffic is not None and traffic.quiet:
                await traffic.wait_traffic()
            await trio.sleep(SECONDS)
