"""negotiate.py: changes to the INIT handshake that the binding does not ask for.

libfuse answers INIT itself and asks for what it knows (FUSE_CAP_*).  The binding offers no choice.  So the handshake,
and nothing else, passes through a pair of sockets.  The kernel's request is read here and handed to libfuse.  libfuse's
answer is read here, gets its flags, and goes to the kernel.  From then on libfuse has the descriptor to itself.

    HANDLE_KILLPRIV_V2  the server clears set-id bits (tmpfs/setid.py).  Without it the kernel asks for
                        security.capability before each write(2): two requests for each 4 KiB, 28 us instead of 15.
    CACHE_SYMLINKS      the kernel keeps the targets of symbolic links, which never change.
    DONT_MASK           only with ACLs: the kernel leaves the umask to the server, because it does not apply where a
                        default ACL is inherited (acl.inherit).
    ASYNC_DIO           is removed, though libfuse asks for it.  The kernel would send the pieces of a large
                        io_submit on an O_DIRECT descriptor at once, and drop its cached pages before they are written.
                        What others read meanwhile stays cached, and buffered reads show old bytes (after 5 of 100
                        writes of 640 KiB beside three readers).  Without it io_submit() waits for its bytes.

It also lowers max_write from libfuse's 1 MiB: a request behind a write that pages out as much waits for all of it.

Picture     NEW --ask--> ASKED (libfuse reads the request from the socket, and answers there) --tell--> TOLD
Limits      An answer that does not match <linux/fuse.h> is passed on as it is: slower, but otherwise the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct

from tmpfsd.fuse import abi
from tmpfsd.fuse.init import MAX_PAGES, MAX_WRITE

log = logging.getLogger(__name__)

# What INIT and its answer begin with in every version; later ones have more at the end.
INIT_HEAD = struct.Struct("=IIII")              # major minor max_readahead flags
FLAGS = struct.Struct("=I")
FLAGS_AT = abi.OUT_HEADER.size + abi.INIT_OUT.offset["flags"]
DONT_MASK, ASYNC_DIO, CACHE_SYMLINKS, HANDLE_KILLPRIV_V2 = (
    abi.INIT_FLAGS[f"FUSE_{name}"] for name in ("DONT_MASK", "ASYNC_DIO", "CACHE_SYMLINKS", "HANDLE_KILLPRIV_V2"))
WANTED = HANDLE_KILLPRIV_V2 | CACHE_SYMLINKS
UNWANTED = ASYNC_DIO
CODES = dict(abi.INIT_OUT.fields)
MOST_INIT = 1 << 21                             # a read shorter than the session's buffer is refused with EINVAL


def offered(request: bytes, wanted: int) -> int:
    """Return which of the wanted features the kernel's INIT offers; 0 if it is another request."""
    if len(request) < abi.BODY + INIT_HEAD.size or abi.IN_HEADER.unpack(request)[1] != abi.INIT:
        return 0
    major, _minor, _readahead, flags = INIT_HEAD.unpack_from(request, abi.BODY)
    return flags & wanted if major == abi.MAJOR else 0


def understood(answer: bytes) -> bool:
    """Tell whether an answer is a successful one to INIT."""
    if len(answer) < abi.OUT_HEADER.size + INIT_HEAD.size:
        return False
    length, error, _unique = abi.OUT_HEADER.unpack(answer)
    return not error and length == len(answer) and INIT_HEAD.unpack_from(answer, abi.OUT_HEADER.size)[0] == abi.MAJOR


def answer_with(answer: bytes, features: int) -> bytes:
    """Return the answer to INIT with these features, without the UNWANTED ones, and with requests of MAX_WRITE at most.

    An error is returned as it is.
    """
    if not understood(answer):
        return answer
    changed = bytearray(answer)
    flags, = FLAGS.unpack_from(answer, FLAGS_AT)
    FLAGS.pack_into(changed, FLAGS_AT, flags & ~UNWANTED | features)
    for name, most in (("max_write", MAX_WRITE), ("max_pages", MAX_PAGES)):
        field, at = struct.Struct("=" + CODES[name]), abi.OUT_HEADER.size + abi.INIT_OUT.offset[name]
        if at + field.size <= len(answer):      # older ones are shorter
            field.pack_into(changed, at, min(field.unpack_from(answer, at)[0], most))
    return bytes(changed)


class Negotiation:
    """The handshake of one session; `features` is what was agreed on beyond what the binding wants."""

    __slots__ = ("features", "asked", "_wanted", "_kernel", "_ours")

    def __init__(self, dont_mask: bool = False) -> None:
        self.features = 0
        self._wanted = WANTED | (DONT_MASK if dont_mask else 0)
        self.asked = False
        self._kernel = -1                       # the session's descriptor, while a socket has its number
        self._ours: socket.socket | None = None

    def ask(self, fd: int) -> None:
        """Hand the kernel's first request to libfuse, through a socket in the descriptor's place."""
        self.asked = True
        try:
            request = os.read(fd, MOST_INIT)
        except OSError:                         # unmounted already: libfuse will see that too
            return
        self.features = offered(request, self._wanted)
        self._kernel = os.dup(fd)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), fd, inheritable=False)
        self._ours.send(request)

    def tell(self, fd: int) -> None:
        """Give libfuse its descriptor back, and send libfuse's answer to the kernel."""
        if self._ours is None:
            return
        os.dup2(self._kernel, fd, inheritable=False)
        os.close(self._kernel)
        with self._ours as ours, contextlib.suppress(OSError):      # no answer, or nobody to take it
            answer = ours.recv(MOST_INIT, socket.MSG_DONTWAIT)
            changed = answer_with(answer, self.features)
            if not understood(answer):
                self.features = 0
            os.write(fd, changed)
            log.debug("INIT: features %#x beyond the binding's", self.features)
