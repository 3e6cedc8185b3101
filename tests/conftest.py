"""Top-level fixtures of all tests: a hang or a crash shows its place; a test's garbage is collected at its end."""

import atexit
import faulthandler
import gc
import os
import shutil
import tempfile

# Here and not when its plugin first needs it: after the gc.freeze() below it finds no reference to trio's random
# generator, and warns.
import hypothesis  # noqa: F401
import pytest

from tmpfsd import compiled

faulthandler.enable()

# Each of the daemons and commands that the tests start would compile the package anew.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    pycache = os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="tmpfsd-pycache-")
    os.chmod(pycache, 0o755)       # also for those of other users
    atexit.register(shutil.rmtree, pycache, ignore_errors=True)


if not compiled.active():
    if os.environ.get("TMPFSD_PURE") == "0":
        pytest.exit("TMPFSD_PURE=0, but nothing is compiled from these sources: make compile", 1)
    os.environ["TMPFSD_PURE"] = "1"     # what the tests start runs as they do, and has nothing to say of it


def pytest_report_header() -> str:
    """Which of the two is tested."""
    return f"tmpfsd: {compiled.kind()}"


def pytest_collection_finish() -> None:
    """Keep the garbage collections of a test away from older objects: pytest holds half a million."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """Collect the garbage of a test; objects of it that pytest keeps are not looked at again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Hypothesis' last words look for the referrers of an object."""
    gc.unfreeze()
