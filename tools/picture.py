"""tools/picture.py: makes the picture of `tmpfsctl top` for README.md, from a live mount.

    python -m tools.picture MOUNTPOINT tools/top.svg

Have something use the mount meanwhile.  The picture needs no font that would have to be fetched.
"""

from __future__ import annotations

import argparse
import io
import re
import time
from pathlib import Path

from rich.console import CONSOLE_SVG_FORMAT, Console

from tmpfsd.cli.top import look
from tmpfsd.cli.topview import Interval, Settings, screen
from tmpfsd.uvm.param import PAGE_SIZE

INTERVALS = 24
CELL = 12.2                 # width of a character in rich's format
SPACE = "&#160;"
INDENTED = re.compile(rf'x="([0-9.]+)"( y="[0-9.]+") textLength="([0-9.]+)"([^>]*)>((?:{SPACE})+)')
FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def outdent(match: re.Match[str]) -> str:
    """Move a text to where its first visible character is: some viewers skip leading spaces."""
    x, y, length, more, spaces = match.groups()
    indent = CELL * spaces.count(SPACE)
    return f'x="{float(x) + indent:g}"{y} textLength="{max(float(length) - indent, CELL):g}"{more}>'


def picture(mountpoint: str, seconds: float, columns: int, lines: int) -> str:
    """Return one interval as SVG."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    settings = Settings(delay=seconds)
    first = before = look(mountpoint)
    for _ in range(INTERVALS):
        time.sleep(seconds)
        interval = Interval(before, look(mountpoint), first)
        settings.history.append((interval.all_requests(), interval.paging()["pageins"] * PAGE_SIZE))
        before = interval.after
    console.print(screen(interval, settings, lines, columns))
    text = console.export_svg(title="tmpfsctl top", code_format=FORMAT, unique_id="top")
    return INDENTED.sub(outdent, text)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(prog="python -m tools.picture", description="Write a picture of tmpfsctl top.")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")
    parser.add_argument("file", type=Path, metavar="FILE.svg")
    parser.add_argument("--delay", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--columns", type=int, default=90)
    parser.add_argument("--lines", type=int, default=28)
    args = parser.parse_args()
    text = picture(args.mountpoint, args.delay, args.columns, args.lines)
    args.file.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
