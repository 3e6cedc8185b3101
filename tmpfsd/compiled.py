"""compiled.py: whether the hot floors run compiled or interpreted.

setup.py compiles the modules of FLOORS with mypyc, all or none, into _compiled/, in a directory named by digest(): a
hash of their sources and of the interpreter's ABI.  If such a directory is there, a finder (install()) directs their
imports to it.  If not, Python finds the .py files as usual.  So only that hash can put an extension in front of a
source: an edited module runs interpreted until it is compiled again.

Picture     digest() -> its directory is there      compiled
                     -> only others are             stale: interpreted, and one line says so
                     -> none is                     interpreted, as it was installed
            TMPFSD_PURE=1                           interpreted; nothing is looked at

Limits      The first import of a hot module decides, for the life of the process.  The hash of some 100
            files takes a few milliseconds.
            A compiled generator that is dropped half way does not run its `finally`: code that drops one must close it.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import source_hash, spec_from_file_location

FLOORS = ("uvm", "pool", "tmpfs", "fuse")
# Not compiled, but the extensions contain what the compiler knows of them.
ALSO_READ = ("options.py", "seldom.py", "sizes.py", "swapplaces.py", "stores/valkey.py")
GROUP = "tmpfsd"                    # mypyc's name for what is compiled together
SUFFIX = EXTENSION_SUFFIXES[0]      # names the interpreter's version and the machine
PACKAGE = os.path.dirname(os.path.abspath(__file__))


def sources(package: str = PACKAGE) -> list[str]:
    """The files that are compiled, below the package, in order.  (The package's own file would gain nothing.)"""
    return [f"{floor}/{name}" for floor in FLOORS if os.path.isdir(os.path.join(package, floor))
            for name in sorted(os.listdir(os.path.join(package, floor)))
            if name.endswith(".py") and name != "__init__.py"]


def digest(package: str = PACKAGE) -> str:
    """A name for what extensions are made from: the present sources, and the interpreter's ABI."""
    parts = [SUFFIX.encode()]
    for name in (*sources(package), *ALSO_READ):
        with open(os.path.join(package, name), "rb") as file:
            parts += [name.encode(), file.read()]
    return source_hash(b"\0".join(parts)).hex()


def place(package: str = PACKAGE) -> str:
    """The directory of the extensions made from these sources, whether it exists or not."""
    return os.path.join(package, "_compiled", digest(package))


class Finder:
    """Finds the compiled modules; one of sys.meta_path."""

    def __init__(self) -> None:
        self._files: dict[str, str] | None = None       # by module; None: not decided yet

    def files(self) -> dict[str, str]:
        """The extensions to use, decided at the first call."""
        if self._files is None:
            self._files = _extensions()
        return self._files

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if not name.startswith(GROUP) or name.count(".") == 1:
            return None
        file = self.files().get(name)
        return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, file)) if file else None


def _extensions() -> dict[str, str]:
    if os.environ.get("TMPFSD_PURE") == "1":
        return {}
    made = os.path.join(PACKAGE, "_compiled")
    if not os.path.isdir(made):
        return {}
    there = place()
    if os.path.isdir(there):
        names = [f"{GROUP}.{source[:-3].replace('/', '.')}" for source in sources()]
        # If anything is missing, its import fails: compiled modules do not mix with interpreted ones.
        return {name: os.path.join(there, *name.split(".")) + SUFFIX for name in (*names, f"{GROUP}__mypyc")}
    if any(os.path.exists(os.path.join(made, name, f"{GROUP}__mypyc{SUFFIX}")) for name in os.listdir(made)):
        import logging
        logging.getLogger(GROUP).warning(
            "tmpfsd: its sources have changed since they were compiled: it runs interpreted (`make compile`)")
    return {}


_finder = Finder()


def install() -> None:
    """Have the hot modules found compiled, if they are compiled."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def active() -> bool:
    """Whether the hot modules are, or will be, those that were compiled."""
    return bool(_finder.files())


def kind() -> str:
    """The word for it in the output of --version."""
    return "compiled" if active() else "interpreted"
