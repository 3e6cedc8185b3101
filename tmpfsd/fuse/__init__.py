"""fuse: the kernel's own wire: bytes in, bytes out."""
