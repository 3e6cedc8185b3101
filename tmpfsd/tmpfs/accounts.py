"""tmpfs/accounts.py: use and limits of each user and each group, as the quotas of the kernel's tmpfs.

A node is charged to its owner and to its group: its blocks as stat(2) reports them, and one inode while it has a name,
as nr_inodes counts, too.  The blocks of an open file without a name stay charged until its last close.  A file that
nobody can reach any more is charged to nobody, though its pages are freed later (doomed.py).

Picture     demand(), room() --OverQuota: EDQUOT--> the operation acquires --> add(), in the same breath: cannot fail
            mount.quota is None if there are no quotas, so that such a mount pays only one comparison

Invariants
    Q1  The blocks of an account are those of its nodes that are not on the list of the doomed.  Its inodes are its
        nodes that have a name.
    Q2  There is an account exactly if something is charged to it, or if it was given limits of its own.

Breathing   Nothing here breathes.

Limits      There is a dict by user and one by group, on Python's heap: they grow with users, not with files.  Even if
            root gives each file another owner, there are at most MOST_ACCOUNTS of each kind: the next owner is refused,
            EDQUOT.
            No limit holds for a caller with CAP_SYS_RESOURCE, as in the kernel.  A write from the kernel's page cache
            has no caller, so the limits hold for it (writeback.py).
            Names and extended attributes are not charged, as in the kernel; there are no soft limits.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from tmpfsd.options import Config
from tmpfsd.tmpfs.caller import CAP_SYS_RESOURCE
from tmpfsd.tmpfs.layout import BLOCK, BLOCKS_PER_PAGE, tn_blocks, tn_links, tn_owner
from tmpfsd.uvm.errors import NoMemory, demand

log = logging.getLogger(__name__)

MOST_ACCOUNTS: Final = 8192
NO_LIMIT: Final = 1 << 62           # blocks or inodes
USER, GROUP = 0, 1                  # which of an owner's two numbers

Owner = tuple[int, int]             # user and group
Charges = list[dict[int, list[int]]]        # what fsck.py counts: [blocks, inodes] by number, of users and groups


class OverQuota(NoMemory):
    """An account has no room left; nothing has changed."""

    errno: ClassVar[int] = errno.EDQUOT


class Account:
    """The blocks and inodes of a user or a group, and their limits."""

    __slots__ = ("blocks", "inodes", "most_blocks", "most_inodes", "own")

    def __init__(self, most_blocks: int, most_inodes: int) -> None:
        self.blocks = self.inodes = 0
        self.most_blocks, self.most_inodes = most_blocks, most_inodes
        self.own = False                # whether its limits were set for this account alone


class Accounts:
    """The accounts of all users, or of all groups."""

    __slots__ = ("which", "name", "most_blocks", "most_inodes", "table", "told")

    def __init__(self, which: int, name: str, most_bytes: int, most_inodes: int) -> None:
        self.which, self.name = which, name
        self.most_blocks = most_bytes // BLOCK if most_bytes else NO_LIMIT
        self.most_inodes = most_inodes or NO_LIMIT
        self.table: dict[int, Account] = {}
        self.told = False               # whether the log has a line about too many

    def fresh(self, number: int) -> Account:
        """A new account; the limits of the mount do not hold for root."""
        return Account(self.most_blocks, self.most_inodes) if number else Account(NO_LIMIT, NO_LIMIT)

    def find(self, number: int) -> Account:
        """The account of a number, for reading.  => OverQuota: there is none, and no more are possible."""
        account = self.table.get(number)
        if account is not None:
            return account
        if len(self.table) >= MOST_ACCOUNTS:
            if not self.told:
                self.told = True
                log.warning("quota: %d %ss have files here, no more can be counted: others get EDQUOT", MOST_ACCOUNTS,
                            self.name)
            raise OverQuota(f"more than {MOST_ACCOUNTS} {self.name}s")
        return self.fresh(number)

    def add(self, number: int, blocks: int, inodes: int) -> None:
        """Charge, or give back if negative.  => Cannot fail."""
        account = self.table.get(number)
        if account is None:
            account = self.table[number] = self.fresh(number)
        account.blocks += blocks
        account.inodes += inodes
        assert account.blocks >= 0 and account.inodes >= 0, f"{self.name} {number}: {account.blocks}, {account.inodes}"
        if not account.blocks and not account.inodes and not account.own:
            del self.table[number]

    def limit(self, number: int, most_bytes: int | None, most_inodes: int | None) -> None:
        """Set limits of one account, 0 for none.  => OverQuota: no more accounts are possible."""
        account = self.table.setdefault(number, self.find(number))
        account.own = True
        if most_bytes is not None:
            account.most_blocks = most_bytes // BLOCK if most_bytes else NO_LIMIT
        if most_inodes is not None:
            account.most_inodes = most_inodes or NO_LIMIT

    def rows(self) -> list[list[int]]:
        """[number, bytes, limit, inodes, limit] of each account, in order; a limit of 0 is none.  O(MOST_ACCOUNTS)."""
        return [[number, account.blocks * BLOCK,
                 account.most_blocks * BLOCK if account.most_blocks < NO_LIMIT else 0,
                 account.inodes, account.most_inodes if account.most_inodes < NO_LIMIT else 0]
                for number, account in sorted(self.table.items())]


class Quota:
    """The quotas of one mount; `caller` makes the present request; None if nobody does."""

    __slots__ = ("kinds", "caller", "ntrees")

    def __init__(self, config: Config) -> None:
        self.kinds: list[Accounts] = []
        if config.user_quota:
            self.kinds.append(Accounts(USER, "user", config.usrquota_bytes, config.usrquota_inodes))
        if config.group_quota:
            self.kinds.append(Accounts(GROUP, "group", config.grpquota_bytes, config.grpquota_inodes))
        self.caller: Any = None
        self.ntrees = 0                 # doomed directories: their contents are still charged

    def exempt(self) -> bool:
        """Tell whether no limit holds for the caller."""
        return self.caller is not None and bool(self.caller.capable(CAP_SYS_RESOURCE))

    # --- by the numbers of an owner ---

    def demand(self, owner: Owner, blocks: int, inodes: int) -> None:
        """See that an owner may have so many more blocks and inodes.  => OverQuota."""
        for accounts in self.kinds:
            self._demand(accounts, owner[accounts.which], blocks, inodes)

    def _demand(self, accounts: Accounts, number: int, blocks: int, inodes: int) -> None:
        account = accounts.find(number)
        over = (blocks > 0 and account.blocks + blocks > account.most_blocks
                or inodes > 0 and account.inodes + inodes > account.most_inodes)
        if over and not self.exempt():
            raise OverQuota(f"the quota of {accounts.name} {number}")

    def add(self, owner: Owner, blocks: int, inodes: int) -> None:
        """Charge an owner, or give back if negative.  => Cannot fail."""
        for accounts in self.kinds:
            accounts.add(owner[accounts.which], blocks, inodes)

    # --- by a node ---

    def demand_at(self, mem: Any, at: int, blocks: int) -> None:
        """See that a node may have so many more blocks.  => OverQuota."""
        if blocks > 0:
            self.demand(tn_owner(mem, at), blocks, 0)

    def add_at(self, mem: Any, at: int, blocks: int, inodes: int = 0) -> None:
        """Charge the owner of a node, or give back if negative.  => Cannot fail."""
        if blocks or inodes:
            self.add(tn_owner(mem, at), blocks, inodes)

    def room_at(self, mem: Any, at: int, npages: int, exempt: bool | None = None) -> int:
        """How many of npages a node may have; `exempt` is used instead of the caller, if given.  => OverQuota."""
        owner, room = tn_owner(mem, at), npages
        for accounts in self.kinds:
            account = accounts.find(owner[accounts.which])
            room = min(room, (account.most_blocks - account.blocks) // BLOCKS_PER_PAGE)
        if room == npages or (self.exempt() if exempt is None else exempt):
            return npages
        if room <= 0:
            raise OverQuota(f"the quota of {owner[0]}:{owner[1]}")
        return room

    def forget_at(self, mem: Any, at: int) -> None:
        """Charge a node to nobody any more: it goes or is doomed, and has no name already.  => Cannot fail."""
        self.add_at(mem, at, -tn_blocks(mem, at))

    # --- a new owner ---

    def demand_move(self, mem: Any, at: int, owner: Owner) -> None:
        """See that a node may get a new owner.  => OverQuota."""
        before, blocks, inodes = tn_owner(mem, at), tn_blocks(mem, at), int(tn_links(mem, at) > 0)
        for accounts in self.kinds:
            if before[accounts.which] != owner[accounts.which]:
                self._demand(accounts, owner[accounts.which], blocks, inodes)

    def move(self, mem: Any, at: int, owner: Owner) -> None:
        """Charge a node to a new owner, before its record has it.  => Cannot fail, after demand_move()."""
        before, blocks, inodes = tn_owner(mem, at), tn_blocks(mem, at), int(tn_links(mem, at) > 0)
        if before != owner:
            self.add(owner, blocks, inodes)
            self.add(before, -blocks, -inodes)

    # --- the whole ---

    def check(self, counted: Charges) -> None:
        """Demand that the accounts agree with what was counted (Q1, Q2).  O(accounts)."""
        for accounts in self.kinds:
            found = counted[accounts.which]
            for number, account in accounts.table.items():
                blocks, inodes = found.pop(number, [0, 0])
                demand((blocks, inodes) == (account.blocks, account.inodes), "Q1",
                       f"{accounts.name} {number} has {blocks} blocks, {inodes} inodes, "
                       f"is charged {account.blocks}, {account.inodes}")
                demand(blocks or inodes or account.own, "Q2", f"{accounts.name} {number} has nothing, and an account")
            for number, (blocks, inodes) in found.items():
                demand(not blocks and not inodes, "Q2", f"{accounts.name} {number} has {blocks} blocks, no account")

    def __iter__(self) -> Iterator[Accounts]:
        """The Accounts in use: of users, of groups, or of both."""
        return iter(self.kinds)
