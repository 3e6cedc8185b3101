"""image/ranges.py: a file on a server, read by range through fsspec (https, http, s3, and what else it knows).

Nothing here bounds a wait but what each library is told; remote.py does that for all.  Who may read, and where a server
of S3 is that is not Amazon's, is told to fsspec, as its documentation says: in FSSPEC_S3_ENDPOINT_URL and the like, in
files of ~/.config/fsspec, or in what the libraries read themselves (~/.aws).

Limits      A client belongs to one process: a frozen copy makes its own.
"""

from __future__ import annotations

import errno
import importlib
from typing import Any

CONNECT_SECONDS = 1.0
READ_SECONDS = 5.0          # until a library gives up: its thread may serve another
HTTP = ("http", "https")
PARTIAL = 206
TRIES = 1                   # of a library; remote.py tries again


class Ranges:
    """One file.  => OSError: it cannot be read so."""

    def __init__(self, url: str) -> None:
        fsspec = library("fsspec")
        scheme = url.split("://")[0]
        try:
            options: dict[str, Any] = {"http": _http, "https": _http, "s3": _s3, "s3a": _s3}.get(scheme, dict)()
            self._fs, self._path = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False,
                                                         **options)
            if hasattr(self._fs, "retries"):
                self._fs.retries = TRIES
            found = self._fs.info(self._path)
            ranges = scheme not in HTTP or fsspec.asyn.sync(self._fs.loop, _gives_parts, self._fs, self._path)
        except ImportError as error:
            raise OSError(errno.ENOPKG, f"{text_of(error)}: pip install 'tmpfsd[remote]'") from None
        except Exception as error:
            raise as_oserror(error) from None
        if found.get("type") == "directory" or not found.get("size"):
            raise OSError(errno.EINVAL, "not a file, or the server does not say how long it is")
        if not ranges:
            raise OSError(errno.EINVAL, "the server does not give parts of a file (ranges)")
        self.size = int(found["size"])

    def read(self, start: int, end: int) -> bytes:
        """Bytes from start to end, all of them.  => OSError."""
        try:
            data = self._fs.cat_file(self._path, start=start, end=end)
        except Exception as error:
            raise as_oserror(error) from None
        if len(data) != end - start:
            raise OSError(errno.EIO, f"{len(data)} bytes came where {end - start} were asked for")
        return bytes(data)


def load(url: str) -> None:
    """Load the libraries that a URL needs: half a second that no server is to blame for.  => OSError."""
    try:
        library("fsspec").get_filesystem_class(url.split("://")[0])
    except ImportError as error:
        raise OSError(errno.ENOPKG, f"{text_of(error)}: pip install 'tmpfsd[remote]'", url) from None
    except ValueError as error:
        raise OSError(errno.EINVAL, text_of(error), url) from None


async def _gives_parts(files: Any, path: str) -> bool:
    """Whether a server of HTTP heeds ranges: one that does not would send the whole file each time."""
    session = await files.set_session()
    async with session.get(files.encode_url(path), headers={"Range": "bytes=0-0"}) as answer:
        return bool(answer.status == PARTIAL)


def _http() -> dict[str, Any]:
    timeout = library("aiohttp").ClientTimeout(total=READ_SECONDS, sock_connect=CONNECT_SECONDS)
    return {"client_kwargs": {"timeout": timeout}}


def _s3() -> dict[str, Any]:
    return {"config_kwargs": {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS,
                              "retries": {"total_max_attempts": TRIES}}}


def library(name: str) -> Any:
    """A library that is not always there.  => OSError."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise OSError(errno.ENOPKG, f"needs the package {name}: pip install 'tmpfsd[remote]'") from None


def as_oserror(error: Exception) -> OSError:
    """What any library raises, in one line."""
    if isinstance(error, OSError) and error.errno and error.strerror:
        return OSError(error.errno, " ".join(error.strerror.split()))
    cause = error.__cause__
    if isinstance(cause, Exception) and not hasattr(cause, "status"):
        return OSError(errno.EIO, text_of(cause))       # fsspec says FileNotFoundError where nobody answers
    if isinstance(error, FileNotFoundError):
        return OSError(errno.ENOENT, "there is no such file on the server")
    return OSError(errno.EIO, text_of(error))


def text_of(error: Exception) -> str:
    """One line of what a library says."""
    return " ".join(str(error).split()) or type(error).__name__
