"""setup.py: compiles the hot floors with mypyc where that can be done; all else is in setup.cfg.

    TMPFSD_PURE=1   nothing is compiled
    TMPFSD_PURE=0   what cannot be compiled is an error
    otherwise       what cannot be compiled is a warning, and runs interpreted

tmpfsd/compiled.py says which is used when, and where the extensions are.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PURE = os.environ.get("TMPFSD_PURE", "")
OPT_LEVEL = "2"


def _load_compiled():
    """tmpfsd/compiled.py, without the package, which may already want what is to be compiled."""
    spec = importlib.util.spec_from_file_location("compiled", ROOT / "tmpfsd/compiled.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compiled = _load_compiled()


def extensions(scratch: Path) -> list[Extension]:
    """Generate the C code.  => SystemExit, after mypy's or mypyc's errors on stderr; ImportError: there is no mypyc."""
    from mypyc.build import mypycify

    files = [f"tmpfsd/{name}" for name in compiled.sources(str(ROOT / "tmpfsd"))]
    return mypycify([f"--cache-dir={scratch / 'cache'}", *files], opt_level=OPT_LEVEL, debug_level="0",
                    target_dir=str(scratch / "c"), group_name=compiled.GROUP)


def compile_into(directory: Path) -> None:
    """Make the extensions; the directory appears when all of them are there."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mypyc-", dir=build) as scratch:
        command = build_ext(Distribution({"ext_modules": extensions(Path(scratch))}))
        command.build_lib, command.build_temp = os.path.join(scratch, "lib"), os.path.join(scratch, "objects")
        command.parallel = os.cpu_count()
        command.ensure_finalized()
        command.run()
        for other in directory.parent.iterdir():        # made from other sources; a daemon that runs keeps its own
            shutil.rmtree(other)
        os.rename(command.build_lib, directory)


class Compile(build_ext):
    """build_ext for extensions that have a directory of their own, and that may be missing."""

    def run(self) -> None:
        """Compile into the source tree (develop), or into what becomes the wheel; once for the same sources."""
        ours = Path(compiled.place(str(ROOT / "tmpfsd")))
        inplace = self.inplace or getattr(self, "editable_mode", False)
        directory = ours if inplace else ROOT / self.build_lib / ours.relative_to(ROOT)
        if PURE == "1" or directory.exists():
            return
        try:
            if ours.exists():
                shutil.copytree(ours, directory)
            else:
                compile_into(directory)
        except (Exception, SystemExit) as error:
            if PURE == "0":
                raise
            print(f"warning: not compiled, it will run interpreted: {type(error).__name__}: {error}", file=sys.stderr)

    def get_outputs(self) -> list[str]:
        """Nothing that setuptools would have to move."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """See get_outputs()."""
        return {}

    def get_source_files(self) -> list[str]:
        """The sources are modules of the package."""
        return []


# The extension stands for all: it says that the wheel is for one interpreter on one kind of machine.
setup(ext_modules=[] if PURE == "1" else [Extension("tmpfsd._compiled", [])], cmdclass={"build_ext": Compile})
