"""tmpfs/acl.py: POSIX ACLs where they meet the mode (acl(5); after fs/posix_acl.c).

The kernel keeps and evaluates ACLs; what is left to the file system is that mode and ACL agree: setting an
ACL sets the mode, chmod sets the ACL's entries, a new node inherits its directory's default ACL.
 And the umask is applied
here, as it counts only where nothing is inherited; one that the kernel has applied already is applied twice, which is
once.
"""

from __future__ import annotations

import errno
import os
import stat
from struct import Struct
from typing import TYPE_CHECKING, Any

from tmpfsd.tmpfs import layout, xattr
from tmpfsd.tmpfs.caller import CAP_FSETID
from tmpfsd.tmpfs.errors import FsError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.mount import Mount

ACCESS, DEFAULT = xattr.ACL_NAMES
VERSION = 2
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
STRIPS_MAX = 1000
_HEAD, _ENTRY = Struct("<I"), Struct("<HHI")        # <linux/posix_acl_xattr.h>
Acl = list[tuple[int, int, int]]                    # (tag, permissions, id)


def parse(value: bytes) -> Acl:
    """The entries of an ACL as the kernel encodes it.  => FsError EINVAL, EOPNOTSUPP (version)."""
    if len(value) < _HEAD.size or (len(value) - _HEAD.size) % _ENTRY.size:
        raise FsError(errno.EINVAL)
    if _HEAD.unpack_from(value)[0] != VERSION:
        raise FsError(errno.EOPNOTSUPP)
    entries = list(_ENTRY.iter_unpack(value[_HEAD.size:]))
    tags = [tag for tag, _perm, _id in entries]
    named = USER in tags or GROUP in tags
    if entries and (any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)) or named > (MASK in tags)):
        raise FsError(errno.EINVAL)
    return entries


def encode(entries: Acl) -> bytes:
    """The kernel's encoding."""
    return _HEAD.pack(VERSION) + b"".join([_ENTRY.pack(*entry) for entry in entries])


def mode_of(entries: Acl, mode: int) -> int:
    """The mode that goes with an ACL."""
    perm = {tag: bits for tag, bits, _id in entries}
    return mode & ~0o777 | perm[USER_OBJ] << 6 | perm.get(MASK, perm[GROUP_OBJ]) << 3 | perm[OTHER]


def is_mode_only(entries: Acl) -> bool:
    """Whether the mode says all that the ACL says."""
    return len(entries) == 3


def apply_mode(entries: Acl, mode: int) -> Acl:
    """The ACL after chmod(mode)."""
    group = MASK if any(tag == MASK for tag, _perm, _id in entries) else GROUP_OBJ
    bits = {USER_OBJ: mode >> 6 & 7, group: mode >> 3 & 7, OTHER: mode & 7}
    return [(tag, bits.get(tag, perm), who) for tag, perm, who in entries]


def set_acl(mp: Mount, ino: int, name: bytes, value: bytes, cred: Any) -> None:
    """Set an ACL, or remove it (no entries: it need not be there), and the mode with an access ACL.

    => FsError EACCES (a file's default ACL), EINVAL.  => Breathes.
    """
    entries = parse(value)
    mode, _uid, gid = layout.tn_access(mp.arena, mp.mem.node(ino))
    if name == DEFAULT and entries and not stat.S_ISDIR(mode):
        raise FsError(errno.EACCES)
    _store(mp, ino, name, [] if name == ACCESS and is_mode_only(entries) else entries)
    at = mp.mem.node_w(ino)             # in, unless nothing was changed
    layout.set_tn_ctime(mp.arena, at, mp.now())
    if name == ACCESS:
        if entries:
            mode = mode_of(entries, mode)
        if mode & stat.S_ISGID and not _may_keep_setgid(cred, gid):
            mode &= ~stat.S_ISGID
        layout.set_tn_mode(mp.arena, at, mode)


def _may_keep_setgid(cred: Any, gid: int) -> bool:
    """Whether a caller has CAP_FSETID or is in the file's group (posix_acl_update_mode(); CVE-2016-7097)."""
    return cred is None or cred.in_group(gid) or cred.capable(CAP_FSETID)


