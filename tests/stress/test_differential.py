"""The same system calls on the kernel's tmpfs and on tmpfsd (differential.py), as many as fit into a test.

`make stress SEED= N=` plays more.  Each bug that is found gets a test of its own below tests/fs: a script is good only
as long as the tables of scripts.py stay as they are.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mount import mountlib
from tests.stress.allowed import ALLOWED, unexplained
from tests.stress.differential import CONFIGURATIONS, Different, Pair, mounts, play
from tests.stress.scripts import TABLES, USERS, Step, script

pytestmark = mountlib.needs_root
SEED = int(os.environ.get("TMPFSD_SEED", "1"))
STEPS = 8_000
steps = st.tuples(st.integers(0, len(USERS) - 1), st.integers(0, (1 << 32) - 1))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """The mounts that Hypothesis' scripts share."""
    with mounts(CONFIGURATIONS["thrash"]) as made:
        yield made


@pytest.mark.parametrize("edge", ["pyfuse3", "native"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_long_scripts(configuration: str, edge: str) -> None:
    with mounts(CONFIGURATIONS[configuration].through(edge)) as pair:
        play(SEED, STEPS, pair)
        table = TABLES[pair.acl, edge == "native"]
        assert {kind for kind, number in pair.outcomes if not number} >= set(table), "an operation never succeeded"
    assert pair.pageins, "nothing was ever paged: too much memory for so little"


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, max_size=80))
def test_short_scripts(pair: Pair, script: list[Step]) -> None:
    pair.run(script)


class TestTheComparison:
    """The comparison can fail, and tells where."""

    def test_a_difference_is_found_and_cut_down(self) -> None:
        kernel, other = mountlib.mount_kernel("mode=1777"), mountlib.mount_kernel("mode=1777,nr_inodes=20")
        pair = Pair(str(kernel.mnt), str(other.mnt), False)
        try:
            long = script(SEED, 3000)
            with pytest.raises(Different) as found:
                pair.run(long)
            shorter = pair.shrink(long, found.value)
            with pytest.raises(Different) as again:
                pair.run(shorter)
        finally:
            pair.close()
            kernel.close()
            other.close()
        assert again.value.fields() & found.value.fields() and again.value.step == len(shorter) - 1
        assert len(shorter) <= min(found.value.step, 60)

    def test_each_row_explains_its_field_only(self) -> None:
        for row in ALLOWED:
            one = {"mode": "0o100644", "size": 10, row.field: 9, "node.mode": "0o100644", "node.size": 10}
            assert not unexplained(("stat",), {**one, "errno": 0}, {**one, "errno": 0})
            assert unexplained(("stat",), {**one, "nlink": 1}, {**one, "nlink": 2}) == [
                "nlink: 1 on the kernel's tmpfs, 2 on tmpfsd"]
            assert unexplained(("stat",), one, {key: one[key] for key in one if key != row.field}), "a field is missing"

    def test_blocks_beyond_what_is_packed(self) -> None:
        kernel = {"mode": "0o100644", "size": 100_000, "blocks": 8}
        assert not unexplained(("stat",), kernel, {**kernel, "blocks": 16})
        assert unexplained(("stat",), kernel, {**kernel, "blocks": 24})
