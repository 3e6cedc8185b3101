"""fuse/abi.py: every structure, opcode and flag of <linux/fuse.h> that is used here, declared once.

The protocol is 7.31 (Linux 5.4) to 7.45 (Linux 6.18).  A structure is declared with the names that the header gives its
fields; format, size and offsets follow, and tests/unit/test_fuse_abi.py compares them with the results of a C compiler.
Numbers have the machine's byte order: the protocol never leaves it.

Picture     request: IN_HEADER (40 bytes), the structure of its opcode, then names or data
            reply:   OUT_HEADER (16 bytes), the structure of its opcode or data; a refusal is the header alone
            notice:  OUT_HEADER with unique 0 and the code in place of the error, its structure, a name

Padding and unused fields are 'Nx': they are written as zeroes and take no argument.  Times are signed here, though the
header says uint64_t: the kernel keeps them in a time64_t.

Limits      CUSE, DAX mappings, file locks, io_uring and pass-through are not declared here: nobody sends them.
"""

from __future__ import annotations

from struct import Struct
from typing import Callable

MAJOR, MINOR, OLDEST_MINOR = 7, 45, 31
ROOT_ID = 1
MIN_READ_BUFFER = 8192

Field = tuple[str, str]             # its name in the header, its struct code


_declared: list[Structure] = []             # in the order of this file; compiled, vars() is not this module's


class Structure:
    """A structure of `size` bytes."""

    __slots__ = ("name", "size", "fields", "format", "offset", "pack", "unpack")

    def __init__(self, name: str, size: int, *fields: Field) -> None:
        self.name, self.fields = name, fields
        self.size: int = size
        self.format = "".join(code for _field, code in fields)
        self.offset: dict[str, int] = {}
        at = 0
        for field, code in fields:
            self.offset[field] = at
            at += Struct("=" + code).size
        record = Struct("=" + self.format)
        assert at == record.size == size, f"{name}: fields have {at} bytes, declared {size}"
        self.pack: Callable[..., bytes] = record.pack
        self.unpack: Callable[..., tuple] = record.unpack_from
        _declared.append(self)

    def within(self, name: str) -> tuple[Field, ...]:
        """The fields as fields of a structure that contains this one as `name`."""
        return tuple((f"{name}.{field}", code) for field, code in self.fields)

    def reply(self) -> Struct:
        """A whole reply: the header, then this."""
        return Struct("=" + OUT_HEADER.format + self.format)


# --- headers ---

IN_HEADER = Structure("fuse_in_header", 40, ("len", "I"), ("opcode", "I"), ("unique", "Q"), ("nodeid", "Q"),
                      ("uid", "I"), ("gid", "I"), ("pid", "I"), ("total_extlen", "2x"), ("padding", "2x"))
OUT_HEADER: Structure = Structure("fuse_out_header", 16, ("len", "I"), ("error", "i"), ("unique", "Q"))
BODY = IN_HEADER.size               # where the structure of a request begins

# --- the handshake ---

INIT_IN_HEAD = 16                   # what a kernel before 7.36 sends of fuse_init_in: all but flags2
INIT_IN = Structure("fuse_init_in", 64, ("major", "I"), ("minor", "I"), ("max_readahead", "I"), ("flags", "I"),
                    ("flags2", "I"), ("unused", "44x"))
INIT_OUT = Structure("fuse_init_out", 64, ("major", "I"), ("minor", "I"), ("max_readahead", "I"), ("flags", "I"),
                     ("max_background", "H"), ("congestion_threshold", "H"), ("max_write", "I"), ("time_gran", "I"),
                     ("max_pages", "H"), ("map_alignment", "2x"), ("flags2", "I"), ("max_stack_depth", "4x"),
                     ("request_timeout", "2x"), ("unused", "22x"))

# --- attributes ---

ATTR = Structure("fuse_attr", 88, ("ino", "Q"), ("size", "Q"), ("blocks", "Q"), ("atime", "q"), ("mtime", "q"),
                 ("ctime", "q"), ("atimensec", "I"), ("mtimensec", "I"), ("ctimensec", "I"), ("mode", "I"),
                 ("nlink", "I"), ("uid", "I"), ("gid", "I"), ("rdev", "I"), ("blksize", "I"), ("flags", "4x"))
