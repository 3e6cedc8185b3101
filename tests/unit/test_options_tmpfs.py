"""Options of tmpfs(5) that mean here what they mean there."""

import pytest

from tmpfsd.options import Config, parse
from tmpfsd.server.errors import ControlError
from tmpfsd.server.remount import changes

PHYSICAL = 8 << 30


def read(text: str) -> Config:
    """Parse for a machine of 8 GiB whose swap would go to /swap."""
    return parse(text, physical=PHYSICAL, swap=lambda: "/swap")


def test_noswap_is_swap_none() -> None:
    config, other = read("noswap,ram=2m"), read("swap=none,ram=2m")
    assert config.places == other.places == ()
    warning, = config.warnings
    assert warning.startswith("noswap: nothing can be paged out")
    assert not read("noswap,compress=zstd,ram=16m").warnings
    assert read("noswap,swap_crypt=off").swap is None


def test_noswap_in_a_remount_is_no_change_where_there_is_none() -> None:
    """As fstab has it."""
    for words in (["noswap"], ["swap=none"]):
        assert changes(words, read("noswap")) == []
        with pytest.raises(ControlError, match=f"^{words[0]}: cannot be changed"):
            changes(words, read(""))
    with pytest.raises(ControlError, match="^swap=/x: cannot be changed"):
        changes(["swap=/x"], read("noswap"))
