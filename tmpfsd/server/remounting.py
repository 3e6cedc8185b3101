"""remounting.py: the daemon's half of `mount -o remount,...`: limits change as by `tmpfsctl set`, all else must stay.

mount(8) also hands over the options of fstab and those in force.  So a word that is true already is no change.
cli/remount.py has the other half: the kernel's options.

Invariants  O1 All that is asked for is done, or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tmpfsd import options
from tmpfsd.machine import memory_limit
from tmpfsd.options import Config, OptionError
from tmpfsd.server.control import Command
from tmpfsd.server.refused import ControlError
from tmpfsd.server.tuning import SETTABLE, Steps, Tuning


def changes(words: Any, config: Config) -> list[str]:
    """Return the words that change something; if an option is given twice, the last counts.

    => ControlError names an option that is unknown, or cannot be changed while it is mounted.
    """
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ControlError("words: must be a list of options")
    found = []
    for name, word in {word.partition("=")[0]: word for word in words}.items():
        try:
            field, value = read(name, word)
        except OptionError as error:
            raise ControlError(str(error)) from None
        now = config.places if field == "swap" else getattr(config, field, None)
        if field == "size_bytes":
            name, word = "size", f"size={value}"        # nr_blocks= is another unit of it
        same = now == value if field else name in config.generic or options.says_nothing(word)
        if not same and name not in SETTABLE:
            raise ControlError(f"{word}: cannot be changed while it is mounted; these can: {', '.join(SETTABLE)}")
        if not same:
            found.append(word)
    return found


def read(name: str, word: str) -> tuple[str, Any]:
    """Read one option: its field in Config ("" if it has none) and its value.  => OptionError."""
    values: dict[str, Any] = {}
    if name in options.VALUED:
        options.read_value(values, [], word, memory_limit())
    else:
        options.read_flag(values, word)
    return next(iter(values.items()), ("", None))


class Remount:
    """The command of one mount."""

    def __init__(self, tuning: Tuning) -> None:
        self.tuning = tuning

    def table(self) -> dict[str, Command]:
        """Return the commands, by name."""
        return {"remount": self.remount}

    def remount(self, request: Mapping[str, Any]) -> Steps:
        """Make the changes of the words; the result is like that of `set`."""
        words = changes(request.get("words"), self.tuning.mount.config)
        if not words:
            return {}
        answer = yield from self.tuning.set({"values": words})
        return answer
