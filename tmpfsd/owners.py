"""owners.py: owner and mode of the root directory: uid= and gid= by number or by name, as mount(8), and mode=."""

from __future__ import annotations

import grp
import pwd
import re

MAX_ID = (1 << 32) - 2      # to chown(2) -1 means "leave it"


def is_number(text: str) -> bool:
    """Tell whether it is a number, not a name.  => ValueError: a number that is no id."""
    if re.fullmatch(r"-?[0-9]+", text, re.ASCII) is None:
        return False
    if text.startswith("-") or len(text) > 12 or int(text) > MAX_ID:
        raise ValueError(f"must be a name or a number from 0 to {MAX_ID}")
    return True


def parse_uid(text: str, _physical: int) -> int:
    """Read uid=."""
    if is_number(text):
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise ValueError("no such user; give a name or a number") from None


def parse_gid(text: str, _physical: int) -> int:
    """Read gid=."""
    if is_number(text):
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        raise ValueError("no such group; give a name or a number") from None


def parse_mode(text: str, _physical: int) -> int:
    """Read mode=, octal as chmod(1) takes it."""
    if not re.fullmatch(r"[0-7]{1,5}", text, re.ASCII) or int(text, 8) > 0o7777:
        raise ValueError("must be an octal mode from 0 to 7777")
    return int(text, 8)
