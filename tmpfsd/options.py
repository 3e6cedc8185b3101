"""options.py: mount options, from text to one typed Config.

The only place where an option is named, parsed, given its default or refused.  The command line calls
parse(); the tests build Config(...) directly, where every field has the default that the mount would have.
It looks only at the machine's memory size, the caller's ids, and what swapplaces.py looks at for swap=.
cli/preflight.py checks whether a path can be used.

Limits      Sizes are whole numbers with k, m, g, t, p, e or %: no fractions, as in the kernel's tmpfs.
            A comma inside a value is written \\, and a backslash \\\\ (as libfuse does); a colon in a path of swap= is
            written \\:.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tmpfsd import mountflags
from tmpfsd.machine import OWN_MEMORY, memory_limit, physical_memory
from tmpfsd.optionwords import (
    MIN_WINDOWS, Auto, number, one_of, parse_file, parse_fsname, parse_inodes, parse_limit, parse_metrics, parse_switch,
    parse_windows
)
from tmpfsd.owners import parse_gid, parse_mode, parse_uid
from tmpfsd.sizes import (
    LIMITS, MIN_RAM, MIN_ZRAM, MOST_SWAP, MOST_ZRAM, PAGE_SIZE, SIZES, default_ram, parse_blocks, parse_cache,
    parse_ram, parse_submap, parse_swap_size, parse_total, parse_zram, round_up
)
from tmpfsd.swapplaces import TLS, default_swap, is_url, parse_image, parse_swap, remote, shown

MOST_BEHIND = 6 << 40       # of all places except the first: the slot numbers that are left (uvm.swapset.RING_BASE)
MAX_SPIN = 100_000
DEFAULT_ZRAM = -50          # per cent of ram
AS_SIZE = -1                # swap_size_bytes: as large as size_bytes

BACKENDS = ("wired", "pageable-flag", "pageable-submap", "aobj", "pageable-object")
NEVER_OUT = ("wired", "pageable-flag")          # their pages never leave, so they need no swap


class OptionError(ValueError):
    """A mount option that is wrong; the text names it and says what is allowed."""


@dataclass(frozen=True, slots=True)
class Config:
    """What one mount is to be.  swap is a directory, a file or a block device; None: no swap."""

    size_bytes: int = field(default_factory=lambda: round_up(memory_limit() // 2))
    nr_inodes: int = 0                      # 0: no limit of its own
    mode: int = 0o1777
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    ram_bytes: int = field(default_factory=lambda: default_ram(memory_limit()))
    swap: str | None = field(default_factory=default_swap)
    swap_more: tuple[str, ...] = ()         # places that are filled one after the other when the first is full
    swap_size_bytes: int = AS_SIZE
    swap_io: str = "buffered"
    swap_crypt: bool = True
    swap_password_file: str = ""            # for a server of swap
    swap_ca_file: str = ""                  # certificates for such a server, beside the system's
    compress: str = "none"
    ram_auto: Auto | None = None            # ram_bytes is then what it begins with
    zram: int = DEFAULT_ZRAM                # bytes; if negative, per cent of ram_bytes
    image: str = ""                         # the file of a saved file system; "": begin with an empty one
    image_cache_bytes: int = 256 << 20      # of an image on a server: blocks that are kept on the disk
    backend: str = "pageable-submap"
    submap: str | int = "auto"
    submap_sharing: str = "shared"
    windows: int = 64
    spin: str | int = "auto"
    awake: str = "auto"
    edge: str = "auto"
    acl: bool = False
    xattr: bool = True
    writeback: bool = False
    quota: bool = False                     # both of these
    usrquota: bool = False
    grpquota: bool = False
    usrquota_bytes: int = 0                 # of each user but root; 0: no limit
    usrquota_inodes: int = 0
    grpquota_bytes: int = 0
    grpquota_inodes: int = 0
    readonly: bool = False
    noatime: bool = False
    nodiratime: bool = False
    strictatime: bool = False
    noperm: bool = False                    # the kernel checks no permissions: everyone who enters may do everything
    fsname: str = "tmpfsd"
    metrics: str = ""                       # a socket's path, or HOST:PORT; "": none
    generic: tuple[str, ...] = ()           # flags for the kernel's mount, as libfuse spells them
    given: frozenset[str] = frozenset()     # the names of the options that the user wrote
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.swap_size_bytes == AS_SIZE:
            n = len(self.places)
            most = MOST_BEHIND // n // PAGE_SIZE * PAGE_SIZE if n > 1 else MOST_SWAP
            object.__setattr__(self, "swap_size_bytes", min(self.size_bytes, most))

    @property
    def zram_bytes(self) -> int:
        """How much of ram_bytes is for compressed pages; 0 if that would leave too little of one or the other."""
        if self.compress == "none":
            return 0
        nbytes = self.zram if self.zram >= 0 else -self.zram * self.ram_bytes // 100
        nbytes = min(nbytes // PAGE_SIZE * PAGE_SIZE, MOST_ZRAM)
        return nbytes if nbytes >= MIN_ZRAM and self.ram_bytes - nbytes >= MIN_RAM else 0

    @property
    def user_quota(self) -> bool:
        """Whether usage is counted by user."""
        return self.quota or self.usrquota

    @property
    def group_quota(self) -> bool:
        """Whether usage is counted by group."""
        return self.quota or self.grpquota

    @property
    def places(self) -> tuple[str, ...]:
        """All places of swap, in the order in which they are filled."""
        return () if self.swap is None else (self.swap, *self.swap_more)


class Option(NamedTuple):
    """How one option with a value is read: the fields of Config it sets, its parser, and what is allowed."""

    field: str
    parse: Callable[[str, int], Any]
    allowed: str


VALUED: dict[str, Option] = {
    "size": Option("size_bytes", parse_total, SIZES + ", 0 for no limit"),
    "nr_blocks": Option("size_bytes", parse_blocks, "a number of blocks of 4096 bytes, 0 for no limit"),
    "nr_inodes": Option("nr_inodes", parse_inodes, "a number, 0 for no limit of its own"),
    "mode": Option("mode", parse_mode, "an octal mode"),
    "uid": Option("uid", parse_uid, "a user or a user id"),
    "gid": Option("gid", parse_gid, "a group or a group id"),
    "ram": Option("ram_bytes", parse_ram, SIZES + ", at least 1m, or auto[:MIN-MAX]"),
    "swap": Option("swap", parse_swap, "a directory, a file, a block device, valkey://HOST:PORT/PREFIX, several with : "
                   "between them, or none"),
    "swap_size": Option("swap_size_bytes", parse_swap_size, SIZES),
    "swap_io": Option("swap_io", one_of("buffered", "direct"), "buffered or direct"),
    "swap_crypt": Option("swap_crypt", parse_switch, "on or off"),
    "swap_password_file": Option("swap_password_file", parse_file, "the absolute path of a file"),
    "swap_ca_file": Option("swap_ca_file", parse_file, "the absolute path of a file"),
    "compress": Option("compress", one_of("zstd", "none"), "zstd or none"),
    "zram": Option("zram", parse_zram, "a size, or % of ram"),
    "image": Option("image", parse_image, "the path of an image, or its URL"),
    "image_cache": Option("image_cache_bytes", parse_cache, SIZES + ", at least 4m"),
    "backend": Option("backend", one_of(*BACKENDS), " or ".join(BACKENDS)),
    "submap": Option("submap", parse_submap, "auto or a size"),
    "submap_sharing": Option("submap_sharing", one_of("shared", "per-pool"), "shared or per-pool"),
    "windows": Option("windows", parse_windows, f"a number from {MIN_WINDOWS} on"),
    "edge": Option("edge", one_of("auto", "native", "pyfuse3"), "auto, native or pyfuse3"),
    "spin": Option("spin", number(0, MAX_SPIN, "auto"), "auto or microseconds"),
    "awake": Option("awake", one_of("auto", "on", "off"), "auto, on or off"),
    "fsname": Option("fsname", parse_fsname, "a name"),
    "usrquota_block_hardlimit": Option("usrquota_bytes", parse_limit, LIMITS),
    "usrquota_inode_hardlimit": Option("usrquota_inodes", parse_limit, LIMITS),
    "grpquota_block_hardlimit": Option("grpquota_bytes", parse_limit, LIMITS),
    "grpquota_inode_hardlimit": Option("grpquota_inodes", parse_limit, LIMITS),
    "metrics": Option("metrics", parse_metrics, "the path of a socket, a port, or HOST:PORT"),
}

# Flags that are ours: the field they set, and to what.
FLAGS: dict[str, tuple[str, Any]] = {
    "acl": ("acl", True), "noacl": ("acl", False), "xattr": ("xattr", True), "noxattr": ("xattr", False),
    "writeback": ("writeback", True), "ro": ("readonly", True), "rw": ("readonly", False),
    "noatime": ("noatime", True), "atime": ("noatime", False), "relatime": ("noatime", False),
    "nodiratime": ("nodiratime", True), "diratime": ("nodiratime", False),
    "strictatime": ("strictatime", True), "nostrictatime": ("strictatime", False),
    "noperm": ("noperm", True),
    "quota": ("quota", True), "usrquota": ("usrquota", True), "grpquota": ("grpquota", True),
    "noswap": ("swap", ()),         # as swap=none, which is read as ()
}

# Flags of the kernel: libfuse hands them to mount(2), or server/daemon.py sets them after mounting.
GENERIC = frozenset(("allow_other", "default_permissions", *mountflags.BY_NAME))

# What mount(8), fstab and mount.fuse add for themselves.
IGNORED = frozenset((
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
    *mountflags.WITHOUT_EFFECT,
    "inode32", "inode64",       # inode numbers end at 2^31 - 1, so either is kept
))
AS_IT_IS = frozenset(("huge=never", "mpol=default"))        # the kernel's tmpfs accepts these too when it has neither
IGNORED_VALUED = ("x-", "comment=", "user=", "helper=", "uhelper=")

OPPOSITES = (
    ("ro", "rw"), ("suid", "nosuid"), ("dev", "nodev"), ("exec", "noexec"), ("sync", "async"),
    ("acl", "noacl"), ("xattr", "noxattr"), ("noatime", "atime"), ("noatime", "relatime"),
    ("nodiratime", "diratime"), ("relatime", "norelatime"), ("strictatime", "nostrictatime"),
    ("lazytime", "nolazytime"), ("nosymfollow", "symfollow"),
    ("noxattr", "acl"),         # ACLs are kept in xattrs
    ("noswap", "swap"), ("nr_blocks", "size"),
    ("noperm", "allow_other"), ("noperm", "acl"), ("noperm", "default_permissions"),
)

REFUSED = {
    "huge": "pages are paged one by one, there are no huge pages",
    "mpol": "memory is one arena of this process; run tmpfsd under numactl instead",
    "casefold": "names are bytes here", "strict_encoding": "names are bytes here",
    "subtype": "it is always tmpfsd", "allow_root": "give allow_other instead",
}


def split(options: str | Iterable[str]) -> list[str]:
    """Split option strings at commas that no backslash escapes."""
    texts = [options] if isinstance(options, str) else list(options)
    words = [word for text in texts for word in re.findall(r"(?:[^,\\]|\\.|\\$)+", text, re.DOTALL)]
    return [re.sub(r"\\([^:])", r"\1", word, flags=re.DOTALL) for word in words]


def quote(text: str) -> str:
    """Write text so that libfuse reads it as one value."""
    return re.sub(r"([\\,])", r"\\\1", text)


def parse(options: str | Iterable[str] = "", *, physical: int | None = None,
          swap: Callable[[], str | None] = default_swap) -> Config:
    """Read mount options into a Config.

    => physical is the memory in bytes that we may use, swap finds the default place of the swap file.
    => raises OptionError, whose text starts with the option as it was written.
    """
    whole, physical = physical or physical_memory(), physical or memory_limit()
    values: dict[str, Any] = {}
    given: list[str] = []
    for word in split(options):
        name = word.partition("=")[0]
        if says_nothing(word):
            continue
        if name in VALUED:
            read_value(values, given, word, physical)
        else:
            read_flag(values, word)
        given.append(name)
    refuse_opposites(given)
    values.setdefault("size_bytes", round_up(physical // 2))
    values.setdefault("ram_bytes", default_ram(physical))
    demand_memory(values["ram_bytes"], whole)
    if isinstance(ram := values["ram_bytes"], Auto):
        values |= {"ram_auto": ram, "ram_bytes": min(max(default_ram(physical), ram.low), ram.high)}
    if "swap" in values:
        values["swap"], *more = values["swap"] or (None,)
        values["swap_more"] = tuple(more)
    else:
        values["swap"] = swap()
    values["generic"] = tuple(dict.fromkeys(name for name in given if name in GENERIC))
    values["given"] = frozenset(given)
    config = agree(values)
    return dataclasses.replace(config, warnings=(*config.warnings, *beyond(config.ram_bytes, physical)))


def demand_memory(ram: int | Auto, whole: int) -> None:
    """Refuse more than the machine has.  (Beyond a container's limit only a warning comes: it can be changed.)"""
    if (ram_bytes := ram.high if isinstance(ram, Auto) else ram) > whole:
        raise OptionError(f"ram={ram_bytes >> 20}m: more than the physical memory of this machine ({whole >> 20}m)")


def beyond(ram_bytes: int, limit: int) -> tuple[str, ...]:
    """Return a warning if ram leaves no room for the daemon itself."""
    if ram_bytes + OWN_MEMORY <= limit:
        return ()
    own = OWN_MEMORY >> 20
    return (f"ram={ram_bytes >> 20}m: with {own}m for the daemon itself, it does not fit into the "
            f"{limit >> 20}m of memory here (the limit of the cgroup, or all): the daemon may be killed",)


def says_nothing(word: str) -> bool:
    """Tell whether an option is accepted without any effect."""
    return word in IGNORED or word in AS_IT_IS or word.startswith(IGNORED_VALUED)


def read_value(values: dict[str, Any], given: list[str], word: str, physical: int) -> None:
    """Take one option that must have a value."""
    name, _, text = word.partition("=")
    option = VALUED[name]
    if not text:
        raise OptionError(f"{word}: needs a value: {option.allowed}")
    if name != "swap":
        text = text.replace("\\:", ":")         # escaped as libfuse does; it matters to swap= only
    if name in given:
        raise OptionError(f"{word}: {name} is given twice")
    try:
        values[option.field] = option.parse(text, physical)
    except ValueError as error:
        raise OptionError(f"{word}: {error}") from None


def read_flag(values: dict[str, Any], word: str) -> None:
    """Take one option that must not have a value."""
    name, equals, _ = word.partition("=")
    if word in AS_IT_IS:
        return
    if name in REFUSED:
        raise OptionError(f"{word}: has no meaning here: {REFUSED[name]}")
    if name not in FLAGS and name not in GENERIC and name not in IGNORED:
        raise OptionError(f"{word}: unknown option")
    if equals:
        raise OptionError(f"{word}: {name} takes no value")
    if name in FLAGS:
        key, value = FLAGS[name]
        values[key] = value


def refuse_opposites(given: list[str]) -> None:
    """Refuse two options that contradict each other."""
    for one, other in OPPOSITES:
        if one in given and other in given:
            raise OptionError(f"{one}: contradicts {other}")


def agree(values: dict[str, Any]) -> Config:
    """Refuse options that do not go together; build the Config."""
    config = Config(**values)
    given, backend = config.given, config.backend
    late = [word for word in config.generic if mountflags.bits([word]) & mountflags.LATE]
    if late and os.geteuid() != 0:
        raise OptionError(f"{late[0]}: only root can mount with it: fusermount3, which mounts for users, refuses it")
    if config.noperm and os.geteuid() != 0:
        raise OptionError("noperm: is for root's own mounts, which FUSE lets only root's processes use")
    if "windows" in given and backend != "aobj":
        raise OptionError(f"windows={config.windows}: is for backend=aobj, this is backend={backend}")
    for name, value in (("submap", config.submap), ("submap_sharing", config.submap_sharing)):
        if name in given and backend != "pageable-submap":
            raise OptionError(f"{name}={value}: is for backend=pageable-submap, this is backend={backend}")
    if isinstance(config.submap, int) and config.submap > config.size_bytes:
        raise OptionError(f"submap={config.submap}: larger than size={config.size_bytes}")
    if config.compress == "none" and config.zram > 0 and "zram" in given:
        raise OptionError(f"zram={config.zram}: is for compress=zstd, this is compress=none")
    if config.zram > 0 and config.zram > config.ram_bytes - MIN_RAM:
        raise OptionError(f"zram={config.zram}: is a part of ram={config.ram_bytes} and must leave 1m of it")
    if "compress" in given and config.compress != "none" and config.zram and not config.zram_bytes:
        raise OptionError(f"compress={config.compress}: ram={config.ram_bytes >> 20}m has no room for 1m of zram "
                          "beside 1m of frames")
    demand_quotas(config)
    demand_image(config)
    if config.swap_size_bytes == 0 and config.swap is not None:
        if backend not in NEVER_OUT:
            raise OptionError(f"swap_size=0: backend={backend} pages out; give a size, or swap=none")
        values["swap"], values["swap_more"] = None, ()
    return Config(**values, warnings=agree_on_swap(Config(**values)))


def demand_quotas(config: Config) -> None:
    """Refuse limits on what is not counted (the kernel's tmpfs accepts them, without effect)."""
    for name in sorted(config.given):
        kind = name.partition("_")[0]
        if name.endswith("_hardlimit") and not config.given & {kind, "quota"}:
            raise OptionError(f"{name}={getattr(config, VALUED[name].field)}: needs {kind}, or quota")


def demand_image(config: Config) -> None:
    """Refuse what is impossible for a mount that begins with an image."""
    if "image_cache" in config.given and not is_url(config.image):
        raise OptionError(f"image_cache={config.image_cache_bytes}: is for an image on a server, image=SCHEME://...")
    if not config.image:
        return
    what = f"image={shown(config.image)}"
    if config.backend in (*NEVER_OUT, "aobj"):
        raise OptionError(f"{what}: backend={config.backend}: its pages cannot be paged out, those of an image are")
    if config.submap != "auto":
        raise OptionError(f"{what}: submap={config.submap}: the pages of an image need submap=auto")
    if config.user_quota or config.group_quota:
        raise OptionError(f"{what}: an image does not say how much each user has, so it cannot have quotas")
    if config.swap is None or not config.swap_size_bytes:
        raise OptionError(f"{what}: needs swap for the pages that are changed")


def agree_on_swap(config: Config) -> tuple[str, ...]:
    """Refuse swap options without swap; return warnings."""
    servers = any(map(remote, config.places))
    if servers and not config.swap_crypt:
        raise OptionError("swap_crypt=off: what goes to a server is always encrypted")
    if config.swap_password_file and not servers:
        raise OptionError(f"swap_password_file={config.swap_password_file}: is for swap=valkey://")
    if config.swap_ca_file and not any(place.partition(":")[0] in TLS for place in config.places):
        raise OptionError(f"swap_ca_file={config.swap_ca_file}: is for swap=valkeys://")
    if config.swap is not None:
        if config.swap_size_bytes * len(config.swap_more) > MOST_BEHIND:
            raise OptionError(f"swap_size={config.swap_size_bytes}: {len(config.places)} places of that size are too "
                              "much: all except the first may have 6t together")
        return ()
    why = "noswap" if "noswap" in config.given else "swap=none"
    crypt = "on" if config.swap_crypt else ""
    for name, value in (("swap_size", config.swap_size_bytes), ("swap_io", config.swap_io), ("swap_crypt", crypt)):
        if name in config.given and value:
            raise OptionError(f"{name}={value}: there is no swap ({why})")
    if not config.given & {"swap", "noswap"}:
        why = "no directory for swap (/var/tmp, /tmp) that can be written to and is outside memory"
    if config.swap_size_bytes == 0:
        why = "swap_size=0"
    if config.zram_bytes:
        return ()
    return (f"{why}: nothing can be paged out, so ram={config.ram_bytes >> 20}m is all there is",)