def _store(mp: Mount, ino: int, name: bytes, entries: Acl) -> None:
    """Set or remove an ACL; the node is in afterwards.  => Breathes before it changes anything."""
    if entries:
        xattr.set_value(mp, ino, name, encode(entries))
    elif xattr.find(mp, ino, name) is not None:
        xattr.remove(mp, ino, name)


def _load(mp: Mount, ino: int, name: bytes) -> Acl:
    found = xattr.find(mp, ino, name)
    mp.breathe()
    return parse(xattr.value_of(mp, found)) if found is not None else []


def chmod(mp: Mount, ino: int, mode: int) -> None:
    """The access ACL, where there is one, follows the mode.  => Breathes."""
    entries = _load(mp, ino, ACCESS)
    if entries:
        _store(mp, ino, ACCESS, apply_mode(entries, mode))


def inherit(mp: Mount, dino: int, mode: int, umask: int) -> tuple[int, int]:
    """What a new node takes from the default ACL of its directory: (its mode, the topmost of its attributes or 0).

    Where there is none, also none that says only what a mode says, the umask counts, except for a symlink.
    The chain is the caller's to use or to free in this breath.  => NoMemory, SwapIOError.  => Breathes first.
    """
    default = _load(mp, dino, DEFAULT) if not stat.S_ISLNK(mode) else []
    mp.breathe()            # the ACL's pages are not needed any more: up to 17 of the reserve
    if not default:
        return mode if stat.S_ISLNK(mode) else mode & ~umask, 0
    # posix_acl_create_masq(): the mode takes from the ACL what it does not grant, and the other way round.
    mode = mode & ~0o777 | mode & mode_of(default, 0)
    access = apply_mode(default, mode)
    values = [] if is_mode_only(access) else [(ACCESS, encode(access))]
    if stat.S_ISDIR(mode):
        values.append((DEFAULT, encode(default)))
    return mode, xattr.new_tree(mp, values)


def access(mp: Mount, ino: int, how: int) -> bool:
    """access(2) with noperm, as for root: all except executing what nobody may execute.  => SwapIOError."""
    mode = layout.tn_mode(mp.arena, mp.mem.node(ino))
    return not how & os.X_OK or stat.S_ISDIR(mode) or bool(mode & 0o111)


# --- set-id bits, where the kernel leaves it to us whether they go ---

def may_write(mp: Mount, at: int, cred: Any) -> bool:
    """Whether cred owns a node or may write it.  Of an ACL the mask is all that is looked at."""
    mode, uid, gid = layout.tn_access(mp.arena, at)
    return bool(cred.uid in (0, uid) or mode & stat.S_IWOTH
                or mode & stat.S_IWGRP and (mp.acl or cred.in_group(gid)))


def without_set_id(mode: int, gid: int, cred: Any) -> int:
    """A mode as it is after a write or chown (setattr_should_drop_suidgid() of Linux fs/attr.c).

    Setgid without the group's x marks mandatory locking, and is left to members of the group and to CAP_FSETID.
    """
    if stat.S_ISDIR(mode):
        return mode
    drop = stat.S_ISUID
    if mode & stat.S_IXGRP or not cred.in_group(gid) and not cred.capable(CAP_FSETID):
        drop |= stat.S_ISGID
    return mode & ~drop


def strip_at_write(mp: Mount, ino: int, at: int, new_mode: int) -> None:
    """Have the next write of a node, which must come at once, take its set-id bits.  => FsError EPERM.

    The kernel says the same before a write and at chown(-1, -1), and who may not write by now may still have the file
    open.  So the call is neither refused, which could fail a write, nor obeyed, which would let anybody take the bits.
    """
    if len(mp.strips) >= STRIPS_MAX and ino not in mp.strips:
        raise FsError(errno.EPERM)
    mp.strips[ino] = layout.tn_gen(mp.arena, at), new_mode


def strip(mp: Mount, ino: int) -> bool:
    """Before a write: take the bits that strip_at_write() left; whether the mode has changed.  => SwapIOError."""
    generation, new_mode = mp.strips.get(ino, (0, 0))
    at = mp.mem.node_w(ino)
    mp.strips.pop(ino, None)
    if layout.tn_gen(mp.arena, at) != generation:
        return False
    layout.set_tn_mode(mp.arena, at, layout.tn_mode(mp.arena, at) & (new_mode | ~(stat.S_ISUID | stat.S_ISGID)))
    return True
