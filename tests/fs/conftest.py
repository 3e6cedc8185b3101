"""tests/fs: operations without a mount, each test roomy, starving and thrashing (everything evicted at each breath).

Fixtures    fs        a Driver over a Mount; at the end all is checked, removed and counted
            make_fs   function(mode="roomy", **options of Config) -> a Driver, ended in the same way
"""

import gc
import os
from contextlib import ExitStack, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from tests.fs.fslib import MODES, TRIED, Driver, make_mount, tiny_trees
from tmpfsd.tmpfs.directory import KEY_BITS

# The key that a mount's names hash with is random, and a test's are not: where a tree splits, and what is the last
# thing that has room, is the same in each run.  Another seed gives other trees: TMPFSD_HASH_SEED=$RANDOM.
HASH_SEED = int(os.environ.get("TMPFSD_HASH_SEED", "1"))


def pytest_report_header() -> str:
    """How to make the same trees again."""
    return f"names hash with TMPFSD_HASH_SEED={HASH_SEED}"


def hash_key(test: str, n: int) -> int:
    """The key of the n-th file system of a test."""
    digest = blake2b(f"{HASH_SEED} {test} {n}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 64 - KEY_BITS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many failures were injected."""
    if TRIED:
        each = ", ".join(f"{point} {count}" for point, count in TRIED.items())
        terminalreporter.write_line(f"failures injected: {TRIED.total()} ({each})")


@pytest.fixture
def make_fs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Driver]]:
    """Make a file system; all that were made are ended as every test is."""
    made: list[Driver] = []
    with ExitStack() as stack:
        def make(mode: str = "roomy", tiny: bool = False, **options: Any) -> Driver:
            if tiny:
                stack.enter_context(tiny_trees())
            mp = make_mount(options.pop("swap", str(tmp_path)), mode, **options)
            mp.dirs.key = hash_key(request.node.nodeid, len(made))
            driver = Driver(mp, mode)
            made.append(driver)
            return driver

        yield make
        for driver in made:
            driver.finish()
    gc.collect()
    for driver in made:
        with suppress(BufferError):     # a failed test's traceback holds views of the arena
            driver.mp.close()


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """How much memory the file system has."""
    return request.param


# The default backend in every mode, and with a compressed tier before encrypted swap, or before none; the others where
# their pages go out, or where they never do.
MATRIX = [*((mode, {}) for mode in MODES),
          ("starving", {"ring": 1 << 20}), ("thrash", {"ring": 1 << 20}),
          ("starving", {"ring": 8 << 20, "swap": None}),
          ("starving", {"submap_sharing": "per-pool"}),
          ("starving", {"backend": "aobj"}), ("thrash", {"backend": "aobj"}),
          ("starving", {"backend": "pageable-object"}),
          ("roomy", {"backend": "wired"}), ("roomy", {"backend": "pageable-flag"})]


def name_of(param: tuple[str, dict[str, Any]]) -> str:
    """The name of a test's file system."""
    return "-".join((param[0], *(value if isinstance(value, str) else name for name, value in param[1].items())))


@pytest.fixture(params=MATRIX, ids=name_of)
def fs(make_fs: Callable[..., Driver], request: pytest.FixtureRequest) -> Driver:
    """The file system most tests take; thrashing, its trees are deep with few entries."""
    mode, options = request.param
    return make_fs(mode, tiny=mode == "thrash", **options)