ENTRY_OUT: Structure = Structure("fuse_entry_out", 128, ("nodeid", "Q"), ("generation", "Q"), ("entry_valid", "Q"),
                                 ("attr_valid", "Q"), ("entry_valid_nsec", "4x"), ("attr_valid_nsec", "4x"),
                                 *ATTR.within("attr"))
ATTR_OUT: Structure = Structure("fuse_attr_out", 104, ("attr_valid", "Q"), ("attr_valid_nsec", "4x"), ("dummy", "4x"),
                                *ATTR.within("attr"))
GETATTR_IN = Structure("fuse_getattr_in", 16, ("getattr_flags", "I"), ("dummy", "4x"), ("fh", "Q"))
SETATTR_IN = Structure("fuse_setattr_in", 88, ("valid", "I"), ("padding", "4x"), ("fh", "8x"), ("size", "Q"),
                       ("lock_owner", "8x"), ("atime", "q"), ("mtime", "q"), ("ctime", "q"), ("atimensec", "I"),
                       ("mtimensec", "I"), ("ctimensec", "I"), ("mode", "I"), ("unused4", "4x"), ("uid", "I"),
                       ("gid", "I"), ("unused5", "4x"))
SX_TIME = Structure("fuse_sx_time", 16, ("tv_sec", "q"), ("tv_nsec", "I"), ("__reserved", "4x"))
STATX = Structure("fuse_statx", 256, ("mask", "I"), ("blksize", "I"), ("attributes", "Q"), ("nlink", "I"),
                  ("uid", "I"), ("gid", "I"), ("mode", "H"), ("__spare0", "2x"), ("ino", "Q"), ("size", "Q"),
                  ("blocks", "Q"), ("attributes_mask", "Q"), *SX_TIME.within("atime"), *SX_TIME.within("btime"),
                  *SX_TIME.within("ctime"), *SX_TIME.within("mtime"), ("rdev_major", "I"), ("rdev_minor", "I"),
                  ("dev_major", "4x"), ("dev_minor", "4x"), ("__spare2", "112x"))
STATX_IN = Structure("fuse_statx_in", 24, ("getattr_flags", "I"), ("reserved", "4x"), ("fh", "Q"), ("sx_flags", "I"),
                     ("sx_mask", "I"))
STATX_OUT = Structure("fuse_statx_out", 288, ("attr_valid", "Q"), ("attr_valid_nsec", "4x"), ("flags", "4x"),
                      ("spare", "16x"), *STATX.within("stat"))
KSTATFS = Structure("fuse_kstatfs", 80, ("blocks", "Q"), ("bfree", "Q"), ("bavail", "Q"), ("files", "Q"),
                    ("ffree", "Q"), ("bsize", "I"), ("namelen", "I"), ("frsize", "I"), ("padding", "4x"),
                    ("spare", "24x"))
STATFS_OUT = Structure("fuse_statfs_out", 80, *KSTATFS.within("st"))
ACCESS_IN = Structure("fuse_access_in", 8, ("mask", "I"), ("padding", "4x"))

# --- names ---

MKNOD_IN = Structure("fuse_mknod_in", 16, ("mode", "I"), ("rdev", "I"), ("umask", "I"), ("padding", "4x"))
MKDIR_IN = Structure("fuse_mkdir_in", 8, ("mode", "I"), ("umask", "I"))
RENAME_IN = Structure("fuse_rename_in", 8, ("newdir", "Q"))
RENAME2_IN = Structure("fuse_rename2_in", 16, ("newdir", "Q"), ("flags", "I"), ("padding", "4x"))
LINK_IN = Structure("fuse_link_in", 8, ("oldnodeid", "Q"))
CREATE_IN = Structure("fuse_create_in", 16, ("flags", "I"), ("mode", "I"), ("umask", "I"), ("open_flags", "I"))
FORGET_IN = Structure("fuse_forget_in", 8, ("nlookup", "Q"))
FORGET_ONE = Structure("fuse_forget_one", 16, ("nodeid", "Q"), ("nlookup", "Q"))
BATCH_FORGET_IN = Structure("fuse_batch_forget_in", 8, ("count", "I"), ("dummy", "4x"))

# --- data and directories ---

OPEN_IN = Structure("fuse_open_in", 8, ("flags", "I"), ("open_flags", "I"))
OPEN_OUT = Structure("fuse_open_out", 16, ("fh", "Q"), ("open_flags", "I"), ("backing_id", "4x"))
READ_IN = Structure("fuse_read_in", 40, ("fh", "8x"), ("offset", "Q"), ("size", "I"), ("read_flags", "4x"),
                    ("lock_owner", "8x"), ("flags", "4x"), ("padding", "4x"))
