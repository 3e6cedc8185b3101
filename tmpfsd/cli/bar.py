"""bar.py: a progress bar for commands that take long, if somebody watches."""

from __future__ import annotations

import sys
from typing import Any

from tmpfsd.cli.client import ask


def ask_with_bar(path: str, command: str, title: str, /, **arguments: Any) -> Any:
    """client.ask(), with a bar on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        return ask(path, command, **arguments)
    from rich.console import Console  # some 50 ms, only for those who watch
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=None)
        return ask(path, command, lambda done, of: progress.update(task, completed=done, total=of), **arguments)
