"""image/ranges.py: a file on a server, read by range through fsspec (https, http, s3, and others that it knows).

Here waits are limited for http and s3; remote.py has a shorter limit for all.  Credentials, and the address of an S3
server that is not Amazon's, are given to fsspec as its documentation says: in FSSPEC_S3_ENDPOINT_URL and the like, in
files of ~/.config/fsspec, or in what the libraries read themselves (~/.aws).

Invariants
    N1  From an http or s3 answer at most one byte more than asked for is read; nothing is decompressed on the way.
    N2  Bytes of an https:// URL came by https:// on each hop: a server may redirect, but not out of TLS.

Limits      A client belongs to one process: a frozen copy makes its own.
            With other libraries of fsspec an answer is in memory before its size is known.
"""

from __future__ import annotations

import errno
import importlib
from typing import Any

from tmpfsd.mounts.printable import short_line
from tmpfsd.swapplaces import shown

CONNECT_SECONDS = 1.0
READ_SECONDS = 5.0          # until a library gives up: then its thread can serve another
HTTP, S3 = ("http", "https"), ("s3", "s3a")
WHOLE, PARTIAL = 200, 206
GONE = (404, 410)
MOST_BYTES = 1 << 62
TRIES = 1                   # by a library; remote.py tries again


class Ranges:
    """One file.  => OSError: it cannot be read this way."""

    def __init__(self, url: str) -> None:
        fsspec, scheme = library("fsspec"), url.split("://")[0]
        self._part = _http_part if scheme in HTTP else _s3_part if scheme in S3 else None
        self._sync = library("fsspec.asyn").sync
        try:
            options: dict[str, Any] = _http() if scheme in HTTP else _s3() if scheme in S3 else {}
            self._fs, self._path = fsspec.core.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False,
                                                         **options)
            if hasattr(self._fs, "retries"):
                self._fs.retries = TRIES
            found = self._fs.info(self._path)
            self.size = 0 if found.get("type") == "directory" else int(found.get("size") or 0)
        except ImportError as error:
            raise OSError(errno.ENOPKG, f"{short_line(error)}: pip install 'fsspec[http]' s3fs") from None
        except Exception as error:
            raise as_oserror(error) from None
        if not 0 < self.size < MOST_BYTES:
            raise OSError(errno.EINVAL, "not a file, or the server does not say how long it is")
        self.read(0, 1)             # here, not at the first page: a server may ignore ranges

    def read(self, start: int, end: int) -> bytes:
        """Bytes from start to end, all of them.  => OSError."""
        try:
            if self._part is None:
                data = self._fs.cat_file(self._path, start=start, end=end)
            else:
                data = self._sync(self._fs.loop, self._part, self._fs, self._path, start, end, timeout=READ_SECONDS)
        except Exception as error:
            raise as_oserror(error) from None
        if len(data) != end - start:
            raise OSError(errno.EIO, f"{_amount(len(data), end - start)} came where {end - start} bytes were asked for")
        return bytes(data)


def _amount(came: int, asked: int) -> str:
    return f"{came} bytes" if came <= asked else "more"


def load(url: str) -> None:
    """Load the libraries that a URL needs: half a second that is no server's fault.  => OSError."""
    try:
        library("fsspec").get_filesystem_class(url.split("://")[0])
    except ImportError as error:
        raise OSError(errno.ENOPKG, f"{short_line(error)}: pip install 'fsspec[http]' s3fs", shown(url)) from None
    except ValueError as error:
        raise OSError(errno.EINVAL, short_line(error), shown(url)) from None


async def _http_part(files: Any, path: str, start: int, end: int) -> bytes:
    """Ask a server of HTTP.  => OSError."""
    session, how = await files.set_session(), dict(files.kwargs)
    head = {**how.pop("headers", {}), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    async with session.get(files.encode_url(path), headers=head, **how) as answer:
        hops = [hop.url.scheme for hop in (*answer.history, answer)]
        if hops[0] == "https" and set(hops) != {"https"}:
            raise OSError(errno.EPERM, "the server leads to a place without TLS")
        if answer.status != PARTIAL:
            raise _refusal(answer.status)
        return await _at_most(answer.content, end - start)


def _refusal(status: int) -> OSError:
    if status == WHOLE:             # it would send the whole file each time
        return OSError(errno.EINVAL, "the server does not give parts of a file (ranges)")
    if status in GONE:
        return OSError(errno.ENOENT, "there is no such file on the server")
    return OSError(errno.EIO, f"the server answers with status {status}")


async def _s3_part(files: Any, path: str, start: int, end: int) -> bytes:
    """Ask an S3 server as the library does, which itself would read everything that comes.  => What it raises."""
    bucket, key, version = files.split_path(path)
    answer = await files._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}",
                                  **({"VersionId": version} if version else {}))
    try:
        return await _at_most(answer["Body"], end - start)
    finally:
        answer["Body"].close()


async def _at_most(stream: Any, nbytes: int) -> bytes:
    """Return what comes, up to one byte too many."""
    data = bytearray()
    while len(data) <= nbytes and (part := await stream.read(nbytes + 1 - len(data))):
        data += part
    return bytes(data)


def _http() -> dict[str, Any]:
    timeout = library("aiohttp").ClientTimeout(total=READ_SECONDS, sock_connect=CONNECT_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "auto_decompress": False}}


def _s3() -> dict[str, Any]:
    return {"config_kwargs": {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS,
                              "retries": {"total_max_attempts": TRIES}}}


def library(name: str) -> Any:
    """An optional library.  => OSError."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise OSError(errno.ENOPKG, f"needs the package {name}: pip install 'fsspec[http]' s3fs") from None


def as_oserror(error: Exception) -> OSError:
    """Any exception of a library as an OSError of one line."""
    if isinstance(error, OSError) and error.errno and error.strerror:
        return OSError(error.errno, short_line(error, error.strerror))
    if isinstance(error, TimeoutError):
        return OSError(errno.ETIMEDOUT, f"no answer within {READ_SECONDS:.0f} s")
    cause = error.__cause__
    if isinstance(getattr(cause, "status", None), int):
        return _refusal(getattr(cause, "status"))
    if isinstance(cause, Exception):
        return OSError(errno.EIO, short_line(cause))       # fsspec says FileNotFoundError if nobody answers
    if isinstance(error, FileNotFoundError):
        return OSError(errno.ENOENT, "there is no such file on the server")
    return OSError(errno.EIO, short_line(error))
