"""fuse: the kernel's own protocol: bytes in, bytes out.

It stands between server/, which has the descriptor of /dev/fuse and waits, and tmpfs/, which has the files.  Nothing
here waits, opens or knows an event loop: Session.handle(request) returns the reply.

    abi.py            every structure, opcode and flag of <linux/fuse.h> that is used, declared once
    init.py           the handshake: which flags are agreed on, and why
    session.py        the table of opcodes, and the common part of all: counting, the gate, errors
    names.py          lookup, making, linking, renaming, removing, forgetting
    attributes.py     nodes and the file system
    data.py           the bytes of files, from frames and into frames
    space.py          room and holes: reserving, punching, finding
    directories.py    listings
    ioctls.py         the flags of files
    xattrs.py         extended attributes
    replies.py        replies that several handlers make
    notify.py         notices that the kernel did not ask for
    stranger.py       a caller without any rights

One request, walked through: `cat file`, the first time, in a directory that the kernel knows.

1. The kernel looks for the name.  The loop (server/nativeloop.py) reads 45 bytes into its buffer:

       len 45, opcode 1 (LOOKUP), unique 18, nodeid 1, uid 0, gid 0, pid 4711 | "file\\0"

2. handle() unpacks the 40 bytes of the header, finds LOOKUP in OPERATIONS, counts it, breathes (pages may leave memory
   now, and at no other time), sees that inode 1 is there, and calls names.lookup(session, 1, the bytes).
3. name_at() takes the name after the header: not empty, no '/', a NUL at its end only.
4. vnops.lookup() finds the inode number, 25, and counts one more reference of the kernel.  The kernel will give it back
   with a FORGET; until then node 25 stays, linked or not.
5. replies.entry() reads the node's attributes in place, and packs header and fuse_entry_out at once: 144 bytes.
   They are valid for ever: each change comes through this kernel.
6. The loop writes the reply.  The kernel asks for no OPEN, as the first one ever was answered ENOSYS, and sends

       len 80, opcode 15 (READ), unique 20, nodeid 25, ... | fh 0, offset 0, size 131072, ...

7. data.read() breathes, faults in pages that are out, and returns the header and views of the file's frames.
   writev(2) hands them to the kernel, which copies them into its page cache; they are good until the next breath.
8. close(2) sends nothing: the first FLUSH ever was answered ENOSYS, and without OPEN there is no RELEASE.  The second
   `cat file` sends nothing at all.
"""
