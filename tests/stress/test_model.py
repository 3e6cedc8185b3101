"""Seeded random operations against the model.

TMPFSD_SEED moves the seeds; `python -m tests.stress.model SEED STEPS` plays longer.
"""

import os

import pytest

from tests.fs.fslib import MODES, tiny_trees
from tests.stress.model import play

SEED = int(os.environ.get("TMPFSD_SEED", "1"))
STEPS = 2500


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tiny", [False, True], ids=["full", "tiny"])
def test_random_operations(mode: str, tiny: bool) -> None:
    seed = 10 * SEED + tiny
    if tiny:
        with tiny_trees():
            play(seed, STEPS, mode, tiny)
    else:
        play(seed, STEPS, mode, tiny)