WRITE_IN = Structure("fuse_write_in", 40, ("fh", "8x"), ("offset", "Q"), ("size", "I"), ("write_flags", "I"),
                     ("lock_owner", "8x"), ("flags", "I"), ("padding", "4x"))
WRITE_OUT = Structure("fuse_write_out", 8, ("size", "I"), ("padding", "4x"))
FALLOCATE_IN = Structure("fuse_fallocate_in", 32, ("fh", "8x"), ("offset", "Q"), ("length", "Q"), ("mode", "I"),
                         ("padding", "4x"))
LSEEK_IN = Structure("fuse_lseek_in", 24, ("fh", "8x"), ("offset", "Q"), ("whence", "I"), ("padding", "4x"))
LSEEK_OUT = Structure("fuse_lseek_out", 8, ("offset", "Q"))
COPY_FILE_RANGE_IN = Structure("fuse_copy_file_range_in", 56, ("fh_in", "8x"), ("off_in", "Q"), ("nodeid_out", "Q"),
                               ("fh_out", "8x"), ("off_out", "Q"), ("len", "Q"), ("flags", "Q"))
COPY_FILE_RANGE_OUT = Structure("fuse_copy_file_range_out", 8, ("bytes_copied", "Q"))
IOCTL_IN = Structure("fuse_ioctl_in", 32, ("fh", "8x"), ("flags", "I"), ("cmd", "I"), ("arg", "Q"), ("in_size", "I"),
                     ("out_size", "I"))
IOCTL_OUT = Structure("fuse_ioctl_out", 16, ("result", "i"), ("flags", "I"), ("in_iovs", "I"), ("out_iovs", "I"))
DIRENT = Structure("fuse_dirent", 24, ("ino", "Q"), ("off", "Q"), ("namelen", "I"), ("type", "I"))
DIRENTPLUS = Structure("fuse_direntplus", 152, *ENTRY_OUT.within("entry_out"), *DIRENT.within("dirent"))

# --- extended attributes ---

SETXATTR_COMPAT = 8                 # what a kernel without FUSE_SETXATTR_EXT sends of fuse_setxattr_in
SETXATTR_IN = Structure("fuse_setxattr_in", 16, ("size", "I"), ("flags", "I"), ("setxattr_flags", "I"),
                        ("padding", "4x"))
GETXATTR_IN = Structure("fuse_getxattr_in", 8, ("size", "I"), ("padding", "4x"))
GETXATTR_OUT = Structure("fuse_getxattr_out", 8, ("size", "I"), ("padding", "4x"))

# --- notices, which nobody asked for ---

NOTIFY_INVAL_INODE_OUT = Structure("fuse_notify_inval_inode_out", 24, ("ino", "Q"), ("off", "q"), ("len", "q"))
NOTIFY_INVAL_ENTRY_OUT = Structure("fuse_notify_inval_entry_out", 16, ("parent", "Q"), ("namelen", "I"),
                                   ("flags", "I"))
NOTIFY_DELETE_OUT = Structure("fuse_notify_delete_out", 24, ("parent", "Q"), ("child", "Q"), ("namelen", "I"),
                              ("padding", "4x"))
NOTIFY_RETRIEVE_OUT = Structure("fuse_notify_retrieve_out", 32, ("notify_unique", "Q"), ("nodeid", "Q"),
                                ("offset", "Q"), ("size", "I"), ("padding", "4x"))
NOTIFY_RETRIEVE_IN = Structure("fuse_notify_retrieve_in", 40, ("dummy1", "8x"), ("offset", "Q"), ("size", "I"),
                               ("dummy2", "4x"), ("dummy3", "8x"), ("dummy4", "8x"))

# --- opcodes ---

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS = 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
RELEASE, FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR = 18, 20, 21, 22, 23, 24, 25, 26, 27
READDIR, RELEASEDIR, FSYNCDIR, GETLK, SETLK, SETLKW, ACCESS, CREATE = 28, 29, 30, 31, 32, 33, 34, 35
INTERRUPT, BMAP, DESTROY, IOCTL, POLL, NOTIFY_REPLY, BATCH_FORGET, FALLOCATE = 36, 37, 38, 39, 40, 41, 42, 43
READDIRPLUS, RENAME2, LSEEK, COPY_FILE_RANGE, SETUPMAPPING, REMOVEMAPPING = 44, 45, 46, 47, 48, 49
SYNCFS, TMPFILE, STATX_OP, COPY_FILE_RANGE_64 = 50, 51, 52, 53

