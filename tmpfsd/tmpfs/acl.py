"""tmpfs/acl.py: keeps POSIX ACLs and the mode in agreement (acl(5); after fs/posix_acl.c).

The kernel keeps and evaluates ACLs.  The file system must only make mode and ACL agree: setting an ACL sets the mode,
chmod sets the ACL's entries, a new node inherits its directory's default ACL.  The umask is applied here too, because
it counts only if nothing is inherited.  If the kernel has applied it already, twice is the same as once.

Breathing   Each function that reads or sets an ACL breathes.
"""

from __future__ import annotations

import errno
import stat
from struct import Struct
from typing import TYPE_CHECKING, Any

from tmpfsd.tmpfs import layout, setid, xattr
from tmpfsd.tmpfs.fserror import FsError

if TYPE_CHECKING:
    from tmpfsd.tmpfs.filesystem import Mount

ACCESS, DEFAULT = xattr.ACL_NAMES
VERSION = 2
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
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
    """Whether the ACL says no more than the mode."""
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
        layout.set_tn_mode(mp.arena, at, setid.of_acl(mode, gid, cred))


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
    """Make the access ACL, if there is one, follow the mode.  => Breathes."""
    entries = _load(mp, ino, ACCESS)
    if entries:
        _store(mp, ino, ACCESS, apply_mode(entries, mode))


def inherit(mp: Mount, dino: int, mode: int, umask: int) -> tuple[int, int]:
    """A new node's inheritance from the default ACL of its directory: (its mode, the topmost of its attributes or 0).

    If there is no default ACL (not even one that says no more than a mode), the umask counts, except for a symlink.
    The caller must use or free the chain in this breath.  => NoMemory, SwapIOError.  => Breathes first.
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
