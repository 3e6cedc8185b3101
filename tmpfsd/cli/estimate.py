"""estimate.py: the subcommand `tmpfsctl estimate`: what a tree of files will need, without a mount."""

from __future__ import annotations

import argparse
import json
import os

from tmpfsd.cli.client import ClientError
from tmpfsd.machine import memory_limit
from tmpfsd.sizes import parse_size
from tmpfsd.tmpfs.forecast import Estimate, Shape, estimate, of_tree, uniform
from tmpfsd.tmpfs.vnops import NAME_MAX, PATH_MAX
from tmpfsd.tmpfs.xattr import XATTR_SIZE_MAX
from tmpfsd.uvm.param import PAGE_SIZE, atop

EPILOG = """\
example:
  tmpfsctl estimate --files 1m --name-length 20 --dirs 10k

exit status:
  0  done             1  error"""
MAX_COUNT = 1 << 31
# What describes a tree in words, and its defaults.
COUNTED = {"name_length": 13, "dirs": 0, "size": 0, "median_size": 0, "symlinks": 0, "target_length": 20,
           "hard_links": 0, "xattrs": 0, "xattr_length": 32}


def count(text: str) -> int:
    """Read a number of things, with k, m or g for thousands, millions or billions."""
    unit = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    digits = text if unit == 1 else text[:-1]
    if not (digits.isascii() and digits.isdigit()) or int(digits) * unit > MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number up to {MAX_COUNT:,}, with or without k, m, g")
    return int(digits) * unit


def nbytes(text: str) -> int:
    """Read a size."""
    try:
        return parse_size(text, memory_limit())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tmpfsctl estimate`."""
    add = parser.add_argument
    add("--from", dest="tree", metavar="DIR", help="take the shape of this tree instead of the counts below")
    add("--files", type=count, metavar="N", help="regular files (k, m, g: thousands, millions, billions)")
    add("--name-length", type=count, metavar="L", help="bytes of each name (default: 13)")
    add("--dirs", type=count, metavar="D", help="directories that hold the files (default: 0, all are in the root)")
    add("--size", type=nbytes, metavar="BYTES", help="mean size of a file (default: 0)")
    add("--median-size", type=nbytes, metavar="BYTES", help="half of the files are smaller (default: the mean)")
    add("--symlinks", type=count, metavar="N", help="symbolic links, besides the files (default: 0)")
    add("--target-length", type=count, metavar="L", help="bytes of the target of a symbolic link (default: 20)")
    add("--hard-links", type=count, metavar="N", help="additional names of files (default: 0)")
    add("--xattrs", type=count, metavar="N", help="extended attributes of each file (default: 0)")
    add("--xattr-length", type=nbytes, metavar="BYTES", help="bytes of the value of an attribute (default: 32)")
    add("--json", action="store_true", help="print JSON, for scripts")
    parser.set_defaults(**COUNTED)


def shape_of(args: argparse.Namespace) -> Shape:
    """The shape that the command line describes.  => ClientError."""
    if args.tree is not None:
        if args.files is not None:
            raise ClientError("--from and --files: give one of them")
        for name, default in COUNTED.items():
            if getattr(args, name) != default:
                raise ClientError(f"--from and --{name.replace('_', '-')}: the tree has its own")
        if not os.path.isdir(args.tree):
            raise ClientError(f"{args.tree}: not a directory")
        return of_tree(args.tree)
    if args.files is None:
        raise ClientError("--files or --from is needed")
    for name, most in (("name_length", NAME_MAX), ("target_length", PATH_MAX - 1), ("xattr_length", XATTR_SIZE_MAX)):
        if getattr(args, name) > most or not getattr(args, name):
            raise ClientError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be from 1 to {most}")
    if args.median_size and not args.size:
        raise ClientError("--median-size without --size: give the mean too")
    if args.median_size > args.size:
        raise ClientError(f"--median-size {args.median_size}: must not be above the mean, --size {args.size}")
    return uniform(args.files, args.name_length, args.dirs, args.size, args.symlinks, args.target_length,
                   args.hard_links, args.xattrs, xattr_length=args.xattr_length, median_size=args.median_size)


def as_dict(result: Estimate) -> dict[str, object]:
    """An estimate for scripts."""
    pools = [{"name": name, "items": round(result.items[name]), "pages": pages}
             for name, pages in result.pages.items()]
    return {"files": result.files, "submap_bytes": result.submap_bytes, "auto_bytes": result.auto_bytes,
            "bytes_per_file": round(result.per_file, 1), "data_pages": result.data_pages,
            "size_bytes": result.size_bytes, "options": options_of(result), "pools": pools}


def kib(npages: int) -> str:
    """Write pages as a size that mount options take."""
    return f"{npages * (PAGE_SIZE >> 10)}k"


def options_of(result: Estimate) -> str:
    """The mount options for it, with a twentieth more."""
    return f"size={-(-result.size_bytes * 21 // (20 << 20))}m"


def format_estimate(result: Estimate) -> str:
    """Write an estimate as text."""
    lines = [f"{'pool':<16}{'items':>15}{'pages':>14}{'bytes':>14}"]
    lines += [f"{name:<16}{round(result.items[name]):>15,}{pages:>14,}{kib(pages):>14}"
              for name, pages in result.pages.items()]
    lines += ["", f"{'metadata':<13}{result.per_file:,.0f} bytes for each of {result.files:,} files",
              f"{'fixed':<13}submap={kib(result.npages)} at least",
              f"{'auto':<13}takes {kib(atop(result.auto_bytes))} of address space",
              f"{'with data':<13}size={kib(atop(result.size_bytes))} at least",
              f"{'so':<13}tmpfsd MOUNTPOINT -o {options_of(result)}"]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> None:
    """tmpfsctl estimate."""
    result = estimate(shape_of(args))
    print(json.dumps(as_dict(result), indent=2) if args.json else format_estimate(result))
