"""several.py: a command that takes several paths: it does each, even if one before failed, as rm(1) does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tmpfsd.cli.client import ClientError
from tmpfsd.cli.streams import complain


def each(paths: Sequence[str], work: Callable[[str], None]) -> None:
    """Do the work for each path.  => ClientError of the last that failed; the others' are printed before."""
    failed: ClientError | None = None
    for path in paths:
        try:
            work(path)
        except ClientError as error:
            if failed is not None:
                complain(f"tmpfsctl: {failed}")
            failed = error
    if failed is not None:
        raise failed