OPCODES = {                         # as the header spells them
    "FUSE_LOOKUP": LOOKUP, "FUSE_FORGET": FORGET, "FUSE_GETATTR": GETATTR, "FUSE_SETATTR": SETATTR,
    "FUSE_READLINK": READLINK, "FUSE_SYMLINK": SYMLINK, "FUSE_MKNOD": MKNOD, "FUSE_MKDIR": MKDIR,
    "FUSE_UNLINK": UNLINK, "FUSE_RMDIR": RMDIR, "FUSE_RENAME": RENAME, "FUSE_LINK": LINK, "FUSE_OPEN": OPEN,
    "FUSE_READ": READ, "FUSE_WRITE": WRITE, "FUSE_STATFS": STATFS, "FUSE_RELEASE": RELEASE, "FUSE_FSYNC": FSYNC,
    "FUSE_SETXATTR": SETXATTR, "FUSE_GETXATTR": GETXATTR, "FUSE_LISTXATTR": LISTXATTR,
    "FUSE_REMOVEXATTR": REMOVEXATTR, "FUSE_FLUSH": FLUSH, "FUSE_INIT": INIT, "FUSE_OPENDIR": OPENDIR,
    "FUSE_READDIR": READDIR, "FUSE_RELEASEDIR": RELEASEDIR, "FUSE_FSYNCDIR": FSYNCDIR, "FUSE_GETLK": GETLK,
    "FUSE_SETLK": SETLK, "FUSE_SETLKW": SETLKW, "FUSE_ACCESS": ACCESS, "FUSE_CREATE": CREATE,
    "FUSE_INTERRUPT": INTERRUPT, "FUSE_BMAP": BMAP, "FUSE_DESTROY": DESTROY, "FUSE_IOCTL": IOCTL, "FUSE_POLL": POLL,
    "FUSE_NOTIFY_REPLY": NOTIFY_REPLY, "FUSE_BATCH_FORGET": BATCH_FORGET, "FUSE_FALLOCATE": FALLOCATE,
    "FUSE_READDIRPLUS": READDIRPLUS, "FUSE_RENAME2": RENAME2, "FUSE_LSEEK": LSEEK,
    "FUSE_COPY_FILE_RANGE": COPY_FILE_RANGE, "FUSE_SETUPMAPPING": SETUPMAPPING,
    "FUSE_REMOVEMAPPING": REMOVEMAPPING, "FUSE_SYNCFS": SYNCFS, "FUSE_TMPFILE": TMPFILE, "FUSE_STATX": STATX_OP,
    "FUSE_COPY_FILE_RANGE_64": COPY_FILE_RANGE_64,
}

NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY, NOTIFY_RETRIEVE, NOTIFY_DELETE = 2, 3, 5, 6

# --- flags of INIT; bits from 32 on travel in flags2 (what each is for: init.py) ---

