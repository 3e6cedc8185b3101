"""quotas.py: the command `quota`: usage and limits of users and groups; sets the limits of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tmpfsd.optionwords import parse_limit
from tmpfsd.owners import MAX_ID
from tmpfsd.server.control import Command
from tmpfsd.server.refused import ControlError
from tmpfsd.tmpfs.accounts import Accounts, OverQuota
from tmpfsd.tmpfs.filesystem import Mount

LIMITS = ("block_hardlimit", "inode_hardlimit")


class Quotas:
    """The command of one mount."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount

    def table(self) -> dict[str, Command]:
        """Return the commands, by name."""
        return {"quota": self.quota}

    def quota(self, request: Mapping[str, Any]) -> dict[str, list[list[int]] | None]:
        """Return the accounts of users and groups, after setting the limits of one; None if they are not counted.

        => An account is [id, bytes, limit, inodes, limit]; a limit of 0 is none.
        """
        if self.mount.quota is None:
            raise ControlError("no quotas: mount with usrquota, grpquota or quota")
        kinds = {accounts.name: accounts for accounts in self.mount.quota}
        if request.get("limits"):
            self.set(kinds, request)
        return {name + "s": kinds[name].rows() if name in kinds else None for name in ("user", "group")}

    def set(self, kinds: dict[str, Accounts], request: Mapping[str, Any]) -> None:
        """Set limits of one account: all that are given, or none."""
        kind, number, words = request.get("kind"), request.get("id"), request["limits"]
        if kind not in ("user", "group") or not isinstance(number, int) or not 0 <= number <= MAX_ID:
            raise ControlError("limits are of one user, or one group")
        if kind not in kinds:
            raise ControlError(f"{kind}s are not counted: mount with {'usrquota' if kind == 'user' else 'grpquota'}")
        if self.mount.gate.broken:
            raise ControlError("quota: changes are refused: an invariant does not hold (the log has it)")
        limits = dict(map(read, words)) if isinstance(words, list) else {}
        if not limits:
            raise ControlError(f"limits: must be a list of {' and '.join(LIMITS)}")
        try:
            kinds[kind].limit(number, limits.get(LIMITS[0]), limits.get(LIMITS[1]))
        except OverQuota as error:
            raise ControlError(str(error)) from None


def read(word: Any) -> tuple[str, int]:
    """Read one limit, 0 for none.  => ControlError."""
    name, _, text = str(word).partition("=")
    if name not in LIMITS:
        raise ControlError(f"{word}: not a limit; there are {' and '.join(LIMITS)}")
    try:
        return name, 0 if text == "0" else parse_limit(text, 0)
    except ValueError as error:
        raise ControlError(f"{word}: {error}, or 0 for no limit") from None
