"""fuse/stranger.py: a caller (tmpfs/caller.py) without any rights."""

from __future__ import annotations

from tmpfsd.tmpfs.caller import Caller


class Stranger(Caller):
    """Somebody without rights."""

    def in_group(self, gid: int) -> bool:
        """No."""
        return False

    def capable(self, capability: int) -> bool:
        """No."""
        return False


STRANGER = Stranger(0xFFFFFFFE, 0xFFFFFFFE)