INIT_FLAGS = {
    "FUSE_ASYNC_READ": 1 << 0, "FUSE_POSIX_LOCKS": 1 << 1, "FUSE_FILE_OPS": 1 << 2, "FUSE_ATOMIC_O_TRUNC": 1 << 3,
    "FUSE_EXPORT_SUPPORT": 1 << 4, "FUSE_BIG_WRITES": 1 << 5, "FUSE_DONT_MASK": 1 << 6, "FUSE_SPLICE_WRITE": 1 << 7,
    "FUSE_SPLICE_MOVE": 1 << 8, "FUSE_SPLICE_READ": 1 << 9, "FUSE_FLOCK_LOCKS": 1 << 10,
    "FUSE_HAS_IOCTL_DIR": 1 << 11, "FUSE_AUTO_INVAL_DATA": 1 << 12, "FUSE_DO_READDIRPLUS": 1 << 13,
    "FUSE_READDIRPLUS_AUTO": 1 << 14, "FUSE_ASYNC_DIO": 1 << 15, "FUSE_WRITEBACK_CACHE": 1 << 16,
    "FUSE_NO_OPEN_SUPPORT": 1 << 17, "FUSE_PARALLEL_DIROPS": 1 << 18, "FUSE_HANDLE_KILLPRIV": 1 << 19,
    "FUSE_POSIX_ACL": 1 << 20, "FUSE_ABORT_ERROR": 1 << 21, "FUSE_MAX_PAGES": 1 << 22, "FUSE_CACHE_SYMLINKS": 1 << 23,
    "FUSE_NO_OPENDIR_SUPPORT": 1 << 24, "FUSE_EXPLICIT_INVAL_DATA": 1 << 25, "FUSE_MAP_ALIGNMENT": 1 << 26,
    "FUSE_SUBMOUNTS": 1 << 27, "FUSE_HANDLE_KILLPRIV_V2": 1 << 28, "FUSE_SETXATTR_EXT": 1 << 29,
    "FUSE_INIT_EXT": 1 << 30, "FUSE_INIT_RESERVED": 1 << 31, "FUSE_SECURITY_CTX": 1 << 32,
    "FUSE_HAS_INODE_DAX": 1 << 33, "FUSE_CREATE_SUPP_GROUP": 1 << 34, "FUSE_HAS_EXPIRE_ONLY": 1 << 35,
    "FUSE_DIRECT_IO_ALLOW_MMAP": 1 << 36, "FUSE_PASSTHROUGH": 1 << 37, "FUSE_NO_EXPORT_SUPPORT": 1 << 38,
    "FUSE_HAS_RESEND": 1 << 39, "FUSE_ALLOW_IDMAP": 1 << 40, "FUSE_OVER_IO_URING": 1 << 41,
    "FUSE_REQUEST_TIMEOUT": 1 << 42,
}

# --- flags of requests ---

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME, FATTR_FH = (1 << bit for bit in range(7))
FATTR_ATIME_NOW, FATTR_MTIME_NOW, FATTR_LOCKOWNER, FATTR_CTIME, FATTR_KILL_SUIDGID = (1 << bit for bit in range(7, 12))
GETATTR_FH = 1 << 0
WRITE_CACHE, WRITE_LOCKOWNER, WRITE_KILL_SUIDGID = 1 << 0, 1 << 1, 1 << 2
SETXATTR_ACL_KILL_SGID = 1 << 0
FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_NONSEEKABLE, FOPEN_CACHE_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3

STRUCTURES = tuple(_declared)
CONSTANTS = {**OPCODES, **INIT_FLAGS, "FUSE_KERNEL_VERSION": MAJOR, "FUSE_ROOT_ID": ROOT_ID,
             "FUSE_MIN_READ_BUFFER": MIN_READ_BUFFER, "FUSE_NOTIFY_INVAL_INODE": NOTIFY_INVAL_INODE,
             "FUSE_NOTIFY_INVAL_ENTRY": NOTIFY_INVAL_ENTRY, "FUSE_NOTIFY_DELETE": NOTIFY_DELETE,
             "FUSE_NOTIFY_RETRIEVE": NOTIFY_RETRIEVE,
             "FATTR_MODE": FATTR_MODE, "FATTR_UID": FATTR_UID, "FATTR_GID": FATTR_GID, "FATTR_SIZE": FATTR_SIZE,
             "FATTR_ATIME": FATTR_ATIME, "FATTR_MTIME": FATTR_MTIME, "FATTR_FH": FATTR_FH,
             "FATTR_ATIME_NOW": FATTR_ATIME_NOW, "FATTR_MTIME_NOW": FATTR_MTIME_NOW,
             "FATTR_LOCKOWNER": FATTR_LOCKOWNER, "FATTR_CTIME": FATTR_CTIME,
             "FATTR_KILL_SUIDGID": FATTR_KILL_SUIDGID, "FUSE_GETATTR_FH": GETATTR_FH,
             "FUSE_WRITE_CACHE": WRITE_CACHE, "FUSE_WRITE_LOCKOWNER": WRITE_LOCKOWNER,
             "FUSE_WRITE_KILL_SUIDGID": WRITE_KILL_SUIDGID, "FUSE_SETXATTR_ACL_KILL_SGID": SETXATTR_ACL_KILL_SGID,
             "FOPEN_DIRECT_IO": FOPEN_DIRECT_IO, "FOPEN_KEEP_CACHE": FOPEN_KEEP_CACHE,
             "FOPEN_NONSEEKABLE": FOPEN_NONSEEKABLE, "FOPEN_CACHE_DIR": FOPEN_CACHE_DIR}
